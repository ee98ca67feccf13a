"""The parts of a store's report on numbers: every channel, the time stamps, where the store is from and lies."""

import json
import math
from html import escape
from typing import Any

import numpy as np

from robot_rl.apps.inspect_chart import COLORS, Curve, Group, bin_edges, channel, histogram
from robot_rl.apps.inspect_survey import Survey, array_of, bytes_text, channel_names, shortened, times_s
from robot_rl.apps.report_chart import number
from robot_rl.apps.report_page import folded, paragraph, table
from robot_rl.spec import ArraySpec
from robot_rl.types import Array

Parts = dict[str, tuple[str, str]]
"""Anchor to title and HTML; a part without HTML is left out."""

CHANNELS_OPEN = 12  # of an array; further ones open on a click
CHANNELS_SHOWN = 96  # of an array
CHANNELS_OF_PAGE = 400
AT_BOUND_SHARE = 0.2  # of the sampled steps; above it a channel is marked
LONG_TEXT = 400  # characters of a provenance entry before it is folded
LONGEST_TEXT = 20_000  # characters of it that are shown
GAP = 1.5  # median periods from which a difference counts as a gap


def channel_section(survey: Survey) -> Parts:
    """Every channel of action and observations: a few episodes over time, and all values beside them."""
    room = CHANNELS_OF_PAGE
    entries = [("action", "Action", survey.spec.action)]
    entries += [
        (f"observation/{key}", f"Observation {key}", survey.spec.observation[key]) for key in survey.channel_keys
    ]
    parts: Parts = {}
    for index, (name, title, spec) in enumerate(entries):
        anchor = "action" if name == "action" else f"observation-{index}"
        if int(np.prod(spec.shape)) == 0:
            parts[anchor] = (
                title,
                paragraph("The source has no actions." if name == "action" else "It is empty.", "soft"),
            )
            continue
        html, drawn = _channels(survey, name, spec, min(CHANNELS_SHOWN, room))
        parts[anchor] = (title, html)
        room -= drawn
    return parts


def timing_section(survey: Survey) -> Parts:
    """How even the time stamps are, where the store has them."""
    keys = sorted(
        {key for episode in survey.sample.values() for key in episode.extras if key.startswith("timestamp_s")}
    )
    rows, charts = [], []
    for key in keys:
        name = key.removeprefix("timestamp_s").removeprefix("/")
        stamps = [np.asarray(e.extras[key], np.float64).ravel() for e in survey.sample.values() if key in e.extras]
        differences_ms = 1000 * np.concatenate([np.diff(one) for one in stamps])
        differences_ms = differences_ms[np.isfinite(differences_ms)]
        if len(differences_ms) == 0:
            continue
        first, median, last = np.percentile(differences_ms, [1, 50, 99])
        gaps = int((differences_ms > GAP * median).sum())
        numbers = [median, first, last, differences_ms.min(), differences_ms.max()]
        label = name if name else "the steps"
        rows.append([label, *(number(float(f"{value:.4g}")) for value in numbers), f"{gaps} of {len(differences_ms)}"])
        charts.append(
            f"<div><h3>{escape(label.capitalize())}</h3>"
            + histogram(
                [Group(label="differences", values=differences_ms, color=1)],
                x_label="milliseconds from one time stamp to the next",
                y_label="steps (sampled)",
                description=f"Histogram of the time between samples of {label}: median {median:.4g} ms",
                edges=bin_edges(differences_ms),
                mark=(float(median), f"median {median:.4g} ms"),
            )
            + "</div>"
        )
    if not rows:
        return {}
    header = ["time stamps of", "median ms", "1 %", "99 %", "smallest", "largest", f"longer than {GAP} medians"]
    period_s = survey.spec.control_period_s
    declared = "not declared" if period_s is None else f"{number(1000 * period_s)} ms"
    words = paragraph(f"Declared control period: {declared}.", "soft small")
    return {"timing": ("Timing", f'{words}<div class="histograms">{"".join(charts)}</div>{table(header, rows)}')}


def store_section(survey: Survey) -> Parts:
    """Provenance, semantics and the files on the disk."""
    spec, store = survey.spec, survey.store
    absent = ", ".join(sorted(survey.absent))
    facts: dict[str, Any] = {
        "path": survey.place,
        "control period": "not declared" if spec.control_period_s is None else f"{spec.control_period_s:g} s",
        "action semantics": "not declared" if spec.action_semantics is None else spec.action_semantics,
        "the source lacks": absent if absent else "nothing",
        **store.provenance,
        **{key: value for key, value in spec.metadata.items() if key != "absent"},
    }
    rows = [[e.name, e.kind, e.shape, f"{e.files}", bytes_text(e.bytes)] for e in survey.layout]
    files = table(["part", "type", "shape", "files", "bytes"], rows) if rows else ""
    return {
        "provenance": ("Provenance", _definitions(facts)),
        "layout": ("Store layout", _specs(survey) + folded(f"Files on the disk, {len(rows)} parts", files)),
    }


def _specs(survey: Survey) -> str:
    rows = []
    entries = [("action", survey.spec.action), *((f"observation/{k}", s) for k, s in survey.spec.observation.items())]
    for name, spec in entries:
        size = survey.bytes_of(name)
        names = "" if spec.names is None else ", ".join(spec.names)
        rows.append(
            [
                name,
                " × ".join(map(str, spec.shape)),
                spec.dtype,
                survey.tier(name.removeprefix("observation/")),
                "–" if spec.unit is None else spec.unit,
                "–" if spec.frame is None else spec.frame,
                bytes_text(size) if size else "–",
                shortened(names, LONG_TEXT),
            ]
        )
    header = ["key", "shape", "type", "tier", "unit", "frame", "bytes", "channels"]
    return table(header, rows, text_columns=[7])


def _definitions(facts: dict[str, Any]) -> str:
    parts = []
    for name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
        if len(text) > LONG_TEXT:
            shown = shortened(text, LONGEST_TEXT)
            body = f"<details><summary>{len(text)} characters</summary><pre>{escape(shown)}</pre></details>"
        else:
            body = escape(text)
        parts.append(f"<dt>{escape(name)}</dt><dd>{body}</dd>")
    return f"<dl>{''.join(parts)}</dl>"


def _channels(survey: Survey, name: str, spec: ArraySpec, limit: int) -> tuple[str, int]:
    numbers, rows, names = survey.channels(name), survey.rows(name), channel_names(spec)
    declared = [f"{len(names)} channels", f"unit {spec.unit}" if spec.unit is not None else "unit not declared"]
    declared += [f"frame {spec.frame}"] if spec.frame is not None else []
    curves = {episode: (_time(survey, name, episode), _values(survey, name, episode)) for episode in survey.examples}
    saturated = survey.saturation() if name == "action" else np.zeros(len(names))
    drawn = min(limit, len(names))
    cards = [
        _channel_card(spec, names[index], index, numbers, rows[:, index], curves, float(saturated[index]))
        for index in range(drawn)
    ]
    first = f'<div class="channels">{"".join(cards[:CHANNELS_OPEN])}</div>'
    rest = cards[CHANNELS_OPEN:]
    more = folded(f"{len(rest)} more channels", f'<div class="channels">{"".join(rest)}</div>') if rest else ""
    left = paragraph(f"{len(names) - drawn} channels are not drawn.", "soft") if drawn < len(names) else ""
    timed = all(times_s(survey.spec, survey.sample[episode]) is not None for episode in survey.examples)
    words = f"{', '.join(declared)}. Left: {'seconds' if timed else 'steps'}; right: all values, sampled."
    bounded = spec.low is not None or spec.high is not None
    return paragraph(words, "soft small") + _legend(survey, bounded=bounded) + first + more + left, drawn


def _legend(survey: Survey, *, bounded: bool) -> str:
    items = "".join(
        f'<span><i class="b{index % COLORS + 1}"></i>episode {episode}</span>'
        for index, episode in enumerate(survey.examples)
    )
    items += '<span><i class="dashed"></i>bounds</span>' if bounded else ""
    return f'<div class="legend">{items}</div>'


def _channel_card(
    spec: ArraySpec,
    name: str,
    index: int,
    numbers: dict[str, Array],
    values: Array,
    curves: dict[int, tuple[Array, Array]],
    saturated: float,
) -> str:
    low, high = float(numbers["minimum"][index]), float(numbers["maximum"][index])
    mean, deviation = float(numbers["mean"][index]), float(numbers["std"][index])
    bounds = [float(np.ravel(bound)[index]) for bound in (spec.low, spec.high) if bound is not None]
    tags = ""
    if deviation == 0:
        tags += '<span class="tag">never changes</span>'
    if len(bounds) == 2 and (low < bounds[0] or high > bounds[1]):
        tags += '<span class="tag bad">outside the bounds</span>'
    if saturated > AT_BOUND_SHARE:
        tags += f'<span class="tag">at a bound {saturated:.0%}</span>'
    unit = f' <span class="soft">{escape(spec.unit)}</span>' if spec.unit not in (None, "1") else ""
    label = name if name == str(index) else f"{index} {name}"
    scale = max(abs(low), abs(high))
    text = f"{_short(low, scale)} to {_short(high, scale)}, mean {_short(mean, scale)} ± {_short(deviation, scale)}"
    svg = channel(
        [Curve(x=x, y=rows[:, index], color=place % COLORS + 1) for place, (x, rows) in enumerate(curves.values())],
        values,
        low=low,
        high=high,
        bounds=[bound for bound in bounds if np.isfinite(bound)],
        description=f"Channel {label} over time and as a histogram: {text}",
    )
    return (
        f'<figure class="channel"><figcaption><b>{escape(label)}</b>{unit}{tags}</figcaption>{svg}'
        f'<div class="numbers">{text}</div></figure>'
    )


def _short(value: float, scale: float) -> str:
    """Three digits of a number of that size."""
    if scale == 0 or not math.isfinite(scale):
        return number(value)
    return number(round(value, 2 - math.floor(math.log10(scale))))


def _time(survey: Survey, name: str, episode: int) -> Array:
    key = name.removeprefix("observation/") if name != "action" else None
    time = times_s(survey.spec, survey.sample[episode], key)
    rows = len(array_of(survey.sample[episode], name))
    return np.arange(rows, dtype=np.float64) if time is None else time[:rows]


def _values(survey: Survey, name: str, episode: int) -> Array:
    rows = array_of(survey.sample[episode], name)
    return rows.reshape(len(rows), -1).astype(np.float64)
