"""What a person is told about a store."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.validate import exceeds, saturation, validate
from robot_rl.datasets.validation.numbers import NumberFacts
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode

ACTION = ArraySpec(shape=(2,), dtype="float64", low=np.asarray([-1.0, 0.0]), high=np.asarray([1.0, 4.0]), unit="1")
SPEC = Spec(
    observation={"state": ArraySpec(shape=(2,), dtype="float64", unit="m")},
    action=ACTION,
    control_period_s=0.05,
    action_semantics="joint_torque",
)


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


def told(store: EpisodeStore) -> str:
    return "\n".join(f"{f.severity} {f.place}: {f.text} -> {f.remedy}" for f in validate(store))


def texts(path: Path, *episodes: Episode, spec: Spec = SPEC) -> str:
    store = EpisodeStore.create(path, spec, provenance={}, overwrite=True)
    store.extend(episodes)
    return told(store)


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
    assert "out_of_range=clip" in texts(path, *good[1:], loud)
    still = [replace(e, observation={"state": e.observation["state"] * [1.0, 0.0]}) for e in good]
    assert "observation 'state': 1 of 2 channels never change: 1" in texts(path, *still)
    assert "there is no reward: all are 0" in texts(path, *(replace(e, reward=np.zeros(20)) for e in good))
    assert "5 of 5 episodes lack" in texts(path, *(replace(e, has_final_observation=False) for e in good))
    assert "goes on" not in texts(path, *good)
    early = [replace(e, success=np.arange(20) == 12) for e in good]
    assert "5 episodes go on after their first success, for 7 steps (median)" in texts(path, *early)
    assert "success is unknown in 1 of 5" in texts(path, *good[1:], replace(good[0], success=None))
    assert "no episode succeeds" in texts(path, *(replace(e, success=np.zeros(20, bool)) for e in good))
    assert "such as episodes 0, 5" in texts(path, *good, good[0])
    lengths = [18, 19, 20, 21, 22, 90]
    assert "median of 20 steps: 5 (90 steps)" in texts(path, *(make_episode(n, n) for n in lengths))
    held = [replace(e, action=np.where(np.arange(20)[:, None] < 8, ACTION.high, e.action)) for e in good]
    assert "more than 20% of the steps are at a bound in channels 0, 1" in texts(path, *held)
    assert "there is no episode" in texts(path)


def test_what_is_not_declared_is_one_finding(tmp_path: Path) -> None:
    bare = Spec(observation={"state": ArraySpec(shape=(2,), dtype="float64")}, action=replace(ACTION, unit=None))
    found = texts(tmp_path / "s.zarr", *map(make_episode, range(4)), spec=bare)
    assert found.startswith("information declarations: not declared: the control period")
    assert "units of state, action" in found
    assert "bounds of the action" not in found
    assert "\n" not in found


def test_rewards_that_cannot_be_right(tmp_path: Path) -> None:
    good = [make_episode(seed) for seed in range(6)]
    path = tmp_path / "s.zarr"
    assert "the reward is 2 in every step" in texts(path, *(replace(e, reward=np.full(20, 2.0)) for e in good))
    dense = [replace(e, reward=np.random.default_rng(n).normal(size=20)) for n, e in enumerate(good)]
    assert "warning reward" not in texts(path, *dense)
    spike = dense[3].reward.copy()
    spike[7] = -9999.0  # an error code
    found = texts(path, *dense[:3], replace(dense[3], reward=spike), *dense[4:])
    assert "warning reward: -9999 in episode 3, where 98 % lie between" in found
    assert "robot-rl edit delete" in found


def test_a_time_limit_stored_as_an_end_is_told_from_a_fall(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    failed = [replace(make_episode(n, 30), success=np.zeros(30, bool)) for n in range(4)]
    falls = [replace(make_episode(n, n), success=np.zeros(n, bool)) for n in (11, 15, 17)]
    good = make_episode(9, 21)
    found = texts(path, *failed, *falls, good)
    assert "warning ends: 4 episodes terminate without success after exactly 30 steps" in found
    assert "done_semantics=truncated" in found
    found = texts(path, *falls, good)
    assert "time limit" not in found
    assert "information ends: 3 of 4 episodes that terminated never succeeded" in found
    succeeded = [make_episode(n, 30) for n in range(5)]  # success ends each of them
    assert "time limit" not in texts(path, *succeeded)


def test_episodes_without_an_instruction_among_others_with_one(tmp_path: Path) -> None:
    told_what = [replace(make_episode(n), metadata={"language": "pick it up"}) for n in range(3)]
    assert "instruction" not in texts(tmp_path / "s.zarr", *told_what)
    found = texts(tmp_path / "s.zarr", *told_what, make_episode(8))
    assert "warning language: 1 of 4 episodes have no instruction: 3" in found


def test_what_the_source_lacks_is_said_once(tmp_path: Path) -> None:
    spec = replace(SPEC, metadata={"absent": ["reward", "success", "end"]})
    episodes = [
        replace(make_episode(n), success=None, reward=np.zeros(20), terminated=np.zeros(20, bool),
                truncated=np.arange(20) == 19)
        for n in range(4)
    ]  # fmt: skip
    found = texts(tmp_path / "s.zarr", *episodes, spec=spec)
    assert "information success: the source records no success" in found
    assert "information end: the source records not how episodes end" in found
    assert "warning reward: the source records no reward: all are 0" in found
    assert "unknown" not in found


def test_numbers_that_are_none(tmp_path: Path) -> None:
    facts = NumberFacts(SPEC, "s.zarr")  # a store refuses them, other writers do not
    good, bad = make_episode(1), make_episode(2)
    bad.observation["state"][3, 1] = np.nan
    bad.action[5, 0] = np.inf
    for index, episode in enumerate((good, bad)):
        facts.add(index, episode)
    found = "\n".join(f"{f.severity} {f.place}: {f.text}" for f in facts.findings())
    assert "error observation 'state': 1 numbers are NaN or infinite, in channels 1 of episodes 1" in found
    assert "error action: 1 numbers are NaN or infinite, in channels 0 of episodes 1" in found
    assert "never change" not in found
    gaps = [replace(make_episode(n), extras={"force": np.full((20, 3), np.nan)}) for n in range(2)]
    assert "warning extra 'force': 120 numbers" in texts(tmp_path / "s.zarr", *gaps)


def test_steps_that_command_nothing(tmp_path: Path) -> None:
    idle = [replace(e, action=np.where(np.arange(20)[:, None] < 6, 0.0, e.action)) for e in map(make_episode, range(4))]
    assert "30.0% of the steps have an action of zeros only" in texts(tmp_path / "s.zarr", *idle)


def test_damage_is_an_error(tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", SPEC, provenance={})
    store.append(make_episode(1))
    next((tmp_path / "s.zarr" / "steps" / "reward" / "c").iterdir()).unlink()
    (finding,) = validate(EpisodeStore.open(tmp_path / "s.zarr"))
    assert finding.severity == "error"
    assert "episodes [0] differ from their checksums" in finding.text
