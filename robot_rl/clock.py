"""Time as an argument: integer nanoseconds of a monotonic clock, or a fake one in tests."""

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """A source of time; two stamps are only comparable when they come from the same one."""

    def now_ns(self) -> int:
        """Nanoseconds since an arbitrary origin; never decreases."""


class MonotonicClock:
    """The machine's monotonic clock."""

    def now_ns(self) -> int:
        """Nanoseconds since an arbitrary origin; never decreases."""
        return time.monotonic_ns()


@dataclass
class FakeClock:
    """A clock that moves when it is told to."""

    time_ns: int = 0

    def now_ns(self) -> int:
        """The time that was set."""
        return self.time_ns

    def advance(self, duration_s: float) -> None:
        """Move on by `duration_s` seconds."""
        self.time_ns += round(duration_s * 1e9)
