"""Policies of ours, and steered ones, behind the server."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scripted import Scorer
from serving import KEYS, PICTURE, SPEC, Client, state

from robot_rl.algorithms.sac import SACConfig, create
from robot_rl.clock import FakeClock, MonotonicClock
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.steering.agents import AgentProposer
from robot_rl.steering.openpi import OpenPiConnection, OpenPiProposer
from robot_rl.steering.proposals import Deadline
from robot_rl.steering.selection import SELECTORS, ValueSelector
from robot_rl.steering.served import Request, ServedAgent, ServedSteering
from robot_rl.steering.steer import REASONS, Record, Steerer

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


def test_our_client_gets_all_candidates_of_our_server_by_one_request(run_server: Any) -> None:
    ours = agent()
    running = run_server(ServedAgent(proposer=ours, keys={"state": KEYS["state"]}, clock=MonotonicClock()))
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


def test_a_steered_policy_is_served_and_its_decisions_are_counted(run_server: Any) -> None:
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
    running = run_server(ServedSteering(steerer=steerer, observations=NUMBERS, keys={"state": KEYS["state"]}))
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


def test_messages_go_on_to_a_policy_server_as_they_came(run_server: Any) -> None:
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
    running = run_server(ServedSteering(steerer=steerer, observations=NUMBERS, keys=keys, forwards=True))
    with Client(running.uri) as client:
        for prompt in ("lift", "lift", "stack"):
            client.infer(state(1.0, 0.0, 0.0, prompt=prompt, wrist=PICTURE, episode=3))
    assert [set(each) for each in remote.seen] == [{"observation/state", "observation/image", "wrist", "episode"}] * 3
    assert remote.seen[0]["episode"] == 3
    assert remote.tasks == ["lift", "stack"]  # an episode is not begun at each request


def test_the_client_on_the_page_works(run_server: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "steering.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "docs/steering.md", "exec"), names)  # noqa: S102  # it is our page
    ours = agent()
    running = run_server(
        ServedAgent(proposer=ours, keys={"state": "state"}, clock=MonotonicClock()), keys={"state": "state"}
    )
    actions = names["actions_for"](np.zeros(3, np.float32), running.uri)
    np.testing.assert_allclose(actions, ours.decide({"state": np.zeros((1, 3), np.float32)})[0])


def test_the_page_names_every_reason_rule_and_field_of_the_log() -> None:
    page = (Path(__file__).parents[2] / "docs" / "steering.md").read_text("utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    assert {*REASONS, *SELECTORS} <= named
    assert {field.name for field in fields(Record)} - {"observation_id"} <= named
