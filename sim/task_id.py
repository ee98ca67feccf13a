"""Which task it is, as an observation, so that one policy can learn several."""

from dataclasses import replace

import numpy as np

from robot_rl.environment import Environment, Wrapper
from robot_rl.spec import ArraySpec
from robot_rl.types import Array, TimeStep

KEY = "task"


class TaskId(Wrapper):
    """An environment that also shows the number of its task among several, as 1 in its place and 0 in the others.

    Shapes: `task` (count,).

    Args:
        inner: closed with this.
        number: of the task, from 0.
        count: of tasks.
    """

    def __init__(self, inner: Environment, number: int, count: int) -> None:
        self._shown = np.zeros(count, np.float32)
        self._shown[number] = 1.0
        shown = ArraySpec(shape=(count,), unit="1")
        super().__init__(inner, replace(inner.spec, observation={**inner.spec.observation, KEY: shown}))

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode."""
        return self._show(self._inner.reset(seed=seed))

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""
        return self._show(self._inner.step(action))

    def _show(self, step: TimeStep) -> TimeStep:
        return replace(step, observation={**step.observation, KEY: self._shown.copy()})
