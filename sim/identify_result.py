"""What system identification found: parameters, how sure they are, and how well held-out motion is predicted."""

import math
from dataclasses import dataclass

import numpy as np

from robot_rl.sim.delay import CommandResponse
from robot_rl.sim.gap import Gap
from robot_rl.types import Array

TRIM = 0.95
"""Share of the errors, the smallest, by which predictions are judged: a dropout is nobody's fault."""
RANDOMIZED = ("identified", "held")
"""Verdicts after which a parameter is randomised: to change one that is known relative to others undoes that."""
LITTLE = 0.02
"""An error of this share of the motion is no difference worth a name."""
BETTER = 0.95
"""Held-out errors have to fall to this share of what they were, or nothing was found."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One parameter."""

    name: str
    simulator: float
    value: float  # what the gap gets: the simulator's own where it is held
    deviation: float  # not a number where nothing was fitted
    verdict: str  # identified | held | relative (only its relation to others is known) | no effect
    reason: str  # why it is held
    low: float  # range for randomisation
    high: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Held-out motion: what was measured, and what the simulator predicted before and after."""

    measured: Array  # (N, C)
    before: Array  # (N, C)
    after: Array  # (N, C)
    usable: Array  # (N, C), bool
    motion: Array  # (C,), deviation of a channel's change in one step
    names: tuple[str, ...]  # of channels

    def error(self, predicted: Array) -> Array:
        """Error of each channel in units of its motion, outliers aside. Shapes: (N, C) -> (C,)."""
        return np.array([self._trimmed(predicted, channel) for channel in range(len(self.motion))])

    def _trimmed(self, predicted: Array, channel: int) -> float:
        rows = self.usable[:, channel]
        size = np.sort(np.abs(predicted[rows, channel] - self.measured[rows, channel]))
        kept = size[: max(1, int(TRIM * len(size)))]
        return float(np.sqrt(np.mean(kept**2)) / self.motion[channel]) if len(kept) else math.nan

    def total(self, predicted: Array) -> float:
        """One number: the root mean square over channels."""
        return float(np.sqrt(np.nanmean(self.error(predicted) ** 2)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Identification:
    """What was found."""

    estimates: tuple[Estimate, ...]
    fitted: tuple[str, ...]  # names of the rows of `correlation`
    correlation: Array  # (p, p)
    response: CommandResponse
    profile: tuple[Array, Array]  # delays in s, and the error with each
    comparison: Comparison
    gap: Gap
    steps: tuple[int, int]  # fitted, held out
    faulty: float  # share of the fitted steps with readings that were set aside
    horizon: int
    period_s: float
    whole_delay: bool  # delays are whole physics steps in this simulator

    def values(self) -> dict[str, float]:
        """Of the gap: what differs from the simulator."""
        return self.gap.differing()

    def ranges(self) -> dict[str, tuple[float, float]]:
        """For randomisation, by field."""
        return {each.name: (each.low, each.high) for each in self.estimates if each.verdict in RANDOMIZED}

    @property
    def errors(self) -> tuple[float, float]:
        """Error of held-out motion before and after, in units of the motion of one control period."""
        comparison = self.comparison
        return comparison.total(comparison.before), comparison.total(comparison.after)

    @property
    def outcome(self) -> str:
        """`same`: the simulator moves as the robot already; `better`; or `worse`, which includes as bad as before."""
        before, after = self.errors
        if before <= LITTLE:
            return "same"
        return "better" if after <= BETTER * before else "worse"
