"""The last commands as an observation of a simulator."""

from dataclasses import replace

from robot_rl.environment import ACTION_HISTORY, CommandHistory, Environment, Wrapper
from robot_rl.types import Array, TimeStep


class ActionHistory(Wrapper):
    """An environment that also shows the commands of the last k steps, the newest last; zeros where there were none.

    Shapes: `action_history` (k * A,).

    Args:
        inner: closed with this.
        steps: k, at least 1.
    """

    def __init__(self, inner: Environment, steps: int) -> None:
        self._history = CommandHistory(inner.spec.action, steps)
        super().__init__(inner, self._history.shown_in(inner.spec))

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode."""
        self._history.forget()
        return self._show(self._inner.reset(seed=seed))

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""
        step = self._inner.step(action)
        assert step.action is not None
        self._history.take(step.action)
        return self._show(step)

    def _show(self, step: TimeStep) -> TimeStep:
        return replace(step, observation={**step.observation, ACTION_HISTORY: self._history.now()})
