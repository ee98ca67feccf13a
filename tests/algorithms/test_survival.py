"""Every recipe survives what real data sets do to it: large rewards, dead channels, a single episode, a stuck joint.

The data goes its whole way, episodes to replay buffer to batches; networks are small and learning rates high, so that
twenty updates go far. What is no number never gets there: `tests/replay/test_finite.py`.
"""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from robot_rl.algorithms import AlgorithmConfig, create
from robot_rl.algorithms.agent import Agent
from robot_rl.config import register
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.weights import advantage_weights, return_weights
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array, Episode

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(path.stem for path in (CONFIGS / "algorithm").glob("*.yaml"))
CHUNKS = {"qc": 3, "qc_fql": 3, "deas": 3, "cqn_as": 3}
"""Recipes that decide on several steps at once."""
UPDATES = 20
FEWER = {"critic_count": 4, "perturbations": 3, "conservative_samples": 3, "max_target_backup": 3, "candidates": 4}
JUDGED = {"warm_up": 3, "calibration_limit": 1.0, "minimum_held_out": 1, "learning_rate": 3e-3, "latent_hidden": [16]}
JUDGED |= {"classifier_hidden": [16], "dynamics_hidden": [16], "dynamics_count": 3, "latent_size": 8}
SPEC = Spec(
    observation={"joints": ArraySpec(shape=(3,)), "object": ArraySpec(shape=(2,))},
    action=ArraySpec(shape=(2,), low=np.full(2, -2.0), high=np.full(2, 2.0)),
)
Change = Callable[[dict[str, Array]], None]


@cache
def composed(recipe: str) -> AlgorithmConfig:
    register()
    with initialize_config_dir(str(CONFIGS), version_base=None):
        config: AlgorithmConfig = OmegaConf.to_object(compose(overrides=[f"+algorithm={recipe}"]))["algorithm"]
    return config


def small(recipe: str) -> AlgorithmConfig:
    """The recipe with few and narrow networks and ten times its learning rates."""
    config = composed(recipe)
    narrow: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if item.name.endswith("_hidden"):
            narrow[item.name] = [16] * len(value)
        elif item.name in ("actor_width", "critic_width"):
            narrow[item.name] = 16
        elif item.name == "adversary_size":
            narrow[item.name] = min(value, 1)
        elif item.name in FEWER:
            narrow[item.name] = min(value, FEWER[item.name])
        elif item.name == "judges":
            narrow[item.name] = replace(value, **JUDGED)
        elif item.name.endswith("learning_rate"):
            narrow[item.name] = 10 * value
    return replace(config, **narrow)


def episode(seed: int, steps: int = 25, change: Change = lambda arrays: None) -> Episode:
    random = np.random.default_rng(seed)
    arrays = {
        "joints": random.normal(size=(steps + 1, 3)),
        "object": random.normal(size=(steps + 1, 2)),
        "action": random.uniform(-2, 2, (steps, 2)),
        "reward": random.normal(size=steps),
    }
    change(arrays)
    last = np.arange(steps) == steps - 1
    return Episode(
        observation={key: arrays[key] for key in SPEC.observation},
        action=arrays["action"],
        reward=arrays["reward"],
        terminated=last & (seed % 2 == 0),
        truncated=last & (seed % 2 == 1),
    )


def learn(
    recipe: str, episodes: list[Episode], *, reward_scale: float = 1.0, head: CriticHeadConfig | None = None
) -> Agent:
    """An agent after some updates; every metric of every update was a number."""
    config = small(recipe) if head is None else replace(small(recipe), critic_head=head)
    chunk = CHUNKS.get(recipe, 1)
    buffer = ReplayBuffer(
        SPEC,
        capacity=sum(len(each) + 1 for each in episodes),
        scale=ActionScale.from_spec(SPEC.action),
        reward=RewardTransform(scale=reward_scale),
        discount=0.99,
        action_chunk=chunk,
    )
    for each in episodes:
        buffer.append(each)
    statistics = buffer.observation_statistics()
    agent = create(config, SPEC.chunked(chunk), Seeds(0), torch.device("cpu"), statistics)
    buffer.complete_only = "monte_carlo_return" in agent.needs
    buffer.with_next_action = "next_action" in agent.needs
    buffer.allow_cut_chunks("valid" in agent.needs)
    generator = torch.Generator().manual_seed(0)
    for update in range(UPDATES):
        batch = buffer.sample(16, generator)
        if "real" in agent.needs:  # one buffer stands for both domains
            number = torch.arange(16)
            batch = replace(batch, real=number % 2 == 0, held_out=number % 5 == 0)
        metrics = agent.update(batch)
        wrong = {name: float(value) for name, value in metrics.items() if not math.isfinite(value)}
        assert not wrong, f"update {update}"
    for item in fields(agent):
        network = getattr(agent, item.name)
        if isinstance(network, nn.Module):
            assert all(torch.isfinite(each).all() for each in network.state_dict().values()), item.name
    observation = buffer.sample(16, generator).observation
    for explore in (False, True):
        action = agent.act(observation, explore=explore)
        assert torch.isfinite(action).all()
        assert action.abs().max() <= 1
    value = agent.value(observation, action)
    assert value is None or torch.isfinite(value).all()
    return agent


@pytest.mark.parametrize("recipe", RECIPES)
def test_rewards_scaled_by_a_thousand_are_survived(recipe: str) -> None:
    learn(recipe, [episode(seed) for seed in range(4)], reward_scale=1e3)


@pytest.mark.parametrize("kind", ["hl_gauss", "c51", "quantile"])
@pytest.mark.parametrize("recipe", ["rlpd", "td3", "iql", "sac_n", "awac", "fql", "idql"])
def test_critics_of_distributions_survive_returns_beyond_their_range(recipe: str, kind: str) -> None:
    ranged = kind != "quantile"
    head = CriticHeadConfig(kind=kind, minimum=-10.0 if ranged else None, maximum=10.0 if ranged else None, atoms=11)
    learn(recipe, [episode(0, steps=5)], reward_scale=1e3, head=head)


@pytest.mark.parametrize("recipe", RECIPES)
def test_observations_that_never_change_are_survived(recipe: str) -> None:
    def freeze(arrays: dict[str, Array]) -> None:
        arrays["joints"][:] = 5.0
        arrays["object"][:, 1] = -1e6

    learn(recipe, [episode(seed, change=freeze) for seed in range(4)])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_single_episode_is_survived(recipe: str) -> None:
    learn(recipe, [episode(0, steps=5)])


@pytest.mark.parametrize("held_at", [0.0, 2.0])
@pytest.mark.parametrize("recipe", RECIPES)
def test_an_action_that_never_moves_is_survived(recipe: str, held_at: float) -> None:
    def hold(arrays: dict[str, Array]) -> None:
        arrays["action"][:, 1] = held_at  # 2 is its bound, where tanh has no inverse

    learn(recipe, [episode(seed, change=hold) for seed in range(4)])


def test_weights_of_one_episode_or_of_equal_starts_and_returns_are_one() -> None:
    one, four = np.asarray([3.0]), np.full(4, 3.0)
    np.testing.assert_array_equal(return_weights(one, np.asarray([7])), [1.0])
    np.testing.assert_array_equal(advantage_weights(one, np.zeros((1, 5)), np.asarray([7])), [1.0])
    np.testing.assert_array_equal(advantage_weights(four, np.zeros((4, 5)), np.arange(1, 5)), np.ones(4))
    thousandfold = return_weights(1e3 * np.arange(4.0), np.arange(1, 5))
    np.testing.assert_allclose(thousandfold, return_weights(np.arange(4.0), np.arange(1, 5)))
