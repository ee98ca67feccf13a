"""Probabilities that mean what they say, and thresholds that keep a promise, from frames that nothing learned from.

Guo et al. "On Calibration of Modern Neural Networks". ICML 2017, arXiv:1706.04599: expected calibration error and
temperature. Zadrozny, Elkan "Transforming classifier scores into accurate multiclass probability estimates". KDD 2002:
isotonic regression. `calibration.py` has the histograms that grow on a device during training.

Letters: N frames, K knots, M bins.
"""

import math
from dataclasses import dataclass

import numpy as np

from robot_rl.functional.video_scores import ranks
from robot_rl.types import Array

LARGEST_SLOPE = 100.0
"""1 / temperature where the classes are told apart without an error, whose likelihood grows for ever."""
SLOPE_STEPS = 60
BISECTIONS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class Bins:
    """Frames by their probability; bins without frames are left out."""

    count: Array  # (M,)
    said: Array  # (M,), mean probability
    true: Array  # (M,), share of successes


def bins_of(probability: Array, label: Array, count: int = 15) -> Bins:
    """Frames in `count` equal intervals of [0, 1]. Shapes: (N,), (N,) bool."""
    place = np.clip((np.asarray(probability, np.float64) * count).astype(int), 0, count - 1)
    total = np.bincount(place, minlength=count)
    said, true = (
        np.bincount(place, weights=np.asarray(each, np.float64), minlength=count) for each in (probability, label)
    )
    kept = total > 0
    return Bins(count=total[kept], said=said[kept] / total[kept], true=true[kept] / total[kept])


def expected_calibration_error(probability: Array, label: Array, count: int = 15) -> float:
    """Sum over bins of |mean probability - share of successes|, by their shares of the frames (equation 3).

    Shapes: (N,), (N,) bool -> ().
    """
    found = bins_of(probability, label, count)
    return float((found.count * np.abs(found.said - found.true)).sum() / found.count.sum())


def brier_score(probability: Array, label: Array) -> float:
    """Mean of (probability - label)^2. Shapes: (N,), (N,) bool -> ()."""
    return float(np.square(np.asarray(probability, np.float64) - np.asarray(label, np.float64)).mean())


def sigmoid(logit: Array) -> Array:
    """1 / (1 + exp(-z)), without overflow. Shapes: (N,) -> (N,)."""
    z = np.asarray(logit, np.float64)
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


def temperature_of(logit: Array, label: Array) -> float:
    """T that makes the labels likeliest under sigmoid(z / T). The likelihood is concave in 1 / T, which is bisected.

    Where no finite temperature is best, 1 / T is LARGEST_SLOPE, or its inverse. Shapes: (N,), (N,) bool -> ().
    """
    z, y = np.asarray(logit, np.float64), np.asarray(label, np.float64)

    def rise(slope: float) -> float:  # of the log-likelihood with 1 / T
        return float((z * (y - sigmoid(slope * z))).sum())

    low, high = 1.0 / LARGEST_SLOPE, LARGEST_SLOPE
    if rise(low) <= 0:
        return 1.0 / low
    if rise(high) >= 0:
        return 1.0 / high
    for _ in range(SLOPE_STEPS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if rise(middle) > 0 else (low, middle)
    return 1.0 / math.sqrt(low * high)


def isotonic(score: Array, label: Array) -> tuple[Array, Array]:
    """The rising step function of the score with the least squared error, by pooling neighbours that fall (PAV).

    Returns knots: scores, strictly rising, and the value at each. Shapes: (N,), (N,) bool -> (K,), (K,).
    """
    place, inverse, count = np.unique(np.asarray(score, np.float64), return_inverse=True, return_counts=True)
    mean = np.bincount(inverse, weights=np.asarray(label, np.float64)) / count
    blocks: list[list[float]] = []  # value, frames, last place
    for index, (value, weight) in enumerate(zip(mean.tolist(), count.tolist(), strict=True)):
        blocks.append([value, weight, index])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            later = blocks.pop()
            total = blocks[-1][1] + later[1]
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + later[0] * later[1]) / total, total, later[2]]
    edges = [int(block[2]) for block in blocks]
    begins = [0, *(edge + 1 for edge in edges[:-1])]
    ends = sorted({*begins, *edges})
    values = np.repeat([block[0] for block in blocks], np.diff([-1, *edges]))
    return place[ends], values[ends]


def between_knots(score: Array, place: Array, value: Array) -> Array:
    """Linear between knots, constant beyond them. Shapes: (N,), (K,), (K,) -> (N,)."""
    return np.interp(np.asarray(score, np.float64), place, value)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """From where on a frame counts as success, and what that costs."""

    value: float
    false_positives: int
    negatives: int
    upper: float
    """Of the false-positive rate, with a confidence of 95 %, as if all were independent: with few negatives far above
    what was counted."""


def threshold_for_rate(negative: Array, rate: float, *, floor: float = 0.0) -> Threshold:
    """The lowest threshold that at most the share `rate` of the negatives reaches, but for rounding to float32.

    Args:
        negative: scores of what is no success: frames, or the highest of each episode.
        rate: wanted false-positive rate.
        floor: the threshold is not below it.

    Shapes: (N,).
    """
    if len(negative) == 0:
        raise ValueError("no negatives: nothing says how often they would be taken for successes")
    ordered = np.sort(np.asarray(negative, np.float64))[::-1]
    allowed = math.floor(rate * len(ordered) + 1e-9)
    value = -math.inf if allowed >= len(ordered) else _just_above(float(ordered[allowed]))
    value = max(value, floor)
    wrong = int((ordered >= value).sum())
    return Threshold(value=value, false_positives=wrong, negatives=len(ordered), upper=rate_upper(wrong, len(ordered)))


def _just_above(score: float) -> float:
    """The next float32, so that scores which are stored as such are told apart as well."""
    return float(np.nextafter(np.float32(score), np.float32(math.inf)))


def rate_upper(hits: int, count: int, confidence: float = 0.95) -> float:
    """One-sided upper bound of a rate (Clopper and Pearson 1934): the p at which so few hits have probability 1 - c."""
    if hits >= count:
        return 1.0
    low, high = hits / count, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(hits, count, middle) > 1 - confidence else (low, middle)
    return high


def _at_most(hits: int, count: int, p: float) -> float:
    """P(X <= hits), X binomial."""
    if p <= 0 or p >= 1:
        return float(p <= 0)
    terms = np.arange(hits + 1)
    log = np.asarray([math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in terms])
    return float(np.exp(log + terms * math.log(p) + (count - terms) * math.log1p(-p)).sum())


def area_under_curve(score: Array, label: Array) -> float:
    """Probability that a success scores higher than another frame, a tie counting half; NaN where one class is missing.

    Shapes: (N,), (N,) bool -> ().
    """
    label = np.asarray(label, bool)
    positive, negative = int(label.sum()), int((~label).sum())
    if positive == 0 or negative == 0:
        return float("nan")
    rank = ranks(np.asarray(score, np.float64))
    return float((rank[label].sum() - positive * (positive - 1) / 2) / (positive * negative))


def rates_by_threshold(score: Array, label: Array) -> tuple[Array, Array]:
    """False- and true-positive rate from the highest threshold to the lowest. Shapes: (N,), (N,) -> (K,), (K,)."""
    order = np.argsort(-np.asarray(score, np.float64), kind="stable")
    hits = np.asarray(label, np.float64)[order]
    last = np.append(np.diff(np.asarray(score, np.float64)[order]) != 0, True)
    true, false = np.cumsum(hits)[last], np.cumsum(1 - hits)[last]
    return np.append(0.0, false / max(1.0, false[-1])), np.append(0.0, true / max(1.0, true[-1]))
