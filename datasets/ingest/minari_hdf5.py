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
from robot_rl.datasets.ingest.hdf5 import attributes, clear_hdf5_errors, open_file
from robot_rl.datasets.ingest.minari_spaces import LARGEST_NESTING, Leaf
from robot_rl.datasets.schema import require_finite
from robot_rl.errors import InputError, nearest
from robot_rl.types import Array

MAIN_FILE = "main_data.hdf5"
EPISODE = "episode_"
LARGEST_RATIO = 1100  # deflate packs at most 1032 bytes into one
FREE_BYTES = 1 << 24  # an array up to this size is read whatever it occupies in the file


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
            member = self._dataset(number, (name,))
            return _numbers(member, self._name(number, (name,))).reshape(-1)

    def rows(self, number: int, root: str, leaf: Leaf) -> Array:
        """The rows of a numeric leaf; images are Frames. Shapes: (N, *)."""
        parts = (root, *leaf.parts)
        name = self._name(number, parts)
        with clear_errors(self.path):
            member = self._dataset(number, parts)
            if _is_ragged(member) or _is_packed(member, leaf):
                return as_array(_jpegs(member, name))
            if leaf.is_image and member.dtype == np.uint8 and member.ndim in (3, 4):
                _require_size(member, name)
                return as_array(Hdf5Frames(member, np.arange(len(member)), self.path))
            return _numbers(member, name)

    def texts(self, number: int, root: str, leaf: Leaf) -> list[str]:
        """The rows of a text."""
        parts = (root, *leaf.parts)
        with clear_errors(self.path):
            member = self._dataset(number, parts)
            if not _is_text(member) or member.ndim != 1:
                raise InputError(f"{self._name(number, parts)} holds {member.dtype}, expected text")
            _require_size(member, self._name(number, parts))
            return [str(plain(value)) for value in member[()]]

    def infos(self, number: int) -> tuple[dict[str, Array], list[str]]:
        """Numeric arrays below `infos` by name, nested names joined with `/`, and the names of the others."""
        found: dict[str, Array] = {}
        others: list[str] = []
        with clear_errors(self.path):
            group = self._group(number)
            if "infos" not in group:
                return found, others
            for parts in _leaves(self._group(number, ("infos",))):
                member = self._dataset(number, ("infos", *parts))
                key = "/".join(parts)
                if member.dtype.kind not in "fiub" or member.ndim == 0 or _holds_jpeg(member):
                    others.append(key)
                else:
                    _require_size(member, self._name(number, ("infos", *parts)))
                    found[key] = np.asarray(member[()])
        return found, others

    def info_names(self, number: int) -> set[str]:
        """Of all data sets below `infos`."""
        with clear_errors(self.path):
            group = self._group(number)
            return (
                {"/".join(parts) for parts in _leaves(self._group(number, ("infos",)))} if "infos" in group else set()
            )

    def leaves(self, number: int, root: str) -> list[Leaf]:
        """What an episode has, where no space is declared."""
        with clear_errors(self.path):
            member = _member(self._group(number), root, self.path)
            paths = _leaves(member) if isinstance(member, h5py.Group) else [()]
            members = {parts: self._dataset(number, (root, *parts)) for parts in paths}
        return [Leaf(parts=parts, kind="Text" if _is_text(member) else "Box") for parts, member in members.items()]

    def _group(self, number: int, parts: Sequence[str] = ()) -> h5py.Group:
        member: Any = _member(self.file, f"{EPISODE}{number}", self.path)
        for part in parts:
            member = _member(member, part, self.path)
        if not isinstance(member, h5py.Group):
            raise InputError(f"{self._name(number, parts)} is no group")
        return member

    def _dataset(self, number: int, parts: Sequence[str]) -> h5py.Dataset:
        member = _member(self._group(number, parts[:-1]), parts[-1], self.path)
        if not isinstance(member, h5py.Dataset):
            raise InputError(f"{self._name(number, parts)} is no data set")
        if member.is_virtual or member.external:
            raise InputError(f"{self._name(number, parts)} lies in another file: copy it into this one with h5repack")
        return member

    def _name(self, number: int, parts: Sequence[str]) -> str:
        return f"{self.place(number)}/{'/'.join(parts)}"


class Hdf5Frames(Frames):
    """Uncompressed images of an episode, read as they are looked at."""

    def __init__(self, member: h5py.Dataset, indices: Array, path: Path) -> None:
        height, width = member.shape[1:3]
        super().__init__((len(indices), height, width, member.shape[3] if member.ndim == 4 else 1))
        self.member = member
        self.indices = indices
        self.path = path

    def decode(self, indices: Array) -> Array:
        """See `Frames.decode`."""
        wanted = self.indices[indices]
        shape = (len(wanted), *self.shape[1:])
        if len(wanted) == 0:
            return np.empty(shape, np.uint8)
        first, last = int(wanted.min()), int(wanted.max()) + 1
        with clear_errors(self.path):
            if last - first <= 2 * len(wanted):
                return np.asarray(np.asarray(self.member[first:last])[wanted - first].reshape(shape))
            return np.stack([np.asarray(self.member[int(row)]).reshape(self.shape[1:]) for row in wanted])

    def select(self, indices: Array) -> "Hdf5Frames":
        """See `Frames.select`."""
        return Hdf5Frames(self.member, self.indices[indices], self.path)


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


def _member(group: h5py.Group, key: str, path: Path) -> Any:
    """A member of a group, but none that links into another file."""
    place = group.name.strip("/")
    if key not in group:
        where = f" in {place}" if place else ""
        raise InputError(f"{path}: there is no '{key}'{where}; {nearest(key, map(str, group))}")
    if isinstance(group.get(key, getlink=True), h5py.ExternalLink):
        raise InputError(f"{path}: {place}/{key} links into another file: copy it into this one with h5repack")
    return group[key]


def _leaves(group: h5py.Group, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Paths of the data sets below a group, without following links into other files."""
    if len(above) > LARGEST_NESTING:
        raise InputError(f"{group.file.filename}: {group.name} is nested too deep: the file is damaged")
    found: list[tuple[str, ...]] = []
    for name in map(str, group):
        member = _member(group, name, Path(group.file.filename))
        parts = (*above, name)
        found += _leaves(member, parts) if isinstance(member, h5py.Group) else [parts]
    return found


def _require_size(member: h5py.Dataset, name: str) -> None:
    """Refuse a length that the bytes in the file cannot hold."""
    claimed, stored = member.nbytes, member.id.get_storage_size()
    stored = min(stored, Path(member.file.filename).stat().st_size)
    if claimed > max(FREE_BYTES, LARGEST_RATIO * stored):
        raise InputError(f"{name} claims {claimed} bytes, but has {stored} in the file: it is damaged, copy it again")


def _numbers(member: h5py.Dataset, name: str) -> Array:
    if member.dtype.kind not in "fiub":
        raise InputError(f"{name} holds {member.dtype}, expected numbers")
    if member.ndim == 0:
        raise InputError(f"{name} is a single number, expected one row per step")
    _require_size(member, name)
    array = np.asarray(member[()])
    require_finite(array, name)
    return array


def _is_text(member: h5py.Dataset) -> bool:
    return h5py.check_string_dtype(member.dtype) is not None


def _is_ragged(member: h5py.Dataset) -> bool:
    """Rows of several lengths, but no text."""
    return h5py.check_vlen_dtype(member.dtype) is not None and not _is_text(member)


def _is_packed(member: h5py.Dataset, leaf: Leaf) -> bool:
    """JPEG of one length for all rows, where the space declares images or nothing."""
    if leaf.shape is not None and len(leaf.shape) < 2:
        return False
    return _holds_jpeg(member) and member.ndim == 2


def _holds_jpeg(member: h5py.Dataset) -> bool:
    if _is_ragged(member):
        return True
    if member.dtype != np.uint8 or member.ndim != 2 or min(member.shape) < 1:
        return False
    return np.asarray(member[0, :3]).tobytes() == JPEG_SIGNATURE


def _jpegs(member: h5py.Dataset, name: str) -> Frames:
    base = h5py.check_vlen_dtype(member.dtype)
    if base not in (None, np.uint8) or (base is not None and member.ndim != 1):
        raise InputError(f"{name} holds rows of {base} of several lengths, expected the bytes of images")
    _require_size(member, name)
    return EncodedFrames.of([np.asarray(row, np.uint8).tobytes() for row in member[()]], name)
