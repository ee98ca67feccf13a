"""What an update of each hybrid learner costs beside one of plain SAC, in turns in one process.

    python benchmarks/hybrid_update.py [--rounds 40] [--threads 1] [--only h2o]

Sizes are HalfCheetah's with three commands of history, batches 256 rows of which half are the robot's. In every round
each learner makes a few updates, SAC first, so that whatever else the machine does meets all alike. On one thread what
counts is the processor time of this thread; ratios are medians over rounds of that within a round. Recipes are those of
`configs/algorithm`, of two layers.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from robot_rl.algorithms import create
from robot_rl.algorithms.agent import Agent
from robot_rl.config import register
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

OBSERVATION, ACTION, ROWS, UPDATES = 17 + 3 * 6, 6, 256, 3
RECIPES = ("sac", "h2o", "h2o_plus", "hybrid", "sac_iw", "darc", "par", "vgdf")
CONFIGS = Path(__file__).parents[1] / "configs"


def learner(recipe: str, width: int) -> Agent:
    """An agent whose judges count from the first update."""
    words = [f"+algorithm={recipe}", f"algorithm.actor_hidden=[{width},{width}]"]
    words.append(f"algorithm.critic_hidden=[{width},{width}]")
    if recipe != "sac":
        words += ["algorithm.judges.warm_up=0", "algorithm.judges.minimum_held_out=0"]
        words += [f"algorithm.judges.classifier_hidden=[{width},{width}]", f"algorithm.value_hidden=[{width},{width}]"]
    with initialize_config_dir(str(CONFIGS), version_base=None):
        config = OmegaConf.to_object(compose(overrides=words))["algorithm"]
    spec = Spec(observation={"state": ArraySpec(shape=(OBSERVATION,))}, action=ArraySpec(shape=(ACTION,)))
    return create(config, spec, Seeds(0), torch.device("cpu"), None)


def batch() -> Batch:
    """Noise of the right shapes."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(ROWS, OBSERVATION, generator=generator)
    return Batch(
        observation={"state": state},
        action=torch.randn(ROWS, ACTION, generator=generator).tanh(),
        reward=torch.randn(ROWS, generator=generator),
        discount=torch.full((ROWS,), 0.99),
        next_observation={"state": state + 0.1 * torch.randn(ROWS, OBSERVATION, generator=generator)},
        real=torch.arange(ROWS) < ROWS // 2,
        held_out=torch.arange(ROWS) % 10 == 9,
    )


def main() -> None:
    """Print milliseconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="recipes whose name holds this, and SAC")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = time.thread_time if arguments.threads == 1 else time.perf_counter
    register()
    rows = batch()
    for width in (128, 256):
        agents = {name: learner(name, width) for name in RECIPES if name == "sac" or arguments.only in name}
        took: dict[str, list[float]] = {name: [] for name in agents}
        for _ in range(arguments.rounds + 3):
            for name, agent in agents.items():
                before = clock()
                for _ in range(UPDATES):
                    agent.update(rows)
                took[name].append((clock() - before) / UPDATES)
        for name, durations in took.items():
            counted = durations[3:]
            ratio = statistics.median(a / b for a, b in zip(counted, took["sac"][3:], strict=True))
            print(f"{width}x2  {name:9}  {1e3 * min(counted):6.2f} ms  {ratio:5.2f} x SAC", flush=True)


if __name__ == "__main__":
    main()
