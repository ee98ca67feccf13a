"""The person at this program's own terminal: where the robot is simulated, there is no other."""

import os
import select
import sys
from collections.abc import Callable
from dataclasses import dataclass

READ_BYTES = 4096


class Lines:
    """What is typed, a line at a time, without waiting for it."""

    def __init__(self, descriptor: int) -> None:
        """Of an open file."""
        self._descriptor, self._text = descriptor, b""
        self.ended = False

    def take(self) -> list[str]:
        """The lines that are there."""
        while not self.ended and select.select([self._descriptor], [], [], 0)[0]:
            read = os.read(self._descriptor, READ_BYTES)
            self._text += read
            self.ended = not read
        *whole, self._text = self._text.split(b"\n")
        return [line.decode(errors="replace").strip() for line in whole]


class Terminal:
    """Where this program was started, if a person can answer there."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Of the standard input, or another one."""
        self._descriptor = _standard_input() if descriptor is None else descriptor
        self._lines = None if self._descriptor is None else Lines(self._descriptor)

    @property
    def attended(self) -> bool:
        """It is a terminal, and we are in its foreground; from the background reading it would stop this program."""
        descriptor = self._descriptor
        if descriptor is None or self.ended:
            return False
        try:
            return os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp()
        except OSError:  # it is no terminal of ours, or was closed
            return False

    @property
    def ended(self) -> bool:
        """Nothing can be typed any more: Ctrl-D, or there never was one."""
        return self._lines is None or self._lines.ended

    def take(self) -> list[str]:
        """The lines that were typed since the last time; none where nobody can."""
        return self._lines.take() if self._lines is not None and self.attended else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who is asked for what only a person decides.

    Args:
        patience_s: how long he is waited for.
        tell: says to him what he has to do.
        terminal: ours, which is his where the robot is simulated; None: he has the operator's.
    """

    patience_s: float
    tell: Callable[[str], None]
    terminal: Terminal | None = None


def _standard_input() -> int | None:
    try:
        return None if sys.stdin is None else sys.stdin.fileno()
    except (OSError, ValueError):  # a substitute that is no file, or it was closed
        return None
