"""Experiments of action chunks compose, and a run of them is trained, evaluated and resumed like any other."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from robot_rl import checkpoint
from robot_rl.apps import evaluate, train
from robot_rl.apps.compose import compose
from robot_rl.errors import InputError
from robot_rl.loops.rollout import AgentPolicy
from robot_rl.types import Array

PENDULUM = ["environment=gymnasium_schema", "environment.id=Pendulum-v1", "environment.maximum_steps=20"]
SMALL = ["algorithm.actor_hidden=[8]", "algorithm.critic_hidden=[8]", "evaluation.final_episodes=2"]
PHASES = [
    "+phases.offline={steps:20,batch_size:8}",
    "+phases.online={interact:policy,steps:50,batch_size:8,shares:{offline:0.5,online:0.5}}",
]
QC = ["algorithm=qc", "algorithm.candidates=3", "algorithm.flow_steps=2", "replay.action_chunk=3"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "random.zarr"
    evaluate.run(compose("evaluate", ["policy=random", *PENDULUM, "episodes=4", f"record={path}"]))
    return path


def overrides(store: Path, output: Path, *more: str) -> list[str]:
    return [*PENDULUM, *QC, *SMALL, f"+datasets.offline={{path:{store}}}", f"output={output}", *PHASES, *more]


@pytest.mark.parametrize(
    ("name", "chunk", "discount"), [("lift_qc", 5, None), ("lift_deas", 5, 0.9), ("lift_cqn_as", 4, None)]
)
def test_an_experiment_of_chunks_composes(name, chunk, discount) -> None:
    config = compose("train", [f"experiment={name}"])
    assert (config.replay.action_chunk, config.replay.chunk_discount) == (chunk, discount)
    train.check(config)


def test_a_run_of_chunks_is_resumed_and_evaluated(store, tmp_path, monkeypatch) -> None:
    whole = overrides(store, tmp_path / "whole", "evaluation.videos=0")
    assert train.run(compose("train", whole)) == 0
    parts = overrides(store, tmp_path / "parts", "evaluation.videos=0", "checkpoint_every_s=0.0")
    with monkeypatch.context() as patch:
        patch.setattr(train, "run_phases", interrupted(train.run_phases, 30))
        assert train.run(compose("train", parts)) == 130
    assert train.run(compose("train", [*parts, "resume=true"])) == 0
    tensors, state = checkpoint.load(checkpoint.checkpoints(tmp_path / "whole" / "checkpoints")[-1])
    again, _ = checkpoint.load(checkpoint.checkpoints(tmp_path / "parts" / "checkpoints")[-1])
    assert tensors.keys() == again.keys()
    assert all(torch.equal(tensors[key], again[key]) for key in tensors)
    assert state["spec"]["action"]["shape"] == [1]  # the environment's; the agent's follows from replay.action_chunk
    found = []
    for explore in ("false", "true"):
        out = tmp_path / explore
        words = [f"run={tmp_path / 'whole'}", "episodes=2", f"output={out}", f"explore={explore}"]
        assert evaluate.run(compose("evaluate", words)) == 0
        found.append(json.loads((out / "evaluation.json").read_text()))
    assert all("value_mean" in each["metrics"] for each in found)
    assert found[0]["metrics"]["return_mean"] != found[1]["metrics"]["return_mean"]


def interrupted(run_phases, step):
    """Ask to stop as soon as the online phase is at work."""

    def run(this):
        this.stop_requested = lambda: this.progress.phase == "online" and this.progress.phase_step >= step
        return run_phases(this)

    return run


def test_another_chunk_is_another_run(store, tmp_path) -> None:
    words = overrides(store, tmp_path / "run", "evaluation.videos=0", "phases.offline.steps=1", "phases.online.steps=1")
    assert train.run(compose("train", words)) == 0
    with pytest.raises(InputError, match=r"replay\.action_chunk: 3 -> 4"):
        train.run(compose("train", [*words, "resume=true", "replay.action_chunk=4"]))


def test_episodes_that_are_too_short_for_whole_chunks_are_refused(store, tmp_path) -> None:
    words = [*overrides(store, tmp_path / "run"), "algorithm=sac", "replay.action_chunk=30", "evaluation.videos=0"]
    words = [word for word in words if word not in QC or word.startswith("replay")]
    with pytest.raises(InputError, match="no episode has the 30 steps"):
        train.run(compose("train", words))


def test_a_run_of_cqn_as_plays_the_mean_of_its_decisions_as_its_evaluation_does(store, tmp_path, monkeypatch) -> None:
    words = [word for word in overrides(store, tmp_path / "run") if "hidden" not in word and word not in QC]
    words += ["algorithm=cqn_as", "algorithm.critic_width=8", "algorithm.critic_head.atoms=5", "evaluation.videos=0"]
    words += ["replay.action_chunk=3", "replay.chunk_ensemble=0.01", "replay.n_step_counts=steps"]
    steps = []
    decide = AgentPolicy.decide

    def counted(self: AgentPolicy, observation: Mapping[str, Array]) -> Array:
        steps.append(self.explore)
        return decide(self, observation)

    monkeypatch.setattr(AgentPolicy, "decide", counted)
    assert train.run(compose("train", words)) == 0
    assert steps.count(True) == 50  # online, and 20 steps of each evaluated episode
    evaluated = steps.count(False)
    assert evaluate.run(compose("evaluate", [f"run={tmp_path / 'run'}", "episodes=2"])) == 0
    assert steps.count(False) == evaluated + 40
