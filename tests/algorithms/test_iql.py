"""The IQL agent: its losses, its schedule and the order of its updates."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from robot_rl.algorithms import IQLConfig, iql, with_overrides
from robot_rl.algorithms.iql import IQL
from robot_rl.functional.schedule import cosine_then_hold
from robot_rl.networks.ensemble import Ensemble
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch

MakeBatch = Callable[..., Batch]


def agent(spec: Spec, **settings: object) -> IQL:
    config = IQLConfig(actor_hidden=[16], critic_hidden=[16], value_hidden=[16], **settings)
    return iql.create(config, spec, Seeds(0), torch.device("cpu"), None)


def test_trap_corl_the_actors_schedule_ends_and_does_not_climb_again() -> None:
    # cos(0) = 1: 1; cos(pi / 2) = 0: 0.5; cos(pi) = -1: 0; a periodic cosine would be back at 1 after 200
    assert cosine_then_hold(0, 100) == 1
    assert cosine_then_hold(50, 100) == pytest.approx(0.5)
    assert [cosine_then_hold(updates, 100) for updates in (100, 150, 200, 10_000)] == [0, 0, 0, 0]


def test_after_its_schedule_the_actor_stands_still_until_the_schedule_is_switched_off(
    spec: Spec, make_batch: MakeBatch
) -> None:
    learner = agent(spec, actor_schedule_steps=2)
    for _ in range(2):
        learner.update(make_batch(8))
    before = [each.clone() for each in learner.actor.parameters()]
    learner.update(make_batch(8))
    assert all(torch.equal(a, b) for a, b in zip(before, learner.actor.parameters(), strict=True))
    learner.config = with_overrides(learner.config, {"actor_schedule_steps": None})
    learner.update(make_batch(8))
    assert not all(torch.equal(a, b) for a, b in zip(before, learner.actor.parameters(), strict=True))


def test_the_policy_and_the_critics_use_the_value_just_updated(spec: Spec, make_batch: MakeBatch) -> None:
    learner, batch = agent(spec, value_learning_rate=1e-2), make_batch(8)
    with torch.no_grad():
        features = learner.encoder(batch.observation)
        q = learner.target_critic(features, batch.action).amin(dim=0)
        before = (q - learner.value_network(features)[:, 0]).mean()
    metrics = learner.update(batch)
    with torch.no_grad():
        after = (q - learner.value_network(features)[:, 0]).mean()
    torch.testing.assert_close(metrics["actor/advantage"], after)
    assert abs(before - after) > 1e-3


def test_a_chunked_update_is_that_many_updates(spec: Spec, make_batch: MakeBatch) -> None:
    together, apart, batch = agent(spec), agent(spec), make_batch(16)
    together.update(batch, critic_updates=2)
    for rows in (slice(0, 8), slice(8, 16)):
        apart.update(
            Batch(
                observation={key: value[rows] for key, value in batch.observation.items()},
                action=batch.action[rows],
                reward=batch.reward[rows],
                discount=batch.discount[rows],
                next_observation={key: value[rows] for key, value in batch.next_observation.items()},
            )
        )
    for name in ("actor", "critic", "target_critic", "value_network"):
        for a, b in zip(getattr(together, name).parameters(), getattr(apart, name).parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_all_losses_are_the_formulas_with_the_value_just_updated(spec: Spec, make_batch: MakeBatch) -> None:
    """V's loss by V before its step, those of the policy and of Q by V after it, as the authors' code has them."""
    learner, batch = agent(spec, value_learning_rate=1e-2, expectile=0.8, inverse_temperature=3.0), make_batch(32)

    def double(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().double().numpy()

    def network(layers: Sequence[tuple[torch.Tensor, torch.Tensor]], x: np.ndarray) -> np.ndarray:
        for index, (weight, bias) in enumerate(layers):
            x = x @ double(weight).T + double(bias)
            x = np.maximum(x, 0) if index < len(layers) - 1 else x
        return x

    def plain(module: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(layer.weight, layer.bias) for layer in module.layers]

    def critics(module: Ensemble) -> np.ndarray:
        pairs = list(zip(module.weights, module.biases, strict=True))
        x = np.concatenate([s, a], 1)
        return np.stack([network([(w[e], b[e]) for w, b in pairs], x)[:, 0] for e in range(module.count)])

    s, s2 = (
        np.concatenate([double(each[key]) for key in ("joints", "object")], 1)
        for each in (batch.observation, batch.next_observation)
    )
    a, r, d = (double(each) for each in (batch.action, batch.reward, batch.discount))
    q_target, q = critics(learner.target_critic).min(0), critics(learner.critic)
    u = q_target - network(plain(learner.value_network), s)[:, 0]
    value = np.mean(np.abs(0.8 - (u < 0)) * np.square(u))
    mean, log_std = np.tanh(network(plain(learner.actor.network), s)), double(learner.actor.log_std)
    log_prob = (-0.5 * ((a - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(1)

    metrics = learner.update(batch)
    v, next_v = (network(plain(learner.value_network), each)[:, 0] for each in (s, s2))
    critic = np.square(r + d * next_v - q).mean(1).sum()
    actor = -np.mean(np.minimum(np.exp(3 * (q_target - v)), 100) * log_prob)
    for name, expected in {"value/loss": value, "critic/td_loss": critic, "actor/loss": actor}.items():
        assert float(metrics[name]) == pytest.approx(expected, rel=1e-5), name
