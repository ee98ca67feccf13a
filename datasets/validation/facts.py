"""What every collector of facts shares: which arrays of an episode count as what, and how findings are worded."""

from collections.abc import Iterable, Sequence

import numpy as np

from robot_rl.datasets.schema import Finding
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

FIELD_NUMBERS = 1024
"""Numbers a step from which an array of two or more axes is a picture (depth, a grid), not a vector of channels."""
LISTED = 8  # indices that a text names before `...`


def is_vector(spec: ArraySpec) -> bool:
    """Numbers with a meaning by channel: not an image, not a depth map."""
    field = len(spec.shape) >= 2 and int(np.prod(spec.shape)) >= FIELD_NUMBERS
    return not spec.is_image and not field and np.dtype(spec.dtype).kind in "fiub"


def vectors(spec: Spec) -> list[str]:
    """Keys of the observations that are vectors of numbers, in the order of the spec."""
    return [key for key, array_spec in spec.observation.items() if is_vector(array_spec)]


def images(spec: Spec) -> list[str]:
    """Keys of the observations that are images, in the order of the spec."""
    return [key for key, array_spec in spec.observation.items() if array_spec.is_image]


def real_rows(episode: Episode, rows: Array) -> Array:
    """The rows of an observation without the one that stands in for a missing final observation."""
    return rows if episode.has_final_observation else rows[:-1]


def flat(rows: Array) -> Array:
    """Rows as channels. Shapes: (N, *) -> (N, C)."""
    return np.asarray(rows).reshape(len(rows), -1)


def state_rows(episode: Episode, keys: Sequence[str]) -> Array:
    """The vectors of an episode side by side, without a repeated last row. Shapes: (T + 1 or T, C), float64."""
    length = len(episode) + (1 if episode.has_final_observation else 0)
    parts = [flat(real_rows(episode, episode.observation[key])).astype(np.float64) for key in keys]
    return np.concatenate(parts, axis=1) if parts else np.empty((length, 0))


def listed(indices: Iterable[int], limit: int = LISTED) -> str:
    """`0, 4, 7, ...`."""
    numbers = [int(index) for index in indices]
    return ", ".join(map(str, numbers[:limit])) + (", ..." if len(numbers) > limit else "")


def episodes_setting(indices: Iterable[int]) -> str:
    """The episodes as a setting of the command line: `episodes=[1,5]`."""
    return f"'episodes=[{','.join(str(int(index)) for index in indices)}]'"


def channel_names(spec: ArraySpec, channels: Iterable[int]) -> str:
    """Channels by number, and by name where names are declared."""
    names = spec.names
    if names is None:
        return listed(channels)
    chosen = [int(channel) for channel in channels]
    shown = ", ".join(f"{channel} ({names[channel % len(names)]})" for channel in chosen[:LISTED])
    return shown + (", ..." if len(chosen) > LISTED else "")


def error(place: str, text: str, remedy: str = "") -> Finding:
    """A finding that makes the data wrong or unusable."""
    return Finding(severity="error", place=place, text=text, remedy=remedy)


def warning(place: str, text: str, remedy: str = "") -> Finding:
    """A finding that probably hurts training."""
    return Finding(severity="warning", place=place, text=text, remedy=remedy)


def information(place: str, text: str, remedy: str = "") -> Finding:
    """A finding that a person should know."""
    return Finding(severity="information", place=place, text=text, remedy=remedy)
