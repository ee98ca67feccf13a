"""The sections of a report that say why: critic diagnostics, throughput, films, data and configuration."""

import base64
import math
from collections.abc import Sequence
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from robot_rl.apps.command import command_line
from robot_rl.apps.report_chart import Panel, Series, chart, number
from robot_rl.apps.report_page import folded, paragraph, section, table
from robot_rl.apps.report_read import Run
from robot_rl.apps.report_sections import as_number, duration, percent, plain, score_text

VIDEO_BYTES = 15_000_000  # of all films of a report together, as base64
SCALE_RATIO = 10.0  # metrics further apart than this get charts of their own
VALUES = ("q", "target", "v")  # of a metric's name behind the slash: what the critic believes
RATES = ("updates_per_s", "steps_per_s")


def diagnostics(run: Run) -> str:
    """What the critic believes against what was obtained, how wrong it is, and how the policy explores."""
    names = sorted({name for event in run.events if event.event == "train" for name in event.metrics} - set(RATES))
    groups: list[tuple[str, list[str]]] = [
        ("Temporal-difference error", [name for name in names if _is_error(name)]),
        ("Conservative term", [name for name in names if "conservative" in name or "lagrange" in name]),
        ("Entropy", [name for name in names if "entropy" in name]),
        ("Temperature", [name for name in names if "temperature" in name and "entropy" not in name]),
    ]
    used = {name for _, group in groups for name in group}
    values = [name for name in names if name not in used and name.split("/")[-1] in VALUES]
    parts = [_values(run, values)]
    small = [_metrics_chart(run, part, title) for title, group in groups for part in _by_scale(run, group)]
    if small:
        parts.append(f'<div class="pair">{"".join(small)}</div>')
    rest = [name for name in names if name not in used and name not in values]
    if rest:
        charts = "".join(_metrics_chart(run, [name], name) for name in rest)
        parts.append(folded(f"{len(rest)} more training metrics", f'<div class="pair">{charts}</div>'))
    broken = sorted(
        {name for event in run.events for name, value in event.metrics.items() if not math.isfinite(value)}
        - {"value_mean"}
    )
    if broken:
        text = f"Not finite at least once, drawn as gaps: {', '.join(broken)}."
        parts.append(f'<p class="warning">{escape(text)}</p>')
    return section("Critic and policy", *parts)


def _is_error(name: str) -> bool:
    return "td" in name.split("/")[-1] or name == "value/loss"


def _values(run: Run, names: Sequence[str]) -> str:
    series = []
    for color, name in zip(cycle((1, 4, 6)), names, strict=False):
        x, y = run.training_series(name)
        series.append(Series(label=f"{name} (batches)", x=x, y=y, color=color))
    x = [one.updates for one in run.evaluations]
    expected = [one.metric("value_mean") for one in run.evaluations]
    if any(math.isfinite(value) for value in expected):
        series.append(Series(label="value expected at the first step", x=x, y=expected, color=2, markers=True))
    obtained, label, remark = _obtained(run)
    if any(math.isfinite(value) for value in obtained):
        series.append(Series(label=label, x=x, y=obtained, color=3, markers=True, dashed=True))
    if not any(len(one.x) for one in series):
        return ""
    note = (
        "An expected value that climbs away from what is obtained is overestimation; a jump at the switch means that "
        "offline values were on another scale than online ones (which Cal-QL is there to prevent)."
    )
    drawn = chart(
        [Panel(x_label="gradient updates", series=series, marks=_switch(run), x_range=_all_updates(run))],
        y_label="value",
        description="values of the critic against obtained returns",
        height=290,
    )
    return f"<h3>Value against return</h3>{drawn}{paragraph(f'{note} {remark}'.strip(), 'soft small')}"


def _obtained(run: Run) -> tuple[list[float], str, str]:
    """Return of each evaluation on the reward scale of training, its label, and a remark on how far it compares."""
    discounted = [one.metric("discounted_return_mean") for one in run.evaluations]
    if any(math.isfinite(value) for value in discounted):
        return discounted, "return obtained, discounted", ""
    replay = run.config.get("replay")
    settings = replay if isinstance(replay, dict) else {}
    if as_number(settings.get("reward_bias", 0.0)) != 0.0:
        remark = "The obtained return is not drawn: with a reward_bias it compares with a value only when discounted."
        return [], "", remark
    scale = as_number(settings.get("reward_scale", 1.0))
    remark = "The obtained return is not discounted here, so it lies further from zero than a perfect critic would."
    return [one.metric("return_mean") * scale for one in run.evaluations], "return obtained, undiscounted", remark


def _switch(run: Run) -> list[tuple[float, str]]:
    return [] if run.switch is None else [(float(run.switch.start.updates), "switch")]


def _all_updates(run: Run) -> tuple[float, float]:
    return 0.0, float(max((event.updates for event in run.events), default=0))


def _by_scale(run: Run, names: Sequence[str]) -> list[list[str]]:
    """Metrics of one order of magnitude together, so that none is a flat line beside another."""
    sizes = {
        name: max((abs(y) for y in run.training_series(name)[1] if math.isfinite(y)), default=0.0) for name in names
    }
    groups: list[list[str]] = []
    for name in sorted(names, key=lambda name: -sizes[name]):
        if groups and sizes[name] * SCALE_RATIO >= sizes[groups[-1][0]]:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _metrics_chart(run: Run, names: Sequence[str], title: str) -> str:
    series = []
    for index, name in enumerate(names):
        x, y = run.training_series(name)
        series.append(Series(label=name, x=x, y=y, color=index % 6 + 1))
    panel = Panel(title=title, x_label="gradient updates", series=series, marks=_switch(run), x_range=_all_updates(run))
    return chart([panel], y_label="", description=title, width=520, height=240)


def throughput(run: Run) -> str:
    """Wall time and rates of each phase, and the rates over time."""
    rows = []
    for phase in run.phases:
        seconds = phase.elapsed_s
        rows.append(
            [
                phase.name if phase.complete else f"{phase.name} (not complete)",
                duration(seconds),
                number(phase.updates),
                number(phase.environment_steps),
                number(phase.updates / seconds) if seconds > 0 else "–",
                number(phase.environment_steps / seconds) if seconds > 0 else "–",
            ]
        )
    if not rows:
        return ""
    header = ["phase", "time", "updates", "env steps", "updates/s", "env steps/s"]
    charts = []
    for color, (name, label) in enumerate(zip(RATES, ("updates/s", "environment steps/s"), strict=True), start=1):
        found = [event for event in run.events if event.event == "train" and name in event.metrics]
        if found:
            minutes = [event.elapsed_s / 60 for event in found]
            series = Series(label=label, x=minutes, y=[event.metrics[name] for event in found], color=color)
            panel = Panel(title=label, x_label="minutes", series=[series])
            top = max((value for value in series.y if math.isfinite(value)), default=1.0)
            charts.append(
                chart(
                    [panel], y_label="", description=label, width=520, height=210, y_range=(0.0, max(top, 1e-9) * 1.08)
                )
            )
    note = "Time is that of training with its checkpoints; evaluation, and what a crash undid, are not in it."
    return section(
        "Throughput",
        table(header, rows),
        paragraph(note, "soft small"),
        f'<div class="pair">{"".join(charts)}</div>' if charts else "",
    )


def films(run: Run) -> str:
    """Films of evaluation episodes inside the page: the last one of each phase first, then the newest."""
    chosen = _ordered_films(run)
    if not chosen:
        return ""
    parts, left_out, spent = [], [], 0
    for path, label in chosen:
        if not path.is_file():
            left_out.append(f"{path.name} (not in the run's folder)")
            continue
        size = 4 * math.ceil(path.stat().st_size / 3)
        if spent + size > VIDEO_BYTES:
            left_out.append(f"{path.name} ({size / 1e6:.1f} MB)")
            continue
        spent += size
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        parts.append(
            '<figure><video loop muted playsinline preload="auto" '
            f'src="data:video/mp4;base64,{data}"></video>'
            f'<input type="range" max="1000" value="0" aria-label="position in {escape(path.stem)}">'
            f'<figcaption class="small soft">{escape(label)}</figcaption></figure>'
        )
    note = "Below the picture: the critic's value, with its scale fitted to the episode. A click stops, the bar seeks."
    missing = f"Left out: {', '.join(left_out)}. They are in {run.path / 'videos'}." if left_out else ""
    return section(
        "Films of evaluation episodes",
        paragraph(note, "soft small"),
        f'<div class="films">{"".join(parts)}</div>' if parts else "",
        paragraph(missing, "small") if missing else "",
    )


def _ordered_films(run: Run) -> list[tuple[Path, str]]:
    root = run.path.resolve()
    filmed = [one for one in reversed(run.evaluations) if one.videos]
    last_of_phase = {one.phase_index: one for one in reversed(filmed)}  # the newest is written last and stays
    tellings = sorted(last_of_phase.values(), key=lambda one: -one.phase_index)
    ordered: dict[Path, str] = {}
    name = "success" if run.score == "success_rate" else "return"
    for one in [*tellings, *filmed]:
        label = f"{one.phase}, step {number(one.phase_step)}: {name} {score_text(one, run.score)}"
        for path in ((root / video).resolve() for video in one.videos):
            if path.is_relative_to(root):  # a changed record must not pull other files into the page
                ordered.setdefault(path, f"{label} · {path.stem}")
    folder = root / "videos"
    others = [path for path in folder.glob("*.mp4") if not path.name.startswith(".")] if folder.is_dir() else []
    for path in sorted(others, key=lambda path: (-path.stat().st_mtime_ns, path.name)):
        ordered.setdefault(path.resolve(), path.stem)
    return list(ordered.items())


def data(run: Run) -> str:
    """Where the data came from."""
    datasets = run.facts.get("datasets")
    if not isinstance(datasets, dict) or not datasets:
        return ""
    rows = []
    for name, facts in datasets.items():
        known = facts if isinstance(facts, dict) else {}
        rest = {
            key: value
            for key, value in known.items()
            if key not in ("path", "episodes", "steps", "return_mean", "success_rate")
        }
        rows.append(
            [
                str(name),
                str(known.get("path", "–")),
                *(plain(as_number(known.get(key))) for key in ("episodes", "steps", "return_mean")),
                percent(as_number(known.get("success_rate"))),
                _words(rest),
            ]
        )
    header = ["data set", "path", "episodes", "steps", "return", "success", "provenance"]
    return section("Data", table(header, rows, text_columns=(1, 6)))


def _words(facts: dict[str, Any]) -> str:
    parts = [_words(value) if isinstance(value, dict) else f"{key}: {value}" for key, value in facts.items()]
    return ", ".join(part for part in parts if part)


def reproduction(run: Run) -> str:
    """Command, versions, machine and the whole configuration."""
    parts = []
    if run.words is not None:
        parts.append(f'<pre class="line">{escape(command_line(run.words))}</pre>')
    rows = [[key, str(run.facts[key])] for key in ("seed", "config_hash") if key in run.facts]
    for group in ("versions", "machine"):
        facts = run.facts.get(group)
        if isinstance(facts, dict):
            rows += [[f"{group}: {key}", str(value)] for key, value in facts.items()]
    if rows:
        parts.append(folded("Versions and machine", table(["", ""], rows, text_columns=(1,))))
    if run.config:
        text = OmegaConf.to_yaml(OmegaConf.create(run.config))
        parts.append(folded("Configuration", f"<pre>{escape(text)}</pre>"))
    return section("To repeat this run", *parts)
