"""A policy behind openpi's websocket protocol, as a proposer.

The server speaks first (a map of metadata); then one binary message is answered by one. A text frame is an error. There
is no number by which an answer could be told from another, so a connection on which an answer is late is never used
again. Read in Physical-Intelligence/openpi, src/openpi/serving/websocket_policy_server.py and
packages/openpi-client/src/openpi_client/websocket_client_policy.py, commit 15a9616.
"""

import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from robot_rl.errors import InputError
from robot_rl.steering.action_spec import ActionSpec
from robot_rl.steering.answers import Answers, OldAnswer, selected
from robot_rl.steering.proposals import BASE, SAMPLE, Capabilities, Deadline, Proposals, ProposerError
from robot_rl.steering.wire import WireError, pack, unpack
from robot_rl.types import Array

PROMPT, ACTIONS, CANDIDATES, ECHO = "prompt", "actions", "robot_rl/candidates", "robot_rl/request"
"""The last two are ours: servers of ours name them in their metadata, under `robot_rl`; others never see them."""
OPEN_TIMEOUT_S = 10.0  # to connect, where there is no deadline
ANSWER_TIMEOUT_S = 60.0  # to answer, where there is no deadline


@dataclass(kw_only=True)
class OpenPiConnection:
    """One request at a time over one connection, which is made when it is needed and dropped at the first doubt.

    Args:
        uri: such as ws://127.0.0.1:8000, or wss://.
        api_key: sent as `Authorization: Api-Key ...`.
        maximum_bytes: of an answer.
    """

    uri: str
    api_key: str | None = None
    maximum_bytes: int = 64 * 2**20
    metadata: dict[Any, Any] = field(init=False, default_factory=dict)  # what the server said of itself
    counts: Counter[str] = field(init=False, default_factory=Counter)  # connected, timeout, error, closed, answered
    _socket: ClientConnection | None = field(init=False, default=None)
    _open: contextlib.ExitStack = field(init=False, default_factory=contextlib.ExitStack)

    def __post_init__(self) -> None:
        if not self.uri.startswith(("ws://", "wss://")):
            raise InputError(f"policy server {self.uri!r}: write ws://HOST:PORT or wss://HOST:PORT")

    def open(self, deadline: Deadline) -> dict[Any, Any]:
        """Connect if there is no connection; the server's metadata.

        Raises:
            ProposerError: there is no server, it refuses, or it is silent.
        """
        if self._socket is None:
            left_s = deadline.left_s
            header = {} if self.api_key is None else {"Authorization": f"Api-Key {self.api_key}"}
            try:
                opening = connect(
                    self.uri,
                    compression=None,
                    max_size=self.maximum_bytes,
                    additional_headers=header,
                    open_timeout=OPEN_TIMEOUT_S if left_s is None else left_s,
                    close_timeout=1.0,
                    proxy=None,
                )
                self._socket = self._open.enter_context(opening)
            except (OSError, TimeoutError, WebSocketException) as error:
                self.counts["closed"] += 1
                raise ProposerError(f"cannot connect to {self.uri}: {type(error).__name__}: {error}") from error
            self.counts["connected"] += 1
            self.metadata = self._receive(deadline)
        return self.metadata

    def call(self, request: dict[str, Any], deadline: Deadline) -> dict[Any, Any]:
        """Ask, and wait for the answer.

        Raises:
            ProposerError: no answer until the deadline, an error of the server, or no message.
        """
        self.open(deadline)
        assert self._socket is not None
        try:
            self._socket.send(pack(request))
        except WireError as error:
            raise ProposerError(f"the observation cannot be sent: {error}") from error
        except (OSError, WebSocketException) as error:
            self.drop("closed")
            raise ProposerError(f"{self.uri} does not take requests: {type(error).__name__}: {error}") from error
        answer = self._receive(deadline)
        self.counts["answered"] += 1
        return answer

    def _receive(self, deadline: Deadline) -> dict[Any, Any]:
        assert self._socket is not None
        left_s = deadline.left_s
        try:
            found = self._socket.recv(timeout=ANSWER_TIMEOUT_S if left_s is None else left_s)
        except TimeoutError as error:
            self.drop("timeout")
            raise ProposerError(f"{self.uri} did not answer in time; the connection is not used again") from error
        except (OSError, WebSocketException) as error:
            self.drop("closed")
            raise ProposerError(f"{self.uri} closed the connection: {type(error).__name__}: {error}") from error
        if isinstance(found, str):
            self.drop("error")
            raise ProposerError(f"{self.uri} reports an error: {found.strip()[-500:]}")
        try:
            return unpack(found)
        except WireError as error:
            self.drop("error")
            raise ProposerError(f"{self.uri} sends {error}") from error

    def drop(self, why: str) -> None:
        """Use this connection no more, without waiting for the other side."""
        self.counts[why] += 1
        self.close()

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._socket is not None:
            connection, self._socket = self._socket, None
            with contextlib.suppress(OSError):  # the other side was first
                connection.socket.shutdown(socket.SHUT_RDWR)
            self._open.close()


@dataclass(kw_only=True)
class OpenPiProposer:
    """K candidates by K requests, or by one where the server can (`robot-rl serve`).

    Args:
        connection: to the server.
        spec: what the server's actions are. The protocol does not say, so it is declared; what a server of ours says of
            itself is compared with it.
        keys: name in the observation -> name on the wire; nothing else is sent. None sends all of an observation under
            its own names. Images go as they are, states in units.
    """

    connection: OpenPiConnection
    spec: ActionSpec
    keys: Mapping[str, str] | None
    _task: str = field(init=False, default="")
    _requests: int = field(init=False, default=0)
    _answers: Answers = field(init=False)

    def __post_init__(self) -> None:
        self._answers = Answers(spec=self.spec, address=self.connection.uri)

    @property
    def capabilities(self) -> Capabilities:
        """Whether it samples shows when it is asked twice."""
        return Capabilities(stochastic=True, native_batch=CANDIDATES in self._ours, remote=True)

    @property
    def _ours(self) -> Mapping[str, Any]:
        said = self.connection.metadata.get("robot_rl")
        return said if isinstance(said, dict) else {}

    def reset(self, task: str) -> None:
        """An episode begins; nothing is sent, as the protocol has no word for it."""
        self._task = task
        self._answers.forget()

    def commit(self, actions: Array) -> None:
        """The protocol has no word for it."""

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
            InputError: an observation lacks a key.
        """
        keys = None if self.keys is None else {name: key for key, name in self.keys.items()}
        sent = selected(observation, keys, self.connection.uri)
        request: dict[str, Any] = dict(sent)
        if self._task:
            request[PROMPT] = self._task
        self._answers.ask(sent)
        found = self._first(request, count, deadline)
        ready(found[0])
        error = None
        while len(found) < count and not self._batches and not deadline.passed:
            try:
                found.append(self._chunk(self._call(request, deadline)))
            except ProposerError as failed:  # what is there is enough
                error = str(failed)
                break
        self._answers.keep(sent, found)
        kinds = (BASE, *[SAMPLE] * (len(found) - 1))
        metadata = {} if error is None else {"error": error}
        return Proposals(actions=np.stack(found), kinds=kinds, observation_id=observation_id, metadata=metadata)

    @property
    def _batches(self) -> bool:
        return CANDIDATES in self._ours

    def _first(self, request: dict[str, Any], count: int, deadline: Deadline) -> list[Array]:
        self._require_fit(self.connection.open(deadline))
        if not self._batches or count == 1:
            return [self._chunk(self._call(request, deadline))]
        answer = self._call({**request, CANDIDATES: count}, deadline)
        several = answer.get("candidates")
        if not isinstance(several, np.ndarray) or several.ndim != 3:
            raise self._answers.refusal(f"`candidates` are {type(several).__name__}, not an array (K, H, A)")
        return [self._chunk({ACTIONS: each}) for each in several]

    def _call(self, request: dict[str, Any], deadline: Deadline) -> dict[Any, Any]:
        self._requests += 1
        echoes = ECHO in self._ours
        answer = self.connection.call({**request, ECHO: self._requests} if echoes else request, deadline)
        if echoes and answer.get(ECHO) != self._requests:
            self.connection.drop("error")
            raise self._answers.refusal(f"it belongs to request {answer.get(ECHO)!r}, not to {self._requests}")
        return answer

    def _chunk(self, answer: Mapping[Any, Any]) -> Array:
        """(H, A) of an answer, checked."""
        try:
            return self._answers.take(answer.get(ACTIONS), ACTIONS)
        except OldAnswer:
            self.connection.drop("error")
            raise

    def _require_fit(self, metadata: Mapping[Any, Any]) -> None:
        said = metadata.get("robot_rl")
        if not isinstance(said, dict):
            return
        spec = self.spec
        facts = {"chunk": spec.chunk, "size": spec.size, "semantics": spec.semantics}
        for name, wanted in facts.items():
            if name in said and said[name] != wanted:
                raise InputError(f"{self.connection.uri} says {name}={said[name]!r} of itself, declared is {wanted!r}")
        period = said.get("control_period_s")
        ours = spec.control_period_s
        if period is not None and (ours is None or not np.isclose(period, ours)):
            raise InputError(f"{self.connection.uri} says control_period_s={period} of itself, declared is {ours}")
