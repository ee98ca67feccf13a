"""Videos without actions: where their frames lie, which are drawn, and their pixels as bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from robot_rl.errors import InputError, nearest
from robot_rl.replay.columns import RowSource
from robot_rl.types import Array

SHORTEST = 2
"""Frames of a video: a step needs two."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """One video: consecutive frames of one camera in one episode."""

    column: RowSource  # where its frames lie
    rows: Array  # (T,), int64, their numbers there
    source: str  # the data set that it comes from
    instruction: int = -1  # number of its text; -1: none

    def __len__(self) -> int:
        return len(self.rows)


class Footage:
    """Videos from one or several sources.

    Args:
        tracks: the videos; their images must have one shape.
        shares: of each source in what is drawn, in any unit; None: by what it has.

    Raises:
        InputError: there is no video, one is too short, or a source has no share.
    """

    def __init__(self, tracks: Sequence[Track], shares: Mapping[str, float] | None = None) -> None:
        if not tracks:
            raise InputError("there are no videos to learn from")
        for track in tracks:
            if len(track) < SHORTEST:
                raise InputError(f"a video of {track.source} has {len(track)} frame: it needs {SHORTEST}")
        self.tracks = list(tracks)
        self.lengths = torch.tensor([len(track) for track in tracks])  # (N,)
        self.instruction = torch.tensor([track.instruction for track in tracks])  # (N,)
        names = list(dict.fromkeys(track.source for track in tracks))
        self._source = torch.tensor([names.index(track.source) for track in tracks])  # (N,)
        self._share = None if shares is None else _checked(names, shares)
        columns = list({id(track.column): track.column for track in tracks}.values())
        numbers = {id(column): number for number, column in enumerate(columns)}
        self._columns = columns
        self._column = np.asarray([numbers[id(track.column)] for track in tracks])  # (N,)
        self._begin = np.cumsum([0, *(len(track) for track in tracks)])[:-1]  # (N,), of each track in _rows
        self._rows = np.concatenate([np.asarray(track.rows, np.int64) for track in tracks])

    def __len__(self) -> int:
        return len(self.tracks)

    @property
    def steps(self) -> int:
        """Pairs of a frame and the next."""
        return int((self.lengths - 1).sum())

    def draw(self, count: int, generator: torch.Generator, *, by: str, run: int = 2) -> Tensor:
        """Numbers of videos. Shapes: -> (count,).

        Args:
            count: of the draws.
            generator: a CPU one.
            by: `videos`: each alike; `frames`; `runs`: by the places at which a run of frames may begin, so that it has
                a step at least inside the video.
            run: frames of it.
        """
        sizes = {"videos": torch.ones_like(self.lengths), "frames": self.lengths, "runs": self.lengths + run - 3}
        weights = sizes[by].double()
        if self._share is not None:
            total = torch.zeros(len(self._share), dtype=torch.float64).index_add_(0, self._source, weights)
            weights = weights * (self._share / total)[self._source]
        return torch.multinomial(weights, count, replacement=True, generator=generator)

    def gather(self, track: Tensor, frame: Tensor) -> Tensor:
        """Images as bytes, in the memory of the host. Shapes: (M,), (M,) -> (M, H, W, C), uint8."""
        tracks = track.numpy()
        rows, column = self._rows[self._begin[tracks] + frame.numpy()], self._column[tracks]
        if len(self._columns) == 1:
            return torch.from_numpy(self._columns[0].gather(rows))
        images: Tensor | None = None
        for number in np.unique(column):
            places = np.flatnonzero(column == number)
            found = torch.from_numpy(self._columns[number].gather(rows[places]))
            if images is None:
                images = torch.empty((len(rows), *found.shape[1:]), dtype=torch.uint8)
            if found.shape[1:] != images.shape[1:]:
                raise InputError(
                    f"videos have images of {tuple(images.shape[1:])} and of {tuple(found.shape[1:])}: bring them to "
                    "one size with image_size"
                )
            images[torch.from_numpy(places)] = found
        assert images is not None
        return images


def _checked(names: Sequence[str], shares: Mapping[str, float]) -> Tensor:
    """The share of each source."""
    for name in names:
        if name not in shares:
            raise InputError(f"source '{name}' has no share: {nearest(name, shares)}")
    found = torch.tensor([float(shares[name]) for name in names], dtype=torch.float64)
    if not (bool((found >= 0).all()) and float(found.sum()) > 0):
        raise InputError(
            f"the shares of the sources are {dict(shares)}: they must be numbers from 0, one of them above"
        )
    return found


Rows = TypeVar("Rows")


def on_device(rows: Rows, device: torch.device) -> Rows:
    """A frozen dataclass of tensors and numbers with its tensors on a device."""
    moved = {field.name: getattr(rows, field.name) for field in fields(rows)}  # type: ignore[arg-type]  # a dataclass
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in moved.items()}
    return type(rows)(**moved)


def strided(track: Track, stride: int) -> list[Track]:
    """A video at a slower rate: one track for each beginning, so that every frame is in one of them.

    Those with a single frame are left out.
    """
    parts = [track.rows[start::stride] for start in range(stride)]
    return [
        Track(column=track.column, rows=rows, source=track.source, instruction=track.instruction)
        for rows in parts
        if len(rows) >= SHORTEST
    ]
