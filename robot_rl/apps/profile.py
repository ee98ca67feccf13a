"""`robot-rl profile`: where the time of a run goes."""

import contextlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robot_rl.apps.build import config_to_json, device_of
from robot_rl.apps.display import ConsoleDisplay
from robot_rl.apps.profile_measure import (
    CHECKPOINT,
    ENVIRONMENT,
    LOGGING,
    POLICY,
    PYTHON,
    SAMPLING,
    UPDATE,
    PhaseProfile,
    profile_phase,
)
from robot_rl.apps.train import assemble, check, open_environments
from robot_rl.config import ProfileConfig
from robot_rl.errors import InputError, nearest
from robot_rl.loops.distributed import Ranks
from robot_rl.loops.execution import require_cuda
from robot_rl.loops.run import Run

SUMMARY = "Run a little of an experiment and show where its time goes, and what would make it faster."
STANDS_OUT = 0.2
"""Share of a step's time from which on a remedy is worth a line."""
WORTH_THREADS_S = 0.05  # an update that takes longer gains from a second thread


def run(config: ProfileConfig) -> int:
    """Measure each phase for a few seconds in a temporary folder; exit status 0."""
    check(config)
    torch.set_num_threads(config.threads)
    require_cuda(config.execution, device_of(config.device))
    wanted = list(config.phases) if config.phase is None else [config.phase]
    if config.phase is not None and config.phase not in config.phases:
        raise InputError(f"phase={config.phase}: {nearest(config.phase, config.phases)}")
    trace = None if config.trace is None else Path(config.trace).expanduser()
    console = Console()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="robot_rl_profile_")))
        # Never saved by the clock, never filmed, never evaluated: what is measured is the training.
        quiet = replace(config, checkpoint_every_s=1e12, evaluation=replace(config.evaluation, videos=0))
        environments = open_environments(quiet, stack, Ranks())
        with ConsoleDisplay(Console(quiet=True)) as display:
            this = assemble(quiet, config_to_json(quiet), folder, environments, display, stack, None, None, Ranks())
        for name in wanted:
            if config.phases[name].steps == 0:
                continue
            with console.status(f"Phase {name} ..."):
                measured = profile_phase(
                    this,
                    name,
                    seconds=config.seconds,
                    checkpoint_every_s=config.checkpoint_every_s,
                    trace=trace if trace is None or len(wanted) == 1 else trace.with_stem(f"{trace.stem}_{name}"),
                )
            _print(console, measured, config)
            for line in remedies(measured, config, this):
                console.print(Text.assemble(("  -> ", "bold yellow"), line), soft_wrap=True)
            console.print()
    if trace is not None:
        console.print(f"Open {trace} in https://ui.perfetto.dev or chrome://tracing.", soft_wrap=True)
    return 0


def _print(console: Console, measured: PhaseProfile, config: ProfileConfig) -> None:
    phase, step_s = measured.phase, measured.step_s
    ratio = phase.updates_per_step
    rates = f"{ratio / step_s:.1f} updates/s"
    if phase.interact != "none":
        rates = f"{1 / step_s:.1f} steps/s, {rates}"
    console.print(
        Text.assemble((f"Phase {measured.name}", "bold"), f": {rates} ({config.device}, {config.execution.mode})")
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("ms per step", justify="right")
    table.add_column("share", justify="right")
    for name, seconds in _largest(measured.parts):
        table.add_row(Text(name, "cyan"), f"{seconds * 1e3:.3f}", f"{seconds / step_s:.1%}")
        for inner, part in _largest(measured.update_parts) if name == UPDATE else ():
            table.add_row(Text(f"  {inner}", "dim"), f"{part * 1e3:.3f}", f"{part / step_s:.1%}")
    for name, seconds in measured.elsewhere.items():
        table.add_row(Text(f"{name}, in threads meanwhile", "dim"), f"{seconds * 1e3:.3f}", "")
    console.print(table)
    if measured.operators:
        shown = measured.operators[: config.operators]
        console.print("Largest operations of an update (share of all its operations, calls per step):")
        for operator, share, calls in shown:
            console.print(Text(f"  {share:6.1%}  {calls:7.1f}  {operator}"))


def _largest(parts: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(((name, seconds) for name, seconds in parts.items() if seconds > 0), key=lambda item: -item[1])


def remedies(measured: PhaseProfile, config: ProfileConfig, this: Run) -> Sequence[str]:
    """A line for each part that stands out, with the setting that changes it."""
    share = {name: seconds / measured.step_s for name, seconds in measured.parts.items()}
    found = []
    if share.get(SAMPLING, 0.0) > STANDS_OUT:
        mapped = [name for name, data in config.datasets.items() if data.images == "mapped"]
        images = any(array.is_image for array in this.policy.spec.observation.values())
        if images and mapped:
            found.append(
                f"Images are read from the disk for {share[SAMPLING]:.0%} of the time: "
                f"datasets.{mapped[0]}.images=memory if they fit into memory, else replay.prefetch_workers=4"
            )
        elif measured.phase.interact == "none" and not this.prefetch_workers:
            found.append(
                f"Gathering rows takes {share[SAMPLING]:.0%} of the time: replay.prefetch_workers=1 does it meanwhile, "
                "where a core is free"
            )
    python = measured.update_parts.get(PYTHON, 0.0) / measured.step_s
    if python > STANDS_OUT:
        mode = "compiled" if this.policy.device.type == "cpu" else "compiled_graphed"
        found.append(
            f"Python between operations takes {python:.0%} of the time: execution.mode={mode} leaves it out, once it "
            "has compiled for a minute or so"
        )
    cores = os.cpu_count() or 1
    update_s = measured.parts.get(UPDATE, 0.0)
    slow = update_s / max(measured.update_calls, 1.0) > WORTH_THREADS_S and share.get(UPDATE, 0.0) > 0.5
    if this.policy.device.type == "cpu" and slow:
        if config.threads < cores:
            found.append(f"Updates are large products: threads={cores} helps while this machine has nothing else to do")
        found.append("Large updates are what an accelerator is for: device=cuda, where there is one")
    if share.get(ENVIRONMENT, 0.0) > 0.5:
        found.append(
            f"The environment takes {share[ENVIRONMENT]:.0%} of the time: no setting of the learner makes this run "
            "much faster, and a higher updates_per_step costs little"
        )
    if share.get(POLICY, 0.0) > STANDS_OUT and this.policy.device.type == "cuda":
        found.append(f"Acting on the device takes {share[POLICY]:.0%} of the time: try device=cpu")
    if share.get(LOGGING, 0.0) > 0.05:
        found.append(f"Log lines take {share[LOGGING]:.0%} of the time: log_every={10 * config.log_every}")
    if share.get(CHECKPOINT, 0.0) > 0.04:
        found.append(
            f"Checkpoints take {share[CHECKPOINT]:.0%} of the time: "
            f"checkpoint_every_s={10 * config.checkpoint_every_s:g}"
        )
    return found
