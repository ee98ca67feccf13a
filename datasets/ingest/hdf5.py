"""Opening and reading HDF5 with errors that name the file, the key and the remedy; nothing outside the file is opened.

A link or a data set of an HDF5 file may lie in another file, and a shape of a few bytes may announce terabytes. The
first is refused when the file is opened, the second before memory is asked for.
"""

import contextlib
import math
import mmap
import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robot_rl.datasets.frames import Frames
from robot_rl.datasets.schema import require_finite
from robot_rl.errors import InputError, nearest
from robot_rl.types import Array

HEAP = b"GCOL\x01\0\0\0"  # signature and version
SIGNATURE = b"\x89HDF\r\n\x1a\n"
DEEPEST = 64  # of groups in groups
MOST_ENTERED = 64  # times that one group is listed
LOCAL_LINKS = (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT)
LARGEST_RATIO = 1100  # deflate packs at most 1032 bytes into one
FREE_BYTES = 1 << 24  # a data set up to this size is read whatever it occupies in the file


def is_hdf5(path: Path) -> bool:
    """By the signature, so also for a damaged file; a folder is none."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


@contextlib.contextmanager
def clear_hdf5_errors(path: Path) -> Iterator[None]:
    """Damage shows as OSError, RuntimeError or KeyError deep in the library.

    Raises:
        InputError: in place of them.
    """
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        raise InputError(f"{path} is truncated or damaged ({error}): copy it again from its source") from error


def open_file(path: Path) -> h5py.File:
    """Open for reading.

    Raises:
        InputError: the file is truncated or damaged, or a link in it leads into another file.
    """
    with clear_hdf5_errors(path), contextlib.ExitStack() as stack:
        about = path.stat()
        require_heaps(path, about.st_size, about.st_mtime_ns)
        file = stack.enter_context(h5py.File(path, "r"))
        name = external_link(file)
        if name is not None:
            raise InputError(
                f"{path}: {name} is a link into another file, which is not opened: copy what it names into this one "
                "with h5repack or h5copy"
            )
        stack.pop_all()
        return file


@lru_cache(maxsize=64)  # a file is opened by the probe of every reader
def require_heaps(path: Path, size: int, modified_ns: int) -> None:
    """Refuse a heap of rows of several lengths whose objects lead nowhere: the HDF5 library walks them for ever.

    Heaps lie anywhere in the file, so it is searched for them. Each is a header of 16 bytes with its size, then
    objects: number (2 bytes), 6 bytes, size (8 bytes), data in steps of 8; number 0 is what is free, with its header.
    The size and the time of the file are there to know it again.

    Raises:
        InputError: names the place of the heap.
    """
    if size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for start in [found.start() for found in re.finditer(re.escape(HEAP), data)]:
            (whole,) = struct.unpack("<Q", data[start + 8 : start + 16].ljust(8, b"\0"))
            position, stop = start + 16, min(start + whole, len(data))
            while position + 16 <= stop:
                number, length = struct.unpack("<H6xQ", data[position : position + 16])
                taken = length if number == 0 else 16 + (length + 7) // 8 * 8
                if not 0 < taken <= stop - position:
                    raise InputError(f"{path} is damaged in its heap at byte {start}: copy it again from its source")
                position += taken


def external_link(file: h5py.File) -> str | None:
    """The first link into another file; None where there is none, or only in what is too damaged to be listed.

    Links are looked at, not followed, and a group that several links lead to is entered once.
    """
    try:
        name = file.id.links.visit(lambda name, about: name if about.type not in LOCAL_LINKS else None, info=True)
    except (OSError, RuntimeError, KeyError, ValueError):
        return _external_link_of_damaged(file)
    return None if name is None else name.decode(errors="replace")


def _external_link_of_damaged(file: h5py.File) -> str | None:
    """As `external_link`, slower: what cannot be listed does not hide the rest."""
    groups: list[tuple[Any, str]] = [(file["/"].id, "")]
    seen = set()
    while groups:
        group, place = groups.pop()
        try:
            for name in group:
                path = f"{place}/{name.decode(errors='replace')}"
                kind = group.links.get_info(name).type
                if kind not in LOCAL_LINKS:
                    return path.strip("/")
                about = None if kind == h5py.h5l.TYPE_SOFT else h5py.h5o.get_info(group, name)
                if about is not None and about.type == h5py.h5o.TYPE_GROUP and about.addr not in seen:
                    seen.add(about.addr)
                    groups.append((h5py.h5o.open(group, name), path))
        except (OSError, RuntimeError, KeyError, ValueError):
            continue  # said when the group is read
    return None


def dataset(group: h5py.Group, key: str, path: Path) -> Array:
    """All rows of a data set of finite numbers.

    Raises:
        InputError: it is missing (with the nearest name), damaged, in another file, larger than the file can hold, not
            numeric, or holds NaN or infinity.
    """
    with clear_hdf5_errors(path):
        member = numbers(group, key, path)
        place = f"{path}: {member.name.strip('/')}"
        array = _rows(member, path)
    require_finite(array, place)
    return array


def numbers(group: h5py.Group, key: str, path: Path) -> h5py.Dataset:
    """A data set of numbers with a row per step, not read yet.

    Raises:
        InputError: as `dataset`, but for what the rows hold.
    """
    with clear_hdf5_errors(path):
        member = group.get(key)
        if not isinstance(member, h5py.Dataset):
            place = group.name.strip("/")
            where = f" in {place}" if place else ""
            raise InputError(f"{path}: there is no data set '{key}'{where}; {nearest(key, map(str, group))}")
        place = f"{path}: {member.name.strip('/')}"
        require_inside(member, path)
        kind, shape = _description(member, path)
    if kind not in "fiub":
        raise InputError(f"{place} holds {member.dtype}, expected numbers")
    if not shape:
        raise InputError(f"{place} is a single number, expected one row per step")
    return member


def require_inside(member: h5py.Dataset, path: Path) -> None:
    """Refuse a data set that lies in another file, or is larger than what it occupies in this one could hold.

    Raises:
        InputError: names it.
    """
    place = f"{path}: {member.name.strip('/')}"
    if member.is_virtual or member.external:
        raise InputError(f"{place} lies in another file, which is not opened: copy it into this one with h5repack")
    _, shape = _description(member, path)
    claimed = math.prod(shape) * member.dtype.itemsize
    stored = min(member.id.get_storage_size(), path.stat().st_size)
    if claimed > max(FREE_BYTES, LARGEST_RATIO * stored):
        raise InputError(
            f"{place} has shape {shape}, {claimed} bytes, but occupies {stored} in the file: it is damaged, copy it "
            "again from its source"
        )


def _description(member: h5py.Dataset, path: Path) -> tuple[str, tuple[int, ...]]:
    """Kind of the data type, and shape; `()` of a single number or of nothing."""
    try:
        shape = member.shape
        return member.dtype.kind, () if shape is None else tuple(shape)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is truncated or damaged ({error}): copy it again from its source") from error


def _rows(member: h5py.Dataset, path: Path) -> Array:
    try:
        return np.asarray(member[()])
    except (TypeError, ValueError, MemoryError) as error:  # a damaged description of the data type
        raise InputError(f"{path} is truncated or damaged ({error}): copy it again from its source") from error


def attributes(group: h5py.Group, path: Path) -> dict[str, Any]:
    """All attributes of a group or a file.

    Raises:
        InputError: they are damaged.
    """
    with clear_hdf5_errors(path):
        try:
            return {str(key): _attribute(group, key, path) for key in group.attrs}
        except (TypeError, ValueError, MemoryError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path} is truncated or damaged ({error}): copy it again from its source") from error


def _attribute(group: h5py.Group, key: str, path: Path) -> Any:
    about = group.attrs.get_id(key)
    claimed = 0 if about.shape is None else math.prod(about.shape) * about.dtype.itemsize
    if claimed > max(FREE_BYTES, path.stat().st_size):
        raise InputError(f"{path}: attribute '{key}' claims {claimed} bytes, more than the file has: it is damaged")
    return group.attrs[key]


def leaves(group: h5py.Group) -> list[str]:
    """Paths of all data sets below a group, in the order of the file.

    Raises:
        InputError: groups hold one another, or many links lead to the same.
    """
    found: list[str] = []
    _collect(group, "", (), {}, found)
    return found


def _collect(group: h5py.Group, prefix: str, above: tuple[int, ...], entered: dict[int, int], found: list[str]) -> None:
    address = h5py.h5o.get_info(group.id).addr
    entered[address] = entered.get(address, 0) + 1
    if address in above or len(above) > DEEPEST or entered[address] > MOST_ENTERED:
        raise InputError(
            f"{group.file.filename}: {group.name.strip('/')} holds itself, is nested more than {DEEPEST} deep, or "
            f"more than {MOST_ENTERED} links lead to it: they are damaged"
        )
    for name, member in group.items():
        if isinstance(member, h5py.Group):
            _collect(member, f"{prefix}{name}/", (*above, address), entered, found)
        else:
            found.append(f"{prefix}{name}")


class Hdf5Frames(Frames):
    """Images (N, H, W, C) in a data set, read as they are looked at; the last may lie in another one."""

    def __init__(self, member: h5py.Dataset, rows: Array, path: Path, following: h5py.Dataset | None = None) -> None:
        """The rows (N,) of a data set (M, H, W, C) of uint8; -1 is the last row of `following`."""
        height, width, channels = member.shape[1:]
        super().__init__((len(rows), height, width, channels))
        self.member = member
        self.rows = rows
        self.path = path
        self.following = following

    def decode(self, indices: Array) -> Array:
        """See `Frames.decode`."""
        wanted = self.rows[indices]
        out = np.empty((len(wanted), *self.shape[1:]), np.uint8)
        inside = np.flatnonzero(wanted >= 0)
        if len(inside):
            numbers = wanted[inside]
            first, last = int(numbers.min()), int(numbers.max()) + 1
            with clear_hdf5_errors(self.path):
                if last - first <= 2 * len(numbers):  # one read of a few rows too many is quicker than many reads
                    out[inside] = self.member[first:last][numbers - first]
                else:
                    for place, number in zip(inside, numbers, strict=True):
                        out[place] = self.member[int(number)]
        if self.following is not None and len(inside) < len(wanted):
            with clear_hdf5_errors(self.path):
                out[wanted < 0] = self.following[-1]
        return out

    def select(self, indices: Array) -> "Hdf5Frames":
        """See `Frames.select`."""
        return Hdf5Frames(self.member, self.rows[indices], self.path, self.following)


def is_image(member: h5py.Dataset) -> bool:
    """Rows are images: (N, H, W, 3) or (N, H, W, 1), uint8."""
    return bool(member.dtype == np.uint8 and member.ndim == 4 and member.shape[3] in (1, 3) and min(member.shape) > 0)


def outline(path: Path, limit: int = 12) -> str:
    """What a file holds, in a line, for error messages."""
    with open_file(path) as file, clear_hdf5_errors(path):
        names = leaves(file)
    shown = ", ".join(names[:limit])
    return f"HDF5 with {len(names)} data sets: {shown}{', ...' if len(names) > limit else ''}"
