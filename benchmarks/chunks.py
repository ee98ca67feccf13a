"""What algorithms of action chunks make of shaky recordings, on a task whose optimum is known.

`python benchmarks/chunks.py` trains each on the same 60 episodes of the one-joint task of `robot_rl.testing.fakes`, in
half of whose steps a uniform speed replaces that of the expert, with decisions of three steps, and prints the mean
return over 40 new episodes and three seeds. It takes about five minutes on one core.
"""

from typing import Any

import numpy as np
import torch

from robot_rl.algorithms import AlgorithmConfig, BCConfig, CQNConfig, DEASConfig, FQLConfig, IQLConfig, create
from robot_rl.loops.evaluate import evaluate
from robot_rl.loops.rollout import AgentPolicy
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.seeding import Seeds
from robot_rl.testing.fakes import OneJointEnvironment, OneJointExpert, optimal_return
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array

UPDATES, BATCH, STEPS, SEEDS = 600, 64, 3, 3
EVALUATION = range(1000, 1040)
SMALL: dict[str, Any] = {"actor_hidden": [32, 32], "critic_hidden": [32, 32]}
FAST: dict[str, Any] = {"actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3}
BINS: dict[str, Any] = {"critic_width": 32, "levels": 2, "critic_learning_rate": 3e-3, "critic_weight_decay": 0.0}
HELD: dict[str, Any] = {"critic_weight": 0.1, "cloning_weight": 1.0, "cloning_margin": 0.3}
RANGE = CriticHeadConfig(kind="hl_gauss", minimum=-10.0, maximum=0.0, atoms=51)

CASES: dict[str, tuple[AlgorithmConfig, dict[str, Any]]] = {
    "bc": (BCConfig(actor_hidden=[32, 32], actor_learning_rate=3e-3), {}),
    "iql": (IQLConfig(**SMALL, **FAST, value_hidden=[32, 32], value_learning_rate=3e-3), {}),
    "qc": (FQLConfig(**SMALL, **FAST, extraction="best_of_n", candidates=16, flow_steps=5), {}),
    "qc_fql": (FQLConfig(**SMALL, **FAST, distillation_weight=0.3, flow_steps=5), {}),
    "deas": (
        DEASConfig(
            **SMALL,
            **FAST,
            value_hidden=[32, 32],
            value_learning_rate=3e-3,
            critic_head=RANGE,
            value_target="distribution",
            candidates=32,
        ),
        {"chunk_discount": 0.95},
    ),
    "cqn_as": (CQNConfig(**BINS, **HELD, target_rate=0.05), {"n_step_counts": "steps"}),
    "cqn_as without cloning": (CQNConfig(**BINS, target_rate=0.05), {"n_step_counts": "steps"}),
}


class Shaky:
    """The expert, or, in half of its steps, a uniform speed."""

    def __init__(self) -> None:
        self.expert, self.generator = OneJointExpert(), np.random.default_rng(0)

    def reset(self) -> None:
        """It has no memory."""

    def act(self, observation: dict[str, Array]) -> Array:
        """Shapes: (2,) -> (1,)."""
        uniform = self.generator.uniform(-2.0, 2.0, 1)
        return self.expert.act(observation) if self.generator.uniform() < 0.5 else uniform


def trained(config: AlgorithmConfig, chunk: int, options: dict[str, Any], seed: int) -> tuple[float, float]:
    """Mean return of the policy, and of the recordings it learned from."""
    environment, cpu = OneJointEnvironment(), torch.device("cpu")
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
    _, recorded, _ = evaluate(environment, Shaky(), range(60), sink=buffer)
    agent = create(config, environment.spec.chunked(chunk), Seeds(seed), cpu, None)
    buffer.with_recorded = "recorded" in agent.needs
    buffer.allow_cut_chunks("valid" in agent.needs)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(UPDATES):
        agent.update(buffer.sample(BATCH, generator))
    policy = AgentPolicy(agent=agent, spec=environment.spec, scale=scale, device=cpu, action_chunk=chunk)
    return evaluate(environment, policy, EVALUATION)[1]["return_mean"], recorded["return_mean"]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    starts = [np.random.default_rng(seed).uniform(-1.0, 1.0, 2) for seed in EVALUATION]
    best = np.mean([optimal_return(abs(angle - target), 20) for angle, target in starts])
    print(f"optimum {best:.2f}")
    for name, (config, options) in CASES.items():
        found = [trained(config, STEPS, options, seed) for seed in range(SEEDS)]
        returns = [each[0] for each in found]
        print(f"{name:24s} {np.mean(returns):6.2f}  ({min(returns):.2f} to {max(returns):.2f})", flush=True)
    print(f"recordings {found[0][1]:.2f}")


if __name__ == "__main__":
    main()
