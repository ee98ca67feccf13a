"""Opening and reading HDF5 with errors that name the file, the key and the remedy."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robot_rl.datasets.schema import require_finite
from robot_rl.errors import InputError, nearest
from robot_rl.types import Array

SIGNATURE = b"\x89HDF\r\n\x1a\n"


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
        InputError: the file is truncated or damaged.
    """
    with clear_hdf5_errors(path):
        return h5py.File(path, "r")


def dataset(group: h5py.Group, key: str, path: Path) -> Array:
    """All rows of a data set of finite numbers.

    Raises:
        InputError: it is missing (with the nearest name), damaged, not numeric, or holds NaN or infinity.
    """
    with clear_hdf5_errors(path):
        member = group.get(key)
        place = group.name.strip("/")
        if not isinstance(member, h5py.Dataset):
            where = f" in {place}" if place else ""
            raise InputError(f"{path}: there is no data set '{key}'{where}; {nearest(key, map(str, group))}")
        place = f"{path}: {member.name.strip('/')}"
        array = _rows(member, path)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{place} holds {array.dtype}, expected numbers")
    if array.ndim == 0:
        raise InputError(f"{place} is a single number, expected one row per step")
    require_finite(array, place)
    return array


def _rows(member: h5py.Dataset, path: Path) -> Array:
    try:
        return np.asarray(member[()])
    except (TypeError, ValueError) as error:  # a damaged description of the data type
        raise InputError(f"{path} is truncated or damaged ({error}): copy it again from its source") from error


def attributes(group: h5py.Group, path: Path) -> dict[str, Any]:
    """All attributes of a group or a file.

    Raises:
        InputError: they are damaged.
    """
    with clear_hdf5_errors(path):
        try:
            return {str(key): value for key, value in group.attrs.items()}
        except (TypeError, ValueError) as error:
            raise InputError(f"{path} is truncated or damaged ({error}): copy it again from its source") from error


def leaves(group: h5py.Group, prefix: str = "") -> list[str]:
    """Paths of all data sets below a group, in the order of the file."""
    names = []
    for name, member in group.items():
        if isinstance(member, h5py.Group):
            names += leaves(member, f"{prefix}{name}/")
        else:
            names.append(f"{prefix}{name}")
    return names


def outline(path: Path, limit: int = 12) -> str:
    """What a file holds, in a line, for error messages."""
    with open_file(path) as file, clear_hdf5_errors(path):
        names = leaves(file)
    shown = ", ".join(names[:limit])
    return f"HDF5 with {len(names)} data sets: {shown}{', ...' if len(names) > limit else ''}"
