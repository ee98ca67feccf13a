"""The one contract that every simulator, wrapper and robot passes (`robot_rl.testing.contracts`)."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np

from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, TimeStep


class Environment(Protocol):
    """An episodic task with gymnasium's semantics and a control period in seconds.

    - `reset(seed=s)` fixes everything random of the coming episode: two environments of one configuration, reset with
      the same seed, give the same numbers for the same actions, whatever happened in them before.
    - `step` takes an action in the units of `spec.action`, clips it to the bounds, and returns what was really applied.
    - After `TimeStep.last` the next call is `reset`; `step` then raises RuntimeError.
    - Returned arrays are the caller's: no later step changes them.
    """

    @property
    def spec(self) -> Spec:
        """Shapes, bounds, units; never changes."""

    @property
    def maximum_steps(self) -> int:
        """Steps after which an episode is truncated."""

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode."""

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""

    def render(self) -> Array:
        """The scene now. Shapes: (height, width, 3), uint8."""

    def close(self) -> None:
        """Free the simulator or the robot; calling it twice is allowed."""


@runtime_checkable
class Randomized(Protocol):
    """What an environment has besides, whose episodes may differ in more than where they begin."""

    @property
    def drawn(self) -> dict[str, float]:
        """What was drawn for the episode, by name; empty where nothing is."""

    def experienced(self, environment_steps: int) -> None:
        """So many steps of training are done: curricula go by it, from the next reset on."""


@runtime_checkable
class Live(Protocol):
    """What an environment has besides that is a robot: its own time, which goes on if nobody acts."""

    ages_s: dict[str, float]
    """Of the parts of the last observation."""
    counts: Counter[str]
    """What went wrong, such as `missed` control periods."""
    before_tick: Callable[[int], object]
    """Called shortly before each tick, with the nanoseconds that are left until then."""

    def watch(self) -> TimeStep:
        """What is sensed at the next tick; nothing is asked of the robot. Not within an episode."""


@runtime_checkable
class LimitCounting(Protocol):
    """What a simulated robot has besides, whose joints have limits."""

    @property
    def limit_hits(self) -> int | None:
        """Steps of the episode so far in which some joint was pressed against its limit; None where nobody counts."""


def limit_hits_in(environment: Environment) -> int | None:
    """Steps of the episode so far with a joint at its limit; None where nobody counts."""
    return environment.limit_hits if isinstance(environment, LimitCounting) else None


def drawn_in(environment: Environment) -> dict[str, float]:
    """What was drawn for the episode, by name; empty where nothing is."""
    return environment.drawn if isinstance(environment, Randomized) else {}


def tell_experience(environment: Environment, environment_steps: int) -> None:
    """Let an environment whose curriculum goes by it know the steps of training that are done."""
    if isinstance(environment, Randomized):
        environment.experienced(environment_steps)


class Wrapper:
    """An environment around another one, which answers wherever a subclass does not.

    Args:
        inner: closed with this.
        spec: of this one; that of `inner` if it is left out.
    """

    def __init__(self, inner: Environment, spec: Spec | None = None) -> None:
        self._inner = inner
        self._spec = inner.spec if spec is None else spec

    @property
    def spec(self) -> Spec:
        """Shapes, bounds, units; never changes."""
        return self._spec

    @property
    def maximum_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return self._inner.maximum_steps

    @property
    def drawn(self) -> dict[str, float]:
        """What was drawn for the episode, by name."""
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
        return self._inner.reset(seed=seed)

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""
        return self._inner.step(action)

    def render(self) -> Array:
        """The scene now. Shapes: (height, width, 3), uint8."""
        return self._inner.render()

    def close(self) -> None:
        """Free the simulator; calling it twice is allowed."""
        self._inner.close()


# What is under way ----------------------------------------------------------------------------------------------------
ACTION_HISTORY = "action_history"
"""The observation of the last commands: with a delay, the state alone does not say what will happen next."""


class CommandHistory:
    """The commands of the last k steps, the newest last; zeros where there were none.

    Shapes: (k * A,).

    Args:
        action: the spec of a command.
        steps: k, at least 1.
    """

    def __init__(self, action: ArraySpec, steps: int) -> None:
        (size,) = action.shape
        names = None
        if action.names is not None:
            names = tuple(f"{name}[{age - steps}]" for age in range(steps) for name in action.names)
        self.spec = ArraySpec(shape=(steps * size,), names=names, unit=action.unit, frame=action.frame)
        self._commands = np.zeros((steps, size), np.float32)

    def shown_in(self, spec: Spec) -> Spec:
        """The spec of an environment or of data, with this among its observations."""
        return replace(spec, observation={**spec.observation, ACTION_HISTORY: self.spec})

    def forget(self) -> None:
        """An episode begins."""
        self._commands = np.zeros_like(self._commands)

    def take(self, command: Array) -> None:
        """One more was applied. Shapes: (A,)."""
        self._commands = np.concatenate([self._commands[1:], np.asarray(command, np.float32)[None]])

    def now(self) -> Array:
        """What is shown. Shapes: -> (k * A,)."""
        return self._commands.ravel().copy()

    def along(self, commands: Array) -> Array:
        """What was shown at each observation of an episode of these commands. Shapes: (T, A) -> (T + 1, k * A)."""
        steps, size = self._commands.shape
        padded = np.concatenate([np.zeros((steps, size), np.float32), np.asarray(commands, np.float32)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, steps, axis=0)  # (T + 1, A, k)
        return windows.transpose(0, 2, 1).reshape(len(commands) + 1, -1)
