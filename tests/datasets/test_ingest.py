"""Readers: formats found by content, ends kept apart, bad input refused with its place."""

import json
import os
import pickle
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from robot_rl.datasets.ingest.base import ReadOptions, SuccessLabel
from robot_rl.datasets.ingest.d4rl_hdf5 import episode_ends
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.errors import InputError
from robot_rl.types import Array, Episode

Arrays = dict[str, Any]


def read(path: Path, options: ReadOptions | None = None) -> list[Episode]:
    with find_reader(path).open(path, ReadOptions() if options is None else options) as recording:
        return list(recording.episodes())


def write_d4rl(path: Path, **changes: Array | None) -> Path:
    """Two episodes of 3 and 2 steps: a termination, then a time limit."""
    arrays: Arrays = {
        "observations": np.arange(10.0).reshape(5, 2),
        "actions": np.linspace(-1, 1, 5)[:, None],
        "rewards": np.asarray([0.1, 0.2, 0.3, 0.4, 0.5]),
        "terminals": np.asarray([0, 0, 1, 0, 0], bool),
        "timeouts": np.asarray([0, 0, 0, 0, 1], bool),
    } | changes
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            if array is not None:
                file[key] = array
    return path


def write_robomimic(path: Path, demos: Mapping[str, Arrays], **attributes: str) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}})
        for name, arrays in demos.items():
            for key, array in arrays.items():
                data[f"{name}/{key}"] = array
            data[name].attrs["num_samples"] = len(arrays["actions"])
        data.attrs.update(attributes)
    return path


def demo(steps: int = 4, *, rewards: list[float] | None = None, dones: list[int] | None = None) -> Arrays:
    return {
        "obs/flat": np.arange(2.0 * steps).reshape(steps, 2),
        "actions": np.zeros((steps, 1)),
        "rewards": np.zeros(steps) if rewards is None else np.asarray(rewards),
        "dones": np.zeros(steps, np.int64) if dones is None else np.asarray(dones),
    }


def write_pickle(path: Path, **changes: Any) -> Path:
    trajectory = {
        "observations": np.arange(6.0).reshape(3, 2),
        "actions": np.zeros((3, 1)),
        "rewards": np.asarray([0.5, 0.7, 0.9]),
        "init_state_dict": {"qpos": np.zeros(2)},
    } | changes
    path.write_bytes(pickle.dumps([{key: value for key, value in trajectory.items() if value is not None}], protocol=2))
    return path


# Ends of episodes: sections 2.1 and 2.4 of the data reference, section 7 of the offline-to-online reference


def test_trap_01_a_terminal_on_the_time_limit_stays_a_terminal(tmp_path: Path) -> None:
    both = write_d4rl(tmp_path / "x", timeouts=np.asarray([0, 0, 1, 0, 1], bool))
    first, second = read(both)
    assert (first.terminated[-1], first.truncated[-1]) == (True, True)  # two facts; a terminated step is no bootstrap
    assert (second.terminated[-1], second.truncated[-1]) == (False, True)


def test_trap_02_episodes_split_at_a_terminal_a_timeout_or_a_jump() -> None:
    observations = np.asarray([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0], [13.0]])
    following = np.asarray([[1.0], [2.0], [3.0], [11.0], [12.0], [13.0], [14.0]])
    #               the observation jumps from 3 to 10 ^: nobody flagged it; a terminal at 4, a timeout at 5
    terminals = np.asarray([0, 0, 0, 0, 1, 0, 0], bool)
    timeouts = np.asarray([0, 0, 0, 0, 0, 1, 0], bool)
    assert episode_ends(observations, terminals, timeouts, following).tolist() == [3, 5, 6, 7]
    assert episode_ends(observations, terminals, timeouts, None).tolist() == [5, 6, 7]


def test_trap_02_the_timeout_step_is_kept_for_returns_without_a_final_observation(tmp_path: Path) -> None:
    first, second = read(write_d4rl(tmp_path / "x"))
    assert [len(first), len(second)] == [3, 2]
    np.testing.assert_array_equal(second.reward, [0.4, 0.5])
    assert not second.has_final_observation
    np.testing.assert_array_equal(second.observation["state"][-1], second.observation["state"][-2])


def test_a_recorded_next_observation_becomes_the_final_one(tmp_path: Path) -> None:
    following = np.arange(10.0).reshape(5, 2) + 2.0
    following[2] = [77.0, 78.0]
    first, second = read(write_d4rl(tmp_path / "x", next_observations=following))
    assert first.has_final_observation
    np.testing.assert_array_equal(first.observation["state"][-1], [77.0, 78.0])
    np.testing.assert_array_equal(second.observation["state"], [[6, 7], [8, 9], [10, 11]])


def test_an_unfinished_last_trajectory_is_truncated(tmp_path: Path) -> None:
    _, last = read(write_d4rl(tmp_path / "x", timeouts=np.zeros(5, bool)))
    assert (last.terminated[-1], last.truncated[-1]) == (False, True)


def test_a_file_without_any_timeouts_is_reported(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "x", timeouts=None)
    with find_reader(path).open(path, ReadOptions()) as recording:
        assert any("no timeouts" in finding.text for finding in recording.findings)


@pytest.mark.parametrize(
    ("semantics", "rewards", "dones", "terminated"),
    [
        ("auto", [0, 0, 0, 1], [0, 0, 0, 1], True),  # sparse success on the last step
        ("auto", [0, 0, 0, 0], [0, 0, 0, 1], False),  # the time limit
        ("auto", [0, 0, 0, 1], [0, 0, 0, 0], False),  # success, but the task goes on
        ("auto", [0.2, 0.4, 0.6, 0.8], [0, 0, 0, 1], False),  # a dense reward says nothing about success
        ("terminated", [0, 0, 0, 0], [0, 0, 0, 1], True),
        ("truncated", [0, 0, 0, 1], [0, 0, 0, 1], False),
    ],
)
def test_dones_become_two_facts(
    tmp_path: Path, semantics: str, rewards: list[float], dones: list[int], terminated: bool
) -> None:
    path = write_robomimic(tmp_path / "x", {"demo_0": demo(rewards=rewards, dones=dones)})
    (episode,) = read(path, ReadOptions(done_semantics=semantics))
    assert (episode.terminated[-1], episode.truncated[-1]) == (terminated, not terminated)


# What is kept


def test_demonstrations_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "x", {f"demo_{index}": demo(steps=index + 1) for index in range(12)})
    assert [len(episode) for episode in read(path)] == list(range(1, 13))


def test_nested_observations_masks_language_and_states_are_kept(tmp_path: Path) -> None:
    arrays = demo() | {"obs/robot0/eef_pos": np.ones((4, 3), np.float32), "states": np.ones((4, 7))}
    path = write_robomimic(tmp_path / "x", {"demo_0": arrays})
    with h5py.File(path, "a") as file:
        file["mask/train"] = np.asarray([b"demo_0"])
        file["data/demo_0"].attrs["ep_meta"] = json.dumps({"lang": "lift the cube"})
    with find_reader(path).open(path, ReadOptions()) as recording:
        (episode,) = recording.episodes()
        spec = recording.spec
        assert recording.provenance["environment"]["env_name"] == "Lift"
    assert list(spec.observation) == ["flat", "robot0/eef_pos"]
    assert spec.observation["robot0/eef_pos"].dtype == "float32"
    assert spec.control_period_s == pytest.approx(0.05)
    assert episode.extras["simulator_state"].shape == (4, 7)
    assert (episode.metadata["filters"], episode.metadata["language"]) == (["train"], "lift the cube")


def test_a_rule_labels_success_by_the_next_observation(tmp_path: Path) -> None:
    rule = SuccessLabel(observation="state", index=1, minimum=3.0, maximum=5.0)
    episode = read(write_pickle(tmp_path / "x"), ReadOptions(success=rule))[0]
    # channel 1 is 1, 3, 5 and, for lack of a final observation, 5 again; steps see the row behind them
    np.testing.assert_array_equal(episode.success, [True, True, True])
    rule = SuccessLabel(observation="state", index=1, minimum=4.0)
    np.testing.assert_array_equal(read(tmp_path / "x", ReadOptions(success=rule))[0].success, [False, True, True])


def test_a_reward_with_two_values_labels_success(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "x", rewards=np.asarray([-1.0, 0.0, -1.0]))
    np.testing.assert_array_equal(read(path)[0].success, [False, True, False])
    assert read(write_pickle(tmp_path / "y"))[0].success is None


def test_trap_09_declared_action_bounds_reach_the_spec(tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "x")
    with find_reader(path).open(path, ReadOptions(action_low=[-0.4], action_high=[0.4])) as recording:
        np.testing.assert_array_equal(recording.spec.action.low, [-0.4])
        np.testing.assert_array_equal(recording.spec.action.high, [0.4])


def test_trap_06_rewards_are_stored_raw(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(write_pickle(tmp_path / "x"))[0].reward, [0.5, 0.7, 0.9])


# Raw robosuite


def write_raw(path: Path, *, model: str = "<mujoco/>", **arrays: Array) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_info"] = json.dumps({"env_name": "Lift", "control_freq": 20})
        data.attrs["repository_version"] = "1.0.0"
        for key, array in ({"states": np.arange(12.0).reshape(4, 3), "actions": np.zeros((4, 2))} | arrays).items():
            data[f"demo_1/{key}"] = array
        data["demo_1"].attrs["model_file"] = model
    return path


def simulate(environment: Mapping[str, Any], model_xml: str, states: Array, actions: Array) -> Episode:
    assert environment["env_name"] == "Lift"
    assert model_xml == "<mujoco/>"
    steps = len(actions)
    truncated = np.zeros(steps, bool)
    truncated[-1] = True
    return Episode(
        observation={"state": np.concatenate([states, states[-1:]])},
        action=actions,
        reward=np.zeros(steps),
        terminated=np.zeros(steps, bool),
        truncated=truncated,
        success=np.zeros(steps, bool),
        has_final_observation=False,
    )


@pytest.mark.parametrize("as_file", [False, True])
def test_raw_robosuite_states_become_observations_in_a_simulator(tmp_path: Path, as_file: bool) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model_1.xml").write_text("<mujoco/>")
    path = write_raw(tmp_path / "x", model="model_1.xml" if as_file else "<mujoco/>")
    with find_reader(path).open(path, ReadOptions(resimulate=simulate)) as recording:
        (episode,) = recording.episodes()
        assert recording.spec.control_period_s == pytest.approx(0.05)
    np.testing.assert_array_equal(episode.observation["state"][1], [3, 4, 5])
    assert episode.metadata["source"] == "data/demo_1"


def test_raw_robosuite_is_refused_without_a_simulator_with_the_reason(tmp_path: Path) -> None:
    def refuse(environment: Mapping[str, Any], model_xml: str, states: Array, actions: Array) -> Episode:
        raise InputError("the state has 3 numbers, the simulator wants 32")

    path = write_raw(tmp_path / "x")
    with pytest.raises(InputError, match="resimulate=true"):
        read(path)
    with pytest.raises(InputError, match=r"data/demo_1 cannot be re-simulated: the state has 3 numbers"):
        read(path, ReadOptions(resimulate=refuse))
    with pytest.raises(InputError, match=r"'gone.xml', which is not at"):
        read(write_raw(tmp_path / "y", model="gone.xml"), ReadOptions(resimulate=simulate))


# Bad input

BLIND = {"actions": np.zeros((4, 1)), "rewards": np.zeros(4)}  # a demonstration without observations


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch evil_was_here",)


@pytest.mark.parametrize(
    ("content", "refused"),
    [(Evil(), r"(posix|nt)\.system"), (eval, r"builtins\.eval"), (np.load, r"numpy.*\.load"), (Path(), r"pathlib\.")],
)
def test_a_pickle_that_names_anything_but_arrays_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, refused: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pickle").write_bytes(pickle.dumps([{"observations": np.zeros((3, 2)), "actions": content}]))
    with pytest.raises(InputError, match=f"refused: the pickle asks for {refused}"):
        read(tmp_path / "x.pickle")
    assert not (tmp_path / "evil_was_here").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    trajectory = {"observations": np.ones((3, 2)), "actions": np.ones((3, 1)), "rewards": np.asarray([0.5, 0.6, 0.7])}
    (tmp_path / "x").write_bytes(pickle.dumps([trajectory], protocol=protocol))
    np.testing.assert_array_equal(read(tmp_path / "x")[0].action, np.ones((3, 1)))


@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_truncated_hdf5_is_named_as_such(tmp_path: Path, share: float) -> None:
    path = write_d4rl(tmp_path / "whole", observations=np.zeros((5, 2000)))
    data = path.read_bytes()
    (tmp_path / "cut.hdf5").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"cut\.hdf5 is truncated or damaged .* copy it again"):
        read(tmp_path / "cut.hdf5")


def test_a_truncated_pickle_is_named_as_such(tmp_path: Path) -> None:
    data = write_pickle(tmp_path / "x").read_bytes()
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="damaged pickle"):
        read(tmp_path / "cut")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: write_d4rl(p, rewards=None, reward=np.zeros(5)), "no data set 'rewards'; did you mean 'reward'"),
        (lambda p: write_d4rl(p, terminals=None), "no data set 'terminals'"),
        (lambda p: write_d4rl(p, actions=np.asarray([[0], [0], [np.nan], [0], [0]])), "actions holds NaN.* step 2"),
        (lambda p: write_d4rl(p, observations=np.full((5, 2), np.inf)), "observations holds NaN or infinity"),
        (lambda p: write_d4rl(p, actions=np.zeros((4, 1))), "same number of rows.*'actions': 4"),
        (lambda p: write_d4rl(p, next_observations=np.zeros((5, 3))), "another shape"),
        (lambda p: write_d4rl(p, actions=np.asarray([b"a"] * 5)), "expected numbers"),
        (lambda p: write_robomimic(p, {"demo_3": demo() | {"rewards": np.zeros(3)}}), "data/demo_3: lengths disagree"),
        (lambda p: write_robomimic(p, {"demo_3": demo() | {"obs/flat": np.zeros((9, 2))}}), "'obs/flat': 9"),
        (
            lambda p: write_robomimic(p, {"demo_3": demo() | {"actions": np.full((4, 1), np.nan)}}),
            "data/demo_3/actions holds NaN or infinity at step 0, channel 0 .4 of 4",
        ),
        (
            lambda p: write_robomimic(p, {"demo_0": demo(), "demo_1": BLIND}),
            "data/demo_1 has no observations",
        ),
        (lambda p: write_robomimic(p, {"demo_0": demo()}, env_args="{"), "env_args is not JSON"),
        (lambda p: write_pickle(p, rewards=None), "trajectory 0 has no 'rewards', only actions"),
        (lambda p: write_pickle(p, actions=np.full((3, 1), np.nan)), "'actions' of trajectory 0 holds NaN"),
        (lambda p: write_pickle(p, rewards=np.zeros(2)), "3 observations, 3 actions and 2 rewards"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_its_place(tmp_path: Path, write: Callable[[Path], Path], message: str) -> None:
    path = write(tmp_path / "x")
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "seen"),
    [(b"", "an empty file"), (b"PK\x03\x04 zip", "begins with b'PK"), (b"time;x;y\n", "begins with b'time;x;y")],
)
def test_an_unknown_format_lists_what_was_seen_and_what_is_known(tmp_path: Path, content: bytes, seen: str) -> None:
    (tmp_path / "x.hdf5").write_bytes(content)
    with pytest.raises(InputError, match=f"{seen}.*robomimic_hdf5.*robosuite_raw.*d4rl_hdf5.*dapg_pickle"):
        find_reader(tmp_path / "x.hdf5")


def test_an_hdf5_of_another_layout_lists_its_keys(tmp_path: Path) -> None:
    path = write_d4rl(tmp_path / "x", observations=None, actions=None, spectra=np.zeros(3))
    with pytest.raises(InputError, match="HDF5 with 4 data sets: rewards, spectra, terminals, timeouts"):
        find_reader(path)


def test_names_are_suggested(tmp_path: Path) -> None:
    write_d4rl(tmp_path / "door.hdf5")
    with pytest.raises(InputError, match=r"Did you mean '.*door\.hdf5'"):
        find_reader(tmp_path / "dor.hdf5")
    with pytest.raises(InputError, match="did you mean 'd4rl_hdf5'"):
        find_reader(tmp_path / "door.hdf5", "d4rl")
    with pytest.raises(InputError, match="It is: a folder with"):
        find_reader(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maximum_episodes": 0}, "at least 1"),
        ({"control_period_s": 0.0}, "must be positive"),
        ({"action_low": [-1.0]}, "go together"),
        ({"action_low": [-1.0, 0.0], "action_high": [1.0]}, "action_low has 2 numbers, but the action has 1"),
        ({"action_low": [1.0], "action_high": [1.0]}, "must lie below"),
        ({"success": SuccessLabel(observation="stat", minimum=0.0)}, "did you mean 'state'"),
        ({"success": SuccessLabel(observation="state", index=2, minimum=0.0)}, "'state' has 2 channels"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write_pickle(tmp_path / "x"), ReadOptions(**options))


def test_a_success_rule_needs_a_limit() -> None:
    with pytest.raises(InputError, match=r"success\.minimum or success\.maximum"):
        SuccessLabel(observation="state")


def test_settings_that_the_source_overrules_are_reported(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "x", {"demo_0": demo()})
    options = ReadOptions(control_period_s=0.5, action_low=[-2.0], action_high=[2.0])
    with find_reader(path).open(path, options) as recording:
        (finding,) = options.overruled(recording.spec, "x")
        assert "control period of 0.05 s, so control_period_s is not used" in finding.text


@pytest.mark.parametrize("source", ["d4rl", "robomimic", "pickle"])
def test_changed_bytes_raise_nothing_but_clear_errors(tmp_path: Path, source: str) -> None:
    match source:
        case "d4rl":
            whole = write_d4rl(tmp_path / "whole").read_bytes()
        case "robomimic":
            whole = write_robomimic(tmp_path / "whole", {"demo_0": demo(), "demo_1": demo(7)}).read_bytes()
        case _:
            whole = write_pickle(tmp_path / "whole").read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 2, 5])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "changed").write_bytes(data)
        try:
            read(tmp_path / "changed")
        except InputError:
            refused += 1
    assert refused > 10
