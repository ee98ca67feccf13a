"""Sensors between the state and what is observed: bias, noise, resolution, dropouts, stuck values."""

from collections.abc import Mapping

import numpy as np

from robot_rl.environment import ACTION_HISTORY, Environment
from robot_rl.seeding import Seeds
from robot_rl.sim.encoders import Differences
from robot_rl.sim.gap import Gap
from robot_rl.types import Array

NOT_SENSED = ("desired_goal", ACTION_HISTORY)
"""Observations that come from the task or from our own memory, not from a sensor."""
FULL_SCALE_DEVIATIONS = 8.0
"""Range of an encoder, in deviations of its channel: four to each side."""
EPISODES, STEPS = 2, 150
"""Random motion from which the deviation of each channel is measured."""


def measure_deviation(environment: Environment) -> dict[str, Array]:
    """The standard deviation of each channel of the observation under uniform actions, from fixed seeds.

    Args:
        environment: the simulator as it is, without gaps.
    """
    spec, rows = environment.spec, []
    low, high = np.asarray(spec.action.low), np.asarray(spec.action.high)
    for episode in range(EPISODES):
        generator = Seeds(episode).numpy("deviation of sensors")
        step = environment.reset(seed=episode)
        for _ in range(STEPS):
            rows.append(step.observation)
            if step.last:
                break
            step = environment.step(generator.uniform(low, high))
    return {key: np.std([row[key] for row in rows], axis=0).astype(np.float64) for key in spec.observation}


class Sensors:
    """The sensors of one episode; every channel fails on its own.

    Args:
        gap: what is wrong with them.
        deviation: of each channel; needed for noise, bias and resolution only.
        generator: of the episode.
        differences: of positions, that velocities are read as; None: velocities have sensors of their own.
    """

    def __init__(
        self,
        gap: Gap,
        deviation: Mapping[str, Array],
        generator: np.random.Generator,
        differences: Differences | None = None,
    ) -> None:
        self._gap, self._deviation, self._generator = gap, deviation, generator
        self._differences = differences
        self._bias: dict[str, Array] = {}
        self._last: dict[str, Array] = {}
        self._dropped: dict[str, Array] = {}
        self._stuck: dict[str, Array] = {}
        self._biases = np.random.default_rng(generator.integers(2**63))

    def read(self, observation: Mapping[str, Array]) -> dict[str, Array]:
        """What the sensors say of a state. Shapes: each (*) -> the same."""
        sensed = [key for key, array in observation.items() if key not in NOT_SENSED and array.dtype == np.float32]
        if self._differences is None:
            return {
                **observation,
                **{key: self._passed_on(key, self._measured(key, observation[key])) for key in sensed},
            }
        measured = {
            key: self._measured(key, observation[key]) if key in sensed else observation[key] for key in observation
        }
        measured = self._differences.read(measured)
        return {**observation, **{key: self._passed_on(key, measured[key]) for key in sensed}}

    def _measured(self, key: str, array: Array) -> Array:
        """With bias, noise and resolution; float64."""
        gap, generator = self._gap, self._generator
        value = array.astype(np.float64)
        if gap.senses:
            deviation = self._deviation[key]
            if key not in self._bias:
                self._bias[key] = gap.sensor_bias * deviation * self._biases.standard_normal(value.shape)
            value += self._bias[key] + gap.sensor_noise * deviation * generator.standard_normal(value.shape)
            if gap.sensor_bits > 0:
                grain = FULL_SCALE_DEVIATIONS * deviation / 2**gap.sensor_bits
                moves = grain > 0
                value[moves] = np.rint(value[moves] / grain[moves]) * grain[moves]
        return value

    def _passed_on(self, key: str, value: Array) -> Array:
        """What arrives of it."""
        gap = self._gap
        if gap.stuck > 0:
            value = np.where(self._fails(self._stuck, key, value, gap.stuck, gap.stuck_steps), self._last[key], value)
        if gap.dropout > 0:
            value = np.where(self._fails(self._dropped, key, value, gap.dropout, gap.dropout_steps), 0.0, value)
        self._last[key] = value
        return value.astype(np.float32)

    def _fails(self, left: dict[str, Array], key: str, value: Array, probability: float, steps: int) -> Array:
        """Which channels fail now; `left` counts the steps that they still will. The first reading never fails."""
        if key not in left:
            left[key] = np.zeros(value.shape, np.int64)
            if key not in self._last:
                self._last[key] = value
            return left[key] > 0
        begins = (left[key] == 0) & (self._generator.uniform(size=value.shape) < probability)
        left[key] = np.where(begins, steps, left[key])
        failing: Array = left[key] > 0
        left[key] = np.maximum(0, left[key] - 1)
        return failing
