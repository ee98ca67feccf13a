"""How the images of a store are written, by tier: `raw` pixels, `jpeg` bytes, or the recorded `video` itself."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robot_rl.datasets.blocks import BlockArray, Fetch
from robot_rl.datasets.frames import JPEG_SIGNATURE, EncodedFrames, blocks, decode_image, encode_jpeg, lazy
from robot_rl.datasets.mapped import ImageColumn, JpegColumn, RawColumn, Threads, feed_bytes
from robot_rl.errors import InputError, nearest
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array

TIERS = ("raw", "jpeg", "video")
IMAGES_NOTE = (
    "raw: pixels. jpeg: images that came as JPEG are kept byte for byte, all others (arrays, PNG, video) are encoded "
    "with this quality at full colour resolution, which is lossy. video: the recorded files, byte for byte."
)
"""Kept in every store, for who opens it without this package."""
TABLE_BLOCK_BYTES = 1 << 20
ENCODED_AT_ONCE = 64  # images


class ImageWriter(Protocol):
    """Writes the images of one key. What it wrote counts once `resize` set the length, and lasts once it is flushed."""

    def write(self, images: Array, start: int, sha: Any) -> set[Path]:
        """Put the images of an episode at rows from `start`, and feed the hash; returns the files that were written.

        Raises:
            InputError: an image is damaged, or is not what the tier takes.
        """

    def resize(self, rows: int) -> set[Path]:
        """Set the length of all arrays of this key; returns the files that were written."""


class RawWriter:
    """Tier `raw`. See `ImageWriter`."""

    def __init__(self, array: BlockArray) -> None:
        self.array = array

    def write(self, images: Array, start: int, sha: Any) -> set[Path]:
        """See `ImageWriter.write`."""
        touched: set[Path] = set()
        for block in blocks(images):
            block = np.ascontiguousarray(block)
            sha.update(block.data)
            touched |= self.array.write(start, block)
            start += len(block)
        return touched

    def resize(self, rows: int) -> set[Path]:
        """See `ImageWriter.resize`."""
        return self.array.resize(rows)


class JpegWriter:
    """Tier `jpeg`: the bytes one behind another, and where those of each row lie. See `ImageWriter`.

    No image lies across the edge of a block, and a row with the bytes of the row before shares them.
    """

    def __init__(self, data: BlockArray, spans: BlockArray, shape: tuple[int, int, int], quality: int) -> None:
        self.data = data
        self.spans = spans
        self.shape = shape
        self.quality = quality
        self.threads = Threads()

    def write(self, images: Array, start: int, sha: Any) -> set[Path]:
        """See `ImageWriter.write`."""
        touched: set[Path] = set()
        end = self._end(start)
        previous, span = b"", (0, 0)
        for encoded in self._encoded(images):
            spans: list[tuple[int, int]] = []
            pieces: list[bytes] = []
            first = end
            for data in encoded:
                if len(data) > self.data.block_rows:
                    raise InputError(f"an image takes {len(data)} bytes as JPEG, at most {self.data.block_rows} fit")
                feed_bytes(sha, data)
                if data != previous:
                    room = -end % self.data.block_rows
                    if len(data) > room:
                        touched |= self._write(first, pieces)
                        end = first = end + room
                        pieces = []
                    previous, span = data, (end, end + len(data))
                    pieces.append(data)
                    end += len(data)
                spans.append(span)
            touched |= self._write(first, pieces)
            touched |= self.spans.write(start, np.asarray(spans, np.int64))
            start += len(encoded)
        return touched

    def resize(self, rows: int) -> set[Path]:
        """See `ImageWriter.resize`."""
        return self.spans.resize(rows) | self.data.resize(self._end(rows))

    def _end(self, row: int) -> int:
        """The byte behind the images before a row."""
        return int(self.spans.read(row - 1, row)[0, 1]) if row else 0

    def _write(self, start: int, pieces: list[bytes]) -> set[Path]:
        return self.data.write(start, np.frombuffer(b"".join(pieces), np.uint8)) if pieces else set()

    def _encoded(self, images: Array) -> Iterator[list[bytes]]:
        """JPEG bytes, some images at a time."""
        frames = lazy(images)
        if not isinstance(frames, EncodedFrames):
            for block in blocks(images):
                yield self._each(partial(encode_jpeg, quality=self.quality), list(block))
            return
        kept = partial(self._kept, f"{frames.place}, image")
        for start in range(0, len(frames), ENCODED_AT_ONCE):
            numbers = range(start, min(start + ENCODED_AT_ONCE, len(frames)))
            yield self._each(kept, [(number, frames.encoded[number]) for number in numbers])

    def _kept(self, place: str, numbered: tuple[int, bytes]) -> bytes:
        """The bytes as they are where they are JPEG, which is tried, else encoded anew."""
        number, data = numbered
        image = decode_image(data, f"{place} {number}")
        if image.shape != self.shape:
            raise InputError(f"{place} {number} is {image.shape}, expected {self.shape}: they must be of one size")
        return data if data[:3] == JPEG_SIGNATURE else encode_jpeg(image, self.quality)

    def _each(self, function: Callable[[Any], bytes], items: list[Any]) -> list[bytes]:
        out = [b""] * len(items)

        def work(start: int, stop: int) -> None:
            for place in range(start, stop):
                out[place] = function(items[place])

        self.threads.run(work, len(items))
        return out


def checked_tiers(spec: Spec, tiers: Mapping[str, str] | None) -> dict[str, str]:
    """The tier of every image of a spec; those that are not named are raw.

    Raises:
        InputError: a key is no image, or there is no such tier.
    """
    images = [key for key, array in spec.observation.items() if array.is_image]
    chosen = dict.fromkeys(images, "raw") | dict(tiers or {})
    for key, tier in chosen.items():
        if key not in images:
            raise InputError(f"tiers: '{key}' is no image of this store: {nearest(key, images)}")
        if tier not in TIERS:
            raise InputError(f"tiers: '{key}' has tier '{tier}': {nearest(tier, TIERS)}")
    return chosen


def image_folders(store: Path, name: str) -> list[Path]:
    """Where a key of any tier has files other than blocks."""
    folder = store / "images" / name
    return [store / "steps/observation" / name, folder, *(folder / part for part in ("data", "spans", "frames"))]


def image_writer(
    store: Path, name: str, spec: ArraySpec, tier: str, *, quality: int, block_bytes: int, anew: bool
) -> ImageWriter:
    """The writer of one key.

    Args:
        store: its folder.
        name: of the observation, as a path.
        spec: of one image.
        tier: one of `TIERS`.
        quality: of JPEG.
        block_bytes: of the files of pixels and JPEG bytes, where they are made.
        anew: make empty arrays, in place of what is there.

    Raises:
        InputError: the store is damaged.
    """

    def array(name: str, row_shape: tuple[int, ...], dtype: str, size: int) -> BlockArray:
        if anew:
            return BlockArray.create(store, name, row_shape, dtype, block_bytes=size)
        return BlockArray(store / name)

    height, width, channels = spec.shape
    if tier == "video":
        from robot_rl.datasets.video_tier import video_writer  # imports FFmpeg, and only where it is needed

        return video_writer(store, name, anew=anew)
    if tier == "jpeg":
        data = array(f"images/{name}/data", (), "uint8", block_bytes)
        spans = array(f"images/{name}/spans", (2,), "int64", TABLE_BLOCK_BYTES)
        return JpegWriter(data, spans, (height, width, channels), quality)
    return RawWriter(array(f"steps/observation/{name}", spec.shape, "uint8", block_bytes))


def image_column(
    store: Path,
    name: str,
    spec: ArraySpec,
    tier: str,
    rows: int,
    *,
    cache: Path,
    missing_is_zero: bool = False,
    fetch: Fetch | None = None,
) -> ImageColumn:
    """The images of one key, for reading.

    Args:
        store: its folder.
        name: of the observation, as a path.
        spec: of one image.
        tier: one of `TIERS`.
        rows: that are committed.
        cache: folder for the pixels of videos.
        missing_is_zero: see `BlockArray`; of raw images.
        fetch: see `BlockArray`.

    Raises:
        InputError: the store is damaged.
    """

    def array(name: str, least: int, row_shape: tuple[int, ...]) -> BlockArray:
        found = BlockArray(store / name, missing_is_zero=missing_is_zero, fetch=fetch)
        if found.rows < least or found.row_shape != row_shape:
            raise InputError(
                f"{store}: {name} has {found.rows} rows of shape {found.row_shape}, but {least} of {row_shape} are "
                "committed: the store is damaged. Restore it from a copy, or make it anew"
            )
        return found

    height, width, channels = spec.shape
    if tier == "video":
        from robot_rl.datasets.video_tier import VideoColumn  # as above

        table = array(f"images/{name}/frames", rows, (2,))
        return VideoColumn(table, rows, (height, width, channels), cache, fetch)
    if tier == "jpeg":
        spans = array(f"images/{name}/spans", rows, (2,))
        return JpegColumn(array(f"images/{name}/data", 0, ()), spans, rows, (height, width, channels))
    return RawColumn(array(f"steps/observation/{name}", rows, (height, width, channels)), rows)
