"""The words everybody speaks: a batch, an episode, a time step.

Letters, the same everywhere: B batch, T time (steps of an episode), H steps of an action chunk, E ensemble, N sampled
actions, A action, J joints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from robot_rl.errors import InputError

Array = NDArray[Any]
Metrics = dict[str, Tensor]
"""Scalar tensors by name, such as `critic/loss`. Only the recorder moves them to the host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Transitions as an algorithm sees them: actions normalised, rewards transformed, n-step sums already taken.

    Where actions come in chunks (`replay.action_chunk`), A is H * A: H recorded actions, one behind the other.
    """

    observation: dict[str, Tensor]  # each (B, *)
    action: Tensor  # (B, A), in [-1, 1]
    reward: Tensor  # (B,), sum of the n discounted rewards
    discount: Tensor  # (B,), 0 after termination, otherwise discount**n
    next_observation: dict[str, Tensor]  # each (B, *)
    monte_carlo_return: Tensor | None = None  # (B,), return-to-go under the declared tail rule
    next_action: Tensor | None = None  # (B, A), recorded at the next observation
    has_next_action: Tensor | None = None  # (B,), bool: false before a time limit, where nothing was recorded
    valid: Tensor | None = None  # (B, H), bool: false past the end of the episode, where the last action is repeated
    recorded: Tensor | None = None  # (B,), bool: of a data set; false of the running robot
    real: Tensor | None = None  # (B,), bool: of the robot; false of a simulator that differs from it
    held_out: Tensor | None = None  # (B,), bool: kept from models that judge data, so that these can be checked
    instruction: Tensor | None = None  # (B,), int64, number of the text among the run's `Instructions`; -1: none

    def __len__(self) -> int:
        return int(self.reward.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeStep:
    """What an environment returns.

    `terminated` (the task ended: no bootstrap) and `truncated` (we stopped: bootstrap) are two facts; both may be true.
    """

    observation: dict[str, Array]  # each (*)
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: bool | None = None
    """Whether the task is achieved in this state; None where the environment declares no success."""
    action: Array | None = None
    """(A,), in the units of the spec: what was really applied, which is what gets recorded. None after a reset."""
    intervened: bool = False
    """A person, not the policy, chose `action`."""

    @property
    def last(self) -> bool:
        """The episode is over, for either reason."""
        return self.terminated or self.truncated


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One recorded episode of T steps: T + 1 observations, T of everything else.

    Actions and rewards are as recorded (units of the spec, raw reward); they are normalised when they are sampled.
    Where the source has no final observation, `has_final_observation` is False and the last row repeats the one before:
    the last step then counts for returns, but gives no transition unless it terminated.

    Raises:
        InputError: lengths or shapes disagree; the message names the key.
    """

    observation: dict[str, Array]  # each (T + 1, *)
    action: Array  # (T, A)
    reward: Array  # (T,)
    terminated: Array  # (T,), bool
    truncated: Array  # (T,), bool
    success: Array | None = None  # (T,), bool; None where the source does not say
    intervened: Array | None = None  # (T,), bool; None means nowhere
    has_final_observation: bool = True
    extras: dict[str, Array] = field(default_factory=dict)  # each (T, *) or (T + 1, *): simulator state, time stamps
    metadata: dict[str, Any] = field(default_factory=dict)  # JSON: source, seed, language, initial state

    def __post_init__(self) -> None:
        steps = len(self.action)
        if steps == 0:
            raise InputError("an episode without steps: nothing to store")
        if self.action.ndim != 2:
            raise InputError(f"action has shape {self.action.shape}, expected (T, A)")
        for name in ("reward", "terminated", "truncated", "success", "intervened"):
            array = getattr(self, name)
            if array is not None and array.shape != (steps,):
                raise InputError(f"{name} has shape {array.shape}, but action has {steps} steps: expected ({steps},)")
        for key, array in self.observation.items():
            if len(array) != steps + 1:
                raise InputError(
                    f"observation '{key}' has {len(array)} rows, but action has {steps} steps: expected {steps + 1}"
                )
        for key, array in self.extras.items():
            if len(array) not in (steps, steps + 1):
                raise InputError(f"extra '{key}' has {len(array)} rows, expected {steps} or {steps + 1}")
        ends = np.flatnonzero(self.terminated | self.truncated)
        if len(ends) and ends[0] != steps - 1:
            raise InputError(f"the episode goes on after its end: terminated or truncated at step {ends[0]} of {steps}")

    def __len__(self) -> int:
        return len(self.action)


class EpisodeSink(Protocol):
    """Takes finished episodes: a store, a replay buffer, a list."""

    def append(self, episode: Episode) -> None:
        """Take one episode; when this returns, it is safe."""


class Policy(Protocol):
    """Chooses actions; what evaluation, recording, serving and the robot loop drive."""

    def reset(self) -> None:
        """Forget the episode so far."""

    def act(self, observation: Mapping[str, Array]) -> Array:
        """One action in the units of the spec. Shapes: each (*) -> (A,)."""
