"""Rewards from a number that says how far a task is: a value, a probability, a progress, one for each observation.

Letters: T steps of an episode, so T + 1 observations.
"""

import numpy as np

from robot_rl.types import Array


def difference(score: Array) -> Array:
    """r_t = phi(s_t+1) - phi(s_t): the reward of VIP, whose sum over an episode is what was gained.

    Ma et al. "VIP: Towards Universal Visual Reward and Representation via Value-Implicit Pre-Training". ICLR 2023,
    arXiv:2210.00030, section 4.3 (there S(o_t, o_t+1; g)).

    Shapes: (T + 1,) -> (T,).
    """
    gained: Array = np.diff(np.asarray(score, np.float64))
    return gained


def reached(score: Array) -> Array:
    """r_t = phi(s_t+1): what the state behind the step is worth. Shapes: (T + 1,) -> (T,)."""
    behind: Array = np.asarray(score, np.float64)[1:]
    return behind


def added(reward: Array, score: Array, weight: float) -> Array:
    """r_t + weight * phi(s_t+1): a value beside the reward of the task, which may change what is best.

    Dashora et al. "ViVa: Video-Trained Value Functions for Guiding Online RL from Diverse Data". arXiv:2503.18210,
    whose abstract says that goal-conditioned values are put into the reward; its equation could not be opened here.

    Shapes: (T,), (T + 1,) -> (T,).
    """
    return np.asarray(reward, np.float64) + weight * reached(score)


def potential(reward: Array, score: Array, terminated: Array, discount: float, weight: float) -> Array:
    """r_t + weight * (discount * phi(s_t+1) - phi(s_t)), phi = 0 behind a termination: the best policy stays the best.

    Ng et al. "Policy Invariance under Reward Transformations". ICML 1999, theorem 1; that the potential of a terminal
    state must be 0 is Grzes "Reward Shaping in Episodic Reinforcement Learning". AAMAS 2017. A truncated episode goes
    on unseen, so that its last potential counts.

    Shapes: (T,), (T + 1,), (T,) bool -> (T,).
    """
    score = np.asarray(score, np.float64)
    following = np.where(terminated, 0.0, score[1:])
    shaped: Array = np.asarray(reward, np.float64) + weight * (discount * following - score[:-1])
    return shaped


def above(score: Array, threshold: float, without: float, with_success: float) -> Array:
    """`with_success` where phi(s_t+1) >= threshold, else `without`. Shapes: (T + 1,) -> (T,)."""
    return np.where(np.asarray(score)[1:] >= threshold, with_success, without).astype(np.float64)


def rolling_minimum(score: Array, frames: int) -> Array:
    """The lowest of the last so many scores, -inf where there are not as many yet: one misread frame ends no episode.

    Shapes: (N,) -> (N,).
    """
    lowest = np.full(len(score), -np.inf)
    if len(score) >= frames:
        windows = np.lib.stride_tricks.sliding_window_view(np.asarray(score, np.float64), frames)
        lowest[frames - 1 :] = windows.min(1)
    return lowest


def percentile_map(score: Array, low: float = 1.0, high: float = 99.0) -> tuple[float, float]:
    """(offset, scale) so that (score - offset) * scale is 0 at the lower percentile and 1 at the upper one.

    A score that does not vary keeps its size: scale 1. Shapes: (N,).
    """
    bottom, top = np.percentile(np.asarray(score, np.float64), [low, high])
    return float(bottom), 1.0 if top <= bottom else float(1.0 / (top - bottom))
