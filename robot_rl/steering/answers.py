"""What an answer of a policy server must be before it counts as an action."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robot_rl.errors import InputError
from robot_rl.steering.action_spec import ActionSpec
from robot_rl.steering.proposals import ProposerError
from robot_rl.types import Array


class OldAnswer(ProposerError):
    """An answer that was given to another observation."""


def instruction_for(model: str, task: str) -> str:
    """The task of an episode, of a model that follows instructions.

    Raises:
        InputError: there is none.
    """
    if not task:
        raise InputError(f"{model} follows instructions and there is none: send `prompt` with the observation")
    return task


@dataclass(kw_only=True)
class Answers:
    """Checks the answers of one server, and keeps the last ones to know an old one when it comes again.

    Args:
        spec: what they are declared to be.
        address: of the server, for messages.
        repeats: so many times in a row may one answer be given to observations that differ. 0 for policies of
            continuous actions, which never say the same twice; more for those that choose among a few tokens.
    """

    spec: ActionSpec
    address: str
    repeats: int = 0
    _asked: dict[str, Any] | None = field(init=False, default=None)  # the observation before
    _given: list[Array] = field(init=False, default_factory=list)  # each (H, A), what it was answered with
    _repeated: int = field(init=False, default=0)  # how often in a row
    _others: bool = field(init=False, default=False)  # what is kept belongs to another observation

    def forget(self) -> None:
        """An episode begins."""
        self._asked, self._given, self._repeated, self._others = None, [], 0, False

    def ask(self, sent: dict[str, Any]) -> None:
        """This observation is asked about next."""
        self._others = self._asked is not None and not _same(sent, self._asked)

    def take(self, actions: Any, name: str = "actions") -> Array:
        """(H, A) of an answer, checked; one step of (A,) is a chunk of one.

        Raises:
            ProposerError: no array of numbers, another shape than declared, numbers that are none.
            OldAnswer: the observation before was given the same.
        """
        spec = self.spec
        if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "fiu":
            raise self.refusal(f"`{name}` are {type(actions).__name__}, not an array of numbers")
        if actions.shape == (spec.size,) and spec.chunk == 1:
            actions = actions[None]
        if actions.shape != (spec.chunk, spec.size):
            raise self.refusal(f"`{name}` have shape {actions.shape}, declared is {(spec.chunk, spec.size)}")
        chunk: Array = actions.astype(np.float64)
        if not np.isfinite(chunk).all():
            raise self.refusal(f"`{name}` are not all numbers")
        inside = (np.abs(spec.normalized(chunk)) < 1.0 - 1e-9).any()  # at the bounds, answers may repeat
        if self._others and inside and any(np.array_equal(chunk, old) for old in self._given):
            if self._repeated >= self.repeats:
                raise OldAnswer(str(self.refusal("it is the one that another observation was given: an old answer")))
            self._repeated += 1
        elif self._others:
            self._repeated = 0
        return chunk

    def keep(self, sent: dict[str, Any], given: list[Array]) -> None:
        """These were the answers to this observation."""
        self._asked, self._given = sent, given

    def refusal(self, why: str) -> ProposerError:
        """The error of an answer that is none."""
        return ProposerError(f"{self.address} gives no usable answer: {why}")


def selected(observation: Mapping[str, Array], keys: Mapping[str, str] | None, address: str) -> dict[str, Any]:
    """Copies of what is to be sent, under its names on the wire.

    Args:
        observation: as it came.
        keys: name on the wire -> name in the observation; None: all of it, under its own names.
        address: for messages.

    Raises:
        InputError: the observation lacks one.
    """
    names = {key: key for key in observation} if keys is None else keys
    missing = sorted(set(names.values()) - set(observation))
    if missing:
        raise InputError(
            f"the observation lacks {missing}, which {address} is to be sent; it has {sorted(observation)}"
        )
    return {name: _copy(observation[key]) for name, key in names.items()}


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)
