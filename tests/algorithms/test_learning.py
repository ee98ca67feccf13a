"""Every algorithm beats random on a one-step task, in seconds.

The state is a number s in [-1, 1], the reward -(a - s / 2)^2, and the episode is over: the best action is s / 2, and a
uniform one loses 1/3 + 1/12 = 0.417 on average.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from robot_rl.algorithms import (
    AlgorithmConfig,
    AWACConfig,
    BCConfig,
    FQLConfig,
    IDQLConfig,
    IQLConfig,
    RORLConfig,
    SACConfig,
    TD3Config,
    create,
    with_overrides,
)
from robot_rl.algorithms.agent import Agent
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

SPEC = Spec(observation={"state": ArraySpec(shape=(1,))}, action=ArraySpec(shape=(1,)))
SMALL: dict[str, Any] = {"actor_hidden": [32, 32], "critic_hidden": [32, 32]}
FAST: dict[str, Any] = {"actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3}
ENSEMBLE: dict[str, Any] = {"critic_count": 5, "critic_subset": 2, "critic_layer_norm": True}
RANDOM_LOSS = 1 / 3 + 1 / 12


def bandit(state: Tensor, action: Tensor) -> Batch:
    """Shapes: (B, 1), (B, 1)."""
    reward = -(action - state / 2).square()[:, 0]
    observation = {"state": state}
    ended = torch.zeros(len(state))
    return Batch(
        observation=observation,
        action=action,
        reward=reward,
        discount=ended,
        next_observation=observation,
        monte_carlo_return=reward,
    )


def loss_of(agent: Agent) -> float:
    """Mean of (a - s / 2)^2 over states."""
    state = torch.linspace(-1, 1, 101)[:, None]
    return float((agent.act({"state": state}, explore=False) - state / 2).square().mean())


@pytest.mark.parametrize(
    ("config", "noise", "share"),
    [
        (BCConfig(actor_hidden=[32, 32], actor_learning_rate=3e-3), 0.2, 0.1),
        (BCConfig(actor_hidden=[32, 32], actor_learning_rate=3e-3, loss="squared_error"), 0.2, 0.1),
        (
            IQLConfig(**SMALL, **FAST, value_hidden=[32, 32], value_learning_rate=3e-3, inverse_temperature=10.0),
            None,
            0.25,
        ),
        (SACConfig(**SMALL, **FAST, temperature_learning_rate=1e-2, target_entropy_per_dimension=-2.0), None, 0.1),
        (SACConfig(**SMALL, **FAST, conservative_weight=0.1, conservative_calibrated=True), None, 0.25),
        (SACConfig(**SMALL, **FAST, **ENSEMBLE, actor_reduction="mean", temperature_learning_rate=1e-2), None, 0.1),
        (TD3Config(**SMALL, **FAST), None, 0.1),
        (TD3Config(**SMALL, **FAST, **ENSEMBLE, actor_cloning_weight=0.02, actor_reduction="min"), None, 0.1),
        (TD3Config(**SMALL, **FAST, critic_layer_norm=True, infeasible_weight=1e-3, infeasible_value=-1.0), None, 0.1),
        (RORLConfig(**SMALL, **FAST, critic_count=3, temperature_learning_rate=1e-2), None, 0.1),
        (AWACConfig(**SMALL, **FAST, temperature=0.1), None, 0.25),
        (FQLConfig(**SMALL, **FAST, distillation_weight=0.01), None, 0.25),
        (
            IQLConfig(
                **SMALL,
                **FAST,
                value_hidden=[32, 32],
                value_learning_rate=3e-3,
                inverse_temperature=10.0,
                critic_count=5,
                critic_quantile=0.25,
                critic_huber=1.0,
                actor_loss="squared_error",
                updated_value=False,
            ),
            None,
            0.25,
        ),
        (
            IDQLConfig(
                **FAST,
                actor_width=32,
                critic_hidden=[32, 32],
                value_hidden=[32, 32],
                value_learning_rate=3e-3,
                actor_average_rate=0.05,
            ),
            None,
            0.1,
        ),
    ],
    ids=[
        "bc",
        "bc_squared_error",
        "iql",
        "sac",
        "calql",
        "rlpd",
        "td3",
        "rebrac",
        "pars",
        "sac_n",
        "awac",
        "fql",
        "riql",
        "idql",
    ],
)
def test_learns_from_recorded_actions(config: AlgorithmConfig, noise: float | None, share: float) -> None:
    """From uniform actions, or, to clone, from good ones with noise."""
    agent, generator = create(config, SPEC, Seeds(0), torch.device("cpu"), None), torch.Generator().manual_seed(0)
    for _ in range(400):
        state, uniform = (torch.rand((64, 1), generator=generator) * 2 - 1 for _ in range(2))
        action = uniform if noise is None else (state / 2 + noise * uniform).clamp(-1, 1)
        agent.update(bandit(state, action))
    assert loss_of(agent) < share * RANDOM_LOSS


def test_an_agent_improves_on_its_own_actions_after_offline_training() -> None:
    """Cal-QL on actions of one half of the range, then SAC without the term on what the policy does."""
    config = SACConfig(**SMALL, **FAST, conservative_weight=1.0, conservative_calibrated=True, backup_entropy=False)
    agent, generator = create(config, SPEC, Seeds(0), torch.device("cpu"), None), torch.Generator().manual_seed(0)
    for _ in range(100):
        state, action = (torch.rand((64, 1), generator=generator) for _ in range(2))
        agent.update(bandit(state * 2 - 1, action))  # never a negative action, though half of the best ones are
    before = loss_of(agent)
    agent.config = with_overrides(config, {"conservative_weight": 0.0})
    for _ in range(300):
        state = torch.rand((64, 1), generator=generator) * 2 - 1
        agent.update(bandit(state, agent.act({"state": state}, explore=True)))
    assert loss_of(agent) < 0.5 * before


def test_conservatism_lowers_the_value_of_actions_that_are_not_in_the_data() -> None:
    generator, spread = torch.Generator().manual_seed(0), []
    for weight in (0.0, 5.0):
        config = SACConfig(**SMALL, **FAST, conservative_weight=weight, conservative_samples=4)
        agent = create(config, SPEC, Seeds(0), torch.device("cpu"), None)
        for _ in range(150):
            state = torch.rand((64, 1), generator=generator) * 2 - 1
            agent.update(bandit(state, torch.full((64, 1), 0.5)))
        observation = {"state": torch.zeros(1, 1)}
        inside, outside = (agent.value(observation, torch.full((1, 1), each)) for each in (0.5, -0.9))
        assert inside is not None
        assert outside is not None
        spread.append(float(inside - outside))
    assert spread[1] > spread[0] + 1
