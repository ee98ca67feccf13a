"""Histograms and channels over time, as small inline SVG, coloured by the page's style sheet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from robot_rl.apps.report_chart import Axis, number, ticks
from robot_rl.types import Array

BINS = 36
COLORS = 6  # of the style sheet: 1 to 6
LINE_POINTS = 180  # of a curve; a longer one keeps the extremes of each bin
WIDTH, HEIGHT = 380.0, 134.0  # of a channel
LEFT, RIGHT, TOP, BOTTOM = 46.0, 6.0, 8.0, 20.0
SIDE = 66.0  # width of the histogram beside the curves
BOUND_REACH = 3.0  # bounds are drawn where they are within so many times the range of the data


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A channel of one episode over time; the colour is a number of the style sheet."""

    x: Array
    y: Array
    color: int


@dataclass(frozen=True, kw_only=True)
class Group:
    """A part of a histogram's values, stacked on the others."""

    label: str
    values: Array
    color: int


def bin_edges(values: Array, *, whole: bool = False) -> Array:
    """Edges of equal bins over all values, fewer for few; of whole numbers, they do not cut a number in two."""
    bins = int(min(BINS, max(8, 2 * math.sqrt(len(values)))))
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if whole:
        step = max(1, math.ceil((high - low + 1) / bins))
        return np.arange(low - 0.5, high + step + 0.5, step)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-30):
        margin = max(abs(low) * 0.1, 1e-6)
        low, high = low - margin, high + margin
    return np.linspace(low, high, bins + 1)


def histogram(
    groups: Sequence[Group],
    *,
    x_label: str,
    y_label: str,
    description: str,
    edges: Array,
    mark: tuple[float, str] | None = None,
) -> str:
    """Stacked bars with axes, and a legend where there are several groups."""
    width, height, left, right, top, bottom = 400.0, 214.0, 50.0, 10.0, 20.0, 40.0
    counts = [np.histogram(group.values, edges)[0] for group in groups]
    highest = int(np.sum(counts, axis=0).max()) if counts else 0
    x_axis = Axis(low=float(edges[0]), high=float(edges[-1]), start=left, end=width - right)
    y_axis = Axis(low=0.0, high=max(1.0, highest * 1.05), start=height - bottom, end=top)
    parts = [_plot(left, top, width - right, height - bottom)]
    for value in ticks(0.0, y_axis.high, 4):
        if value == round(value):
            y = y_axis(value)
            parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    base = np.zeros(len(edges) - 1, np.int64)
    for group, count in zip(groups, counts, strict=True):
        parts.append(_bars(edges, base, base + count, x_axis, y_axis, group))
        base = base + count
    for value in ticks(x_axis.low, x_axis.high, 6):
        x = x_axis(value)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{number(value)}')
        parts.append("</text>")
    if mark is not None and math.isfinite(mark[0]):
        x = x_axis(mark[0])
        anchor, offset = ("start", 5) if x < width / 2 else ("end", -5)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}"/>')
        parts.append(f'<text class="note" x="{x + offset:.1f}" y="{top - 6}" text-anchor="{anchor}">')
        parts.append(f"{escape(mark[1])}</text>")
    middle = f'x="{(left + width) / 2:.0f}" y="{height - 5}"'
    parts.append(
        f'<text class="axis" {middle} text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="axis" x="12" y="{height / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 12 {height / 2:.0f})">{escape(y_label)}</text>'
    )
    head = f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(description)}">'
    legend = "".join(f'<span><i class="b{group.color}"></i>{escape(group.label)}</span>' for group in groups)
    legend = f'<figcaption class="legend">{legend}</figcaption>' if len(groups) > 1 else ""
    return f'<figure class="histogram">{head}{"".join(parts)}</svg>{legend}</figure>'


def channel(
    curves: Sequence[Curve],
    values: Array,
    *,
    low: float,
    high: float,
    bounds: Sequence[float],
    description: str,
) -> str:
    """One channel: curves of a few episodes, and beside them the histogram of all values, over the same vertical axis.

    Args:
        curves: of the episodes.
        values: a sample of the channel. Shapes: (M,).
        low: smallest value of the whole store.
        high: largest value of the whole store.
        bounds: declared limits; those far from the data are not drawn.
        description: for who cannot see it.
    """
    span = high - low
    near = [bound for bound in bounds if low - BOUND_REACH * span <= bound <= high + BOUND_REACH * span and span > 0]
    y_low, y_high = min([low, *near]), max([high, *near])
    constant_margin = abs(y_low) * 0.1 if y_low != 0 else 1.0
    margin = (y_high - y_low) * 0.06 if y_high > y_low else constant_margin
    y_axis = Axis(low=y_low - margin, high=y_high + margin, start=HEIGHT - BOTTOM, end=TOP)
    side = WIDTH - RIGHT - SIDE
    start = min((float(curve.x[0]) for curve in curves), default=0.0)
    end = max((float(curve.x[-1]) for curve in curves), default=1.0)
    x_axis = Axis(low=start, high=end if end > start else start + 1.0, start=LEFT, end=side - 8)
    parts = [_plot(LEFT, TOP, side - 8, HEIGHT - BOTTOM), _plot(side, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)]
    for value in ticks(y_axis.low, y_axis.high, 4):
        y = y_axis(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{side - 8}M{side} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in ticks(x_axis.low, x_axis.high, 4):
        place = f'x="{x_axis(value):.1f}" y="{HEIGHT - 6}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{number(value)}</text>')
    for bound in near:
        y = y_axis(bound)
        parts.append(f'<path class="level" d="M{LEFT} {y:.1f}H{side - 8}M{side} {y:.1f}H{WIDTH - RIGHT}"/>')
    for curve in curves:
        pairs = zip(*thinned(curve.x, curve.y), strict=True)
        points = " ".join(f"{x_axis(a):.1f},{y_axis(b):.1f}" for a, b in pairs)
        parts.append(f'<polyline class="line thin s{curve.color}" points="{points}"/>')
    parts.append(_side_bars(values, y_axis, side, WIDTH - RIGHT))
    head = f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{escape(description)}">'
    return f"{head}{''.join(parts)}</svg>"


def thinned(x: Array, y: Array) -> tuple[Array, Array]:
    """A curve with fewer points that keeps the smallest and the largest value of every bin. Shapes: each (N,)."""
    if len(y) <= LINE_POINTS:
        return x, y
    keep = [0, len(y) - 1]
    for part in np.array_split(np.arange(len(y)), LINE_POINTS // 2):
        keep += [int(part[np.argmin(y[part])]), int(part[np.argmax(y[part])])]
    chosen = np.unique(keep)
    return x[chosen], y[chosen]


def _plot(left: float, top: float, right: float, bottom: float) -> str:
    return f'<rect class="plot" x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/>'


def _bars(edges: Array, base: Array, top: Array, x_axis: Axis, y_axis: Axis, group: Group) -> str:
    parts = []
    for index in np.flatnonzero(top > base):
        left, right = x_axis(float(edges[index])), x_axis(float(edges[index + 1]))
        high, low = y_axis(float(top[index])), y_axis(float(base[index]))
        tip = f"{group.label}: {top[index] - base[index]} from {number(edges[index])} to {number(edges[index + 1])}"
        gap = min(1.0, (right - left) * 0.1)
        parts.append(
            f'<rect class="f{group.color}" x="{left + gap / 2:.1f}" y="{high:.1f}" '
            f'width="{max(right - left - gap, 0.8):.1f}" height="{max(low - high, 0.8):.1f}" '
            f'data-tip="{escape(tip)}"/>'
        )
    return "".join(parts)


def _side_bars(values: Array, y_axis: Axis, left: float, right: float) -> str:
    """A histogram that lies on its side, as one path."""
    if len(values) == 0:
        return ""
    edges = np.linspace(y_axis.low, y_axis.high, BINS + 1)
    counts = np.histogram(values, edges)[0]
    scale = (right - left - 2) / max(1, counts.max())
    path = ""
    for index in np.flatnonzero(counts):
        top, bottom = y_axis(float(edges[index + 1])), y_axis(float(edges[index]))
        path += f"M{left:.1f} {top:.1f}h{max(counts[index] * scale, 0.8):.1f}v{bottom - top:.1f}H{left:.1f}z"
    return f'<path class="side" d="{path}"/>'
