"""Time of an update with each critic head, over that with the scalar one, on one CPU thread.

`python benchmarks/heads.py` takes turns between the heads and keeps the fastest of `--repeats` updates of each, in
processor time, so that other jobs on the machine disturb it little. Networks, batch and observations are of the size of
an Adroit task: two critics 256 x 2, batch 256, 39 observations, 28 actions.
"""

import argparse
import time
from dataclasses import replace

import torch

from robot_rl.algorithms import IQLConfig, SACConfig, create
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

ROWS, OBSERVATION, ACTION = 256, 39, 28
HEADS = {
    "scalar": CriticHeadConfig(),
    "hl_gauss, 51 bins": CriticHeadConfig(kind="hl_gauss", minimum=-100.0, maximum=0.0),
    "c51, 51 atoms": CriticHeadConfig(kind="c51", minimum=-100.0, maximum=0.0),
    "quantile, 25": CriticHeadConfig(kind="quantile", atoms=25),
    "quantile, 51": CriticHeadConfig(kind="quantile", atoms=51),
}
CONFIGS = {
    "sac": SACConfig(),
    "iql": IQLConfig(),
    "calql": SACConfig(
        conservative_weight=5.0, conservative_calibrated=True, backup_entropy=False, max_target_backup=10
    ),
}


def noise_batch() -> Batch:
    """Noise of the sizes above."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Batch(
        observation={"state": noise(ROWS, OBSERVATION)},
        action=noise(ROWS, ACTION).tanh(),
        reward=noise(ROWS),
        discount=torch.full((ROWS,), 0.99),
        next_observation={"state": noise(ROWS, OBSERVATION)},
        monte_carlo_return=noise(ROWS),
    )


def main() -> None:
    """Print a line for each algorithm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    spec = Spec(observation={"state": ArraySpec(shape=(OBSERVATION,))}, action=ArraySpec(shape=(ACTION,)))
    batch = noise_batch()
    for name, config in CONFIGS.items():
        agents = {
            kind: create(replace(config, critic_head=head), spec, Seeds(0), torch.device("cpu"), None)
            for kind, head in HEADS.items()
        }
        fastest = dict.fromkeys(agents, float("inf"))
        for _ in range(repeats + 1):
            for kind, agent in agents.items():
                start = time.process_time()
                agent.update(batch)
                fastest[kind] = min(fastest[kind], time.process_time() - start)
        ratios = ", ".join(
            f"{kind}: {each / fastest['scalar']:.2f}" for kind, each in fastest.items() if kind != "scalar"
        )
        print(f"{name}: scalar {fastest['scalar'] * 1e3:.1f} ms; {ratios}", flush=True)


if __name__ == "__main__":
    main()
