"""Minari's HDF5 storage: a group for each episode in `main_data.hdf5`, nested like the spaces.

Minari's own writer makes JPEG of every array of bytes that could be an image, whatever the space declares: as a row of
bytes of any length, or, where all happen to be equally long, as a plain array (N, length).
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robot_rl.datasets.frames import JPEG_SIGNATURE, EncodedFrames, Frames, as_array
from robot_rl.datasets.ingest.base import plain
from robot_rl.datasets.ingest.hdf5 import (
    Hdf5Frames,
    attributes,
    clear_hdf5_errors,
    dataset,
    is_image,
    leaves,
    numbers,
    open_file,
    require_inside,
)
from robot_rl.datasets.ingest.minari_spaces import Leaf
from robot_rl.errors import InputError, nearest
from robot_rl.types import Array

MAIN_FILE = "main_data.hdf5"
EPISODE = "episode_"


class Hdf5Episodes:
    """The episodes of a file, by number; reads what it is asked for.

    Raises:
        InputError: from every method, where the file is damaged or lacks something.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open_file(path)
        try:
            with clear_errors(path):
                self.numbers = episode_numbers(self.file)
        except InputError:
            self.file.close()
            raise

    def close(self) -> None:
        """Free the file."""
        self.file.close()

    def files(self) -> list[Path]:
        """What is read."""
        return [self.path]

    def place(self, number: int) -> str:
        """An episode, in words."""
        return f"{self.path}: {EPISODE}{number}"

    def metadata(self) -> dict[str, Any]:
        """What the file says about itself; Minari before 0.5 wrote everything here."""
        return {key: plain(value) for key, value in attributes(self.file, self.path).items()}

    def about(self, number: int) -> dict[str, Any]:
        """What an episode says about itself: id, total_steps, seed, options."""
        with clear_errors(self.path):
            found = attributes(self._group(number), self.path)
        nested: dict[str, Any] = {}
        for key, value in found.items():
            *groups, last = key.split("/")
            inner = nested
            for name in groups:
                inner = inner.setdefault(name, {})
                if not isinstance(inner, dict):
                    raise InputError(f"{self.place(number)}: the attribute {key} lies below a value")
            inner[last] = plain(value)
        return nested

    def flat(self, number: int, name: str) -> Array:
        """Rewards, terminations or truncations. Shapes: (T,)."""
        with clear_errors(self.path):
            return dataset(self._group(number), name, self.path).reshape(-1)

    def rows(self, number: int, root: str, leaf: Leaf) -> Array:
        """The rows of a numeric leaf; images are Frames. Shapes: (N, *)."""
        *groups, name = (root, *leaf.parts)
        with clear_errors(self.path):
            group = self._group(number, groups)
            member = self._dataset(group, name)
            if _is_ragged(member) or (_holds_jpeg(member) and (leaf.shape is None or len(leaf.shape) > 1)):
                return as_array(_jpegs(member, f"{self.path}: {member.name.strip('/')}"))
            if is_image(member):
                return as_array(Hdf5Frames(numbers(group, name, self.path), np.arange(len(member)), self.path))
            if leaf.is_image and member.dtype == np.uint8 and member.ndim == 3:
                return as_array(GreyFrames(numbers(group, name, self.path), np.arange(len(member)), self.path))
            return dataset(group, name, self.path)

    def texts(self, number: int, root: str, leaf: Leaf) -> list[str]:
        """The rows of a text."""
        *groups, name = (root, *leaf.parts)
        with clear_errors(self.path):
            member = self._dataset(self._group(number, groups), name)
            if not _is_text(member) or member.ndim != 1:
                raise InputError(f"{self.path}: {member.name.strip('/')} holds {member.dtype}, expected text")
            return [str(plain(value)) for value in member[()]]

    def infos(self, number: int) -> tuple[dict[str, Array], list[str]]:
        """Numeric arrays below `infos` by name, nested names joined with `/`, and the names of the others."""
        found: dict[str, Array] = {}
        others: list[str] = []
        with clear_errors(self.path):
            for key in sorted(self.info_names(number)):
                group = self._group(number, ("infos",))
                member = self._dataset(group, key)
                if member.dtype.kind not in "fiub" or not member.shape or _holds_jpeg(member):
                    others.append(key)
                else:
                    found[key] = np.asarray(numbers(group, key, self.path)[()])
        return found, others

    def info_names(self, number: int) -> set[str]:
        """Of all data sets below `infos`."""
        with clear_errors(self.path):
            return set(leaves(self._group(number, ("infos",)))) if "infos" in self._group(number) else set()

    def leaves(self, number: int, root: str) -> list[Leaf]:
        """What an episode has, where no space is declared."""
        with clear_errors(self.path):
            group = self._group(number)
            nested = isinstance(group.get(root), h5py.Group)
            names = [f"{root}/{name}" for name in leaves(group[root])] if nested else [root]
            members = {name: self._dataset(group, name) for name in names}
        return [
            Leaf(parts=tuple(name.split("/")[1:]), kind="Text" if _is_text(member) else "Box")
            for name, member in members.items()
        ]

    def _group(self, number: int, groups: Sequence[str] = ()) -> h5py.Group:
        name = "/".join((f"{EPISODE}{number}", *groups))
        member = self.file.get(name)
        if not isinstance(member, h5py.Group):
            raise InputError(f"{self.path}: there is no group {name}")
        return member

    def _dataset(self, group: h5py.Group, name: str) -> h5py.Dataset:
        member = group.get(name)
        if not isinstance(member, h5py.Dataset):
            place = group.name.strip("/")
            raise InputError(f"{self.path}: there is no data set '{name}' in {place}; {nearest(name, map(str, group))}")
        require_inside(member, self.path)
        return member


class GreyFrames(Frames):
    """Images without an axis of channels, (N, H, W) in a data set, read as they are looked at."""

    def __init__(self, member: h5py.Dataset, rows: Array, path: Path) -> None:
        super().__init__((len(rows), *member.shape[1:], 1))
        self.member = member
        self.rows = rows
        self.path = path

    def decode(self, indices: Array) -> Array:
        """See `Frames.decode`."""
        wanted, found = np.unique(self.rows[indices], return_inverse=True)
        with clear_errors(self.path):
            return (
                np.asarray(self.member[wanted])[found][..., None]
                if len(wanted)
                else np.empty((0, *self.shape[1:]), np.uint8)
            )

    def select(self, indices: Array) -> "GreyFrames":
        """See `Frames.select`."""
        return GreyFrames(self.member, self.rows[indices], self.path)


@contextlib.contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """As `clear_hdf5_errors`, and for damaged descriptions of data types and lengths that do not fit into memory.

    Raises:
        InputError: in place of them.
    """
    try:
        with clear_hdf5_errors(path):
            yield
    except InputError:
        raise
    except (TypeError, ValueError, MemoryError, OverflowError, UnicodeError) as error:
        text = str(error) or type(error).__name__
        raise InputError(f"{path} is truncated or damaged ({text}): copy it again from its source") from error


def episode_numbers(file: h5py.File) -> list[int]:
    """Of the groups `episode_<number>`, ascending."""
    names = [name.removeprefix(EPISODE) for name in map(str, file) if name.startswith(EPISODE)]
    return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)


def _is_text(member: h5py.Dataset) -> bool:
    return h5py.check_string_dtype(member.dtype) is not None


def _is_ragged(member: h5py.Dataset) -> bool:
    """Rows of several lengths, but no text."""
    return h5py.check_vlen_dtype(member.dtype) is not None and not _is_text(member)


def _holds_jpeg(member: h5py.Dataset) -> bool:
    """Also where all rows are equally long, so that they look like numbers."""
    if _is_ragged(member):
        return True
    if member.dtype != np.uint8 or member.ndim != 2 or min(member.shape) < 1:
        return False
    return np.asarray(member[0, :3]).tobytes() == JPEG_SIGNATURE


def _jpegs(member: h5py.Dataset, name: str) -> Frames:
    base = h5py.check_vlen_dtype(member.dtype)
    if base not in (None, np.uint8) or (base is not None and member.ndim != 1):
        raise InputError(f"{name} holds rows of {base} of several lengths, expected the bytes of images")
    return EncodedFrames.of([np.asarray(row, np.uint8).tobytes() for row in member[()]], name)
