"""The images of a store at memory speed: any rows, in any order, without zarr in between."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, overload

import numpy as np
import simplejpeg
import torch

from robot_rl.datasets.blocks import BlockArray, will_need
from robot_rl.datasets.frames import EncodedFrames, Frames
from robot_rl.errors import InputError
from robot_rl.types import Array

BYTES_OF_A_THREAD = 1 << 20
"""Fewer are copied faster than a thread is woken."""
JPEGS_OF_A_THREAD = 4
SHARE_OF_MEMORY = 0.5
"""Images up to this share stay in memory once they were read, as far as we assume."""


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
        self.threads = Threads()
        height, width, channels = blocks.row_shape
        self.shape = (rows, height, width, channels)
        fits = rows * blocks.row_bytes < SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self.seen = np.zeros(rows, bool) if fits else None  # rows that are in memory since we read them

    def __reduce__(self) -> tuple[Any, ...]:
        return RawColumn, (self.blocks, self.shape[0])

    def gather(self, rows: Array, out: Array | None = None) -> Array:
        """See `ImageColumn.gather`."""
        rows, out = prepared(rows, out, self.shape)
        numbers, places = np.divmod(rows, self.blocks.block_rows)
        mapped = {number: self.blocks.block(number) for number in np.unique(numbers).tolist()}
        cold = np.arange(len(rows)) if self.seen is None else np.flatnonzero(~self.seen[rows])
        for number, place in zip(numbers[cold].tolist(), places[cold].tolist(), strict=True):
            will_need(mapped[number][place])
        if self.seen is not None:
            self.seen[rows] = True

        def copy(start: int, stop: int) -> None:
            pairs = zip(numbers[start:stop].tolist(), places[start:stop].tolist(), strict=True)
            for row, (number, place) in enumerate(pairs, start):
                out[row] = mapped[number][place]

        self.threads.run(copy, len(rows), 1 + BYTES_OF_A_THREAD // self.blocks.row_bytes)
        return out

    def index_select(self, dim: int, index: torch.Tensor) -> torch.Tensor:
        """See `ImageColumn.index_select`."""
        return selected(self, dim, index)

    def frames(self, rows: Array) -> Frames:
        """See `ImageColumn.frames`."""
        return StoredFrames(self, rows)

    def digest(self, sha: Any, start: int, stop: int) -> None:
        """See `ImageColumn.digest`."""
        for _, part in self.blocks.parts(start, stop):
            sha.update(np.ascontiguousarray(part).data)


class JpegColumn:
    """Tier `jpeg`: JPEG bytes in memory maps, decoded in threads. See `ImageColumn`."""

    def __init__(self, data: BlockArray, spans: BlockArray, rows: int, shape: tuple[int, int, int]) -> None:
        self.data = data
        self.spans = spans
        self.threads = Threads()
        self.shape = (rows, *shape)

    def gather(self, rows: Array, out: Array | None = None) -> Array:
        """See `ImageColumn.gather`."""
        rows, out = prepared(rows, out, self.shape)
        space = "GRAY" if self.shape[3] == 1 else "RGB"
        encoded = self.encoded(rows)

        def decode(start: int, stop: int) -> None:
            for place in range(start, stop):
                try:
                    image = simplejpeg.decode_jpeg(
                        encoded[place], space, fastdct=False, fastupsample=False, buffer=out[place]
                    )
                except ValueError as error:
                    raise self._damage(rows[place], f"cannot be decoded ({error})") from error
                if image.shape != self.shape[1:]:
                    raise self._damage(rows[place], f"has shape {image.shape} instead of {self.shape[1:]}")

        self.threads.run(decode, len(rows), JPEGS_OF_A_THREAD)
        return out

    def index_select(self, dim: int, index: torch.Tensor) -> torch.Tensor:
        """See `ImageColumn.index_select`."""
        return selected(self, dim, index)

    def frames(self, rows: Array) -> Frames:
        """See `ImageColumn.frames`."""
        return StoredJpegs(self, rows)

    def digest(self, sha: Any, start: int, stop: int) -> None:
        """See `ImageColumn.digest`."""
        for data in self.encoded(np.arange(start, stop)):
            feed_bytes(sha, data)

    def encoded(self, rows: Array) -> list[Array]:
        """The JPEG bytes of rows, each (n,), uint8, a view of the map.

        Raises:
            InputError: the store is damaged.
        """
        found = []
        for row, (start, stop) in zip(rows.tolist(), self.spans.take(rows).tolist(), strict=True):
            number, first = divmod(start, self.data.block_rows)
            if not 0 <= start < stop <= (number + 1) * self.data.block_rows:
                raise self._damage(row, f"is said to lie at bytes {start} to {stop}")
            found.append(self.data.block(number)[first : first + stop - start])
            will_need(found[-1])
        return found

    def _damage(self, row: int, what: str) -> InputError:
        return InputError(
            f"{self.data.folder.parent}: the image of row {row} {what}: the store is damaged. Restore it from a copy, "
            "or make it anew"
        )


class StoredJpegs(EncodedFrames):
    """Frames that lie in a store as JPEG bytes, which another store takes untouched. See `StoredFrames`."""

    def __init__(self, column: JpegColumn, store_rows: Array) -> None:
        height, width, channels = column.shape[1:]
        folder = column.data.folder.parent
        super().__init__(_StoredBytes(column, store_rows), (height, width, channels), str(folder))
        self.column: JpegColumn = column
        self.store_rows = store_rows  # (K,), int64

    def decode(self, indices: Array) -> Array:
        """See `Frames.decode`."""
        return self.column.gather(self.store_rows[indices])

    def select(self, indices: Array) -> "StoredJpegs":
        """See `Frames.select`."""
        return StoredJpegs(self.column, self.store_rows[indices])


class _StoredBytes(Sequence[bytes]):
    """JPEG bytes by row, read as they are looked at."""

    def __init__(self, column: JpegColumn, rows: Array) -> None:
        self.column = column
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> "_StoredBytes": ...

    def __getitem__(self, index: int | slice) -> "bytes | _StoredBytes":
        if isinstance(index, slice):
            return _StoredBytes(self.column, self.rows[index])
        return self.column.encoded(self.rows[[index]])[0].tobytes()


def feed_bytes(sha: Any, data: bytes | Array) -> None:
    """What a digest takes of one encoded image."""
    sha.update(len(data).to_bytes(8, "little"))
    sha.update(data)


def prepared(rows: Array, out: Array | None, shape: tuple[int, int, int, int]) -> tuple[Array, Array]:
    """Row numbers as int64, and where their images go.

    Raises:
        IndexError: a row is outside of [0, N).
        ValueError: `out` is of another shape.
    """
    rows = np.ascontiguousarray(rows, np.int64)
    if len(rows) and (rows.min() < 0 or rows.max() >= shape[0]):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of {shape[0]}")
    wanted = (len(rows), *shape[1:])
    out = np.empty(wanted, np.uint8) if out is None else out
    if out.shape != wanted or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be a contiguous uint8 array {wanted}, not {out.dtype} {out.shape}")
    return rows, out


def selected(column: ImageColumn, dim: int, index: torch.Tensor) -> torch.Tensor:
    """What `torch.index_select` gives for an array (N, H, W, C)."""
    if dim != 0:
        raise ValueError(f"images of a store are selected along dim 0, not {dim}")
    return torch.from_numpy(column.gather(index.cpu().numpy()))


class Threads:
    """As many threads as torch uses, started when they are needed; a forked or unpickled copy starts its own."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"_pool": None, "_process": 0}

    def run(self, work: Callable[[int, int], None], count: int, least: int = 1) -> None:
        """Call `work(start, stop)` over [0, count), in parts of at least `least` items."""
        parts = min(torch.get_num_threads(), count // least)
        if parts <= 1:
            work(0, count)
            return
        if self._pool is None or self._process != os.getpid():
            self._pool, self._process = ThreadPoolExecutor(torch.get_num_threads()), os.getpid()
        edges = np.linspace(0, count, parts + 1).astype(int).tolist()
        for done in [self._pool.submit(work, edges[i], edges[i + 1]) for i in range(parts)]:
            done.result()
