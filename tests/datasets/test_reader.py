"""Episodes as a data set asks for them."""

from pathlib import Path

import numpy as np
import pytest

from robot_rl.datasets.reader import load_episodes
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SPEC = Spec(observation={"state": ArraySpec(shape=(1,), dtype="float64")}, action=ArraySpec(shape=(1,)))


def make_episode(success: list[int] | None, steps: int = 6, *, has_final: bool = True) -> Episode:
    truncated = np.zeros(steps, bool)
    truncated[-1] = True
    return Episode(
        observation={"state": np.arange(steps + 1.0)[:, None]},
        action=np.zeros((steps, 1), np.float32),
        reward=np.arange(steps, dtype=np.float64),
        terminated=np.zeros(steps, bool),
        truncated=truncated,
        success=None if success is None else np.asarray(success, bool),
        has_final_observation=has_final,
        extras={"time": np.arange(steps + 1.0), "force": np.arange(steps) * 1.0},
    )


def write(path: Path, *successes: list[int] | None, has_final: bool = True) -> Path:
    store = EpisodeStore.create(path, SPEC, provenance={})
    store.extend([make_episode(success, has_final=has_final) for success in successes])
    return path


@pytest.mark.parametrize(("option", "steps"), [("first", 2), ("last", 5)])
def test_an_episode_ends_terminated_with_its_first_or_last_success(tmp_path: Path, option: str, steps: int) -> None:
    path = write(tmp_path / "s.zarr", [0, 1, 1, 0, 1, 0], [0] * 6, has_final=False)
    cut, whole = load_episodes(path, cut_at_success=option)
    assert len(cut) == steps
    assert cut.terminated.tolist() == [False] * (steps - 1) + [True]
    assert not cut.truncated.any()
    np.testing.assert_array_equal(
        cut.observation["state"][:, 0], np.arange(steps + 1)
    )  # the row behind is the final one
    assert cut.has_final_observation
    assert (len(cut.extras["time"]), len(cut.extras["force"])) == (steps + 1, steps)
    assert len(whole) == 6
    assert whole.truncated[-1]


def test_a_success_on_the_last_step_keeps_a_missing_final_observation_missing(tmp_path: Path) -> None:
    (episode,) = load_episodes(write(tmp_path / "s.zarr", [0, 0, 0, 0, 0, 1], has_final=False), cut_at_success="first")
    assert (len(episode), episode.has_final_observation, bool(episode.truncated[-1])) == (6, False, False)


def test_trap_03_every_reader_of_a_store_sees_the_same_ends(tmp_path: Path) -> None:
    # Kitchen data: success in the observation, no terminal in the file. The end is decided here, for all algorithms.
    path = write(tmp_path / "s.zarr", [0, 0, 1, 1, 1, 1])
    (first,), (second,) = (load_episodes(path, cut_at_success="first") for _ in range(2))
    np.testing.assert_array_equal(first.terminated, [False, False, True])
    np.testing.assert_array_equal(first.terminated, second.terminated)
    assert not EpisodeStore.open(path).episode(0).terminated.any()  # the store keeps what was recorded


def test_trap_04_every_positive_of_an_episode_is_kept_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "s.zarr", [0, 1, 0, 1, 1, 0], [0] * 6)
    first, second = load_episodes(path)
    assert first.success is not None
    assert second.success is not None
    assert (int(first.success.sum()), int(second.success.sum())) == (3, 0)
    assert EpisodeStore.open(path).statistics["success"] == {"known_episodes": 2, "successful_episodes": 1}


def test_success_replaces_the_reward(tmp_path: Path) -> None:
    (episode,) = load_episodes(write(tmp_path / "s.zarr", [0, 0, 1, 0, 0, 1]), success_reward=[-1.0, 0.0])
    np.testing.assert_array_equal(episode.reward, [-1, -1, 0, -1, -1, 0])


def test_trap_06_the_store_keeps_the_raw_reward_whatever_a_data_set_asks(tmp_path: Path) -> None:
    path = write(tmp_path / "s.zarr", [0, 0, 1, 0, 0, 1])
    load_episodes(path, success_reward=[-1.0, 0.0], cut_at_success="first")
    np.testing.assert_array_equal(load_episodes(path)[0].reward, np.arange(6.0))


def test_only_successful_episodes_are_kept_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "s.zarr", [0] * 6, [1] * 6, [0] * 6, [0, 1, 0, 0, 0, 0], [1] * 6)
    kept = load_episodes(path, keep="successful", maximum_episodes=2)
    assert [_count(episode.success) for episode in kept] == [6, 1]
    assert len(load_episodes(path, maximum_episodes=3)) == 3


def _count(success: Array | None) -> int:
    assert success is not None
    return int(success.sum())


@pytest.mark.parametrize("option", [{"keep": "successful"}, {"cut_at_success": "last"}, {"success_reward": [0.0, 1.0]}])
def test_unknown_success_is_refused_with_the_remedy(tmp_path: Path, option: dict[str, object]) -> None:
    path = write(tmp_path / "s.zarr", [1] * 6, None)
    with pytest.raises(InputError, match=r"episode 1 succeeds is not recorded.*success\.observation"):
        load_episodes(path, **option)  # type: ignore[arg-type]  # one option at a time
    assert len(load_episodes(path)) == 2
