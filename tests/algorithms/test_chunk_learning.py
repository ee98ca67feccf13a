"""Algorithms of action chunks find good chunks in recorded ones: in one decision, and where one leads to the next."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robot_rl.algorithms import AlgorithmConfig, CQNConfig, DEASConfig, FQLConfig, create, with_overrides
from robot_rl.algorithms.agent import Agent
from robot_rl.loops.evaluate import evaluate
from robot_rl.loops.rollout import AgentPolicy
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.testing.fakes import OneJointEnvironment, OneJointExpert, optimal_return
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array, Batch

CPU = torch.device("cpu")
SPEC = Spec(observation={"state": ArraySpec(shape=(1,))}, action=ArraySpec(shape=(1,)))
STEPS = 2
FAST: dict[str, Any] = {"actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3}
SMALL: dict[str, Any] = {"actor_hidden": [32, 32], "critic_hidden": [32, 32]}


def histogram(minimum: float) -> CriticHeadConfig:
    return CriticHeadConfig(kind="hl_gauss", minimum=minimum, maximum=0.0, atoms=51)


def configs(minimum: float) -> dict[str, AlgorithmConfig]:
    """Small agents whose returns lie between `minimum` and 0."""
    return {
        "qc": FQLConfig(**SMALL, **FAST, extraction="best_of_n", candidates=16, flow_steps=5),
        "qc_fql": FQLConfig(**SMALL, **FAST, distillation_weight=0.3, flow_steps=5),
        "cqn_as": CQNConfig(
            critic_width=32, levels=2, critic_learning_rate=3e-3, critic_weight_decay=0.0, target_rate=0.05
        ),
        "deas": DEASConfig(
            **SMALL,
            **FAST,
            value_hidden=[32, 32],
            value_learning_rate=3e-3,
            critic_head=histogram(minimum),
            value_target="distribution",
            candidates=32,
        ),
    }


NAMES = list(configs(-1.0))


@pytest.mark.parametrize("name", NAMES)
def test_the_best_of_uniform_chunks_is_found(name) -> None:
    """Reward -(a_0 - s / 2)^2 - (a_1 + s / 2)^2: uniform chunks lose 2 * (1/3 + 1/12) = 0.833 on average."""
    agent, generator = create(configs(-5.0)[name], SPEC.chunked(STEPS), Seeds(0), CPU, None), torch.Generator()
    generator.manual_seed(0)

    def loss_of(state: Tensor, action: Tensor) -> Tensor:
        return (action - torch.cat([state, -state], 1) / 2).square().sum(1)

    for _ in range(300):
        state, action = (torch.rand((64, size), generator=generator) * 2 - 1 for size in (1, STEPS))
        agent.update(
            Batch(
                observation={"state": state},
                action=action,
                reward=-loss_of(state, action),
                discount=torch.zeros(64),
                next_observation={"state": state},
                monte_carlo_return=-loss_of(state, action),
            )
        )
    state = torch.linspace(-1, 1, 101)[:, None]
    assert float(loss_of(state, agent.act({"state": state}, explore=False)).mean()) < 0.2 * 0.833


class Shaky:
    """The expert, or, in half of its steps, a uniform speed."""

    def __init__(self) -> None:
        self.expert, self.generator = OneJointExpert(), np.random.default_rng(0)

    def reset(self) -> None:
        self.expert.reset()

    def act(self, observation: dict[str, Array]) -> Array:
        uniform = self.generator.uniform(-2.0, 2.0, 1)
        return self.expert.act(observation) if self.generator.uniform() < 0.5 else uniform


class Collector:
    def __init__(self, buffer: ReplayBuffer) -> None:
        self.append = buffer.append


def trained(config: AlgorithmConfig, chunk: int, updates: int, **options: Any) -> tuple[AgentPolicy, float]:
    """From 60 shaky episodes; and their mean return."""
    environment = OneJointEnvironment()
    scale = ActionScale.from_spec(environment.spec.action)
    buffer = ReplayBuffer(
        environment.spec,
        capacity=2000,
        scale=scale,
        reward=RewardTransform(),
        discount=0.9,
        action_chunk=chunk,
        **options,
    )
    _, metrics, _ = evaluate(environment, Shaky(), range(60), sink=Collector(buffer))
    agent: Agent = create(config, environment.spec.chunked(chunk), Seeds(0), CPU, None)
    buffer.complete_only = "monte_carlo_return" in agent.needs
    buffer.with_recorded = "recorded" in agent.needs
    buffer.allow_cut_chunks("valid" in agent.needs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        agent.update(buffer.sample(64, generator))
    policy = AgentPolicy(agent=agent, spec=environment.spec, scale=scale, device=CPU, action_chunk=chunk)
    return policy, metrics["return_mean"]


OPTIONS: dict[str, dict[str, Any]] = {"cqn_as": {"n_step_counts": "steps"}, "deas": {"chunk_discount": 0.95}}


SETTINGS: dict[str, dict[str, Any]] = {
    "cqn_as": {"critic_weight": 0.1, "cloning_weight": 1.0, "cloning_margin": 0.3}  # without, it invents chunks
}


@pytest.mark.parametrize("name", NAMES)
def test_chunks_from_shaky_recordings_do_better_than_the_recordings(name) -> None:
    """The optimum is known; of what the recordings lose to it, less than half may be left."""
    policy, recorded = trained(
        with_overrides(configs(-10.0)[name], SETTINGS.get(name, {})), 3, 400, **OPTIONS.get(name, {})
    )
    seeds = range(1000, 1040)
    starts = [np.random.default_rng(seed).uniform(-1.0, 1.0, 2) for seed in seeds]
    best = np.mean([optimal_return(abs(angle - target), 20) for angle, target in starts])
    _, metrics, _ = evaluate(OneJointEnvironment(), policy, seeds)
    assert best - metrics["return_mean"] < 0.5 * (best - recorded)
