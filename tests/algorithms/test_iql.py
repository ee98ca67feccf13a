"""The IQL agent: its schedule and the order of its updates."""

from collections.abc import Callable

import pytest
import torch

from robot_rl.algorithms import IQLConfig, iql, with_overrides
from robot_rl.algorithms.iql import IQL
from robot_rl.functional.schedule import cosine_then_hold
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
