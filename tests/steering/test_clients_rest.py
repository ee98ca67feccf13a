"""OpenVLA, OpenVLA-OFT and Octo's server: the bytes that are sent, and every way in which an answer is none."""

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rest import RestServer
from scripted import Scorer, spec

from robot_rl.clock import FakeClock, MonotonicClock
from robot_rl.errors import InputError
from robot_rl.steering.clients.http import HttpServer
from robot_rl.steering.clients.json_arrays import dumps, loads
from robot_rl.steering.clients.octo import OctoServerClient
from robot_rl.steering.clients.openvla import TOKEN_REPEATS, OpenVLAClient, OpenVLAOFTClient
from robot_rl.steering.proposals import Deadline, Proposals, ProposerError
from robot_rl.steering.remote import PolicyClient, RemoteProposer
from robot_rl.steering.selection import ValueSelector
from robot_rl.steering.steer import Steerer
from robot_rl.steering.wire import WireError

IMAGE = np.array([[[0, 1, 2]]], np.uint8)
OBSERVATION = {"camera": IMAGE, "state": np.array([0.5, -1.0], np.float32)}
# Written by hand: base64 of the bytes 00 01 02 is AAEC.
GOLDEN = b'{"image": {"__numpy__": "AAEC", "dtype": "|u1", "shape": [1, 1, 3]}, "instruction": "lift"}'
GOLDEN_KEY = GOLDEN[:-1] + b', "unnorm_key": "bridge_orig"}'
GOLDEN_ENCODED = (
    b'{"encoded": "{\\"image\\": {\\"__numpy__\\": \\"AAEC\\", \\"dtype\\": \\"|u1\\", \\"shape\\": [1, 1, 3]}, '
    b'\\"instruction\\": \\"lift\\"}"}'
)
# base64 of the float32 numbers 0.5 and -1, bytes 00 00 00 3f 00 00 80 bf
GOLDEN_OFT = (
    b'{"full_image": {"__numpy__": "AAEC", "dtype": "|u1", "shape": [1, 1, 3]}, '
    b'"state": {"__numpy__": "AAAAPwAAgL8=", "dtype": "<f4", "shape": [2]}, "instruction": "lift"}'
)
GOLDEN_OCTO = (
    b'{"use_this": "{\\"dataset_name\\": \\"fractal20220817_data\\", \\"observation\\": {\\"image_primary\\": '
    b'{\\"__numpy__\\": \\"AAEC\\", \\"dtype\\": \\"|u1\\", \\"shape\\": [1, 1, 3]}}, \\"text\\": \\"lift\\", '
    b'\\"modality\\": \\"l\\", \\"ensemble\\": false}"}'
)


def json_numpy(array: np.ndarray) -> dict[str, Any]:
    """As the package writes it, written anew."""
    array = np.asarray(array)
    return {"__numpy__": base64.b64encode(array.tobytes()).decode(), "dtype": array.dtype.str, "shape": array.shape}


@pytest.fixture
def run() -> Iterator[Callable[..., RestServer]]:
    """Starts servers; ends them with the test."""
    running: list[RestServer] = []

    def start(handle: Any, **changes: Any) -> RestServer:
        running.append(RestServer(handle, **changes))
        return running[-1]

    yield start
    for each in running:
        each.close()


def openvla(server: RestServer, **changes: Any) -> RemoteProposer:
    client = OpenVLAClient(server=HttpServer(address=server.address), **changes)
    return proposer(client, {"image": "camera"}, chunk=1, stochastic=False, repeats=TOKEN_REPEATS)


def oft(server: RestServer, **changes: Any) -> RemoteProposer:
    client = OpenVLAOFTClient(server=HttpServer(address=server.address), **changes)
    return proposer(client, {"full_image": "camera", "state": "state"}, chunk=3, stochastic=False)


def octo(server: RestServer) -> RemoteProposer:
    client = OctoServerClient(server=HttpServer(address=server.address), dataset_name="fractal20220817_data")
    return proposer(client, {"image_primary": "camera"}, chunk=1)


def proposer(client: PolicyClient, keys: dict[str, str], chunk: int, **changes: Any) -> RemoteProposer:
    made = RemoteProposer(client=client, spec=spec(chunk=chunk), keys=keys, **changes)
    made.reset("lift")
    return made


def ask(proposer: RemoteProposer, count: int = 1, within_s: float = 20.0, **changes: Any) -> Proposals:
    deadline = Deadline.after(MonotonicClock(), within_s)
    return proposer.propose(
        {**OBSERVATION, **changes}, count, observation_id=3, deadline=deadline, ready=lambda base: None
    )


# --- bytes


def test_openvla_is_sent_these_bytes(run: Any) -> None:
    server = run(lambda path, body, number: json_numpy(np.array([0.5, 0.25])))
    found = ask(openvla(server))
    ask(openvla(server, unnorm_key="bridge_orig"))
    assert server.requests == [("/act", GOLDEN), ("/act", GOLDEN_KEY)]
    assert server.headers[0]["Content-Type"] == "application/json"
    np.testing.assert_array_equal(found.actions, [[[0.5, 0.25]]])
    assert (found.kinds, found.observation_id) == (("base",), 3)


def test_a_doubly_encoded_request_has_a_doubly_encoded_answer(run: Any) -> None:
    server = run(lambda path, body, number: json.dumps(json_numpy(np.array([0.5, 0.25]))))
    found = ask(openvla(server, encoded=True))
    assert server.requests == [("/act", GOLDEN_ENCODED)]
    assert json.loads(json.loads(GOLDEN_ENCODED)["encoded"])["image"]["dtype"] == "|u1"
    np.testing.assert_array_equal(found.actions, [[[0.5, 0.25]]])


def test_oft_is_sent_its_flat_observation_and_answers_a_list_of_arrays(run: Any) -> None:
    rows = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    for answer in ([json_numpy(row) for row in rows], rows.tolist(), json_numpy(rows)):
        server = run(lambda path, body, number, answer=answer: answer)
        np.testing.assert_array_equal(ask(oft(server)).actions[0], rows)
        assert server.requests == [("/act", GOLDEN_OFT)]


def test_octo_is_reset_once_an_episode_and_answers_json_in_a_string(run: Any) -> None:
    def handle(path: str, body: bytes, number: int) -> Any:
        return None if path == "/reset" else json.dumps(json_numpy(np.array([0.1 * number, 0.5])))

    server = run(handle)
    policy = octo(server)
    found = ask(policy, 3)
    ask(policy, camera=IMAGE + 1)
    policy.reset("stack")
    ask(policy)
    assert [path for path, _ in server.requests] == ["/reset", *["/query"] * 4, "/reset", "/query"]
    assert server.requests[1][1] == GOLDEN_OCTO
    np.testing.assert_allclose(found.actions[:, 0, 0], [0.2, 0.3, 0.4])
    assert found.kinds == ("base", "sample", "sample")


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.float32, np.float64, np.int64, np.bool_, np.dtype(">f4")]),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )
)
def test_arrays_come_back_as_they_were(array: np.ndarray) -> None:
    found = loads(dumps({"x": array, "more": [1, None, "text"]}))
    assert found["x"].dtype == array.dtype
    np.testing.assert_array_equal(found["x"], array)
    assert found["more"] == [1, None, "text"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        (b"\xff\xfe\xff", "no JSON"),
        ('{"__numpy__": "AAEC", "dtype": "|O", "shape": [3]}', "are not taken"),
        ('{"__numpy__": "AAEC", "dtype": [["a", "<f4"]], "shape": [3]}', "are not taken"),
        ('{"__numpy__": "AAEC", "dtype": "|u1", "shape": [4]}', "does not have 3 bytes"),
        ('{"__numpy__": "AAEC", "dtype": "|u1", "shape": [-3]}', "no shape"),
        ('{"__numpy__": "AAEC", "dtype": "|u1"}', "no shape"),
        ('{"__numpy__": "!!", "dtype": "|u1", "shape": []}', "cannot be read"),
        ('{"__numpy__": 5, "dtype": "|u1", "shape": []}', "cannot be read"),
        ('{"__numpy__": "AAEC", "dtype": "<f3", "shape": []}', "cannot be read"),
    ],
)
def test_what_is_no_array_is_refused(text: str | bytes, words: str) -> None:
    with pytest.raises(WireError, match=words):
        loads(text)


# --- faults


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("error", "reports an error with status 200"),
        ("some text", "no JSON"),
        ({"detail": "x"}, "dict, not an array"),
        (None, "NoneType, not an array"),
        (["a", "b"], "list, not an array of numbers"),
        ([[0.1, 0.2], [0.1]], "list, not an array of numbers"),
        ([0.1, 0.2, 0.3], r"shape \(3,\), declared is \(1, 2\)"),
        ([[0.1, 0.2]] * 2, r"shape \(2, 2\), declared"),
        (b"[NaN, 0.5]", "not all numbers"),
        (b"[1e999, 0.5]", "not all numbers"),
        (b"<html>bad gateway</html>", "no JSON"),
        (b"", "no JSON"),
    ],
)
def test_an_answer_that_makes_no_sense_is_none(run: Any, answer: Any, words: str) -> None:
    with pytest.raises(ProposerError, match=words):
        ask(openvla(run(lambda path, body, number: answer)))


def test_a_status_of_an_error_is_one_and_is_told_with_its_words(run: Any) -> None:
    with pytest.raises(ProposerError, match=r"/act answers with status 422: .*field required"):
        ask(openvla(run(lambda path, body, number: {"detail": "field required"}, status=422)))


def test_a_late_answer_costs_its_own_connection_only(run: Any) -> None:
    gate = threading.Event()

    def slow(path: str, body: bytes, number: int) -> Any:
        if number == 1:
            gate.wait(10)
        return [0.1 * number, 0.5]

    policy = openvla(run(slow))
    start = time.monotonic()
    with pytest.raises(ProposerError, match="did not answer in time"):
        ask(policy, within_s=0.2)
    assert time.monotonic() - start < 3
    gate.set()
    np.testing.assert_allclose(ask(policy).actions[0, 0], [0.2, 0.5])


def listener(answer: Callable[[socket.socket], None]) -> tuple[str, threading.Thread, socket.socket]:
    """Below HTTP: what is sent back byte by byte."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            try:
                answer(connection)
            except OSError:
                return

    thread = threading.Thread(target=serve)
    thread.start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}", thread, listening


def drops(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(40):
        connection.sendall(b" ")
        time.sleep(0.05)


def headers_by_drops(connection: socket.socket) -> None:
    for letter in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n":
        connection.sendall(bytes([letter]))
        time.sleep(0.1)


def cut(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[0.1, 0.5]")


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b" " * 65536)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (drops, "in time"),
        (headers_by_drops, "in time"),
        (cut, "ends 90 bytes too early"),
        (endless, "more than 1000000 bytes"),
        (lambda connection: connection.sendall(b"\x16\x03\x01 no http\r\n\r\n"), "BadStatusLine|cannot be asked"),
        (lambda connection: None, "cannot be asked"),
    ],
)
def test_a_server_that_drips_stops_floods_or_speaks_something_else_is_left_in_time(answer: Any, words: str) -> None:
    address, thread, listening = listener(answer)
    client = OpenVLAClient(server=HttpServer(address=address, maximum_bytes=10**6))
    start = time.monotonic()
    with pytest.raises(ProposerError, match=words):
        ask(proposer(client, {"image": "camera"}, chunk=1), within_s=0.5)
    assert time.monotonic() - start < 3
    thread.join(10)
    listening.close()


def test_no_server_is_said_so_and_no_address_before() -> None:
    client = OpenVLAClient(server=HttpServer(address="http://127.0.0.1:9"))
    with pytest.raises(ProposerError, match="cannot be asked: ConnectionRefusedError"):
        ask(proposer(client, {"image": "camera"}, chunk=1))
    for wrong in ("127.0.0.1:8000", "ftp://h:1", "http://", "http://h:99999", "http://h/act"):
        with pytest.raises(InputError, match="policy server"):
            HttpServer(address=wrong)


def test_what_a_protocol_needs_is_asked_for_with_the_setting_that_gives_it(run: Any) -> None:
    server = run(lambda path, body, number: [0.1, 0.5])
    deadline = Deadline(clock=MonotonicClock())
    http = HttpServer(address=server.address)
    vla, flat, octopus = (
        OpenVLAClient(server=http),
        OpenVLAOFTClient(server=http),
        OctoServerClient(server=http, dataset_name="x"),
    )
    for client, sent, task, words in (
        (vla, {"state": np.zeros(2)}, "lift", r"policy.keys=\{image: NAME\}"),
        (vla, {"image": IMAGE / 255}, "lift", "one image"),
        (vla, {"image": IMAGE}, "", "send `prompt`"),
        (flat, {"image": IMAGE}, "lift", "full_image"),
        (octopus, {"image": IMAGE}, "lift", "image_primary"),
        (octopus, {"image_primary": IMAGE}, "", "send `prompt`"),
    ):
        with pytest.raises(InputError, match=words):
            client.ask(sent, task, deadline)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"lacks \['wrist'\].*it has \['camera', 'state'\]"):
        ask(proposer(vla, {"image": "wrist"}, chunk=1))
    assert server.requests == []


# --- old answers


def test_tokens_may_repeat_for_a_while_continuous_answers_may_not(run: Any) -> None:
    server = run(lambda path, body, number: [[0.1, 0.5]] * 3)
    regressed = oft(server)
    ask(regressed)
    with pytest.raises(ProposerError, match="an old answer"):
        ask(regressed, camera=IMAGE + 1)
    one = run(lambda path, body, number: [0.1, 0.5])
    tokens = openvla(one)
    for number in range(TOKEN_REPEATS + 1):
        ask(tokens, camera=IMAGE + number)
    with pytest.raises(ProposerError, match="an old answer"):
        ask(tokens, camera=IMAGE + 200)
    tokens.reset("lift")
    ask(tokens)


# --- steered


def test_a_greedy_server_is_asked_once_and_perturbed(run: Any) -> None:
    server = run(lambda path, body, number: json_numpy(np.array([1.0, 0.5])))
    steerer = Steerer(
        proposer=openvla(server),
        scorer=Scorer(clock=FakeClock(), spec=spec(chunk=1), target=0.0),
        selector=ValueSelector(),
        candidates=8,
        clock=MonotonicClock(),
        generator=torch.Generator().manual_seed(0),
    )
    record = steerer.decide(OBSERVATION, deadline_s=20).record
    assert len(server.requests) == 1
    assert (record.reason, record.candidates, record.perturbed) == ("steered", 8, 7)
    assert record.chosen_kind == "perturbed"
