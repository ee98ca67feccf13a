"""Counters, gauges and histograms in the text form of Prometheus (exposition format 0.0.4)."""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass
class _Histogram:
    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0


@dataclass
class Measures:
    """Everything that one server counts. Names get the prefix `robot_rl_`; labels are written as `name="value"`."""

    _counters: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    _gauges: dict[str, float] = field(default_factory=dict)
    _histograms: dict[str, _Histogram] = field(default_factory=dict)

    def count(self, name: str, label: str = "", amount: float = 1.0) -> None:
        """Add to a counter, whose name ends in `_total`."""
        self._counters[name][label] += amount

    def value(self, name: str, label: str = "") -> float:
        """What a counter stands at."""
        return self._counters[name][label] if name in self._counters else 0.0

    def gauge(self, name: str, value: float) -> None:
        """Set what goes up and down."""
        self._gauges[name] = value

    def observe(self, name: str, value: float, bounds: tuple[float, ...] = SECONDS) -> None:
        """Put one value into a histogram."""
        histogram = self._histograms.setdefault(name, _Histogram(bounds, [0] * (len(bounds) + 1)))
        histogram.counts[bisect_left(histogram.bounds, value)] += 1
        histogram.total += value

    def text(self) -> str:
        """All of it."""
        lines: list[str] = []
        for name, labels in sorted(self._counters.items()):
            lines.append(f"# TYPE robot_rl_{name} counter")
            lines += [f"robot_rl_{name}{{{label}}} {value:g}" for label, value in sorted(labels.items())]
        for name, value in sorted(self._gauges.items()):
            lines += [f"# TYPE robot_rl_{name} gauge", f"robot_rl_{name} {value:g}"]
        for name, histogram in sorted(self._histograms.items()):
            lines.append(f"# TYPE robot_rl_{name} histogram")
            below = 0
            for bound, number in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
                below += number
                edge = "+Inf" if bound == float("inf") else f"{bound:g}"
                lines.append(f'robot_rl_{name}_bucket{{le="{edge}"}} {below}')
            lines += [f"robot_rl_{name}_sum {histogram.total:g}", f"robot_rl_{name}_count {below}"]
        return "\n".join(lines).replace("{}", "") + "\n"
