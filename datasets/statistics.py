"""Mean, deviation and range of every channel, and of returns and lengths, over the real rows of a store."""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from robot_rl.types import Array, Episode

BLOCK_NUMBERS = 4_194_304  # that are converted to float64 at once
LARGE = 1_024  # numbers a row from which the statistics are over all of them together: depth planes, point clouds


class Moments:
    """Streaming mean, deviation and range by channel (Chan, Golub and LeVeque, 1979: pairwise update).

    Rows of more than `LARGE` numbers count as one channel with as many rows.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Array | None = None
        self.squares: Array | None = None
        self.minimum: Array | None = None
        self.maximum: Array | None = None

    def add(self, array: Array) -> None:
        """Shapes: (N, *)."""
        size = int(np.prod(array.shape[1:]))
        rows = max(1, BLOCK_NUMBERS // max(size, 1))
        for start in range(0, len(array), rows):
            block = np.asarray(array[start : start + rows], np.float64)
            block = block.reshape(-1, 1) if size > LARGE else block
            count, mean = len(block), block.mean(axis=0)
            squares = np.square(block - mean).sum(axis=0)
            low, high = block.min(axis=0), block.max(axis=0)
            if self.mean is None or self.squares is None or self.minimum is None or self.maximum is None:
                self.count, self.mean, self.squares, self.minimum, self.maximum = count, mean, squares, low, high
                continue
            total, delta = self.count + count, mean - self.mean
            self.mean = self.mean + delta * (count / total)
            self.squares = self.squares + squares + np.square(delta) * (self.count * count / total)
            self.minimum, self.maximum = np.minimum(self.minimum, low), np.maximum(self.maximum, high)
            self.count = total

    def to_json(self) -> dict[str, Any]:
        """Lists of numbers: mean, std (of the population), minimum, maximum."""
        if self.mean is None or self.squares is None or self.minimum is None or self.maximum is None:
            return {"count": 0}
        return {
            "count": self.count,
            "mean": self.mean.tolist(),
            "std": np.sqrt(self.squares / self.count).tolist(),
            "minimum": self.minimum.tolist(),
            "maximum": self.maximum.tolist(),
        }


def episode_statistics(episodes: Iterable[Episode], *, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Statistics of a data set as plain JSON.

    Args:
        episodes: of the data set; each is looked at once.
        leave_out: keys of observations, such as images.

    `arrays` has an entry for `observation/<key>`, `action` and `reward`. Observations count all their real rows: a
    repeated last row is left out. Returns are undiscounted sums of the raw reward.
    """
    moments: dict[str, Moments] = {}
    returns, lengths, succeeded, known = Moments(), Moments(), 0, 0
    number = 0
    for episode in episodes:
        number += 1
        last = None if episode.has_final_observation else -1
        for key, array in episode.observation.items():
            if key in leave_out:
                continue
            moments.setdefault(f"observation/{key}", Moments()).add(array[:last])
        moments.setdefault("action", Moments()).add(episode.action)
        moments.setdefault("reward", Moments()).add(episode.reward)
        returns.add(np.asarray([episode.reward.sum(dtype=np.float64)]))
        lengths.add(np.asarray([len(episode)]))
        if episode.success is not None:
            known += 1
            succeeded += bool(episode.success.any())
    return {
        "episodes": number,
        "steps": round(lengths.count * float(lengths.mean)) if lengths.mean is not None else 0,
        "arrays": {key: value.to_json() for key, value in moments.items()},
        "returns": returns.to_json(),
        "lengths": lengths.to_json(),
        "success": {"known_episodes": known, "successful_episodes": succeeded},
    }
