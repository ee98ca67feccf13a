"""Uncompressed zarr arrays in blocks of whole rows: written in place, read through memory maps.

Each block is one file of full size, also the last one, which is sparse until it fills. So zarr reads the array as it
is, appending never rewrites a committed row, and a row is found by arithmetic: 4.5 us for a frame of 128 x 128 pixels
where zarr's own indexing takes 400 us and more.
"""

import contextlib
import ctypes
import functools
import json
import mmap
import os
import threading
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from robot_rl.errors import InputError
from robot_rl.types import Array

BLOCK_BYTES = 32 << 20
"""Of images: some 3,000 files for 100 GB."""
MOST_MAPS = 4096
"""Memory maps that one array keeps open; they take no file descriptors."""

Fetch = Callable[[Path], None]
"""Brings a file of a store that lies elsewhere to this path, if there is such a file."""


class BlockArray:
    """One such array, (N, *). Safe to read from several threads, and to send to other processes."""

    def __init__(self, folder: Path, *, missing_is_zero: bool = False, fetch: Fetch | None = None) -> None:
        """An array that is there.

        Args:
            folder: of the array, with its `zarr.json`.
            missing_is_zero: a block without a file holds zeros, as zarr itself writes them; else it is lost.
            fetch: see `Fetch`.

        Raises:
            InputError: it is damaged, or not laid out in such blocks.
        """
        self.folder = folder
        self.missing_is_zero = missing_is_zero
        self.fetch = fetch
        try:
            metadata = json.loads((folder / "zarr.json").read_text())
            shape, chunks = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
            self.dtype = np.dtype(metadata["data_type"])
            codecs = [codec["name"] for codec in metadata["codecs"]]
            self.rows, self.block_rows = int(shape[0]), int(chunks[0])
            self.row_shape = tuple(int(size) for size in shape[1:])
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{folder} holds no array ({error!r}): the store is damaged") from error
        if codecs != ["bytes"] or self.block_rows < 1 or tuple(chunks[1:]) != self.row_shape:
            raise InputError(f"{folder} is compressed or cut otherwise than by rows, so it cannot be mapped")
        self.row_bytes = self.dtype.itemsize * int(np.prod(self.row_shape, dtype=np.int64))
        self.block_bytes = self.block_rows * self.row_bytes
        self._forget_maps()

    @staticmethod
    def create(
        store: Path, name: str, row_shape: tuple[int, ...], dtype: str, *, block_bytes: int = BLOCK_BYTES
    ) -> "BlockArray":
        """A new array without rows, by its name in a store, in place of what is there."""
        row_bytes = np.dtype(dtype).itemsize * int(np.prod(row_shape, dtype=np.int64))
        zarr.open_group(store, mode="r+", use_consolidated=False).create_array(
            name,
            shape=(0, *row_shape),
            chunks=(max(1, block_bytes // row_bytes), *row_shape),
            dtype=dtype,
            fill_value=0,
            compressors=None,
            overwrite=True,
        )
        return BlockArray(store / name)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_maps", "_lock", "_opened")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_maps()

    def _forget_maps(self) -> None:
        self._maps: OrderedDict[int, Array] = OrderedDict()
        self._lock = threading.Lock()
        self._opened: int | None = None  # the folder, from the first map on

    def file(self, block: int) -> Path:
        """The file of a block."""
        return self.folder.joinpath("c", str(block), *["0"] * len(self.row_shape))

    # Reading ----------------------------------------------------------------------------------------------------------

    def block(self, number: int) -> Array:
        """A block, mapped. Shapes: (block_rows, *), read-only.

        Raises:
            InputError: its file is lost, or not of its size.
        """
        with self._lock:
            found = self._maps.get(number)
            if found is None:
                found = self._maps[number] = self._map(number)
                if len(self._maps) > MOST_MAPS:
                    self._maps.popitem(last=False)
            return found

    def _map(self, number: int) -> Array:
        path = self.file(number)
        if self.fetch is not None and not path.exists():
            self.fetch(path)
        if self._opened is None:
            self._opened = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            weakref.finalize(self, os.close, self._opened)
        # Through the folder that was opened: another store that takes its name meanwhile is never read for it.
        same = Path(f"/proc/self/fd/{self._opened}") / path.relative_to(self.folder)
        shape = (self.block_rows, *self.row_shape)
        try:
            found = same.stat().st_size
        except FileNotFoundError:
            if self.missing_is_zero:
                return np.broadcast_to(np.zeros((), self.dtype), shape)
            raise InputError(
                f"{path} is lost: the store is damaged, or was replaced while it was read. Open it again, restore it "
                "from a copy, or make it anew"
            ) from None
        if found != self.block_bytes:
            raise InputError(
                f"{path} has {found} bytes instead of {self.block_bytes}: the store is damaged. Restore it from a "
                "copy, or make it anew"
            )
        return map_file(same, self.block_bytes).view(self.dtype).reshape(shape)

    def place(self, row: int) -> tuple[Array, int]:
        """The block of a row, and its place there."""
        number, place = divmod(row, self.block_rows)
        return self.block(number), place

    def read(self, start: int, stop: int) -> Array:
        """A copy of rows [start, stop)."""
        out = np.empty((stop - start, *self.row_shape), self.dtype)
        for first, part in self.parts(start, stop):
            out[first - start : first - start + len(part)] = part
        return out

    def take(self, rows: Array) -> Array:
        """A copy of rows in any order. Shapes: (B,), int64 -> (B, *)."""
        out = np.empty((len(rows), *self.row_shape), self.dtype)
        numbers, places = np.divmod(rows, self.block_rows)
        for number in np.unique(numbers).tolist():
            chosen = numbers == number
            out[chosen] = self.block(number)[places[chosen]]
        return out

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, Array]]:
        """Rows [start, stop) as views of the blocks they lie in, with the number of the first row of each."""
        while start < stop:
            block, place = self.place(start)
            part = block[place : place + min(stop - start, self.block_rows - place)]
            will_need(part)
            yield start, part
            start += len(part)

    # Writing ----------------------------------------------------------------------------------------------------------

    def write(self, start: int, rows: Array) -> set[Path]:
        """Put rows where they belong, without a change of the length; returns the files that were written."""
        rows = np.ascontiguousarray(rows, self.dtype)
        touched, done = set(), 0
        while done < len(rows):
            number, place = divmod(start + done, self.block_rows)
            count = min(len(rows) - done, self.block_rows - place)
            path = self.file(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if os.fstat(descriptor).st_size != self.block_bytes:
                    os.ftruncate(descriptor, self.block_bytes)
                _write_all(descriptor, rows[done : done + count].data.cast("B"), place * self.row_bytes)
            finally:
                os.close(descriptor)
            touched.add(path)
            done += count
        return touched

    def resize(self, rows: int) -> set[Path]:
        """Set the length; returns the files that were written. Rows beyond it stay in the files until overwritten."""
        path = self.folder / "zarr.json"
        if rows != self.rows:
            metadata = json.loads(path.read_text())
            metadata["shape"][0] = rows
            replace_text(path, json.dumps(metadata, indent=2))
            self.rows = rows
        return {path}


def map_file(path: Path, size: int) -> Array:
    """The first bytes of a file, which must have as many. Shapes: (size,), uint8, read-only."""
    # Private pages that are never written are those of the file; torch keeps no descriptor open for them.
    array: Array = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    array.flags.writeable = False
    _advise(array, mmap.MADV_RANDOM)  # else one frame that is not in memory brings megabytes around it
    return array


def will_need(part: Array) -> None:
    """Have the system read a part of a map, contiguous, from the disk while we do other things.

    Called for many parts before the first is looked at, the disk reads them at once: a batch of 256 cold frames takes
    15 ms in place of 300.
    """
    if part.flags.c_contiguous:  # else it holds the zeros of a block without a file
        _advise(part, mmap.MADV_WILLNEED)


def _advise(part: Array, advice: int) -> None:
    address = part.__array_interface__["data"][0]
    start = address - address % mmap.PAGESIZE
    _system().madvise(start, address - start + part.nbytes, advice)  # that it is refused does no harm


@functools.cache
def _system() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return library


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; it is on the disk once it and its folder are flushed."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
