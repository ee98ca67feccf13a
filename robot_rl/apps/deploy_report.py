"""What a deployment leaves behind: `deployment.json`, `timing.json` and a picture of it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from robot_rl import checkpoint
from robot_rl.datasets.store_files import clear_disk_errors

TITLES = {
    "period": "Period of the loop",
    "inference": "Inference",
    "decision": "Observation to action, in the loop",
    "observation_age": "Age of the oldest part of the observation",
    "sensor_to_action": "Joint states sent to action sent",
    "action_to_command": "Action sent to command sent (governor)",
    "sensor_to_command": "Joint states sent to command sent",
    "command_period": "Period of the commands",
    "action_period": "Period of the actions",
    "joint_states_period": "Period of the joint states",
}
COLUMNS = 2
WIDE = 10.0  # largest over smallest value, from which on the axis is logarithmic


def write_report(folder: Path, facts: Mapping[str, Any], timing: Mapping[str, Mapping[str, Any]]) -> None:
    """Write all three.

    Args:
        folder: of the deployment.
        facts: JSON of `deployment.json`.
        timing: `summarize_times` of each quantity, by its name in TITLES.
    """
    with clear_disk_errors(folder):
        checkpoint.write_text(folder / "deployment.json", json.dumps(facts, indent=1))
        checkpoint.write_text(folder / "timing.json", json.dumps(timing, indent=1))
        if timing:
            draw(folder / "timing.png", timing)


def draw(path: Path, timing: Mapping[str, Mapping[str, Any]]) -> None:
    """A histogram of each quantity, with its median, 99th percentile and maximum."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    rows = math.ceil(len(timing) / COLUMNS)
    figure = Figure(figsize=(6.0 * COLUMNS, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, summary) in enumerate(timing.items()):
        axes = figure.add_subplot(rows, COLUMNS, number + 1)
        edges, counts = summary["histogram"]["edges_ms"], summary["histogram"]["counts"]
        axes.stairs(counts, edges, fill=True, color="#0b6bcb", alpha=0.75)
        axes.set_xscale("log" if edges[-1] > WIDE * edges[0] else "linear")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.set_ylim(bottom=0.7)
        for key, colour in (("p50_ms", "#2b8a3e"), ("p99_ms", "#d9480f"), ("max_ms", "#c92a2a")):
            axes.axvline(summary[key], color=colour, linewidth=1.2, label=f"{key[:-3]} {summary[key]:.3g} ms")
        axes.set_title(TITLES.get(name, name), fontsize=10)
        axes.set_xlabel("ms", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.legend(fontsize=8, title=f"{summary['count']} values", title_fontsize=8)
    with matplotlib.rc_context({"savefig.dpi": 110}):
        figure.savefig(path)
