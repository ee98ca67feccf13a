"""What a person is told about a store."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.validate import exceeds, saturation, validate
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode

ACTION = ArraySpec(shape=(2,), dtype="float64", low=np.asarray([-1.0, 0.0]), high=np.asarray([1.0, 4.0]))
SPEC = Spec(observation={"state": ArraySpec(shape=(2,), dtype="float64")}, action=ACTION)


def make_episode(seed: int, steps: int = 20) -> Episode:
    rng = np.random.default_rng(seed)
    terminated = np.zeros(steps, bool)
    terminated[-1] = True
    return Episode(
        observation={"state": rng.normal(size=(steps + 1, 2))},
        action=rng.uniform([-0.9, 0.1], [0.9, 3.9], (steps, 2)),
        reward=np.asarray(terminated, np.float64),
        terminated=terminated,
        truncated=np.zeros(steps, bool),
        success=terminated.copy(),
    )


def texts(path: Path, *episodes: Episode) -> str:
    store = EpisodeStore.create(path, SPEC, provenance={}, overwrite=True)
    store.extend(episodes)
    return "\n".join(f"{f.severity} {f.place}: {f.text} -> {f.remedy}" for f in validate(store))


def test_a_good_store_has_no_findings(tmp_path: Path) -> None:
    assert texts(tmp_path / "s.zarr", *map(make_episode, range(4))) == ""


def test_out_of_range_is_a_share_and_a_distance() -> None:
    # bounds [-1, 1] and [0, 4]: of six numbers, 1.5 is 0.5 above and -0.1 is 0.1 below
    actions = np.asarray([[0.0, 2.0], [1.5, 4.0], [-1.0, -0.1]])
    share, distance = exceeds(actions, ACTION)
    assert (share, distance) == (pytest.approx(2 / 6), pytest.approx(0.5))
    np.testing.assert_allclose(saturation(actions, ACTION), [2 / 3, 2 / 3])  # 1.5, -1 of the first; 4, -0.1


def test_each_oddity_is_found(tmp_path: Path) -> None:
    good = [make_episode(seed) for seed in range(5)]
    path = tmp_path / "s.zarr"
    loud = replace(good[0], action=good[0].action * 3)
    assert "warning action: " in texts(path, *good[1:], loud)
    assert "out_of_range: clip" in texts(path, *good[1:], loud)
    still = [replace(e, observation={"state": e.observation["state"] * [1.0, 0.0]}) for e in good]
    assert "observation 'state': 1 of 2 channels never change: 1" in texts(path, *still)
    assert "no reward anywhere" in texts(path, *(replace(e, reward=np.zeros(20)) for e in good))
    assert "5 of 5 episodes lack" in texts(path, *(replace(e, has_final_observation=False) for e in good))
    assert "success is unknown in 1 of 5" in texts(path, *good[1:], replace(good[0], success=None))
    assert "no episode succeeds" in texts(path, *(replace(e, success=np.zeros(20, bool)) for e in good))
    assert "such as episodes 0, 5" in texts(path, *good, good[0])
    lengths = [18, 19, 20, 21, 22, 90]
    assert "median of 20 steps: 5 (90 steps)" in texts(path, *(make_episode(n, n) for n in lengths))
    held = [replace(e, action=np.where(np.arange(20)[:, None] < 8, ACTION.high, e.action)) for e in good]
    assert "more than 20% of the steps are at a bound in channels 0, 1" in texts(path, *held)
    assert "there is no episode" in texts(path)


def test_damage_is_an_error(tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    store.append(make_episode(1))
    next((tmp_path / "s.zarr" / "steps" / "reward" / "c").iterdir()).unlink()
    (finding,) = validate(EpisodeStore.open(tmp_path / "s.zarr"))
    assert finding.severity == "error"
    assert "episodes [0] differ from their checksums" in finding.text
