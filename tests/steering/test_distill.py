"""Best of N back into a policy, and a consistency head tuned on a backbone that stays as it is."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.algorithms import BCConfig, IQLConfig, SACConfig, TD3Config, create
from robot_rl.algorithms.bc import BC
from robot_rl.errors import InputError
from robot_rl.functional import consistency, distillation
from robot_rl.functional.consistency import NoiseScale
from robot_rl.networks.consistency import ConsistencyHead
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.steering.distill import BestOfN, Candidates, ConsistencyTuner, propose_candidates, values_of
from robot_rl.types import Batch

SPEC = Spec(observation={"state": ArraySpec(shape=(2,))}, action=ArraySpec(shape=(2,)))
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- best of N, by hand


def test_the_best_is_cloned_where_its_advantage_is_above_the_threshold() -> None:
    # Row 0: best 3 at place 2, V 1, advantage 2. Row 1: best 1, V 0.5, advantage 0.5. Row 2: no finite value but -1.
    q = torch.tensor([[1.0, 0.0, 3.0], [1.0, 0.5, 0.0], [math.nan, -1.0, math.inf]])
    index, advantage, cloned = distillation.best_of(q, torch.tensor([1.0, 0.5, -1.5]), 0.5)
    assert index.tolist() == [2, 0, 1]
    assert advantage.tolist() == [2.0, 0.5, 0.5]
    assert cloned.tolist() == [True, False, False]  # at the threshold is not above it
    nothing = distillation.best_of(torch.full((1, 2), math.nan), torch.zeros(1), 0.0)
    assert not bool(nothing[2][0])


def test_the_policy_is_worth_the_mean_of_its_own_candidates() -> None:
    q = torch.tensor([[10.0, 1.0, 3.0]])
    assert float(distillation.reference_value(q, "policy")) == 2.0  # the recorded action is not the policy's
    assert float(distillation.reference_value(q, "recorded")) == 10.0
    assert float(distillation.reference_value(q[:, :1], "policy")) == 10.0


@given(st.integers(1, 8), st.integers(1, 12), st.data())
def test_drawn_candidates_are_different_and_the_recorded_one_is_among_them(rows: int, cached: int, data: Any) -> None:
    drawn = data.draw(st.integers(1, cached))
    found = distillation.drawn_candidates(rows, cached, drawn, generator())
    assert found.shape == (rows, drawn)
    assert (found[:, 0] == 0).all()
    assert all(len(set(row)) == drawn and max(row) < cached for row in found.tolist())


def test_every_candidate_is_drawn_alike() -> None:
    found = distillation.drawn_candidates(6000, 5, 3, generator())[:, 1:]
    counts = torch.bincount(found.ravel(), minlength=5)
    assert counts[0] == 0
    assert (counts[1:] / 6000 - 0.5).abs().max() < 0.03


# --- agents


def agents(**settings: Any) -> tuple[BC, Any]:
    torch.manual_seed(0)
    policy = create(BCConfig(actor_hidden=[32], actor_learning_rate=3e-3), SPEC, Seeds(0), CPU, None)
    critic: Any = create(SACConfig(actor_hidden=[8], critic_hidden=[32]), SPEC, Seeds(1), CPU, None)
    assert isinstance(policy, BC)
    return policy, critic


class Distance:
    """In the place of target critics: minus the squared distance of an action from half the state."""

    def __init__(self, count: int = 2) -> None:
        self.count = count

    def __call__(self, features: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        value = -(action - features[:, None] / 2).square().sum(-1)
        return torch.stack([value + 0.01 * each for each in range(self.count)])


def known_critic() -> Any:
    _, critic = agents()
    return replace(critic, target_critic=Distance())


def batches(count: int = 4, rows: int = 64) -> Iterator[Batch]:
    for number in range(count):
        state = 2 * torch.rand(rows, 2, generator=generator(number)) - 1
        zeros = torch.zeros(rows)
        action = (2 * torch.rand(rows, 2, generator=generator(100 + number)) - 1) * 0.9
        yield Batch(
            observation={"state": state}, action=action, reward=zeros, discount=zeros, next_observation={"state": state}
        )


def error_of(policy: BC) -> float:
    state = 2 * torch.rand(500, 2, generator=generator(9)) - 1
    return float((policy.act({"state": state}, explore=False) - state / 2).square().sum(1).mean())


def test_candidates_are_the_recorded_action_and_samples_each_with_its_value() -> None:
    policy, critic = agents()
    before = policy.generator.get_state()
    cached = propose_candidates(policy, critic, batches(2), 5, "min", generator())
    assert (len(cached), cached.actions.shape, cached.q.shape) == (128, (128, 5, 2), (128, 5))
    first = next(batches(1))
    torch.testing.assert_close(cached.actions[:64, 0], first.action)
    assert torch.equal(policy.generator.get_state(), before)
    assert float((cached.actions[:, 1] - cached.actions[:, 2]).abs().mean()) > 0.05
    with torch.no_grad():
        expected = values_of(critic, first.observation["state"], cached.actions[:64]).amin(dim=0)
    torch.testing.assert_close(cached.q[:64], expected, rtol=1e-4, atol=1e-5)


def test_distilling_moves_a_policy_to_what_the_critic_likes_and_no_threshold_is_met_by_chance() -> None:
    policy, _ = agents()
    for batch in batches(20):  # it has learned to do anything
        policy.update(batch)
    cached = propose_candidates(policy, known_critic(), batches(4), 16, "min", generator())
    before = error_of(policy)
    never = BestOfN(
        student=policy, candidates=cached, drawn=8, threshold=100.0, reference="policy", generator=generator()
    )
    updates = policy.updates
    metrics = never.step(64)
    assert (policy.updates, never.cloned, never.seen) == (updates, 0, 64)
    assert float(metrics["distill/cloned"]) == 0
    distiller = BestOfN(
        student=policy, candidates=cached, drawn=8, threshold=0.05, reference="policy", generator=generator()
    )
    for _ in range(150):
        metrics = distiller.step(128)
    assert error_of(policy) < 0.4 * before
    assert float(metrics["distill/advantage"]) > 0.05
    assert distiller.cloned > 0.5 * distiller.seen


def test_a_higher_threshold_clones_less() -> None:
    policy, _ = agents()
    cached = propose_candidates(policy, known_critic(), batches(4), 16, "min", generator())
    cloned = []
    for threshold in (0.0, 0.2, 0.6):
        student = create(BCConfig(actor_hidden=[8]), SPEC, Seeds(0), CPU, None)
        assert isinstance(student, BC)
        distiller = BestOfN(
            student=student, candidates=cached, drawn=4, threshold=threshold, reference="policy", generator=generator()
        )
        for _ in range(5):
            distiller.step(128)
        cloned.append(distiller.cloned)
    assert cloned[0] > cloned[1] > cloned[2]


def test_what_cannot_be_distilled_is_refused() -> None:
    policy, critic = agents()
    fixed = create(TD3Config(actor_hidden=[8], critic_hidden=[8]), SPEC, Seeds(0), CPU, None)
    with pytest.raises(InputError, match="always does the same"):
        propose_candidates(fixed, critic, batches(1), 4, "min", generator())
    with pytest.raises(InputError, match="no target critics"):
        propose_candidates(policy, policy, batches(1), 4, "min", generator())
    with pytest.raises(InputError, match="no states"):
        propose_candidates(policy, critic, iter(()), 4, "min", generator())
    with pytest.raises(InputError, match="needs a critic"):
        ConsistencyTuner(head=ConsistencyHead(2, 2, generator()), generator=generator(), value_weight=0.1)


# --- consistency, in float64 against formulas written anew


def test_levels_and_scalings_are_those_of_the_papers() -> None:
    scale = NoiseScale()
    sigmas = scale.sigmas(torch.zeros((), dtype=torch.float64)).numpy()
    number = np.arange(40)
    expected = (80 ** (1 / 7) + number / 39 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigmas, expected, rtol=1e-12)
    assert (np.diff(sigmas) < 0).all()
    skip, out, inside = (each.numpy() for each in consistency.scalings(torch.from_numpy(sigmas), scale))
    np.testing.assert_allclose(skip, 0.25 / ((sigmas - 0.002) ** 2 + 0.25), rtol=1e-12)
    np.testing.assert_allclose(out, 0.5 * (sigmas - 0.002) / np.sqrt(0.25 + sigmas**2), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(inside, 1 / np.sqrt(sigmas**2 + 0.25), rtol=1e-12)


def test_without_noise_the_function_is_the_identity() -> None:
    action = torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    sigma = torch.full((4,), 0.002, dtype=torch.float64)
    found = consistency.denoised(lambda x, time: 1e3 * x + time[:, None], action, sigma, NoiseScale())
    torch.testing.assert_close(found, action)


def test_the_losses_are_the_formulas() -> None:
    random = np.random.default_rng(0)
    found, action = random.normal(size=(5, 3)), random.normal(size=(5, 3))
    sigma, q = random.uniform(0.01, 10, 5), random.normal(size=(2, 5))
    expected = np.mean([(1 / s**2 + 4) * np.mean((f - a) ** 2) for f, a, s in zip(found, action, sigma, strict=True)])
    loss = consistency.reconstruction_loss(
        torch.from_numpy(found), torch.from_numpy(action), torch.from_numpy(sigma), NoiseScale()
    )
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    total = consistency.tuning_loss(loss, torch.from_numpy(q), 0.1, 1.0)
    assert float(total) == pytest.approx(0.1 * expected - q.mean(), rel=1e-12)


def test_an_action_is_one_step_from_noise_and_inside_the_bounds() -> None:
    scale, asked = NoiseScale(), []

    def network(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        asked.append((x, time))
        return torch.full_like(x, 100.0)

    noise = torch.randn(3, 2, generator=generator(), dtype=torch.float64)
    assert (consistency.one_step(network, noise, scale) == 1.0).all()
    ((x, time),) = asked
    torch.testing.assert_close(x, 80 * noise / math.sqrt(80**2 + 0.25))
    torch.testing.assert_close(time, torch.full((3,), 250 * math.log(80), dtype=torch.float64))


def test_a_head_learns_the_actions_and_a_critic_moves_them_while_the_backbone_stays() -> None:
    backbone = torch.nn.Linear(2, 2)
    before = [parameter.clone() for parameter in backbone.parameters()]
    tuner = ConsistencyTuner(
        head=ConsistencyHead(2, 2, generator(), hidden=(32, 32)),
        generator=generator(),
        value_weight=0.0,
        learning_rate=3e-3,
        scale=NoiseScale(maximum=5.0),
    )
    target = torch.tensor([0.3, -0.4])
    state = 2 * torch.rand(64, 2, generator=generator(1)) - 1
    for _ in range(150):
        tuner.update(backbone(state), target.expand(64, 2))
    cloned = tuner.sample(backbone(state))
    assert float((cloned - target).abs().mean()) < 0.15
    tuned = replace(tuner, critic=known_critic(), cloning_weight=0.01, value_weight=1.0)
    for _ in range(150):
        metrics = tuned.update(backbone(state), target.expand(64, 2), state)
    moved = tuned.sample(backbone(state))
    assert float((moved - state / 2).square().sum(1).mean()) < 0.5 * float((cloned - state / 2).square().sum(1).mean())
    assert float(metrics["actor/q"]) > -0.2
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in backbone.parameters())
    with pytest.raises(ValueError, match="own features"):
        tuned.update(state, state)


def test_a_cloned_head_earns_more_once_a_learned_critic_has_tuned_it() -> None:
    """The reward is -|a - state / 2|^2, recorded actions are anything."""
    torch.manual_seed(0)
    policy = create(
        BCConfig(policy="consistency", actor_hidden=[32], actor_learning_rate=3e-3), SPEC, Seeds(0), CPU, None
    )
    critic = create(
        IQLConfig(actor_hidden=[8], critic_hidden=[64], value_hidden=[8], critic_learning_rate=1e-2, target_rate=0.1),
        SPEC,
        Seeds(1),
        CPU,
        None,
    )
    assert isinstance(policy, BC)
    data = [
        replace(each, reward=-(each.action - each.observation["state"] / 2).square().sum(1)) for each in batches(8, 128)
    ]
    for _ in range(25):
        for batch in data:
            policy.update(batch)
            critic.update(batch)
    before = error_of(policy)
    assert isinstance(policy.actor, ConsistencyHead)
    tuner = ConsistencyTuner(
        head=policy.actor,
        generator=generator(),
        critic=critic,
        cloning_weight=0.01,
        value_weight=1.0,
        learning_rate=3e-3,
    )
    for _ in range(25):
        for batch in data:
            state = batch.observation["state"]
            tuner.update(state, batch.action, state)
    assert error_of(policy) < 0.3 * before


def test_the_cache_says_how_many_states_it_has() -> None:
    assert len(Candidates(observation={}, actions=torch.zeros(3, 2, 1), q=torch.zeros(3, 2))) == 3
