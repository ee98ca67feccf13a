"""Progress by perceptual stages: a few demonstrations are cut where their features change, and a frame is placed.

Sermanet, Xu, Levine "Unsupervised Perceptual Rewards for Imitation Learning". RSS 2017, arXiv:1612.06699; algorithm 1
and equations 1 and 2, read in the version of ICLR 2017. What differs: the cut is found by dynamic programming, which
gives what the recursion gives without trying every combination; a frame is judged for all stages by the union of
their features, so that the stages can be compared, and its progress is the expected number of the stage. The paper's
appendix, which adds the rewards of the stages up, could not be opened.

Letters: T frames, F features, G stages, N frames of all demonstrations.
"""

import numpy as np

from robot_rl.types import Array

TINY = 1e-6
SMALLEST_DEVIATION = 0.1
"""Of a feature in a stage, in deviations over all frames: a constant feature of few frames decides not alone."""


def segment(features: Array, stages: int, minimum: int) -> list[int]:
    """First frames of the stages, 0 first, so that the sum over stages of the features' mean deviation is smallest.

    Args:
        features: of one video.
        stages: how many there are, G.
        minimum: frames of a stage.

    Shapes: (T, F) -> G numbers.

    Raises:
        ValueError: the video is shorter than G * minimum.
    """
    total = len(features)
    if total < stages * minimum:
        raise ValueError(f"{total} frames are fewer than {stages} stages of {minimum}")
    spread = _spreads(np.asarray(features, np.float64), minimum)
    best = np.full((stages, total + 1), np.inf)  # of the first `end` frames in `stage` + 1 parts
    begin = np.zeros((stages, total + 1), int)
    best[0] = spread[0]
    for stage in range(1, stages):
        tried = best[stage - 1][:-1, None] + spread  # (begin, end)
        begin[stage], best[stage] = tried.argmin(0), tried.min(0)
    places, end = [], total
    for stage in range(stages - 1, 0, -1):
        end = int(begin[stage, end])
        places.append(end)
    return [0, *places[::-1]]


def _spreads(features: Array, minimum: int) -> Array:
    """Mean over features of the deviation in frames [begin, end); infinite where they are too few.

    Shapes: (T, F) -> (T, T + 1).
    """
    total = len(features)
    centred = features - features.mean(0)
    zero = np.zeros((1, features.shape[1]))
    sums = np.concatenate([zero, np.cumsum(centred, 0)])
    squares = np.concatenate([zero, np.cumsum(np.square(centred), 0)])
    spread = np.full((total, total + 1), np.inf)
    for begin in range(total - minimum + 1):
        ends = np.arange(begin + minimum, total + 1)
        count = (ends - begin)[:, None]
        mean = (sums[ends] - sums[begin]) / count
        variance = (squares[ends] - squares[begin]) / count - np.square(mean)
        spread[begin, ends] = np.sqrt(np.clip(variance, 0, None)).mean(1)
    return spread


def stage_numbers(begins: list[int], total: int) -> Array:
    """The stage of each frame. Shapes: -> (T,), int64."""
    return np.repeat(np.arange(len(begins)), np.diff([*begins, total]))


def discriminative(features: Array, stage: Array, stages: int, alpha: float) -> Array:
    """z_i = alpha |mu+_i - mu-_i| - (sigma+_i + sigma-_i) of each feature for each stage (equation 1).

    Shapes: (N, F) of deviation 1, (N,) -> (G, F).
    """
    scores = []
    for number in range(stages):
        inside = stage == number
        here, there = features[inside], features[~inside]
        scores.append(alpha * np.abs(here.mean(0) - there.mean(0)) - (here.std(0) + there.std(0)))
    return np.stack(scores)


def stage_distances(features: Array, mean: Array, deviation: Array) -> Array:
    """R_g = 1/n sum_i (a_i - mu_i)^2 / sigma_i^2 + 2 log sigma_i: how badly a frame fits each stage.

    Equation 2 with the variance, and with the term that makes it -2 / n times the log-likelihood of a Gaussian but for
    a constant: without it the stage with the widest deviations would fit everything.

    Shapes: (N, n), (G, n), (G, n) -> (N, G).
    """
    apart = (features[:, None] - mean) / deviation
    return np.asarray((np.square(apart) + 2 * np.log(deviation)).mean(-1))


def progress(distance: Array, sharpness: float) -> Array:
    """Expected number of the stage over G - 1, from 0 to 1, with probabilities softmax(-sharpness R_g / 2).

    Shapes: (N, G) -> (N,).
    """
    logit = -0.5 * sharpness * distance
    weight = np.exp(logit - logit.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    number = np.arange(distance.shape[1]) / max(1, distance.shape[1] - 1)
    return np.asarray(weight @ number)
