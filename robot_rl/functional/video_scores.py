"""What a representation of frames is good for, in numbers: the order of values, and what a linear map reads from it."""

from collections.abc import Sequence

import numpy as np

from robot_rl.types import Array

RIDGES = (1e-2, 1.0, 1e2, 1e4)
"""Weights of the penalty that are tried, for features of deviation 1."""
HELD_FOR_RIDGE = 0.2
"""Share of the frames to fit on that chooses among them."""
CONSTANT = 1e-8
"""Deviation below which a channel says nothing."""


def ranks(values: Array) -> Array:
    """Ranks from 0; equal values share the mean of theirs. Shapes: (T,) -> (T,)."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    middle: Array = last - (count + 1) / 2
    return middle[place]


def value_order_correlation(values: Array) -> float:
    """Spearman's correlation of the values along a video with time: 1 where they always rise. NaN where none differ.

    Ma et al. "Vision Language Models are In-Context Value Learners" (GVL). arXiv:2411.04549, call it VOC.

    Shapes: (T,) -> ().
    """
    rank = ranks(values)
    if len(values) < 2 or rank.std() == 0:
        return float("nan")
    return float(np.corrcoef(rank, np.arange(len(values)))[0, 1])


def ridge_scores(features: Array, targets: Array, held_features: Array, held_targets: Array) -> Array:
    """R^2 of a linear map with a ridge penalty, on rows it was not fitted to; NaN for channels that are constant there.

    Features are brought to mean 0 and deviation 1 of the rows to fit. The penalty of a channel is the one of `RIDGES`
    that does best on the last part of those, and the map is then fitted to all of them.

    Shapes: (N, F), (N, D), (M, F), (M, D) -> (D,).
    """
    mean, deviation = features.mean(0), features.std(0)
    kept = deviation > CONSTANT
    if not kept.any():
        return np.where(held_targets.std(0) > CONSTANT, 0.0, np.nan)
    first, second = ((each[:, kept] - mean[kept]) / deviation[kept] for each in (features, held_features))
    cut = len(first) - max(1, int(HELD_FOR_RIDGE * len(first)))
    tried = [_fitted(first[:cut], targets[:cut], first[cut:], ridge) for ridge in RIDGES]
    errors = np.stack([np.square(each - targets[cut:]).sum(0) for each in tried])  # (R, D)
    fits = np.stack([_fitted(first, targets, second, ridge) for ridge in RIDGES])  # (R, M, D)
    predicted = np.take_along_axis(fits, errors.argmin(0)[None, None], 0)[0]
    left = np.square(predicted - held_targets).sum(0)
    total = np.square(held_targets - held_targets.mean(0)).sum(0)
    varies = (held_targets.std(0) > CONSTANT) & (targets.std(0) > CONSTANT)
    return np.where(varies, 1.0 - left / np.where(total > 0, total, 1.0), np.nan)


def _fitted(features: Array, targets: Array, held: Array, ridge: float) -> Array:
    """What the map fitted on some rows says of others. Shapes: (N, F), (N, D), (M, F) -> (M, D)."""
    offset = targets.mean(0)
    gram = features.T @ features + ridge * np.eye(features.shape[1])
    weights = np.linalg.solve(gram, features.T @ (targets - offset))
    fitted: Array = held @ weights + offset
    return fitted


def mean_of_numbers(values: Sequence[float]) -> float:
    """The mean of those that are numbers; NaN where none is."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
