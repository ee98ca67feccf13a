"""Episodes that are there twice, whole or in part, in one store or in two."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.validate import leaks, validate
from robot_rl.datasets.validation.sketches import Sketcher, resemblance, similar
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SPEC = Spec(
    observation={"state": ArraySpec(shape=(3,), dtype="float64", unit="m")},
    action=ArraySpec(shape=(2,), dtype="float64", low=np.full(2, -9.0), high=np.full(2, 9.0), unit="1"),
    control_period_s=0.05,
    action_semantics="joint_torque",
)


def make_episode(seed: int, steps: int = 60, split: str | None = None) -> Episode:
    rng = np.random.default_rng(seed)
    end = np.arange(steps) == steps - 1
    return Episode(
        observation={"state": rng.normal(size=(steps + 1, 3))},
        action=rng.normal(size=(steps, 2)),
        reward=end.astype(float),
        terminated=end,
        truncated=np.zeros(steps, bool),
        success=end,
        metadata={} if split is None else {"split": split},
    )


def part(episode: Episode, start: int) -> Episode:
    """Without its first steps."""
    return replace(
        episode,
        observation={key: rows[start:] for key, rows in episode.observation.items()},
        **{name: getattr(episode, name)[start:] for name in ("action", "reward", "terminated", "truncated", "success")},
    )


def store_of(path: Path, episodes: list[Episode]) -> EpisodeStore:
    store = EpisodeStore.create(path, SPEC, provenance={}, overwrite=True)
    store.extend(episodes)
    return store


def texts(path: Path, episodes: list[Episode]) -> str:
    return "\n".join(f"{f.severity} {f.place}: {f.text} -> {f.remedy}" for f in validate(store_of(path, episodes)))


def test_different_episodes_are_no_copies(tmp_path: Path) -> None:
    assert texts(tmp_path / "s.zarr", [make_episode(seed) for seed in range(20)]) == ""


def test_copies_and_near_copies(tmp_path: Path) -> None:
    good = [make_episode(seed) for seed in range(5)]
    path = tmp_path / "s.zarr"
    assert "1 episodes are there more than once, such as episodes 0, 5" in texts(path, [*good, good[0]])
    cut = part(good[2], 12)
    found = texts(path, [*good, cut])
    assert "more than once" not in found
    assert "1 pairs of episodes share at least 50% of their steps, such as 2 and 5" in found
    rounded = replace(good[1], observation={"state": good[1].observation["state"].astype(np.float32)})
    assert "such as 1 and 5 (100%)" in texts(path, [*good, rounded])


def test_the_same_actions_or_observations_alone(tmp_path: Path) -> None:
    good = [make_episode(seed) for seed in range(5)]
    replay = replace(good[0], observation=make_episode(9).observation)
    found = texts(tmp_path / "s.zarr", [*good, replay])
    assert (
        "information episodes: 1 pairs of episodes have the same actions and different observations: 0 and 5" in found
    )
    other = replace(good[0], action=make_episode(9).action)
    found = texts(tmp_path / "s.zarr", [*good, other])
    assert "warning episodes: 1 pairs of episodes have the same observations and different actions: 0 and 5" in found


def test_an_episode_in_two_splits_is_an_error(tmp_path: Path) -> None:
    train = [make_episode(seed, split="train") for seed in range(4)]
    path = tmp_path / "s.zarr"
    assert texts(path, [*train, make_episode(7, split="val")]) == ""
    found = texts(path, [*train, replace(train[1], metadata={"split": "val"})])
    assert "warning splits: 1 episodes are in more than one of the splits train, val (1 of the 5 episodes" in found
    assert "1 = 4" in found
    found = texts(path, [*train, replace(part(train[1], 9), metadata={"split": "val"})])
    assert "warning splits: 1 episodes are in more than one of the splits train, val" in found


def test_leaks_between_two_stores(tmp_path: Path) -> None:
    train = store_of(tmp_path / "train.zarr", [make_episode(seed) for seed in range(6)])
    clean = store_of(tmp_path / "clean.zarr", [make_episode(seed) for seed in range(6, 9)])
    assert leaks(train, clean) == []
    dirty = store_of(tmp_path / "dirty.zarr", [make_episode(8), make_episode(3), part(make_episode(5), 10)])
    (finding,) = leaks(train, dirty)
    assert finding.severity == "error"
    assert "2 of 3 episodes are in" in finding.text
    assert "1 of them exactly: 1 = 3, 2 = 5" in finding.text
    assert "episodes=[1,2]" in finding.remedy


def test_an_arm_that_stands_still_is_no_copy_of_another(tmp_path: Path) -> None:
    still = []
    for n in range(3):
        steps = 20 + n
        end = np.arange(steps) == steps - 1
        still.append(
            Episode(
                observation={"state": np.ones((steps + 1, 3))},
                action=np.ones((steps, 2)),
                reward=end.astype(float),
                terminated=end,
                truncated=np.zeros(steps, bool),
                success=end,
            )
        )
    assert "pairs of episodes" not in texts(tmp_path / "s.zarr", still)


def rows_of(seed: int, count: int = 400) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 4))


@given(st.integers(0, 10_000), st.integers(0, 400))
def test_a_sketch_estimates_the_share_of_common_rows(seed: int, common: int) -> None:
    sketcher = Sketcher()
    first, second = rows_of(seed), rows_of(seed + 1)
    second[:common] = first[:common]
    truth = common / (800 - common)
    # 64 draws without replacement: a deviation of at most 0.0625, so 0.25 is four of them
    assert abs(resemblance(sketcher(first), sketcher(second)) - truth) < 0.25


def test_a_sketch_forgives_rounding() -> None:
    sketcher = Sketcher()
    rows = rows_of(1)
    assert resemblance(sketcher(rows), sketcher(rows.astype(np.float32))) == 1.0
    assert resemblance(sketcher(rows), sketcher(rows + 1e-6)) > 0.8
    assert resemblance(sketcher(rows), sketcher(rows[::-1])) == 1.0  # the order of rows does not matter


def test_many_copies_of_one_episode_are_all_found() -> None:
    sketcher = Sketcher()
    sketches = [sketcher(rows_of(1)) for _ in range(100)]
    assert len(similar(sketches, 0.5)) == 99
