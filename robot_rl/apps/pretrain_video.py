"""`robot-rl pretrain-video`: an encoder of images learns from videos without actions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from robot_rl import checkpoint
from robot_rl.algorithms.video import OBJECTIVE_CONFIGS, Objective, create_objective
from robot_rl.algorithms.video.liv import LIVConfig
from robot_rl.apps.build import config_hash, device_of
from robot_rl.apps.command import command_line, resume_command
from robot_rl.apps.pretrain_footage import Source, load_sources
from robot_rl.apps.pretrain_measures import Measures, measure
from robot_rl.apps.pretrain_page import read_events, write_page
from robot_rl.apps.run_folder import find_checkpoint, lock, require_same_data, require_same_settings, write_facts
from robot_rl.apps.signals import stop_requests
from robot_rl.clock import MonotonicClock
from robot_rl.errors import InputError, nearest
from robot_rl.loops.video import ENCODER, VideoRun
from robot_rl.networks.vision.encoder import build_encoder
from robot_rl.recorder import Progress, Recorder
from robot_rl.replay.footage import Footage
from robot_rl.replay.instructions import Instructions
from robot_rl.seeding import Seeds
from robot_rl.video_config import PretrainVideoConfig

SUMMARY = "Pre-train an encoder of images on videos without actions: ICVF, VIP, LIV, masked auto-encoding."


def run(config: PretrainVideoConfig, words: Sequence[str] | None = None) -> int:
    """Learn as configured, measure and write a page; exit status 0 when finished, 130 when interrupted and saved.

    Args:
        config: of the run.
        words: the command line behind `robot-rl`; None where a program calls.
    """
    if config.objective is None:
        raise InputError(f"no objective is chosen: add objective=NAME. {nearest('', OBJECTIVE_CONFIGS)}")
    torch.set_num_threads(config.threads)
    console = Console(stderr=True)
    folder = Path(config.output).expanduser()
    device = device_of(config.device)
    with lock(folder):
        config_json = config_to_json(config)
        found = find_checkpoint(folder, config_json, resume=config.resume)
        instructions = Instructions()
        sources = load_sources(config, instructions, console)
        _require_instructions(config, instructions)
        _say_sources(console, sources)
        origin: dict[str, Any] = {
            "config": config_json,
            "config_hash": config_hash(config_json),
            "datasets": {source.name: source.facts for source in sources},
            "environments": {},
        }
        tensors: dict[str, torch.Tensor] = {}
        state: dict[str, Any] = {}
        if found is not None:
            tensors, state = checkpoint.load(found)
            require_same_settings(state["config"], config_json, found)
            require_same_data(state["datasets"], origin["datasets"], found)
        recorder = _recorder(folder, state)
        try:
            with _Display(console, config.steps) as display, stop_requests(display.stopping) as requested:
                this = _assemble(config, folder, sources, instructions, origin, recorder, display, device)
                this.stop_requested = lambda: bool(requested)
                if found is None:
                    write_facts(folder, config, config_json, origin, words)
                else:
                    this.restore(tensors, state)
                    display.begin(this.progress.updates)
                    console.print(f"Going on from {found}", markup=False, soft_wrap=True)
                finished = this.run()
        finally:
            recorder.close()
        if not finished:
            console.print("[bold yellow]Interrupted[/] and saved.")
            console.print(f"Go on with: {resume_command(words, folder)}", markup=False, soft_wrap=True)
            return 130
        before = build_objective(config, instructions.texts, device)
        measures = measure(
            this.objective,
            before,
            sources,
            videos=config.measured_videos,
            probe_frames=config.probe_frames,
            seed=config.seed,
            device=device,
            say=lambda text: console.print(text, markup=False),
        )
        report = _write(folder, config, this, sources, measures, words)
    _print_measures(Console(), measures, this.objective.value_kind)
    console.print(f"[bold green]Finished.[/] Report: {report}")
    console.print(f"The encoder by itself: {folder / ENCODER}", markup=False, soft_wrap=True)
    return 0


def config_to_json(config: PretrainVideoConfig) -> dict[str, Any]:
    """Plain JSON in which the objective says of which kind it is."""
    kind = next(name for name, node in OBJECTIVE_CONFIGS.items() if type(config.objective) is node)
    return {**asdict(config), "objective": {"kind": kind, **asdict(config.objective)}}


def build_objective(config: PretrainVideoConfig, texts: list[str], device: torch.device) -> Objective:
    """The objective about its encoder, as they are before they learn: the same for the same settings."""
    seeds = Seeds(config.seed)
    shape = (config.image_size[0], config.image_size[1], 3)
    encoder, _ = build_encoder(config.vision, shape, seeds.torch("encoder"))
    return create_objective(config.objective, encoder, texts, seeds, device)


def _require_instructions(config: PretrainVideoConfig, instructions: Instructions) -> None:
    match config.objective:
        case LIVConfig(text_weight=text, contrast_weight=contrast) if text + contrast > 0 and not instructions.texts:
            raise InputError(
                "objective=liv learns from instructions, but no source has any: say them with sources.NAME.language, "
                "or learn without, objective.text_weight=0 objective.contrast_weight=0"
            )


def _recorder(folder: Path, state: Mapping[str, Any]) -> Recorder:
    if not state:
        return Recorder(folder)
    return Recorder(folder, resume_at=state["metrics_bytes"], work=Progress(**state["progress"]).work)


def _assemble(
    config: PretrainVideoConfig,
    folder: Path,
    sources: Sequence[Source],
    instructions: Instructions,
    origin: dict[str, Any],
    recorder: Recorder,
    display: "_Display",
    device: torch.device,
) -> VideoRun:
    shares = {name: float(source.share) for name, source in config.sources.items() if source.share is not None}
    tracks = [track for source in sources for track in source.learning]
    seeds = Seeds(config.seed)
    return VideoRun(
        folder=folder,
        origin=origin,
        objective=build_objective(config, instructions.texts, device),
        footage=Footage(tracks, shares or None),
        augmentation=config.augmentation,
        device=device,
        generator=seeds.torch("clips"),
        changes=seeds.torch("augmentation", device=device),
        recorder=recorder,
        display=display,
        clock=MonotonicClock(),
        steps=config.steps,
        log_every=config.log_every,
        checkpoint_every_s=config.checkpoint_every_s,
    )


# Output ---------------------------------------------------------------------------------------------------------------


class _Display:
    """A bar of updates with the newest numbers."""

    def __init__(self, console: Console, steps: int) -> None:
        self._console = console
        columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn())
        numbers = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[numbers]}"))
        self._bar = Bar(*columns, *numbers, console=console)
        self._task = self._bar.add_task("updates", total=steps, rate="", numbers="")

    def __enter__(self) -> "_Display":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def begin(self, done: int) -> None:
        """So many updates were done before."""
        self._bar.update(self._task, completed=done)

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """See `loops.video.Display`."""
        shown = [name for name in metrics if name.endswith("loss")]
        numbers = "  ".join(f"{name} {metrics[name]:.3g}" for name in shown)
        rate = f"{metrics['updates_per_s']:.1f} updates/s"
        self._bar.update(self._task, completed=done, rate=rate, numbers=numbers)

    def stopping(self) -> None:
        """A stop was asked for."""
        self._console.print("Stopping: saving after this update. Press Ctrl-C again to stop at once.")


def _say_sources(console: Console, sources: Sequence[Source]) -> None:
    for source in sources:
        facts = source.facts
        rate = "" if facts["frame_period_s"] is None else f", {facts['frame_period_s']:.3g} s apart"
        console.print(
            f"Source {source.name}: {facts['videos']} videos to learn from with {facts['frames']} frames{rate}, "
            f"{facts['held_out']} held out",
            markup=False,
            soft_wrap=True,
        )


def _write(
    folder: Path,
    config: PretrainVideoConfig,
    this: VideoRun,
    sources: Sequence[Source],
    measures: Measures,
    words: Sequence[str] | None,
) -> Path:
    objective = config_to_json(config)["objective"]["kind"]
    numbers = {"objective": objective, "updates": this.progress.updates, "seconds": this.progress.elapsed_s}
    text = {**numbers, **measures.to_json(this.objective.value_kind)}
    checkpoint.write_text(folder / "measures.json", json.dumps(text, indent=1))
    facts = {
        **numbers,
        "sources": {source.name: source.facts for source in sources},
        "command": None if words is None else command_line(words),
        "encoder": str(folder / ENCODER),
    }
    return write_page(folder, measures, facts, read_events(folder / "metrics.jsonl"), this.objective.value_kind)


def _print_measures(console: Console, measures: Measures, value_kind: str) -> None:
    what = "order of values (VOC)" if value_kind == "value" else "order of distances: no value is learned"
    table = Table(title=f"On held-out videos, {what}", title_justify="left")
    for heading in ("source", "videos", "VOC", "before", "probes (R², before)"):
        table.add_column(heading)
    for name, source in measures.to_json(value_kind)["sources"].items():
        probes = ", ".join(
            f"{key} {_text(each['r2'])} ({_text(each['r2_before'])})" for key, each in source["probes"].items()
        )
        table.add_row(name, f"{source['videos']}", _text(source["voc"]), _text(source["voc_before"]), probes)
    console.print(table)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
