"""GR00T's ZeroMQ protocol: the bytes, the nesting of observations, and a server that fails, hangs or is restarted."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
from scripted import spec

from robot_rl.clock import MonotonicClock
from robot_rl.errors import InputError
from robot_rl.steering.clients.groot import GrootClient, pack, unpack
from robot_rl.steering.proposals import Deadline, Proposals, ProposerError
from robot_rl.steering.remote import RemoteProposer
from robot_rl.steering.wire import WireError

zmq = pytest.importorskip("zmq")
OBSERVATION = {"camera": np.zeros((4, 5, 3), np.uint8), "joints": np.array([0.5, -0.5])}
KEYS = {"video.ego_view": "camera", "state.arm": "joints"}
# Written by hand: fixmap 2; fixstr; true; bin 8 of a .npy file, which is a magic word, version 1.0, the length of a
# header padded to 128 bytes, and 4 bytes of data.
NPY = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"
NPY = NPY + b" " * (127 - len(NPY)) + b"\n" + b"\x00\x00\x80\x3f"
GOLDEN = b"\x81\xa1x\x82\xb1__ndarray_class__\xc3\xa6as_npy\xc4\x84" + NPY


def encode(value: Any) -> Any:
    """As the server does, written anew."""
    file = io.BytesIO()
    np.save(file, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def decode(items: dict[Any, Any]) -> Any:
    if "__ndarray_class__" in items:
        return np.load(io.BytesIO(items["as_npy"]), allow_pickle=False)
    return items


class GrootServer:
    """REP; the endpoints, the token and the errors of the real one."""

    def __init__(self, infer: Callable[[dict[str, Any], int], Any], token: str | None = None, port: int = 0) -> None:
        self.infer, self.token = infer, token
        self.requests: list[dict[str, Any]] = []
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1") if port == 0 else port
        if port != 0:
            self.socket.bind(f"tcp://127.0.0.1:{port}")
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.stop.is_set():
            if self.socket.poll(20):
                self._answer()

    def _answer(self) -> None:
        request = msgpack.unpackb(self.socket.recv(), object_hook=decode)
        self.requests.append(request)
        if self.token is not None and request.get("api_token") != self.token:
            self.socket.send(msgpack.packb({"error": "Unauthorized: Invalid API token"}))
            return
        try:
            count = sum(each.get("endpoint") == "get_action" for each in self.requests)
            result = self.infer(request["data"], count) if request["endpoint"] == "get_action" else {}
            data = result if isinstance(result, bytes) else msgpack.packb(result, default=encode)
        except Exception as error:  # noqa: BLE001  # as the real one does
            data = msgpack.packb({"error": str(error)})
        self.socket.send(data)

    def close(self) -> None:
        self.stop.set()
        self.thread.join(10)
        self.socket.close()
        self.context.term()


@pytest.fixture
def run() -> Iterator[Callable[..., GrootServer]]:
    """Starts servers; ends them with the test."""
    running: list[GrootServer] = []

    def start(infer: Any = None, **changes: Any) -> GrootServer:
        running.append(GrootServer(drawn if infer is None else infer, **changes))
        return running[-1]

    yield start
    for each in running:
        each.close()


def drawn(data: dict[str, Any], number: int) -> Any:
    """Two parts of an action, (1, H, 1) each, another each time."""
    parts = np.random.default_rng(number).uniform(0.1, 0.9, (2, 1, 3, 1)).astype(np.float32)
    return [{"hand": parts[1], "arm": parts[0]}, {}]


@pytest.fixture
def connect() -> Iterator[Callable[..., RemoteProposer]]:
    """Makes proposers; closes their clients."""
    made: list[GrootClient] = []

    def start(port: int, keys: dict[str, str] | None = None, **changes: Any) -> RemoteProposer:
        settings: dict[str, Any] = {"actions": ["arm", "hand"], "language": "task", **changes}
        made.append(GrootClient(uri=f"tcp://127.0.0.1:{port}", **settings))
        proposer = RemoteProposer(client=made[-1], spec=spec(), keys=KEYS if keys is None else keys)
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


def test_an_array_has_the_bytes_of_a_npy_file_in_a_map() -> None:
    array = np.array([1.0], np.float32)
    assert len(NPY) == 132
    assert pack({"x": array}) == GOLDEN
    np.testing.assert_array_equal(unpack(GOLDEN)["x"], array)
    with pytest.raises(WireError, match="cannot be sent"):
        pack({"x": np.array([object()])})


def test_observations_are_nested_with_batch_and_time_and_actions_are_put_together_by_name(
    run: Any, connect: Any
) -> None:
    server = run()
    found = ask(connect(server.port, api_token="secret"), 2)
    assert [each["endpoint"] for each in server.requests] == ["reset", "get_action", "get_action"]
    assert server.requests[0]["data"] == {"options": None}
    assert {each["api_token"] for each in server.requests} == {"secret"}
    sent = server.requests[1]["data"]
    assert sent["options"] is None
    assert sent["observation"]["video"]["ego_view"].shape == (1, 1, 4, 5, 3)
    assert sent["observation"]["video"]["ego_view"].dtype == np.uint8
    assert sent["observation"]["state"]["arm"].dtype == np.float32
    np.testing.assert_array_equal(sent["observation"]["state"]["arm"], [[[0.5, -0.5]]])
    assert sent["observation"]["language"] == {"task": [["lift"]]}
    for number, actions in enumerate(found.actions, start=1):
        parts = np.random.default_rng(number).uniform(0.1, 0.9, (2, 1, 3, 1)).astype(np.float32)
        np.testing.assert_allclose(actions[:, 0], parts[0, 0, :, 0])
        np.testing.assert_allclose(actions[:, 1], parts[1, 0, :, 0])
    assert found.kinds == ("base", "sample")


def test_a_wrong_token_and_an_error_are_told_in_the_servers_words(run: Any, connect: Any) -> None:
    locked = run(token="k" * 16)
    with pytest.raises(ProposerError, match="Unauthorized"):
        ask(connect(locked.port))

    def fails_once(data: dict[str, Any], number: int) -> Any:
        if number == 1:
            raise AssertionError("Video key 'ego_view' must be in observation")
        return drawn(data, number)

    proposer = connect(run(fails_once).port)
    with pytest.raises(ProposerError, match="reports an error: Video key 'ego_view'"):
        ask(proposer)
    assert len(ask(proposer)) == 1
    assert proposer.client.counts == {"connected": 1, "error": 1, "answered": 2}


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"ERROR", ProposerError, "an error without words"),
        (b"\xc1 garbage", ProposerError, "no msgpack message"),
        ([], ProposerError, r"not \[actions, info\]"),
        ({"arm": 1}, ProposerError, r"not \[actions, info\]"),
        ([{"arm": np.zeros((1, 3, 1))}, {}], InputError, "policy.actions"),
        ([{"arm": np.zeros((3, 1)), "hand": np.zeros((1, 3, 1))}, {}], ProposerError, r"'arm' is \(3, 1\)"),
        ([{"arm": [[[0.0]]], "hand": np.zeros((1, 3, 1))}, {}], ProposerError, "'arm' is list"),
        ([{"arm": np.zeros((1, 2, 1)), "hand": np.zeros((1, 3, 1))}, {}], ProposerError, "no usable answer"),
        ([{"arm": np.zeros((1, 4, 1)), "hand": np.zeros((1, 4, 1))}, {}], ProposerError, r"\(4, 2\), declared is \(3"),
        ([{"arm": np.full((1, 3, 1), np.nan), "hand": np.zeros((1, 3, 1))}, {}], ProposerError, "not all numbers"),
        (msgpack.packb([{"arm": {"__ndarray_class__": True, "as_npy": b"PK\x03\x04"}}, {}]), ProposerError, "read"),
        (msgpack.packb([{"arm": {"__ndarray_class__": True, "as_npy": NPY[:40]}}, {}]), ProposerError, "read"),
        (msgpack.packb([{"arm": {"__ndarray_class__": True}}, {}]), ProposerError, "not the bytes"),
        (
            msgpack.packb([{"arm": {"__ndarray_class__": True, "as_npy": NPY.replace(b"'<f4'", b"'|O' ")}}, {}]),
            ProposerError,
            "Object arrays cannot be loaded|cannot be read",
        ),
    ],
)
def test_an_answer_that_makes_no_sense_is_none(run: Any, connect: Any, answer: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        ask(connect(run(lambda data, number: answer).port))


def test_a_late_answer_is_never_taken_for_the_next_one(run: Any, connect: Any) -> None:
    gate = threading.Event()

    def slow(data: dict[str, Any], number: int) -> Any:
        if number == 1:
            gate.wait(10)
        return [{"arm": np.full((1, 3, 1), 0.1 * number), "hand": np.full((1, 3, 1), 0.5)}, {}]

    proposer = connect(run(slow).port)
    start = time.monotonic()
    try:
        with pytest.raises(ProposerError, match="did not answer in time"):
            ask(proposer, within_s=0.3)
        assert time.monotonic() - start < 3
    finally:
        gate.set()
    np.testing.assert_allclose(ask(proposer).actions[0, 0], [0.2, 0.5])
    assert proposer.client.counts["connected"] == 2


def test_no_server_costs_no_more_than_the_deadline_and_one_that_comes_back_is_used(run: Any, connect: Any) -> None:
    first = run()
    proposer = connect(first.port)
    ask(proposer)
    first.close()
    first.close = lambda: None
    start = time.monotonic()
    with pytest.raises(ProposerError, match="did not answer in time"):
        ask(proposer, within_s=0.3)
    assert time.monotonic() - start < 3
    again = run(port=first.port)
    assert len(ask(proposer)) == 1
    assert len(again.requests) == 1  # what was given up is not sent late


def test_what_the_protocol_needs_is_asked_for(run: Any, connect: Any) -> None:
    server = run()
    with pytest.raises(InputError, match=r"video\.NAME or state\.NAME, not 'camera'"):
        ask(connect(server.port, keys={"camera": "camera"}))
    silent = connect(server.port)
    silent.reset("")
    with pytest.raises(InputError, match="send `prompt`"):
        ask(silent)
    with pytest.raises(InputError, match="write tcp://HOST:PORT"):
        GrootClient(uri="http://127.0.0.1:5555", actions=["arm"])
    with pytest.raises(InputError, match=r"policy.actions=\[NAME"):
        GrootClient(uri="tcp://127.0.0.1:5555", actions=[])


def test_without_pyzmq_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zmq", None)
    with pytest.raises(InputError, match=r"pip install 'robot-rl\[clients\]'"):
        GrootClient(uri="tcp://127.0.0.1:5555", actions=["arm"])
