"""`robot-rl doctor`: what this machine has, and for everything missing the line that installs it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from robot_rl.apps import probes

if TYPE_CHECKING:  # `examine` must run where torch, and with it the configuration, cannot be imported
    from robot_rl.config import DoctorConfig

SUMMARY = (
    "Look at this machine: versions, devices, renderers, decoders, ROS 2, and the line that installs what is missing."
)

SECTIONS: dict[str, Callable[[], list[probes.Finding]]] = {
    "Machine": probes.machine,
    "Packages": probes.packages,
    "Imports": probes.imports,
    "torch": probes.torch,
    "Rendering": probes.renderers,
    "Video": probes.codecs,
    "ROS 2": probes.ros,
}


def run(config: "DoctorConfig") -> int:
    """Print the tables; 1 if `strict` and something needed is missing."""
    return examine(strict=config.strict)


def examine(*, strict: bool) -> int:
    """What `run` does, without the configuration."""
    console = Console()
    findings: list[probes.Finding] = []
    for title, probe in SECTIONS.items():
        with console.status(f"{title} ..."):
            rows = probe()
        _print_table(console, title, rows)
        findings += rows
    missing = [row for row in findings if not row.good and row.needed]
    optional = [row for row in findings if not row.good and not row.needed]
    _print_remedies(console, "Missing, and needed", "red", missing)
    _print_remedies(console, "Not there, and needed only for what it names", "yellow", optional)
    if not missing:
        console.print(Text("Everything that is needed is here.", "bold green"))
    return 1 if strict and missing else 0


def _print_table(console: Console, title: str, rows: list[probes.Finding]) -> None:
    table = Table(
        title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    for row in rows:
        mark = Text("ok", "green") if row.good else (Text("no", "bold red") if row.needed else Text("--", "yellow"))
        table.add_row(mark, Text(row.name, "cyan", no_wrap=True), Text(row.found, overflow="fold"))
    console.print(table)
    console.print()


def _print_remedies(console: Console, title: str, style: str, rows: list[probes.Finding]) -> None:
    if rows:
        console.print(Text(title, f"bold {style}"))
    for row in rows:
        console.print(Text.assemble(f"  {row.name}: ", (row.remedy, "bold")), soft_wrap=True)
    if rows:
        console.print()
