"""Any policy server, as a proposer: K candidates by K requests, and nothing taken for an action that is none.

What a protocol needs is a `PolicyClient` of few lines (`steering/clients/`); what is the same for all of them is here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from robot_rl.steering.action_spec import ActionSpec
from robot_rl.steering.answers import Answers, selected
from robot_rl.steering.proposals import BASE, SAMPLE, Capabilities, Deadline, Proposals, ProposerError
from robot_rl.types import Array


class PolicyClient(Protocol):
    """Speaks one protocol with one server. It must not use a connection again on which an answer was late."""

    @property
    def address(self) -> str:
        """Of the server, for messages."""

    def begin(self, task: str, deadline: Deadline) -> None:
        """An episode begins; said to servers that have a word for it.

        Raises:
            ProposerError: it cannot be said.
        """

    def ask(self, sent: Mapping[str, Any], task: str, deadline: Deadline) -> Any:
        """One answer, unchecked: an array (H, A) or (A,) where all is well.

        Raises:
            ProposerError: no answer until the deadline, or an error instead of one.
            InputError: what is sent is not what the protocol needs.
        """

    def close(self) -> None:
        """End the connection, if there is one."""


@dataclass(kw_only=True)
class RemoteProposer:
    """The policy behind a client. Row 0 is its first answer.

    Args:
        client: speaks with it.
        spec: what its actions are. None of the protocols says, so it is declared.
        keys: name on the wire -> name in the observation; nothing else is sent. None: all, under its own names.
        stochastic: it may answer differently when it is asked again; False asks once.
        repeats: see `Answers`.
    """

    client: PolicyClient
    spec: ActionSpec
    keys: Mapping[str, str] | None = None
    stochastic: bool = True
    repeats: int = 0
    _task: str = field(init=False, default="")
    _begun: bool = field(init=False, default=False)  # the server knows of this episode
    _answers: Answers = field(init=False)

    def __post_init__(self) -> None:
        self._answers = Answers(spec=self.spec, address=self.client.address, repeats=self.repeats)

    @property
    def capabilities(self) -> Capabilities:
        """As declared; one request is one candidate."""
        return Capabilities(stochastic=self.stochastic, native_batch=False, remote=True)

    def reset(self, task: str) -> None:
        """An episode begins. The server is told with the next request, which has a deadline."""
        self._task, self._begun = task, False
        self._answers.forget()

    def commit(self, actions: Array) -> None:
        """None of the protocols has a word for it."""

    def propose(
        self,
        observation: Mapping[str, Array],
        count: int,
        *,
        observation_id: int,
        deadline: Deadline,
        ready: Callable[[Array], None],
    ) -> Proposals:
        """The first answer is row 0. Shapes: each (*) -> (K, H, A).

        Raises:
            ProposerError: the first answer fails, or is the one that an observation before was given.
            InputError: the observation lacks what the protocol needs.
        """
        sent = selected(observation, self.keys, self.client.address)
        if not self._begun:
            self.client.begin(self._task, deadline)
            self._begun = True
        self._answers.ask(sent)
        found = [self._one(sent, deadline)]
        ready(found[0])
        error = None
        while len(found) < count and not deadline.passed:
            try:
                found.append(self._one(sent, deadline))
            except ProposerError as failed:  # what is there is enough
                error = str(failed)
                break
        self._answers.keep(sent, found)
        return Proposals(
            actions=np.stack(found),
            kinds=(BASE, *[SAMPLE] * (len(found) - 1)),
            observation_id=observation_id,
            metadata={} if error is None else {"error": error},
        )

    def _one(self, sent: dict[str, Any], deadline: Deadline) -> Array:
        return self._answers.take(self.client.ask(sent, self._task, deadline))
