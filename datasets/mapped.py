"""The images of a store at memory speed: any rows, in any order, without zarr in between."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch

from robot_rl.datasets.blocks import BlockArray
from robot_rl.datasets.frames import Frames
from robot_rl.types import Array

BYTES_OF_A_THREAD = 1 << 20
"""Fewer are copied faster than a thread is woken."""


class ImageColumn(Protocol):
    """The images of one key of a store, by row of the store. Reading is safe from several threads, and the result does
    not depend on their number; sent to another process, it opens the files there.
    """

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, H, W, C; N counts the committed rows, one per observation."""

    def gather(self, rows: Array, out: Array | None = None) -> Array:
        """Images of these rows, which may repeat. Shapes: (B,), int64 -> (B, H, W, C), uint8.

        Args:
            rows: numbers in [0, N).
            out: takes the images, in place of a new array.

        Raises:
            InputError: a file of the store is lost or damaged.
        """

    def index_select(self, dim: int, index: torch.Tensor) -> torch.Tensor:
        """As that of a tensor (N, H, W, C), along `dim` 0."""

    def frames(self, rows: Array) -> Frames:
        """The images of these rows, lazily. Shapes: (K,), int64."""

    def digest(self, sha: Any, start: int, stop: int) -> None:
        """Feed a hash with rows [start, stop), as they were fed when they were written."""


class StoredFrames(Frames):
    """Frames that lie in a store: a sampler may take `store_rows` of `column` instead of a copy of the pixels."""

    def __init__(self, column: "ImageColumn", store_rows: Array) -> None:
        super().__init__((len(store_rows), *column.shape[1:]))
        self.column = column
        self.store_rows = store_rows  # (K,), int64

    def decode(self, indices: Array) -> Array:
        """See `Frames.decode`."""
        return self.column.gather(self.store_rows[indices])

    def select(self, indices: Array) -> "StoredFrames":
        """See `Frames.select`."""
        return StoredFrames(self.column, self.store_rows[indices])


class RawColumn:
    """Tier `raw`: pixels in memory maps. See `ImageColumn`."""

    def __init__(self, blocks: BlockArray, rows: int) -> None:
        self.blocks = blocks
        height, width, channels = blocks.row_shape
        self.shape = (rows, height, width, channels)

    def gather(self, rows: Array, out: Array | None = None) -> Array:
        """See `ImageColumn.gather`."""
        rows = checked_rows(rows, self.shape[0])
        out = np.empty((len(rows), *self.shape[1:]), np.uint8) if out is None else out
        numbers, places = np.divmod(rows, self.blocks.block_rows)
        mapped = {number: self.blocks.block(number) for number in np.unique(numbers).tolist()}

        def copy(start: int, stop: int) -> None:
            pairs = zip(numbers[start:stop].tolist(), places[start:stop].tolist(), strict=True)
            for row, (number, place) in enumerate(pairs, start):
                out[row] = mapped[number][place]

        in_threads(copy, len(rows), max(1, BYTES_OF_A_THREAD // self.blocks.row_bytes))
        return out

    def index_select(self, dim: int, index: torch.Tensor) -> torch.Tensor:
        """See `ImageColumn.index_select`."""
        return select(self, dim, index)

    def frames(self, rows: Array) -> Frames:
        """See `ImageColumn.frames`."""
        return StoredFrames(self, rows)

    def digest(self, sha: Any, start: int, stop: int) -> None:
        """See `ImageColumn.digest`."""
        for _, part in self.blocks.parts(start, stop):
            sha.update(np.ascontiguousarray(part).data)


def checked_rows(rows: Array, count: int) -> Array:
    """Row numbers as int64.

    Raises:
        IndexError: one is outside of [0, count).
    """
    rows = np.ascontiguousarray(rows, np.int64)
    if len(rows) and (rows.min() < 0 or rows.max() >= count):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of {count}")
    return rows


def select(column: ImageColumn, dim: int, index: torch.Tensor) -> torch.Tensor:
    """What `torch.index_select` gives for an array (N, H, W, C)."""
    if dim != 0:
        raise ValueError(f"images of a store are selected along dim 0, not {dim}")
    return torch.from_numpy(column.gather(index.numpy()))


def in_threads(work: Any, count: int, least: int) -> None:
    """Call `work(start, stop)` over [0, count) in as many threads as torch uses, each with at least `least` items."""
    threads = min(torch.get_num_threads(), count // least)
    if threads <= 1:
        work(0, count)
        return
    edges = np.linspace(0, count, threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, edges[i], edges[i + 1]) for i in range(threads)]:
            done.result()
