"""Eight clients at 10 Hz, while others vanish, stall, send garbage or a gigabyte: no reply is lost or crossed."""

import contextlib
import socket
import threading
import time
from typing import Any

import msgpack
import numpy as np
from serving import Client, Doubler, state
from test_openpi import encode

from robot_rl.steering.server import Limits

CLIENTS, RATE_HZ, SECONDS = 8, 10.0, 6.0


def vanish(uri: str) -> None:
    """Hangs up while its answer is made."""
    gone = Client(uri)
    gone.socket.send(msgpack.packb(state(5.0, 0.0, 0.0), default=encode))
    gone.socket.socket.shutdown(socket.SHUT_RDWR)
    gone.stack.close()


def garble(uri: str) -> None:
    """Sends what is no message."""
    with contextlib.suppress(Exception), Client(uri) as bad:
        bad.socket.send(np.random.default_rng(0).bytes(5000))
        bad.socket.recv(timeout=5)


def flood(uri: str) -> None:
    """Begins a message of a gigabyte and sends as much of it as is taken."""
    with contextlib.suppress(Exception), Client(uri) as greedy:
        raw = greedy.socket.socket
        raw.sendall(b"\x82\xff" + (2**30).to_bytes(8, "big") + b"\0\0\0\0")
        for _ in range(50):
            raw.sendall(b"\0" * 65536)


def test_eight_clients_at_ten_hertz_lose_nothing_whatever_others_do(run_server: Any) -> None:
    policy = Doubler()
    running = run_server(policy, Limits(message_bytes=1_000_000, answer_s=20.0, send_s=2.0, connections=64))
    wrong: list[Any] = []
    answered = [0] * CLIENTS
    over = threading.Event()

    def drive(number: int) -> None:
        with Client(running.uri) as client:
            start = time.monotonic()
            for step in range(int(SECONDS * RATE_HZ)):
                time.sleep(max(0.0, start + step / RATE_HZ - time.monotonic()))
                actions = client.infer(state(number, step, 0.0))["actions"].tolist()
                answered[number] += 1
                if actions != [[2.0 * number, 2.0 * step]]:
                    wrong.append((number, step, actions))

    stalled = Client(running.uri)  # asks much and takes no answer
    for _ in range(3):
        stalled.socket.send(msgpack.packb(state(9.0, 9.0, 0.0), default=encode))
    half = socket.create_connection(("127.0.0.1", running.server.port), timeout=10)
    half.sendall(b"GET / HTTP/1.1\r\nHost:")  # and no more

    def disturb() -> None:
        while not over.is_set():
            for misbehave in (vanish, garble, flood):
                misbehave(running.uri)
                over.wait(0.1)

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(CLIENTS)]
    disturbing = threading.Thread(target=disturb)
    for thread in [*threads, disturbing]:
        thread.start()
    for thread in threads:
        thread.join(120)
    over.set()
    disturbing.join(30)
    half.close()
    stalled.stack.close()
    assert wrong == []
    assert answered == [int(SECONDS * RATE_HZ)] * CLIENTS
    assert running.get("/healthz") == (200, "OK\n")
    text = running.get("/metrics")[1]
    total = int(text.partition('robot_rl_requests_total{result="answered"} ')[2].split()[0])
    assert total >= CLIENTS * SECONDS * RATE_HZ
    assert 'robot_rl_closed_total{code="1009"}' in text  # the flood was refused for its size
