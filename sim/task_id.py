"""Which task it is, as an observation, so that one policy can learn several."""

from dataclasses import replace

import numpy as np

from robot_rl.environment import Environment, drawn_in, tell_experience
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, TimeStep

KEY = "task"


class TaskId:
    """An environment that also shows the number of its task among several, as 1 in its place and 0 in the others.

    Args:
        inner: closed with this.
        number: of the task, from 0.
        count: of tasks.
    """

    def __init__(self, inner: Environment, number: int, count: int) -> None:
        self._inner = inner
        self._shown = np.zeros(count, np.float32)
        self._shown[number] = 1.0
        shown = ArraySpec(shape=(count,), unit="1")
        self._spec = replace(inner.spec, observation={**inner.spec.observation, KEY: shown})

    @property
    def spec(self) -> Spec:
        """The simulator's, with `task`. Shapes: (count,)."""
        return self._spec

    @property
    def maximum_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return self._inner.maximum_steps

    @property
    def drawn(self) -> dict[str, float]:
        """What was drawn for the episode, by field."""
        return drawn_in(self._inner)

    def experienced(self, environment_steps: int) -> None:
        """So many steps of training are done."""
        tell_experience(self._inner, environment_steps)

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode."""
        return self._show(self._inner.reset(seed=seed))

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""
        return self._show(self._inner.step(action))

    def _show(self, step: TimeStep) -> TimeStep:
        return replace(step, observation={**step.observation, KEY: self._shown.copy()})

    def render(self) -> Array:
        """The scene now. Shapes: (height, width, 3), uint8."""
        return self._inner.render()

    def close(self) -> None:
        """Free the simulator; calling it twice is allowed."""
        self._inner.close()
