"""GR00T behind its ZeroMQ server.

REQ/REP; msgpack. A request is `{"endpoint": "get_action", "data": {"observation": .., "options": None}, "api_token":
..}`; an answer is `[actions, info]` or `{"error": TEXT}`, or the bytes `ERROR` of servers of an older kind. An array is
`{"__ndarray_class__": True, "as_npy": BYTES}`, a .npy file. Observations are nested: `video` (B, T, H, W, C) uint8,
`state` (B, T, D) float32, `language` lists of lists of text; actions are (B, H, D) by name. Read in NVIDIA/Isaac-GR00T,
gr00t/policy/server_client.py (38624df) and gr00t_policy.py (226ca9b).

Differences from its own client: time-outs are those of the socket, whose own client stores one and applies none; a
socket on which an answer was late is closed, as a REQ socket cannot send again before it has received.
"""

import importlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np

from robot_rl.errors import InputError
from robot_rl.steering.answers import instruction_for
from robot_rl.steering.proposals import Deadline, ProposerError
from robot_rl.steering.wire import DTYPES, WireError

ANSWER_TIMEOUT_S = 60.0  # where there is no deadline
MAXIMUM_HEADER = 10_000  # bytes of a .npy header
ARRAY, NPY = "__ndarray_class__", "as_npy"
NUMPY_FORMAT: Any = np.lib.format  # whose types numpy does not declare
MODALITIES = ("video", "state", "language")


def pack(message: Mapping[str, Any]) -> bytes:
    """The bytes of a request.

    Raises:
        WireError: it holds what no message can.
    """
    try:
        packed: bytes = msgpack.packb(message, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"this cannot be sent: {error}") from error
    return packed


def unpack(data: bytes) -> Any:
    """What is in an answer; its arrays are copies.

    Raises:
        WireError: no msgpack, or an array that is none.
    """
    try:
        return msgpack.unpackb(data, object_hook=_decode)
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"no msgpack message ({type(error).__name__}: {error})") from error


def _encode(value: Any) -> dict[str, Any]:
    if not isinstance(value, np.ndarray) or DTYPES.fullmatch(value.dtype.str) is None:
        raise TypeError(f"a {type(value).__name__} has no place in a message")
    file = io.BytesIO()
    NUMPY_FORMAT.write_array(file, value, allow_pickle=False)
    return {ARRAY: True, NPY: file.getvalue()}


def _decode(items: dict[Any, Any]) -> Any:
    if ARRAY not in items:
        return items
    data = items.get(NPY)
    if not isinstance(data, bytes):
        raise WireError(f"an array is {type(data).__name__}, not the bytes of a .npy file")
    try:
        found = NUMPY_FORMAT.read_array(io.BytesIO(data), allow_pickle=False, max_header_size=MAXIMUM_HEADER)
    except (ValueError, EOFError, TypeError, SyntaxError, MemoryError) as error:
        raise WireError(f"an array cannot be read: {error}") from error
    if DTYPES.fullmatch(found.dtype.str) is None:
        raise WireError(f"arrays of the type {found.dtype} are not taken")
    return found


@dataclass(kw_only=True)
class GrootClient:
    """GR00T by names such as `video.ego_view`, `state.left_arm`, `language.task`.

    Args:
        uri: tcp://HOST:PORT, such as tcp://127.0.0.1:5555.
        actions: names of the actions in the order in which they are put together, such as [left_arm, left_hand].
        language: name of the instruction among the model's `language`; None: the model takes none.
        api_token: sent with each request.
        maximum_bytes: of an answer.

    Raises:
        InputError: no such address, no names, or pyzmq is not installed.
    """

    uri: str
    actions: Sequence[str]
    language: str | None = "annotation.human.task_description"
    api_token: str | None = None
    maximum_bytes: int = 64 * 2**20
    counts: Counter[str] = field(init=False, default_factory=Counter)  # connected, timeout, error, answered
    _zmq: Any = field(init=False)
    _context: Any = field(init=False, default=None)
    _socket: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not self.uri.startswith("tcp://"):
            raise InputError(f"policy server {self.uri!r}: write tcp://HOST:PORT")
        if not self.actions:
            raise InputError(
                "GR00T answers actions by name: set policy.actions=[NAME, ..], those of the model's modality config, "
                "in the order of the critic's actions"
            )
        try:
            self._zmq = importlib.import_module("zmq")
        except ImportError as error:
            raise InputError("GR00T's protocol needs pyzmq: pip install 'robot-rl[clients]'") from error

    @property
    def address(self) -> str:
        """Of the server."""
        return self.uri

    def begin(self, task: str, deadline: Deadline) -> None:
        """The server forgets what it saw."""
        self._call({"endpoint": "reset", "data": {"options": None}}, deadline)

    def ask(self, sent: Mapping[str, Any], task: str, deadline: Deadline) -> Any:
        """Shapes: video (H, W, C), state (D,) -> (H, A)."""
        data = {"observation": self._observation(sent, task), "options": None}
        answer = self._call({"endpoint": "get_action", "data": data}, deadline)
        if not isinstance(answer, list) or not answer or not isinstance(answer[0], dict):
            raise ProposerError(f"{self.uri} answers {type(answer).__name__}, not [actions, info]")
        found = {str(name).removeprefix("action."): value for name, value in answer[0].items()}
        names = [name.removeprefix("action.") for name in self.actions]
        missing = [name for name in names if name not in found]
        if missing:
            raise InputError(f"{self.uri} answers actions {sorted(found)}, not {missing}: set policy.actions")
        parts = [found[name] for name in names]
        for name, part in zip(names, parts, strict=True):
            if not isinstance(part, np.ndarray) or part.ndim != 3 or part.shape[0] != 1:
                shape = part.shape if isinstance(part, np.ndarray) else type(part).__name__
                raise ProposerError(f"{self.uri} gives no usable answer: action {name!r} is {shape}, not (1, H, D)")
        try:
            return np.concatenate(parts, axis=2)[0]
        except ValueError as error:
            raise ProposerError(f"{self.uri} gives no usable answer: {error}") from error

    def close(self) -> None:
        """End the connection."""
        self._drop()
        if self._context is not None:
            self._context.term()
            self._context = None

    def _observation(self, sent: Mapping[str, Any], task: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {"video": {}, "state": {}, "language": {}}
        for name, value in sent.items():
            modality, _, rest = name.partition(".")
            if modality not in MODALITIES[:2] or not rest or not isinstance(value, np.ndarray):
                raise InputError(
                    f"GR00T's observations are arrays called video.NAME or state.NAME, not {name!r}: set policy.keys"
                )
            given = value if modality == "video" else value.astype(np.float32)
            found[modality][rest] = given[None, None]
        if self.language is not None:
            found["language"][self.language] = [[instruction_for("GR00T", task)]]
        return found

    def _call(self, request: dict[str, Any], deadline: Deadline) -> Any:
        if self.api_token is not None:
            request = {**request, "api_token": self.api_token}
        try:
            data = pack(request)
        except WireError as error:
            raise InputError(f"{self.uri}: {error}") from error
        left_s = deadline.left_s
        left_ms = round(1e3 * (ANSWER_TIMEOUT_S if left_s is None else left_s))
        if left_ms <= 0:
            raise ProposerError(f"no time is left to ask {self.uri}")
        socket, zmq = self._connected(), self._zmq
        try:
            socket.setsockopt(zmq.SNDTIMEO, left_ms)
            socket.send(data)
            left_s = deadline.left_s
            socket.setsockopt(zmq.RCVTIMEO, left_ms if left_s is None else max(1, round(1e3 * left_s)))
            answer = socket.recv()
        except zmq.Again as error:
            self._drop("timeout")
            raise ProposerError(f"{self.uri} did not answer in time; the socket is not used again") from error
        except zmq.ZMQError as error:
            self._drop("error")
            raise ProposerError(f"{self.uri} cannot be asked: {error}") from error
        return self._read(answer)

    def _read(self, answer: bytes) -> Any:
        if answer == b"ERROR":
            self.counts["error"] += 1
            raise ProposerError(f"{self.uri} reports an error without words: its log says which")
        try:
            found = unpack(answer)
        except WireError as error:
            self._drop("error")
            raise ProposerError(f"{self.uri} answers {error}") from error
        if isinstance(found, dict) and "error" in found:
            self.counts["error"] += 1
            raise ProposerError(f"{self.uri} reports an error: {str(found['error']).strip()[-500:]}")
        self.counts["answered"] += 1
        return found

    def _connected(self) -> Any:
        if self._socket is None:
            zmq = self._zmq
            if self._context is None:
                self._context = zmq.Context()
            self._socket = self._context.socket(zmq.REQ)
            self._socket.setsockopt(zmq.LINGER, 0)  # nothing is sent after it was given up
            self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing waits for a server that is not there
            self._socket.setsockopt(zmq.MAXMSGSIZE, self.maximum_bytes)
            self._socket.connect(self.uri)
            self.counts["connected"] += 1
        return self._socket

    def _drop(self, why: str | None = None) -> None:
        if why is not None:
            self.counts[why] += 1
        if self._socket is not None:
            self._socket.close()
            self._socket = None
