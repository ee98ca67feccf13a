"""The last commands as an observation: with a delay, the state alone does not say what will happen next."""

from dataclasses import replace

import numpy as np

from robot_rl.environment import Environment, drawn_in, limit_hits_in, tell_experience
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, TimeStep

KEY = "action_history"


class ActionHistory:
    """An environment that also shows the commands of the last k steps, the newest last; zeros where there were none.

    Args:
        inner: closed with this.
        steps: k, at least 1.
    """

    def __init__(self, inner: Environment, steps: int) -> None:
        self._inner = inner
        spec = inner.spec
        size = spec.action.shape[0]
        names = None
        if spec.action.names is not None:
            names = tuple(f"{name}[{age - steps}]" for age in range(steps) for name in spec.action.names)
        shown = ArraySpec(shape=(steps * size,), names=names, unit=spec.action.unit, frame=spec.action.frame)
        self._spec = replace(spec, observation={**spec.observation, KEY: shown})
        self._history = np.zeros((steps, size), np.float32)

    @property
    def spec(self) -> Spec:
        """The simulator's, with `action_history`. Shapes: (k * A,)."""
        return self._spec

    @property
    def maximum_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return self._inner.maximum_steps

    @property
    def drawn(self) -> dict[str, float]:
        """What was drawn for the episode, by field."""
        return drawn_in(self._inner)

    @property
    def limit_hits(self) -> int | None:
        """Steps of the episode so far with a joint at its limit; None where nobody counts."""
        return limit_hits_in(self._inner)

    def experienced(self, environment_steps: int) -> None:
        """So many steps of training are done."""
        tell_experience(self._inner, environment_steps)

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode."""
        step = self._inner.reset(seed=seed)
        self._history = np.zeros_like(self._history)
        return self._show(step)

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""
        step = self._inner.step(action)
        newest = np.asarray(step.action, np.float32)
        self._history = np.concatenate([self._history[1:], newest[None]])
        return self._show(step)

    def _show(self, step: TimeStep) -> TimeStep:
        return replace(step, observation={**step.observation, KEY: self._history.ravel().copy()})

    def render(self) -> Array:
        """The scene now. Shapes: (height, width, 3), uint8."""
        return self._inner.render()

    def close(self) -> None:
        """Free the simulator; calling it twice is allowed."""
        self._inner.close()
