"""This project's agents and replay buffer; eager, or with `--compiled` or `--bfloat16` first, in that way."""

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from protocol import ACTION, BATCH, CASES, CRITICS, DISCOUNT, EPISODES, HIDDEN, OBSERVATION, STEPS, columns, serve
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from robot_rl.algorithms import AlgorithmConfig, AWACConfig, BCConfig, IQLConfig, SACConfig, TD3Config, create
from robot_rl.algorithms.agent import Agent
from robot_rl.networks import ensemble, mlp
from robot_rl.networks.layers import Keep, Layers, bfloat16_products, differentiable, one_by_one
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Episode


def configuration(case: str) -> AlgorithmConfig:
    """The same work as the peers'."""
    sizes = {"actor_hidden": list(HIDDEN), "critic_hidden": list(HIDDEN)}
    conservative = {"conservative_weight": 5.0, "conservative_lagrange_gap": 10.0, "critic_reduction": "sum"}
    best = {"max_target_backup": 10, "backup_entropy": False, "conservative_calibrated": True}
    match case:
        case "sac":
            return SACConfig(**sizes)
        case "redq":
            return SACConfig(**sizes, critic_count=CRITICS[case], critic_subset=2, actor_reduction="mean")
        case "iql":
            return IQLConfig(**sizes, value_hidden=list(HIDDEN), log_std="state_independent")
        case "td3_bc":
            return TD3Config(
                **sizes,
                actor_value_weight=2.5,
                actor_normalize_value=True,
                actor_cloning_weight=1.0,
                actor_cloning_reduction="mean",
            )
        case "cql":
            return SACConfig(**sizes, **conservative)
        case "calql" | "calql_10":
            return SACConfig(**sizes, **conservative, **best, critic_count=CRITICS.get(case, 2))
        case "bc":
            return BCConfig(actor_hidden=list(HIDDEN))
        case "awac":
            return AWACConfig(**sizes)
    raise LookupError(f"no configuration of {case}")


def replay(spec: Spec) -> ReplayBuffer:
    """The data; a last observation of each episode is added."""
    buffer = ReplayBuffer(
        spec,
        capacity=EPISODES * (STEPS + 1),
        scale=ActionScale.from_spec(spec.action),
        reward=RewardTransform(),
        discount=DISCOUNT,
        complete_only=True,
    )
    data = columns()
    for start in range(0, EPISODES * STEPS, STEPS):
        rows = slice(start, start + STEPS)
        observation, ends = data["observation"][rows], data["terminated"][rows] > 0
        buffer.append(
            Episode(
                observation={"state": np.concatenate([observation, observation[-1:]])},
                action=data["action"][rows],
                reward=data["reward"][rows],
                terminated=ends,
                truncated=np.zeros_like(ends),
            )
        )
    return buffer


def prepare(case: str) -> tuple[Agent, ReplayBuffer, torch.Generator]:
    """Agent, data, and what draws from them."""
    low, high = np.full(ACTION, -1.0), np.full(ACTION, 1.0)
    spec = Spec(
        observation={"state": ArraySpec(shape=(OBSERVATION,))}, action=ArraySpec(shape=(ACTION,), low=low, high=high)
    )
    agent = create(configuration(case), spec, Seeds(0), torch.device("cpu"), None)
    return agent, replay(spec), torch.Generator().manual_seed(0)


def build(case: str) -> Callable[[], object]:
    """The update of one case."""
    agent, buffer, generator = prepare(case)
    return lambda: agent.update(buffer.sample(BATCH, generator))


def build_bfloat16(case: str) -> Callable[[], object]:
    """The same with hidden layers in bfloat16."""
    return bfloat16_products()(build(case))


def build_compiled(case: str) -> Callable[[], object]:
    """The same, compiled."""
    from robot_rl.loops.execution import CompiledUpdate

    agent, buffer, generator = prepare(case)
    update = CompiledUpdate(agent=agent)
    return lambda: update(buffer.sample(BATCH, generator))


# The bound ------------------------------------------------------------------------------------------------------------
class Products(TorchDispatchMode):
    """Notes every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):  # type: ignore[no-untyped-def]
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            left, right = (each.detach().clone() for each in arguments[-2:])
            out = torch.empty(left.shape[0], right.shape[1])
            self.calls.append(lambda: torch.mm(left, right, out=out))
        return function(*arguments, **(settings or {}))


def plain(features: Tensor, action: Tensor | None, layers: Layers, keep: list[Keep], stacked: bool) -> Tensor:
    """The networks as plain layers under PyTorch's own differentiation, whose products can be counted."""
    if stacked:
        return one_by_one(features, action, layers, keep)
    return differentiable(features, action, layers, keep[0])


def bound(case: str, seconds: float) -> dict[str, float]:
    """Operations of one update, as PyTorch's counter finds them, and the time of its matrix products alone.

    Over two updates, because TD3 updates its actor at every second.
    """
    ensemble.on_cpu = mlp.on_cpu = plain  # type: ignore[assignment]
    agent, buffer, generator = prepare(case)
    batch = buffer.sample(BATCH, generator)
    with FlopCounterMode(display=False) as counter, Products() as products:
        agent.update(batch)
        agent.update(batch)
    side = 2048
    left, right, out = torch.randn(side, side), torch.randn(side, side), torch.empty(side, side)
    large, own = [], []
    end = time.perf_counter() + seconds
    while not own or time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        middle = time.perf_counter()
        for call in products.calls:
            call()
        large.append(middle - start)
        own.append(time.perf_counter() - middle)
    return {
        "flop": counter.get_total_flops() / 2,
        "products": len(products.calls) / 2,
        "large_rate": 2 * side**3 / float(np.median(large)),
        "products_seconds": float(np.median(own)) / 2,
    }


if __name__ == "__main__":
    if sys.argv[1] == "--bound":
        torch.set_num_threads(int(sys.argv[3]))
        print(json.dumps(bound(sys.argv[2], float(sys.argv[4]))))
    elif sys.argv[1] in ("--compiled", "--bfloat16"):
        serve(build_compiled if sys.argv.pop(1) == "--compiled" else build_bfloat16)
    else:
        assert sys.argv[1] in CASES
        serve(build)
