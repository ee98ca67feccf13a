"""Updates per second of the agents, and of three ways to compute a critic ensemble.

    python benchmarks/updates.py [--threads 1] [--seconds 2] [--device cpu] [--only calql]

Prints one line per case, of the fastest call each.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from robot_rl.algorithms import AlgorithmConfig, BCConfig, IQLConfig, SACConfig, create
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import Initialization
from robot_rl.networks.layers import differentiable, one_by_one
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

OBSERVATION, ACTION = 39, 24  # Adroit's sizes, roughly
ADROIT = {"actor_hidden": [512, 512], "critic_hidden": [512, 512, 512]}
WARM_START = {"critic_count": 10, "critic_subset": 2, "actor_layer_norm": True, "critic_layer_norm": True}
CALIBRATED = {"conservative_weight": 5.0, "conservative_calibrated": True, "max_target_backup": 10}

CASES: dict[str, tuple[AlgorithmConfig, int]] = {
    "bc 256x2, batch 256": (BCConfig(), 1),
    "iql 2 critics 256x2, batch 256": (IQLConfig(), 1),
    "sac 2 critics 256x2, batch 256": (SACConfig(), 1),
    "sac 10 critics 256x2, batch 256": (SACConfig(critic_count=10, critic_subset=2), 1),
    "wsrl online, 10 critics 256x2 LayerNorm, 4 critic updates of 256 and 1 of the actor": (SACConfig(**WARM_START), 4),
    "calql 2 critics 256x2, batch 256": (SACConfig(**CALIBRATED), 1),
    "calql 10 critics 256x2 LayerNorm, batch 256": (SACConfig(**CALIBRATED, **WARM_START), 1),
    "calql 10 critics, 2 in the term (WSRL)": (SACConfig(**CALIBRATED, **WARM_START, conservative_subset=2), 1),
    "calql 10 critics 512x3 LayerNorm, 2 in the term (WSRL, Adroit)": (
        SACConfig(**CALIBRATED, **WARM_START, **ADROIT, conservative_subset=2),
        1,
    ),
}


def seconds_each(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Duration of the fastest of the calls that fit into `seconds`.

    On a CPU in processor time of the calling thread, so that other work on the machine disturbs least.
    """
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    call()
    durations, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds or len(durations) < 3:
        _wait(device)
        before = clock()
        call()
        _wait(device)
        durations.append(clock() - before)
    return min(durations)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_batch(rows: int, device: torch.device) -> Batch:
    """Noise of the right shapes."""
    generator = torch.Generator(device).manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    return Batch(
        observation={"state": noise(rows, OBSERVATION)},
        action=noise(rows, ACTION).tanh(),
        reward=noise(rows),
        discount=torch.full((rows,), 0.99, device=device),
        next_observation={"state": noise(rows, OBSERVATION)},
        monte_carlo_return=noise(rows),
    )


def ensembles(device: torch.device, seconds: float) -> None:
    """Forward and backward pass of a critic ensemble: its gradient written out, or its members one after the other or
    stacked under PyTorch's own differentiation."""
    for rows, actions, width, count in ((256, 1, 256, 2), (256, 1, 256, 10), (128, 1, 128, 10), (256, 30, 256, 2)):
        critic = Ensemble(
            OBSERVATION,
            ACTION,
            [width, width],
            count=count,
            layer_norm=True,
            initialization=Initialization(),
            generator=torch.Generator(),
        ).to(device)
        stacked = [*critic.weights, *critic.biases, *critic.norm_scales, *critic.norm_offsets]
        features = torch.randn(rows, OBSERVATION, device=device)
        action = torch.randn(rows, actions, ACTION, device=device)

        layers, apart = critic.layers, [None] * count
        ways: dict[str, Callable[[], Tensor]] = {
            "written out": lambda f=features, a=action, c=critic: c(f, a),
            "one by one": lambda f=features, a=action, p=layers, k=apart: one_by_one(f, a, p, k),
            "at once": lambda f=features, a=action, p=layers: differentiable(f, a, p, None),
        }
        for name, way in ways.items():
            call = lambda way=way, inputs=stacked: torch.autograd.grad(way().square().mean(), inputs)  # noqa: E731
            duration = seconds_each(call, device, seconds)
            print(f"ensemble {count} x {width}x2, {rows} x {actions} rows, {name:11} {duration * 1e3:8.2f} ms")


def main() -> None:
    """Run the cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="per case")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--only", default="", help="cases whose name holds this; `ensemble` for the comparison of ensembles"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.only in "ensemble":
        ensembles(device, arguments.seconds / 4)
    spec = Spec(observation={"state": ArraySpec(shape=(OBSERVATION,))}, action=ArraySpec(shape=(ACTION,)))
    for name, (config, critic_updates) in CASES.items():
        if arguments.only not in name:
            continue
        agent = create(config, spec, Seeds(0), device, None)
        batch = random_batch(256 * critic_updates, device)
        call = lambda agent=agent, batch=batch, n=critic_updates: agent.update(batch, critic_updates=n)  # noqa: E731
        duration = seconds_each(call, device, arguments.seconds)
        print(f"{name}: {1 / duration:.1f} per second, {duration * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
