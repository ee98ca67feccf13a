"""`--fix` repairs what needs no guess, says what it did, and does nothing the second time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from robot_rl.datasets.repair import repair
from robot_rl.datasets.schema import digest, rows_of_episode
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.validate import validate
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SPEC = Spec(
    observation={
        "pose": ArraySpec(shape=(7,), dtype="float32", unit="m"),
        "camera": ArraySpec(shape=(16, 12, 3), dtype="uint8"),
    },
    action=ArraySpec(shape=(2,), dtype="float32", low=np.full(2, -1.0), high=np.full(2, 1.0), unit="1"),
    control_period_s=0.05,
    action_semantics="joint_velocity",
)


def turning(steps: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    rows = np.cumsum(rng.normal(0, 0.03, (steps, 4)), axis=0) + rng.choice([-0.5, 0.5], 4)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def make_episode(seed: int, steps: int = 40, **changes: Any) -> Episode:
    rng = np.random.default_rng(seed)
    end = np.arange(steps) == steps - 1
    pose = np.concatenate([rng.normal(size=(steps + 1, 3)), turning(steps + 1, seed)], axis=1)
    made = Episode(
        observation={
            "pose": pose.astype(np.float32),
            "camera": rng.integers(0, 255, (steps + 1, 16, 12, 3)).astype(np.uint8),
        },
        action=rng.uniform(-0.9, 0.9, (steps, 2)).astype(np.float32),
        reward=end.astype(np.float32),
        terminated=end,
        truncated=np.zeros(steps, bool),
        success=end,
        metadata={"source": f"demo_{seed}"},
    )
    return replace(made, **changes)


def store_of(path: Path, episodes: list[Episode], *, finish: bool = True, tier: str = "raw") -> EpisodeStore:
    store = EpisodeStore.create(path, SPEC, provenance={"source": "s"}, tiers={"camera": tier})
    store.extend(episodes)
    if finish:
        store.finish()
    return EpisodeStore.open(path)


def found(path: Path) -> str:
    return "\n".join(f"{f.severity} {f.place}: {f.text}" for f in validate(EpisodeStore.open(path)))


def flipped(episode: Episode) -> Episode:
    pose = episode.observation["pose"].copy()
    pose[10:20, 3:] *= -1
    return replace(episode, observation={**episode.observation, "pose": pose})


@pytest.mark.parametrize("tier", ["raw", "jpeg"])
def test_quaternions_copies_ends_and_bounds_are_repaired_at_once(tmp_path: Path, tier: str) -> None:
    path = tmp_path / "s.zarr"
    good = [make_episode(seed) for seed in range(4)]
    loud = good[2].action.copy()
    loud[3, 0], loud[4, 1] = 1.0005, -1.5  # the first is rounding, the second is not
    open_end = replace(good[1], terminated=np.zeros(40, bool))
    store = store_of(path, [flipped(good[0]), open_end, replace(good[2], action=loud), good[3], good[3]], tier=tier)
    before = [np.asarray(episode.observation["camera"]) for episode in store.episodes()]
    assert "other sign 2 times" in found(path)
    done = repair(path)
    assert done == [
        "left out 1 episodes, which are exact copies of others: 4",
        "made quaternions continuous in 1 episodes: 0",
        "marked the last step as truncated in 1 episodes: 1",
        "clipped actions that exceeded their bounds by less than 0.1% of the range in 1 episodes: 2",
    ]
    repaired = EpisodeStore.open(path)
    repaired.verify()
    episodes = list(repaired.episodes())
    assert len(episodes) == 4
    np.testing.assert_array_equal(episodes[0].observation["pose"], good[0].observation["pose"])
    np.testing.assert_array_equal(episodes[1].truncated, np.arange(40) == 39)
    assert episodes[2].action[3, 0] == 1.0
    assert episodes[2].action[4, 1] == -1.5
    for now, then in zip(episodes, before, strict=False):
        np.testing.assert_array_equal(np.asarray(now.observation["camera"]), then)
    assert [episode.metadata["source"] for episode in episodes] == [f"demo_{n}" for n in range(4)]
    assert repaired.provenance["repairs"] == done
    assert repaired.tiers == {"camera": tier}
    assert repaired.statistics["episodes"] == 4
    assert "other sign" not in found(path)
    stamp = (path / "zarr.json").stat().st_mtime_ns
    assert repair(path) == []
    assert (path / "zarr.json").stat().st_mtime_ns == stamp
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.zarr"]


def test_norms_that_are_slightly_off_become_one(tmp_path: Path) -> None:
    good = [make_episode(seed) for seed in range(3)]
    pose = good[1].observation["pose"].copy()
    pose[7, 3:] *= np.float32(1.0015)
    path = tmp_path / "s.zarr"
    store_of(path, [good[0], replace(good[1], observation={**good[1].observation, "pose": pose}), good[2]])
    assert "the norms of the quaternions in channels 3-6 differ from 1 by up to 0.0015" in found(path)
    assert repair(path) == ["normalised quaternions in 1 episodes: 1"]
    assert "norms" not in found(path)
    assert repair(path) == []


def test_a_good_store_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    store_of(path, [make_episode(seed) for seed in range(3)])
    stamps = {entry: entry.stat().st_mtime_ns for entry in path.rglob("*") if entry.is_file() and entry.stat().st_size}
    assert repair(path) == []
    assert {entry: entry.stat().st_mtime_ns for entry in stamps} == stamps


def test_copies_in_different_splits_are_for_a_person_to_decide(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    train = make_episode(1, metadata={"split": "train"})
    store_of(path, [train, make_episode(2), replace(train, metadata={"split": "val"})])
    assert repair(path) == []
    assert "warning splits" in found(path)


def test_statistics_that_a_crash_left_behind_are_computed(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    store_of(path, [make_episode(1)], finish=False)
    assert repair(path) == ["computed the statistics and the checksum of all 1 episodes, which were missing or old"]
    assert repair(path) == []
    EpisodeStore.append_to(path).append(make_episode(2))
    assert len(repair(path)) == 1
    assert json.loads((path / "zarr.json").read_text())["attributes"]["statistics"]["episodes"] == 2


def put_nan(path: Path, index: int) -> None:
    """As another writer could: numbers that a store of ours refuses, with a checksum that fits them."""
    store = EpisodeStore.open(path)
    episode = store.episode(index)
    rows = rows_of_episode(store.spec, episode, "test")
    start = int(store.ends[index - 1]) if index else 0
    reward = zarr.open_group(path, mode="r+")["steps/reward"]
    assert isinstance(reward, zarr.Array)
    reward[start + 5] = np.nan
    rows["reward"][5] = np.nan
    lines = (path / "episodes.jsonl").read_text().splitlines()
    record = json.loads(lines[index])
    record["sha256"] = digest(rows, has_final_observation=True)
    lines[index] = json.dumps(record)
    (path / "episodes.jsonl").write_text("\n".join(lines) + "\n")


def test_episodes_that_are_not_numbers_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    spec = replace(SPEC, observation={"pose": SPEC.observation["pose"]})
    episodes = [
        replace(make_episode(seed), observation={"pose": make_episode(seed).observation["pose"]}) for seed in range(3)
    ]
    store = EpisodeStore.create(path, spec, provenance={})
    store.extend(episodes)
    store.finish()
    put_nan(path, 1)
    assert "error reward: 1 numbers are NaN or infinite, in channels 0 of episodes 1" in found(path)
    assert repair(path) == ["left out 1 episodes, which hold NaN or infinite numbers: 1"]
    assert len(EpisodeStore.open(path)) == 2
    put_nan(path, 0)
    put_nan(path, 1)
    with pytest.raises(InputError, match="no episode would be left"):
        repair(path)
    assert len(EpisodeStore.open(path)) == 2


def test_damage_is_not_hidden_under_new_checksums(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    store_of(path, [flipped(make_episode(1)), make_episode(2)])
    (chunk,) = (entry for entry in (path / "steps" / "reward" / "c").iterdir())
    chunk.unlink()
    with pytest.raises(InputError, match="differ from their checksums"):
        repair(path)
    assert "made" not in str(EpisodeStore.open(path).provenance)


def test_where_episodes_come_from_is_still_right_after_one_is_left_out(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s.zarr", [make_episode(seed) for seed in (0, 1, 1, 2, 3)])
    added = {"source_sha256": "b", "first_episode": 3, "episodes": 2}
    zarr.open_group(store.path, mode="r+").attrs["provenance"] = {"source_sha256": "a", "appended": [added]}
    assert repair(store.path)
    fixed = EpisodeStore.open(store.path)
    assert [fixed.metadata(index)["source"] for index in range(len(fixed))] == ["demo_0", "demo_1", "demo_2", "demo_3"]
    assert fixed.provenance["appended"] == [added | {"first_episode": 2}]
