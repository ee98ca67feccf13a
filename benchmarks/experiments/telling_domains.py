"""Can a classifier tell the robot from its simulator by states and commands alone? Then H2O's ratios say nothing.

    robot-rl evaluate policy=random environment=half_cheetah environment.maximum_steps=250 \\
        environment.action_history=3 episodes=20 seed=7 record=sim.zarr
    (the same with environment.proxy=std_A seed=8 record=real.zarr)
    python benchmarks/experiments/telling_domains.py sim.zarr real.zarr

A classifier of 2 x 64 units learns for 2,000 steps from 15 episodes of each; prints the area under the curve on the
other 5, for noise on its inputs of 0.05 and 0.2 deviations.
"""

import argparse

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from robot_rl.datasets.reader import load_episodes
from robot_rl.functional.reliability import area_under_curve

LENGTH, LEARNED = 250, 15  # steps of an episode; episodes
INPUTS = {"s, a": "sa", "s, history, a": "sha", "s, a, s'": "sad", "s, history, a, s'": "shad"}


def rows(path: str) -> dict[str, np.ndarray]:
    """State, history, command and change of the state of every transition, raw."""
    episodes = load_episodes(path)

    def before(key: str) -> np.ndarray:
        return np.concatenate([each.observation[key][:-1] for each in episodes])

    changes = [np.diff(each.observation["state"], axis=0) for each in episodes]
    commands = [each.action for each in episodes]
    return {
        "s": before("state"),
        "h": before("action_history"),
        "a": np.concatenate(commands),
        "d": np.concatenate(changes),
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulator")
    parser.add_argument("robot")
    given = parser.parse_args()
    torch.set_num_threads(1)
    simulated, robot = rows(given.simulator), rows(given.robot)
    real = np.repeat([False, True], [len(simulated["a"]), len(robot["a"])])
    episode = np.concatenate([np.arange(len(each["a"])) // LENGTH for each in (simulated, robot)])
    learned, held_out = np.flatnonzero(episode < LEARNED), np.flatnonzero(episode >= LEARNED)
    for noise in (0.05, 0.2):
        for name, keys in INPUTS.items():
            columns = [
                (np.concatenate([simulated[key], robot[key]]) - robot[key].mean(0)) / (robot[key].std(0) + 1e-6)
                for key in keys
            ]
            x, y = torch.tensor(np.concatenate(columns, 1), dtype=torch.float32), torch.tensor(real).float()
            torch.manual_seed(0)
            network = nn.Sequential(
                nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
            )
            optimizer, generator = torch.optim.Adam(network.parameters(), 1e-3), np.random.default_rng(0)
            for _ in range(2000):
                batch = generator.choice(learned, 128)
                guess = network(x[batch] + noise * torch.randn(128, x.shape[1]))[:, 0]
                loss = F.binary_cross_entropy_with_logits(guess, 0.9 * y[batch] + 0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                found = area_under_curve(network(x[held_out])[:, 0].numpy(), real[held_out])
            print(f"noise {noise}, {name}: {found:.3f}")


if __name__ == "__main__":
    main()
