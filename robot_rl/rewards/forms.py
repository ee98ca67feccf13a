"""Scores of observations become the rewards of steps."""

from robot_rl.functional import shaping
from robot_rl.rewards.settings import RewardForm
from robot_rl.types import Array


def rewards_of(
    config: RewardForm, recorded: Array, score: Array, terminated: Array, threshold: float | None = None
) -> Array:
    """The rewards of an episode, in the data type of the recorded ones.

    Args:
        config: the form.
        recorded: rewards as they are.
        score: phi of every observation, normalised already.
        terminated: of every step.
        threshold: from where on phi is a success, which `above` needs.

    Shapes: (T,), (T + 1,), (T,) bool -> (T,).
    """
    match config.form:
        case "kept":
            return recorded
        case "reached":
            found = config.weight * shaping.reached(score)
        case "difference":
            found = config.weight * shaping.difference(score)
        case "added":
            found = shaping.added(recorded, score, config.weight)
        case "potential":
            found = shaping.potential(recorded, score, terminated, config.discount, config.weight)
        case _:
            if threshold is None:
                raise ValueError("form `above` without a threshold")
            return shaping.above(score, threshold, *config.values).astype(recorded.dtype)
    return (found + config.bias).astype(recorded.dtype)
