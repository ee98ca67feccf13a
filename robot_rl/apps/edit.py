"""`robot-rl edit OPERATION STORE`: change a store, whole or not at all."""

from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from robot_rl.apps.ingest import here, reward_label, success_label
from robot_rl.data_config import EditConfig
from robot_rl.datasets import edit
from robot_rl.errors import InputError

SUMMARY = "Change a store: merge, split, filter, relabel or delete episodes."

COMMON = {"operation", "store", "output", "overwrite"}
TAKES = {
    "merge": {"others"},
    "split": {"shares", "seed", "by"},
    "filter": {"episodes", "keep", "minimum_steps", "maximum_steps", "minimum_return", "task", "keys", "exclude"},
    "relabel": {"language", "success", "reward"},
    "delete": {"episodes"},
}
"""The settings of each operation; another one would be passed over, so it is refused."""


def run(config: EditConfig) -> int:
    """Do it, and say what was done."""
    console = Console()
    _require_fitting(config)
    store = here(config.store)
    output = None if config.output is None else here(config.output)
    with console.status(f"{config.operation} {store} ..."):
        made = _edit(config, store, output)
    for one in made:
        counts = f": {one.episodes} episodes, {one.steps} steps"
        removed = f"; {one.removed} episodes removed" if one.removed else ""
        path = (one.path, "bold")
        console.print(Text.assemble(("Wrote ", "green"), path, counts, removed), soft_wrap=True)
    if output is None:
        console.print(Text("The store was replaced when the new one was whole.", "dim"))
    return 0


def _edit(config: EditConfig, store: str, output: str | None) -> list[edit.Made]:
    match config.operation:
        case "merge":
            return [edit.merge([store, *map(here, config.others)], output, overwrite=config.overwrite)]
        case "split":
            if output is None:
                raise InputError(
                    f"split makes a folder of stores: name it, such as output={Path(store).with_suffix('')}_split"
                )
            shares, by, seed = config.shares, config.by, config.seed
            return edit.split(store, output, shares=shares, by=by, seed=seed, overwrite=config.overwrite)
        case "filter":
            selection = edit.Selection(
                episodes=config.episodes,
                keep=config.keep,
                minimum_steps=config.minimum_steps,
                maximum_steps=config.maximum_steps,
                minimum_return=config.minimum_return,
                task=config.task,
                keys=config.keys,
                exclude=config.exclude,
            )
            return [edit.filter_episodes(store, selection, output, overwrite=config.overwrite)]
        case "relabel":
            success, reward = success_label(config.success), reward_label(config.reward)
            labels = edit.Labels(language=config.language, success=success, reward=reward)
            return [edit.relabel(store, labels, output, overwrite=config.overwrite)]
        case _:
            return [edit.delete(store, config.episodes, output, overwrite=config.overwrite)]


def _require_fitting(config: EditConfig) -> None:
    """Refuse settings of other operations.

    Raises:
        InputError: names them.
    """
    values, default = asdict(config), asdict(EditConfig(operation=config.operation, store=config.store))
    given = [name for name, value in values.items() if value != default[name]]
    given = [name for name in given if name != "success" or success_label(config.success) is not None]
    unused = [name for name in given if name not in COMMON | TAKES[config.operation]]
    if unused:
        owners = {name: [op for op, names in TAKES.items() if name in names] for name in unused}
        said = "; ".join(f"{name} belongs to {' and '.join(owners[name])}" for name in unused)
        raise InputError(f"`edit {config.operation}` does not take {', '.join(unused)}: {said}")
