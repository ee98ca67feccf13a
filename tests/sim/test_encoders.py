"""Velocities that are differences of encoder positions have their resolution and lag, nothing of the true velocity."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from robot_rl.errors import InputError
from robot_rl.sim.dm_control_env import DmControlEnvironment
from robot_rl.sim.encoders import Differences, Encoder, Encoders, find_encoders
from robot_rl.sim.gap import Gap
from robot_rl.sim.gap_env import GapEnvironment
from robot_rl.sim.gymnasium_env import GymnasiumEnvironment
from robot_rl.sim.proxy import proxy_gap
from robot_rl.sim.randomization import read_randomization
from robot_rl.sim.sensors import Sensors
from robot_rl.testing.contracts import actions_of, roll_out

JOINT = Encoders(keys=("state",), pairs=(Encoder(velocity=1, position=(0,), cut=np.inf),))
DEVIATION = {"state": np.array([1.0, 5.0])}
COUNT = 8.0 / 2**6
"""Of an encoder of 6 bits over eight deviations of 1."""


def readings(speed: float, *, periods: int = 1, bits: int = 6, steps: int = 200) -> np.ndarray:
    """What is read of a joint that moves at a constant speed, one control period of 0.1 s a step. Shapes: (T, 2)."""
    gap = Gap(sensor_bits=bits, velocity_periods=periods)
    sensors = Sensors(gap, DEVIATION, np.random.default_rng(0), Differences(JOINT, periods, 0.1))
    states = [np.array([0.013 + 0.1 * speed * step, speed], np.float32) for step in range(steps)]
    return np.array([sensors.read({"state": state})["state"] for state in states])


def test_a_slow_joint_moves_by_none_or_one_count_of_its_encoder() -> None:
    speed = 0.3 * COUNT / 0.1  # three tenths of a count in a period
    read = readings(speed)[1:, 1]
    assert sorted(set(np.round(read, 4))) == pytest.approx([0.0, COUNT / 0.1])
    assert read.mean() == pytest.approx(speed, rel=0.02)  # only the mean is right
    smoother = readings(speed, periods=4)[4:, 1]
    assert sorted(set(np.round(smoother, 4))) == pytest.approx([COUNT / 0.4, 2 * COUNT / 0.4])


def test_without_a_position_before_the_velocity_is_zero() -> None:
    assert readings(3.0)[0, 1] == 0.0
    assert readings(3.0, bits=16)[1, 1] == pytest.approx(3.0, rel=1e-3)


def test_a_difference_lags_by_half_of_what_it_spans() -> None:
    for periods in (1, 3):
        difference = Differences(JOINT, periods, 0.1)
        seen = [
            float(difference.read({"state": np.array([0.5 * (0.1 * step) ** 2, 0.0])})["state"][1])
            for step in range(20)
        ]
        # At an acceleration of 1 the velocity is the time; a mean over n periods is that of n / 2 ago.
        assert seen[-1] == pytest.approx(1.9 - 0.05 * periods)


def test_a_turn_past_half_a_circle_is_a_small_one() -> None:
    encoders = Encoders(keys=("angle", "speed"), pairs=(Encoder(velocity=2, position=(0, 1), cut=np.inf),))
    difference = Differences(encoders, 1, 0.5)
    for angle in (3.1, -3.1):
        values = {"angle": np.array([np.cos(angle), np.sin(angle)]), "speed": np.array([9.0, 7.0])}
        read = difference.read(values)["speed"]
    assert read.tolist() == pytest.approx([(2 * np.pi - 6.2) / 0.5, 7.0])


def test_a_velocity_that_the_task_cuts_is_cut() -> None:
    encoders = Encoders(keys=("state",), pairs=(Encoder(velocity=1, position=(0,), cut=10.0),))
    difference = Differences(encoders, 1, 0.01)
    read = [difference.read({"state": np.array([x, 0.0])})["state"][1] for x in (0.0, 1.0, -1.0)]
    assert read == [0.0, 10.0, -10.0]


def test_joints_are_found_by_what_their_channels_do() -> None:
    with closing(GymnasiumEnvironment(id="HalfCheetah-v5")) as cheetah:
        found = find_encoders(cheetah)
        assert {pair.velocity: pair.position for pair in found.pairs} == {9 + n: (n,) for n in range(8)}  # not x
    with closing(GymnasiumEnvironment(id="InvertedDoublePendulum-v5")) as pendulum:
        assert {pair.position for pair in find_encoders(pendulum).pairs} >= {(3, 1), (4, 2)}  # cosines, sines
        assert {pair.cut for pair in find_encoders(pendulum).pairs} == {10.0}
    with closing(DmControlEnvironment(domain="cartpole", task="swingup")) as cartpole:
        assert find_encoders(cartpole).keys == ("position", "velocity")
        assert len(find_encoders(cartpole).pairs) == 2


@pytest.mark.parametrize("task", ["half_cheetah", "reacher"])
def test_a_robot_with_encoders_shows_differences_of_the_positions_that_it_shows(task) -> None:
    def make():
        if task == "reacher":
            return DmControlEnvironment(domain="reacher", task="easy")
        return GymnasiumEnvironment(id="HalfCheetah-v5")

    with closing(make()) as plain, closing(make()) as inner:
        robot = GapEnvironment(inner, Gap(sensor_bits=10, velocity_periods=1))
        keys, pairs = find_encoders(plain).keys, find_encoders(plain).pairs
        actions = actions_of(plain.spec, 0, 30)
        true, seen = (
            np.array([np.concatenate([step.observation[key] for key in keys]) for step in roll_out(where, 1, actions)])
            for where in (plain, robot)
        )
        period_s = plain.spec.control_period_s
        for pair in pairs:
            (position,) = pair.position
            differenced = np.diff(seen[:, position].astype(np.float64)) / period_s
            assert np.allclose(seen[1:, pair.velocity], differenced, rtol=1e-4, atol=1e-4 * np.abs(differenced).max())
            moved = np.diff(true[:, position]) / period_s
            assert np.abs(seen[1:, pair.velocity] - moved).max() < 0.2 * np.abs(moved).max() + 1e-6
            assert not np.allclose(seen[1:, pair.velocity], true[1:, pair.velocity], rtol=1e-2)
        again = roll_out(robot, 1, actions)  # nothing of an episode is left in the next
        assert np.array_equal(np.concatenate([again[3].observation[key] for key in keys]), seen[3])


def test_hard_robots_have_encoders_and_others_do_not() -> None:
    assert [proxy_gap(f"{tier}_C").velocity_periods for tier in ("mild", "std", "hard")] == [0, 0, 1]


def test_where_no_joint_has_both_asking_is_refused_and_a_proxy_says_so() -> None:
    with closing(GymnasiumEnvironment(id="AdroitHandDoor-v1", success="success")) as door:  # shows no velocities
        with pytest.raises(InputError, match=r"environment\.gap\.velocity_periods=1 changes nothing in this task"):
            GapEnvironment(door, Gap(velocity_periods=1, mass=1.1), asked=["velocity_periods"])
        hard = GapEnvironment(door, proxy_gap("hard_A"), proxy="hard_A")
        assert "velocity_periods" in hard.spec.metadata["gap"]["without_effect"]


def test_differences_can_be_drawn() -> None:
    drawn = read_randomization({"velocity_periods": {"choice": [0, 2]}}, 0, 0.0)
    with closing(GymnasiumEnvironment(id="HalfCheetah-v5")) as cheetah:
        environment = GapEnvironment(cheetah, randomization=drawn)
        found = {environment.drawn["velocity_periods"] for seed in range(8) if environment.reset(seed=seed)}
        assert found == {0.0, 2.0}


def test_other_sensors_read_what_they_read_before() -> None:
    state = {"state": np.array([0.4, 2.0], np.float32), "desired_goal": np.ones(2, np.float32)}
    gap = Gap(sensor_noise=0.1, sensor_bits=8, dropout=0.2, stuck=0.2)
    plain = Sensors(gap, DEVIATION, np.random.default_rng(3))
    differenced = Sensors(
        replace(gap, velocity_periods=1), DEVIATION, np.random.default_rng(3), Differences(JOINT, 1, 0.1)
    )
    for _ in range(20):
        one, other = plain.read(state), differenced.read(state)
        assert one["state"][0] == other["state"][0]
        assert np.array_equal(other["desired_goal"], state["desired_goal"])
