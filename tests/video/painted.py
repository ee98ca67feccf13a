"""Frames made up: every one says in its first pixel which row it is."""

import numpy as np

from robot_rl.types import Array

SIDE = 16


class Painted:
    """A source of rows: the first pixel's colours are the row's number in base 256, the rest is a moving square."""

    def __init__(self, count: int, side: int = SIDE, seed: int = 0) -> None:
        background = np.random.default_rng(seed).integers(0, 60, (side, side, 3), np.uint8)
        self.images = np.repeat(background[None], count, 0)
        for row in range(count):
            left = round((side - 4) * row / max(count - 1, 1))
            self.images[row, side // 2 : side // 2 + 4, left : left + 4] = (230, 120, 40)
            self.images[row, 0, 0] = (row // 65536, row // 256 % 256, row % 256)
        self.asked: list[int] = []

    def gather(self, rows: Array) -> Array:
        """See `RowSource`."""
        self.asked.append(len(rows))
        return self.images[rows]
