"""`robot-rl evaluate`: what it records, where it may run, and what an interruption leaves."""

import json
from pathlib import Path

import pytest

from robot_rl.apps import cli, evaluate, train
from robot_rl.apps.compose import compose
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.sim.gymnasium_env import GymnasiumEnvironment

PENDULUM = ["environment=gymnasium_schema", "environment.id=Pendulum-v1", "environment.maximum_steps=5"]
CAR = ["environment=gymnasium_schema", "environment.id=MountainCarContinuous-v0", "environment.maximum_steps=5"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    words = ["algorithm=sac", "algorithm.actor_hidden=[8]", "algorithm.critic_hidden=[8]", f"output={folder}"]
    words += ["evaluation.videos=0", "evaluation.episodes=1", "evaluation.final_episodes=1"]
    words += ["+phases.online={interact:policy,steps:10,batch_size:4}"]
    assert train.run(compose("train", [*PENDULUM, *words])) == 0
    return folder


@pytest.mark.parametrize("name", ["demonstrations.zarr", "demonstrations.hdf5"])
def test_an_interrupted_recording_leaves_nothing_and_says_so(tmp_path, monkeypatch, capsys, name) -> None:
    path, taken, step = tmp_path / name, [0], GymnasiumEnvironment.step

    def impatient(self, action):
        taken[0] += 1
        if taken[0] == 13:  # in the third episode
            raise KeyboardInterrupt
        return step(self, action)

    words = ["evaluate", "policy=random", *PENDULUM, "episodes=3", f"record={path}"]
    with monkeypatch.context() as patch:
        patch.setattr(GymnasiumEnvironment, "step", impatient)
        assert cli.main(words) == 130
    assert "nothing was kept" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert cli.main(words) == 0
    assert path.exists()
    assert path.suffix != ".zarr" or len(EpisodeStore.open(path)) == 3


def test_a_policy_is_evaluated_only_where_it_sees_and_does_what_it_learned(trained) -> None:
    with pytest.raises(InputError, match=r"the environment: observation 'state' has shape \(2,\), that of the policy"):
        evaluate.run(compose("evaluate", [f"run={trained}", *CAR, "episodes=1"]))


def test_an_environment_with_another_control_period_is_refused(trained, monkeypatch) -> None:
    state = next((trained / "checkpoints").glob("*/state.json"))
    saved = state.read_text()
    try:
        facts = json.loads(saved)
        facts["spec"]["control_period_s"] = 1.5
        state.write_text(json.dumps(facts))
        with pytest.raises(InputError, match=r"has control_period_s=0\.05, but the policy .* has 1\.5"):
            evaluate.run(compose("evaluate", [f"run={state.parent}", "episodes=1"]))
    finally:
        state.write_text(saved)


def test_films_that_cannot_be_drawn_are_refused_before_the_first_episode(trained, tmp_path) -> None:
    with pytest.raises(InputError, match=r"not a MuJoCo task.*set videos=0"):
        evaluate.run(compose("evaluate", [f"run={trained}", "episodes=1", "videos=1", f"output={tmp_path / 'out'}"]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("word", ["episodes=0", "threads=0", "videos=-1"])
def test_a_mistyped_number_is_refused_by_its_key(word) -> None:
    with pytest.raises(InputError, match=f"{word} must be at least"):
        compose("evaluate", ["policy=random", *PENDULUM, word])


def test_paths_may_begin_at_home(trained, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").symlink_to(trained)
    words = ["run='~/run'", "record='~/data.zarr'", "output='~/out'", "episodes=1"]
    assert evaluate.run(compose("evaluate", words)) == 0
    assert (tmp_path / "out" / "evaluation.json").is_file()
    assert len(EpisodeStore.open(tmp_path / "data.zarr")) == 1
