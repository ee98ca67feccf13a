"""Heads of critics in agents: settings that fit together, updates of every kind, and that policies learn from them."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from robot_rl.algorithms import (
    AlgorithmConfig,
    IQLConfig,
    RORLConfig,
    SACConfig,
    TD3Config,
    create,
    with_overrides,
)
from robot_rl.config import register
from robot_rl.errors import InputError
from robot_rl.loops.execution import CompiledUpdate, as_traced
from robot_rl.networks.critic_head import CriticHeadConfig, critic_head
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

CPU = torch.device("cpu")
CONFIGS = {
    "hl_gauss": CriticHeadConfig(kind="hl_gauss", minimum=-4.0, maximum=6.0, atoms=11),
    "c51": CriticHeadConfig(kind="c51", minimum=-4.0, maximum=6.0, atoms=11),
    "quantile": CriticHeadConfig(kind="quantile", atoms=11, huber=0.5),
}


# Settings -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "hl_gaus"}, "did you mean 'hl_gauss'"),
        ({"kind": "c51", "maximum": 0.0}, "critic_head.kind=c51 needs critic_head.minimum"),
        ({"kind": "hl_gauss", "minimum": 0.0}, "needs critic_head.maximum"),
        ({"kind": "c51", "minimum": 1.0, "maximum": 1.0}, "minimum=1.0 must be below critic_head.maximum=1.0"),
        ({"kind": "quantile", "minimum": 0.0}, "with quantile give null"),
        ({"maximum": 0.0}, "with scalar give null"),
        ({"kind": "c51", "minimum": -math.inf, "maximum": 1.0}, "minimum=-inf"),
        ({"kind": "quantile", "atoms": 1}, "atoms=1"),
        ({"kind": "quantile", "huber": 0.0}, "huber=0.0"),
        ({"kind": "hl_gauss", "minimum": 0.0, "maximum": 1.0, "deviation": 0.0}, "deviation=0.0"),
    ],
)
def test_heads_that_cannot_be_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CriticHeadConfig(**values)


def test_settings_that_contradict_a_head_are_refused() -> None:
    with pytest.raises(InputError, match="critic_huber"):
        IQLConfig(critic_huber=1.0, critic_head=CONFIGS["quantile"])
    with pytest.raises(InputError, match=r"infeasible_value=-50\.0"):
        TD3Config(infeasible_weight=0.1, infeasible_value=-50.0, critic_head=CONFIGS["c51"])
    with pytest.raises(InputError, match="critic_head shapes the networks"):
        with_overrides(SACConfig(), {"critic_head": CONFIGS["c51"]})


def test_every_setting_of_a_head_changes_it() -> None:
    changes: dict[str, tuple[CriticHeadConfig, Any]] = {
        "kind": (CONFIGS["c51"], "hl_gauss"),
        "minimum": (CONFIGS["c51"], -9.0),
        "maximum": (CONFIGS["hl_gauss"], 9.0),
        "atoms": (CONFIGS["quantile"], 5),
        "deviation": (CONFIGS["hl_gauss"], 2.0),
        "huber": (CONFIGS["quantile"], 2.0),
    }
    assert {item.name for item in fields(CriticHeadConfig)} == set(changes)
    for name, (config, value) in changes.items():
        assert critic_head(replace(config, **{name: value})) != critic_head(config), name


def test_a_head_is_chosen_on_the_command_line() -> None:
    register()
    words = ["+algorithm=iql", "algorithm.critic_head.kind=c51", "algorithm.critic_head.minimum=-100"]
    with initialize_config_dir(str(Path(__file__).parents[2] / "configs"), version_base=None):
        found = OmegaConf.to_object(compose(overrides=[*words, "algorithm.critic_head.maximum=0"]))["algorithm"]
    assert found.critic_head == CriticHeadConfig(kind="c51", minimum=-100.0, maximum=0.0)


# Learning -------------------------------------------------------------------------------------------------------------
ONE_STEP = Spec(observation={"state": ArraySpec(shape=(1,))}, action=ArraySpec(shape=(1,)))
LEARNERS: dict[str, AlgorithmConfig] = {
    "td3": TD3Config(
        actor_hidden=[32, 32], critic_hidden=[32, 32], actor_learning_rate=3e-3, critic_learning_rate=3e-3
    ),
    "iql": IQLConfig(
        actor_hidden=[32, 32],
        critic_hidden=[32, 32],
        value_hidden=[32, 32],
        actor_learning_rate=3e-3,
        critic_learning_rate=3e-3,
        value_learning_rate=3e-3,
        inverse_temperature=10.0,
    ),
}


@pytest.mark.parametrize("kind", list(CONFIGS))
@pytest.mark.parametrize("name", list(LEARNERS))
def test_a_policy_learns_from_a_distribution_of_returns(name: str, kind: str) -> None:
    """The task of `test_learning.py`: reward -(a - s / 2)^2, and the episode is over. Random loses 0.417."""
    limits = {} if kind == "quantile" else {"minimum": -2.5, "maximum": 0.5}
    config = replace(LEARNERS[name], critic_head=replace(CONFIGS[kind], atoms=31, **limits))
    agent, generator = create(config, ONE_STEP, Seeds(0), CPU, None), torch.Generator().manual_seed(0)
    for _ in range(400):
        state, action = (torch.rand((64, 1), generator=generator) * 2 - 1 for _ in range(2))
        reward = -(action - state / 2).square()[:, 0]
        seen = {"state": state}
        agent.update(
            Batch(
                observation=seen, action=action, reward=reward, discount=torch.zeros(64), next_observation=seen,
                monte_carlo_return=reward,
            )
        )  # fmt: skip
    state = torch.linspace(-1, 1, 101)[:, None]
    assert (agent.act({"state": state}, explore=False) - state / 2).square().mean() < 0.25 * 0.417
    value = agent.value({"state": torch.zeros(2, 1)}, torch.tensor([[0.0], [1.0]]))
    assert value is not None
    torch.testing.assert_close(value, torch.tensor([0.0, -1.0]), rtol=0.15, atol=0.15)


# Updates --------------------------------------------------------------------------------------------------------------
SMALL: dict[str, Any] = {"actor_hidden": [8], "critic_hidden": [8]}
FURTHER: dict[str, AlgorithmConfig] = {
    "edac": RORLConfig(**SMALL, critic_count=3, diversity_weight=1.0, smoothness_weight=0.1, perturbations=3),
    "enoto": SACConfig(**SMALL, critic_count=4, target_reduction="weighted_min_pair", disagreement_temperature=9.0),
    "rlpd": SACConfig(**SMALL, critic_count=4, critic_subset=2, target_reduction="mean", actor_reduction="mean"),
    "cql": SACConfig(
        **SMALL,
        conservative_weight=1.0,
        conservative_subset=1,
        max_target_backup=3,
        max_target_of="each",
        backup_entropy=False,
    ),
}


@pytest.mark.parametrize("kind", list(CONFIGS))
@pytest.mark.parametrize("name", list(FURTHER))
def test_what_the_contract_leaves_out_updates_too(
    name: str, kind: str, spec: Spec, make_batch: Callable[..., Batch]
) -> None:
    """Second derivatives, weights of critics and rows, subsets, and an action of each critic's own."""
    agent = create(replace(FURTHER[name], critic_head=CONFIGS[kind]), spec, Seeds(0), CPU, None)
    metrics = agent.update(make_batch(24))
    assert all(math.isfinite(value) for value in metrics.values())
    assert ("critic/target_outside" in metrics) == (kind != "quantile")


@pytest.mark.parametrize("kind", ["scalar", *CONFIGS])
def test_returns_of_a_coin_at_every_step_are_learned_by_bootstrapping(kind: str) -> None:
    """Rewards of -1 or 3 for ever, discount 1/2: the return is uniform between -2 and 6, its deviation 8 / sqrt(12)."""
    limits = {"minimum": -4.0, "maximum": 8.0} if kind in ("c51", "hl_gauss") else {}
    head = CriticHeadConfig(kind=kind, atoms=25 if kind == "quantile" else 51, huber=0.1, **limits)
    config = TD3Config(
        actor_hidden=[4], critic_hidden=[8], critic_learning_rate=1e-2, target_rate=0.05, actor_every=10_000,
        target_updates="critic", critic_head=head,
    )  # fmt: skip
    agent, generator = create(config, ONE_STEP, Seeds(0), CPU, None), torch.Generator().manual_seed(0)
    same = {"state": torch.zeros(64, 1)}
    for step in range(400):
        if step == 300:
            agent.config = with_overrides(config, {"critic_learning_rate": 1e-3})
        reward = torch.randint(2, (64,), generator=generator) * 4.0 - 1.0
        action = torch.rand((64, 1), generator=generator) * 2 - 1
        agent.update(
            Batch(
                observation=same, action=action, reward=reward, discount=torch.full((64,), 0.5), next_observation=same
            )
        )
    with torch.no_grad():
        raw = agent.critic.raw(torch.zeros(1, 1), torch.zeros(1, 1))[:, 0]  # (2, Z)
    torch.testing.assert_close(critic_head(head).q(raw), torch.full((2,), 2.0), rtol=0, atol=0.2)
    if kind == "c51":
        atoms = torch.linspace(-4, 8, 51)
        deviation = (raw.softmax(1) @ atoms.square() - (raw.softmax(1) @ atoms).square()).sqrt()
        torch.testing.assert_close(deviation, torch.full((2,), 2.31), rtol=0, atol=0.2)
    if kind == "quantile":
        levels = (torch.arange(25) + 0.5) / 25
        torch.testing.assert_close(raw.mean(dim=0), -2 + 8 * levels, rtol=0, atol=0.5)


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_rewards_far_outside_the_range_leave_weights_finite(
    kind: str, spec: Spec, make_batch: Callable[..., Batch]
) -> None:
    agent: Any = create(SACConfig(**SMALL, critic_head=CONFIGS[kind]), spec, Seeds(0), CPU, None)
    for seed in range(5):
        batch = make_batch(24, seed)
        metrics = agent.update(replace(batch, reward=1e6 * batch.reward))
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(torch.isfinite(each).all() for each in agent.critic.parameters())
    if kind != "quantile":
        assert metrics["critic/target_outside"] == 1


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_a_traced_update_with_a_head_is_the_eager_one_up_to_rounding(
    kind: str, spec: Spec, make_batch: Callable[..., Batch]
) -> None:
    config = replace(FURTHER["cql"], critic_head=CONFIGS[kind])
    eager, traced = (create(config, spec, Seeds(0), CPU, None) for _ in range(2))
    update = CompiledUpdate(agent=traced, compiler=as_traced)
    for seed in range(3):
        wanted, found = eager.update(make_batch(8, seed)), update(make_batch(8, seed))
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
