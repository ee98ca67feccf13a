"""What an ICVF update costs with frames encoded once, against encoding every image of every tuple.

    python benchmarks/icvf_step.py

The same tuples, networks, loss and optimiser on one thread: CPU time of this process, which other jobs on the machine
disturb less than wall time, and wall time beside it. `apart` encodes s, s+, z with the learner, the target also s';
`as published` encodes three images for each of the three calls of the target, as the published code does.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from robot_rl.algorithms.video.icvf import ICVF, ICVFConfig, create
from robot_rl.functional import intentional
from robot_rl.functional.polyak import polyak_update
from robot_rl.networks.optimize import descend
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.encoder import ImageEncoder
from robot_rl.replay.clips import ClipShape, Tuples
from robot_rl.replay.footage import Footage, Track
from robot_rl.seeding import Seeds
from robot_rl.types import Array

SIDE = 64
SMALL = VisionConfig(channels=[16, 32, 64, 64], kernels=[3] * 4, strides=[2] * 4, padding=True)
ENCODERS = {
    "cnn 16-32-64-64": SMALL,
    "cnn 32-64-128-128": VisionConfig(channels=[32, 64, 128, 128], kernels=[3] * 4, strides=[2] * 4, padding=True),
    "impala 16-32-32": VisionConfig(kind="impala", channels=[16, 32, 32]),
}


class Noise:
    """Frames of noise, drawn once."""

    def __init__(self, count: int) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)

    def gather(self, rows: Array) -> Array:
        """See `RowSource`."""
        return self.images[rows]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoders", nargs="*", default=["cnn 16-32-64-64", "cnn 32-64-128-128"], choices=ENCODERS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    column = Noise(400)
    footage = Footage([Track(column=column, rows=np.arange(i, i + 40), source="noise") for i in range(0, 400, 40)])
    table = Table("encoder", "frames", "tuples", "way", "CPU ms", "wall ms", "of apart", title="One ICVF update, 64 px")
    for name in arguments.encoders:
        for shape in (ClipShape(), ClipShape(clips=16, run=5, goals=3, tuples=64)):
            measure(table, name, footage, shape, arguments.repeats)
    Console(width=110).print(table)


def measure(table: Table, name: str, footage: Footage, shape: ClipShape, repeats: int) -> None:
    """Three ways to compute the same update, by turns."""
    encoder = ImageEncoder(ENCODERS[name], (SIDE, SIDE, 3), torch.Generator().manual_seed(0))
    agent = create(ICVFConfig(clips=shape), encoder, [], Seeds(0), torch.device("cpu"))
    rows = agent.draw(footage, torch.Generator().manual_seed(1))
    images = footage.gather(rows.track, rows.frame)
    ways: dict[str, Callable[[], Any]] = {
        "once": lambda: agent.update(images, rows),
        "apart": lambda: naive_update(agent, images, rows, repeated=False),
        "as published": lambda: naive_update(agent, images, rows, repeated=True),
    }
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, step in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            step()
            if turn > 0:  # the first warms up
                spent[way].append((time.process_time() - cpu, time.perf_counter() - wall))
    median = {way: [1e3 * statistics.median(part) for part in zip(*times, strict=True)] for way, times in spent.items()}
    for way, (cpu, wall) in median.items():
        share = f"{cpu / median['apart'][0]:.2f}"
        table.add_row(name, f"{len(images)}", f"{shape.tuples}", way, f"{cpu:.1f}", f"{wall:.1f}", share)


def naive_update(agent: ICVF, images: Tensor, rows: Tuples, *, repeated: bool) -> None:
    """The update with every image of every tuple through the encoders.

    Args:
        agent: learns.
        images: of the pool.
        rows: the tuples.
        repeated: the target encodes the same image again for each of its three values, as the published code does.
    """
    config, target, head = agent.config, agent.target_encoder, agent.target_head
    observation, following, goal, intent = (
        images[number] for number in (rows.observation, rows.next_observation, rows.goal, rows.intent)
    )

    def value(s: Tensor, g: Tensor, z: Tensor) -> Tensor:
        return head.combine(head.phi(s), head.psi(g), head.transform(head.psi(z)))

    with torch.no_grad():
        if repeated:
            next_v = value(target(following), target(goal), target(intent))
            next_v_intent = value(target(following), target(intent), target(intent))
            v_intent = value(target(observation), target(intent), target(intent))
        else:
            f, f_next, f_goal, f_intent = (target(each) for each in (observation, following, goal, intent))
            next_v, next_v_intent = value(f_next, f_goal, f_intent), value(f_next, f_intent, f_intent)
            v_intent = value(f, f_intent, f_intent)
        advantage = intentional.intent_advantage(next_v_intent, v_intent, rows.at_intent, config.discount)
    own = agent.head
    f, f_goal, f_intent = (agent.encoder(each) for each in (observation, goal, intent))
    v = own.combine(own.phi(f), own.psi(f_goal), own.transform(own.psi(f_intent)))
    loss, _ = intentional.value_loss(v, next_v, rows.at_goal, advantage, config.discount, config.expectile)
    descend(agent.optimizers["value"], loss, learning_rate=config.learning_rate, gradient_clip=None)
    polyak_update(agent.target_encoder, agent.encoder, config.target_rate)
    polyak_update(agent.target_head, agent.head, config.target_rate)


if __name__ == "__main__":
    main()
