"""Agents of ours as proposers and scorers: the same actions and values as theirs, with one encoding."""

from typing import Any

import numpy as np
import pytest
import torch
from scripted import Scorer

from robot_rl.algorithms import ALGORITHM_CONFIGS, create
from robot_rl.clock import FakeClock
from robot_rl.errors import InputError
from robot_rl.loops.rollout import AgentPolicy
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.observation import PixelsConfig
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.steering.agents import AgentProposer, CriticScorer, is_stochastic
from robot_rl.steering.proposals import Deadline, Proposals
from robot_rl.steering.selection import ValueSelector
from robot_rl.steering.steer import Steerer
from robot_rl.transforms.action import ActionScale

LOW, HIGH = np.array([-2.0, 0.0]), np.array([2.0, 1.0])
SPEC = Spec(
    observation={"state": ArraySpec(shape=(3,)), "goal": ArraySpec(shape=(1,))},
    action=ArraySpec(shape=(2,), low=LOW, high=HIGH),
    control_period_s=0.1,
    action_semantics="joint_velocity",
)
OBSERVATION = {"state": np.array([0.3, -1.0, 2.0], np.float32), "goal": np.array([0.7], np.float32)}
SMALL = {"actor_hidden": [8], "critic_hidden": [8], "value_hidden": [8], "actor_width": 8, "actor_blocks": 1, "bins": 7}
CPU = torch.device("cpu")
CHUNKED = ("fql", "deas", "cqn", "qtransformer")


def make(name: str, chunk: int = 1, **settings: Any) -> Any:
    kind = ALGORITHM_CONFIGS[name]
    known = {key: value for key, value in {**SMALL, **settings}.items() if key in kind.__dataclass_fields__}
    torch.manual_seed(0)
    return create(kind(**known), SPEC.chunked(chunk), Seeds(0), CPU, None)


def proposer(agent: Any, chunk: int = 1, **settings: Any) -> AgentProposer:
    generator = torch.Generator().manual_seed(1)
    return AgentProposer(agent=agent, observations=SPEC, chunk=chunk, device=CPU, generator=generator, **settings)


def propose(ours: AgentProposer, count: int) -> Proposals:
    deadline = Deadline(clock=FakeClock())
    return ours.propose(OBSERVATION, count, observation_id=0, deadline=deadline, ready=lambda base: None)


@pytest.mark.parametrize("name", ALGORITHM_CONFIGS)
def test_row_0_is_what_the_policy_does_without_steering_and_one_encoding_serves_all(name: str) -> None:
    chunk = 3 if name in CHUNKED else 1
    agent = make(name, chunk)
    policy = AgentPolicy(agent=agent, spec=SPEC, scale=ActionScale(LOW, HIGH), device=CPU, action_chunk=chunk)
    before, calls = agent.generator.get_state(), []
    agent.encoder.register_forward_hook(lambda *_: calls.append(1))
    ours = proposer(agent, chunk)
    found = propose(ours, 9)
    assert (len(calls), ours.encodings) == (1, 1)
    np.testing.assert_allclose(found.actions[0], policy.decide(OBSERVATION), rtol=1e-5)
    assert found.actions.shape == (9, chunk, 2)
    assert found.kinds == ("base", *["sample"] * 8)
    assert ((found.actions >= LOW) & (found.actions <= HIGH)).all()
    assert len(np.unique(found.actions.reshape(9, -1), axis=0)) > 4  # some lie in the same corner
    assert torch.equal(agent.generator.get_state(), before)  # the run's own numbers are not touched
    again = propose(proposer(agent, chunk), 9)
    np.testing.assert_array_equal(again.actions, found.actions)


@pytest.mark.parametrize("name", sorted(set(ALGORITHM_CONFIGS) - {"bc"}))
def test_values_are_those_of_the_agent(name: str) -> None:
    chunk = 3 if name in CHUNKED else 1
    agent, calls = make(name, chunk), []
    agent.encoder.register_forward_hook(lambda *_: calls.append(1))
    scorer = CriticScorer(agent=agent, observations=SPEC, chunk=chunk, device=CPU)
    actions = LOW + np.random.default_rng(0).uniform(0.01, 0.99, (5, chunk, 2)) * (HIGH - LOW)
    scores = scorer.score(scorer.encode(OBSERVATION, ""), actions)
    assert len(calls) == 1
    rows = {key: torch.from_numpy(value)[None].expand(5, -1) for key, value in OBSERVATION.items()}
    normalized = torch.from_numpy(ActionScale(LOW, HIGH).normalize(actions).reshape(5, -1))
    # A new agent's target critics are its critics, so their mean is what the agent calls its value.
    torch.testing.assert_close(scores.values.mean(dim=0), agent.value(rows, normalized), rtol=1e-4, atol=1e-5)
    assert scores.supported.all()


@pytest.mark.parametrize("settings", [{}, {"critic_layer_norm": True, "critic_count": 5}])
def test_candidates_of_one_state_are_judged_as_those_of_many_states_are(settings: dict[str, Any]) -> None:
    critics = make("sac", critic_hidden=[32, 32], **settings).target_critic
    generator = torch.Generator().manual_seed(0)
    state, actions = torch.randn(1, 4, generator=generator), torch.randn(50, 2, generator=generator)
    with torch.no_grad():
        together = critics(state, actions[None])[:, 0]
        apart = critics(state.expand(50, -1), actions)  # the members one after the other
        twice = critics(state.expand(2, -1), actions.expand(2, -1, -1))
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together, twice[:, 1], rtol=1e-5, atol=1e-6)
    assert float(together.std(dim=1).min()) > 1e-3


@pytest.mark.parametrize("name", ["iql", "hybrid", "robust_sac"])
def test_the_target_critics_judge_not_the_newest(name: str) -> None:
    agent = make(name)
    scorer = CriticScorer(agent=agent, observations=SPEC, chunk=1, device=CPU)
    actions = np.zeros((1, 1, 2)) + 0.5
    before = scorer.score(scorer.encode(OBSERVATION, ""), actions).values
    with torch.no_grad():
        for weight in agent.critic.parameters():
            weight.add_(1.0)
    torch.testing.assert_close(scorer.score(scorer.encode(OBSERVATION, ""), actions).values, before)


def test_actions_outside_the_critics_range_are_marked() -> None:
    scorer = CriticScorer(agent=make("sac"), observations=SPEC, chunk=1, device=CPU)
    actions = np.array([[[0.0, 0.5]], [[2.0, 1.0]], [[2.1, 0.5]], [[0.0, -0.2]]])
    assert scorer.score(scorer.encode(OBSERVATION, ""), actions).supported.tolist() == [True, True, False, False]


def test_an_algorithm_without_a_critic_is_refused() -> None:
    with pytest.raises(InputError, match="learns no critic"):
        CriticScorer(agent=make("bc"), observations=SPEC, chunk=1, device=CPU)


def test_candidates_of_a_flow_are_its_own_samples_not_the_best_of_several() -> None:
    agent = make("deas", 3, candidates=200)
    found = propose(proposer(agent, 3), 60)
    scorer = CriticScorer(agent=agent, observations=SPEC, chunk=3, device=CPU)
    value = scorer.score(scorer.encode(OBSERVATION, ""), found.actions).values.amin(dim=0)
    # The policy itself takes the best of 200; of 59 samples of its flow, few may be as good by chance.
    assert int((value[1:] > value[0]).sum()) <= 3
    assert float(value[0] - value[1:].mean()) > float(value[1:].std())


@pytest.mark.parametrize(
    ("name", "samples"), [("td3", False), ("cqn", False), ("qtransformer", False), ("sac", True), ("fql", True)]
)
def test_a_policy_of_one_action_is_perturbed_not_sampled(name: str, samples: bool) -> None:
    agent, clock = make(name), FakeClock()
    assert is_stochastic(agent) is samples
    scorer: Any = Scorer(clock=clock)
    ours = proposer(agent)
    scorer.spec = ours.spec
    steerer = Steerer(
        proposer=ours,
        scorer=scorer,
        selector=ValueSelector(),
        candidates=6,
        clock=clock,
        generator=torch.Generator().manual_seed(0),
    )
    record = steerer.decide(OBSERVATION).record
    assert record.perturbed == (0 if samples else 5)
    assert record.candidates == 6


def test_a_diverged_policy_is_no_action() -> None:
    agent = make("sac")
    with torch.no_grad():
        for weight in agent.actor.parameters():
            weight.fill_(float("nan"))
    ours: Any = proposer(agent)
    scorer: Any = Scorer(clock=FakeClock(), spec=ours.spec)
    steerer = Steerer(
        proposer=ours,
        scorer=scorer,
        selector=ValueSelector(),
        candidates=4,
        clock=FakeClock(),
        generator=torch.Generator(),
    )
    decision = steerer.decide(OBSERVATION)
    assert decision.actions is None
    assert "diverged" in str(decision.record.error)


def test_a_critic_steers_its_own_noisy_policy_to_better_values() -> None:
    agent = make("sac")
    ours, scorer = proposer(agent, explore=True), CriticScorer(agent=agent, observations=SPEC, chunk=1, device=CPU)
    steerer = Steerer(
        proposer=ours,
        scorer=scorer,
        selector=ValueSelector(),
        candidates=16,
        clock=FakeClock(),
        generator=torch.Generator().manual_seed(0),
    )
    records = [steerer.decide(OBSERVATION).record for _ in range(10)]
    assert all(record.reason == "steered" for record in records)
    gains = [record.chosen_value - record.base_value for record in records]
    assert min(gains) >= 0
    assert max(gains) > 0
    assert (ours.encodings, scorer.encodings) == (10, 10)


@pytest.mark.parametrize("name", ["sac", "hybrid"])
def test_candidates_of_a_policy_that_explores_by_the_best_of_several_are_single_samples(name: str) -> None:
    several, single = (propose(proposer(make(name, exploration_candidates=count)), 9) for count in (64, 1))
    np.testing.assert_array_equal(several.actions, single.actions)


SEEING = Spec(
    observation={"camera": ArraySpec(shape=(16, 16, 3), dtype="uint8"), "state": ArraySpec(shape=(3,))},
    action=SPEC.action,
    control_period_s=0.1,
    action_semantics="joint_velocity",
)
PICTURE = {
    "camera": np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8),
    "state": np.array([0.3, -1.0, 2.0], np.float32),
}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("sac", {}), ("sac", {"exploration_candidates": 5}), ("iql", {}), ("bc", {})],
)
@pytest.mark.parametrize("explore", [False, True])
def test_an_image_is_encoded_once_for_all_candidates_and_once_for_all_values(
    name: str, settings: dict[str, Any], explore: bool
) -> None:
    eyes = VisionConfig(channels=[4, 4], kernels=[3, 3], strides=[2, 2])
    pixels = PixelsConfig(encoder=eyes, width=6, learns_from="actor" if name == "bc" else "values")
    kind = ALGORITHM_CONFIGS[name]
    known = {key: value for key, value in {**SMALL, **settings}.items() if key in kind.__dataclass_fields__}
    torch.manual_seed(0)
    agent: Any = create(kind(**known, pixels=pixels), SEEING, Seeds(0), CPU, None)
    calls: list[int] = []
    agent.encoder.eyes.register_forward_hook(lambda *_: calls.append(1))
    ours = AgentProposer(
        agent=agent,
        observations=SEEING,
        chunk=1,
        device=CPU,
        generator=torch.Generator().manual_seed(1),
        explore=explore,
    )
    deadline = Deadline(clock=FakeClock())
    found = ours.propose(PICTURE, 9, observation_id=0, deadline=deadline, ready=lambda base: None)
    asks_critics = explore and settings.get("exploration_candidates", 1) > 1
    assert len(calls) == (2 if asks_critics else 1)  # of critics that choose and of the policy
    if not explore:
        policy = AgentPolicy(agent=agent, spec=SEEING, scale=ActionScale(LOW, HIGH), device=CPU, action_chunk=1)
        np.testing.assert_allclose(found.actions[0], policy.decide(PICTURE), rtol=1e-5)
    assert len(np.unique(found.actions.reshape(9, -1), axis=0)) > 4
    if name == "bc":
        return
    calls.clear()
    scorer = CriticScorer(agent=agent, observations=SEEING, chunk=1, device=CPU)
    scores = scorer.score(scorer.encode(PICTURE, ""), found.actions)
    assert len(calls) == 1
    rows = {key: torch.from_numpy(value)[None].expand(9, *value.shape) for key, value in PICTURE.items()}
    normalized = torch.from_numpy(ActionScale(LOW, HIGH).normalize(found.actions).reshape(9, -1))
    torch.testing.assert_close(scores.values.mean(dim=0), agent.value(rows, normalized), rtol=1e-4, atol=1e-5)
