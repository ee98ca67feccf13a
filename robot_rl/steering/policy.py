"""A steered policy in the place of a policy: it plays chunks, and holds where there is no action."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from robot_rl.checks import require_range
from robot_rl.steering.action_spec import ActionSpec
from robot_rl.steering.proposals import ProposerError
from robot_rl.steering.steer import Steerer
from robot_rl.types import Array

TAIL, STILL, REPEATED = "rest_of_the_chunk", "no_motion", "last_command"
MOTIONS = ("_delta", "_velocity", "twist_target")
"""Endings of action semantics under which the command 0 is to stay where one is."""


def hold(semantics: str | None, last: Array | None, spec: ActionSpec) -> tuple[Array, str] | None:
    """The command that keeps a robot where it is, and which one it is; None where nobody knows.

    Motions (deltas, velocities) stop; positions are commanded again. Other semantics (forces, undeclared ones) have no
    command that is safe in general. Shapes: (A,) -> (A,).
    """
    if semantics is not None and semantics.endswith(MOTIONS):
        return np.clip(np.zeros(spec.size), spec.scale.low, spec.scale.high), STILL
    if semantics is not None and "position" in semantics and last is not None:
        return last, REPEATED
    return None


@dataclass(kw_only=True)
class SteeredPolicy:
    """What evaluation and the robot loop drive. It steers at the first step of each chunk, nowhere else.

    Args:
        steerer: decides.
        execute: steps of a chunk that are played before the next decision; None: all H.
        deadline_s: until when a decision has to be there; None: no matter when.
    """

    steerer: Steerer
    execute: int | None = None
    deadline_s: float | None = None
    held: Counter[str] = field(init=False, default_factory=Counter)  # steps without a decision, by what was done
    _chunk: Array | None = field(init=False, default=None)  # (H, A), units
    _played: int = field(init=False, default=0)
    _waiting: bool = field(init=False, default=True)  # for a decision
    _last: Array | None = field(init=False, default=None)  # (A,)

    def __post_init__(self) -> None:
        if self.execute is not None:
            require_range(self.execute, 1, self.steerer.proposer.spec.chunk, "steering execute")

    def reset(self) -> None:
        """Forget the episode so far."""
        self._chunk, self._played, self._waiting, self._last = None, 0, True, None
        self.steerer.reset()

    def drop_chunk(self) -> None:
        """Decide anew at the next step."""
        self._chunk, self._played, self._waiting = None, 0, True

    def act(self, observation: Mapping[str, Array]) -> Array:
        """One action in the units of the spec. Shapes: each (*) -> (A,).

        Raises:
            ProposerError: the policy does not answer, its last chunk is played, and no command is known to be a halt.
        """
        spec = self.steerer.proposer.spec
        steps = spec.chunk if self.execute is None else self.execute
        if self._waiting:
            decision = self.steerer.decide(observation, deadline_s=self.deadline_s)
            if decision.actions is None:
                return self._hold(decision.record.error)
            self._chunk, self._played, self._waiting = decision.actions, 0, False
            self.steerer.proposer.commit(decision.actions[:steps])
        assert self._chunk is not None
        action: Array = self._chunk[self._played]
        self._played += 1
        self._waiting = self._played == steps
        self._last = action
        return action

    def _hold(self, why: str | None) -> Array:
        spec = self.steerer.proposer.spec
        if self._chunk is not None and self._played < spec.chunk:
            action: Array = self._chunk[self._played]
            self._played += 1
            self._last = action
            self.held[TAIL] += 1
            return action
        found = hold(spec.semantics, self._last, spec)
        if found is None:
            raise ProposerError(
                f"the policy does not answer ({why}), and no command is known to halt actions of the kind "
                f"{spec.semantics!r}: stop the robot"
            )
        self.held[found[1]] += 1
        return found[0]
