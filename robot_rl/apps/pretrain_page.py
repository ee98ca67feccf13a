"""`report.html` of a pre-training on video: what the encoder came to see."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.apps.pretrain_measures import Curve, Measures, Saliency
from robot_rl.apps.report_chart import Panel, Series, chart
from robot_rl.apps.report_page import page, paragraph, section, table
from robot_rl.checkpoint import write_text
from robot_rl.datasets.frames import encode_jpeg, resize
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.types import Array

CURVES_SHOWN = 6  # of a source
SHOWN_PIXELS = 128
QUALITY = 85  # of JPEG
STYLE = """
.strip{display:flex;gap:3px;margin:6px 0 14px}
.strip img{width:calc(100%/6);max-width:120px;height:auto;border-radius:4px}
.salient{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(300px,100%),1fr));gap:14px 22px}
.salient figure{margin:0}.salient .strip img{width:calc(100%/4);max-width:150px}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(430px,100%),1fr));gap:8px 26px}
.curves svg{min-width:0}.curves figcaption{font-size:13px;color:var(--soft)}
"""
EXPLAINED = {
    "value": "The value of each frame for the last frame of the same video as goal.",
    "distance": "This objective learns no value: the curve is minus the distance of a frame's features to those of the "
    "last frame.",
}


def write_page(
    folder: Path, measures: Measures, facts: dict[str, Any], events: Sequence[dict[str, Any]], value_kind: str
) -> Path:
    """Write `report.html`, which needs no other file.

    Args:
        folder: of the run.
        measures: on what was held out.
        facts: `objective`, `updates`, `seconds`, `sources`, `command`, `encoder`.
        events: the lines of `metrics.jsonl`.
        value_kind: see `Objective`.

    Raises:
        InputError: the disk is full.
    """
    title = f"{facts['objective'].upper()} from video"
    head = f"<h1>{escape(title)}</h1>" + paragraph(
        f"{facts['updates']} updates in {facts['seconds']:.0f} s. The encoder is {facts['encoder']}: use it with "
        f"vision.weights={facts['encoder']}.",
        "soft",
    )
    body = (
        head
        + section("Order of values", _order(measures, facts), paragraph(ORDER_NOTE, "soft small"), anchor="order")
        + section("Value curves", paragraph(EXPLAINED[value_kind], "soft"), _curves(measures.curves), anchor="curves")
        + section("Probes", _probes(measures), anchor="probes")
        + section("Saliency", _saliencies(measures.saliencies), anchor="saliency")
        + section("Training", _training(events), anchor="training")
        + section("Run", _run(facts), anchor="run")
    )
    path = folder / "report.html"
    with clear_disk_errors(path):
        write_text(path, page(title, body, style=STYLE))
    return path


ORDER_NOTE = (
    "VOC is Spearman's correlation of the values along a held-out video with time, 1 where they always rise. Before: "
    "of the same networks before they learned; distances of random features order many videos already. A high VOC does "
    "not say that the encoder is good for control."
)


def _order(measures: Measures, facts: dict[str, Any]) -> str:
    rows = []
    numbers = measures.to_json("")["sources"]
    for name, source in facts["sources"].items():
        found = numbers.get(name, {})
        rows.append(
            [
                name,
                f"{source['videos']}",
                f"{source['frames']}",
                f"{found.get('videos', 0)}",
                _number(found.get("voc")),
                _number(found.get("voc_before")),
            ]
        )
    return table(["source", "videos", "frames", "held-out videos", "VOC", "VOC before"], rows, text_columns=[0])


def _number(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.2f}"


def _curves(curves: Sequence[Curve]) -> str:
    parts = []
    for name in dict.fromkeys(curve.source for curve in curves):
        own = [curve for curve in curves if curve.source == name]
        shown = own[:CURVES_SHOWN]
        parts.append(f"<h3>{escape(name)}</h3>")
        if len(own) > len(shown):
            parts.append(paragraph(f"{len(shown)} of {len(own)} videos", "soft small"))
        parts.append(f'<div class="curves">{"".join(_curve(curve) for curve in shown)}</div>')
    return "".join(parts)


def _curve(curve: Curve) -> str:
    line = Series(label="value", x=curve.times_s.tolist(), y=curve.values.tolist())
    picture = chart(
        [Panel(x_label="seconds", series=[line])],
        y_label="value",
        description=f"Value along {curve.title}, order {_number(curve.voc)}",
        width=520.0,
        height=200.0,
    )
    caption = f"{curve.title}: VOC {_number(curve.voc)}, before {_number(curve.voc_before)}"
    return f"<div><p>{escape(caption)}</p>{picture}{strip(curve.strip)}</div>"


def strip(frames: Iterable[Array]) -> str:
    """Frames side by side, as HTML. Shapes: (H, W, 3), uint8 each."""
    return f'<div class="strip">{"".join(image(frame) for frame in frames)}</div>'


def image(frame: Array) -> str:
    """A frame as HTML, small ones enlarged. Shapes: (H, W, 3), uint8."""
    scale = max(1, SHOWN_PIXELS // frame.shape[0])
    enlarged = np.repeat(np.repeat(frame, scale, 0), scale, 1) if scale > 1 else frame
    if max(enlarged.shape[:2]) > 2 * SHOWN_PIXELS:
        enlarged = resize(enlarged, (SHOWN_PIXELS, SHOWN_PIXELS))
    data = base64.b64encode(encode_jpeg(enlarged, QUALITY)).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="">'


def _probes(measures: Measures) -> str:
    rows = [
        [probe.source, probe.key, f"{probe.channels}", _number(probe.score), _number(probe.before)]
        for probe in measures.probes
    ]
    if not rows:
        return paragraph("The sources recorded no numbers beside their images, so there is nothing to read.", "soft")
    note = "R² of a linear map from the features, fitted on videos of the training, on those held out; 1 is all."
    return table(["source", "what", "channels", "R²", "R² before"], rows, text_columns=[0, 1]) + paragraph(
        note, "soft small"
    )


def _saliencies(saliencies: Sequence[Saliency]) -> str:
    if not saliencies:
        return ""
    figures = []
    for each in saliencies:
        lit = [_lit(frame, weight) for frame, weight in zip(each.frames, each.weight, strict=True)]
        caption = f"{each.source}: {each.title}"
        figures.append(f"<figure><figcaption>{escape(caption)}</figcaption>{strip(lit)}</figure>")
    note = "Bright: pixels that move the value most, averaged over noisy copies of the frame."
    return f'<div class="salient">{"".join(figures)}</div>' + paragraph(note, "soft small")


def _lit(frame: Array, weight: Array) -> Array:
    """The frame darkened, and lit where the weight is. Shapes: (H, W, 3) uint8, (H, W) -> (H, W, 3) uint8."""
    grey = frame.mean(-1, keepdims=True) * 0.35
    heat = np.stack([np.full(weight.shape, 255.0), 190 * weight, 40 * np.ones(weight.shape)], -1)
    mixed = grey * (1 - weight[..., None]) + heat * weight[..., None]
    return np.asarray(np.clip(mixed, 0, 255), np.uint8)


def _training(events: Sequence[dict[str, Any]]) -> str:
    lines = [event for event in events if event["event"] == "train"]
    if not lines:
        return ""
    names = [name for name in lines[-1]["metrics"] if name != "updates_per_s"]
    return metric_curves([(line["updates"], line["metrics"]) for line in lines], names, "updates")


def metric_curves(lines: Sequence[tuple[int, Mapping[str, float]]], names: Iterable[str], unit: str) -> str:
    """A chart for each of the names, as HTML.

    Args:
        lines: how far the training was, and its metrics there.
        names: of metrics; a line need not have all.
        unit: in which the first number of a line counts.
    """
    charts = []
    for name in names:
        x = [float(done) for done, metrics in lines if name in metrics]
        y = [float(metrics[name]) for _, metrics in lines if name in metrics]
        panel = Panel(x_label=unit, series=[Series(label=name, x=x, y=y)])
        charts.append(chart([panel], y_label=name, description=f"{name} over {unit}", width=520.0, height=200.0))
    return f'<div class="curves">{"".join(f"<div>{each}</div>" for each in charts)}</div>'


def _run(facts: dict[str, Any]) -> str:
    rows = [[name, json.dumps(source)] for name, source in facts["sources"].items()]
    parts = table(["source", "facts"], rows, text_columns=[0, 1])
    return paragraph(f"$ {facts['command']}", "mono") + parts if facts["command"] else parts


def read_events(path: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
