"""What is written in robomimic's layout is read back whole."""

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.datasets.export_robomimic import write_robomimic
from robot_rl.datasets.frames import BLOCK_FRAMES, Frames, as_array
from robot_rl.datasets.ingest.base import ReadOptions
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.datasets.schema import digest, rows_of_episode
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SPEC = Spec(
    observation={  # not in the order of the alphabet
        "state": ArraySpec(shape=(3,), dtype="float64", names=("x", "y", "z"), unit="m"),
        "gripper/width": ArraySpec(shape=(1,), dtype="float32", unit="m"),
        "state/filtered": ArraySpec(shape=(1,), dtype="float32"),  # beside `state`, as topics of bags may be
    },
    action=ArraySpec(shape=(2,), low=np.full(2, -2.0), high=np.full(2, 2.0)),
    control_period_s=0.05,
    action_semantics="osc_pose_delta",
)


def make_episode(seed: int, steps: int) -> Episode:
    rng = np.random.default_rng(seed)
    terminated, truncated = np.zeros(steps, bool), np.zeros(steps, bool)
    terminated[-1], truncated[-1] = seed % 3 != 0, seed % 3 != 1
    observation = {"state": rng.normal(size=(steps + 1, 3)), "gripper/width": rng.random((steps + 1, 1), np.float32)}
    observation["state/filtered"] = rng.random((steps + 1, 1), np.float32)
    if seed % 5 == 0:  # without a final observation
        observation = {key: np.concatenate([array[:-1], array[-2:-1]]) for key, array in observation.items()}
    return Episode(
        observation=observation,
        action=rng.uniform(-2, 2, (steps, 2)).astype(np.float32),
        reward=rng.normal(size=steps),
        terminated=terminated,
        truncated=truncated,
        success=rng.random(steps) < 0.5,
        intervened=rng.random(steps) < 0.5 if seed % 2 else None,
        has_final_observation=seed % 5 != 0,
        extras={
            "timestamp_s": np.arange(steps + 1.0),
            "timestamp_s/state": np.arange(steps + 1.0),
            "wrench/force": rng.normal(size=(steps, 3)),
        },
        metadata={"seed": seed, "language": "lift"},
    )


def _digest(episode: Episode) -> str:
    return digest(rows_of_episode(SPEC, episode, ""), has_final_observation=episode.has_final_observation)


def test_episodes_survive_the_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.hdf5"

    @settings(max_examples=8, deadline=None)
    @given(seed=st.integers(0, 100), lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12))
    def check(seed: int, lengths: list[int]) -> None:
        episodes = [make_episode(seed + index, steps) for index, steps in enumerate(lengths)]
        write_robomimic(path, SPEC, episodes, {"env_name": "Lift", "type": 1, "env_kwargs": {}}, overwrite=True)
        with find_reader(path).open(path, ReadOptions()) as recording:
            assert recording.spec.to_json() == SPEC.to_json()
            assert list(recording.spec.observation) == list(SPEC.observation)
            for found, wanted in zip(recording.episodes(), episodes, strict=True):
                assert _digest(found) == _digest(wanted)
                assert found.metadata == wanted.metadata

    check()


def test_robomimic_finds_its_own_layout(tmp_path: Path) -> None:
    path = tmp_path / "x.hdf5"
    write_robomimic(path, SPEC, [make_episode(1, 4), make_episode(2, 3)], {"env_name": "Lift", "type": 1})
    with h5py.File(path) as file:
        data = file["data"]
        assert json.loads(data.attrs["env_args"])["env_name"] == "Lift"
        assert data.attrs["total"] == 7
        assert data["demo_1"].attrs["num_samples"] == 3
        np.testing.assert_array_equal(data["demo_0/next_obs/state"][:-1], data["demo_0/obs/state"][1:])
        assert data["demo_0/dones"][:].tolist() == [0, 0, 0, 1]


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.hdf5"
    bad = Episode(
        observation={"state": np.zeros((2, 3))},
        action=np.zeros((1, 2), np.float32),
        reward=np.zeros(1),
        terminated=np.ones(1, bool),
        truncated=np.zeros(1, bool),
    )
    with pytest.raises(InputError, match="gripper/width"):
        write_robomimic(path, SPEC, [make_episode(1, 4), bad], {})
    with pytest.raises(InputError, match="no episode to write"):
        write_robomimic(path, SPEC, [], {})
    assert list(tmp_path.iterdir()) == []
    write_robomimic(path, SPEC, [make_episode(1, 4)], {})
    with pytest.raises(InputError, match="overwrite=true"):
        write_robomimic(path, SPEC, [make_episode(1, 4)], {})


def test_success_that_is_not_known_is_not_guessed_from_the_reward_of_our_own_file(tmp_path: Path) -> None:
    episode = replace(make_episode(1, 4), reward=np.array([0.0, 1.0, 0.0, 1.0]), success=None)
    write_robomimic(tmp_path / "a.hdf5", SPEC, [episode], {"env_name": "x", "type": 2})
    with find_reader(tmp_path / "a.hdf5", None).open(tmp_path / "a.hdf5", ReadOptions()) as recording:
        assert recording.read(0).success is None


class _Counted(Frames):
    """Grey images that count how many are decoded at once."""

    most = 0

    def decode(self, indices: Array) -> Array:
        _Counted.most = max(_Counted.most, len(indices))
        return np.broadcast_to(indices[:, None, None, None], (len(indices), *self.shape[1:])).astype(np.uint8)

    def select(self, indices: Array) -> Frames:
        return Resliced(self, indices)


class Resliced(_Counted):
    """Some of them."""

    def __init__(self, source: Frames, indices: Array) -> None:
        super().__init__((len(indices), *source.shape[1:]))
        self.indices = indices

    def decode(self, indices: Array) -> Array:
        return super().decode(self.indices[indices])


def test_images_of_a_long_episode_are_written_a_few_at_a_time(tmp_path: Path) -> None:
    steps = 200
    spec = Spec(observation={"camera": ArraySpec(shape=(4, 4, 3), dtype="uint8")}, action=ArraySpec(shape=(1,)))
    end = np.arange(steps) == steps - 1
    episode = Episode(
        observation={"camera": as_array(_Counted((steps + 1, 4, 4, 3)))},
        action=np.zeros((steps, 1), np.float32),
        reward=np.zeros(steps),
        terminated=end,
        truncated=end & False,
    )
    write_robomimic(tmp_path / "a.hdf5", spec, [episode], {"env_name": "x", "type": 2})
    assert 0 < _Counted.most <= BLOCK_FRAMES
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert file["data/demo_0/obs/camera"][:, 0, 0, 0].tolist() == list(range(steps))
        assert file["data/demo_0/next_obs/camera"][:, 0, 0, 0].tolist() == list(range(1, steps + 1))
