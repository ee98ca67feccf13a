"""`robot-rl export SOURCE TARGET`: a store in the format of robomimic or LeRobot, a policy as ONNX."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from robot_rl.apps.export_policy import export_policy
from robot_rl.apps.trained import find_trained
from robot_rl.data_config import ExportConfig
from robot_rl.datasets.export_lerobot import LerobotOptions, write_lerobot
from robot_rl.datasets.export_robomimic import write_robomimic
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.types import Episode

SUMMARY = "Write a store as robomimic HDF5 or as a LeRobot v3.0 data set, or a policy as ONNX."

HDF5_SUFFIXES, ONNX_SUFFIX = (".hdf5", ".h5"), ".onnx"


def run(config: ExportConfig) -> int:
    """Write the target, whole or not at all, and say what is in it."""
    console = Console()
    path, target = Path(config.source).expanduser(), Path(config.target).expanduser()
    name = _format(config, target)
    if name == "onnx":
        return _policy(config, target, console)
    store = EpisodeStore.open(path)
    if len(store) == 0:
        raise InputError(f"{path} has no episodes: there is nothing to export")
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


def _policy(config: ExportConfig, target: Path, console: Console) -> int:
    trained = find_trained(config.source)
    if config.compare_on is None:
        paths = [Path(data.path).expanduser() for data in trained.config.datasets.values()]
        stores = [path for path in paths if path.is_dir()]
    else:
        stores = [Path(path).expanduser() for path in config.compare_on]
    with console.status(f"Exporting {trained.path}, and comparing"):
        found = export_policy(
            trained,
            target,
            stores=stores,
            tolerance=config.tolerance,
            outliers=config.outliers,
            overwrite=config.overwrite,
        )
    text = (
        f"the policy of {trained.path}. On {found.random} random and {found.recorded} recorded observations its "
        f"actions differ by {found.largest:.2g} of half their range at most"
    )
    beyond = f"; {found.beyond} by more than {config.tolerance:g}" if found.beyond else ""
    console.print(Text.assemble(("Wrote ", "green"), (str(target), "bold"), ": ", text, beyond, "."), soft_wrap=True)
    return 0


def _format(config: ExportConfig, target: Path) -> str:
    hdf5, onnx = target.suffix in HDF5_SUFFIXES, target.suffix == ONNX_SUFFIX
    name = config.format if config.format is not None else "robomimic" if hdf5 else "onnx" if onnx else "lerobot"
    if name == "lerobot" and (hdf5 or onnx):
        raise InputError(f"{target}: LeRobot's format is a folder: leave the ending {target.suffix} away")
    if (name == "onnx") != onnx:
        raise InputError(f"{target}: format=onnx writes a file whose name ends in {ONNX_SUFFIX}, other formats do not")
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
