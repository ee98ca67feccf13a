"""LeRobot's policy server: a local one that behaves as it does, filters and empty answers included."""

import pickle
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent import futures
from queue import Empty, Queue
from typing import Any

import numpy as np
import pytest
import torch
from scripted import spec
from test_pickles import Evil, RemotePolicyConfig, TimedAction, TimedObservation

from robot_rl.clock import MonotonicClock
from robot_rl.errors import InputError
from robot_rl.steering.clients.lerobot_server import PIECE_BYTES, LeRobotServerClient, PolicyChoice
from robot_rl.steering.clients.pickles import HELPERS
from robot_rl.steering.clients.protobuf import decode, encode
from robot_rl.steering.proposals import Deadline, Proposals, ProposerError
from robot_rl.steering.remote import RemoteProposer
from robot_rl.steering.wire import WireError

grpc = pytest.importorskip("grpc")
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": [2], "names": ["shoulder.pos", "elbow.pos"]},
    "observation.images.front": {"dtype": "image", "shape": [4, 5, 3], "names": ["height", "width", "channels"]},
}
OBSERVATION = {"camera": np.arange(60, dtype=np.uint8).reshape(4, 5, 3), "joints": np.array([0.5, -0.5], np.float32)}
KEYS = {"observation.images.front": "camera", "observation.state": "joints"}


@pytest.fixture(autouse=True)
def helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that the server's pickles name."""
    module = types.ModuleType(HELPERS)
    for kind in (TimedObservation, TimedAction, RemotePolicyConfig):
        monkeypatch.setattr(kind, "__module__", HELPERS)
        setattr(module, kind.__name__, kind)
    for name in (HELPERS, HELPERS.rpartition(".")[0], "lerobot"):
        monkeypatch.setitem(sys.modules, name, module)


class LeRobotServer:
    """The four calls. Fields of messages are read by hand, so that ours are checked by something else than ours."""

    def __init__(self, infer: Callable[[TimedObservation, int], Any], port: int = 0, loads: float = 0.0) -> None:
        self.infer, self.loads = infer, loads
        self.choice: RemotePolicyConfig | None = None
        self.calls: list[str] = []
        self.pieces: list[list[tuple[int, int]]] = []  # of each observation: state and size
        self.observations: list[TimedObservation] = []
        self.queue: Queue[TimedObservation] = Queue(maxsize=1)
        self.predicted: set[int] = set()
        self.last: TimedObservation | None = None
        self.wait_s = 0.2
        self.server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_unary_rpc_method_handler
        methods = {"Ready": unary(self.ready), "SendPolicyInstructions": unary(self.instructions)}
        methods |= {"SendObservations": stream(self.send), "GetActions": unary(self.actions)}
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("transport.AsyncInference", methods),)
        )
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.server.start()

    def ready(self, request: bytes, context: Any) -> bytes:
        self.calls.append("Ready")
        self.queue, self.predicted = Queue(maxsize=1), set()
        return b""

    def instructions(self, request: bytes, context: Any) -> bytes:
        self.calls.append("SendPolicyInstructions")
        data = field(request, 1)
        time.sleep(self.loads)
        self.choice = pickle.loads(data)  # noqa: S301  # as it does
        return b""

    def send(self, requests: Iterator[bytes], context: Any) -> bytes:
        self.calls.append("SendObservations")
        whole, pieces = b"", []
        for message in requests:
            state, data = message[1], field(message, 2)
            assert message[:1] == b"\x08"
            pieces.append((state, len(data)))
            whole = data if state == 1 else whole + data
        self.pieces.append(pieces)
        found = pickle.loads(whole)  # noqa: S301  # as it does
        near = self.last is not None and abs(found.observation["elbow.pos"] - self.last.observation["elbow.pos"]) < 1
        if found.must_go or self.last is None or not (near or found.timestep in self.predicted):
            if self.queue.full():
                self.queue.get_nowait()
            self.queue.put(found)
        return b""

    def actions(self, request: bytes, context: Any) -> bytes:
        self.calls.append("GetActions")
        try:
            observation = self.queue.get(timeout=self.wait_s)
            self.predicted.add(observation.timestep)
            self.last = observation
            self.observations.append(observation)
            rows = self.infer(observation, len(self.observations))
            data = rows if isinstance(rows, bytes) else pickle.dumps(rows)
        except (Empty, RuntimeError):  # it swallows its own errors
            return b""
        return b"\x0a" + length(len(data)) + data

    def close(self) -> None:
        self.server.stop(None).wait(10)


def field(message: bytes, number: int) -> bytes:
    """The bytes of the last field of a message."""
    at = message.index(bytes([number * 8 + 2]))
    size, shift, at = 0, 0, at + 1
    while True:
        size |= (message[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if message[at - 1] < 128:
            break
    assert len(message) == at + size
    return message[at:]


def length(size: int) -> bytes:
    out = b""
    while size > 127:
        out, size = out + bytes([size & 127 | 128]), size >> 7
    return out + bytes([size])


def timed(observation: TimedObservation, chunk: np.ndarray, first: int | None = None) -> list[TimedAction]:
    start = observation.timestep if first is None else first
    return [TimedAction(0.1 * step, start + step, row) for step, row in enumerate(torch.from_numpy(chunk))]


def drawn(observation: TimedObservation, number: int) -> list[TimedAction]:
    return timed(observation, np.random.default_rng(number).uniform(0.1, 0.9, (3, 2)).astype(np.float32))


@pytest.fixture
def run() -> Iterator[Callable[..., LeRobotServer]]:
    """Starts servers; ends them with the test."""
    running: list[LeRobotServer] = []

    def start(infer: Any = drawn, **changes: Any) -> LeRobotServer:
        running.append(LeRobotServer(infer, **changes))
        return running[-1]

    yield start
    for each in running:
        each.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., RemoteProposer]]:
    """Makes proposers; closes their clients."""
    made: list[LeRobotServerClient] = []

    def start(port: int, **changes: Any) -> RemoteProposer:
        choice = PolicyChoice(kind="smolvla", path="/models/stack", features=FEATURES, chunk=3)
        made.append(LeRobotServerClient(target=f"127.0.0.1:{port}", choice=choice, allow_pickle=True, **changes))
        proposer = RemoteProposer(client=made[-1], spec=spec(), keys=KEYS)
        proposer.reset("lift")
        return proposer

    yield start
    for each in made:
        each.close()


def ask(proposer: RemoteProposer, count: int = 1, within_s: float = 20.0, **changes: Any) -> Proposals:
    deadline = Deadline.after(MonotonicClock(), within_s)
    return proposer.propose(
        {**OBSERVATION, **changes}, count, observation_id=3, deadline=deadline, ready=lambda base: None
    )


def test_messages_have_these_bytes() -> None:
    assert encode(b"") == b""
    assert encode(b"abc") == b"\x0a\x03abc"
    assert encode(b"abc", 3) == b"\x08\x03\x12\x03abc"
    assert encode(b"x" * 300)[:3] == b"\x0a\xac\x02"
    assert decode(b"\x0a\x03abc") == b"abc"
    assert decode(b"\x10\x05\x0a\x03abc\x1a\x01z") == b"abc"  # fields of a later version are passed over
    assert decode(b"") == b""
    for wrong in (b"\x0a\x05abc", b"\x0a", b"\x0d\x00\x00\x00\x00", b"\x0a" + b"\xff" * 11):
        with pytest.raises(WireError):
            decode(wrong)


def test_the_server_is_told_what_to_load_once_and_each_candidate_is_one_observation_that_must_be_answered(
    run: Any, connect: Any
) -> None:
    server = run()
    proposer = connect(server.port, wall_s=lambda: 12.5)
    found = ask(proposer, 3)
    proposer.reset("stack")
    ask(proposer)
    assert server.calls[:3] == ["Ready", "SendPolicyInstructions", "Ready"]
    assert server.calls[3:] == [*["SendObservations", "GetActions"] * 3, "Ready", "SendObservations", "GetActions"]
    features = {name: {**facts, "shape": tuple(facts["shape"])} for name, facts in FEATURES.items()}  # type: ignore[arg-type]
    assert server.choice == RemotePolicyConfig("smolvla", "/models/stack", features, 3, "cpu", {})
    first = server.observations[0]
    assert (first.timestamp, first.must_go) == (12.5, True)
    assert [each.timestep for each in server.observations] == [1, 2, 3, 4]
    assert {name: first.observation[name] for name in ("shoulder.pos", "elbow.pos", "task")} == {
        "shoulder.pos": 0.5, "elbow.pos": -0.5, "task": "lift"
    }  # fmt: skip
    np.testing.assert_array_equal(first.observation["front"], OBSERVATION["camera"])
    assert server.observations[3].observation["task"] == "stack"
    expected = [np.random.default_rng(number).uniform(0.1, 0.9, (3, 2)) for number in (1, 2, 3)]
    np.testing.assert_allclose(found.actions, expected, rtol=1e-6)
    assert found.kinds == ("base", "sample", "sample")


def test_large_observations_go_in_pieces_and_small_ones_are_an_end_without_a_beginning(run: Any, connect: Any) -> None:
    server = run()
    proposer = connect(server.port)
    ask(proposer)
    ask(proposer, camera=np.zeros((1200, 1400, 3), np.uint8))
    assert [state for state, _ in server.pieces[0]] == [3]
    assert [state for state, _ in server.pieces[1]] == [1, 2, 3]
    assert [size for _, size in server.pieces[1]][:2] == [PIECE_BYTES, PIECE_BYTES]
    assert server.observations[1].observation["front"].shape == (1200, 1400, 3)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda seen: b"\x80\x03N.", "a NoneType, not a list of actions"),
        (lambda seen: [], "a list, not a list of actions"),
        (lambda seen: [1, 2, 3], "something else than actions"),
        (lambda seen: pickle.dumps([Evil()]), "something else than actions"),
        (lambda seen: [TimedAction(0.0, seen.timestep, Evil())], "is no tensor"),  # type: ignore[arg-type]
        (lambda seen: timed(seen, np.zeros((3, 2), np.int64)), "float16, float32 or float64"),
        (lambda seen: timed(seen, np.full((3, 2), np.nan, np.float32)), "not all numbers"),
        (lambda seen: timed(seen, np.zeros((4, 2), np.float32)), r"shape \(4, 2\), declared is \(3, 2\)"),
        (lambda seen: [TimedAction(0, seen.timestep, torch.zeros(n)) for n in (2, 3)], "of different shapes"),
        (lambda seen: timed(seen, np.zeros((3, 2), np.float32), seen.timestep - 1), "an old answer"),
        (lambda seen: b"\x80\x04garbage", "no pickle"),
    ],
)
def test_an_answer_that_makes_no_sense_or_wants_to_run_something_is_none(
    run: Any, connect: Any, answer: Any, words: str
) -> None:
    with pytest.raises(ProposerError, match=words):
        ask(connect(run(lambda seen, number: answer(seen)).port))


def test_what_the_server_swallows_is_an_error_here(run: Any, connect: Any) -> None:
    def fails_once(seen: TimedObservation, number: int) -> Any:
        if number == 1:
            raise RuntimeError("CUDA error")
        return drawn(seen, number)

    proposer = connect(run(fails_once).port)
    with pytest.raises(ProposerError, match="answers nothing: it failed"):
        ask(proposer)
    assert len(ask(proposer)) == 1


def test_a_late_answer_is_never_taken_for_the_next_one(run: Any, connect: Any) -> None:
    gate = threading.Event()

    def slow(seen: TimedObservation, number: int) -> Any:
        if number == 2:
            gate.wait(10)
        return timed(seen, np.full((3, 2), 0.1 * number, np.float32))

    proposer = connect(run(slow).port)
    ask(proposer)
    start = time.monotonic()
    try:
        with pytest.raises(ProposerError, match="did not answer in time"):
            ask(proposer, within_s=0.3)
        assert time.monotonic() - start < 3
    finally:
        gate.set()
    np.testing.assert_allclose(ask(proposer).actions[0, 0], [0.3, 0.3], rtol=1e-6)
    assert proposer.client.counts == {"told": 1, "answered": 2, "timeout": 1}


def test_while_the_policy_is_loaded_there_is_no_action_and_afterwards_there_is(run: Any, connect: Any) -> None:
    proposer = connect(run(loads=0.5).port)
    with pytest.raises(ProposerError, match="is loading /models/stack"):
        ask(proposer, within_s=0.1)
    time.sleep(0.6)
    assert len(ask(proposer, within_s=5)) == 1
    assert proposer.client.counts["told"] == 1


def test_a_server_that_was_killed_costs_no_time_and_its_successor_is_told_what_to_load(run: Any, connect: Any) -> None:
    first = run()
    proposer = connect(first.port)
    ask(proposer)
    first.close()
    start = time.monotonic()
    with pytest.raises(ProposerError, match="cannot be asked: UNAVAILABLE"):
        ask(proposer, within_s=5)
    assert time.monotonic() - start < 3
    again = run(port=first.port)
    assert len(ask(proposer, within_s=5)) == 1
    assert again.choice is not None


def test_a_state_whose_numbers_have_no_names_is_refused(run: Any, connect: Any) -> None:
    with pytest.raises(InputError, match=r"has 3 numbers, and .*names 2"):
        ask(connect(run().port), joints=np.zeros(3, np.float32))


def test_a_server_that_unpickles_is_only_spoken_to_on_purpose_and_on_this_machine() -> None:
    choice = PolicyChoice(kind="act", path="x", features=FEATURES, chunk=3)
    with pytest.raises(InputError, match=r"policy\.allow_pickle=true"):
        LeRobotServerClient(target="127.0.0.1:8080", choice=choice)
    for target in ("192.168.1.5:8080", "example.org:8080", "0.0.0.0:8080", ":8080"):
        with pytest.raises(InputError, match="only loopback"):
            LeRobotServerClient(target=target, choice=choice, allow_pickle=True)
    for wrong in ({"kind": ""}, {"path": ""}, {"features": {}}, {"features": {"x": {"dtype": "float32"}}}):
        with pytest.raises(InputError, match=r"policy\.(kind|features)"):
            PolicyChoice(**{"kind": "act", "path": "x", "features": FEATURES, "chunk": 3, **wrong})  # type: ignore[arg-type]


def test_without_grpcio_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    choice = PolicyChoice(kind="act", path="x", features=FEATURES, chunk=3)
    with pytest.raises(InputError, match=r"pip install 'robot-rl\[clients\]'"):
        LeRobotServerClient(target="127.0.0.1:8080", choice=choice, allow_pickle=True)
