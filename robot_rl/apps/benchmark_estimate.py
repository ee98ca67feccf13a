"""Numbers of a benchmark's tables with their 95 % intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robot_rl.seeding import Seeds
from robot_rl.statistics import Scores, Statistic, probability_of_improvement, stratified_bootstrap

BOOTSTRAP_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float
    runs: int

    def text(self) -> str:
        """For a table."""
        if math.isnan(self.value):
            return "-"
        interval = f" [{self.low:.2f}, {self.high:.2f}]" if self.runs > 1 else ""
        return f"{self.value:.2f}{interval}"


class Estimator:
    """Statistics with intervals, from one seed, so that a table of the same results is the same table.

    Args:
        resamples: of the bootstrap.
    """

    def __init__(self, resamples: int) -> None:
        self._resamples = resamples

    def __call__(self, tasks: Sequence[Sequence[float]], statistic: Statistic) -> Estimate:
        """A statistic over all runs, with runs resampled within each task."""
        strata = [np.asarray(runs, np.float64) for runs in tasks if len(runs)]
        if not strata:
            return Estimate(value=math.nan, low=math.nan, high=math.nan, runs=0)
        value = float(statistic(np.concatenate(strata)))
        low, high = stratified_bootstrap(strata, statistic, self._generator(), resamples=self._resamples)
        return Estimate(value=value, low=low, high=high, runs=sum(map(len, strata)))

    def improvement(self, pairs: Sequence[tuple[Scores, Scores]]) -> tuple[float, float, float]:
        """Probability that a run of the first beats one of the second, and its interval."""
        return probability_of_improvement(pairs, self._generator(), resamples=self._resamples)

    def _generator(self) -> np.random.Generator:
        return Seeds(BOOTSTRAP_SEED).numpy("bootstrap")
