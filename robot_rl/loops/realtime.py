"""What a process needs to keep its time: a grid, no garbage collection in between, a scheduler that prefers it."""

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from robot_rl.clock import Clock

SPIN_NS = 200_000  # before a tick, in which sleeping would be too coarse
SWITCH_S = 0.0005  # longest time that another thread of Python keeps this one waiting


@dataclass(kw_only=True)
class Pacer:
    """A fixed grid of time: ticks at `begin + k * period`, k = 1, 2, ...; what is missed is counted, never caught up.

    Args:
        clock: by which the grid is.
        period_ns: between two ticks.
        sleep: waits so many seconds; a test moves its clock instead.
    """

    clock: Clock
    period_ns: int
    sleep: Callable[[float], None] = time.sleep
    missed: int = 0  # ticks
    _next_ns: int = 0

    def begin(self) -> None:
        """The grid begins now."""
        self._next_ns = self.clock.now_ns() + self.period_ns

    def wait(self) -> int:
        """Until the next tick that is still ahead. Returns by how many nanoseconds it came late."""
        behind = self.clock.now_ns() - self._next_ns
        if behind >= 0:
            skipped = behind // self.period_ns + 1
            self.missed += skipped
            self._next_ns += skipped * self.period_ns
        while (left := self._next_ns - self.clock.now_ns()) > 0:
            self.sleep(max(left - SPIN_NS, 0) / 1e9)
        late = self.clock.now_ns() - self._next_ns
        self._next_ns += self.period_ns
        return late


@contextmanager
def steady(priority: int | None) -> Iterator[list[str]]:
    """Inside, this thread keeps its time as well as the machine allows. Yields what it does not allow, in words.

    Garbage is collected before, and afterwards only by `collect`. `priority` is that of SCHED_FIFO, 1 to 99, for this
    thread alone; None asks for no real-time scheduling.
    """
    problems: list[str] = []
    before = (os.sched_getscheduler(0), os.sched_getparam(0))
    enabled, switch_s = gc.isenabled(), sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(SWITCH_S)
    if priority is not None:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
        except OSError as error:
            problems.append(
                f"no real-time scheduling ({error.strerror}): periods will be less even. Allow it with `ulimit -r "
                f"{priority}` (rtprio in /etc/security/limits.conf), or set priority=null"
            )
    try:
        yield problems
    finally:
        if priority is not None and not problems:
            os.sched_setscheduler(0, *before)
        sys.setswitchinterval(switch_s)
        gc.unfreeze()
        if enabled:
            gc.enable()


def collect() -> None:
    """Collect the garbage of the last minutes, where nobody waits: between episodes."""
    gc.collect()
    gc.freeze()
