"""`robot-rl ingest SOURCE STORE`: a recording, in any format that has a reader, becomes a zarr store."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from robot_rl.data_config import ImageConfig, IngestConfig, RewardRule, SuccessRule
from robot_rl.datasets.convert import ConvertSettings, Report, State, convert
from robot_rl.datasets.convert_transforms import ImageOptions, RewardLabel, Transforms
from robot_rl.datasets.ingest.base import BagOptions, ReadOptions, SuccessLabel, TableOptions
from robot_rl.datasets.remote import is_url
from robot_rl.datasets.schema import Finding
from robot_rl.types import Array, Episode

SUMMARY = "Turn a recording (robomimic, LeRobot, RLDS, ROS bags, videos, logs, ...) into an episode store."

COLORS = {"error": "bold red", "warning": "yellow", "information": "cyan"}


def run(config: IngestConfig) -> int:
    """Read, write, check, and say what to do next; exit status 1 where something was left out for an error."""
    console = Console()
    display = ProgressDisplay(console)
    source = Path(config.source).expanduser()
    target = here(config.store)
    try:
        with display:
            report = convert(source, target, settings(config), progress=display.show)
    except KeyboardInterrupt:
        console.print(Text(_interrupted(display.state, target), "yellow"))
        raise
    _print_report(console, report)
    return 0 if report.complete else 1


def print_findings(console: Console, findings: list[Finding]) -> None:
    """A table of findings, or a line when there is none."""
    if not findings:
        console.print(Text("Nothing odd was found.", "green"))
        return
    table = Table(title="Findings", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("", "where", "what", "what to do"):
        table.add_column(heading, overflow="fold", header_style="dim")
    for finding in findings:
        mark = Text(finding.severity, COLORS[finding.severity])
        table.add_row(mark, Text(finding.place), Text(finding.text), Text(finding.remedy))
    console.print(table)


class ProgressDisplay:
    """A bar of episodes, with the rate of steps and of images, and how long it will take."""

    def __init__(self, console: Console) -> None:
        self.state = State(stage="opening")
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("episodes, {task.fields[rate]}, remaining"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID | None = None
        self._began = 0.0

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._task is not None and self.state.stage == "checking":
            self._progress.update(self._task, description="Ingested")
        self._progress.stop()

    def show(self, state: State) -> None:
        """Take a step."""
        entered = self.state.stage != state.stage
        self.state = state
        if state.stage == "opening":
            self._progress.console.print(Text(f"Reading it as {state.format} ...", "dim"))
        elif state.stage == "checking" and self._task is not None:
            self._progress.update(self._task, description="Checking")
        elif entered:
            self._began = time.monotonic()
            if state.resumed:
                text = f"Resuming: {state.resumed} of {state.total} episodes are there."
                self._progress.console.print(Text(text, "cyan"))
            self._task = self._progress.add_task("Ingesting", total=state.total, completed=state.resumed, rate="-")
        elif self._task is not None:
            self._progress.update(self._task, completed=state.episodes, rate=self._rate(state))

    def _rate(self, state: State) -> str:
        elapsed_s = max(time.monotonic() - self._began, 1e-9)
        frames = f", {state.frames / elapsed_s:,.0f} frames/s" if state.frames else ""
        return f"{state.steps / elapsed_s:,.0f} steps/s{frames}"


def settings(config: IngestConfig) -> ConvertSettings:
    """What the conversion is told."""
    success = success_label(config.success)
    read = ReadOptions(
        bag=BagOptions(**vars(config.bag)),
        table=TableOptions(**vars(config.table)),
        side_file=config.side_file,
        maximum_episodes=config.maximum_episodes,
        success=success,
        action_low=config.action_low,
        action_high=config.action_high,
        control_period_s=config.control_period_s,
        done_semantics=config.done_semantics,
        resimulate=_resimulate if config.resimulate else None,
    )
    transforms = Transforms(
        split=config.split,
        keys=config.keys,
        exclude=config.exclude,
        minimum_steps=config.minimum_steps,
        keep=config.keep,
        language=config.language,
        stride=config.stride,
        action_from=config.action_from,
        action_mode=config.action_mode,
        action_low=config.action_low,
        action_high=config.action_high,
        success=success,
        reward=reward_label(config.reward),
        image=_image_options(config.image),
    )
    return ConvertSettings(
        format=config.format,
        read=read,
        transforms=transforms,
        overwrite=config.overwrite,
        append=config.append,
        on_error=config.on_error,
        workers=config.workers,
        engine=config.engine,
    )


def here(store: str) -> str:
    """A store as a person names it: `~` is their home, a URL stays."""
    return store if is_url(store) else str(Path(store).expanduser())


def success_label(rule: SuccessRule | None) -> SuccessLabel | None:
    """The rule as the data sets know it; in YAML, an empty observation is no rule."""
    if rule is None or rule.observation == "":
        return None
    return SuccessLabel(observation=rule.observation, index=rule.index, minimum=rule.minimum, maximum=rule.maximum)


def reward_label(rule: RewardRule) -> RewardLabel:
    """The rule as the data sets know it."""
    low, high = rule.values
    return RewardLabel(last_steps=rule.last_steps, observation=rule.observation, index=rule.index, values=(low, high))


def _image_options(image: ImageConfig) -> ImageOptions:
    size = None if image.size is None else (image.size[0], image.size[1])
    return ImageOptions(size=size, fit=image.fit, tier=image.tier, quality=image.quality)


_ADVISE = Text("  says how", "dim")


def _print_report(console: Console, report: Report) -> None:
    text = f"{report.stored} episodes of {report.format} in "
    total = f": {report.episodes} episodes, {report.steps} steps"
    console.print(Text.assemble(("Stored ", "green"), text, (report.path, "bold"), total), soft_wrap=True)
    print_findings(console, list(report.findings))
    if report.dropped:
        text = f"{report.dropped} episodes could not be used and were left out; on_error=stop stops at the first."
        console.print(Text(text, "red"))
    console.print(Text("Look at it:   ", "dim") + Text(f"robot-rl inspect {report.path}"), soft_wrap=True)
    console.print(Text("Train on it:  ", "dim") + Text(f"robot-rl advise {report.path}") + _ADVISE, soft_wrap=True)


def _interrupted(state: State, target: str) -> str:
    if state.stage == "checking":
        return f"Interrupted while checking: {target} is complete; `robot-rl inspect {target} --check` checks it."
    if state.episodes == 0:
        return f"Interrupted: nothing was written to {target}. Run it again to start anew."
    return (
        f"Interrupted: {state.episodes} of {state.total} episodes are kept, beside {target}. Give the same command "
        "again to go on."
    )


def _resimulate(environment: Mapping[str, Any], model_xml: str, states: Array, actions: Array) -> Episode:
    from robot_rl.sim.robosuite_replay import resimulate  # imports robosuite: seconds, and only where it is needed

    return resimulate(environment, model_xml, states, actions)
