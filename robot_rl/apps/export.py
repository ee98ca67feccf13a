"""`robot-rl export STORE TARGET`: a store in the format of robomimic or LeRobot."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from robot_rl.data_config import ExportConfig
from robot_rl.datasets.export_lerobot import LerobotOptions, write_lerobot
from robot_rl.datasets.export_robomimic import write_robomimic
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.types import Episode

SUMMARY = "Write a store as robomimic HDF5 or as a LeRobot v3.0 data set."

HDF5_SUFFIXES = (".hdf5", ".h5")


def run(config: ExportConfig) -> int:
    """Write the target, whole or not at all, and say what is in it."""
    console = Console()
    path, target = Path(config.store).expanduser(), Path(config.target).expanduser()
    store = EpisodeStore.open(path)
    if len(store) == 0:
        raise InputError(f"{path} has no episodes: there is nothing to export")
    name = _format(config, target)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes, remaining"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task(f"Exporting to {name}", total=len(store))

        def report(done: int) -> None:
            progress.update(bar, completed=done)

        try:
            if name == "robomimic":
                _write_robomimic(store, target, config, report)
            else:
                _write_lerobot(store, target, config, report)
        except KeyboardInterrupt:
            progress.console.print(Text(f"Interrupted: nothing was written to {target}.", "yellow"))
            raise
    counts = f"{len(store)} episodes, {store.steps} steps in the format of {name}: "
    console.print(Text.assemble(("Wrote ", "green"), counts, (str(target), "bold")), soft_wrap=True)
    return 0


def _format(config: ExportConfig, target: Path) -> str:
    hdf5 = target.suffix in HDF5_SUFFIXES
    name = config.format if config.format is not None else "robomimic" if hdf5 else "lerobot"
    if name == "lerobot" and hdf5:
        raise InputError(f"{target}: LeRobot's format is a folder: leave the ending {target.suffix} away")
    return name


def _write_lerobot(store: EpisodeStore, target: Path, config: ExportConfig, report: Callable[[int], None]) -> None:
    recorded = store.provenance.get("attributes", {})
    options = LerobotOptions(
        fps=config.fps,
        task=config.task,
        robot_type=str(recorded.get("robot_type", "unknown")),
        video_codec=config.video_codec,
        crf=config.crf,
    )
    write_lerobot(target, store.spec, store.episodes, options, overwrite=config.overwrite, progress=report)


def _write_robomimic(store: EpisodeStore, target: Path, config: ExportConfig, report: Callable[[int], None]) -> None:
    def episodes() -> Iterator[Episode]:
        for number, episode in enumerate(store.episodes()):
            yield episode
            report(number + 1)

    write_robomimic(target, store.spec, episodes(), _environment(store), overwrite=config.overwrite)


def _environment(store: EpisodeStore) -> Mapping[str, Any]:
    """robomimic's description of the environment, where the source had one; else one that names the store."""
    recorded = store.provenance.get("environment")
    if isinstance(recorded, dict) and recorded:
        return recorded
    return {"env_name": str(store.spec.metadata.get("environment", store.path.stem)), "type": 2, "env_kwargs": {}}
