"""`robot-rl identify`: from a recorded store to a report and to files that the next command takes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from robot_rl.apps import evaluate, identify
from robot_rl.apps.build_environment import build_environment
from robot_rl.apps.compose import compose
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.types import Episode

REACHER = "environment=reacher_easy"
ROBOT = ["environment.gap.gear=0.8", "environment.gap.action_delay_s=0.02"]
QUICK = ["steps=200", "maximum_delay_s=0.06", "parameters=[gear,damping,mass,action_delay_s]"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An episode of a robot with weak, late motors."""
    path = tmp_path_factory.mktemp("robot") / "robot.zarr"
    words = [REACHER, *ROBOT, "policy=random", "episodes=1", f"record={path}"]
    assert evaluate.run(compose("evaluate", words)) == 0
    return path


def identified(store: Path, *words: str) -> int:
    return identify.run(compose("identify", [f"data={store}", REACHER, *words]))


def test_what_is_identified_is_what_the_next_command_takes(store, tmp_path, capsys) -> None:
    folder = tmp_path / "found"
    assert identified(store, *QUICK, f"output={folder}") == 0
    said = capsys.readouterr()
    assert "mass: cannot be told from gear" in said.out
    assert f"--config-dir {folder} environment=identified environment/randomization=identified" in said.err

    words = ["environment=identified", "environment/randomization=identified", "algorithm=sac"]
    config = compose("train", words, folder).environment
    assert config.gap.gear == pytest.approx(0.8, rel=0.005)
    assert config.gap.action_delay_s == pytest.approx(0.02, abs=2e-4)
    assert config.gap.mass is None
    low, high = config.randomization.fields["gear"]["uniform"]
    assert low < 0.8 < high
    assert set(config.randomization.fields) == {"gear", "damping", "action_delay_s"}
    environment = build_environment(config, training=True)
    environment.reset(seed=0)
    assert environment.spec.metadata["randomization"]["without_effect"] == []
    environment.close()

    page = (folder / "report.html").read_text("utf-8")
    for heading in ("Parameters", "From command to motion", "Held-out motion", "Which parameters go together", "Go on"):
        assert heading in page
    assert page.count("<svg") >= 6
    numbers = json.loads((folder / "identification.json").read_text())
    assert numbers["outcome"] == "better"
    assert numbers["held_out_error"]["after"] < 0.2 * numbers["held_out_error"]["before"]
    assert [each["name"] for each in numbers["parameters"]] == ["gear", "damping", "mass", "action_delay_s"]


def test_settings_of_the_simulator_go_with_what_was_identified(store, tmp_path) -> None:
    words = [
        "environment.action_history=2",
        "parameters=[gear]",
        "maximum_delay_s=0.0",
        "steps=100",
        f"output={tmp_path}",
    ]
    identified(store, *words)
    written = yaml.safe_load((tmp_path / "environment/identified.yaml").read_text())
    assert (written["action_history"], written["domain"], written["task"]) == (2, "reacher", "easy")


def test_where_nothing_is_explained_nothing_is_written_to_train_with(store, tmp_path) -> None:
    opened = EpisodeStore.open(store)
    wrong = EpisodeStore.create(tmp_path / "wrong.zarr", opened.spec, provenance={})
    for episode in opened.episodes():  # commands that have nothing to do with the motion
        action = np.random.default_rng(7).permutation(episode.action)
        wrong.append(
            Episode(
                observation=episode.observation,
                action=action,
                reward=episode.reward,
                terminated=episode.terminated,
                truncated=episode.truncated,
            )
        )
    wrong.finish()
    folder = tmp_path / "found"
    words = ["parameters=[mass]", "maximum_delay_s=0.0", "steps=100", f"output={folder}"]
    assert identified(tmp_path / "wrong.zarr", *words) == 1
    assert not (folder / "environment").exists()
    assert "no better on held-out motion" in (folder / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["environment.action_repeat=2"], r"control_period_s=0\.02, but the environment has 0\.04"),
        (["environment.proxy=std_B"], "a proxy plays a robot"),
        (["parameters=[gears]"], r"parameters=gears: did you mean 'gear'"),
        (["parameters=[]"], r"parameters=\[\]: name at least one"),
        (["environment=half_cheetah"], "has no observation 'state'"),
    ],
)
def test_what_cannot_be_fitted_is_refused(store, words, message) -> None:
    with pytest.raises(InputError, match=message):
        identified(store, *words)


def test_a_simulator_has_to_be_named(store) -> None:
    with pytest.raises(InputError, match="no simulator is chosen"):
        identify.run(compose("identify", [f"data={store}"]))


def test_a_log_without_a_control_period_is_refused(store, tmp_path) -> None:
    opened = EpisodeStore.open(store)
    silent = EpisodeStore.create(tmp_path / "silent.zarr", replace(opened.spec, control_period_s=None), provenance={})
    for episode in opened.episodes():
        silent.append(episode)
    silent.finish()
    with pytest.raises(InputError, match="does not say its control period"):
        identified(tmp_path / "silent.zarr")


def test_channels_that_are_named_in_another_order_are_refused(store, tmp_path) -> None:
    opened = EpisodeStore.open(store)
    names = opened.spec.action.names
    assert names is not None
    turned = replace(opened.spec, action=replace(opened.spec.action, names=names[::-1]))
    other = EpisodeStore.create(tmp_path / "turned.zarr", turned, provenance={})
    for episode in opened.episodes():
        other.append(episode)
    other.finish()
    with pytest.raises(InputError, match="channels of action stand in another order"):
        identified(tmp_path / "turned.zarr")
