"""Smoothness, uncertainty and diversity: arithmetic, parity with formulas in float64, what their gradients do."""

import math

import numpy as np
import pytest
import torch

from robot_rl.algorithms import RORLConfig, create, rorl
from robot_rl.functional import smoothing
from robot_rl.networks.ensemble import Ensemble
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

SPEC = Spec(observation={"state": ArraySpec(shape=(4,))}, action=ArraySpec(shape=(2,)))


def make(**settings) -> rorl.RORL:
    config = RORLConfig(actor_hidden=[16, 16], critic_hidden=[16, 16], critic_count=3, **settings)
    agent = create(config, SPEC, Seeds(0), torch.device("cpu"), None)
    assert isinstance(agent, rorl.RORL)
    return agent


def batch(rows: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Batch(
        observation={"state": noise(rows, 4)},
        action=noise(rows, 2).tanh(),
        reward=noise(rows),
        discount=torch.where(noise(rows) > 1, 0.0, 0.99),
        next_observation={"state": noise(rows, 4)},
    )


def test_overestimation_around_a_state_counts_more() -> None:
    # D of critic 1: 2, -1; of critic 2: 0, -1. Weighted squares: 0.8 * 4 = 3.2, 0.2; 0, 0.2. Means 1.6 and 0.2: max 1.6
    near, q = torch.tensor([[[3.0, 0.0]], [[1.0, 0.0]]]), torch.tensor([[1.0], [1.0]])
    torch.testing.assert_close(smoothing.critic_smoothness(near, q, 0.2), torch.tensor(1.6))


def test_disagreement_pulls_every_critic_down_by_its_size() -> None:
    # std of (1, 3) is 1: (0.5 * 1)^2 = 0.25; the gradient of the mean of (target - Q)^2 is -2 (target - Q) / 2 = 0.5
    q = torch.tensor([[1.0], [3.0]], requires_grad=True)
    loss = smoothing.uncertainty_penalty(q, 0.5)
    torch.testing.assert_close(loss.detach(), torch.tensor(0.25))
    loss.backward()
    torch.testing.assert_close(q.grad, torch.full((2, 1), 0.5))


def test_the_symmetric_divergence_of_gaussians() -> None:
    # N(0, 1) and N(1, e^2): KL = 1 + 2 / (2 e^2) - 1/2 and KL' = -1 + (e^2 + 1) / 2 - 1/2; the further state counts
    zero = torch.zeros(1, 1)
    near_mean, near_log_std = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.0], [1.0]]])
    expected = (1 + 2 / (2 * math.e**2) - 0.5) + (-1 + (math.e**2 + 1) / 2 - 0.5)
    found = smoothing.policy_smoothness(zero, zero, near_mean, near_log_std)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_gradients_in_one_direction_are_not_diverse() -> None:
    # three equal unit vectors: 6 pairs of product 1, over 2: 3. Orthogonal ones: 0. Two opposite ones: 2 * -1 over 1
    same = torch.tensor([[[2.0, 0.0]], [[1.0, 0.0]], [[5.0, 0.0]]])
    torch.testing.assert_close(smoothing.gradient_diversity(same), torch.tensor(3.0))
    apart = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])
    torch.testing.assert_close(smoothing.gradient_diversity(apart), torch.tensor(0.0))
    opposite = torch.tensor([[[2.0, 0.0]], [[-3.0, 0.0]]])
    torch.testing.assert_close(smoothing.gradient_diversity(opposite), torch.tensor(-2.0))


def test_perturbed_states_stay_within_the_radius() -> None:
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    near = smoothing.perturbed(features, 0.1, 200, torch.Generator().manual_seed(1))
    distance = (near - features[:, None]).abs()
    assert near.shape == (5, 200, 3)
    assert 0.09 < float(distance.max()) <= 0.1 + 1e-6


def network(module: Ensemble, features: np.ndarray, action: np.ndarray) -> np.ndarray:
    """An independent forward pass of the critics in float64. Shapes: -> (E, B)."""
    critics = []
    for member in range(module.count):
        x = np.concatenate([features, action], 1)
        for index, (weight, bias) in enumerate(zip(module.weights, module.biases, strict=True)):
            x = x @ weight[member].detach().double().numpy().T + bias[member].detach().double().numpy()
            x = np.maximum(x, 0) if index < len(module.weights) - 1 else x
        critics.append(x[:, 0])
    return np.stack(critics)


@pytest.mark.parametrize("targets", ["min", "own"])
def test_the_critic_loss_is_the_formula(targets: str) -> None:
    agent, rows = make(target_critics=targets), batch()
    generator = torch.Generator()
    generator.set_state(agent.generator.get_state())
    mean, log_std = (each.detach().double() for each in agent.actor(rows.next_observation["state"]))
    noise = torch.randn((16, 2), generator=generator).double()
    u = mean + log_std.exp() * noise
    log_prob = (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(1) - torch.log(1 - u.tanh() ** 2).sum(1)
    v = network(agent.target_critic, rows.next_observation["state"].double().numpy(), u.tanh().numpy())
    v = v.min(0, keepdims=True) if targets == "min" else v
    target = rows.reward.double().numpy() + rows.discount.double().numpy() * (v - log_prob.numpy())
    q = network(agent.critic, rows.observation["state"].double().numpy(), rows.action.double().numpy())
    expected = np.square(q - target).mean(1).sum()
    assert float(agent.update(rows)["critic/td_loss"]) == pytest.approx(expected, rel=1e-5)


def test_diversity_makes_gradients_diverse() -> None:
    settings = {"critic_learning_rate": 3e-3, "actor_learning_rate": 0.0, "target_rate": 0.0}
    values = {}
    for name, agent in (("apart", make(diversity_weight=5.0, **settings)), ("plain", make(**settings))):
        for _ in range(60):
            agent.update(batch())
        action = batch().action.requires_grad_()
        q = agent.critic(batch().observation["state"], action)
        gradient = torch.stack([torch.autograd.grad(each.sum(), action, retain_graph=True)[0] for each in q])
        values[name] = float(smoothing.gradient_diversity(gradient))
    assert values["apart"] < values["plain"] - 0.2


def test_smoothness_makes_the_policy_smooth() -> None:
    spread = {}
    for weight in (0.0, 5.0):
        agent = make(
            actor_smoothness_weight=weight, actor_smoothness_radius=0.5, actor_learning_rate=3e-3, perturbations=5
        )
        for _ in range(100):
            agent.update(batch())
        features = batch().observation["state"]
        near = smoothing.perturbed(features, 0.5, 50, torch.Generator().manual_seed(0))
        with torch.no_grad():
            mean, center = agent.actor(near.flatten(0, 1))[0], agent.actor(features)[0]
        spread[weight] = float((mean.unflatten(0, (16, 50)) - center[:, None]).abs().mean())
    assert spread[5.0] < 0.5 * spread[0.0]


def test_the_strength_falls_to_its_minimum() -> None:
    agent = make(uncertainty_strength=1.0, uncertainty_strength_minimum=0.3, uncertainty_decay=0.5)
    strengths = []
    for _ in range(4):
        strengths.append(agent._strength)
        agent.updates += 1
    assert strengths == [1.0, 0.5, 0.3, 0.3]
