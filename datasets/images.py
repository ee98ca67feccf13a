"""How the images of a store are written, by tier: `raw` pixels, `jpeg` bytes, or the recorded `video` itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robot_rl.datasets.blocks import BlockArray, Fetch
from robot_rl.datasets.frames import blocks
from robot_rl.datasets.mapped import ImageColumn, RawColumn
from robot_rl.datasets.schema import is_image
from robot_rl.errors import InputError, nearest
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array

TIERS = ("raw", "jpeg", "video")
IMAGES_NOTE = (
    "raw: pixels. jpeg: images that came as JPEG are kept byte for byte, all others (arrays, PNG, video) are encoded "
    "with this quality at full colour resolution, which is lossy. video: the recorded files, byte for byte."
)
"""Kept in every store, for who opens it without this package."""


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


def checked_tiers(spec: Spec, tiers: Mapping[str, str] | None) -> dict[str, str]:
    """The tier of every image of a spec; those that are not named are raw.

    Raises:
        InputError: a key is no image, or there is no such tier.
    """
    images = [key for key, array in spec.observation.items() if is_image(array)]
    chosen = dict.fromkeys(images, "raw") | dict(tiers or {})
    for key, tier in chosen.items():
        if key not in images:
            raise InputError(f"tiers: '{key}' is no image of this store: {nearest(key, images)}")
        if tier not in TIERS:
            raise InputError(f"tiers: '{key}' has tier '{tier}': {nearest(tier, TIERS)}")
    return chosen


def image_writer(
    store: Path, key: str, spec: ArraySpec, tier: str, *, quality: int, block_bytes: int, anew: bool
) -> ImageWriter:
    """The writer of one key.

    Args:
        store: its folder.
        key: of the observation.
        spec: of one image.
        tier: one of `TIERS`.
        block_bytes: of the files of pixels and JPEG bytes, where they are made.
        anew: drop what is there.
    """
    name = f"steps/observation/{key}"
    if anew or not (store / name / "zarr.json").exists():
        return RawWriter(BlockArray.create(store, name, spec.shape, "uint8", block_bytes=block_bytes))
    return RawWriter(BlockArray(store / name, missing_is_zero=True))


def image_column(
    store: Path, key: str, tier: str, rows: int, *, missing_is_zero: bool, fetch: Fetch | None
) -> ImageColumn:
    """The images of one key, for reading; `rows` are committed.

    Raises:
        InputError: the store is damaged.
    """
    array = BlockArray(store / f"steps/observation/{key}", missing_is_zero=missing_is_zero, fetch=fetch)
    if array.rows < rows:
        raise InputError(f"{store}: images of '{key}' have {array.rows} rows, but {rows} are committed: it is damaged")
    return RawColumn(array, rows)
