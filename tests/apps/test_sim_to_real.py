"""Gaps, robots by proxy and randomisation from the command line to the run's files."""

import json
from pathlib import Path

import numpy as np
import pytest

from robot_rl import checkpoint
from robot_rl.apps import evaluate, train
from robot_rl.apps.build import check_fit, load_data
from robot_rl.apps.build_environment import build_environment
from robot_rl.apps.compose import compose
from robot_rl.config import DatasetConfig
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.sim.gap import Gap
from robot_rl.sim.gap_env import GapEnvironment
from robot_rl.sim_config import GapConfig

CHEETAH = ["environment=half_cheetah", "environment.maximum_steps=20"]


def training(folder: Path, *words: str) -> list[str]:
    small = ["algorithm.actor_hidden=[8]", "algorithm.critic_hidden=[8]", "algorithm=sac"]
    quiet = ["evaluation.episodes=1", "evaluation.final_episodes=1", "evaluation.videos=0"]
    phase = "+phases.online={steps: 60, interact: policy, batch_size: 4, updates_per_step: 0}"
    return [*CHEETAH, *small, *quiet, phase, f"output={folder}", *words]


def test_the_schema_and_the_gap_have_the_same_fields() -> None:
    assert list(vars(GapConfig())) == list(vars(Gap()))


def test_a_run_says_what_it_drew_for_each_episode_and_evaluates_on_the_robot(tmp_path) -> None:
    folder = tmp_path / "run"
    words = training(
        folder,
        "environment/randomization=standard",
        "environment.randomization.curriculum_steps=40",
        "evaluation.proxy=std_B",
        "environment.action_history=2",
    )
    assert train.run(compose("train", words)) == 0
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    drawn = [event["drawn"] for event in events if event["event"] == "episode"]
    assert len(drawn) == 3
    assert set(drawn[0]) == {
        *("mass", "gear", "damping", "coulomb", "armature", "contact_friction"),
        *("motor_pole", "action_delay_s", "sensor_noise"),
    }
    assert drawn[0]["mass"] == 1.0  # the curriculum begins at the simulator
    assert drawn[1]["mass"] != 1.0
    assert drawn[1]["mass"] != drawn[2]["mass"]

    facts = json.loads((folder / "run.json").read_text())["environments"]
    assert facts["training"]["randomization"]["curriculum_steps"] == 40
    assert "randomization" not in facts["evaluation"]
    assert facts["evaluation"]["gap"]["proxy"] == "std_B"
    assert facts["evaluation"]["gap"]["values"]["mass"] == pytest.approx(1.1, abs=0.02)
    _, state = checkpoint.load(checkpoint.checkpoints(folder / "checkpoints")[-1])
    assert state["environments"] == facts
    assert len(state["environments"]["training"]["randomization"]["hash"]) == 12
    assert state["spec"]["observation"]["action_history"]["shape"] == [12]

    store = tmp_path / "robot.zarr"
    on_robot = [str(folder), *CHEETAH, "environment.action_history=2", "environment.proxy=std_C", "episodes=1"]
    words = [f"run={on_robot[0]}", *on_robot[1:], f"record={store}", f"output={tmp_path / 'out'}"]
    assert evaluate.run(compose("evaluate", words)) == 0
    assert EpisodeStore.open(store).spec.metadata["gap"]["proxy"] == "std_C"


def test_the_last_commands_are_found_in_the_actions_of_data_that_does_not_show_them(tmp_path) -> None:
    shown, plain = tmp_path / "shown.zarr", tmp_path / "plain.zarr"
    for path, words in ((shown, ["environment.action_history=2"]), (plain, [])):
        asked = ["policy=random", *CHEETAH, *words, "episodes=2", f"record={path}", f"output={tmp_path / path.stem}"]
        assert evaluate.run(compose("evaluate", asked)) == 0
    wanted = EpisodeStore.open(shown).spec
    found, recorded = (load_data("real", DatasetConfig(path=str(path)), wanted, "the robot") for path in (plain, shown))
    ours, theirs = (spec.observation["action_history"] for spec in (found.spec, wanted))
    assert (ours.shape, ours.names) == (theirs.shape, theirs.names)
    for derived, seen in zip(found.episodes, recorded.episodes, strict=True):
        assert np.array_equal(derived.observation["action_history"], seen.observation["action_history"])
        assert derived.observation["action_history"][5].any()
    with pytest.raises(InputError, match=r"They are the last commands: environment\.action_history=2"):
        check_fit("the environment", EpisodeStore.open(plain).spec, "the policy", wanted)


def drawn_in(folder: Path) -> list[dict[str, float]]:
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [event["drawn"] for event in events if event["event"] == "episode"]


def test_a_run_that_goes_on_draws_what_it_would_have_drawn(tmp_path, monkeypatch) -> None:
    grown = ["environment/randomization=dynamics", "environment.randomization.curriculum_steps=50"]
    whole, parts = (training(tmp_path / name, *grown) for name in ("whole", "parts"))
    assert train.run(compose("train", whole)) == 0
    phases = train.run_phases

    def stopped(this):
        this.stop_requested = lambda: this.progress.phase_step >= 30
        return phases(this)

    with monkeypatch.context() as patch:
        patch.setattr(train, "run_phases", stopped)
        assert train.run(compose("train", parts)) == 130
    assert len(drawn_in(tmp_path / "parts")) == 2
    assert train.run(compose("train", [*parts, "resume=true"])) == 0
    assert drawn_in(tmp_path / "parts") == drawn_in(tmp_path / "whole")
    assert len(drawn_in(tmp_path / "whole")) == 3


def test_evaluation_never_randomizes() -> None:
    config = compose("train", [*CHEETAH, "environment/randomization=standard"]).environment
    plain, drawing = build_environment(config), build_environment(config, training=True)
    assert not isinstance(plain, GapEnvironment)
    assert isinstance(drawing, GapEnvironment)
    assert drawing.reset(seed=0) is not None
    assert drawing.drawn
    plain.close()
    drawing.close()


def test_a_gap_overrides_the_proxy_field_by_field() -> None:
    words = [*CHEETAH, "environment.proxy=std_B", "environment.gap.action_delay_s=0", "environment.gap.gravity=1.2"]
    environment = build_environment(compose("evaluate", words).environment)
    values = environment.spec.metadata["gap"]["values"]
    assert "action_delay_s" not in values
    assert (values["gravity"], values["mass"] > 1.0) == (1.2, True)
    environment.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["environment.proxy=std_D"], "did you mean 'std_C'"),
        (["environment.gap.gravty=2"], r"did you mean 'environment\.gap\.gravity'"),
        (["environment/randomization=standrd"], "did you mean 'standard'"),
        (["environment.randomization.curriculum_start=2"], "curriculum_start=2"),
        (["evaluation.proxy=B"], r"evaluation\.proxy=B"),
        (["environment.action_history=-1"], "action_history=-1"),
    ],
)
def test_wrong_names_are_answered_by_the_nearest_right_one(words, message) -> None:
    with pytest.raises(InputError, match=message):
        compose("train", [*CHEETAH, *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["environment.gap.mass=1.0"], r"environment\.gap leaves the simulator as it is"),
        (["environment.gap.mass=-1"], r"environment\.gap\.mass=-1\.0 must lie in"),
        (["environment.randomization.fields={mas: {uniform: [1, 2]}}"], "did you mean 'mass'"),
        (["environment.randomization.curriculum_steps=10"], "but no fields"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(words, message) -> None:
    with pytest.raises(InputError, match=message):
        build_environment(compose("train", [*CHEETAH, *words]).environment)


def test_training_on_the_robot_that_it_is_evaluated_on_is_refused(tmp_path) -> None:
    words = training(tmp_path / "run", "environment.proxy=std_B", "evaluation.proxy=std_B")
    with pytest.raises(InputError, match=r"evaluation\.proxy=std_B and the simulator that is trained in are the same"):
        train.run(compose("train", words))
    assert not (tmp_path / "run" / "run.json").exists()
