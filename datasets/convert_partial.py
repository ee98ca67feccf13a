"""A store under construction that outlives the process which writes it.

It is a hidden folder beside the target, named by the hash of what is being done, so that the same command finds it
again. It holds the store, of which every commit is safe, and a journal with a line for each episode of the source that
was looked at. The journal is written before the commit that it describes: on the way back its lines are taken as far
as the store has their episodes.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.remote import cache_folder, publish, refuse_existing_at, url_of
from robot_rl.datasets.schema import Finding
from robot_rl.datasets.store_files import clear_disk_errors, flush
from robot_rl.errors import InputError

STORE = "store.zarr"
JOURNAL = "journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What became of one episode of the source; one of `stored`, `error` and `left_out` says it."""

    place: str
    stored: bool = False
    error: str | None = None
    left_out: str | None = None
    findings: tuple[Finding, ...] = ()

    def to_line(self) -> str:
        """A line of JSON."""
        return json.dumps(asdict(self), allow_nan=False) + "\n"

    @staticmethod
    def of_line(line: bytes) -> "Entry":
        """Undo `to_line`."""
        data = json.loads(line)
        return Entry(**(data | {"findings": tuple(Finding(**finding) for finding in data["findings"])}))


@dataclass(kw_only=True)
class Journal:
    """Entries of episodes 0, 1, ... of the source, in a file; or in memory only, where they are not to outlive us."""

    path: Path | None = None
    entries: list[Entry] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # bytes up to the end of each

    @property
    def stored(self) -> int:
        """How many of the entries are of episodes in the store."""
        return sum(entry.stored for entry in self.entries)

    @staticmethod
    def read(path: Path, committed: int) -> "Journal":
        """The entries up to those that a store with so many episodes has; the rest, and a torn line, is not taken.

        The file is left as it is: the next `write` cuts it off where it goes on.
        """
        journal = Journal(path=path)
        stored = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
            if not line.endswith(b"\n"):
                break
            try:
                entry = Entry.of_line(line)
            except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
                break
            if entry.stored and stored == committed:
                break
            stored += entry.stored
            journal.entries.append(entry)
            journal.ends.append(len(line) + (journal.ends[-1] if journal.ends else 0))
        return journal

    def write(self, start: int, entries: Sequence[Entry]) -> None:
        """Put entries at `start`, in place of what is there and behind; when this returns, they are on the disk.

        Raises:
            InputError: the disk is full.
        """
        lines = [entry.to_line().encode() for entry in entries]
        before = self.ends[start - 1] if start else 0
        self.entries[start:] = entries
        self.ends[start:] = np.cumsum([before, *map(len, lines)])[1:].tolist()
        if self.path is None:
            return
        with clear_disk_errors(self.path), self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.truncate(before)
            file.seek(before)
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def resumable(target: str | Path, job: str, *, overwrite: bool) -> Iterator[Path]:
    """A folder for a store under construction; that store takes the name of the target when the block ends well.

    When the block does not end well, the folder stays, and the next call with the same job finds it as it was left.
    Folders of other jobs for the same target are removed, unless a process still writes to them. A store that is to lie
    at a URL is built in the cache of this machine.

    Args:
        target: of the store, a path or a URL.
        job: hash of what is done.
        overwrite: replace a store that is there.

    Raises:
        InputError: something is there already, or another process does the same job now.
    """
    refuse_existing_at(target, overwrite=overwrite)
    folder = partial_folder(target, job)
    with clear_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_others(folder)
    with locked(folder, f"another process is writing {target}: wait for it, or end it"):
        yield folder
        refuse_existing_at(target, overwrite=overwrite)  # another process may have been faster
        url = url_of(target)
        if url is None:
            _publish(folder / STORE, Path(target))
        else:
            publish(folder / STORE, url, overwrite=overwrite)
        shutil.rmtree(folder, ignore_errors=True)


def partial_folder(target: str | Path, job: str) -> Path:
    """Where a store is built until it is whole."""
    url = url_of(target)
    target = Path(target)
    if url is not None:
        target = cache_folder() / "conversions" / hashlib.sha256(url.encode()).hexdigest()[:16] / target.name
    return target.with_name(f".{target.name}.partial-{job[:16]}")


@contextlib.contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """A folder, made where it is missing, that no other process has locked; the kernel frees it when we are killed.

    Raises:
        InputError: another process has; with the text `busy`.
    """
    with clear_disk_errors(folder):
        descriptor = _lock(folder)
    if descriptor is None:
        raise InputError(busy)
    try:
        yield
    finally:
        os.close(descriptor)


def discard(folder: Path) -> None:
    """Remove what an unfinished job left: a folder or a file."""
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.unlink(missing_ok=True)


def _lock(folder: Path) -> int | None:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if _same(folder, os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)  # whoever had it has removed it meanwhile: make it again


def _same(folder: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(folder.stat(), status)
    except FileNotFoundError:
        return False


def _remove_others(folder: Path) -> None:
    name = re.compile(re.escape(folder.name[:-16]) + "[0-9a-f]{16}")
    for entry in folder.parent.iterdir():
        if entry != folder and name.fullmatch(entry.name) and entry.is_dir():
            descriptor = _lock(entry)
            if descriptor is not None:
                shutil.rmtree(entry, ignore_errors=True)
                os.close(descriptor)


def _publish(temporary: Path, target: Path) -> None:
    replaced = target.with_name(f".{target.name}.replaced-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    with clear_disk_errors(target):
        entries = [temporary, *temporary.rglob("*")]
        flush([entry for entry in entries if entry.is_file()])
        flush([entry for entry in entries if entry.is_dir()])
        try:
            if target.exists():
                target.rename(replaced)
            temporary.rename(target)
            flush([target.parent])
        finally:
            if replaced.exists() and not target.exists():
                replaced.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)


def state_of(journal: Journal) -> dict[str, Any]:
    """What a journal says, for the provenance of the store: which episodes were left out, and why."""
    dropped = [{"place": entry.place, "why": entry.error} for entry in journal.entries if entry.error is not None]
    reasons = [entry.left_out for entry in journal.entries if entry.left_out is not None]
    return {"dropped": dropped, "left_out": {reason: reasons.count(reason) for reason in sorted(set(reasons))}}
