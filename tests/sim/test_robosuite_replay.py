"""Raw robosuite recordings are played where the installed simulator fits, and refused with the reason where not."""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robot_rl.errors import InputError
from robot_rl.sim.robosuite_env import RobosuiteEnvironment
from robot_rl.sim.robosuite_replay import resimulate
from robot_rl.types import Array

DATA = Path(os.environ.get("ROBOT_RL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "robosuite_demos"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no recordings at {DATA}: set ROBOT_RL_DATA")


def recording(folder: str) -> tuple[dict[str, Any], str, Array, Array]:
    """Arguments of `resimulate` for the first demonstration of a file."""
    with h5py.File(DATA / folder / "demo.hdf5") as file:
        data = file["data"]
        info = json.loads(data.attrs["env_info"]) if "env_info" in data.attrs else {"env_name": data.attrs["env"]}
        info["repository_version"] = data.attrs["repository_version"]
        states = data["demo_1/states"][()]
        actions = data["demo_1/actions"][()] if "actions" in data["demo_1"] else np.zeros((len(states), 7))
    return info, (DATA / folder / "models" / "model_1.xml").read_text(), states, actions


@pytest.mark.parametrize("task", ["lift", "stack", "door", "nut-assembly"])
def test_a_recording_that_fits_ends_in_the_success_its_recorder_waited_for(task: str) -> None:
    info, model, states, actions = recording(f"v1.0_panda/{task}")
    episode = resimulate(info, model, states, actions)
    assert len(episode) == len(states) - 1
    assert episode.success is not None
    # robosuite's recorder stops after it has seen success for a while: the end, and only the end, is successful
    assert np.flatnonzero(~episode.success)[-1] == len(episode) - 12
    assert episode.metadata["kinematic_deviation_m"] < 0.002
    assert np.array_equal(episode.extras["simulator_state"], states)
    assert episode.truncated.tolist() == [False] * (len(episode) - 1) + [True]


def test_the_observations_have_the_keys_and_shapes_of_the_environment() -> None:
    episode = resimulate(*recording("v1.0_panda/lift"))
    spec = RobosuiteEnvironment(task="Lift").spec
    spec.check_observation({key: rows[0] for key, rows in episode.observation.items()}, "replay")
    assert list(episode.observation) == list(spec.observation)
    # the gripper's command is recorded before its effect: the fingers begin to close in the row after action 349
    fingers = episode.observation["robot0_gripper_qpos"][:, 0]
    assert episode.action[348, -1] < 0 < episode.action[349, -1]
    assert fingers[349] > fingers[348]
    assert fingers[350] < fingers[349] - 0.003


def test_the_cube_lies_on_the_table_and_is_lifted_at_the_end() -> None:
    height = resimulate(*recording("v1.0_panda/lift")).observation["object"][:, 2]
    assert 0.815 < height[0] < 0.825
    assert height[-1] > 0.84


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("v1.0_panda/wipe", "markers"),
        ("v0.1/SawyerLift", "recorded by robosuite 0.1.0"),
        ("v0.1/SawyerStack", "recorded by robosuite 0.1.0"),
        ("v0.1/SawyerNutAssembly", "recorded by robosuite 0.1.0"),
        ("v0.1/BaxterPegInHole", "recorded by robosuite 0.1.0"),
    ],
)
def test_a_recording_that_does_not_fit_is_refused_with_the_reason(folder: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        resimulate(*recording(folder))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"env_name": "Stack"}, "32 numbers, the installed model 45"),
        ({"env_name": "Lfit"}, "did you mean 'Lift'"),
        ({"robots": "Pandda"}, "did you mean 'Panda'"),
        ({"robots": ["Panda", "Panda"]}, "several robots"),
        ({"robots": "Sawyer"}, "mm apart"),
    ],
)
def test_another_task_or_robot_than_the_recorded_one_is_noticed(change: dict[str, Any], reason: str) -> None:
    info, model, states, actions = recording("v1.0_panda/lift")
    with pytest.raises(InputError, match=reason):
        resimulate(info | change, model, states, actions)


def test_a_broken_model_or_state_is_refused() -> None:
    info, model, states, actions = recording("v1.0_panda/lift")
    with pytest.raises(InputError, match="does not compile"):
        resimulate(info, model[:1000], states, actions)
    states[5, 3] = np.nan
    with pytest.raises(InputError, match="row 5"):
        resimulate(info, model, states, actions)
