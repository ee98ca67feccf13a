"""Footage made up; the folder is on the path for what several tests need."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

import numpy as np
import pytest
from painted import SIDE, Painted

from robot_rl.replay.footage import Footage, Track


@pytest.fixture
def make_footage() -> Callable[..., Footage]:
    """Footage of videos of these lengths, all in one column; `source` and `instruction` of each where given."""

    def make(
        lengths: Sequence[int],
        sources: Sequence[str] | None = None,
        instructions: Sequence[int] | None = None,
        shares: dict[str, float] | None = None,
        side: int = SIDE,
    ) -> Footage:
        column, ends = Painted(sum(lengths), side), np.cumsum([0, *lengths])
        tracks = [
            Track(
                column=column,
                rows=np.arange(ends[number], ends[number + 1]),
                source="one" if sources is None else sources[number],
                instruction=-1 if instructions is None else instructions[number],
            )
            for number in range(len(lengths))
        ]
        return Footage(tracks, shares)

    return make
