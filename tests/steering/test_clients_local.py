"""LeRobot and Octo in this process, as their packages behave, without them."""

import sys
import types
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scripted import spec

from robot_rl.clock import FakeClock
from robot_rl.errors import InputError
from robot_rl.steering.clients import lerobot_local, octo_local
from robot_rl.steering.clients.lerobot_local import LeRobotModel
from robot_rl.steering.clients.octo_local import OctoModel
from robot_rl.steering.local import LocalProposer
from robot_rl.steering.proposals import Deadline, Proposals, ProposerError

IMAGE = np.full((4, 5, 3), 255, np.uint8)
CPU = torch.device("cpu")


def ask(proposer: LocalProposer, count: int, **observation: Any) -> Proposals:
    deadline = Deadline(clock=FakeClock())
    return proposer.propose(observation, count, observation_id=3, deadline=deadline, ready=lambda base: None)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class FlowPolicy:
    """Answers its noise, plus the state: what it was handed shows in what comes back."""

    def __init__(self, **config: Any) -> None:
        self.config = SimpleNamespace(chunk_size=3, max_action_dim=4, n_obs_steps=1, **config)
        self.resets = 0
        self.batches: list[dict[str, Any]] = []

    def reset(self) -> None:
        self.resets += 1

    def predict_action_chunk(self, batch: dict[str, Any], noise: torch.Tensor | None = None) -> torch.Tensor:
        self.batches.append(batch)
        if noise is None:
            return batch["observation.state"][:, None].expand(-1, 3, -1)
        return noise[:, :, :2] + batch["observation.state"][:, None]


def lerobot(policy: Any, kind: str = "smolvla") -> LocalProposer:
    model = LeRobotModel(
        policy=policy,
        before=lambda batch: {**batch, "task": [each + "\n" for each in batch["task"]]},
        after=lambda action: action * 10,
        kind=kind,
        path="/models/x",
        device=CPU,
    )
    keys = {"observation.images.front": "camera", "observation.state": "joints"}
    return LocalProposer(model=model, spec=spec(), generator=generator(), keys=keys)


def test_lerobot_samples_are_rows_of_one_batch_each_with_its_own_noise_and_unnormalised() -> None:
    policy = FlowPolicy()
    proposer = lerobot(policy)
    proposer.reset("lift")
    joints = np.array([0.5, -0.5], np.float32)
    found = ask(proposer, 5, camera=IMAGE, joints=joints)
    noise = torch.randn(5, 3, 4, generator=generator())[:, :, :2]
    np.testing.assert_allclose(found.actions, (noise + torch.from_numpy(joints)).numpy() * 10, rtol=1e-6)
    assert found.kinds == ("base", *["sample"] * 4)
    assert (policy.resets, len(policy.batches)) == (1, 1)
    (batch,) = policy.batches
    assert batch["observation.images.front"].shape == (5, 3, 4, 5)
    assert float(batch["observation.images.front"].max()) == 1.0
    assert batch["task"] == ["lift\n"] * 5
    assert proposer.capabilities.native_batch
    assert len({row.tobytes() for row in ask(proposer, 5, camera=IMAGE, joints=joints).actions}) == 5


def test_lerobots_act_takes_its_mode_and_is_said_not_to_sample() -> None:
    proposer = lerobot(FlowPolicy(), "act")
    assert not proposer.capabilities.stochastic
    found = ask(proposer, 1, camera=IMAGE, joints=np.array([0.05, 0.06], np.float32))
    np.testing.assert_allclose(found.actions[0], np.tile([0.5, 0.6], (3, 1)), rtol=1e-6)


def test_a_lerobot_policy_that_sees_several_steps_is_refused() -> None:
    policy = FlowPolicy()
    policy.config.n_obs_steps = 2
    with pytest.raises(InputError, match="through LeRobot's policy server"):
        lerobot(policy, "diffusion")
    with pytest.raises(InputError, match=r"not \(H, W, 3\) uint8"):
        ask(lerobot(FlowPolicy()), 1, camera=IMAGE / 255, joints=np.zeros(2))


def test_a_model_whose_actions_are_not_as_declared_gives_none() -> None:
    narrow = lerobot(FlowPolicy())
    narrow.spec = spec(chunk=4)
    with pytest.raises(ProposerError, match=r"shape \(3, 2\), declared is \(4, 2\)"):
        ask(narrow, 2, camera=IMAGE, joints=np.zeros(2, np.float32))


class Octo:
    """Answers K samples of the newest frame's first pixel; keeps what it was asked."""

    def __init__(self, mask: str = "timestep_pad_mask", window: int = 2) -> None:
        action = {"mean": np.array([1.0, 5.0]), "std": np.array([2.0, 9.0]), "mask": np.array([True, False])}
        self.dataset_statistics = {"bridge": {"action": action}}
        example = {"image_primary": np.zeros((1, window, 4, 5, 3)), mask: np.ones((1, window))}
        self.example_batch = {"observation": example}
        self.asked: list[dict[str, Any]] = []
        self.texts: list[str] = []

    def create_tasks(self, texts: list[str]) -> dict[str, Any]:
        self.texts += texts
        return {"language_instruction": texts}

    def sample_actions(self, observations: Any, tasks: Any, *, sample_shape: Any, rng: int, **more: Any) -> Any:
        self.asked.append({"observations": observations, "rng": rng, **more})
        first = float(observations["image_primary"][0, -1, 0, 0, 0]) / 255
        actions = np.random.default_rng(rng).uniform(0, 0.1, (*sample_shape, 1, 3, 2)) + first
        if "unnormalization_statistics" in more:
            actions = actions * [2.0, 1.0] + [1.0, 0.0]
        return actions.astype(np.float32)


def octo(model: Octo) -> LocalProposer:
    ours = OctoModel(model=model, key=lambda seed: seed, dataset="bridge", path="/models/octo")
    return LocalProposer(model=ours, spec=spec(), generator=generator(), keys={"image_primary": "camera"})


def test_octo_sees_a_window_of_its_own_observations_and_a_new_key_each_time() -> None:
    model = Octo()
    proposer = octo(model)
    proposer.reset("lift")
    for level in (0, 100):
        ask(proposer, 4, camera=np.full((4, 5, 3), level, np.uint8))
    proposer.reset("stack")
    ask(proposer, 4, camera=IMAGE)
    assert model.texts == ["lift", "stack"]
    frames = [each["observations"]["image_primary"][0, :, 0, 0, 0].tolist() for each in model.asked]
    masks = [each["observations"]["timestep_pad_mask"][0].tolist() for each in model.asked]
    assert frames == [[0, 0], [0, 100], [255, 255]]
    assert masks == [[False, True], [True, True], [False, True]]
    assert len({each["rng"] for each in model.asked}) == 3
    assert model.asked[0]["unnormalization_statistics"] is model.dataset_statistics["bridge"]["action"]


def test_an_earlier_octo_is_unnormalised_here_where_its_mask_says_so() -> None:
    later, earlier = octo(Octo()), octo(Octo("pad_mask"))
    for each in (later, earlier):
        each.reset("lift")
    camera = np.zeros((4, 5, 3), np.uint8)
    np.testing.assert_allclose(ask(earlier, 3, camera=camera).actions, ask(later, 3, camera=camera).actions, rtol=1e-5)


def test_octo_without_a_task_or_with_other_statistics_is_refused() -> None:
    with pytest.raises(InputError, match="send `prompt`"):
        octo(Octo()).reset("")
    with pytest.raises(InputError, match=r"\['bridge'\]: set policy\.unnorm_key"):
        OctoModel(model=Octo(), key=int, dataset="fractal", path="x")


def test_packages_that_are_not_installed_are_named_with_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lerobot", "octo"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"needs the package lerobot.*lerobot\+grpc"):
        lerobot_local.load("/models/x", CPU)
    with pytest.raises(InputError, match=r"needs the packages octo and jax.*octo\+http"):
        octo_local.load("/models/x", "bridge")


def test_a_lerobot_folder_is_loaded_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = FlowPolicy()
    policy.to = lambda device: policy  # type: ignore[attr-defined]
    policy.eval = lambda: policy  # type: ignore[attr-defined]
    asked: list[Any] = []

    def config(path: str, **how: Any) -> Any:
        asked.append((path, how))
        if path != "/models/x":
            raise OSError("no such folder")
        return SimpleNamespace(type="smolvla", device="cuda")

    def made(path: str, **how: Any) -> Any:
        asked.append((path, how["local_files_only"], how["config"].device))
        return policy

    policies, factory = types.ModuleType("policies"), types.ModuleType("factory")
    vars(policies)["PreTrainedConfig"] = SimpleNamespace(from_pretrained=config)
    vars(factory)["get_policy_class"] = lambda kind: SimpleNamespace(from_pretrained=made)
    vars(factory)["make_pre_post_processors"] = lambda config, pretrained_path: (dict, lambda action: action)
    for name, module in (("lerobot.configs.policies", policies), ("lerobot.policies.factory", factory)):
        for parent in ("lerobot", name.rpartition(".")[0]):
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        monkeypatch.setitem(sys.modules, name, module)
    found = lerobot_local.load("/models/x", CPU)
    assert (found.kind, found.stochastic) == ("smolvla", True)
    assert asked == [("/models/x", {"local_files_only": True}), ("/models/x", True, "cpu")]
    with pytest.raises(InputError, match="cannot be loaded: OSError: no such folder"):
        lerobot_local.load("/nowhere", CPU)
