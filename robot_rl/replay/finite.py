"""What is not a number is refused before it is stored, and found again where a run has diverged.

One NaN in one row makes every weight NaN at the first batch that draws it, hours after it came in. So it is looked for
where rows come in: in the episodes of a data set, and in each step of a running environment.
"""

from collections.abc import Mapping

import numpy as np

from robot_rl.errors import InputError
from robot_rl.types import Array, Episode

RECORDED = "repair the data set with `robot-rl inspect STORE --fix`, or leave the episode out"
LIVE = "a sensor failed or the simulation blew up; let the environment end the episode with the last step of numbers"


def require_numbers(array: Array, place: str, advice: str) -> None:
    """Refuse NaN, infinity, and what would become infinite in float32.

    Raises:
        InputError: names the place, the first entry and how many there are, and gives the advice.
    """
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(array.astype(np.float32, copy=False))
    if bad.any():
        first = tuple(np.argwhere(bad)[0].tolist())
        raise InputError(
            f"{place} is {array[first]} at {list(first)} ({int(bad.sum())} of {array.size} numbers are not finite): "
            f"{advice}"
        )


def require_finite_episode(episode: Episode, keys: Mapping[str, object], place: str) -> None:
    """Refuse an episode that holds what is not a number; images are bytes and are not looked at.

    Args:
        episode: recorded, of T steps; what is reported at [t, ...] is of step t.
        keys: of the observations that are used.
        place: which episode it is, for the message.

    Raises:
        InputError: names the episode, what it is of, the step and the channel.
    """
    source = episode.metadata.get("source")
    place = place if source is None else f"{place} ({source})"
    for key in keys:
        if isinstance(episode.observation[key], np.ndarray):  # else an image that stays in its store
            require_numbers(episode.observation[key], f"{place}: observation '{key}'", RECORDED)
    require_numbers(episode.action, f"{place}: action", RECORDED)
    require_numbers(episode.reward, f"{place}: reward", RECORDED)
