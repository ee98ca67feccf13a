"""Line charts as inline SVG: crisp, without a library, coloured by the page's style sheet.

A chart is a row of panels that share the vertical axis. Points carry `data-tip`, which the page's script shows.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

MAXIMUM_POINTS = 240  # of a line; longer series are averaged in bins and get a band of their extremes
LEFT, RIGHT, TOP, BOTTOM, GAP = 56.0, 14.0, 26.0, 42.0, 26.0


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line, with an optional band. Values that are not finite interrupt it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    color: int = 1  # 1 to 6, of the style sheet
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    markers: bool = False
    thinned: bool = False
    """The band holds the extremes that averaging took away; the vertical axis need not reach them."""
    tips: Sequence[str] | None = None
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Callout:
    """A marked point with a label."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot area."""

    x_label: str
    series: Sequence[Series]
    title: str = ""
    x_range: tuple[float, float] | None = None
    marks: Sequence[tuple[float, str]] = ()  # vertical lines
    level: tuple[float, str] | None = None  # a horizontal line
    shades: Sequence[tuple[float, float, str]] = ()  # x from, x to, label
    callouts: Sequence[Callout] = ()
    share: float = 1.0  # of the width


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Maps data to pixels."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float] = field(default_factory=tuple)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high], about `count` of them."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= count + 0.5)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A number for a person: three to four digits, `k` and `M` for thousands and millions."""
    if not math.isfinite(value):
        return "not finite" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    size = abs(value)
    if size >= 1e9 or 0 < size < 1e-3:
        text = f"{value:.2e}"
    elif size >= 1e6:
        text = f"{value / 1e6:.3g}M"
    elif size >= 1e4:
        text = f"{value / 1e3:.4g}k"
    elif value == round(value):
        text = f"{value:.0f}"
    else:
        text = f"{value:.3g}" if size < 100 else f"{value:.1f}"
    return text.replace("-", "−")


def thin(series: Series) -> Series:
    """Average a long series in bins of equal count; the band becomes the extremes of each bin."""
    if len(series.x) <= MAXIMUM_POINTS:
        return series
    edges = [round(index * len(series.x) / MAXIMUM_POINTS) for index in range(MAXIMUM_POINTS + 1)]
    x, y, low, high = [], [], [], []
    for start, end in itertools.pairwise(edges):
        values = [value for value in series.y[start:end] if math.isfinite(value)]
        x.append(sum(series.x[start:end]) / (end - start))
        y.append(sum(values) / len(values) if values else math.nan)
        low.append(min(values, default=math.nan))
        high.append(max(values, default=math.nan))
    return Series(
        label=series.label, x=x, y=y, color=series.color, low=low, high=high, dashed=series.dashed, thinned=True
    )


def chart(
    panels: Sequence[Panel],
    *,
    y_label: str,
    description: str,
    y_range: tuple[float, float] | None = None,
    percent: bool = False,
    width: float = 1000.0,
    height: float = 300.0,
) -> str:
    """The panels side by side over one vertical axis, as an SVG element with its legend below."""
    panels = [_thinned(panel) for panel in panels]
    y_low, y_high = y_range if y_range is not None else _y_range(panels)
    y_ticks = ticks(y_low, y_high, 5)
    y_axis = Axis(low=y_low, high=y_high, start=height - BOTTOM, end=TOP, ticks=y_ticks)
    room = width - LEFT - RIGHT - GAP * (len(panels) - 1)
    shares = sum(panel.share for panel in panels)
    left, parts = LEFT, []
    for index, panel in enumerate(panels):
        right = left + room * panel.share / shares
        parts.append(_panel(panel, left, right, y_axis, height, percent=percent, labels=index == 0))
        left = right + GAP
    middle = (TOP + height - BOTTOM) / 2
    parts.append(
        f'<text class="axis" x="13" y="{middle:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 13 {middle:.0f})">{escape(y_label)}</text>'
    )
    body = "".join(parts)
    head = f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(description)}">'
    return f"<figure>{head}{body}</svg>{_legend(panels)}</figure>"


def _thinned(panel: Panel) -> Panel:
    return Panel(**{**panel.__dict__, "series": [thin(series) for series in panel.series]})


def _finite(values: Sequence[float] | None) -> list[float]:
    return [value for value in values or () if math.isfinite(value)]


def _y_range(panels: Sequence[Panel]) -> tuple[float, float]:
    values: list[float] = []
    for panel in panels:
        for one in panel.series:
            parts = (one.y,) if one.thinned else (one.y, one.low, one.high)
            values += [value for part in parts for value in _finite(part)]
        if panel.level is not None:
            values += _finite([panel.level[0]])
    if not values:
        return 0.0, 1.0
    return _padded(min(values), max(values), 0.06)


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    span = high - low
    margin = span * share if span > 1e-12 * max(abs(low), abs(high), 1e-30) else max(abs(low) * 0.1, 1e-6)
    return low - margin, high + margin


def _panel(panel: Panel, left: float, right: float, y_axis: Axis, height: float, *, percent: bool, labels: bool) -> str:
    xs = [value for one in panel.series for value in _finite(one.x)]
    low, high = panel.x_range if panel.x_range is not None else (min(xs, default=0.0), max(xs, default=1.0))
    if high <= low:
        high = low + 1.0
    inset = 8.0 if any(one.markers for one in panel.series) else 0.0
    x_axis = Axis(low=low, high=high, start=left + inset, end=right - inset)
    bottom, top = y_axis.start, y_axis.end
    parts = [
        f'<rect class="plot" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"/>'
    ]
    for start, end, label in panel.shades:
        x_start, x_end = max(x_axis(start), left), min(x_axis(end), right)
        parts.append(f'<rect class="shade" x="{x_start:.1f}" y="{top:.1f}" width="{max(x_end - x_start, 0):.1f}" ')
        parts.append(f'height="{bottom - top:.1f}"><title>{escape(label)}</title></rect>')
        if x_end - x_start > 7 * len(label):  # pixels: else the label would not fit
            parts.append(f'<text class="note" x="{x_start + 4:.1f}" y="{bottom - 6:.1f}">{escape(label)}</text>')
    for value in y_axis.ticks:
        y = y_axis(value)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if labels:
            text = f"{100 * value:.0f} %" if percent else number(value)
            parts.append(f'<text class="tick" x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for value in ticks(low, high, max(2, int((right - left) / 80))):
        x = x_axis(value)
        parts.append(f'<line class="tickmark" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom:.1f}" y2="{bottom + 4:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{number(value)}</text>'
        )
    middle = (left + right) / 2
    parts.append(
        f'<text class="axis" x="{middle:.1f}" y="{height - 6:.1f}" text-anchor="middle">{escape(panel.x_label)}</text>'
    )
    if panel.title:
        parts.append(f'<text class="panel-title" x="{left:.1f}" y="{top - 9:.1f}">{escape(panel.title)}</text>')
    if panel.level is not None and math.isfinite(panel.level[0]):
        y = y_axis(panel.level[0])
        parts.append(f'<line class="level" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="note" x="{right - 4:.1f}" y="{y - 5:.1f}" text-anchor="end">{escape(panel.level[1])}</text>'
        )
    for value, label in panel.marks:
        x = x_axis(value)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        anchor, offset = ("start", 5) if x < middle else ("end", -5)
        parts.append(
            f'<text class="note" x="{x + offset:.1f}" y="{top + 13:.1f}" text-anchor="{anchor}">{escape(label)}</text>'
        )
    parts += [_band(one, x_axis, y_axis) for one in panel.series]
    parts += [_line(one, x_axis, y_axis) for one in panel.series]
    parts += [_callout(one, x_axis, y_axis, middle) for one in panel.callouts]
    return "".join(parts)


def _segments(points: Sequence[tuple[float, ...]]) -> list[list[tuple[float, ...]]]:
    segments: list[list[tuple[float, ...]]] = [[]]
    for point in points:
        if all(math.isfinite(value) for value in point):
            segments[-1].append(point)
        elif segments[-1]:
            segments.append([])
    return [segment for segment in segments if segment]


def _band(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    if series.low is None or series.high is None:
        return ""
    parts = []
    for segment in _segments(list(zip(series.x, series.low, series.high, strict=True))):
        if len(segment) == 1:
            x, low, high = segment[0]
            ends = f'y1="{_inside(y_axis, low):.1f}" y2="{_inside(y_axis, high):.1f}"'
            parts.append(f'<line class="whisker s{series.color}" x1="{x_axis(x):.1f}" x2="{x_axis(x):.1f}" {ends}/>')
            continue
        upper = [f"{x_axis(x):.1f},{_inside(y_axis, high):.1f}" for x, _, high in segment]
        lower = [f"{x_axis(x):.1f},{_inside(y_axis, low):.1f}" for x, low, _ in reversed(segment)]
        parts.append(f'<polygon class="band f{series.color}" points="{" ".join(upper + lower)}"/>')
    return "".join(parts)


def _inside(axis: Axis, value: float) -> float:
    return axis(min(max(value, axis.low), axis.high))


def _line(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    parts = []
    dash = " dashed" if series.dashed else ""
    for segment in _segments(list(zip(series.x, series.y, strict=True))):
        points = " ".join(f"{x_axis(x):.1f},{_inside(y_axis, y):.1f}" for x, y in segment)
        if len(segment) > 1:
            parts.append(f'<polyline class="line s{series.color}{dash}" points="{points}"/>')
        elif not series.markers:
            x, y = segment[0]
            parts.append(
                f'<circle class="dot f{series.color}" cx="{x_axis(x):.1f}" cy="{_inside(y_axis, y):.1f}" r="2"/>'
            )
    tips = series.tips
    if tips is None:
        tips = [f"{series.label}: {number(y)} at {number(x)}" for x, y in zip(series.x, series.y, strict=True)]
    for x, y, tip in zip(series.x, series.y, tips, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            center = f'cx="{x_axis(x):.1f}" cy="{_inside(y_axis, y):.1f}"'
            if series.markers:
                parts.append(f'<circle class="dot f{series.color}" {center} r="3.2"/>')
            parts.append(f'<circle class="hit" {center} r="9" data-tip="{escape(tip)}"/>')
    return "".join(parts)


def _callout(callout: Callout, x_axis: Axis, y_axis: Axis, middle: float) -> str:
    x, y = x_axis(callout.x), _inside(y_axis, callout.y)
    anchor, offset = ("start", 9) if x < middle else ("end", -9)
    below = y + 17 < y_axis.start - 4
    return (
        f'<circle class="callout" cx="{x:.1f}" cy="{y:.1f}" r="6"/><text class="callout-text" x="{x + offset:.1f}" '
        f'y="{y + 17 if below else y - 9:.1f}" text-anchor="{anchor}">{escape(callout.label)}</text>'
    )


def _legend(panels: Sequence[Panel]) -> str:
    entries = dict.fromkeys((one.label, one.color, one.dashed) for panel in panels for one in panel.series)
    if not entries:
        return ""
    items = "".join(
        f'<span><i class="b{color}{" dashed" if dashed else ""}"></i>{escape(label)}</span>'
        for label, color, dashed in entries
    )
    return f'<figcaption class="legend">{items}</figcaption>'
