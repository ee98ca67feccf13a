"""A stochastic policy and a critic, both learned from 40 trajectories of a clumsy expert, in seconds."""

from typing import Any

import numpy as np
import torch

from robot_rl.algorithms import BCConfig, IQLConfig, create
from robot_rl.algorithms.agent import Agent
from robot_rl.clock import FakeClock
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.seeding import Seeds
from robot_rl.steering.agents import AgentProposer, CriticScorer
from robot_rl.steering.policy import SteeredPolicy
from robot_rl.steering.proposals import Scorer
from robot_rl.steering.selection import ValueSelector
from robot_rl.steering.steer import Steerer
from robot_rl.testing.fakes import OneJointEnvironment, OneJointExpert
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array, Episode

CPU = torch.device("cpu")
ENVIRONMENT = OneJointEnvironment()
SPEC = ENVIRONMENT.spec
SMALL: dict[str, Any] = {"actor_hidden": [32], "actor_learning_rate": 5e-3}
CRITIC: dict[str, Any] = {"critic_hidden": [32], "value_hidden": [32], "expectile": 0.8, "target_rate": 0.05}
RATES: dict[str, Any] = {"critic_learning_rate": 5e-3, "value_learning_rate": 5e-3}


def recorded(seed: int, clumsy: float) -> Episode:
    """One episode of an expert that, with a probability, does anything."""
    random, expert = np.random.default_rng(seed), OneJointExpert()
    step = ENVIRONMENT.reset(seed=seed)
    observations, actions, rewards = [step.observation["state"]], [], []
    while not step.last:
        action = expert.act(step.observation)
        if random.random() < clumsy:
            action = random.uniform(SPEC.action.low, SPEC.action.high)
        step = ENVIRONMENT.step(action)
        observations.append(step.observation["state"])
        actions.append(action)
        rewards.append(step.reward)
    ends = np.zeros(len(actions), bool)
    ends[-1] = True
    return Episode(
        observation={"state": np.stack(observations)},
        action=np.stack(actions),
        reward=np.array(rewards, np.float32),
        terminated=np.zeros(len(actions), bool),
        truncated=ends,
    )


def learn(updates: int = 200) -> tuple[Agent, Agent]:
    """Policy and critic."""
    buffer = ReplayBuffer(
        SPEC,
        capacity=40 * 21,
        scale=ActionScale.from_spec(SPEC.action),
        reward=RewardTransform(),
        discount=0.9,
    )
    for seed in range(40):
        buffer.append(recorded(seed, clumsy=0.5))
    torch.manual_seed(0)
    policy = create(BCConfig(**SMALL), SPEC, Seeds(0), CPU, None)
    critic = create(IQLConfig(**SMALL, **CRITIC, **RATES), SPEC, Seeds(0), CPU, None)
    generator = torch.Generator().manual_seed(0)
    for _ in range(updates):
        batch = buffer.gather(buffer.draw(64, generator))
        policy.update(batch, critic_updates=1)
        critic.update(batch, critic_updates=1)
    return policy, critic


def proposer(policy: Agent, seed: int) -> AgentProposer:
    """Row 0 is a sample, as of a generalist that samples."""
    generator = torch.Generator().manual_seed(seed)
    return AgentProposer(agent=policy, observations=SPEC, chunk=1, device=CPU, generator=generator, explore=True)


def scorer(critic: Agent) -> CriticScorer:
    """Its target critics."""
    return CriticScorer(agent=critic, observations=SPEC, chunk=1, device=CPU)


def returns(policy: Agent, judge: Scorer, candidates: int, seeds: range) -> Array:
    """Of steered episodes; equal seeds begin alike and draw the same base actions. Shapes: -> (S,)."""
    found = []
    for seed in seeds:
        steerer = Steerer(
            proposer=proposer(policy, seed),
            scorer=judge,
            selector=ValueSelector(rule="argmax"),
            candidates=candidates,
            clock=FakeClock(),
            generator=torch.Generator().manual_seed(seed),
        )
        steered = SteeredPolicy(steerer=steerer)
        steered.reset()
        step, total = ENVIRONMENT.reset(seed=seed), 0.0
        while not step.last:
            step = ENVIRONMENT.step(steered.act(step.observation))
            total += step.reward
        found.append(total)
    return np.array(found)
