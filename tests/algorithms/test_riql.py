"""RIQL: its quantile, its Huber loss, parity of the update with formulas in float64, and what it is for."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robot_rl.algorithms import IQLConfig, iql
from robot_rl.functional.quantile import head_quantile
from robot_rl.functional.robust import bounded, huber, huber_td_error
from robot_rl.networks.ensemble import Ensemble
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

CPU = torch.device("cpu")
NUMBERS = st.floats(-50, 50)


def make(state_size: int = 4, action_size: int = 2, **settings) -> iql.IQL:
    spec = Spec(observation={"state": ArraySpec(shape=(state_size,))}, action=ArraySpec(shape=(action_size,)))
    sizes = {"actor_hidden": [16, 16], "critic_hidden": [16, 16], "value_hidden": [16, 16], "critic_count": 5}
    return iql.create(IQLConfig(**(sizes | settings)), spec, Seeds(0), CPU, None)


def make_batch(rows: int = 32, seed: int = 0, scale: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Batch(
        observation={"state": noise(rows, 4)},
        action=noise(rows, 2).tanh(),
        reward=scale * noise(rows),
        discount=torch.where(noise(rows) > 1, 0.0, 0.99),
        next_observation={"state": noise(rows, 4)},
    )


def layers(pairs: list[tuple[torch.Tensor, torch.Tensor]], x: np.ndarray) -> np.ndarray:
    """An independent forward pass in float64."""
    for index, (weight, bias) in enumerate(pairs):
        x = x @ weight.detach().double().numpy().T + bias.detach().double().numpy()
        x = np.maximum(x, 0) if index < len(pairs) - 1 else x
    return x


def of_mlp(network: nn.Module, x: np.ndarray) -> np.ndarray:
    return layers([(layer.weight, layer.bias) for layer in network.layers], x)


def of_critics(critic: Ensemble, state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Shapes: -> (E, B)."""
    x = np.concatenate([state, action], 1)
    pairs = list(zip(critic.weights, critic.biases, strict=True))
    return np.stack([layers([(w[e], b[e]) for w, b in pairs], x)[:, 0] for e in range(critic.count)])


# Terms ----------------------------------------------------------------------------------------------------------------
def test_the_quantile_lies_between_the_two_nearest_critics() -> None:
    # sorted 1, 2, 4, 8, 16 at levels 0, 1/4, ..., 1: 0.25 is 2; 0.1 is 0.4 of the way from 1 to 2; 0.6 is at 2.4: 5.6
    q = torch.tensor([[8.0], [1.0], [16.0], [4.0], [2.0]])
    for level, expected in ((0.0, 1.0), (0.1, 1.4), (0.25, 2.0), (0.5, 4.0), (0.6, 5.6), (1.0, 16.0)):
        torch.testing.assert_close(head_quantile(q, level), torch.tensor([expected]))
    torch.testing.assert_close(head_quantile(q[:1], 0.25), q[0])
    with pytest.raises(ValueError, match=r"level=1.5"):
        head_quantile(q, 1.5)


@given(st.lists(NUMBERS, min_size=1, max_size=9), st.floats(0, 1))
def test_the_quantile_is_numpys(values: list[float], level: float) -> None:
    q = torch.tensor(values, dtype=torch.float64)[:, None]
    expected = torch.tensor([np.quantile(values, level)])
    torch.testing.assert_close(head_quantile(q, level), expected, rtol=1e-9, atol=1e-9)


def test_the_huber_loss_is_squared_near_zero_and_linear_beyond() -> None:
    # threshold 2: 1^2 / 4 = 0.25; 2 - 1 = 1 at the threshold; 10 - 1 = 9, on both sides
    found = huber(torch.tensor([0.0, 1.0, -1.0, 2.0, 10.0, -10.0]), 2.0)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25, 0.25, 1.0, 9.0, 9.0]))


@given(NUMBERS, st.floats(0.1, 10))
def test_the_huber_loss_is_torchs_over_its_threshold_and_its_slope_at_most_one(value: float, threshold: float) -> None:
    difference = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    loss = huber(difference, threshold)
    expected = nn.functional.huber_loss(difference, torch.zeros_like(difference), delta=threshold) / threshold
    torch.testing.assert_close(loss.sum(), expected)
    (slope,) = torch.autograd.grad(loss.sum(), difference)
    assert abs(float(slope)) <= 1 + 1e-12


def test_the_huber_error_is_one_number_per_critic_and_refuses_shapes_that_would_broadcast() -> None:
    # targets 1, 3, threshold 1. Critic 0: 0.5^2 / 2 = 0.125 and 0, mean 0.0625. Critic 1: 3 - 0.5 and 2 - 0.5, mean 2
    q = torch.tensor([[0.5, 3.0], [4.0, 1.0]])
    torch.testing.assert_close(huber_td_error(q, torch.tensor([1.0, 3.0]), 1.0), torch.tensor([0.0625, 2.0]))
    with pytest.raises(ValueError, match=r"\(E, B\)"):
        huber_td_error(q, torch.zeros(2, 1), 1.0)


def test_targets_are_cut_where_there_are_bounds() -> None:
    target = torch.tensor([-5.0, 0.0, 5.0])
    assert bounded(target, None, None).tolist() == [-5, 0, 5]
    assert bounded(target, -1.0, None).tolist() == [-1, 0, 5]
    assert bounded(target, -1.0, 2.0).tolist() == [-1, 0, 2]


def test_the_critic_loss_with_bounds_and_huber() -> None:
    # y = 1 + 0.5 * 2 = 2 and 100, cut to 10; threshold 1: critic 0 |1 - 2| -> 0.5 and |0 - 10| -> 9.5, mean 5;
    # critic 1 exact and |9.5 - 10| -> 0.125, mean 0.0625; the sum is 5.0625
    q = torch.tensor([[1.0, 0.0], [2.0, 9.5]])
    reward, discount, next_v = torch.tensor([1.0, 100.0]), torch.tensor([0.5, 0.0]), torch.tensor([2.0, 7.0])
    found = iql.critic_loss(
        q[..., None], reward, discount, next_v, huber=1.0, target_minimum=-10.0, target_maximum=10.0
    )
    torch.testing.assert_close(found, torch.tensor(5.0625))


# The update -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("level", [None, 0.0, 0.25, 0.6])
@pytest.mark.parametrize("threshold", [None, 0.5, 3.0])
@pytest.mark.parametrize("likelihood", [True, False])
def test_all_losses_are_the_formulas(level: float | None, threshold: float | None, likelihood: bool) -> None:
    agent = make(
        critic_quantile=level,
        critic_huber=threshold,
        target_minimum=-2.0,
        target_maximum=1.5,
        updated_value=False,
        actor_loss="likelihood" if likelihood else "squared_error",
        log_std_minimum=-1.0,
        log_std_maximum=-1.0,
    )
    batch = make_batch(scale=3.0)
    s, a, r, d, s2 = (
        each.double().numpy()
        for each in (
            batch.observation["state"],
            batch.action,
            batch.reward,
            batch.discount,
            batch.next_observation["state"],
        )
    )
    u = np.quantile(of_critics(agent.target_critic, s, a), 0.0 if level is None else level, axis=0)
    v, next_v = of_mlp(agent.value_network, s)[:, 0], of_mlp(agent.value_network, s2)[:, 0]
    value = np.mean(np.abs(0.7 - (u - v < 0)) * np.square(u - v))
    error = np.abs(np.clip(r + d * next_v, -2.0, 1.5) - of_critics(agent.critic, s, a))
    if threshold is None:
        critic = np.square(error)
    else:
        critic = np.where(error < threshold, 0.5 * error**2 / threshold, error - 0.5 * threshold)
    mean = np.tanh(of_mlp(agent.actor.network, s))
    cloning = np.square(mean - a).sum(1)
    if likelihood:
        cloning = 0.5 * cloning / math.exp(-1) ** 2 + 2 * (-1 + 0.5 * math.log(2 * math.pi))
    actor = np.mean(np.minimum(np.exp(3 * (u - v)), 100) * cloning)
    metrics = agent.update(batch)
    assert float(metrics["value/loss"]) == pytest.approx(value, rel=1e-5)
    assert float(metrics["critic/td_loss"]) == pytest.approx(critic.mean(1).sum(), rel=1e-5)
    assert float(metrics["actor/loss"]) == pytest.approx(actor, rel=1e-5)


@pytest.mark.parametrize("updated", [True, False])
def test_policy_and_critics_see_the_value_before_or_after_its_step(updated: bool) -> None:
    agent, batch = make(updated_value=updated, value_learning_rate=1e-2), make_batch()
    state = batch.observation["state"].double().numpy()
    before = of_mlp(agent.value_network, state).mean()
    found = float(agent.update(batch)["value/v"])
    after = of_mlp(agent.value_network, state).mean()
    assert abs(before - after) > 1e-3
    assert found == pytest.approx(after if updated else before, rel=1e-5)


def test_squared_error_moves_the_mean_as_a_gaussian_of_variance_one_half_does() -> None:
    fixed = {"log_std_minimum": -0.5 * math.log(2), "log_std_maximum": -0.5 * math.log(2)}
    agents = [make(**fixed, actor_loss=each) for each in ("squared_error", "likelihood")]
    for seed in range(3):
        for agent in agents:
            agent.update(make_batch(seed=seed))
    first, second = (dict(agent.actor.network.named_parameters()) for agent in agents)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-4, atol=1e-5)
    assert agents[0].actor.log_std.tolist() == [0, 0]


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_rewards_that_are_huge_are_survived(scale: float) -> None:
    agent = make(critic_huber=1.0, critic_quantile=0.25, target_minimum=-100.0, target_maximum=1000.0)
    for seed in range(20):
        metrics = agent.update(make_batch(seed=seed, scale=scale))
        assert all(math.isfinite(value) for value in metrics.values())


def test_it_keeps_more_than_iql_where_rewards_are_corrupted() -> None:
    """Three rewards in ten of a one-step task are replaced by U(-30, 30), whose clean ones lie in [-2.25, 0]."""
    robust = {"critic_huber": 1.0, "critic_quantile": 0.25, "actor_loss": "squared_error", "updated_value": False}
    rates = dict.fromkeys(("actor_learning_rate", "critic_learning_rate", "value_learning_rate"), 0.003)
    losses = {}
    for name, settings in {"iql": {"critic_count": 2}, "riql": robust}.items():
        agent = make(1, 1, inverse_temperature=10.0, **rates, **settings)
        generator = torch.Generator().manual_seed(0)
        for _ in range(400):
            state, action = (torch.rand((64, 1), generator=generator) * 2 - 1 for _ in range(2))
            noise = torch.rand(64, generator=generator) * 60 - 30
            corrupted = torch.rand(64, generator=generator) < 0.3
            agent.update(
                Batch(
                    observation={"state": state},
                    action=action,
                    reward=torch.where(corrupted, noise, -(action - state / 2).square()[:, 0]),
                    discount=torch.zeros(64),
                    next_observation={"state": state},
                )
            )
        state = torch.linspace(-1, 1, 101)[:, None]
        losses[name] = float((agent.act({"state": state}, explore=False) - state / 2).square().mean())
    assert losses["riql"] < 0.01
    assert losses["riql"] < 0.5 * losses["iql"]
