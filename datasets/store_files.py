"""The files of a store: made whole or not at all, forced to the disk, with errors that say what went wrong."""

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robot_rl.errors import InputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Keep what is there, unless it is a store and may be replaced.

    Raises:
        InputError: names `overwrite=true` where that would help.
    """
    if not path.exists():
        return
    if not is_store(path):
        raise InputError(f"{path} is there already and is no episode store: choose another name")
    if not overwrite:
        raise InputError(f"{path} is there already: choose another name, or replace it with overwrite=true")


@contextlib.contextmanager
def building(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well, and vanishes when it does not.

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
            if path.exists():
                path.rename(replaced)
            temporary.rename(path)
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)


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


def read_log(path: Path, committed: int) -> tuple[list[dict[str, Any]], int]:
    """The lines of the committed episodes, and the bytes they take."""
    lines = path.read_bytes().splitlines(keepends=True)[:committed] if committed else []
    if len(lines) < committed:
        raise InputError(f"{path} has {len(lines)} lines, but {committed} episodes are committed: the store is damaged")
    return [json.loads(line) for line in lines], sum(len(line) for line in lines)


def write_log(path: Path, lines: list[dict[str, Any]], start: int) -> int:
    """Write lines at byte `start`, dropping what is behind it; returns the bytes of the file."""
    data = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
    with path.open("r+b") as file:
        file.truncate(start)
        file.seek(start)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return start + len(data)


def flush_chunks(folder: Path, array: Any, start: int, stop: int) -> None:
    """Force the chunks of rows [start, stop) to the disk. A chunk of nothing but fill values has no file."""
    size = array.chunks[0]
    for chunk in range(start // size, (stop - 1) // size + 1):
        file = folder.joinpath("c", str(chunk), *["0"] * (len(array.shape) - 1))
        if file.exists():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
