"""The files of a store: made whole or not at all, forced to the disk, with errors that say what went wrong."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import uuid
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.errors import InputError
from robot_rl.types import Array

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FLUSHED_AT_ONCE = 8
LOCK = "writer.lock"


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Keep what is there, unless it is a store and may be replaced.

    Raises:
        InputError: names `overwrite=true` where that would help.
    """
    if not path.exists():
        if not overwrite and (kept := kept_aside(path)):
            raise InputError(f"{kept} Delete it, or add overwrite=true, to make another one")
        return
    if not is_store(path):
        raise InputError(f"{path} is there already and is no episode store: choose another name")
    if not overwrite:
        raise InputError(f"{path} is there already: choose another name, or replace it with overwrite=true")


@contextlib.contextmanager
def building(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well, and vanishes when it does not.

    What is there is put aside for the moment between two renames; who is killed in it leaves it aside (`kept_aside`).

    Raises:
        InputError: a store is there already and `overwrite` is off.
    """
    path = Path(path)
    refuse_existing(path, overwrite=overwrite)
    unique = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"  # two in one process do not meet
    temporary = path.with_name(f".{path.name}.partial-{unique}")
    replaced = path.with_name(f".{path.name}.replaced-{unique}")
    try:
        with clear_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        refuse_existing(path, overwrite=overwrite)  # another process may have been faster
        with clear_disk_errors(path):
            entries = [temporary, *temporary.rglob("*")]
            flush([entry for entry in entries if entry.is_file()])
            flush([entry for entry in entries if entry.is_dir()])
            if path.exists():
                path.rename(replaced)
            temporary.rename(path)
            flush([path.parent])
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)


def kept_aside(path: Path) -> str:
    """A sentence about the store that an interrupted replacement of `path` left under another name; else nothing."""
    left = [entry for entry in path.parent.glob(f".{path.name}.replaced-*") if is_store(entry)]
    if not left:
        return ""
    return (
        f"Replacing {path} was interrupted, and what was there is kept at {left[0]}: "
        f"take it back with `mv {left[0]} {path}`."
    )


def near(path: Path, candidates: Iterable[Path]) -> str:
    """`Did you mean '...'? ` with the closest of the names beside `path`; nothing where none is close."""
    by_stem = {entry.stem: entry for entry in sorted(candidates, key=lambda entry: entry.suffix == path.suffix)}
    close = get_close_matches(path.stem, by_stem, n=1, cutoff=0.6)
    return f"Did you mean '{by_stem[close[0]]}'? " if close else ""


def is_store(path: Path) -> bool:
    """Whether the folder is an episode store of any schema version."""
    try:
        metadata = json.loads((path / "zarr.json").read_text())
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return False
    return "schema_version" in metadata.get("attributes", {})


@contextlib.contextmanager
def clear_disk_errors(path: Path) -> Iterator[None]:
    """Say what could not be written and how much space there is.

    Raises:
        InputError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        folder = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        free = shutil.disk_usage(folder).free
        if error.errno in DISK_FULL:
            raise InputError(
                f"the disk is full: {path} could not be written, {free / 1e6:.1f} MB are free in {folder}. "
                "Free some space or choose another place; what was committed before is unharmed"
            ) from error
        raise InputError(f"{path} could not be written: {error.strerror or error}") from error


@contextlib.contextmanager
def clear_store_errors(store: Path) -> Iterator[None]:
    """Say that a store is damaged, where reading it fails.

    Raises:
        InputError: in place of what zarr, its codecs and the parsing of metadata raise.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, MemoryError) as error:
        raise InputError(
            f"{store} cannot be read ({type(error).__name__}: {error}): the store is damaged. Restore it from a copy, "
            "or ingest the source again with overwrite=true"
        ) from error


def log_lines(path: Path) -> list[bytes]:
    """The lines of a log of episodes, with those that are not committed."""
    return path.read_bytes().splitlines(keepends=True)


def read_records(store: Path, lines: list[bytes], ends: Array) -> list[dict[str, Any]]:
    """The lines of the committed episodes.

    Raises:
        InputError: they do not say what the table of ends says.
    """
    records = [json.loads(line) for line in lines[: len(ends)]]
    steps = np.diff(ends, prepend=0) - 1
    wrong = [index for index, record in enumerate(records) if record["steps"] != steps[index] or steps[index] < 1]
    if wrong or len(records) < len(ends):
        where = f"differ about episode {wrong[0]}" if wrong else f"have {len(records)} and {len(ends)} episodes or more"
        raise InputError(
            f"{store}: the log and the table of episodes {where}: the store is damaged. Restore it from a copy, or "
            "ingest the source again with overwrite=true"
        )
    for record in records:
        if not (isinstance(record["sha256"], str) and isinstance(record["metadata"], dict)):
            raise TypeError("a line of the log has fields of other types")
    return records


def write_log(path: Path, lines: list[dict[str, Any]], start: int) -> int:
    """Write lines at byte `start`, dropping what is behind it; returns the bytes of the file. It is not flushed."""
    data = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
    with path.open("r+b") as file:
        file.truncate(start)
        file.seek(start)
        file.write(data)
    return start + len(data)


def chunk_files(store: Path, arrays: Iterable[Any], start: int, stop: int) -> set[Path]:
    """The files with rows [start, stop) of zarr arrays."""
    found: set[Path] = set()
    for array in arrays:
        size, rest = array.chunks[0], ["0"] * (len(array.shape) - 1)
        found |= {store.joinpath(array.path, "c", str(n), *rest) for n in range(start // size, (stop - 1) // size + 1)}
    return found


def flush_within(store: Path, files: set[Path]) -> None:
    """Force files of a store to the disk, with the shapes of their arrays and the folders that name them.

    A chunk of nothing but fill values has no file.
    """
    folders = {folder for file in files for folder in file.parents if folder.is_relative_to(store)}
    there = [path for path in files | {folder / "zarr.json" for folder in folders} if path.exists()]
    flush(there)
    flush([folder for folder in folders if folder.exists()])  # a name never comes to the disk before what it stands for


def remove_partial(files: Iterable[Path]) -> None:
    """Remove what a writer that was killed had not finished."""
    for file in list(files):
        file.unlink(missing_ok=True)


class WriterLock:
    """The right to write to a store, which one process has at a time; the system takes it back when that ends.

    Of the kind that a process shares with itself: several openings in one process are told apart by what they know
    of the store (`EpisodeStore.extend`).
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        with clear_disk_errors(store):
            self._descriptor = os.open(store / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        weakref.finalize(self, os.close, self._descriptor)
        self.acquire()

    def acquire(self) -> None:
        """Take the lock, or keep it.

        Raises:
            InputError: another process has it.
        """
        try:
            with clear_disk_errors(self.store):
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except InputError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.EAGAIN, errno.EACCES):
                raise InputError(
                    f"{self.store} is being written to by another process: wait for it to end, or stop it, or write "
                    "to another store and merge the two"
                ) from error
            raise


def flush(paths: Sequence[Path]) -> None:
    """Force files, and the lists of names in folders, to the disk; several at once share a write of the journal."""
    with ThreadPoolExecutor(max(1, min(len(paths), FLUSHED_AT_ONCE))) as pool:
        list(pool.map(_flush, paths))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)
