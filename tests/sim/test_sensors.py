"""Sensors: what of noise, bias, resolution, dropouts and stuck values reaches an observation."""

import numpy as np
import pytest

from robot_rl.sim.gap import Gap
from robot_rl.sim.sensors import Sensors, measure_deviation
from robot_rl.testing.fakes import OneJointEnvironment

DEVIATION = {"state": np.array([2.0, 0.5, 0.0])}


def readings(gap: Gap, steps: int, *, seed: int = 0, ramp: bool = False) -> np.ndarray:
    """What is read of (1, 1, 1), or of a state that grows by one a step. Shapes: (steps, 3)."""
    sensors = Sensors(gap, DEVIATION, np.random.default_rng(seed))
    states = np.ones((steps, 3), np.float32) + (np.arange(steps, dtype=np.float32)[:, None] if ramp else 0)
    return np.stack([sensors.read({"state": state})["state"] for state in states])


def test_perfect_sensors_change_nothing() -> None:
    assert np.array_equal(readings(Gap(), 5, ramp=True)[:, 0], [1, 2, 3, 4, 5])


def test_noise_is_in_units_of_the_deviation_of_each_channel() -> None:
    noise = readings(Gap(sensor_noise=0.1), 4000) - 1.0
    assert noise.mean(0) == pytest.approx([0.0, 0.0, 0.0], abs=0.01)
    assert noise.std(0) == pytest.approx([0.2, 0.05, 0.0], rel=0.05)
    assert abs(np.corrcoef(noise[1:, 0], noise[:-1, 0])[0, 1]) < 0.05


def test_a_bias_stays_for_the_episode_and_is_another_in_the_next() -> None:
    offsets = np.stack([readings(Gap(sensor_bias=0.1), 3, seed=seed) - 1.0 for seed in range(500)])
    assert (offsets[:, 0] == offsets[:, 2]).all()
    assert offsets[:, 0].std(0) == pytest.approx([0.2, 0.05, 0.0], rel=0.15)


def test_bits_leave_so_many_levels_over_eight_deviations() -> None:
    sensors = Sensors(Gap(sensor_bits=4), DEVIATION, np.random.default_rng(0))
    sweep = np.linspace(-8.0, 8.0, 5000, dtype=np.float32)  # eight deviations of the first channel, four a side
    read = np.array([sensors.read({"state": np.array([x, x, x])})["state"] for x in sweep])
    assert np.diff(np.unique(read[:, 0])) == pytest.approx(np.full(16, 1.0))  # 16 / 2**4
    assert np.abs(read[:, 0] - sweep).max() == pytest.approx(0.5, abs=0.01)
    assert np.array_equal(read[:, 2], sweep)  # a channel that never moved has no scale


def test_a_dropout_reads_zero_for_its_steps_and_leaves_other_channels() -> None:
    read = readings(Gap(dropout=0.05, dropout_steps=4), 4000)
    zero = read == 0.0
    starts = np.flatnonzero(zero[1:, 0] & ~zero[:-1, 0]) + 1
    assert len(starts) > 50
    assert all(zero[start : start + 4, 0].all() for start in starts[:-1])
    # Of 1 / p + n steps, n are dropped, about: 4 / (19 + 4).
    assert zero[:, 0].mean() == pytest.approx(4 / 23, rel=0.15)
    assert (zero[:, 0] != zero[:, 1]).any()
    assert not zero[0].any()


def test_a_stuck_sensor_repeats_its_last_value_then_catches_up() -> None:
    read = readings(Gap(stuck=0.05, stuck_steps=3), 2000, ramp=True)[:, 0]
    truth = np.arange(2000) + 1.0
    behind = truth - read
    assert set(behind[:1]) == {0.0}
    assert (behind >= 0).all()
    first = np.flatnonzero((behind[1:] == 1) & (behind[:-1] == 0)) + 1
    assert len(first) > 20
    assert all(behind[start : start + 3].tolist() == [1, 2, 3] for start in first[:-1])


def test_goals_and_images_pass_untouched() -> None:
    sensors = Sensors(Gap(dropout=1.0), {}, np.random.default_rng(0))
    goal, image = np.ones(3, np.float32), np.ones((4, 4, 3), np.uint8)
    for _ in range(3):
        read = sensors.read({"desired_goal": goal, "camera": image})
    assert np.array_equal(read["desired_goal"], goal)
    assert np.array_equal(read["camera"], image)


def test_the_deviation_of_channels_is_measured_in_motion() -> None:
    found = measure_deviation(OneJointEnvironment())
    assert found["state"][0] > 0.1
    assert np.array_equal(found["state"], measure_deviation(OneJointEnvironment())["state"])
