"""Runs that learn from a robot's data and a simulator, then on the robot; and what is refused before they begin."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robot_rl import checkpoint
from robot_rl.apps import evaluate, train
from robot_rl.apps.build import LoadedData, check_fit
from robot_rl.apps.compose import compose
from robot_rl.apps.domains import require_comparable
from robot_rl.config import DatasetConfig, PhaseConfig
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.loops import domains
from robot_rl.spec import ArraySpec, Spec
from robot_rl.testing.fakes import OneJointEnvironment

CHEETAH = ["environment=half_cheetah", "environment.maximum_steps=40", "environment.action_history=1"]
JUDGES = "{models: [classifiers], warm_up: 5, minimum_real: 50, minimum_held_out: 0, calibration_limit: 1.0}"


def record(path: Path, *words: str, episodes: int = 3) -> Path:
    arguments = ["policy=random", *CHEETAH, f"episodes={episodes}", f"record={path}", f"output={path.parent / 'out'}"]
    assert evaluate.run(compose("evaluate", [*arguments, *words])) == 0
    return path


@pytest.fixture(scope="module")
def robot_data(tmp_path_factory) -> Path:
    """120 transitions of std_B."""
    return record(tmp_path_factory.mktemp("data") / "robot.zarr", "environment.proxy=std_B")


def training(folder: Path, data: Path, *words: str) -> list[str]:
    small = ["algorithm=h2o", "algorithm.actor_hidden=[8]", "algorithm.critic_hidden=[8]"]
    small += [f"algorithm.judges={JUDGES}", "algorithm.judges.classifier_hidden=[8]"]
    quiet = ["evaluation.episodes=1", "evaluation.final_episodes=1", "evaluation.videos=0", "evaluation.proxy=std_B"]
    mixed = "shares: {real: 0.5, online: 0.5}"
    phases = [
        "+phases.explore={steps: 40, interact: random, updates_per_step: 0}",
        f"+phases.simulator={{steps: 60, interact: policy, batch_size: 8, {mixed}}}",
        "+phases.robot={steps: 60, interact: policy, robot: true, batch_size: 8, shares: {real: 0.5, robot: 0.5}}",
    ]
    return [
        *CHEETAH,
        *small,
        *quiet,
        *phases,
        f"+datasets.real.path={data}",
        f"output={folder}",
        "log_every=10",
        *words,
    ]


def run(words: list[str]) -> int:
    return train.run(compose("train", words))


def events(folder: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def trusts(folder: Path, phase: str) -> list[float]:
    return [each["metrics"]["gap/trust"] for each in events(folder, "train") if each["phase"] == phase]


def test_a_run_goes_from_the_simulator_with_data_to_the_robot(tmp_path, robot_data) -> None:
    folder = tmp_path / "run"
    assert run(training(folder, robot_data)) == 0
    acted = [(each["phase"], each.get("robot", False)) for each in events(folder, "episode")]
    assert set(acted) == {("explore", False), ("simulator", False), ("robot", True)}
    facts = json.loads((folder / "run.json").read_text())["environments"]
    assert "gap" not in facts["training"]
    assert facts["robot"]["gap"]["hash"] == facts["evaluation"]["gap"]["hash"]
    assert trusts(folder, "simulator")[-1] == 1.0
    tensors, state = checkpoint.load(checkpoint.checkpoints(folder / "checkpoints")[-1])
    assert (state["replay"]["size"], state["robot_replay"]["size"]) == (40 + 1 + 60 + 2, 60 + 2)
    assert tensors["robot_replay.reward"].shape == (62,)


def test_batches_know_whose_rows_they_hold(tmp_path, robot_data, monkeypatch) -> None:
    seen: dict[str, set] = {}
    phases = train.run_phases

    def watch(this):
        update = this.agent.update

        def noted(batch, *, critic_updates=1):
            seen.setdefault(this.progress.phase, set()).add(int(batch.real.sum()))
            return update(batch, critic_updates=critic_updates)

        this.agent.update = noted
        return phases(this)

    monkeypatch.setattr(train, "run_phases", watch)
    assert run(training(tmp_path / "run", robot_data)) == 0
    assert seen == {"simulator": {4}, "robot": {8}}


def test_data_of_a_simulator_can_be_said_to_be_one(tmp_path, robot_data, monkeypatch) -> None:
    sources: dict = {}

    def stop(this):
        sources.update(this.sources)
        return False

    monkeypatch.setattr(train, "run_phases", stop)
    plain = record(tmp_path / "simulated.zarr", episodes=1)
    more = [f"+datasets.simulated.path={plain}", "+datasets.simulated.domain=simulator"]
    assert run(training(tmp_path / "run", robot_data, *more)) == 130
    assert {name: source.real for name, source in sources.items()} == {
        "real": True,
        "simulated": False,
        "online": False,
        "robot": True,
    }


def test_a_run_that_is_stopped_on_the_robot_goes_on_with_the_same_numbers(tmp_path, robot_data, monkeypatch) -> None:
    whole, parts = training(tmp_path / "whole", robot_data), training(tmp_path / "parts", robot_data)
    assert run(whole) == 0
    phases = train.run_phases

    def stopped(this):
        this.stop_requested = lambda: this.progress.phase == "robot" and this.progress.phase_step >= 20
        return phases(this)

    with monkeypatch.context() as patch:
        patch.setattr(train, "run_phases", stopped)
        assert run(parts) == 130
    assert run([*parts, "resume=true"]) == 0
    ends = [
        checkpoint.load(checkpoint.checkpoints(tmp_path / each / "checkpoints")[-1])[0] for each in ("whole", "parts")
    ]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_data_too_small_to_judge_by_is_told_and_the_learner_falls_back(tmp_path, robot_data, capsys) -> None:
    folder = tmp_path / "run"
    assert run(training(folder, robot_data, "algorithm.judges.minimum_real=1000")) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "120 transitions of the robot (real) are too few to judge the simulator by" in told
    assert "it learns as from a mixture of both" in told
    notes = {each["phase"]: each.get("notes", []) for each in events(folder, "phase_start")}
    assert len(notes["simulator"]) == 1
    assert notes["robot"] == []  # has nothing of the simulator to judge
    assert set(trusts(folder, "simulator")) == {0.0}


@pytest.mark.parametrize(("limit", "said"), [(0.0, ["simulator", "robot"]), (1.01, [])])
def test_that_states_alone_tell_the_domains_apart_is_told(
    tmp_path, robot_data, monkeypatch, capsys, limit, said
) -> None:
    monkeypatch.setattr(domains, "TOLD_APART", limit)
    folder = tmp_path / "run"
    assert run(training(folder, robot_data)) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert ("states and actions alone tell robot and simulator apart" in told) == bool(said)
    assert [each["phase"] for each in events(folder, "phase_end") if "notes" in each] == said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["phases.simulator.shares={real: 0.0, online: 1.0}"], "all of the simulator, and classifiers judge it"),
        (["phases.robot.algorithm={learn_from: simulator}"], r"phases\.robot\.algorithm\.learn_from=both"),
        (["evaluation.proxy=null"], r"phases\.robot\.robot=true acts on the robot, but none is given"),
        (["+datasets.robot.path=x"], "cannot be called 'robot'"),
        (["phases.robot.interact=none"], "set interact=policy"),
        (["datasets.real.domain=sim"], "did you mean 'simulator'"),
        (["environment.proxy=std_B"], "are the same"),
    ],
)
def test_runs_that_cannot_be_meant_are_refused(tmp_path, robot_data, words, message) -> None:
    with pytest.raises(InputError, match=message):
        run(training(tmp_path / "run", robot_data, *words))


def test_data_of_the_simulator_itself_is_refused(tmp_path) -> None:
    plain = record(tmp_path / "plain.zarr", episodes=1)
    with pytest.raises(InputError, match=r"data set real and the simulator that is trained in are the same \(no gap\)"):
        run(training(tmp_path / "run", plain))
    assert not (tmp_path / "run" / "run.json").exists()


# What has to be the same ----------------------------------------------------------------------------------------------
class _Told:
    """Stands for an agent that tells domains apart."""

    needs = frozenset({"real"})


def loaded(spec: Spec) -> dict[str, LoadedData]:
    return {"real": LoadedData(spec=spec, episodes=[], weights=[], facts={})}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"control_period_s": 0.04}, r"data set real has control_period_s=0\.04, but the simulator has 0\.05"),
        ({"action_semantics": "joint_position"}, "action_semantics=joint_position"),
        (
            {"observation": {"state": ArraySpec(shape=(2,), names=("target", "angle"))}},
            "channels of observation 'state' stand in another order .*: channel 0 is 'target' here and 'angle' there",
        ),
        ({"observation": {"pose": ArraySpec(shape=(2,))}}, "has no observation 'state'"),
        ({"observation": {"state": ArraySpec(shape=(3,))}}, "has shape"),
    ],
)
def test_data_that_speaks_of_something_else_is_refused(change, message) -> None:
    simulator = OneJointEnvironment()
    robot = replace(simulator.spec, metadata={}, **change)
    with pytest.raises(InputError, match=message):
        require_comparable(_Told(), loaded(robot), simulator)


def test_actions_in_another_order_are_refused_and_other_labels_are_not() -> None:
    def spec(*names: str) -> Spec:
        return Spec(observation={"state": ArraySpec(shape=(1,))}, action=ArraySpec(shape=(2,), names=names))

    with pytest.raises(InputError, match="channels of action stand in another order"):
        check_fit("data", spec("elbow", "shoulder"), "the robot", spec("shoulder", "elbow"))
    check_fit("data", spec("j0", "j1"), "the robot", spec("shoulder", "elbow"))


def test_what_the_data_does_not_say_is_told() -> None:
    simulator = OneJointEnvironment()
    robot = replace(simulator.spec, metadata={}, control_period_s=None)
    (note,) = require_comparable(_Told(), loaded(robot), simulator)
    assert "does not say its control_period_s" in note
    assert require_comparable(_Told(), loaded(replace(simulator.spec, metadata={})), simulator) == []


def test_where_rows_come_from_has_a_default_by_phase() -> None:
    assert PhaseConfig(steps=1).shares == {"offline": 1.0}
    assert PhaseConfig(steps=1, interact="policy").shares == {"online": 1.0}
    assert PhaseConfig(steps=1, interact="policy", robot=True).shares == {"robot": 1.0}
    assert DatasetConfig(path="x").domain == "robot"


def test_the_recorded_robot_says_which_it_is(robot_data) -> None:
    assert EpisodeStore.open(robot_data).spec.metadata["gap"]["proxy"] == "std_B"
