"""The server as stock clients meet it, and what clients that misbehave cost the others."""

import asyncio
import contextlib
import socket
import threading
import time
from typing import Any

import msgpack
import pytest
from serving import KEY, KEYS, PICTURE, Client, Doubler, state
from test_openpi import decode, encode
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from robot_rl.errors import InputError
from robot_rl.exchange import is_loopback
from robot_rl.steering.server import Limits, PolicyServer, require_key


def test_a_stock_client_is_told_what_to_send_and_gets_actions_with_times(run_server: Any) -> None:
    with Client(run_server().uri) as client:
        said = client.metadata["robot_rl"]
        assert set(said["observation"]) == {"observation/state", "observation/image"}
        assert (said["chunk"], said["control_period_s"], said["semantics"]) == (1, 0.1, "joint_velocity")
        first = client.infer(state(0.25, 0.5, 0.0, prompt="lift", episode=3))
        second = client.infer(state(1.0, 0.0, 0.0))
    assert first["actions"].tolist() == [[0.5, 1.0]]
    assert first["server_timing"]["infer_ms"] > 0
    assert first["policy_timing"]["infer_ms"] > 0
    assert "prev_total_ms" not in first["server_timing"]
    assert second["server_timing"]["prev_total_ms"] > 0


def test_eight_clients_at_once_get_their_own_answers_in_batches(run_server: Any) -> None:
    running = run_server()
    wrong, answered = [], []

    def ask(number: int) -> None:
        with Client(running.uri) as client:
            for step in range(40):
                actions = client.infer(state(number, step, 0.0))["actions"].tolist()
                answered.append(1)
                if actions != [[2.0 * number, 2.0 * step]]:
                    wrong.append((number, step, actions))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(answered) == 320
    assert sum(running.server.policy.batches) == 320


def test_what_waits_is_one_batch(run_server: Any) -> None:
    policy = Doubler()
    running = run_server(policy)
    policy.gate.clear()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(running.uri)) for _ in range(5)]
        for number, client in enumerate(clients):
            client.socket.send(msgpack.packb(state(number, 0.0, 0.0), default=encode))
            time.sleep(0.05)  # the first is being worked on, the others wait
        policy.gate.set()
        answers = [msgpack.unpackb(client.socket.recv(timeout=10), object_hook=decode) for client in clients]
    assert [each["actions"][0, 0] for each in answers] == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert policy.batches == [1, 4]
    assert answers[4]["server_timing"]["batch"] == 4


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\xc1\x00", "no msgpack message"),
        ("text", "requests are binary messages"),
        (msgpack.packb([1, 2]), "a message is a map"),
        (msgpack.packb({"prompt": "lift"}), "the observation has no 'observation/state'; it has ['prompt']"),
        (msgpack.packb(state(1.0, 2.0), default=encode), "shape (2,), expected (3,)"),
        (msgpack.packb(state(1.0, 2.0, float("nan")), default=encode), "holds NaN"),
        (msgpack.packb({**state(1, 2, 3), "observation/image": PICTURE / 255}, default=encode), "wanted is uint8"),
        (msgpack.packb({**state(1, 2, 3), "observation/state": "abc"}, default=encode), "send an array of numbers"),
        (msgpack.packb(state(1, 2, 3, prompt=5), default=encode), "must be text"),
        (msgpack.packb(state(1.0, 0.0, 13.0), default=encode), "RuntimeError: hot motor"),
    ],
)
def test_what_is_wrong_with_a_request_is_a_text_frame_and_costs_nobody_else_anything(
    run_server: Any, message: bytes | str, words: str
) -> None:
    running = run_server()
    with Client(running.uri) as other, Client(running.uri) as bad:
        bad.socket.send(message)
        said = bad.socket.recv(timeout=10)
        assert isinstance(said, str)
        assert words in said
        assert "Traceback" not in said
        with pytest.raises(ConnectionClosed) as closed:
            bad.socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        assert other.infer(state(1.0, 0.0, 0.0))["actions"].tolist() == [[2.0, 0.0]]


def test_a_message_of_a_gigabyte_is_refused_at_its_first_bytes(run_server: Any) -> None:
    running = run_server(limits=Limits(message_bytes=100_000))
    with Client(running.uri) as other:
        with Client(running.uri) as greedy:
            # The header of a masked binary frame of 2**30 bytes, then as much of it as is taken.
            raw = greedy.socket.socket
            raw.sendall(b"\x82\xff" + (2**30).to_bytes(8, "big") + b"\0\0\0\0")
            with contextlib.suppress(OSError):
                raw.sendall(b"\0" * 200_000)
            with pytest.raises(ConnectionClosed) as closed:
                greedy.socket.recv(timeout=10)
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
        assert other.infer(state(1.0, 0.0, 0.0))["actions"].tolist() == [[2.0, 0.0]]


def test_clients_that_vanish_stall_or_speak_no_protocol_at_all_harm_nobody(run_server: Any) -> None:
    running = run_server()
    raw = [socket.create_connection(("127.0.0.1", running.server.port), timeout=10) for _ in range(3)]
    raw[0].sendall(b"\x16\x03\x01 not http at all\r\n\r\n")
    raw[1].sendall(b"GET / HTTP/1.1\r\nHost:")  # and no more
    raw[2].close()
    with Client(running.uri) as other:
        vanished = Client(running.uri)
        vanished.socket.send(msgpack.packb(state(5.0, 0.0, 0.0), default=encode))
        vanished.socket.socket.shutdown(socket.SHUT_RDWR)
        half = Client(running.uri)
        half.socket.socket.sendall(b"\x82\xff" + (1000).to_bytes(8, "big") + b"\0\0\0\0half")
        for number in range(5):
            assert other.infer(state(number, 0.0, 0.0))["actions"].tolist() == [[2.0 * number, 0.0]]
        half.socket.socket.shutdown(socket.SHUT_RDWR)
        for each in (vanished, half):
            each.stack.close()
    for each in raw[:2]:
        each.close()
    assert running.get("/healthz") == (200, "OK\n")


def test_who_hangs_up_is_not_worked_for(run_server: Any) -> None:
    policy = Doubler()
    running = run_server(policy)
    policy.gate.clear()
    with Client(running.uri) as first, Client(running.uri) as last:
        first.socket.send(msgpack.packb(state(1.0, 0.0, 0.0), default=encode))
        time.sleep(0.1)
        gone = Client(running.uri)
        gone.socket.send(msgpack.packb(state(2.0, 0.0, 0.0), default=encode))
        time.sleep(0.1)
        gone.stack.close()
        last.socket.send(msgpack.packb(state(3.0, 0.0, 0.0), default=encode))
        time.sleep(0.1)
        policy.gate.set()
        answers = [msgpack.unpackb(each.socket.recv(timeout=10), object_hook=decode) for each in (first, last)]
    assert [each["actions"][0, 0] for each in answers] == [2.0, 6.0]
    assert policy.batches == [1, 1]


def test_a_policy_that_hangs_shows_in_the_health_check_which_does_not_wait_for_it(run_server: Any) -> None:
    policy = Doubler()
    running = run_server(policy, Limits(answer_s=0.2))
    policy.gate.clear()
    try:
        with Client(running.uri) as client:
            with pytest.raises(RuntimeError, match="no answer of the policy"):
                client.infer(state(1.0, 0.0, 0.0))
            assert running.get("/healthz")[0] == 503
        with Client(running.uri) as client, pytest.raises(RuntimeError, match="the policy does not answer"):
            client.infer(state(1.0, 0.0, 0.0))
    finally:
        policy.gate.set()


def test_a_key_is_demanded_of_clients_and_of_metrics_but_not_of_health(run_server: Any) -> None:
    running = run_server(key=KEY)
    for wrong in (None, "0123456789abcdeg", ""):
        with pytest.raises(InvalidStatus) as refused:
            Client(running.uri, wrong)
        assert refused.value.response.status_code == 401
    with Client(running.uri, KEY) as client:
        assert client.infer(state(1.0, 0.0, 0.0))["actions"].tolist() == [[2.0, 0.0]]
    assert running.get("/metrics")[0] == 401
    assert running.get("/metrics", Authorization=f"Api-Key {KEY}")[0] == 200
    assert running.get("/healthz") == (200, "OK\n")


def test_a_network_is_not_listened_to_without_a_key() -> None:
    with pytest.raises(InputError, match="set key_file=FILE"):
        require_key("0.0.0.0", None)
    with pytest.raises(InputError, match="at least 16"):
        require_key("127.0.0.1", "short")
    require_key("0.0.0.0", KEY)
    assert [is_loopback(each) for each in ("127.0.0.1", "::1", "localhost", "10.0.0.2", "example.org")] == (
        [True, True, True, False, False]
    )


def test_a_web_page_cannot_reach_a_robot_through_its_visitors_browser(run_server: Any) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(run_server().uri, origin="http://example.org", proxy=None) as connection,  # type: ignore[arg-type]
    ):
        connection.recv(timeout=10)
    assert refused.value.response.status_code == 403


def test_one_client_too_many_is_refused(run_server: Any) -> None:
    running = run_server(limits=Limits(connections=1))
    with Client(running.uri):
        with pytest.raises(InvalidStatus) as refused:
            Client(running.uri)
        assert refused.value.response.status_code == 503


def test_a_port_that_is_taken_is_said_so(run_server: Any) -> None:
    running = run_server()
    other = PolicyServer(policy=Doubler(), keys=KEYS, port=running.server.port)

    async def start() -> None:
        async with other.running():
            pass

    with pytest.raises(InputError, match=r"cannot listen at 127\.0\.0\.1"):
        asyncio.run(start())


def test_the_end_is_told_to_clients(run_server: Any) -> None:
    running = run_server()
    with Client(running.uri) as client:
        running.close()
        with pytest.raises(ConnectionClosed) as closed:
            client.socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    running.close = lambda: None  # it is over


def test_metrics_count_in_the_form_of_prometheus(run_server: Any) -> None:
    running = run_server()
    with Client(running.uri) as client:
        client.infer(state(1.0, 0.0, 0.0))
        client.infer(state(1.0, 0.0, 0.0))
        status, text = running.get("/metrics")
    lines = text.splitlines()
    assert status == 200
    assert 'robot_rl_requests_total{result="answered"} 2' in lines
    assert "robot_rl_connections 1" in lines
    assert "robot_rl_connections_total 1" in lines
    assert 'robot_rl_batch_requests_bucket{le="1"} 2' in lines
    assert 'robot_rl_policy_seconds_bucket{le="+Inf"} 2' in lines
    assert "robot_rl_policy_seconds_count 2" in lines
    assert "# TYPE robot_rl_policy_seconds histogram" in lines
