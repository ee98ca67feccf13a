"""The server as stock clients meet it, and what clients that misbehave cost the others."""

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from scripted import Scorer
from test_openpi import decode, encode
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from robot_rl.algorithms.sac import SACConfig, create
from robot_rl.clock import FakeClock, MonotonicClock
from robot_rl.errors import InputError
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.steering.agents import AgentProposer
from robot_rl.steering.openpi import OpenPiConnection, OpenPiProposer
from robot_rl.steering.proposals import Deadline
from robot_rl.steering.selection import ValueSelector
from robot_rl.steering.served import Request, ServedAgent, ServedSteering, describe
from robot_rl.steering.server import Limits, PolicyServer, is_loopback, require_key
from robot_rl.steering.steer import Steerer

SPEC = Spec(
    observation={"state": ArraySpec(shape=(3,)), "camera": ArraySpec(shape=(4, 4, 3), dtype="uint8")},
    action=ArraySpec(shape=(2,), low=np.array([-2.0, 0.0]), high=np.array([2.0, 1.0])),
    control_period_s=0.1,
    action_semantics="joint_velocity",
)
KEYS = {"state": "observation/state", "camera": "observation/image"}
PICTURE = np.zeros((4, 4, 3), np.uint8)
KEY = "0123456789abcdef"


class Doubler:
    """Answers with the state it was asked about, so that a crossed reply shows."""

    def __init__(self) -> None:
        self.spec = SPEC
        self.metadata = describe(SPEC, 1, KEYS)
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()

    def answer(self, requests: Sequence[Request]) -> list[dict[str, Any] | Exception]:
        self.gate.wait(20)
        self.batches.append(len(requests))
        answers: list[dict[str, Any] | Exception] = []
        for request in requests:
            state = request.observation["state"]
            answers.append(RuntimeError("hot motor") if state[2] == 13 else {"actions": 2 * state[None, :2]})
        return answers


class Running:
    """A server in a thread of its own."""

    def __init__(self, server: PolicyServer) -> None:
        self.server = server
        self.ready, self.thread = threading.Event(), threading.Thread(target=self._run)
        self.thread.start()
        assert self.ready.wait(10)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        async with self.server.running():
            self.ready.set()
            await self.stop.wait()

    @property
    def uri(self) -> str:
        return f"ws://127.0.0.1:{self.server.port}"

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(15)
        assert not self.thread.is_alive()


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """Starts servers; ends them with the test."""
    running: list[Running] = []

    def start(policy: Any = None, limits: Limits | None = None, **changes: Any) -> Running:
        policy = Doubler() if policy is None else policy
        limits = Limits(answer_s=10.0, send_s=5.0) if limits is None else limits
        keys = {key: name for key, name in KEYS.items() if key in policy.spec.observation}
        running.append(Running(PolicyServer(policy=policy, keys=keys, port=0, limits=limits, **changes)))
        return running[-1]

    yield start
    for each in running:
        each.close()


class Client:
    """A stock client: websockets and msgpack, nothing of ours."""

    def __init__(self, uri: str, key: str | None = None) -> None:
        headers = {} if key is None else {"Authorization": f"Api-Key {key}"}
        self.stack = contextlib.ExitStack()
        opening = connect(uri, compression=None, max_size=None, additional_headers=headers, proxy=None)
        self.socket = self.stack.enter_context(opening)
        self.metadata = msgpack.unpackb(self.socket.recv(timeout=10), object_hook=decode)

    def infer(self, observation: dict[str, Any]) -> Any:
        self.socket.send(msgpack.packb(observation, default=encode))
        answer = self.socket.recv(timeout=10)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return msgpack.unpackb(answer, object_hook=decode)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()


def state(*numbers: float, **more: Any) -> dict[str, Any]:
    return {"observation/state": np.array(numbers, np.float32), "observation/image": PICTURE, **more}


def test_a_stock_client_is_told_what_to_send_and_gets_actions_with_times(run: Any) -> None:
    with Client(run().uri) as client:
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


def test_eight_clients_at_once_get_their_own_answers_in_batches(run: Any) -> None:
    running = run()
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


def test_what_waits_is_one_batch(run: Any) -> None:
    policy = Doubler()
    running = run(policy)
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
    run: Any, message: bytes | str, words: str
) -> None:
    running = run()
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


def test_a_message_of_a_gigabyte_is_refused_at_its_first_bytes(run: Any) -> None:
    running = run(limits=Limits(message_bytes=100_000))
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


def test_clients_that_vanish_stall_or_speak_no_protocol_at_all_harm_nobody(run: Any) -> None:
    running = run()
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


def test_who_hangs_up_is_not_worked_for(run: Any) -> None:
    policy = Doubler()
    running = run(policy)
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


def test_a_policy_that_hangs_shows_in_the_health_check_which_does_not_wait_for_it(run: Any) -> None:
    policy = Doubler()
    running = run(policy, Limits(answer_s=0.2))
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


def test_a_key_is_demanded_of_clients_and_of_metrics_but_not_of_health(run: Any) -> None:
    running = run(key=KEY)
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


def test_a_web_page_cannot_reach_a_robot_through_its_visitors_browser(run: Any) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(run().uri, origin="http://example.org", proxy=None) as connection,  # type: ignore[arg-type]
    ):
        connection.recv(timeout=10)
    assert refused.value.response.status_code == 403


def test_one_client_too_many_is_refused(run: Any) -> None:
    running = run(limits=Limits(connections=1))
    with Client(running.uri):
        with pytest.raises(InvalidStatus) as refused:
            Client(running.uri)
        assert refused.value.response.status_code == 503


def test_a_port_that_is_taken_is_said_so(run: Any) -> None:
    running = run()
    other = PolicyServer(policy=Doubler(), keys=KEYS, port=running.server.port)

    async def start() -> None:
        async with other.running():
            pass

    with pytest.raises(InputError, match=r"cannot listen at 127\.0\.0\.1"):
        asyncio.run(start())


def test_the_end_is_told_to_clients(run: Any) -> None:
    running = run()
    with Client(running.uri) as client:
        running.close()
        with pytest.raises(ConnectionClosed) as closed:
            client.socket.recv(timeout=10)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
    running.close = lambda: None  # it is over


def test_metrics_count_in_the_form_of_prometheus(run: Any) -> None:
    running = run()
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


# --- our own policies

NUMBERS = Spec(
    observation={"state": SPEC.observation["state"]},
    action=SPEC.action,
    control_period_s=0.1,
    action_semantics="joint_velocity",
)


def agent() -> AgentProposer:
    torch.manual_seed(0)
    config = SACConfig(actor_hidden=[8], critic_hidden=[8])
    made = create(config, NUMBERS.chunked(3), Seeds(0), torch.device("cpu"), None)
    generator = torch.Generator().manual_seed(0)
    return AgentProposer(agent=made, observations=NUMBERS, chunk=3, device=torch.device("cpu"), generator=generator)


def test_a_policy_of_ours_answers_several_clients_in_one_batch_as_it_answers_each() -> None:
    served = ServedAgent(proposer=agent(), keys={"state": "state"}, clock=FakeClock())
    states = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    requests = [Request(observation={"state": each}) for each in states]
    together = served.answer(requests)
    assert served.batches == 1
    for request, answer in zip(requests, together, strict=True):
        (alone,) = served.answer([request])
        np.testing.assert_allclose(answer["actions"], alone["actions"], rtol=1e-5)
    assert together[0]["actions"].shape == (3, 2)


def test_a_request_that_breaks_the_batch_costs_only_its_own_client() -> None:
    served = ServedAgent(proposer=agent(), keys={"state": "state"}, clock=FakeClock())
    good = Request(observation={"state": np.zeros(3, np.float32)})
    bad = Request(observation={"state": np.full(3, np.nan, np.float32)})  # past the check of requests
    answers = served.answer([good, bad, good])
    assert isinstance(answers[1], Exception)
    np.testing.assert_array_equal(answers[0]["actions"], answers[2]["actions"])


def test_our_client_gets_all_candidates_of_our_server_by_one_request(run: Any) -> None:
    ours = agent()
    running = run(ServedAgent(proposer=ours, keys={"state": KEYS["state"]}, clock=MonotonicClock()))
    proposer = OpenPiProposer(
        connection=OpenPiConnection(uri=running.uri), spec=ours.spec, keys={"state": KEYS["state"]}
    )
    observation = {"state": np.array([0.1, 0.2, 0.3], np.float32)}
    deadline = Deadline.after(MonotonicClock(), 20.0)
    found = proposer.propose(observation, 9, observation_id=0, deadline=deadline, ready=lambda base: None)
    again = proposer.propose(observation, 1, observation_id=1, deadline=deadline, ready=lambda base: None)
    proposer.connection.close()
    assert found.actions.shape == (9, 3, 2)
    assert proposer.connection.counts["answered"] == 2
    np.testing.assert_array_equal(found.actions[0], again.actions[0])
    np.testing.assert_allclose(found.actions[0], ours.decide({"state": observation["state"][None]})[0])


def test_a_steered_policy_is_served_and_its_decisions_are_counted(run: Any) -> None:
    ours, clock = agent(), MonotonicClock()
    scorer = Scorer(clock=FakeClock(), spec=ours.spec, target=2.0)
    steerer = Steerer(
        proposer=ours,
        scorer=scorer,
        selector=ValueSelector(),
        candidates=8,
        clock=clock,
        generator=torch.Generator().manual_seed(0),
    )
    running = run(ServedSteering(steerer=steerer, observations=NUMBERS, keys={"state": KEYS["state"]}))
    with Client(running.uri) as client:
        assert client.metadata["robot_rl"]["steered"] is True
        answer = client.infer({"observation/state": np.zeros(3, np.float32)})
        scorer.error = RuntimeError("critic gone")
        fallback = client.infer({"observation/state": np.zeros(3, np.float32)})
        text = running.get("/metrics")[1]
    assert answer["steering"]["reason"] == "steered"
    assert answer["steering"]["chosen"] > 0
    assert answer["steering"]["chosen_value"] > answer["steering"]["base_value"]
    assert fallback["steering"]["reason"] == "scorer"
    np.testing.assert_allclose(fallback["actions"], ours.decide({"state": np.zeros((1, 3), np.float32)})[0])
    assert 'robot_rl_steering_total{reason="steered",chosen="other"} 1' in text
    assert 'robot_rl_steering_total{reason="scorer",chosen="base"} 1' in text


class Remote:
    """A proposer that keeps what it was sent."""

    def __init__(self) -> None:
        self.inner = agent()
        self.spec, self.capabilities = self.inner.spec, self.inner.capabilities
        self.seen: list[dict[str, Any]] = []
        self.tasks: list[str] = []

    def reset(self, task: str) -> None:
        self.tasks.append(task)

    def commit(self, actions: np.ndarray) -> None:
        raise AssertionError("a server does not know what was played")

    def propose(self, observation: Any, count: int, **settings: Any) -> Any:
        self.seen.append(dict(observation))
        return self.inner.propose({"state": observation["observation/state"]}, count, **settings)


def test_messages_go_on_to_a_policy_server_as_they_came(run: Any) -> None:
    remote: Any = Remote()
    scorer = Scorer(clock=FakeClock(), spec=remote.spec)
    steerer = Steerer(
        proposer=remote,
        scorer=scorer,
        selector=ValueSelector(),
        candidates=3,
        clock=MonotonicClock(),
        generator=torch.Generator().manual_seed(0),
    )
    keys = {"state": KEYS["state"]}
    running = run(ServedSteering(steerer=steerer, observations=NUMBERS, keys=keys, forwards=True))
    with Client(running.uri) as client:
        for prompt in ("lift", "lift", "stack"):
            client.infer(state(1.0, 0.0, 0.0, prompt=prompt, wrist=PICTURE, episode=3))
    assert [set(each) for each in remote.seen] == [{"observation/state", "observation/image", "wrist", "episode"}] * 3
    assert remote.seen[0]["episode"] == 3
    assert remote.tasks == ["lift", "stack"]  # an episode is not begun at each request
