"""How long things took, in arrays that are there before they are needed, and what is said of them afterwards."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from robot_rl.types import Array

QUANTILES = {"p50": 50.0, "p99": 99.0, "p99_9": 99.9}
BINS = 60


class Timings:
    """Columns of nanoseconds, a row a step."""

    def __init__(self, names: tuple[str, ...], rows: int) -> None:
        """Room for `rows`; more are made room for by doubling, which takes its time."""
        self.names = names
        self._values = np.zeros((max(rows, 1), len(names)), np.int64)
        self._values += 0  # touches the pages, so that the loop does not
        self.rows = 0

    def add(self, *values: int) -> None:
        """One row, in the order of the names; -1: not known."""
        if self.rows == len(self._values):
            self._values = np.concatenate([self._values, np.zeros_like(self._values)])
        self._values[self.rows] = values
        self.rows += 1

    def columns(self) -> dict[str, Array]:
        """The known values by name, each (N,)."""
        rows = self._values[: self.rows]
        return {name: rows[rows[:, column] >= 0, column] for column, name in enumerate(self.names)}


def summarize_times(values_ns: Array) -> dict[str, Any] | None:
    """Count, mean, quantiles, maximum in ms, and a histogram over logarithmic bins; None of nothing. Shapes: (N,)."""
    if len(values_ns) == 0:
        return None
    values = np.asarray(values_ns, np.float64) / 1e6
    low, high = max(values.min(), 1e-3), max(values.max(), 2e-3)
    edges = np.geomspace(low, high * 1.0001, BINS + 1)
    counts = np.histogram(np.maximum(values, low), edges)[0]
    return {
        "count": len(values),
        "mean_ms": float(values.mean()),
        **{f"{name}_ms": float(np.percentile(values, q)) for name, q in QUANTILES.items()},
        "max_ms": float(values.max()),
        "histogram": {"edges_ms": edges.tolist(), "counts": counts.tolist()},
    }


def summarize_all(columns: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
    """`summarize_times` of each column that has values."""
    found = {name: summarize_times(values) for name, values in columns.items()}
    return {name: summary for name, summary in found.items() if summary is not None}
