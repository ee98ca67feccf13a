"""The last commands as an observation: with a delay, the state alone does not say what will happen next."""

from dataclasses import replace

import numpy as np

from robot_rl.environment import Environment, Wrapper
from robot_rl.spec import ArraySpec
from robot_rl.types import Array, TimeStep

KEY = "action_history"


class ActionHistory(Wrapper):
    """An environment that also shows the commands of the last k steps, the newest last; zeros where there were none.

    Shapes: `action_history` (k * A,).

    Args:
        inner: closed with this.
        steps: k, at least 1.
    """

    def __init__(self, inner: Environment, steps: int) -> None:
        spec = inner.spec
        size = spec.action.shape[0]
        names = None
        if spec.action.names is not None:
            names = tuple(f"{name}[{age - steps}]" for age in range(steps) for name in spec.action.names)
        shown = ArraySpec(shape=(steps * size,), names=names, unit=spec.action.unit, frame=spec.action.frame)
        super().__init__(inner, replace(spec, observation={**spec.observation, KEY: shown}))
        self._history = np.zeros((steps, size), np.float32)

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
