"""AWAC: arithmetic of its weights and loss, and parity of both losses with formulas in float64."""

import math

import numpy as np
import pytest
import torch

from robot_rl.algorithms import AWACConfig, awac, create
from robot_rl.networks.ensemble import Ensemble
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

SPEC = Spec(observation={"state": ArraySpec(shape=(4,))}, action=ArraySpec(shape=(2,)))


def test_weights_are_cut_or_sum_to_the_size_of_the_batch() -> None:
    # exp(1 / 0.5) = 7.389, exp(5 / 0.5) is cut to 100; softmax of (0, log 3): 1/4 and 3/4, times 2
    found = awac.advantage_weight(torch.tensor([1.0, 5.0]), 0.5, normalization="none", maximum=100.0)
    torch.testing.assert_close(found, torch.tensor([7.389056, 100.0]))
    found = awac.advantage_weight(torch.tensor([0.0, math.log(3)]), 1.0, normalization="softmax", maximum=100.0)
    torch.testing.assert_close(found, torch.tensor([0.5, 1.5]))
    # an advantage of 5 counts as 1: exp(1 / 0.5) = 7.389 twice
    found = awac.advantage_weight(
        torch.tensor([1.0, 5.0]), 0.5, normalization="none", maximum=100.0, advantage_maximum=1.0
    )
    torch.testing.assert_close(found, torch.tensor([7.389056, 7.389056]))


def test_the_actor_clones_by_weight() -> None:
    # -(2 * -1 + 4 * -3) / 2 = 7
    torch.testing.assert_close(awac.actor_loss(torch.tensor([-1.0, -3.0]), torch.tensor([2.0, 4.0])), torch.tensor(7.0))
    with pytest.raises(ValueError, match=r"\(B,\)"):
        awac.actor_loss(torch.zeros(3), torch.zeros(3, 1))


def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def critics(module: Ensemble, features: np.ndarray, action: np.ndarray) -> np.ndarray:
    """An independent forward pass in float64. Shapes: -> (E, B)."""
    values = []
    for member in range(module.count):
        x = np.concatenate([features, action], 1)
        for index, (weight, bias) in enumerate(zip(module.weights, module.biases, strict=True)):
            x = x @ weight[member].detach().double().numpy().T + bias[member].detach().double().numpy()
            x = np.maximum(x, 0) if index < len(module.weights) - 1 else x
        values.append(x[:, 0])
    return np.stack(values)


@pytest.mark.parametrize("bounded", [False, True], ids=["free_mean", "bounded_mean"])
@pytest.mark.parametrize("softmax", [False, True], ids=["exp", "softmax"])
@pytest.mark.parametrize("mode", [False, True], ids=["sample", "mode"])
def test_both_losses_are_the_formulas(bounded: bool, softmax: bool, mode: bool) -> None:
    config = AWACConfig(
        actor_hidden=[16],
        critic_hidden=[16, 16],
        critic_learning_rate=0.0,
        temperature=0.5,
        bounded_mean=bounded,
        weight_normalization="softmax" if softmax else "none",
        advantage_maximum=0.05 if softmax else None,
        value_action="mode" if mode else "sample",
    )
    agent = create(config, SPEC, Seeds(0), torch.device("cpu"), None)
    assert isinstance(agent, awac.AWAC)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    batch = Batch(
        observation={"state": noise(16, 4)},
        action=noise(16, 2).tanh(),
        reward=noise(16),
        discount=torch.where(noise(16) > 1, 0.0, 0.99),
        next_observation={"state": noise(16, 4)},
    )
    own = torch.Generator()
    own.set_state(agent.generator.get_state())

    def sampled(state: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        first, last = agent.actor.network.layers
        hidden = np.maximum(double(state) @ double(first.weight).T + double(first.bias), 0)
        mean = hidden @ double(last.weight).T + double(last.bias)
        mean, log_std = np.tanh(mean) if bounded else mean, double(agent.actor.log_std)
        draw = double(torch.randn((16, 2), generator=own))
        return mean, log_std, np.clip(mean + np.exp(log_std) * draw, -1, 1)

    s, a = batch.observation["state"].double().numpy(), batch.action.double().numpy()
    _, _, next_action = sampled(batch.next_observation["state"])
    v = critics(agent.target_critic, batch.next_observation["state"].double().numpy(), next_action).min(0)
    target = batch.reward.double().numpy() + batch.discount.double().numpy() * v
    td = np.square(critics(agent.critic, s, a) - target).mean(1).sum()
    mean, log_std, action = sampled(batch.observation["state"])
    action = np.clip(mean, -1, 1) if mode else action
    advantage = critics(agent.critic, s, a).min(0) - critics(agent.critic, s, action).min(0)
    log_prob = (-0.5 * ((a - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(1)
    weight = np.minimum(np.exp(advantage / 0.5), 100.0)
    if softmax:
        weight = np.exp(np.minimum(advantage, 0.05) / 0.5)
        weight = 16 * weight / weight.sum()
    cloning = -(weight * log_prob).mean()
    metrics = agent.update(batch)
    assert float(metrics["critic/td_loss"]) == pytest.approx(td, rel=1e-5)
    assert float(metrics["actor/loss"]) == pytest.approx(cloning, rel=1e-5)
