"""Updates per second of each way to run them, with sampling, and the published runs in pieces of ten minutes.

    python benchmarks/accelerator.py --device cuda                     every mode: eager, compiled, graphed, both
    python benchmarks/accelerator.py --mode eager compiled --only sac  on a CPU; compiling takes up to minutes a case
    python benchmarks/accelerator.py --runs door pen --piece 600       train the published Adroit configurations

Rows are drawn from a replay buffer on the device, as in a run. Of the runs, each piece ends by Ctrl-C and the next goes
on with resume=true, so that the command itself may be ended and given again at any time.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from robot_rl.algorithms import (
    AlgorithmConfig,
    AWACConfig,
    BCConfig,
    IQLConfig,
    RORLConfig,
    SACConfig,
    TD3Config,
    create,
)
from robot_rl.config import ExecutionConfig
from robot_rl.loops.execution import learner
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.mixture import draw_mixture
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Episode

LOCOMOTION, ANTMAZE, ADROIT = (17, 6), (29, 8), (39, 28)  # channels of observation and action
CALIBRATED = {"conservative_weight": 5.0, "conservative_calibrated": True, "max_target_backup": 10}
TEN = {"critic_count": 10, "critic_subset": 2, "actor_layer_norm": True, "critic_layer_norm": True}
DEEP = {"critic_hidden": [256] * 4, "log_std": "state_independent", "conservative_lagrange_gap": 0.8}
Case = tuple[AlgorithmConfig, int, tuple[int, int]]
"""Settings, critic updates, channels of observation and action."""
CASES: dict[str, Case] = {
    "bc": (BCConfig(), 1, LOCOMOTION),
    "td3+bc": (TD3Config(actor_cloning_weight=1.0, actor_value_weight=2.5, actor_normalize_value=True), 1, LOCOMOTION),
    "sac": (SACConfig(), 1, LOCOMOTION),
    "iql": (IQLConfig(), 1, LOCOMOTION),
    "awac": (AWACConfig(), 1, LOCOMOTION),
    "ro2o, 10 critics": (RORLConfig(critic_count=10, smoothness_weight=1e-4, uncertainty_weight=0.5), 1, LOCOMOTION),
    "calql, 2 critics": (SACConfig(**CALIBRATED), 1, LOCOMOTION),
    "antmaze: calql, 10 critics 256x4, all in the term": (SACConfig(**TEN, **DEEP, **CALIBRATED), 1, ANTMAZE),
    "antmaze: calql, 10 critics 256x4, 2 in the term": (
        SACConfig(**TEN, **DEEP, **CALIBRATED, conservative_subset=2),
        1,
        ANTMAZE,
    ),
    "robot: wsrl online, 4 critic updates of 10 critics 512x3": (
        SACConfig(**TEN, actor_hidden=[512] * 2, critic_hidden=[512] * 3, step_with_zero_gradients=True),
        4,
        ADROIT,
    ),
}
RUNS = {"door": "adroit_door_published", "pen": "adroit_pen_published"}
ROBOT_PERIOD_S = 0.02


def buffer(sizes: tuple[int, int], device: torch.device, episodes: int = 50, steps: int = 200) -> ReplayBuffer:
    """Noise of the right shapes."""
    bound, generator = np.ones(sizes[1]), np.random.default_rng(0)
    spec = Spec(
        observation={"state": ArraySpec(shape=(sizes[0],))},
        action=ArraySpec(shape=(sizes[1],), low=-bound, high=bound),
    )
    made = ReplayBuffer(
        spec,
        capacity=episodes * (steps + 1),
        scale=ActionScale.from_spec(spec.action),
        reward=RewardTransform(),
        discount=0.99,
        complete_only=True,
        device=device,
    )
    for _ in range(episodes):
        made.append(
            Episode(
                observation={"state": generator.normal(size=(steps + 1, sizes[0])).astype(np.float32)},
                action=generator.uniform(-1, 1, (steps, sizes[1])),
                reward=generator.normal(size=steps),
                terminated=np.zeros(steps, bool),
                truncated=np.arange(steps) == steps - 1,
            )
        )
    return made


def measure(
    name: str,
    case: tuple[AlgorithmConfig, int, tuple[int, int]],
    modes: list[str],
    device: torch.device,
    seconds: float,
) -> None:
    """Print the median duration of an update in each mode, which take turns so that all see the same machine."""
    config, critic_updates, sizes = case
    rows, generator = 256, torch.Generator().manual_seed(0)
    data = {"offline": buffer(sizes, device)}
    calls, first, durations = {}, {}, {mode: [] for mode in modes}
    for mode in modes:
        agent = create(config, data["offline"].spec, Seeds(0), device, None)
        calls[mode] = learner(agent, data, ExecutionConfig(mode=mode))

    # On a CPU, processor time of the calling thread, so that other work on the machine disturbs least.
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def once(mode: str) -> float:
        learning = calls[mode]
        start = clock()
        drawn = [
            draw_mixture(data, {"offline": rows}, critic_updates, generator) for _ in range(learning.updates_per_replay)
        ]
        learning.learn(drawn, critic_updates=critic_updates)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (clock() - start) / learning.updates_per_replay

    for mode in modes:
        begun = time.perf_counter()
        once(mode)
        first[mode] = time.perf_counter() - begun
        for _ in range(3):
            once(mode)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds * len(modes) or len(durations[modes[0]]) < 5:
        for mode in modes:
            durations[mode].append(once(mode))
    for mode in modes:
        duration, best = float(np.median(durations[mode])), min(durations[mode])
        text = f"{name} | {mode}: {1 / duration:.1f} updates/s, {duration * 1e3:.3f} ms (fastest {best * 1e3:.3f})"
        if critic_updates > 1:
            text += f", {duration / ROBOT_PERIOD_S:.0%} of a 50 Hz robot's period"
        print(f"{text}; first call {first[mode]:.1f} s", flush=True)


def train(name: str, device: str, mode: str, piece_s: float, steps: int | None, folder: Path, more: list[str]) -> None:
    """Train a published configuration, piece by piece, and print how long the training took in all."""
    output = folder / RUNS[name]
    words = [
        "train",
        RUNS[name],
        f"device={device}",
        f"execution.mode={mode}",
        f"output={output}",
        "resume=true",
        *more,
    ]
    if steps is not None:
        words += [f"phases.{phase}.steps={steps}" for phase in ("offline", "warmup", "online")]
    while True:
        process = subprocess.Popen([sys.executable, "-m", "robot_rl", *words])
        try:
            code = process.wait(piece_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            code = process.wait()
        if code not in (0, 130):
            raise SystemExit(code)
        metrics = output / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if not lines:
            raise SystemExit(f"{name}: {piece_s:.0f} s were over before training began: give a longer --piece")
        last = json.loads(lines[-1])
        print(
            f"{name}: {last['phase']} at step {last['phase_step']}, {last['updates']} updates and "
            f"{last['environment_steps']} steps in {last['elapsed_s'] / 60:.1f} minutes of training",
            flush=True,
        )
        if code == 0:
            return


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mode", nargs="+", help="default: all that the device has; on a CPU: eager")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="per case and mode")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), help="train these instead of measuring")
    parser.add_argument("--piece", type=float, default=600.0, help="seconds of a piece of a run")
    parser.add_argument("--steps", type=int, help="steps of each phase of a run, in place of the published ones")
    parser.add_argument("--folder", type=Path, default=Path("runs/accelerator"))
    parser.add_argument("--set", nargs="*", default=[], help="further settings of a run, such as evaluation.episodes=1")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    cuda = device.type == "cuda"
    modes = arguments.mode or (["eager", "compiled", "graphed", "compiled_graphed"] if cuda else ["eager"])
    for name in arguments.runs or []:
        mode = "compiled_graphed" if cuda and arguments.mode is None else modes[0]
        train(name, arguments.device, mode, arguments.piece, arguments.steps, arguments.folder, arguments.set)
    if not arguments.runs:
        for name, case in CASES.items():
            if arguments.only in name:
                measure(name, case, modes, device, arguments.seconds)


if __name__ == "__main__":
    main()
