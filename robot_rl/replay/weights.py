"""Weights of episodes, so that good ones are sampled more often.

After "Harnessing Mixed Offline Reinforcement Learning Datasets via Trajectory Weighting", Hong, Agrawal, Tachet des
Combes and Laroche, ICLR 2023, arXiv 2306.13085, and its code, github Improbable-AI/harness-offline-rl f88e210. The text
of the paper could be read in its abstract only, so the formulas are those of the code.

Every transition of episode i has the weight exp(x_i / temperature), where x_i is scaled to [0, 1] over the episodes:
the return (return weighting), or the return minus the value of the initial state (advantage weighting), because a high
return may be due to an easy start. The weights do not depend on the length, so an episode is sampled in proportion to
its length times its weight. The theory needs deterministic dynamics: with chance in them, lucky episodes are preferred.

Differences from the code: the value of the initial state is a ridge regression whose strength is chosen by its error on
episodes that were left out, in place of plain least squares, which fits 25 episodes of 45 channels exactly and leaves
no advantage; equal returns give equal weights, in place of a division by 0.

Shapes: N episodes, S channels.
"""

import numpy as np

from robot_rl.errors import InputError
from robot_rl.types import Array

TEMPERATURE = 0.1
"""`alpha` of the paper's code: the best episode weighs exp(10) = 22,026 times as much as the worst."""
RIDGE = tuple(10.0 ** np.arange(-3, 5))  # strengths that are tried, times the number of episodes


def return_weights(returns: Array, lengths: Array, temperature: float = TEMPERATURE) -> Array:
    """Weight of each transition by the return of its episode; their mean over all transitions is 1.

    Args:
        returns: (N,), undiscounted.
        lengths: (N,), steps.
        temperature: small prefers the best episodes; infinity gives uniform sampling.

    Returns:
        (N,), what `ReplayBuffer.append(episode, weight=)` takes.

    Raises:
        InputError: the temperature is not positive, or a return is not finite.
    """
    return _softmax(returns, lengths, temperature)


def advantage_weights(returns: Array, initial_states: Array, lengths: Array, temperature: float = TEMPERATURE) -> Array:
    """As `return_weights`, by the return minus the value of the initial state.

    Args:
        returns: (N,), undiscounted.
        initial_states: (N, S).
        lengths: (N,), steps.
        temperature: as in `return_weights`.

    Raises:
        InputError: as `return_weights`.
    """
    return _softmax(returns - initial_values(initial_states, returns), lengths, temperature)


def initial_values(initial_states: Array, returns: Array) -> Array:
    """Value of each initial state by ridge regression on the returns. Shapes: (N, S), (N,) -> (N,).

    Channels are standardised. The strength is the one of `RIDGE` with the smallest leave-one-out error, or infinity
    (the mean return) where none predicts better than the mean.
    """
    states, returns = np.asarray(initial_states, np.float64), np.asarray(returns, np.float64)
    count, mean = len(returns), returns.mean()
    deviation = states.std(axis=0)
    features = (states - states.mean(axis=0))[:, deviation > 0] / deviation[deviation > 0]
    best = np.full(count, mean)
    if count < 3 or features.shape[1] == 0:
        return best
    centred = returns - mean
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    projected = left.T @ centred
    # Without episode i, its prediction is (prediction - h_i r_i) / (1 - h_i) with h_i of the hat matrix and the mean in
    # it; the mean alone leaves r_i * N / (N - 1).
    smallest = np.square(centred * count / (count - 1)).sum()
    for strength in RIDGE:
        shrink = np.square(singular) / (np.square(singular) + strength * count)
        prediction = left @ (shrink * projected)
        leverage = np.square(left) @ shrink + 1.0 / count
        error = np.square((centred - prediction) / np.maximum(1.0 - leverage, 1e-9)).sum()
        if error < smallest:
            smallest, best = error, mean + prediction
    return np.asarray(best)


def transition_probabilities(weights: Array, lengths: Array) -> Array:
    """Probability of one transition of each episode; times the lengths they sum to 1. Shapes: (N,), (N,) -> (N,)."""
    return np.asarray(weights / (weights * lengths).sum())


def weighted_mean_return(returns: Array, weights: Array, lengths: Array) -> float:
    """Mean return of the episodes as they are sampled: that of the behaviour the weights pretend. Shapes: each (N,)."""
    share = weights * lengths
    return float((share * returns).sum() / share.sum())


def effective_episodes(weights: Array, lengths: Array) -> float:
    """Kish's effective sample size of the episodes as they are sampled, between 1 and N. Shapes: (N,), (N,)."""
    share = weights * lengths
    return float(np.square(share.sum()) / np.square(share).sum())


def effective_transitions(weights: Array, lengths: Array) -> float:
    """Kish's effective sample size of the transitions, between 1 and their number. Shapes: (N,), (N,)."""
    return float(np.square((weights * lengths).sum()) / (np.square(weights) * lengths).sum())


def _softmax(scores: Array, lengths: Array, temperature: float) -> Array:
    scores, lengths = np.asarray(scores, np.float64), np.asarray(lengths, np.float64)
    if not temperature > 0:
        raise InputError(f"the temperature of the weights is {temperature}: it must be positive")
    if not np.isfinite(scores).all():
        raise InputError("a return is NaN or infinite: repair the data set with `robot-rl inspect STORE --fix`")
    spread = scores.max() - scores.min()
    scaled = (scores - scores.max()) / spread if spread > 0 else np.zeros(len(scores))
    weights = np.exp(scaled / temperature)
    return np.asarray(weights * lengths.sum() / (weights * lengths).sum())
