"""The page of an identification: what was found, how sure it is, and where predictions leave the measured motion."""

import math
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from robot_rl.apps.inspect_chart import Group, bin_edges, histogram
from robot_rl.apps.report_chart import Panel, Series, chart, number
from robot_rl.apps.report_page import page, paragraph, section, table
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.sim.identify_result import RANDOMIZED, Estimate, Identification
from robot_rl.types import Array

TRACES = 4  # channels that are drawn: those that the simulator got most wrong
TRACE_STEPS = 150
HISTOGRAM_REACH = 99.0  # percentile of errors beyond which they are not drawn
STYLE = """
td.cell{text-align:center}.cells td,.cells th{text-align:center}.narrow{display:grid;gap:8px 22px;
grid-template-columns:repeat(auto-fit,minmax(min(430px,100%),1fr))}.narrow svg{min-width:0}
.good{color:var(--good)}.held{color:var(--s5)}
"""


def percent(value: float) -> str:
    """A share for a person, with two digits."""
    return "unknown" if math.isnan(value) else f"{100 * value:.2g} %" if value < 1 else f"{100 * value:.0f} %"


def write_page(folder: Path, found: Identification, *, name: str, notes: Sequence[str], words: str | None) -> Path:
    """Write `report.html` into the folder.

    Args:
        folder: of the page.
        found: what it shows.
        name: of the data.
        notes: what a reader has to know.
        words: the command to go on with; None where there is none.

    Raises:
        InputError: the disk is full.
    """
    before, after = found.errors
    verdict = {
        "better": ("good", "the simulator moves more like the robot"),
        "same": ("good", "the simulator already moved like the robot"),
        "worse": ("held", "no better on held-out motion"),
    }[found.outcome]
    head = f'<header><h1>{escape(name)}<span class="badge {verdict[0]}">{escape(verdict[1])}</span></h1></header>'
    body = [
        head,
        _tiles(found, before, after),
        section("Parameters", _parameters(found.estimates), *(paragraph(note, "soft small") for note in notes)),
        section("From command to motion", _delay(found)),
        section("Held-out motion, measured and simulated", _traces(found)),
        section("Errors on held-out motion", _errors(found)),
        section("Which parameters go together", _correlation(found)),
    ]
    if words is not None:
        text = "Trains on the identified robot, with randomisation around it; add an algorithm, phases, and a name:"
        body.append(section("Go on", paragraph(text), f'<pre class="line">{escape(words)} ...</pre>'))
    path, temporary = folder / "report.html", folder / f".report.{os.getpid()}.tmp.html"
    with clear_disk_errors(path):
        temporary.write_text(page(f"{name}: identification", "".join(body), style=STYLE), "utf-8")
        temporary.replace(path)
    return path


def _tiles(found: Identification, before: float, after: float) -> str:
    known = sum(each.verdict == "identified" for each in found.estimates)
    delay = next((each for each in found.estimates if each.name == "action_delay_s"), None)
    tiles = [
        (f"{percent(before)} → {percent(after)}", "error of held-out motion, in units of one control period's motion"),
        (f"{known} of {len(found.estimates)}", "parameters identified"),
        (f"{found.steps[0]} + {found.steps[1]}", f"steps fitted and held out, {found.horizon} at a time"),
        (percent(found.faulty), "steps with readings that no motion explains, set aside"),
    ]
    if delay is not None and delay.verdict == "identified":
        tiles.insert(1, (f"{1000 * delay.value:.1f} ms", "from command to motion"))
    cells = "".join(f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in tiles)
    return f'<div class="tiles">{cells}</div>'


def _parameters(estimates: Sequence[Estimate]) -> str:
    rows = []
    for each in estimates:
        known = each.verdict == "identified"
        rows.append(
            [
                each.name,
                f"{each.simulator:g}",
                f"{each.value:.4g}" if known else "–",
                "–" if math.isnan(each.deviation) else f"{2 * each.deviation:.2g}",
                f"{each.low:.4g} to {each.high:.4g}" if each.verdict in RANDOMIZED else "–",
                f"{each.verdict}: {each.reason}" if each.reason else each.verdict,
            ]
        )
    header = ["parameter", "simulator", "robot", "± 2 deviations", "randomise", "verdict"]
    said = (
        "Deviations are of noise and of errors that go together, not of what the simulator lacks altogether. What is "
        "held stays as the simulator has it, and is randomised over its usual range; what is known in "
        "relation to others only is not randomised, because that would change the relation."
    )
    return table(header, rows, text_columns=[5]) + paragraph(said, "soft small")


def _delay(found: Identification) -> str:
    response, (delays, errors) = found.response, found.profile
    measured = Series(
        label="change of velocities with the command of so long ago",
        x=(1000 * response.lag_s).tolist(),
        y=response.correlation.tolist(),
        markers=True,
    )
    simulated = Series(
        label="error of the identified simulator with this delay",
        x=(1000 * delays).tolist(),
        y=errors.tolist(),
        color=2,
        markers=True,
    )
    value = next((each.value for each in found.estimates if each.name == "action_delay_s"), None)
    marks = [(1000 * value, f"{1000 * value:.1f} ms")] if value is not None else []
    left = chart(
        [Panel(x_label="command so many ms before the period [ms]", series=[measured])],
        y_label="correlation",
        description="Cross-correlation of commands with changes of velocity, by lag",
        height=240.0,
        width=520.0,
    )
    right = chart(
        [Panel(x_label="delay in the simulator [ms]", series=[simulated], marks=marks)],
        y_label="error [deviations]",
        description="Error of predictions by the delay that the simulator has",
        height=240.0,
        width=520.0,
    )
    whole = "Commands take effect at whole physics steps in this simulator." if found.whole_delay else ""
    return f'<div class="narrow">{left}{right}</div>' + (paragraph(whole, "soft small") if whole else "")


def _worst(found: Identification) -> list[int]:
    errors = np.nan_to_num(found.comparison.error(found.comparison.before))
    return [int(channel) for channel in np.argsort(-errors, kind="stable")[:TRACES]]


def _traces(found: Identification) -> str:
    compared = found.comparison
    time = (np.arange(min(TRACE_STEPS, len(compared.measured))) * found.period_s).tolist()
    parts = []
    for channel in _worst(found):
        lines = [
            Series(label=label, x=time, y=rows[: len(time), channel].tolist(), color=color, dashed=dashed)
            for label, rows, color, dashed in (
                ("measured", compared.measured, 6, False),
                ("simulator before", compared.before, 2, True),
                ("simulator after", compared.after, 1, True),
            )
        ]
        parts.append(
            f"<h3>{escape(compared.names[channel])}</h3>"
            + chart(
                [Panel(x_label="time [s]", series=lines)],
                y_label="as observed",
                description=f"{compared.names[channel]}: measured, and simulated before and after",
                height=220.0,
            )
        )
    said = (
        f"The simulator starts anew from the measured state every {found.horizon} control periods; in between it goes "
        "where its own physics takes it. Drawn are the channels that it got most wrong before."
    )
    return paragraph(said, "soft small") + "".join(parts)


def _errors(found: Identification) -> str:
    compared = found.comparison
    before, after = compared.error(compared.before), compared.error(compared.after)
    order = np.argsort(-np.nan_to_num(before), kind="stable")
    rows = [[compared.names[c], percent(float(before[c])), percent(float(after[c]))] for c in order]
    pictures = []
    for label, rows_of, color in (("before", compared.before, 2), ("after", compared.after, 1)):
        errors = ((rows_of - compared.measured) / compared.motion)[compared.usable]
        reach = float(np.percentile(np.abs(errors), HISTOGRAM_REACH)) if len(errors) else 1.0
        shown: Array = errors[np.abs(errors) <= reach]
        pictures.append(
            f"<div><h3>All channels, {label}</h3>"
            + histogram(
                [Group(label=label, values=shown, color=color)],
                x_label="error, in units of one period's motion",
                y_label="readings",
                description=f"Histogram of the errors {label}, within {number(reach)}",
                edges=bin_edges(shown),
            )
            + "</div>"
        )
    header = ["channel", "before", "after"]
    return f'<div class="narrow">{"".join(pictures)}</div>' + table(header, rows)


def _correlation(found: Identification) -> str:
    if len(found.fitted) < 2:
        return paragraph("One parameter at most was identified.")
    rows = []
    for name, values in zip(found.fitted, found.correlation, strict=True):
        cells = "".join(
            f'<td style="background:color-mix(in srgb,var(--s{2 if v > 0 else 1}) {abs(v) * 60:.0f}%,transparent)">'
            f"{v:+.2f}</td>"
            for v in values
        )
        rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    head = "<tr><th></th>" + "".join(f"<th>{escape(name)}</th>" for name in found.fitted) + "</tr>"
    said = "Near 1 or −1, the motion says what both are together, not each alone."
    return (
        paragraph(said, "soft small") + f'<div class="scroll"><table class="cells">{head}{"".join(rows)}</table></div>'
    )
