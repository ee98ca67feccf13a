"""`robot-rl inspect STORE`: what a store holds, printed and plotted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from robot_rl.apps.ingest import print_findings
from robot_rl.apps.inspect_plots import draw
from robot_rl.apps.inspect_report import write_report
from robot_rl.apps.inspect_survey import Survey, bytes_text, channel_names, is_large, survey
from robot_rl.data_config import InspectConfig
from robot_rl.datasets.remote import url_of
from robot_rl.datasets.schema import Finding
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.validate import validate
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec
from robot_rl.types import Array

SUMMARY = "Print, plot or report what a store holds; check it, and repair it."

CHANNELS_SHOWN = 64  # of one array; the pictures show all
LONGEST_TEXT = 400  # characters of an entry of the provenance


def run(config: InspectConfig) -> int:
    """Print tables and write pictures; 1 where the store is damaged, or where a check found something wrong."""
    console = Console()
    path = Path(config.store).expanduser()
    url = url_of(config.store)
    if config.fix:
        _fix(console, path)
    store = EpisodeStore.open(path)
    with console.status("Reading and checking ..."):
        findings = validate(store, str(path) if url is None else url)
    if config.check or config.fix:
        print_findings(console, findings)
        return int(any(finding.severity in ("error", "warning") for finding in findings))
    damaged = any(finding.severity == "error" for finding in findings)
    read = _survey(console, store, str(path) if url is None else url, damaged)
    if read is not None:
        _print_overview(console, read)
        _print_channels(console, read)
        _print_images(console, read)
    print_findings(console, findings)
    _print_provenance(console, store.provenance)
    if read is not None:
        _write(console, config, read, findings)
    return int(damaged)


def _fix(console: Console, path: Path) -> None:
    from robot_rl.datasets.repair import repair

    with console.status("Repairing ..."):
        done = repair(path)
    if not done:
        console.print(Text("Nothing could be repaired, or had to be.", "green"))
    for line in done:
        console.print(Text.assemble(("Repaired ", "green"), str(line)), soft_wrap=True)


def _survey(console: Console, store: EpisodeStore, place: str, damaged: bool) -> Survey | None:
    """The store, read; None where a finding already says that it cannot be."""
    try:
        with console.status("Reading ..."):
            return survey(store, place)
    except InputError:
        if not damaged:
            raise
        return None


def _write(console: Console, config: InspectConfig, read: Survey, findings: Sequence[Finding]) -> None:
    beside = Path() if url_of(read.place) is not None else read.store.path.parent
    folder = beside / f"{read.name.removesuffix('.zarr')}_inspect"
    if config.plots not in (None, "none"):
        folder = Path(str(config.plots)).expanduser()
    if config.plots != "none":
        with console.status("Drawing ..."):
            pictures = draw(folder, read)
        console.print(Text("Pictures: ", "dim") + Text(", ".join(map(str, pictures))), soft_wrap=True)
    if config.report == "html":
        with console.status("Writing the report ..."):
            page = write_report(folder, read, findings)
        console.print(Text("Report:   ", "dim") + Text(f"{page} ({bytes_text(page.stat().st_size)})"), soft_wrap=True)


def _print_overview(console: Console, read: Survey) -> None:
    episodes, spec, success = read.table, read.spec, read.statistics["success"]
    steps = int(episodes.lengths.sum())
    period = "not declared" if spec.control_period_s is None else f"{spec.control_period_s:g} s"
    duration = "" if spec.control_period_s is None else f", {steps * spec.control_period_s / 60:.1f} min"
    known, good = success["known_episodes"], success["successful_episodes"]
    extras = sorted(next(iter(read.sample.values())).extras)
    ends = f"{episodes.terminated.sum()} terminated, {episodes.truncated.sum()} truncated"
    rows = [
        ("episodes", f"{len(episodes)}"),
        ("steps", f"{steps}{duration}"),
        ("length", f"{episodes.lengths.min()} to {episodes.lengths.max()}, mean {episodes.lengths.mean():.1f} steps"),
        ("return", "reward is not recorded" if "reward" in read.absent else _range(episodes.returns)),
        ("success", f"{good} of {known} episodes ({good / known:.0%})" if known else "not recorded"),
        ("ends", f"{ends}, {(~episodes.complete).sum()} without a final observation"),
        ("control period", period),
        ("action semantics", "not declared" if spec.action_semantics is None else spec.action_semantics),
        ("extras", ", ".join(extras) if extras else "none"),
        (read.bytes_place, bytes_text(read.bytes)),
    ]
    if read.absent:
        rows.append(("the source lacks", ", ".join(sorted(read.absent))))
    for key in ("language", "split"):
        texts = {text for text in episodes.texts(key) if text is not None}
        if texts:
            shown = "; ".join(sorted(texts)[:3])
            rows.append((key, f"{len(texts)}: {shown}{' ...' if len(texts) > 3 else ''}"))
    table = _table(read.place)
    table.show_header = False
    for name, value in rows:
        table.add_row(Text(name, "dim"), Text(value))
    _print_table(console, table)


def _range(values: Array) -> str:
    return f"{values.min():.4g} to {values.max():.4g}, mean {values.mean():.4g}"


def _print_channels(console: Console, read: Survey) -> None:
    _print_array(console, "action", read.spec.action, read.channels("action"), read.saturation())
    for key in read.channel_keys:
        spec = read.spec.observation[key]
        _print_array(console, f"observation '{key}'", spec, read.channels(f"observation/{key}"), None)


def _print_array(
    console: Console, name: str, spec: ArraySpec, columns: dict[str, Array], saturated: Array | None
) -> None:
    unit = "unit not declared" if spec.unit is None else f"unit {spec.unit}"
    frame = "" if spec.frame is None else f", frame {spec.frame}"
    table = _table(f"{name}  {tuple(spec.shape)} {spec.dtype}, {unit}{frame}")
    bounded = spec.low is not None and spec.high is not None
    headings = [
        "channel",
        *columns,
        *(["bounds"] if bounded else []),
        *(["at a bound"] if saturated is not None else []),
    ]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "channel" else "right", header_style="dim")
    total, names = len(columns["mean"]), channel_names(spec)
    for channel in range(min(total, CHANNELS_SHOWN)):
        label = str(channel) if names[channel] == str(channel) else f"{channel} {names[channel]}"
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


def _print_images(console: Console, read: Survey) -> None:
    """Size, tier and bytes of images and other large arrays; their pixels are for the report."""
    keys = [key for key, spec in read.spec.observation.items() if is_large(spec)]
    if not keys:
        return
    table = _table("Images and large arrays")
    for heading in ("observation", "shape", "type", "tier", "bytes"):
        table.add_column(heading, justify="left" if heading == "observation" else "right", header_style="dim")
    for key in keys:
        spec = read.spec.observation[key]
        size = read.bytes_of(f"observation/{key}")
        cells = [key, " x ".join(map(str, spec.shape)), spec.dtype, read.tier(key), bytes_text(size)]
        table.add_row(*(Text(cell) for cell in cells))
    _print_table(console, table)


def _print_provenance(console: Console, provenance: dict[str, Any]) -> None:
    table = _table("Provenance")
    table.show_header = False
    for key, value in provenance.items():
        text = value if isinstance(value, str) else json.dumps(value)
        shown = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ..."
        table.add_row(Text(key, "dim"), Text(shown, overflow="fold"))
    _print_table(console, table)


def _table(title: str) -> Table:
    return Table(title=title, box=None, padding=(0, 2, 0, 0))


def _print_table(console: Console, table: Table) -> None:
    """The title on a line of its own: rich would wrap it to the width of the columns."""
    console.print(Text(f"\n{table.title}", "bold"), soft_wrap=True)
    table.title = None
    console.print(table)
