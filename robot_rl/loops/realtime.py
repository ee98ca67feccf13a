"""What a process needs to keep its time: a grid, no garbage collection in between, a scheduler that prefers it."""

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from robot_rl.clock import Clock

SPIN_NS = 200_000  # before a tick, in which sleeping would be too coarse
SWITCH_S = 0.0005  # longest time that another thread of Python keeps this one waiting
WAKING = Path("/dev/cpu_dma_latency")
"""Linux: while it is open, processors take no longer to wake up than the microseconds written to it (32 bits)."""


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


def _threads(prefixes: tuple[str, ...]) -> list[int]:
    """Numbers of this process's threads whose names begin so."""
    found = []
    for entry in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended meanwhile
            if prefixes and (entry / "comm").read_text().startswith(prefixes):
                found.append(int(entry.name))
    return found


@contextmanager
def awake(problems: list[str]) -> Iterator[None]:
    """Inside, no processor of the machine sleeps; where that is not allowed, `problems` says so."""
    try:
        held = WAKING.open("r+b", buffering=0)
    except OSError as error:
        problems.append(
            f"processors fall asleep between periods ({WAKING}: {error.strerror}): periods will be less even. Make "
            "the file writable for this user, or set priority=null"
        )
        yield
        return
    with held:
        held.write(bytes(4))
        yield


@contextmanager
def steady(priority: int | None, helpers: tuple[str, ...] = (), *, others_follow: bool = False) -> Iterator[list[str]]:
    """Inside, this thread keeps its time as well as the machine allows. Yields what it does not allow, in words.

    Garbage is collected before, and afterwards only by `collect`. With a priority, no processor of the machine sleeps
    either: to wake up takes it a tenth of a millisecond, and it is slow then (docs/results.md). That costs power.

    Args:
        priority: of SCHED_FIFO, 1 to 98, for this thread; None asks for no real-time scheduling.
        helpers: beginnings of names of threads that this one waits for, such as those that receive; they come first.
        others_follow: the other threads of the process come right behind this one. They hold Python's lock at times,
            and one that waited for a processor with it would keep this one waiting too. Not for those that compute.
    """
    problems: list[str] = []
    before: dict[int, tuple[int, os.sched_param]] = {}
    enabled, switch_s = gc.isenabled(), sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(SWITCH_S)
    if priority is not None:
        try:
            own, first = threading.get_native_id(), _threads(helpers)
            behind = [thread for thread in _threads(("",)) if thread not in (own, *first)] if others_follow else []
            wanted = {own: priority} | dict.fromkeys(first, priority + 1) | dict.fromkeys(behind, max(priority - 1, 1))
            for thread, rank in wanted.items():
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    before[thread] = (os.sched_getscheduler(thread), os.sched_getparam(thread))
                    os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(rank))
        except OSError as error:
            problems.append(
                f"no real-time scheduling ({error.strerror}): periods will be less even. Allow it with `ulimit -r "
                f"{priority}` (rtprio in /etc/security/limits.conf), or set priority=null"
            )
    try:
        with awake(problems) if priority is not None else nullcontext():
            yield problems
    finally:
        for thread, (policy, parameters) in before.items():
            with suppress(OSError):  # a helper has ended, or nothing was changed
                os.sched_setscheduler(thread, policy, parameters)
        sys.setswitchinterval(switch_s)
        gc.unfreeze()
        if enabled:
            gc.enable()


def collect() -> None:
    """Collect the garbage of the last minutes, where nobody waits: between episodes."""
    gc.collect()
    gc.freeze()
