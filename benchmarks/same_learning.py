"""Whether every way to run updates learns the same: many seeds of one small task, offline and then online.

    python benchmarks/same_learning.py --seeds 8                            on a CPU: eager and compiled
    python benchmarks/same_learning.py --seeds 20 --mode bfloat16           eager in both precisions
    python benchmarks/same_learning.py --seeds 20 --device cuda             all four modes

The task is one joint that has to reach a target. Runs of one seed begin with the same networks and data and draw the
same random numbers; rounding alone parts them. Printed are the returns of the final policies, and for each mode the
mean difference to eager with the p-value of a permutation test (signs of the paired differences, two-sided). A small
value would say that the learning differs.
"""

import argparse
import time
from itertools import product

import numpy as np
import torch

from robot_rl.algorithms import SACConfig, create
from robot_rl.config import ExecutionConfig
from robot_rl.loops.execution import learner
from robot_rl.loops.rollout import AgentPolicy, run_episode
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.mixture import draw_mixture
from robot_rl.seeding import Seeds
from robot_rl.testing.fakes import OneJointEnvironment, optimal_return
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform

CONFIG = SACConfig(
    actor_hidden=[32, 32],
    critic_hidden=[32, 32],
    critic_count=3,
    critic_subset=2,
    actor_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    initial_temperature=0.05,
    target_rate=0.02,
)
BATCH, EPISODES = 64, 20


def final_return(seed: int, mode: str, device: torch.device, offline: int, online: int) -> float:
    """Mean return of the policy's mode after `offline` updates and `online` steps with an update each."""
    environment, seeds = OneJointEnvironment(), Seeds(seed)
    spec, scale = environment.spec, ActionScale.from_spec(environment.spec.action)
    agent = create(CONFIG, spec, seeds, device, None)
    exploring = AgentPolicy(agent=agent, spec=spec, scale=scale, device=device, explore=True)
    replay = ReplayBuffer(spec, capacity=2000, scale=scale, reward=RewardTransform(), discount=0.9, device=device)
    for number in range(10):
        replay.append(run_episode(environment, exploring, seed=seeds.integer("data", number)))
    sources, generator = {"replay": replay}, seeds.torch("batches")
    execution = ExecutionConfig(precision=mode) if mode == "bfloat16" else ExecutionConfig(mode=mode)
    learning = learner(agent, sources, execution)
    done = 0
    while done < offline:
        count = min(learning.updates_per_replay, offline - done)
        drawn = [draw_mixture(sources, {"replay": BATCH}, 1, generator) for _ in range(count)]
        learning.learn(drawn, critic_updates=1)
        done += count
    steps = episode = 0
    while steps < online:
        step = environment.reset(seed=seeds.integer("episode", episode))
        replay.begin(step.observation)
        episode += 1
        while not step.last and steps < online:
            step = environment.step(exploring.act(step.observation))
            replay.add(step)
            learning.learn([draw_mixture(sources, {"replay": BATCH}, 1, generator)], critic_updates=1)
            steps += 1
        replay.cut()
    policy = AgentPolicy(agent=agent, spec=spec, scale=scale, device=device)
    returns = [run_episode(environment, policy, seed=10_000 + number).reward.sum() for number in range(EPISODES)]
    return float(np.mean(returns))


def p_value(difference: np.ndarray) -> float:
    """Of the mean of paired differences, if each could as well have had the other sign. Shapes: (N,)."""
    if len(difference) <= 12:
        signs = np.asarray(list(product((-1, 1), repeat=len(difference))))
    else:
        signs = np.random.default_rng(0).choice((-1, 1), (100_000, len(difference)))
    means = np.abs((signs * difference).mean(axis=1))
    return float((means >= abs(difference.mean()) - 1e-12).mean())


def best() -> float:
    """What the optimal policy gets in the same episodes."""
    environment, found = OneJointEnvironment(), []
    for number in range(EPISODES):
        angle, target = environment.reset(seed=10_000 + number).observation["state"]
        found.append(optimal_return(abs(float(angle) - float(target)), environment.maximum_steps))
    return float(np.mean(found))


def main() -> None:
    """Run all seeds in all modes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mode", nargs="+", help="besides eager: modes, bfloat16; default: all modes")
    parser.add_argument("--offline", type=int, default=300, help="updates")
    parser.add_argument("--online", type=int, default=400, help="steps with an update each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    others = ["compiled", "graphed", "compiled_graphed"] if device.type == "cuda" else ["compiled"]
    modes = ["eager", *(arguments.mode or others)]
    found: dict[str, list[float]] = {mode: [] for mode in modes}
    print(f"best possible: {best():.3f}", flush=True)
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for mode in modes:
            begun = time.perf_counter()
            found[mode].append(final_return(seed, mode, device, arguments.offline, arguments.online))
            print(f"seed {seed} {mode}: {found[mode][-1]:.3f} ({time.perf_counter() - begun:.0f} s)", flush=True)
    for mode in modes:
        returns = np.asarray(found[mode])
        text = f"{mode}: {returns.mean():.3f} +- {returns.std(ddof=1):.3f} over {len(returns)} seeds"
        if mode != "eager":
            difference = returns - np.asarray(found["eager"])
            text += f"; minus eager {difference.mean():+.3f}, p = {p_value(difference):.2f}"
        print(text)


if __name__ == "__main__":
    main()
