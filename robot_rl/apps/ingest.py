"""`robot-rl ingest SOURCE STORE`: a recording, in any format that has a reader, becomes a zarr store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from robot_rl.data_config import IngestConfig
from robot_rl.datasets.ingest.base import ReadOptions, Recording, SuccessLabel
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.datasets.schema import Finding
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import building
from robot_rl.datasets.validate import validate
from robot_rl.types import Array, Episode

SUMMARY = "Turn a recording (robomimic, robosuite, D4RL, DAPG) into an episode store."

BLOCK_STEPS = 4096  # steps that are committed at once
COLORS = {"error": "bold red", "warning": "yellow", "information": "cyan"}


def run(config: IngestConfig) -> int:
    """Read, write, check, and say what to do next; the store appears whole or not at all."""
    console = Console()
    source, target = Path(config.source).expanduser(), Path(config.store).expanduser()
    options = _options(config)
    with building(target, overwrite=config.overwrite) as temporary:
        reader = find_reader(source, config.format)
        with console.status(f"Opening {source} as {reader.name} ..."):
            recording = reader.open(source, options)
        try:
            with recording:
                _write(console, recording, temporary)
        except KeyboardInterrupt:
            console.print(Text(f"Interrupted: nothing was written to {target}. Run it again to start anew.", "yellow"))
            raise
    with console.status("Checking what was written ..."):
        store = EpisodeStore.open(target)
        findings = [*recording.findings, *options.overruled(store.spec, source.name), *validate(store)]
    console.print(
        Text.assemble(
            ("Stored ", "green"),
            f"{len(store)} episodes, {store.steps} steps of {reader.name} in ",
            (str(target), "bold"),
        ),
        soft_wrap=True,
    )
    print_findings(console, findings)
    console.print(Text("Look at it:   ", "dim") + Text(f"robot-rl inspect {target}"), soft_wrap=True)
    console.print(
        Text("Train on it:  ", "dim") + Text(f"robot-rl train experiment=NAME datasets.offline.path={target}"),
        soft_wrap=True,
    )
    return 1 if any(finding.severity == "error" for finding in findings) else 0


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


def _write(console: Console, recording: Recording, path: Path) -> None:
    store = EpisodeStore.create(path, recording.spec, provenance=recording.provenance)
    block: list[Episode] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("episodes, {task.fields[rate]} steps/s, remaining"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Ingesting", total=len(recording), rate="-")
        for episode in recording.episodes():
            block.append(episode)
            if sum(map(len, block)) >= BLOCK_STEPS:
                _commit(store, block, progress, task)
                block = []
        _commit(store, block, progress, task)
    store.finish()


def _commit(store: EpisodeStore, block: list[Episode], progress: Progress, task: TaskID) -> None:
    store.extend(block)
    elapsed_s = progress.tasks[task].elapsed
    rate = f"{store.steps / elapsed_s:,.0f}" if elapsed_s else "-"
    progress.update(task, advance=len(block), rate=rate)


def _options(config: IngestConfig) -> ReadOptions:
    rule = config.success
    label = None
    if rule is not None and rule.observation != "":  # ingest.yaml: empty is no rule
        label = SuccessLabel(observation=rule.observation, index=rule.index, minimum=rule.minimum, maximum=rule.maximum)
    return ReadOptions(
        maximum_episodes=config.maximum_episodes,
        success=label,
        action_low=config.action_low,
        action_high=config.action_high,
        control_period_s=config.control_period_s,
        done_semantics=config.done_semantics,
        resimulate=_resimulate if config.resimulate else None,
    )


def _resimulate(environment: Mapping[str, Any], model_xml: str, states: Array, actions: Array) -> Episode:
    from robot_rl.sim.robosuite_replay import resimulate  # imports robosuite: seconds, and only where it is needed

    return resimulate(environment, model_xml, states, actions)
