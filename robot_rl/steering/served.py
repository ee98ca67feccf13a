"""What `robot-rl serve` answers: requests for actions, of several clients at once.

Letters: B requests, K candidates, H steps of a chunk, A action.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from robot_rl.clock import Clock
from robot_rl.errors import InputError
from robot_rl.networks.language import TextEncoder
from robot_rl.policy import OnnxPolicy
from robot_rl.replay.language import INSTRUCTION, spoken
from robot_rl.spec import Spec
from robot_rl.steering.agents import AgentProposer
from robot_rl.steering.openpi import ACTIONS, CANDIDATES, ECHO, PROMPT
from robot_rl.steering.proposals import Deadline, ProposerError
from robot_rl.steering.steer import Steerer
from robot_rl.types import Array

MAXIMUM_CANDIDATES = 256
MAXIMUM_PROMPT = 2000  # characters


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One client's question, checked."""

    observation: dict[str, Array]  # each (*), of the spec
    task: str = ""
    candidates: int | None = None  # so many of the policy's own; None: one decision
    echo: int | None = None
    sent: Mapping[str, Any] = field(default_factory=dict)  # all of the message but what is ours, under its names


def read_request(
    message: Mapping[Any, Any], spec: Spec, keys: Mapping[str, str], language: TextEncoder | None = None
) -> Request:
    """A request out of a message.

    Args:
        message: as it came; keys that the policy does not see are ignored.
        spec: what the policy sees.
        keys: name in the spec -> name in the message.
        language: makes the observation `instruction` of the prompt, which then is not in the message.

    Raises:
        InputError: a key is missing, or a value has another shape or type or is not a number.
    """
    observation: dict[str, Array] = {}
    task, count, echo = message.get(PROMPT, ""), message.get(CANDIDATES), message.get(ECHO)
    if not isinstance(task, str) or len(task) > MAXIMUM_PROMPT:
        raise InputError(f"'{PROMPT}' must be text of at most {MAXIMUM_PROMPT} characters")
    for key, array in spec.observation.items():
        if language is not None and key == INSTRUCTION:
            observation[key] = spoken(language, task)
            continue
        name = keys[key]
        if name not in message:
            known = sorted(each for each in message if isinstance(each, str))[:20]
            raise InputError(f"the observation has no '{name}'; it has {known}. Wanted are {sorted(keys.values())}")
        value = np.asarray(message[name]) if isinstance(message[name], list | float | int) else message[name]
        if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "biuf":
            raise InputError(f"'{name}' is of the type {type(value).__name__}: send an array of numbers")
        value = np.asarray(value)
        if array.dtype == "uint8" and value.dtype != np.uint8:
            raise InputError(f"'{name}' has the type {value.dtype}, wanted is uint8, in 0 to 255")
        value = value.astype(array.dtype)
        array.check(value, f"'{name}'")
        observation[key] = value
    if count is not None and (type(count) is not int or not 1 <= count <= MAXIMUM_CANDIDATES):
        raise InputError(f"'{CANDIDATES}'={count!r:.40} must be a whole number in 1 to {MAXIMUM_CANDIDATES}")
    if echo is not None and type(echo) is not int:
        raise InputError(f"'{ECHO}' must be a whole number")
    ours = (PROMPT, CANDIDATES, ECHO)
    sent = {key: value for key, value in message.items() if isinstance(key, str) and key not in ours}
    return Request(observation=observation, task=task, candidates=count, echo=echo, sent=sent)


class Served(Protocol):
    """A policy that a server answers with."""

    @property
    def spec(self) -> Spec:
        """What it sees; its actions are single ones."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What clients are told when they connect."""

    def answer(self, requests: Sequence[Request]) -> list[dict[str, Any] | Exception]:
        """One answer, or what went wrong, for each request, in their order."""


def describe(
    spec: Spec, chunk: int, keys: Mapping[str, str], language: TextEncoder | None = None, **more: Any
) -> dict[str, Any]:
    """Metadata: what is to be sent and what comes back; where `language` makes the instruction, the prompt is sent."""
    sent = [key for key in spec.observation if language is None or key != INSTRUCTION]
    ours = {
        "observation": {keys[key]: spec.observation[key].to_json() for key in sent},
        "prompt": language is not None,
        "action": spec.action.to_json(),
        "size": spec.action.shape[0],
        "chunk": chunk,
        "semantics": spec.action_semantics,
        "control_period_s": spec.control_period_s,
        ECHO: True,
        **more,
    }
    return {"robot_rl": ours}


@dataclass(kw_only=True)
class ServedAgent:
    """A policy of ours: the requests of several clients are one batch."""

    proposer: AgentProposer
    keys: Mapping[str, str]
    clock: Clock
    language: TextEncoder | None = None  # of the prompt, where the policy reads it
    batches: int = field(init=False, default=0)

    @property
    def spec(self) -> Spec:
        """What it sees."""
        return self.proposer.observations

    @property
    def metadata(self) -> dict[str, Any]:
        """What clients are told when they connect."""
        more = {CANDIDATES: MAXIMUM_CANDIDATES, "steered": False}
        return describe(self.spec, self.proposer.chunk, self.keys, self.language, **more)

    def answer(self, requests: Sequence[Request]) -> list[dict[str, Any] | Exception]:
        """One batch of those that want one decision, one call for each that wants candidates."""
        answers: dict[int, dict[str, Any] | Exception] = {}
        plain = [index for index, request in enumerate(requests) if request.candidates is None]
        if len(plain) > 1:
            try:
                answers |= self._batch(plain, requests)
            except Exception:  # noqa: BLE001  # one client's request must not cost the others theirs: one by one, below
                answers = {}
        for index, request in enumerate(requests):
            if index not in answers:
                try:
                    answers[index] = self._one(request)
                except Exception as error:  # noqa: BLE001  # it is this client's answer
                    answers[index] = error
        return [answers[index] for index in range(len(requests))]

    def _batch(self, plain: list[int], requests: Sequence[Request]) -> dict[int, dict[str, Any]]:
        rows = {key: np.stack([requests[index].observation[key] for index in plain]) for key in self.spec.observation}
        actions = self.proposer.decide(rows)  # (B, H, A)
        self.batches += 1
        return {index: {ACTIONS: chunk} for index, chunk in zip(plain, actions, strict=True)}

    def _one(self, request: Request) -> dict[str, Any]:
        if request.candidates is None:
            return {ACTIONS: self.proposer.decide({key: value[None] for key, value in request.observation.items()})[0]}
        found = self.proposer.propose(
            request.observation,
            request.candidates,
            observation_id=0,
            deadline=Deadline(clock=self.clock),
            ready=lambda base: None,
        )
        return {ACTIONS: found.actions[0], "candidates": found.actions}


@dataclass(kw_only=True)
class ServedFile:
    """An exported policy: requests one after the other."""

    policy: OnnxPolicy
    keys: Mapping[str, str]

    @property
    def spec(self) -> Spec:
        """What it sees."""
        return self.policy.spec

    @property
    def metadata(self) -> dict[str, Any]:
        """What clients are told when they connect."""
        return describe(self.spec, self.policy.action_chunk, self.keys, steered=False)

    def answer(self, requests: Sequence[Request]) -> list[dict[str, Any] | Exception]:
        """A decision for each."""
        answers: list[dict[str, Any] | Exception] = []
        for request in requests:
            if request.candidates is not None:
                answers.append(InputError(f"an exported policy gives one decision: leave out '{CANDIDATES}'"))
                continue
            try:
                answers.append({ACTIONS: self.policy.decide(request.observation)})
            except Exception as error:  # noqa: BLE001  # it is this client's answer, not the others'
                answers.append(error)
        return answers


@dataclass(kw_only=True)
class ServedSteering:
    """A steered policy: decisions one after the other, each with its K candidates as one batch.

    Args:
        steerer: decides.
        observations: what has to be sent, and is checked.
        keys: name in `observations` -> name in messages.
        deadline_s: see `Steerer.decide`.
        forwards: the policy is a server itself, which is sent whole messages under their own names.
        language: of the prompt, where the critic (or a policy of ours) reads it.
    """

    steerer: Steerer
    observations: Spec
    keys: Mapping[str, str]
    deadline_s: float | None = None
    forwards: bool = False
    language: TextEncoder | None = None
    _task: str | None = field(init=False, default=None)  # of the request before

    @property
    def spec(self) -> Spec:
        """What it sees."""
        return self.observations

    @property
    def metadata(self) -> dict[str, Any]:
        """What clients are told when they connect."""
        chunk = self.steerer.proposer.spec.chunk
        candidates = self.steerer.candidates
        return describe(self.spec, chunk, self.keys, self.language, steered=True, steering_candidates=candidates)

    def answer(self, requests: Sequence[Request]) -> list[dict[str, Any] | Exception]:
        """A decision for each; an error where not even the policy gave an action."""
        answers: list[dict[str, Any] | Exception] = []
        for request in requests:
            try:
                answers.append(self._one(request))
            except Exception as error:  # noqa: BLE001  # it is this client's answer, not the others'
                answers.append(error)
        return answers

    def _one(self, request: Request) -> dict[str, Any]:
        if request.candidates is not None:
            raise InputError(f"a steered policy gives one decision: leave out '{CANDIDATES}'")
        if request.task != self._task:
            self._task = request.task
            self.steerer.reset(request.task)
        observation = request.sent if self.forwards else request.observation
        decision = self.steerer.decide(observation, deadline_s=self.deadline_s)
        if decision.actions is None:
            raise ProposerError(str(decision.record.error))
        return {ACTIONS: decision.actions, "steering": decision.record.to_json()}
