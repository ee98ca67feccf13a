"""`report.html` of labels: what the judge is worth, and what it says along episodes."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.apps.label_frames import StoreFrames
from robot_rl.apps.label_kinds import Fitted
from robot_rl.apps.pretrain_page import STYLE, metric_curves, strip
from robot_rl.apps.report_chart import Panel, Series, chart
from robot_rl.apps.report_page import page, paragraph, section, table
from robot_rl.checkpoint import write_text
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.functional.reliability import Bins, rates_by_threshold
from robot_rl.types import Array

STRIP = 6
WIDTH, HEIGHT = 520.0, 230.0
HISTOGRAM = 25
MEANINGS = {
    "area_under_curve": "probability that a frame of success scores higher than another",
    "calibration_error": "expected calibration error of the probabilities (15 bins), on test episodes",
    "calibration_error_before": "the same before temperature or isotonic regression",
    "brier": "mean squared error of the probability",
    "false_positive_rate_frames": "share of the frames without success above the threshold",
    "true_positive_rate_frames": "share of the frames of success above it",
    "false_positive_episodes": "test episodes that would be called successes too early, or wrongly",
    "false_positive_episodes_upper": "upper bound of their rate, with a confidence of 95 %",
    "found_episodes": "test episodes whose success was seen",
    "delay_steps": "from the first step of success to the first above the threshold, mean",
    "value_order_correlation": "how far scores rise with time along episodes that do not fail (Spearman, mean)",
    "last_frame_area_under_curve": "probability that a success ends with a higher score than a failure",
    "accuracy_held_out": "pairs of held-out episodes that the reward orders as the model did",
    "accuracy_learned": "the same of the pairs that were learned from",
    "agrees_with_success": "labels that prefer the end of a success to that of a failure",
    "stage_agreement": "test frames whose likeliest stage is the one of the video's own cut",
}


def write_page(
    folder: Path,
    title: str,
    fitted: Fitted,
    frames: StoreFrames,
    scores: Sequence[Array],
    shown: Sequence[int],
    facts: dict[str, Any],
    learning: Sequence[tuple[int, dict[str, float]]],
) -> Path:
    """Write `report.html`, which needs no other file.

    Args:
        folder: where.
        title: of the page.
        fitted: the judge with its measures.
        frames: of the store.
        scores: of every episode.
        shown: episodes that are drawn.
        facts: JSON that stands at the end.
        learning: steps and metrics of the fit, where there was one.

    Raises:
        InputError: the disk is full.
    """
    body = (
        f"<h1>{escape(title)}</h1>"
        + section("Measures", _measures(facts["measures"]), anchor="measures")
        + section("Probabilities", *_reliability(fitted.plots), anchor="reliability")
        + section("Mistakes", *_mistakes(fitted.plots, frames), anchor="mistakes")
        + section("Pairs", *_pairs(fitted.plots, frames), anchor="pairs")
        + section("Along episodes", *_curves(fitted, frames, scores, shown), anchor="curves")
        + section("Fit", _learning(learning), anchor="fit")
        + section("Facts", f"<pre>{escape(json.dumps(facts, indent=1))}</pre>", anchor="facts")
    )
    path = folder / "report.html"
    with clear_disk_errors(path):
        write_text(path, page(title, body, style=STYLE))
    return path


def _measures(measures: dict[str, Any]) -> str:
    rows = []
    for name, value in measures.items():
        if isinstance(value, dict) and name in ("parts", "first_frames"):
            continue
        rows.append([name.replace("_", " "), _text(value), MEANINGS.get(name, "")])
    return table(["what", "number", "meaning"], rows, text_columns=[0, 2])


def _text(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool() | int() | str():
            return str(value)
        case float():
            return f"{value:.4g}"
        case dict():
            return ", ".join(f"{name.replace('_', ' ')} {_text(each)}" for name, each in value.items())
    return str(value)


def _reliability(plots: dict[str, Any]) -> list[str]:
    if "bins" not in plots:
        return []
    bins, before = plots["bins"], plots["bins_before"]
    ideal = Series(label="as it should be", x=[0.0, 1.0], y=[0.0, 1.0], color=5, dashed=True)
    lines = [ideal, _bins(before, "before", 2), _bins(bins, "calibrated", 1)]
    diagram = chart(
        [Panel(x_label="probability said", series=lines, x_range=(0.0, 1.0))],
        y_label="share of success",
        description="Reliability diagram",
        y_range=(0.0, 1.0),
        width=WIDTH,
        height=HEIGHT,
    )
    false, true = rates_by_threshold(plots["probability"], plots["truth"])
    curve = Series(label="test frames", x=false.tolist(), y=true.tolist())
    roc = chart(
        [Panel(x_label="false-positive rate", series=[curve], x_range=(0.0, 1.0))],
        y_label="true-positive rate",
        description="Rates by threshold",
        y_range=(0.0, 1.0),
        width=WIDTH,
        height=HEIGHT,
    )
    parts = []
    for label, color, hits in (("no success", 2, ~plots["truth"]), ("success", 1, plots["truth"])):
        values = plots["probability"][hits]
        if len(values):
            count, edges = np.histogram(values, bins=HISTOGRAM, range=(0.0, 1.0))
            middle = ((edges[1:] + edges[:-1]) / 2).tolist()
            parts.append(Series(label=label, x=middle, y=(count / len(values)).tolist(), color=color))
    threshold = float(plots["threshold"])
    marks = [(threshold, "threshold")] if 0 <= threshold <= 1 else []
    spread = chart(
        [Panel(x_label="probability", series=parts, x_range=(0.0, 1.0), marks=marks)],
        y_label="share of frames",
        description="Probabilities of test frames",
        width=WIDTH,
        height=HEIGHT,
    )
    note = "All of it on episodes that neither learning nor calibration saw."
    return [f'<div class="curves">{diagram}{roc}{spread}</div>', paragraph(note, "soft small")]


def _bins(bins: Bins, label: str, color: int) -> Series:
    tips = [f"{int(count)} frames: said {said:.2f}, true {true:.2f}" for count, said, true in _rows(bins)]
    return Series(label=label, x=bins.said.tolist(), y=bins.true.tolist(), color=color, markers=True, tips=tips)


def _rows(bins: Bins) -> list[tuple[float, float, float]]:
    return list(zip(bins.count.tolist(), bins.said.tolist(), bins.true.tolist(), strict=True))


def _mistakes(plots: dict[str, Any], frames: StoreFrames) -> list[str]:
    parts = []
    for name, title in (("worst", "No success, and taken for it most"), ("missed", "Success, and seen least")):
        found = plots.get(name)
        if found:
            rows = np.asarray([frames.rows(episode)[frame] for episode, frame, _ in found])
            said = ", ".join(f"episode {episode} frame {frame}: {p:.2f}" for episode, frame, p in found)
            parts += [f"<h3>{escape(title)}</h3>", strip(frames.pixels(rows, None)), paragraph(said, "soft small")]
    return parts


def _pairs(plots: dict[str, Any], frames: StoreFrames) -> list[str]:
    parts = []
    for first, second, target in plots.get("pairs", ()):
        better = "the same" if target == 0.5 else "the second" if target > 0.5 else "the first"
        parts.append(paragraph(f"Better: {better}", "small"))
        parts.append(strip(frames.pixels(np.asarray([first, second]), None)))
    return parts


def _curves(fitted: Fitted, frames: StoreFrames, scores: Sequence[Array], shown: Sequence[int]) -> list[str]:
    parts = []
    period_s = frames.store.spec.control_period_s
    begins = fitted.plots.get("begins", {})
    for episode in shown:
        score = scores[episode]
        x = (np.arange(len(score)) * (1.0 if period_s is None else period_s)).tolist()
        marks = [(x[first], f"stage {number + 1}") for number, first in enumerate(begins.get(episode, [])) if number]
        limit = fitted.threshold
        level = None if limit is None or not np.isfinite(limit) else (limit, "threshold")
        line = Series(label="score", x=x, y=score.tolist())
        picture = chart(
            [Panel(x_label="steps" if period_s is None else "seconds", series=[line], marks=marks, level=level)],
            y_label="score",
            description=f"Score along episode {episode}",
            width=WIDTH,
            height=200.0,
        )
        rows = frames.rows(episode)[np.linspace(0, len(score) - 1, STRIP).round().astype(int)]
        parts.append(f"<div><p>Episode {episode}</p>{picture}{strip(frames.pixels(rows, None))}</div>")
    return [f'<div class="curves">{"".join(parts)}</div>'] if parts else []


def _learning(learning: Sequence[tuple[int, dict[str, float]]]) -> str:
    return metric_curves(learning, learning[-1][1], "steps") if learning else ""
