"""`robot-rl export RUN policy.onnx`: the file does what the policy does, or there is none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_rl.algorithms import ALGORITHM_CONFIGS, create
from robot_rl.apps import cli, evaluate, export_policy, serve, train
from robot_rl.apps.compose import compose
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.loops.rollout import AgentPolicy
from robot_rl.policy import OnnxPolicy, graph_hash
from robot_rl.seeding import Seeds
from robot_rl.serve_config import ServeConfig
from robot_rl.spec import ArraySpec, Spec
from robot_rl.steering.served import ServedFile, read_request
from robot_rl.transforms.action import ActionScale

CPU = torch.device("cpu")
PENDULUM = ["environment=gymnasium_schema", "environment.id=Pendulum-v1", "environment.maximum_steps=7"]
SPEC = Spec(
    observation={"joints": ArraySpec(shape=(3,)), "tool": ArraySpec(shape=(2,), dtype="float64")},
    action=ArraySpec(shape=(2,), low=np.array([-1.0, 0.0]), high=np.array([1.0, 5.0])),
    control_period_s=0.05,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    words = ["algorithm=sac", "algorithm.actor_hidden=[8]", "algorithm.critic_hidden=[8]", f"output={folder}"]
    words += ["evaluation.videos=0", "evaluation.episodes=1", "evaluation.final_episodes=1", "replay.action_chunk=2"]
    words += ["+phases.online={interact:policy,steps:10,batch_size:4}"]
    assert train.run(compose("train", [*PENDULUM, *words])) == 0
    return folder


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    path = trained / "policy.onnx"
    assert cli.main(["export", str(trained), str(path)]) == 0
    return path


def test_an_exported_policy_plays_the_same_episodes(trained: Path, exported: Path, tmp_path: Path) -> None:
    for name, run in (("run", trained), ("file", exported)):
        words = [f"run={run}", "episodes=2", f"record={tmp_path / name}.zarr", f"output={tmp_path / name}"]
        assert evaluate.run(compose("evaluate", words)) == 0
    both = [EpisodeStore.open(tmp_path / f"{name}.zarr") for name in ("run", "file")]
    for one, other in zip(both[0].episodes(), both[1].episodes(), strict=True):
        np.testing.assert_allclose(one.action, other.action, atol=1e-5)
        assert len(one) == 7


def test_the_file_says_where_it_comes_from(trained: Path, exported: Path) -> None:
    policy = OnnxPolicy.load(exported)
    checkpoint = next((trained / "checkpoints").glob("*/state.json"))
    assert policy.spec.control_period_s == 0.05
    assert policy.action_chunk == 2
    assert policy.facts["checkpoint_sha256"] == json.loads(checkpoint.read_text())["sha256"]
    assert policy.facts["compared"]["random"] == export_policy.RANDOM
    assert policy.facts["compared"]["largest"] < 1e-5


def test_a_served_file_answers_what_it_decides_and_refuses_candidates(exported: Path) -> None:
    offer = serve._own(compose("serve", [f"run={exported}", "keys={state: robot/state}"]), str(exported), None)
    assert isinstance(offer.served, ServedFile)
    state = np.array([1.0, 0.0, 0.5], np.float32)
    requests = [
        read_request({"robot/state": state, **more}, offer.served.spec, offer.keys)
        for more in ({}, {"robot_rl/candidates": 3})
    ]
    found, refused = offer.served.answer(requests)
    np.testing.assert_array_equal(found["actions"], OnnxPolicy.load(exported).decide({"state": state}))
    assert isinstance(refused, InputError)


@pytest.mark.parametrize("setting", [{"explore": True}, {"steer": "runs/critic"}])
def test_what_needs_samples_is_refused(exported: Path, setting: dict[str, object]) -> None:
    with pytest.raises(InputError, match="holds its mode alone"):
        serve._own(ServeConfig(run=str(exported), **setting), str(exported), None)


def test_a_file_that_was_changed_is_refused(exported: Path, tmp_path: Path) -> None:
    content = bytearray(exported.read_bytes())
    policy = OnnxPolicy.load(exported)
    weight = content.find(next(iter(_weights(exported))))
    content[weight] ^= 1
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        OnnxPolicy.load(changed)
    changed.write_bytes(exported.read_bytes()[: policy.facts["graph_bytes"]])
    with pytest.raises(InputError, match="without a specification"):
        OnnxPolicy.load(changed)
    changed.write_bytes(b"no ONNX")
    with pytest.raises(InputError, match="no ONNX file"):
        OnnxPolicy.load(changed)


def _weights(path: Path) -> list[bytes]:
    import onnx

    return [each.raw_data for each in onnx.load(path).graph.initializer if len(each.raw_data) >= 32]


def test_a_file_that_does_not_do_what_the_policy_does_is_not_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "policy.onnx"
    true = AgentPolicy.decide
    monkeypatch.setattr(AgentPolicy, "decide", lambda self, observation: true(self, observation) + 0.01)
    assert cli.main(["export", str(trained), str(target)]) == 2
    assert "in 100 of 100 observations" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["export", str(trained), str(target), "outliers=100"]) == 0


def test_recorded_observations_are_compared_too(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    store = tmp_path / "recorded.zarr"
    assert evaluate.run(compose("evaluate", [f"run={trained}", "episodes=3", f"record={store}"])) == 0
    assert cli.main(["export", str(trained), str(tmp_path / "p.onnx"), f"compare_on=[{store}]"]) == 0
    assert "On 100 random and 24 recorded observations" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["export", str(trained), str(tmp_path / "p.onnx")]) == 2
    assert "overwrite=true" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["policy.hdf5 format=onnx", "policy.onnx format=lerobot"])
def test_format_and_ending_have_to_agree(trained: Path, tmp_path: Path, target: str) -> None:
    name, setting = target.split()
    assert cli.main(["export", str(trained), str(tmp_path / name), setting]) == 2


def decides_alike(kind: str, chunk: int) -> None:
    small = {"actor_hidden": [8], "critic_hidden": [8], "value_hidden": [8], "flow_hidden": [8], "critic_width": 8}
    config = ALGORITHM_CONFIGS[kind]()
    config = ALGORITHM_CONFIGS[kind](**{key: value for key, value in small.items() if key in vars(config)})
    agent = create(config, SPEC.chunked(chunk), Seeds(0), CPU, None)
    graph = export_policy.onnx_graph(agent, SPEC, chunk)
    facts = {"format": 1, "graph_bytes": len(graph), "graph_sha256": graph_hash(graph), "spec": SPEC.to_json()}
    facts |= {"action_chunk": chunk, "chunk_ensemble": None}
    policy = OnnxPolicy.of(export_policy.with_facts(graph, facts), Path("policy.onnx"))
    scale = ActionScale.from_spec(SPEC.action)
    wanted = AgentPolicy(agent=agent, spec=SPEC, scale=scale, device=CPU, action_chunk=chunk)
    found = export_policy.compare(policy, wanted, [], 1e-4)
    assert found.beyond == 0
    observation = {"joints": np.ones(3, np.float32), "tool": np.zeros(2)}
    assert policy.decide(observation).shape == (chunk, 2)


@pytest.mark.parametrize("kind", ["bc", "fql"])
def test_an_algorithm_decides_alike_in_a_file(kind: str) -> None:
    decides_alike(kind, 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(ALGORITHM_CONFIGS) - {"bc", "fql"}))
def test_every_algorithm_decides_alike_in_a_file(kind: str) -> None:
    decides_alike(kind, 2)


def test_a_policy_that_is_random_even_without_exploring_is_refused() -> None:
    class Restless:
        generator = torch.Generator()

        def act(self, observation: dict[str, torch.Tensor], *, explore: bool) -> torch.Tensor:
            return torch.randn((1, 2), generator=self.generator)

    with pytest.raises(InputError, match="draws new random numbers"):
        export_policy.onnx_graph(Restless(), SPEC, 1)
