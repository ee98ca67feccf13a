"""Statistics over runs: interquartile mean, intervals, probability of improvement, regret, dip.

After Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (NeurIPS 2021,
arXiv:2108.13264), whose code is `rliable`. Scores come as one array of runs for each task, because runs of one task are
exchangeable and those of different tasks are not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Statistic = Callable[[Scores], Scores]
"""Of scores along the last axis. Shapes: (*, N) -> (*)."""


def interquartile_mean(scores: Scores) -> Scores:
    """The mean of the middle half: floor(N / 4) numbers are left out at each end. Shapes: (*, N) -> (*)."""
    ordered = np.sort(np.asarray(scores, np.float64), axis=-1)
    count = ordered.shape[-1]
    if count == 0:
        raise ValueError("no scores")
    middle: Scores = ordered[..., count // 4 : count - count // 4].mean(-1)
    return middle


def mean(scores: Scores) -> Scores:
    """The mean. Shapes: (*, N) -> (*)."""
    return np.asarray(np.mean(scores, axis=-1))


def stratified_bootstrap(
    tasks: Sequence[Scores],
    statistic: Statistic,
    generator: np.random.Generator,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic of all runs together; within each task, runs are drawn with replacement.

    With one run a task the interval has no width, which says nothing of the spread over seeds.

    Args:
        tasks: scores of the runs of each task, (R,) each; R may differ.
        statistic: of all scores together.
        generator: draws the resamples.
        resamples: how many.
        confidence: of the interval, in (0, 1).
    """
    drawn = np.concatenate([_resampled(np.asarray(runs, np.float64), generator, resamples) for runs in tasks], axis=1)
    return _percentiles(statistic(drawn), confidence)


def probability_of_improvement(
    tasks: Sequence[tuple[Scores, Scores]],
    generator: np.random.Generator,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> tuple[float, float, float]:
    """How often a run of X beats one of Y: the mean over tasks of P(X > Y) + P(X = Y) / 2, and its interval.

    Args:
        tasks: the runs of X and of Y for each task, (R,) and (S,).
        generator: draws the resamples.
        resamples: how many.
        confidence: of the interval, in (0, 1).
    """
    point = float(np.mean([_wins(x[None], y[None])[0] for x, y in tasks]))
    resampled = [
        _wins(_resampled(np.asarray(x), generator, resamples), _resampled(np.asarray(y), generator, resamples))
        for x, y in tasks
    ]
    low, high = _percentiles(np.mean(resampled, axis=0), confidence)
    return point, low, high


def mean_interval(values: Scores, *, confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval around the mean of few values, such as the differences of two arms seed by seed.

    Honest for two or three of them, where a bootstrap is too narrow.

    Args:
        values: at least two, (N,).
        confidence: of the interval, in (0, 1).
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"{count} value(s) have no spread")
    # Here, because importing it changes the warnings that are shown.
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy ships no types

    middle = float(np.mean(values))
    half = float(stdtrit(count - 1, 0.5 + confidence / 2) * np.std(values, ddof=1) / math.sqrt(count))
    return middle - half, middle + half


def mean_along(steps: Sequence[float], scores: Sequence[float]) -> float:
    """The mean of a curve along its steps: trapezoids over the distance. One point is its own mean."""
    if len(steps) != len(scores) or not steps:
        raise ValueError(f"{len(steps)} steps for {len(scores)} scores")
    if len(steps) == 1:
        return float(scores[0])
    heights = 0.5 * (np.asarray(scores[1:]) + np.asarray(scores[:-1]))
    return float(np.average(heights, weights=np.diff(steps)))


def regret(steps: Sequence[float], scores: Sequence[float]) -> float:
    """The mean along the online steps of 1 minus the normalised score (Cal-QL's cumulative regret)."""
    return 1.0 - mean_along(steps, scores)


@dataclass(frozen=True, kw_only=True)
class SwitchDip:
    """What the switch to online training cost, in the units of the score."""

    depth: float  # 0 where nothing was lost
    step: int  # where the lowest score was measured
    recovery_step: int | None
    """First later measurement that is back at the baseline; None: not within the run, or nothing was lost."""


def switch_dip(baseline: float, steps: Sequence[int], scores: Sequence[float], window_steps: int) -> SwitchDip | None:
    """How far the score fell below what pre-training had reached, and when it was back.

    The lowest of several noisy measurements lies below their mean, so a policy that does not change has a small dip
    too: compare with the dip of an algorithm that does not learn online.

    Args:
        baseline: score before the first online update.
        steps: environment steps since the switch, of each measurement after the first online update, rising.
        scores: there.
        window_steps: the lowest score is sought up to here.

    Returns:
        None where there is no measurement in the window.
    """
    window = [(score, step) for step, score in zip(steps, scores, strict=True) if step <= window_steps]
    if not window:
        return None
    lowest, where = min(window)
    if lowest >= baseline:
        return SwitchDip(depth=0.0, step=where, recovery_step=None)
    back = [step for step, score in zip(steps, scores, strict=True) if step > where and score >= baseline]
    return SwitchDip(depth=baseline - lowest, step=where, recovery_step=back[0] if back else None)


def normalized(score: float, random: float, reference: float) -> float:
    """0 for the random policy, 1 for the reference; neither is a bound."""
    if not math.isfinite(reference - random) or reference == random:
        raise ValueError(f"random={random} and reference={reference} span no scale")
    return (score - random) / (reference - random)


def _resampled(runs: Scores, generator: np.random.Generator, resamples: int) -> Scores:
    if not len(runs):
        raise ValueError("a task without runs")
    drawn: Scores = runs[generator.integers(len(runs), size=(resamples, len(runs)))]
    return drawn


def _wins(x: Scores, y: Scores) -> Scores:
    """Shapes: (K, R), (K, S) -> (K,)."""
    pairs = (x[:, :, None] > y[:, None, :]) + 0.5 * (x[:, :, None] == y[:, None, :])
    won: Scores = pairs.mean((1, 2))
    return won


def _percentiles(values: Scores, confidence: float) -> tuple[float, float]:
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)
