"""Statistics as LeRobot writes them, of each episode and of all of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from robot_rl.datasets.export_lerobot_videos import Histogram
from robot_rl.types import Array

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)
SAMPLED_ROWS = 100_000  # for the quantiles over all episodes
MOST_CHANNELS = 4096  # of a feature that has statistics

Statistics = dict[str, Array]


def of_rows(rows: Array) -> Statistics:
    """Of numbers. Shapes: (N, *) -> each (*), count (1,)."""
    flat = rows.reshape(len(rows), -1).astype(np.float64)
    found = {"min": flat.min(axis=0), "max": flat.max(axis=0), "mean": flat.mean(axis=0), "std": flat.std(axis=0)}
    found |= dict(zip(QUANTILES, np.quantile(flat, list(QUANTILES.values()), axis=0), strict=True))
    shape = rows.shape[1:] or (1,)
    return {name: values.reshape(shape) for name, values in found.items()} | {"count": np.asarray([len(rows)])}


def of_images(counts: Array, frames: int) -> Statistics:
    """Of pixels between 0 and 1. Shapes: (3, 256) -> each (3, 1, 1), count (1,)."""
    values = np.arange(256) / 255
    total = counts.sum(axis=1, keepdims=True).clip(min=1)
    share = counts / total
    mean = (share * values).sum(axis=1)
    std = np.sqrt((share * np.square(values - mean[:, None])).sum(axis=1))
    cumulative = share.cumsum(axis=1)
    found = {
        "min": values[(counts > 0).argmax(axis=1)],
        "max": values[255 - (counts[:, ::-1] > 0).argmax(axis=1)],
        "mean": mean,
        "std": std,
    }
    found |= {name: values[(cumulative >= q - 1e-12).argmax(axis=1)] for name, q in QUANTILES.items()}
    return {name: array.reshape(3, 1, 1) for name, array in found.items()} | {"count": np.asarray([frames])}


class Total:
    """Statistics over all episodes; the quantiles of numbers from evenly spaced rows where there are very many."""

    def __init__(self, frames: int) -> None:
        self._stride = -(-max(1, frames) // SAMPLED_ROWS)
        self._sampled: dict[str, list[Array]] = {}
        self._sums: dict[str, list[Statistics]] = {}
        self._images: dict[str, Histogram] = {}
        self._seen: dict[str, int] = {}

    def add_rows(self, name: str, rows: Array, statistics: Statistics) -> None:
        """An episode of a feature of numbers."""
        seen = self._seen.get(name, 0)
        self._sampled.setdefault(name, []).append(rows[(-seen) % self._stride :: self._stride])
        self._seen[name] = seen + len(rows)
        self._sums.setdefault(name, []).append(statistics)

    def add_images(self, name: str, histogram: Histogram) -> None:
        """An episode of a camera."""
        total = self._images.setdefault(name, Histogram())
        total.counts += histogram.counts
        total.frames += histogram.frames

    def to_json(self) -> dict[str, dict[str, Any]]:
        """`meta/stats.json`."""
        found = {name: self._of(name, parts) for name, parts in self._sums.items()}
        found |= {name: of_images(total.counts, total.frames) for name, total in self._images.items()}
        return {name: _plain(statistics) for name, statistics in found.items()}

    def _of(self, name: str, parts: list[Statistics]) -> Statistics:
        total = of_rows(np.concatenate(self._sampled[name]))  # for the quantiles; the rest is exact
        counts = np.asarray([int(part["count"][0]) for part in parts], np.float64)
        weights = (counts / counts.sum()).reshape(-1, *([1] * parts[0]["mean"].ndim))
        means, deviations = np.stack([p["mean"] for p in parts]), np.stack([p["std"] for p in parts])
        mean = (weights * means).sum(axis=0)
        total["mean"] = mean
        total["std"] = np.sqrt((weights * (np.square(deviations) + np.square(means - mean))).sum(axis=0))
        total["min"] = np.min([part["min"] for part in parts], axis=0)
        total["max"] = np.max([part["max"] for part in parts], axis=0)
        total["count"] = np.asarray([int(counts.sum())])
        return total


def _plain(statistics: Mapping[str, Array]) -> dict[str, Any]:
    return {name: statistics[name].tolist() for name in NAMES}
