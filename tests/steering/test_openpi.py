"""The client against a local server that behaves as openpi's does, with its oddities and with faults."""

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from scripted import Scorer, spec
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from robot_rl.clock import FakeClock, MonotonicClock
from robot_rl.errors import InputError
from robot_rl.steering.openpi import OpenPiConnection, OpenPiProposer
from robot_rl.steering.proposals import Deadline, Proposals, ProposerError
from robot_rl.steering.selection import ValueSelector
from robot_rl.steering.steer import Decision, Steerer
from robot_rl.transforms.action import ActionScale

STATE = {"joints": np.array([0.5, -0.5], np.float32), "unused": np.zeros(3)}
Infer = Callable[[dict[str, Any], int], Any]


def encode(value: Any) -> Any:
    """As openpi's client package does, written anew: nothing of ours checks itself here."""
    return {
        b"__ndarray__": True,
        b"data": value.tobytes(),
        b"dtype": value.dtype.str,
        b"shape": value.shape,
    }


def decode(items: dict[Any, Any]) -> Any:
    if b"__ndarray__" in items:
        return np.ndarray(buffer=items[b"data"], dtype=np.dtype(items[b"dtype"]), shape=items[b"shape"])
    return items


class OpenPiServer:
    """Metadata first; an error is a text frame with a traceback, then close code 1011; answers come in order."""

    def __init__(self, infer: Infer, metadata: dict[str, Any] | None = None, key: str | None = None) -> None:
        self.infer, self.key = infer, key
        self.metadata = {} if metadata is None else metadata
        self.requests: list[dict[str, Any]] = []
        self.connections = 0

    def handle(self, connection: ServerConnection) -> None:
        self.connections += 1
        assert connection.request is not None
        if self.key is not None and connection.request.headers.get("Authorization") != f"Api-Key {self.key}":
            connection.close(1008, "no key")
            return
        with contextlib.suppress(ConnectionClosed):
            connection.send(msgpack.packb(self.metadata))
            while True:
                request = msgpack.unpackb(connection.recv(), object_hook=decode)
                self.requests.append(request)
                try:
                    answer = self.infer(request, len(self.requests))
                except Exception:  # noqa: BLE001  # as openpi does
                    connection.send(traceback.format_exc())
                    connection.close(1011, "Internal server error. Traceback included in previous frame.")
                    return
                if isinstance(answer, str | bytes):
                    connection.send(answer)
                else:
                    answer["server_timing"] = {"infer_ms": 1.0}
                    connection.send(msgpack.packb(answer, default=encode))


@pytest.fixture
def run() -> Iterator[Callable[[OpenPiServer], str]]:
    """Starts servers; ends them with the test."""
    running: list[tuple[Server, threading.Thread]] = []

    def start(server: OpenPiServer) -> str:
        listening = serve(server.handle, "127.0.0.1", 0, compression=None, max_size=None)
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        running.append((listening, thread))
        return f"ws://127.0.0.1:{listening.socket.getsockname()[1]}"

    yield start
    for listening, thread in running:
        listening.shutdown()
        thread.join(10)
        assert not thread.is_alive()


def drawn(request: dict[str, Any], number: int) -> dict[str, Any]:
    """A stochastic policy: around the state, another each time."""
    return {"actions": np.random.default_rng(number).uniform(0.1, 0.9, (3, 2))}


def client(uri: str, **changes: Any) -> OpenPiProposer:
    settings: dict[str, Any] = {"spec": spec(), "keys": {"joints": "observation/state"}}
    return OpenPiProposer(connection=OpenPiConnection(uri=uri), **{**settings, **changes})


def ask(proposer: OpenPiProposer, count: int = 1, within_s: float = 20.0, **observation: Any) -> Proposals:
    deadline = Deadline.after(MonotonicClock(), within_s)
    return proposer.propose(
        {**STATE, **observation}, count, observation_id=7, deadline=deadline, ready=lambda base: None
    )


def test_candidates_are_one_request_each_and_the_first_is_the_base(run: Any) -> None:
    server = OpenPiServer(drawn)
    proposer = client(run(server))
    proposer.reset("stack the cubes")
    found = ask(proposer, 4)
    proposer.connection.close()
    assert found.kinds == ("base", "sample", "sample", "sample")
    assert found.observation_id == 7
    expected = [np.random.default_rng(number).uniform(0.1, 0.9, (3, 2)) for number in (1, 2, 3, 4)]
    np.testing.assert_array_equal(found.actions, expected)
    assert server.connections == 1
    for request in server.requests:
        assert set(request) == {"observation/state", "prompt"}
        assert request["prompt"] == "stack the cubes"
        np.testing.assert_array_equal(request["observation/state"], STATE["joints"])


def test_a_text_frame_is_an_error_and_the_next_request_has_a_new_connection(run: Any) -> None:
    def fails_once(request: dict[str, Any], number: int) -> dict[str, Any]:
        if number == 1:
            raise KeyError("observation/image")
        return drawn(request, number)

    server = OpenPiServer(fails_once)
    proposer = client(run(server))
    with pytest.raises(ProposerError, match=r"(?s)reports an error: .*KeyError: 'observation/image'"):
        ask(proposer)
    assert len(ask(proposer, 2)) == 2
    proposer.connection.close()
    assert server.connections == 2
    assert proposer.connection.counts == {"connected": 2, "error": 1, "answered": 2}


def test_an_answer_that_comes_after_the_deadline_is_never_taken_for_the_next_one(run: Any) -> None:
    late = threading.Event()

    def slow(request: dict[str, Any], number: int) -> dict[str, Any]:
        if number == 1:
            late.wait(10)
        return {"actions": np.full((3, 2), 0.1 * number)}

    proposer = client(run(OpenPiServer(slow)))
    with pytest.raises(ProposerError, match="did not answer in time"):
        ask(proposer, within_s=0.3)
    late.set()
    time.sleep(0.1)  # now the late answer has been sent
    found = ask(proposer)
    proposer.connection.close()
    np.testing.assert_allclose(found.actions[0], 0.2)
    assert proposer.connection.counts["timeout"] == 1


def test_what_came_before_the_deadline_is_enough(run: Any) -> None:
    gate = threading.Event()

    def slow_third(request: dict[str, Any], number: int) -> dict[str, Any]:
        if number == 3:
            gate.wait(10)
        return drawn(request, number)

    proposer = client(run(OpenPiServer(slow_third)))
    try:
        found = ask(proposer, 8, within_s=0.5)
    finally:
        gate.set()
        proposer.connection.close()
    assert len(found) == 2
    assert "did not answer in time" in found.metadata["error"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"actions": np.full((3, 2), np.nan)}, "not all numbers"),
        ({"actions": np.zeros((4, 2))}, r"shape \(4, 2\), declared is \(3, 2\)"),
        ({"actions": [[0.0, 0.0]] * 3}, "list, not an array"),
        ({"action": np.zeros((3, 2))}, "NoneType, not an array"),
        ({"actions": np.array([["a", "b"]] * 3)}, "not an array of numbers"),
        (b"\xc1 garbage", "no msgpack message"),
        ("out of memory", "reports an error: out of memory"),
    ],
)
def test_an_answer_that_makes_no_sense_is_none(run: Any, answer: Any, words: str) -> None:
    proposer = client(run(OpenPiServer(lambda request, number: answer)))
    try:
        with pytest.raises(ProposerError, match=words):
            ask(proposer)
    finally:
        proposer.connection.close()


def test_yesterdays_answer_is_found_out(run: Any) -> None:
    answers = {1: 0.3, 2: 0.3, 3: 0.3}
    server = OpenPiServer(lambda request, number: {"actions": np.full((3, 2), answers[number])})
    proposer = client(run(server))
    ask(proposer)
    ask(proposer)  # of the same observation: a policy may well say the same
    with pytest.raises(ProposerError, match="an old answer"):
        ask(proposer, joints=np.array([0.6, -0.5], np.float32))
    proposer.connection.close()


def test_answers_at_the_bounds_may_repeat(run: Any) -> None:
    proposer = client(run(OpenPiServer(lambda request, number: {"actions": np.tile([2.0, 0.0], (3, 1))})))
    ask(proposer)
    ask(proposer, joints=np.array([0.6, -0.5], np.float32))
    proposer.connection.close()


def test_without_a_server_or_with_a_wrong_key_there_is_no_action(run: Any) -> None:
    uri = run(OpenPiServer(drawn, key="k" * 16))
    proposer = client(uri)
    with pytest.raises(ProposerError, match="closed the connection"):
        ask(proposer)
    proposer.connection.api_key = "k" * 16
    assert len(ask(proposer)) == 1
    proposer.connection.close()
    with pytest.raises(ProposerError, match="cannot connect"):
        ask(client("ws://127.0.0.1:9"))
    with pytest.raises(InputError, match="write ws://HOST:PORT"):
        OpenPiConnection(uri="127.0.0.1:8000")


def test_a_server_that_says_what_it_does_is_compared_with_what_was_declared(run: Any) -> None:
    for facts, words in (
        ({"chunk": 5}, "says chunk=5 of itself, declared is 3"),
        ({"semantics": "joint_position_target"}, "declared is 'joint_velocity'"),
        ({"control_period_s": 0.02}, "declared is 0.1"),
    ):
        proposer = client(run(OpenPiServer(drawn, {"robot_rl": facts})))
        with pytest.raises(InputError, match=words):
            ask(proposer)
        proposer.connection.close()


def test_an_observation_that_lacks_what_is_to_be_sent_is_refused() -> None:
    with pytest.raises(InputError, match=r"lacks \['wrist'\]"):
        ask(client("ws://127.0.0.1:9", keys={"wrist": "observation/wrist_image"}))


# --- steered


def steered(uri: str, **changes: Any) -> Steerer:
    scorer = Scorer(clock=FakeClock(), target=0.5)
    settings: dict[str, Any] = {"candidates": 6, "generator": torch.Generator().manual_seed(0)}
    settings |= {"selector": ValueSelector(), "clock": MonotonicClock(), **changes}
    return Steerer(proposer=client(uri), scorer=scorer, **settings)


def stop(steerer: Steerer) -> None:
    proposer: Any = steerer.proposer
    proposer.connection.close()


def decide(steerer: Steerer, within_s: float = 20.0) -> Decision:
    return steerer.decide(STATE, deadline_s=within_s)


def test_a_stock_server_is_steered_without_knowing_it(run: Any) -> None:
    steerer = steered(run(OpenPiServer(drawn)))
    decision = decide(steerer)
    stop(steerer)
    firsts = [np.random.default_rng(number).uniform(0.1, 0.9, (3, 2))[0, 0] for number in range(1, 7)]
    assert decision.record.reason == "steered"
    assert decision.record.chosen == int(np.argmin(np.abs(np.array(firsts) - 0.5)))


def test_a_server_that_always_answers_alike_is_perturbed(run: Any) -> None:
    steerer = steered(run(OpenPiServer(lambda request, number: {"actions": np.full((3, 2), 0.2)})))
    record = decide(steerer).record
    stop(steerer)
    assert (record.distinct, record.perturbed, record.chosen_kind) == (1, 5, "perturbed")


def test_a_server_that_dies_hangs_or_talks_nonsense_leaves_no_action_in_time_and_is_taken_back_when_it_is_well(
    run: Any,
) -> None:
    mode, gate = ["well"], threading.Event()

    def faulty(request: dict[str, Any], number: int) -> Any:
        match mode[0]:
            case "hangs":
                gate.wait(10)
            case "nan":
                return {"actions": np.full((3, 2), np.nan)}
            case "dies":
                raise RuntimeError("CUDA error")
        return drawn(request, number)

    steerer = steered(run(OpenPiServer(faulty)))
    try:
        for mode[0], words in (
            ("hangs", "did not answer in time"),
            ("well", None),
            ("nan", "not all numbers"),
            ("dies", "CUDA error"),
            ("well", None),
        ):
            start = time.monotonic()
            decision = decide(steerer, within_s=0.5 if mode[0] == "hangs" else 20.0)
            assert mode[0] != "hangs" or time.monotonic() - start < 3.0
            assert (decision.actions is None) is (words is not None)
            assert words is None or words in str(decision.record.error)
    finally:
        gate.set()
        stop(steerer)
    assert steerer.counts == {"proposer": 3, "steered": 2}


def test_a_critic_of_other_bounds_is_refused(run: Any) -> None:
    scorer = Scorer(clock=FakeClock(), spec=spec(scale=ActionScale(np.array([-0.05, 0.0]), np.array([0.05, 1.0]))))
    with pytest.raises(InputError, match="different units"):
        Steerer(
            proposer=client("ws://127.0.0.1:9"),
            scorer=scorer,
            selector=ValueSelector(),
            candidates=2,
            clock=FakeClock(),
            generator=torch.Generator(),
        )
