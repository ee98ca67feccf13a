"""A policy behind LeRobot's asynchronous inference server (gRPC), asked synchronously.

Service `transport.AsyncInference`: `Ready` begins, `SendPolicyInstructions` names the policy, which the server then
loads, `SendObservations` is a stream of pieces of one observation, `GetActions` answers the actions of the newest one.
Payloads are pickles, see `pickles.py`; answers carry the number of the observation's step, so that an old one shows.
The server swallows its own errors: it answers nothing. Read in huggingface/lerobot, src/lerobot/async_inference and
src/lerobot/transport, 7427f3180 (v0.6.2), 042f9d6 and 0192ceb.

The server unpickles whatever it is sent, by whomever: it belongs on the loopback device of a machine that nobody
shares.
"""

import importlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robot_rl.errors import InputError
from robot_rl.exchange import is_loopback
from robot_rl.steering.clients.pickles import HELPERS, Call, Instance, Name, read, tensor, write
from robot_rl.steering.clients.protobuf import decode, encode
from robot_rl.steering.proposals import Deadline, ProposerError
from robot_rl.steering.wire import WireError

ANSWER_TIMEOUT_S = 60.0  # where there is no deadline
PIECE_BYTES = 2 * 2**20
BEGIN, MIDDLE, END = 1, 2, 3
SERVICE = "/transport.AsyncInference/"
STATE, TASK, CAMERA = "observation.state", "task", "observation.images."
MAXIMUM_STEP = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class PolicyChoice:
    """What the server is told to load.

    Args:
        kind: such as smolvla, act, pi0.
        path: a folder on the server's machine, or a name that it knows.
        features: of the observations in LeRobot's words: {observation.state: {dtype: float32, shape: [6], names: [..]},
            observation.images.front: {dtype: image, shape: [480, 640, 3], names: [height, width, channels]}}.
        chunk: actions of an answer.
        device: of the server.
        renamed: name of an observation -> name that the policy knows it by.
    """

    kind: str
    path: str
    features: Mapping[str, Mapping[str, Any]]
    chunk: int
    device: str = "cpu"
    renamed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.kind or not self.path or not self.features:
            raise InputError("LeRobot's server is told what to load: set policy.kind, policy.path and policy.features")
        for name, facts in self.features.items():
            if not {"dtype", "shape", "names"} <= set(facts):
                raise InputError(f"policy.features.{name}={dict(facts)} must have dtype, shape and names")

    def pickled(self) -> bytes:
        """`RemotePolicyConfig`."""
        features = {
            name: {key: tuple(value) if key == "shape" else value for key, value in facts.items()}
            for name, facts in self.features.items()
        }
        fields = {
            "policy_type": self.kind,
            "pretrained_name_or_path": self.path,
            "lerobot_features": features,
            "actions_per_chunk": self.chunk,
            "device": self.device,
            "rename_map": dict(self.renamed),
        }
        return write(Instance(Name(HELPERS, "RemotePolicyConfig"), fields))


@dataclass(kw_only=True)
class LeRobotServerClient:
    """One observation, one answer; each observation is a new step that must be answered.

    Args:
        target: HOST:PORT on this machine.
        choice: what to load.
        allow_pickle: the user said that a server that unpickles is wanted.
        wall_s: seconds of the wall clock, which the server writes into its log.

    Raises:
        InputError: not allowed, not loopback, or grpcio is not installed.
    """

    target: str
    choice: PolicyChoice
    allow_pickle: bool = False
    wall_s: Callable[[], float] = time.time
    counts: Counter[str] = field(init=False, default_factory=Counter)  # told, timeout, error, answered
    _grpc: Any = field(init=False)
    _channel: Any = field(init=False, default=None)
    _loading: Any = field(init=False, default=None)  # the call that loads the policy
    _step: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        host = self.target.rpartition(":")[0].strip("[]")
        if not is_loopback(host):
            raise InputError(
                f"LeRobot's server at {self.target} unpickles what it is sent, so only loopback is spoken to: run it "
                "on this machine with --host=127.0.0.1, or reach it through a tunnel"
            )
        if not self.allow_pickle:
            raise InputError(
                "LeRobot's server unpickles what anybody on this machine sends it, which can run anything "
                "(CVE-2026-25874): set policy.allow_pickle=true where that is no danger"
            )
        try:
            self._grpc = importlib.import_module("grpc")
        except ImportError as error:
            raise InputError("LeRobot's protocol needs grpcio: pip install 'robot-rl[clients]'") from error

    @property
    def address(self) -> str:
        """Of the server."""
        return f"grpc://{self.target}"

    def begin(self, task: str, deadline: Deadline) -> None:
        """The server forgets its queue; at first, and after it was gone, it is told what to load.

        Raises:
            ProposerError: it is not there, or is loading.
        """
        if self._loading is None:
            self._call("Ready", b"", deadline)
            self._tell()
        self._loaded(deadline)
        self._call("Ready", b"", deadline)

    def ask(self, sent: Mapping[str, Any], task: str, deadline: Deadline) -> Any:
        """Shapes: images (H, W, 3) uint8, the state (S,) -> (H, A)."""
        if self._loading is None:
            self.begin(task, deadline)
        self._step = self._step % MAXIMUM_STEP + 1
        fields = {
            "timestamp": self.wall_s(),
            "timestep": self._step,
            "observation": self._observation(sent, task),
            "must_go": True,  # else an observation that is near the one before is dropped in silence
        }
        try:
            data = write(Instance(Name(HELPERS, "TimedObservation"), fields))
        except WireError as error:
            raise InputError(f"{self.address}: {error}") from error
        self._send(data, deadline)
        answer = self._call("GetActions", b"", deadline)
        try:
            return self._actions(decode(answer))
        except WireError as error:
            self.counts["error"] += 1
            raise ProposerError(f"{self.address} answers {error}") from error

    def close(self) -> None:
        """End the connection."""
        if self._channel is not None:
            self._channel.close()
            self._channel, self._loading = None, None

    def _observation(self, sent: Mapping[str, Any], task: str) -> dict[str, Any]:
        found: dict[str, Any] = {TASK: task} if task else {}
        for name, value in sent.items():
            facts = self.choice.features.get(name)
            if name != STATE:
                found[name.removeprefix(CAMERA)] = value
                continue
            names = [] if facts is None else list(facts["names"])
            numbers = np.asarray(value, np.float64).ravel()
            if len(names) != len(numbers):
                raise InputError(
                    f"{STATE} has {len(numbers)} numbers, and policy.features.{STATE}.names {len(names)}: name each"
                )
            found |= {joint: float(number) for joint, number in zip(names, numbers, strict=True)}
        return found

    def _actions(self, data: bytes) -> Any:
        if not data:
            raise WireError("nothing: it failed (its log says why), or does not know the policy")
        rows = read(data)
        if not isinstance(rows, list) or not rows:
            raise WireError(f"a {type(rows).__name__}, not a list of actions")
        steps, actions = [], []
        for row in rows:
            match row:
                case Call(Name(_, "TimedAction"), (), {"timestep": int(step), "action": action}):
                    steps.append(step)
                    actions.append(tensor(action))
                case _:
                    raise WireError("a list of something else than actions")
        if steps[0] != self._step:
            raise WireError(f"the actions of step {steps[0]}, not of {self._step}: an old answer")
        if len({action.shape for action in actions}) > 1:
            raise WireError("actions of different shapes")
        self.counts["answered"] += 1
        return np.stack(actions)

    # Calls ------------------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Loading takes as long as it takes, so it is begun here and waited for as long as there is time."""
        call = self._open().unary_unary(f"{SERVICE}SendPolicyInstructions")
        self._loading = call.future(encode(self.choice.pickled()))
        self.counts["told"] += 1

    def _loaded(self, deadline: Deadline) -> None:
        try:
            self._loading.result(timeout=_left(deadline))
        except self._grpc.FutureTimeoutError as error:
            raise ProposerError(f"{self.address} is loading {self.choice.path}") from error
        except self._grpc.RpcError as error:
            self._loading = None
            raise ProposerError(f"{self.address} does not load {self.choice.path}: {_reason(error)}") from error

    def _send(self, data: bytes, deadline: Deadline) -> None:
        def pieces() -> Iterator[bytes]:
            for start in range(0, len(data), PIECE_BYTES):
                last = start + PIECE_BYTES >= len(data)
                state = END if last else BEGIN if start == 0 else MIDDLE  # one piece is an end without a beginning
                yield encode(data[start : start + PIECE_BYTES], state)

        try:
            self._open().stream_unary(f"{SERVICE}SendObservations")(pieces(), timeout=_left(deadline))
        except self._grpc.RpcError as error:
            raise self._failed(error) from error

    def _call(self, name: str, data: bytes, deadline: Deadline) -> bytes:
        try:
            answer: bytes = self._open().unary_unary(f"{SERVICE}{name}")(data, timeout=_left(deadline))
        except self._grpc.RpcError as error:
            raise self._failed(error) from error
        return answer

    def _failed(self, error: Any) -> ProposerError:
        late = error.code() == self._grpc.StatusCode.DEADLINE_EXCEEDED
        self.counts["timeout" if late else "error"] += 1
        if late:
            return ProposerError(f"{self.address} did not answer in time")
        self.close()  # it may be another one when it comes back, which knows no policy
        return ProposerError(f"{self.address} cannot be asked: {_reason(error)}")

    def _open(self) -> Any:
        if self._channel is None:
            self._channel = self._grpc.insecure_channel(self.target, options=[("grpc.enable_retries", 0)])
        return self._channel


def _left(deadline: Deadline) -> float:
    left_s = deadline.left_s
    return ANSWER_TIMEOUT_S if left_s is None else left_s


def _reason(error: Any) -> str:
    return f"{error.code().name}: {str(error.details())[:300]}"
