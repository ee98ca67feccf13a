"""Tier `video` of a store: the recorded files themselves, and which frame of which file each row is.

To train from it, a file is decoded once, in order, to a cache of pixels beside the store: random frames of a video cost
milliseconds each.
"""

import hashlib
import json
import os
import shutil
import threading
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robot_rl.datasets.blocks import BlockArray, Fetch, map_file, replace_text, will_need
from robot_rl.datasets.frames import Frames, lazy
from robot_rl.datasets.mapped import BYTES_OF_A_THREAD, StoredFrames, Threads, prepared, selected
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.datasets.video import VideoFrames, VideoIndex, video_index
from robot_rl.errors import InputError
from robot_rl.types import Array

FILES = "files.json"
COPY_BYTES = 1 << 20


class VideoWriter:
    """See `ImageWriter`. Each file is copied once, under the name of its content."""

    def __init__(self, table: BlockArray, *, anew: bool) -> None:
        self.table = table
        self.folder = table.folder.parent
        if anew:
            replace_text(self.folder / FILES, "[]")
        self._files = read_files(self.folder)
        self._copied: dict[tuple[int, ...], int] = {}

    def write(self, images: Array, start: int, sha: Any) -> set[Path]:
        """See `ImageWriter.write`."""
        frames = lazy(images)
        if not isinstance(frames, VideoFrames):
            raise InputError("tier video keeps recorded videos, but these images are none: choose tier jpeg or raw")
        if frames.size not in (None, (frames.index.height, frames.index.width)):
            raise InputError(
                "tier video keeps recorded videos, so their size cannot be changed: choose tier jpeg or raw"
            )
        number = self._number(frames.index)
        feed(sha, self._files[number]["sha256"], frames.numbers)
        rows = np.stack([np.full(len(frames), number), frames.numbers], axis=1)
        # The file may be of a commit that failed before it was flushed.
        return self.table.write(start, rows) | {self.folder / FILES, self.folder / self._files[number]["file"]}

    def resize(self, rows: int) -> set[Path]:
        """See `ImageWriter.resize`."""
        return self.table.resize(rows)

    def _number(self, index: VideoIndex) -> int:
        """The number of a file, which is copied where it is new."""
        with clear_disk_errors(index.path):
            status = index.path.stat()
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if identity not in self._copied:
            self._copied[identity] = self._copy(index)
        return self._copied[identity]

    def _copy(self, index: VideoIndex) -> int:
        temporary = self.folder / f"{uuid.uuid4().hex}.partial"
        sha = hashlib.sha256()
        try:
            with index.path.open("rb") as source, temporary.open("wb") as target:
                while data := source.read(COPY_BYTES):
                    sha.update(data)
                    target.write(data)
                target.flush()
                os.fsync(target.fileno())  # so that under its name it is always whole
            sha256 = sha.hexdigest()
            known = {file["sha256"]: number for number, file in enumerate(self._files)}
            suffix = index.path.suffix if index.path.suffix[1:].isalnum() else ".mp4"
            name = self._files[known[sha256]]["file"] if sha256 in known else f"{sha256}{suffix.lower()}"
            temporary.replace(self.folder / name)
        finally:
            temporary.unlink(missing_ok=True)
        if sha256 in known:
            return known[sha256]
        self._files.append({"file": name, "sha256": sha256, "frames": len(index), "source": index.path.name})
        replace_text(self.folder / FILES, json.dumps(self._files, indent=1))
        return len(self._files) - 1


class VideoColumn:
    """See `ImageColumn`; what is gathered comes from the cache."""

    def __init__(
        self, table: BlockArray, rows: int, shape: tuple[int, int, int], cache: Path, fetch: Fetch | None
    ) -> None:
        self.table = table
        self.folder = table.folder.parent
        self.cache = cache
        self.fetch = fetch
        self.shape = (rows, *shape)
        self.threads = Threads()
        self._files = read_files(self.folder)
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("_lock", "_maps", "_indices", "_sums")
        return {key: value for key, value in self.__dict__.items() if key not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._maps: dict[int, Array] = {}
        self._indices: dict[int, VideoIndex] = {}
        self._sums: dict[int, str] = {}

    def gather(self, rows: Array, out: Array | None = None) -> Array:
        """See `ImageColumn.gather`."""
        rows, out = prepared(rows, out, self.shape)
        pairs = self.table.take(rows).tolist()
        mapped = {number: self._decoded(number) for number in {number for number, _ in pairs}}

        images = []
        for row, (number, frame) in zip(rows.tolist(), pairs, strict=True):
            if not 0 <= frame < len(mapped[number]):
                raise self._damage(f"row {row} is said to be frame {frame} of {len(mapped[number])}")
            images.append(mapped[number][frame])
            will_need(images[-1])

        def copy(start: int, stop: int) -> None:
            for place in range(start, stop):
                out[place] = images[place]

        self.threads.run(copy, len(rows), 1 + BYTES_OF_A_THREAD // int(np.prod(self.shape[1:])))
        return out

    def index_select(self, dim: int, index: torch.Tensor) -> torch.Tensor:
        """See `ImageColumn.index_select`."""
        return selected(self, dim, index)

    def frames(self, rows: Array) -> Frames:
        """See `ImageColumn.frames`. Those of one file are `StoredVideo`."""
        if len(rows) == 0:
            return StoredFrames(self, rows)
        pairs = self.table.take(rows)
        number = int(pairs[0, 0])
        if (pairs[:, 0] != number).any():
            return StoredFrames(self, rows)
        return StoredVideo(self._index(number), pairs[:, 1], self, rows)

    def digest(self, sha: Any, start: int, stop: int) -> None:
        """See `ImageColumn.digest`."""
        pairs = self.table.read(start, stop)
        number = int(pairs[0, 0])
        if (pairs[:, 0] != number).any():
            raise self._damage(f"rows {start} to {stop} are of several files")
        if number not in self._sums:
            with self._file(number).open("rb") as file:
                self._sums[number] = hashlib.file_digest(file, "sha256").hexdigest()
        feed(sha, self._sums[number], pairs[:, 1])

    def _index(self, number: int) -> VideoIndex:
        with self._lock:
            if number not in self._indices:
                self._indices[number] = video_index(self._file(number))
            return self._indices[number]

    def _file(self, number: int) -> Path:
        if not 0 <= number < len(self._files):
            raise self._damage(f"there is no file {number}")
        path = self.folder / Path(str(self._files[number]["file"])).name
        if self.fetch is not None and not path.exists():
            self.fetch(path)
        if not path.is_file():
            raise self._damage(f"{path} is lost")
        return path

    def _decoded(self, number: int) -> Array:
        """All frames of a file, mapped. Shapes: (F, H, W, C)."""
        index = self._index(number)
        with self._lock:
            if number not in self._maps:
                path = self.cache / f"{self._files[number]['sha256']}.raw"
                size = len(index) * int(np.prod(self.shape[1:]))
                if not path.exists() or path.stat().st_size != size:
                    self._decode(index, path)
                self._maps[number] = map_file(path, size).reshape(len(index), *self.shape[1:])
            return self._maps[number]

    def _decode(self, index: VideoIndex, path: Path) -> None:
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        with clear_disk_errors(self.cache):
            self.cache.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    for block in VideoFrames(index).blocks():
                        if block.shape[1:] != self.shape[1:]:
                            raise self._damage(f"{index.path} has frames of {block.shape[1:]}, not {self.shape[1:]}")
                        file.write(np.ascontiguousarray(block).data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def _damage(self, what: str) -> InputError:
        return InputError(f"{self.folder}: {what}: the store is damaged. Restore it from a copy, or make it anew")


class StoredVideo(VideoFrames):
    """Frames of a video that lies in a store, which another store takes as a file. See `StoredFrames`."""

    def __init__(self, index: VideoIndex, numbers: Array, column: VideoColumn, store_rows: Array) -> None:
        super().__init__(index, numbers)
        self.column = column
        self.store_rows = store_rows  # (K,), int64

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredVideo, (self.index, self.numbers, self.column, self.store_rows)

    def select(self, indices: Array) -> "StoredVideo":
        """See `Frames.select`."""
        return StoredVideo(self.index, self.numbers[indices], self.column, self.store_rows[indices])


def video_writer(store: Path, name: str, *, anew: bool) -> VideoWriter:
    """The writer of one key; see `images.image_writer`."""
    folder = store / "images" / name
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
        table = BlockArray.create(store, f"images/{name}/frames", (2,), "int64", block_bytes=COPY_BYTES)
    else:
        table = BlockArray(folder / "frames")
    return VideoWriter(table, anew=anew)


def read_files(folder: Path) -> list[dict[str, Any]]:
    """The videos of a key: `file` name, `sha256`, number of `frames`, name of the `source`.

    Raises:
        InputError: the store is damaged.
    """
    try:
        files = json.loads((folder / FILES).read_text())
        names = [(str(file["file"]), str(file["sha256"]), int(file["frames"])) for file in files]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / FILES} cannot be read ({error!r}): the store is damaged") from error
    if any(not sha256.isalnum() for _, sha256, _ in names):
        raise InputError(f"{folder / FILES} names no checksums: the store is damaged")
    return list(files)


def feed(sha: Any, sha256: str, numbers: Array) -> None:
    """What a digest takes of an episode's frames."""
    sha.update(sha256.encode())
    sha.update(np.ascontiguousarray(numbers, "<i8").data)
