"""Streams with times of their own onto one regular grid: pure functions on arrays.

Times are float64 seconds or int64 nanoseconds, sorted; N samples of a stream, K points of the grid.
"""

from collections.abc import Sequence

import numpy as np

from robot_rl.types import Array

AGREEMENT = 1e-9
"""Seconds by which a sample may be later than the grid point it belongs to: rounding, not the future."""

ROUNDING = 0.01
"""Share of a period by which the last point may lie behind the end: streams are not that regular."""


def usual_period(times: Array) -> float | None:
    """The median distance of neighbours, None where there are fewer than two times. Shapes: (N,)."""
    differences = np.diff(times)
    differences = differences[differences > 0]
    return float(np.median(differences)) if len(differences) else None


def grid(start: float, end: float, period: float) -> Array:
    """Points from `start` every `period`, none behind `end` by more than rounding. Shapes: (K,)."""
    count = int(np.floor((end - start) / period + ROUNDING)) + 1 if end >= start else 0
    return start + period * np.arange(count)


def latest(times: Array, points: Array) -> Array:
    """Index of the last sample at or before each point; the first sample where there is none. Shapes: (N,), (K,)."""
    return np.maximum(np.searchsorted(times, points + AGREEMENT, side="right") - 1, 0)


def nearest(times: Array, points: Array, ahead: float = np.inf) -> Array:
    """Index of the sample nearest to each point; of two as near, the earlier.

    Args:
        times: (N,).
        points: (K,).
        ahead: a sample that is later than its point by more is not taken, but the last one before.

    Returns:
        Shapes: (K,).
    """
    before = latest(times, points)
    after = np.minimum(before + 1, len(times) - 1)
    lead = times[after] - points
    return np.where((np.abs(lead) < np.abs(points - times[before])) & (lead <= ahead), after, before)


def interpolate(values: Array, times: Array, points: Array) -> Array:
    """Values between samples, on a straight line; outside of them the first or last value.

    Shapes: (N, C), (N,), (K,) -> (K, C), in the data type of `values`.
    """
    before, after, share = _between(times, points)
    with np.errstate(over="ignore", invalid="ignore"):  # damaged numbers become NaN or infinite, which a store refuses
        low, high = values[before].astype(np.float64), values[after].astype(np.float64)
        return np.asarray(low + share[:, None] * (high - low)).astype(values.dtype)


def slerp(quaternions: Array, times: Array, points: Array) -> Array:
    """Rotations between samples at constant angular velocity, along the shorter way, without jumps of the sign.

    Shoemake, "Animating rotation with quaternion curves" (SIGGRAPH 1985): sin((1-u)a)/sin(a) q0 + sin(u a)/sin(a) q1.

    Args:
        quaternions: (N, 4), w x y z; need not be of unit length.
        times: (N,).
        points: (K,).

    Returns:
        Shapes: (K, 4), unit length, in the hemisphere of the first sample and continuous from there. A quaternion of
        length zero is no rotation: it stays zero, so that a check finds it.
    """
    if len(points) == 0:
        return np.zeros((0, 4), quaternions.dtype)
    unit = continuous(quaternions.astype(np.float64))
    before, after, share = _between(times, points)
    low, high = unit[before], unit[after]
    angle = np.arccos(np.clip((low * high).sum(axis=1), -1.0, 1.0))
    sine = np.sin(angle)
    near = sine < 1e-6  # the line is then the arc, to rounding
    safe = np.where(near, 1.0, sine)
    first = np.where(near, 1.0 - share, np.sin((1.0 - share) * angle) / safe)
    second = np.where(near, share, np.sin(share * angle) / safe)
    out = first[:, None] * low + second[:, None] * high
    return _normalized(out).astype(quaternions.dtype)


def continuous(quaternions: Array) -> Array:
    """Unit quaternions of which each lies in the hemisphere of the one before: q and -q are the same rotation.

    Shapes: (N, 4) -> (N, 4).
    """
    unit = _normalized(quaternions)
    turns = (unit[1:] * unit[:-1]).sum(axis=1) < 0
    signs = np.concatenate([[1.0], np.where(np.cumsum(turns) % 2 == 1, -1.0, 1.0)])[: len(unit)]
    return np.asarray(unit * signs[:, None])


def gaps(times: Array, maximum: float) -> Array:
    """Silences longer than `maximum`: times of the samples before and after. Shapes: (N,) -> (G, 2)."""
    where = np.flatnonzero(np.diff(times) > maximum)
    return np.stack([times[where], times[where + 1]], axis=1)


def windows(start: float, end: float, silences: Sequence[Array]) -> list[tuple[float, float]]:
    """What is left of [start, end] without the inside of any silence. Shapes: each (G, 2)."""
    rows = [silence for silence in silences if len(silence)]
    merged = np.concatenate(rows) if rows else np.zeros((0, 2), type(start))
    left, out = start, []
    for low, high in merged[np.argsort(merged[:, 0], kind="stable")].tolist():
        if low > end:
            break
        if low >= left:
            out.append((left, low))
        left = max(left, high)
    if left <= end:
        out.append((left, end))
    return out


def _between(times: Array, points: Array) -> tuple[Array, Array, Array]:
    """The samples around each point, and how far it is from the first to the second, 0 to 1."""
    before = latest(times, points)
    after = np.minimum(before + 1, len(times) - 1)
    distance = (times[after] - times[before]).astype(np.float64)
    share = np.where(distance > 0, (points - times[before]) / np.where(distance > 0, distance, 1.0), 0.0)
    return before, after, np.clip(share, 0.0, 1.0)


def _normalized(quaternions: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.linalg.norm(quaternions, axis=1, keepdims=True)
        return np.asarray(quaternions / np.where(length > 0, length, 1.0))
