"""Answers that were bought: one JSON line each, appended and forced to the disk before the next question is asked."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robot_rl.errors import InputError


def key_of(**parts: Any) -> str:
    """Of a question: what decides the answer, and nothing else. 32 digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(kw_only=True, eq=False)
class AnswerCache:
    """A file of answers by key, to which one process appends; nothing in it is ever changed or removed.

    A line that a crash cut is kept as it is, and passed over.
    """

    path: Path
    answers: dict[str, str] = field(default_factory=dict)
    damaged: int = 0  # lines that cannot be read
    _descriptor: int = field(default=-1, repr=False)

    @staticmethod
    def read(path: Path) -> "AnswerCache":
        """What was bought so far; without a file, nothing. It is not opened for writing.

        Raises:
            InputError: it is there, and cannot be read.
        """
        cache = AnswerCache(path=path)
        try:
            data = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise InputError(f"the answers in {path} cannot be read: {error}") from error
        for line in data.splitlines():
            entry = _parsed(line)
            if entry is not None:
                cache.answers[entry[0]] = entry[1]
            elif line.strip():
                cache.damaged += 1
        return cache

    @staticmethod
    def open(path: Path) -> "AnswerCache":
        """As `read`, for appending.

        Raises:
            InputError: it cannot be written.
        """
        cache = AnswerCache.read(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            cache._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            size = os.fstat(cache._descriptor).st_size
            if size and os.pread(cache._descriptor, 1, size - 1) != b"\n":
                os.write(cache._descriptor, b"\n")  # behind a line that was cut
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise InputError(f"the answers in {path} cannot be written: {error}") from error
        return cache

    def add(self, key: str, answer: str, **details: Any) -> None:
        """Keep an answer; when this returns, it is on the disk.

        Raises:
            InputError: the disk is full.
        """
        line = json.dumps({"key": key, "answer": answer, **details}).encode()  # ASCII, which keeps half a character too
        try:
            _write_all(self._descriptor, line + b"\n")
            os.fsync(self._descriptor)
        except OSError as error:
            raise InputError(
                f"an answer could not be written to {self.path}: {error}. What was bought before is unharmed: make "
                "room, and give the same command again"
            ) from error
        self.answers[key] = answer

    def close(self) -> None:
        """Let go of the file; calling it twice is allowed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _parsed(line: bytes) -> tuple[str, str] | None:
    try:
        entry = json.loads(line)
        key, answer = entry["key"], entry["answer"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (key, answer) if isinstance(key, str) and isinstance(answer, str) else None


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
