"""`robot-rl train`: from recorded data to a fine-tuned policy."""

import contextlib
import fcntl
import json
import os
import platform
import signal
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from robot_rl import checkpoint
from robot_rl.apps.build import (
    NOT_OF_THE_RUN,
    build_agent,
    config_hash,
    config_to_json,
    device_of,
    empty_buffer,
    load_data,
    reward_transform,
)
from robot_rl.apps.build_environment import build_environment
from robot_rl.apps.report import write_report
from robot_rl.apps.video import write_video
from robot_rl.clock import MonotonicClock
from robot_rl.config import TrainConfig
from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.loops.evaluate import EpisodeResult
from robot_rl.loops.phases import run_phases
from robot_rl.loops.rollout import AgentPolicy, Film
from robot_rl.loops.run import Evaluator, Run
from robot_rl.networks.encoder import DEVIATION_FLOOR
from robot_rl.recorder import Progress as RunProgress
from robot_rl.recorder import Recorder
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.transforms.action import ActionScale

SUMMARY = "Train: offline from recorded data, then online in an environment, as a list of phases."


def run(config: TrainConfig) -> int:
    """Train as configured; exit status 0 when finished, 130 when interrupted and saved."""
    console = Console(stderr=True)
    check(config)
    torch.set_num_threads(config.threads)
    device_of(config.device)
    folder = Path(config.output)
    with _lock(folder), contextlib.ExitStack() as stack:
        config_json = config_to_json(config)
        found = _find_checkpoint(folder, config, config_json, console)
        training, evaluation = None, None
        if config.environment is not None:
            if any(phase.interact != "none" for phase in config.phases.values()):
                training = stack.enter_context(contextlib.closing(build_environment(config.environment)))
            evaluation = stack.enter_context(contextlib.closing(build_environment(config.environment)))
        display = stack.enter_context(ConsoleDisplay(console))
        this = _assemble(config, config_json, folder, training, evaluation, display, stack, found)
        with _stop_on_signal(display) as requested:
            this.stop_requested = lambda: bool(requested)
            finished = run_phases(this)
    report = write_report(folder)
    if finished:
        console.print(f"[bold green]Finished.[/] Report: {report}")
        console.print(f"Evaluate it again: robot-rl evaluate {folder} episodes=100")
        return 0
    console.print(f"[bold yellow]Interrupted[/] and saved. Report so far: {report}")
    console.print(f"Go on with: {_resume_command(folder)}")
    return 130


def check(config: TrainConfig) -> None:
    """Refuse what cannot work before anything is loaded.

    Raises:
        InputError: no phases, a phase that interacts without an environment, no algorithm.
    """
    if not config.phases:
        raise InputError("nothing to do: the configuration has no phases. Choose experiment=..., see `train --help`")
    interacting = [name for name, phase in config.phases.items() if phase.interact != "none"]
    if interacting and config.environment is None:
        raise InputError(f"phase {interacting[0]} acts, but no environment is chosen: add environment=...")
    if config.environment is None and not config.datasets:
        raise InputError(
            "neither an environment nor a data set is given: add environment=... or datasets.offline.path=..."
        )
    if config.seed == config.evaluation.seed:
        raise InputError(f"evaluation.seed={config.evaluation.seed} equals seed: evaluation needs seeds of its own")
    if "online" in config.datasets:
        raise InputError("a data set cannot be called 'online': that is the running robot's own replay buffer")


def _assemble(
    config: TrainConfig,
    config_json: dict[str, Any],
    folder: Path,
    training: Environment | None,
    evaluation: Environment | None,
    display: "ConsoleDisplay",
    stack: contextlib.ExitStack,
    found: Path | None,
) -> Run:
    seeds = Seeds(config.seed)
    loaded = {}
    for name, dataset in config.datasets.items():
        loaded[name] = load_data(name, dataset, None if evaluation is None else evaluation.spec)
        facts = loaded[name].facts
        display.say(f"Data set {name}: {facts['episodes']} episodes, {facts['steps']} steps from {facts['path']}")
    spec: Spec = evaluation.spec if evaluation is not None else next(iter(loaded.values())).spec

    sources: dict[str, ReplayBuffer] = {}
    for name, data in loaded.items():
        rows = sum(len(episode) + 1 for episode in data.episodes)
        sources[name] = empty_buffer(config, spec, rows)
        for episode in data.episodes:
            sources[name].append(episode)
    statistics = None
    if config.normalize_observations and sources:
        statistics = {
            key: (
                mean,
                torch.where(deviation < DEVIATION_FLOOR, deviation, deviation.clamp(min=config.minimum_deviation)),
            )
            for key, (mean, deviation) in next(iter(sources.values())).observation_statistics().items()
        }
    agent = build_agent(config, spec, statistics, config.seed)
    interactive = [phase.steps for phase in config.phases.values() if phase.interact != "none"]
    if interactive:
        # An episode takes one row more than it has steps, and has at least one step.
        sources["online"] = empty_buffer(config, spec, min(config.replay.capacity, 2 * sum(interactive) + 2))

    tensors: dict[str, torch.Tensor] = {}
    state: dict[str, Any] = {}
    if found is None:
        recorder = Recorder(folder)
    else:
        tensors, state = checkpoint.load(found)
        recorder = Recorder(folder, resume_at=state["metrics_bytes"], updates=state["progress"]["updates"])

    stack.callback(recorder.close)
    scale, device = ActionScale.from_spec(spec.action), torch.device(config.device)
    evaluator = None
    if evaluation is not None:
        evaluator = Evaluator(
            environment=evaluation,
            policy=AgentPolicy(agent=agent, spec=spec, scale=scale, device=device),
            seeds=Seeds(config.evaluation.seed),
            episodes=config.evaluation.episodes,
            final_episodes=config.evaluation.final_episodes,
            videos=config.evaluation.videos,
            write_film=_FilmWriter(folder, spec),
            discount=config.replay.discount,
            reward=reward_transform(config.replay),
        )
    this = Run(
        folder=folder,
        config_json=config_json,
        phases=config.phases,
        agent=agent,
        fresh_agent=lambda index: build_agent(config, spec, statistics, seeds.integer("reset", index)),
        sources=sources,
        environment=training,
        policy=AgentPolicy(agent=agent, spec=spec, scale=scale, device=device, explore=True),
        evaluator=evaluator,
        recorder=recorder,
        display=display,
        clock=MonotonicClock(),
        seeds=seeds,
        generator=seeds.torch("batches"),
        stop_requested=lambda: False,
        checkpoint_every_s=config.checkpoint_every_s,
        log_every=config.log_every,
    )
    if found is None:
        # Last, because these two make the folder a run: what was refused above leaves none behind.
        facts = {name: data.facts for name, data in loaded.items()}
        checkpoint.write_text(folder / "run.json", json.dumps(_run_facts(config, config_json, facts), indent=1))
        checkpoint.write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config_json)))
    else:
        this.restore(int(found.name), tensors, state)
        display.say(f"Going on from {found}: phase {this.progress.phase}, step {this.progress.phase_step}")
    return this


class _FilmWriter:
    """Writes one film beside the run and answers with its path relative to it."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        self._folder = folder
        self._rate = 1.0 / spec.control_period_s if spec.control_period_s else 20.0

    def __call__(self, film: Film, result: EpisodeResult, name: str) -> str:
        outcome = {True: "success", False: "no success", None: f"return {result.episode_return:.1f}"}[result.success]
        path = self._folder / "videos" / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        caption = f"{name} | {outcome}"
        write_video(path, film.frames, frames_per_second=self._rate, values=film.values or None, caption=caption)
        return str(path.relative_to(self._folder))


# Files of a run -------------------------------------------------------------------------------------------------------


def _find_checkpoint(folder: Path, config: TrainConfig, config_json: dict[str, Any], console: Console) -> Path | None:
    """The checkpoint to go on from, or None for a new run.

    Raises:
        InputError: there is a run already and resume is off, or its settings differ.
    """
    saved = folder / "config.yaml"
    if not saved.exists():
        return None
    if not config.resume:
        raise InputError(
            f"{folder} already holds a run: add resume=true to go on with it, choose another output=..., or delete it"
        )
    earlier: Any = OmegaConf.to_container(OmegaConf.load(saved))
    if config_hash(earlier) != config_hash(json.loads(json.dumps(config_json))):
        before, after = _flat(earlier), _flat(config_json)
        different = [key for key in sorted(before | after) if before.get(key) != after.get(key)]
        lines = [f"{key}: {before.get(key)} -> {after.get(key)}" for key in different if key not in NOT_OF_THE_RUN]
        raise InputError(
            f"resume=true, but the settings are not those of the run in {folder}: {'; '.join(lines)}. "
            "Give the same settings, or choose another output=..."
        )
    found = checkpoint.checkpoints(folder / "checkpoints")
    if not found:
        console.print(f"{folder} has no checkpoint yet: starting from the beginning")
        return None
    return found[-1]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _run_facts(config: TrainConfig, config_json: dict[str, Any], datasets: dict[str, Any]) -> dict[str, Any]:
    packages = ("robot-rl", "torch", "numpy", "mujoco", "gymnasium", "zarr", "hydra-core")
    return {
        "config_hash": config_hash(config_json),
        "seed": config.seed,
        "command": " ".join(["robot-rl", *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "device": config.device},
        "datasets": datasets,
    }


def _resume_command(folder: Path) -> str:
    words = [word for word in sys.argv[1:] if not word.startswith("resume=")]
    return " ".join(["robot-rl", *words, "resume=true"]) if words else f"the same command and resume=true ({folder})"


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keep two processes out of one run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"cannot write into output={folder}: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is training in {folder}: wait for it, or choose another output"
            ) from error
        yield


@contextlib.contextmanager
def _stop_on_signal(display: "ConsoleDisplay") -> Iterator[list[int]]:
    """The first Ctrl-C (or SIGTERM) asks the loop to save and stop; the second stops at once."""
    requested: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if requested:
            raise KeyboardInterrupt
        requested.append(number)
        display.say("Stopping: finishing the episode, then saving. Press Ctrl-C again to stop at once.")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Display --------------------------------------------------------------------------------------------------------------


class ConsoleDisplay:
    """A progress bar for the phase, and a line for each evaluation."""

    SHOWN = ("critic/q", "critic/loss", "actor/loss")

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
        )
        self._task: TaskID | None = None
        self._interact = False

    def __enter__(self) -> "ConsoleDisplay":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin_phase(self, name: str, done: int, steps: int, interact: bool) -> None:
        """A phase starts, or goes on after `done` steps."""
        self._interact = interact
        self._task = self._progress.add_task(name, total=steps, completed=done, rate="", numbers="")

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """So many steps of the phase are done; the newest numbers."""
        if self._task is None:
            return
        rate = f"{metrics['updates_per_s']:.0f} updates/s"
        if self._interact:
            rate = f"{metrics['steps_per_s']:.0f} steps/s, {rate}"
        numbers = "  ".join(f"{name} {metrics[name]:.3g}" for name in self.SHOWN if name in metrics)
        self._progress.update(self._task, completed=done, rate=rate, numbers=numbers)

    def evaluation(self, progress: RunProgress, metrics: Mapping[str, float]) -> None:
        """One line, with the interval where success is declared."""
        if "success_rate" in metrics:
            interval = f"[{metrics['success_low']:.2f}, {metrics['success_high']:.2f}]"
            score = f"success {metrics['success_rate']:.2f} {interval}, return {metrics['return_mean']:.2f}"
        else:
            score = f"return {metrics['return_mean']:.2f} ± {metrics['return_std']:.2f}"
        place = f"{progress.phase} step {progress.phase_step}"
        self.say(f"{place:>24}  {score.replace('[', chr(92) + '[')}  ({progress.elapsed_s:.0f} s)")
        if self._task is not None:
            self._progress.update(self._task, completed=progress.phase_step)

    def say(self, text: str) -> None:
        """One line above the bar."""
        self._progress.console.print(text)
