"""Kill the policy server, delay it, make it say NaN or what it said yesterday: the robot moves on within its period.

What is executed is the policy's own action where there is one, else the rest of the last chunk, else standing still,
and the log says which and why.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scripted import Scorer
from test_openpi import OpenPiServer, client, drawn, run

from robot_rl.clock import FakeClock, MonotonicClock
from robot_rl.steering.policy import STILL, TAIL, SteeredPolicy
from robot_rl.steering.selection import ValueSelector
from robot_rl.steering.steer import Record, Steerer
from robot_rl.steering.worker import Threaded

__all__ = ["run"]  # the fixture
PERIOD_S, DEADLINE_S = 1.0, 0.4


class Robot:
    """Acts once a period; keeps what it did, how long that took, and the log."""

    def __init__(self, uri: str) -> None:
        self.records: list[Record] = []
        self.scorer = Scorer(clock=FakeClock(), target=0.5)
        self.worker = Threaded()
        self.proposer = client(uri)
        self.steerer = Steerer(
            proposer=self.proposer,
            scorer=self.scorer,
            selector=ValueSelector(),
            candidates=3,
            clock=MonotonicClock(),
            generator=torch.Generator().manual_seed(0),
            worker=self.worker,
            keep=self.records.append,
        )
        self.policy = SteeredPolicy(steerer=self.steerer, execute=1, deadline_s=DEADLINE_S)
        self.policy.reset()
        self.steps = 0

    def act(self) -> list[float]:
        self.steps += 1
        joints = np.array([0.01 * self.steps, -0.5], np.float32)
        start = time.monotonic()
        action = self.policy.act({"joints": joints})
        assert time.monotonic() - start < PERIOD_S
        assert np.isfinite(action).all()
        return [float(number) for number in action]

    def close(self) -> None:
        self.worker.close()
        self.proposer.connection.close()


class Faults:
    """A server whose behaviour changes while it runs."""

    def __init__(self) -> None:
        self.mode, self.gate, self.since = "well", threading.Event(), 0
        self.yesterday: Any = None

    def infer(self, request: dict[str, Any], number: int) -> Any:
        match self.mode:
            case "delayed":
                self.gate.wait(20)
            case "nan":
                return {"actions": np.full((3, 2), np.nan)}
            case "yesterday":
                return dict(self.yesterday)
            case "broken":
                raise RuntimeError("CUDA error: device-side assert triggered")
            case "second_is_late":
                self.since += 1
                if self.since > 1:
                    self.gate.wait(20)
        self.yesterday = drawn(request, number)
        return dict(self.yesterday)


@pytest.fixture
def faults() -> Iterator[Faults]:
    """Lets go of what waits, at the end."""
    made = Faults()
    yield made
    made.gate.set()


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("delayed", "did not answer in time|not enough time"),
        ("nan", "not all numbers"),
        ("yesterday", "an old answer"),
        ("broken", "CUDA error"),
    ],
)
def test_without_an_action_the_chunk_is_played_to_its_end_and_then_the_robot_stands_still(
    run: Any, faults: Faults, mode: str, words: str
) -> None:
    robot = Robot(run(OpenPiServer(faults.infer)))
    try:
        robot.act()
        assert robot.records[-1].reason == "steered"
        faults.mode = mode
        acted = [robot.act() for _ in range(4)]
        assert acted[:2] == [list(row) for row in robot.policy._chunk[1:]]  # type: ignore[index]
        assert acted[2:] == [[0.0, 0.0]] * 2
        assert robot.policy.held == {TAIL: 2, STILL: 2}
        for record in robot.records[1:]:
            assert record.reason in ("proposer", "deadline")
            assert record.chosen_kind is None
        errors = " ".join(str(record.error) for record in robot.records[1:])
        assert any(word in errors for word in words.split("|"))
        faults.mode = "well"
        faults.gate.set()
        time.sleep(0.1)
        back = [robot.act() for _ in range(3)]
        assert robot.records[-1].reason == "steered"
        assert back[-1] != [0.0, 0.0]
    finally:
        robot.close()


ANOTHER_PROCESS = """
import msgpack, numpy as np
from websockets.sync.server import serve

def encode(array):
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}

def handle(connection):
    random = np.random.default_rng(0)
    connection.send(msgpack.packb({}))
    while True:
        connection.recv()
        connection.send(msgpack.packb({"actions": random.uniform(0.1, 0.9, (3, 2))}, default=encode))

with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
    print(server.socket.getsockname()[1], flush=True)
    server.serve_forever()
"""


def test_a_server_process_that_is_killed_costs_no_more_than_the_period() -> None:
    process = subprocess.Popen([sys.executable, "-c", ANOTHER_PROCESS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        robot = Robot(f"ws://127.0.0.1:{process.stdout.readline().strip()}")
        try:
            robot.act()
            assert robot.records[-1].reason == "steered"
            process.kill()
            process.wait(10)
            acted = [robot.act() for _ in range(4)]
            assert acted[2:] == [[0.0, 0.0]] * 2
            assert {record.reason for record in robot.records[1:]} == {"proposer"}
            assert "cannot connect" in str(robot.records[-1].error)
        finally:
            process.kill()
            robot.close()


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ("second_is_late", "deadline", "time"),
        ("critic_raises", "scorer", "out of memory"),
        ("critic_hangs", "deadline", "not enough time to score"),
        ("critic_says_nan", "not_finite", None),
    ],
)
def test_with_an_action_of_the_policy_that_one_is_executed(
    run: Any, faults: Faults, fault: str, reason: str, words: str | None
) -> None:
    server = OpenPiServer(faults.infer)
    robot = Robot(run(server))
    gate = threading.Event()
    try:
        match fault:
            case "second_is_late":
                faults.mode = fault
            case "critic_raises":
                robot.scorer.error = RuntimeError("out of memory")
            case "critic_hangs":
                vars(robot.scorer)["score"] = lambda encoded, actions: gate.wait(20)
            case _:
                robot.scorer.values = [float("nan")] * 3
        acted = robot.act()
        own = drawn({}, 1)["actions"]  # the first answer of the server
        np.testing.assert_allclose(acted, own[0])
        record = robot.records[-1]
        assert (record.reason, record.chosen, record.chosen_kind) == (reason, 0, "base")
        assert words is None or words in str(record.error)
        assert robot.policy.held == {}
    finally:
        gate.set()
        robot.close()
