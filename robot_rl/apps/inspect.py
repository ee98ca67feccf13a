"""`robot-rl inspect STORE`: what a store holds, printed and plotted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robot_rl.apps.ingest import print_findings
from robot_rl.apps.inspect_plots import draw
from robot_rl.data_config import InspectConfig
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.validate import saturation, validate
from robot_rl.spec import ArraySpec
from robot_rl.types import Episode

SUMMARY = "Print and plot what a store holds: lengths, returns, success, ranges, units, findings."

CHANNELS_SHOWN = 64  # of one array; the pictures show all


def run(config: InspectConfig) -> int:
    """Print tables and write pictures; 1 where the store is damaged."""
    console = Console()
    path = Path(config.store).expanduser()
    store = EpisodeStore.open(path)
    with console.status("Reading and checking ..."):
        findings = validate(store)
    damaged = any(finding.severity == "error" for finding in findings)
    if not damaged:
        episodes = list(store.episodes())
        _print_overview(console, store, episodes)
        _print_channels(console, store, episodes)
    print_findings(console, findings)
    _print_provenance(console, store.provenance)
    if config.plots != "none" and not damaged:
        folder = path.with_name(f"{path.name.removesuffix('.zarr')}_inspect")
        folder = folder if config.plots is None else Path(config.plots).expanduser()
        with console.status("Drawing ..."):
            pictures = draw(folder, store.spec, episodes)
        console.print(Text("Pictures: ", "dim") + Text(", ".join(map(str, pictures))), soft_wrap=True)
    return 1 if damaged else 0


def _print_overview(console: Console, store: EpisodeStore, episodes: list[Episode]) -> None:
    statistics, spec = store.statistics, store.spec
    lengths, returns, success = statistics["lengths"], statistics["returns"], statistics["success"]
    steps = statistics["steps"]
    period = "not declared" if spec.control_period_s is None else f"{spec.control_period_s:g} s"
    duration = "" if spec.control_period_s is None else f", {steps * spec.control_period_s / 60:.1f} min"
    terminated = sum(bool(episode.terminated[-1]) for episode in episodes)
    truncated = sum(bool(episode.truncated[-1]) for episode in episodes)
    missing = sum(not episode.has_final_observation for episode in episodes)
    known, good = success["known_episodes"], success["successful_episodes"]
    table = _table(f"{store.path}")
    table.show_header = False
    for name, value in (
        ("episodes", f"{len(store)}"),
        ("steps", f"{steps}{duration}"),
        ("length", f"{lengths['minimum']:.0f} to {lengths['maximum']:.0f}, mean {lengths['mean']:.1f} steps"),
        ("return", f"{returns['minimum']:.4g} to {returns['maximum']:.4g}, mean {returns['mean']:.4g}"),
        ("success", f"{good} of {known} episodes ({good / known:.0%})" if known else "not recorded"),
        ("ends", f"{terminated} terminated, {truncated} truncated, {missing} without a final observation"),
        ("control period", period),
        ("action semantics", "not declared" if spec.action_semantics is None else spec.action_semantics),
        ("extras", ", ".join(sorted(episodes[0].extras)) if episodes[0].extras else "none"),
    ):
        table.add_row(Text(name, "dim"), Text(value))
    _print_table(console, table)


def _print_channels(console: Console, store: EpisodeStore, episodes: list[Episode]) -> None:
    arrays = store.statistics["arrays"]
    actions = np.concatenate([episode.action for episode in episodes])
    _print_array(console, "action", store.spec.action, arrays["action"], saturation(actions, store.spec.action))
    for key, spec in store.spec.observation.items():
        _print_array(console, f"observation '{key}'", spec, arrays[f"observation/{key}"], None)


def _print_array(console: Console, name: str, spec: ArraySpec, numbers: dict[str, Any], saturated: Any) -> None:
    unit = "unit not declared" if spec.unit is None else f"unit {spec.unit}"
    frame = "" if spec.frame is None else f", frame {spec.frame}"
    table = _table(f"{name}  {tuple(spec.shape)} {spec.dtype}, {unit}{frame}")
    columns = {key: np.ravel(numbers[key]) for key in ("minimum", "maximum", "mean", "std")}
    bounded = spec.low is not None and spec.high is not None
    headings = [
        "channel",
        *columns,
        *(["bounds"] if bounded else []),
        *(["at a bound"] if saturated is not None else []),
    ]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "channel" else "right", header_style="dim")
    total = len(columns["mean"])
    for channel in range(min(total, CHANNELS_SHOWN)):
        label = str(channel) if spec.names is None else f"{channel} {spec.names[channel % len(spec.names)]}"
        cells = [label, *(f"{values[channel]:.4g}" for values in columns.values())]
        style = "yellow" if columns["std"][channel] == 0 else ""
        if spec.low is not None and spec.high is not None:
            low, high = float(np.ravel(spec.low)[channel]), float(np.ravel(spec.high)[channel])
            cells.append(f"[{low:g}, {high:g}]")
            outside = columns["minimum"][channel] < low or columns["maximum"][channel] > high
            style = "red" if outside else style
        if saturated is not None:
            cells.append(f"{saturated[channel]:.1%}")
        table.add_row(*(Text(cell) for cell in cells), style=style)
    _print_table(console, table)
    if total > CHANNELS_SHOWN:
        console.print(Text(f"  and {total - CHANNELS_SHOWN} more channels", "dim"))


def _print_provenance(console: Console, provenance: dict[str, Any]) -> None:
    table = _table("Provenance")
    table.show_header = False
    for key, value in provenance.items():
        text = value if isinstance(value, str) else json.dumps(value)
        table.add_row(Text(key, "dim"), Text(text if len(text) <= 400 else f"{text[:400]} ...", overflow="fold"))
    _print_table(console, table)


def _table(title: str) -> Table:
    return Table(title=title, box=None, padding=(0, 2, 0, 0))


def _print_table(console: Console, table: Table) -> None:
    """The title on a line of its own: rich would wrap it to the width of the columns."""
    console.print(Text(f"\n{table.title}", "bold"), soft_wrap=True)
    table.title = None
    console.print(table)
