"""What `test_distributed.py` runs on two ranks: writes what rank 0 saw into the JSON file that is named."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from robot_rl.algorithms import IQLConfig, create
from robot_rl.loops.distributed import SharedEnvironment, average_gradients, connected
from robot_rl.loops.trace import state_tensors
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.testing.fakes import OneJointEnvironment
from robot_rl.types import Batch

SPEC = Spec(observation={"state": ArraySpec(shape=(3,))}, action=ArraySpec(shape=(2,)))
CPU = torch.device("cpu")


def batch(rows: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(rows, 10, generator=generator)
    return Batch(
        observation={"state": noise[:, :3]},
        action=noise[:, 3:5].tanh(),
        reward=noise[:, 5],
        discount=torch.full((rows,), 0.9),
        next_observation={"state": noise[:, 6:9]},
    )


def half(whole: Batch, rank: int) -> Batch:
    rows = slice(rank, None, 2)
    return replace(
        whole,
        observation={"state": whole.observation["state"][rows]},
        action=whole.action[rows],
        reward=whole.reward[rows],
        discount=whole.discount[rows],
        next_observation={"state": whole.next_observation["state"][rows]},
    )


def main(result: Path) -> None:
    """Train an agent on halves and another on the whole, then act together."""
    torch.set_num_threads(1)
    config = IQLConfig(actor_hidden=[8], critic_hidden=[8], value_hidden=[8], gradient_clip=0.1)
    with connected() as ranks:
        shared, alone = (create(config, SPEC, Seeds(0), CPU, None) for _ in range(2))
        average_gradients(shared, ranks)
        for seed in range(3):
            whole = batch(16, seed)
            alone.update(whole)
            shared.update(half(whole, ranks.rank))
        ranks.require_same(shared)
        pairs = zip(state_tensors(shared), state_tensors(alone), strict=True)
        apart = max(float((a - b).detach().abs().max()) for a, b in pairs)

        environment = SharedEnvironment(OneJointEnvironment(maximum_steps=3), ranks)
        steps = [environment.reset(seed=ranks.rank)]
        while not steps[-1].last:
            steps.append(environment.step(np.array((1.0 + ranks.rank,))))
        seen = [
            [*step.observation["state"].tolist(), step.reward, step.truncated, bool(step.success)]
            + ([] if step.action is None else step.action.tolist())
            for step in steps
        ]
        both = ranks.gather(torch.tensor(np.concatenate([np.asarray(each, np.float64) for each in seen])))
        found = {
            "apart": apart,
            "told": ranks.tell(f"rank {ranks.rank}: ü"),
            "any": ranks.any(ranks.rank == 1),
            "decided": ranks.decide(ranks.rank == 1),
            "same_steps": bool(torch.equal(*both)),
            "actions": [step.action.tolist() for step in steps[1:] if step.action is not None],
            "dtype": str(steps[-1].observation["state"].dtype),
        }
        drifted = False
        with torch.no_grad():
            next(state_tensors(shared)).add_(float(ranks.rank))
        try:
            ranks.require_same(shared)
        except RuntimeError:
            drifted = True
        first = ranks.first
    if first:
        threads = [each.read_text().strip() for each in Path("/proc/self/task").glob("*/comm")]
        result.write_text(json.dumps(found | {"drift_found": drifted, "threads": threads}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
