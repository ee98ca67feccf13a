"""Soft actor-critic with an adversary and with risk: what each does, and that without both it is SAC."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from robot_rl.algorithms import RobustSACConfig, SACConfig, create, with_overrides
from robot_rl.errors import InputError
from robot_rl.functional.game import game_value, rival_loss
from robot_rl.functional.risk import conditional_value_at_risk
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"actor_hidden": [16, 16], "critic_hidden": [16, 16]}
FAST: dict[str, Any] = {"actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3, "adversary_learning_rate": 3e-3}
QUANTILES = CriticHeadConfig(kind="quantile", atoms=16)
MakeBatch = Callable[..., Batch]


# Arithmetic -----------------------------------------------------------------------------------------------------------


def test_cvar_is_the_mean_of_the_worst_share() -> None:
    quantiles = torch.tensor([4.0, 1.0, 3.0, 2.0])  # networks do not keep them in order
    assert conditional_value_at_risk(quantiles, 1.0) == 2.5
    assert conditional_value_at_risk(quantiles, 0.5) == 1.5  # of 1 and 2
    assert conditional_value_at_risk(quantiles, 0.25) == 1.0
    assert conditional_value_at_risk(quantiles, 0.01) == 1.0  # there is no worse one
    # Five eighths: 1 and 2 whole and half of 3: (1 + 2 + 1.5) / 2.5.
    assert conditional_value_at_risk(quantiles, 0.625) == pytest.approx(4.5 / 2.5)
    assert conditional_value_at_risk(torch.stack([quantiles, 10 * quantiles])[None], 0.5).tolist() == [[1.5, 15.0]]
    with pytest.raises(ValueError, match="level=0"):
        conditional_value_at_risk(quantiles, 0.0)


def test_cvar_of_a_gaussian_is_the_formula() -> None:
    level, count = 0.2, 20_000
    quantiles = torch.distributions.Normal(1.0, 2.0).icdf((torch.arange(count) + 0.5) / count)
    # mean - deviation * pdf(z_level) / level, with z_0.2 = -0.8416 and pdf 0.27996
    assert conditional_value_at_risk(quantiles, level) == pytest.approx(1.0 - 2.0 * 0.27996 / 0.2, abs=2e-3)


def test_the_value_of_the_game_takes_ones_entropy_and_pays_the_others() -> None:
    one = torch.ones(1)
    # 5 - 0.5 * (-2) + 0.25 * (-4) = 5 + 1 - 1
    value = game_value(5 * one, -2 * one, torch.tensor(0.5), -4 * one, 0.25)
    assert value.tolist() == [5.0]
    assert game_value(5 * one, -2 * one, torch.tensor(0.5), -8 * one, 0.25).item() == 4.0  # the more random, the lower


def test_the_rival_lowers_the_highest_critic() -> None:
    q = torch.tensor([[1.0, 5.0], [3.0, 2.0]], requires_grad=True)
    log_prob = torch.tensor([0.5, -0.5])
    loss = rival_loss(q, log_prob, 2.0)
    # (2 * 0.5 + 3 + 2 * (-0.5) + 5) / 2
    assert loss.item() == pytest.approx(4.0)
    loss.backward()
    assert q.grad is not None
    assert q.grad.tolist() == [[0.0, 0.5], [0.5, 0.0]]
    with pytest.raises(ValueError, match="must be"):
        rival_loss(q, torch.zeros(3), 2.0)


# Updates --------------------------------------------------------------------------------------------------------------


def test_with_both_off_it_is_sac(spec: Spec, make_batch: MakeBatch) -> None:
    plain = SACConfig(**SMALL, critic_reduction="sum", temperature_parameterization="exp")
    agents = [create(config, spec, Seeds(3), CPU, None) for config in (plain, RobustSACConfig(**SMALL))]
    for update in range(3):
        batch = make_batch(32, seed=update)
        found = [agent.update(batch, critic_updates=2) for agent in agents]
        for name in ("critic/q", "critic/target", "actor/entropy", "actor/temperature"):
            assert found[0][name] == pytest.approx(found[1][name].item(), rel=1e-4, abs=1e-5), name
    observation = make_batch(8).observation
    assert torch.allclose(*(agent.act(observation, explore=False) for agent in agents), atol=1e-5)


def two_player(**settings: Any) -> Any:
    spec = Spec(observation={"state": ArraySpec(shape=(1,))}, action=ArraySpec(shape=(2,)))
    return create(RobustSACConfig(**SMALL, **FAST, adversary_size=1, **settings), spec, Seeds(0), CPU, None)


def duel(action: Tensor) -> Batch:
    """One step: the reward is -(a - 0.5)^2 + f, of an action and a force. Shapes: (B, 2)."""
    observation = {"state": torch.zeros(len(action), 1)}
    reward = -(action[:, 0] - 0.5).square() + action[:, 1]
    ended = torch.zeros(len(action))
    return Batch(observation=observation, action=action, reward=reward, discount=ended, next_observation=observation)


def played(agent: Any, updates: int = 250) -> Tensor:
    """What the adversary does after updates on uniform actions. Shapes: (500,)."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(updates):
        agent.update(duel(2 * torch.rand(64, 2, generator=generator) - 1))
    return agent.act({"state": torch.zeros(500, 1)}, explore=True)[:, 1]


def test_a_rational_adversary_pushes_where_it_hurts_and_an_irrational_one_anywhere() -> None:
    rational = two_player(adversary_temperature=0.01, adversary_temperature_end=0.01, adversary_curriculum=1)
    assert played(rational).mean() < -0.5
    irrational = two_player(adversary_temperature=100.0, adversary_temperature_end=100.0, adversary_curriculum=1)
    forces = played(irrational)
    assert abs(forces.mean()) < 0.2
    assert forces.std() > 0.4
    # The protagonist wants 0.5 whoever pushes, and nobody pushes where it is evaluated.
    chosen = rational.act({"state": torch.zeros(1, 1)}, explore=False)[0]
    assert chosen[0] == pytest.approx(0.5, abs=0.2)
    assert chosen[1] == 0.0


def test_the_adversary_grows_rational_in_a_straight_line() -> None:
    agent = two_player(adversary_temperature=1.0, adversary_temperature_end=0.2, adversary_curriculum=8)
    found = []
    for _ in range(10):
        found.append(float(agent._rival_temperature()))
        agent.update(duel(torch.zeros(4, 2)))
    assert found == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2])


def test_each_player_moves_only_itself() -> None:
    agent = two_player()
    batch = duel(torch.rand(16, 2))
    for own, other in (("actor", "adversary"), ("adversary", "actor")):
        before = {name: [p.clone() for p in getattr(agent, name).parameters()] for name in (own, other, "critic")}
        agent.config = with_overrides(agent.config, {f"{other}_learning_rate": 0.0, "critic_learning_rate": 0.0})
        agent.update(batch)
        agent.config = with_overrides(agent.config, {f"{other}_learning_rate": 3e-3})
        moved = {
            name: any(
                not torch.equal(a, b) for a, b in zip(getattr(agent, name).parameters(), before[name], strict=True)
            )
            for name in before
        }
        assert moved == {own: True, other: False, "critic": False}


def gamble(generator: torch.Generator) -> Batch:
    """One step: an action above 0 earns 0.2 more on average, and loses 2 one time in five. Shapes: -> 128 rows."""
    action = 2 * torch.rand(128, 1, generator=generator) - 1
    bold = (action[:, 0] > 0).float()
    loses = (torch.rand(128, generator=generator) < 0.2).float()
    reward = bold * (0.75 - 2.75 * loses)  # mean 0.2
    observation, ended = {"state": torch.zeros(128, 1)}, torch.zeros(128)
    return Batch(observation=observation, action=action, reward=reward, discount=ended, next_observation=observation)


def gambler(level: float, updates: int = 300) -> Any:
    spec = Spec(observation={"state": ArraySpec(shape=(1,))}, action=ArraySpec(shape=(1,)))
    head = replace(QUANTILES, huber=0.01)
    fixed = {"initial_temperature": 0.02, "temperature_learning_rate": 0.0}
    agent = create(
        RobustSACConfig(**SMALL, **FAST, **fixed, critic_head=head, risk_level=level), spec, Seeds(0), CPU, None
    )
    generator = torch.Generator().manual_seed(2)
    for _ in range(updates):
        agent.update(gamble(generator))
    return agent


def test_who_fears_the_worst_does_not_gamble_and_who_goes_by_the_mean_does() -> None:
    state = {"state": torch.zeros(1, 1)}
    bold, careful = gambler(1.0), gambler(0.25)
    assert bold.act(state, explore=False).item() > 0
    assert careful.act(state, explore=False).item() < 0
    # The same critics, asked otherwise when they are used: of many candidates the careful one.
    bold.config = with_overrides(bold.config, {"risk_level": 0.25, "risk_candidates": 400})
    bold.actor.load_state_dict(gambler(1.0, updates=0).actor.state_dict())  # a policy that still does anything
    assert bold.act(state, explore=False).item() < 0
    bold.config = with_overrides(bold.config, {"risk_level": 1.0})
    assert bold.act(state, explore=False).item() > 0


# Refusals -------------------------------------------------------------------------------------------------------------


def test_risk_without_a_distribution_is_refused() -> None:
    with pytest.raises(InputError, match=r"risk_level=0\.5 .*with critic_head\.kind=scalar say nothing"):
        RobustSACConfig(risk_level=0.5)
    with pytest.raises(InputError, match=r"risk_level=0\.0 must lie in"):
        RobustSACConfig(risk_level=0.0, critic_head=QUANTILES)


def test_forces_that_leave_no_action_are_refused(spec: Spec) -> None:
    with pytest.raises(InputError, match=r"adversary_size=2, but an action has 2 numbers"):
        create(RobustSACConfig(**SMALL, adversary_size=2), spec, Seeds(0), CPU, None)
    with pytest.raises(InputError, match="actions come singly"):
        create(RobustSACConfig(**SMALL, adversary_size=1), spec.chunked(2), Seeds(0), CPU, None)
