"""Who does the work that may take longer than there is time."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from robot_rl.steering.proposals import Deadline

T = TypeVar("T")


class TooLate(RuntimeError):
    """The work was not done in time; what it still gives is dropped."""


class Worker(Protocol):
    """Does one piece of work until a deadline."""

    def run(self, call: Callable[[], T], deadline: Deadline, name: str) -> T:
        """The result of `call`, or what it raised.

        Raises:
            TooLate: it is not there in time.
        """


@dataclass(frozen=True)
class Inline:
    """Here and now. Nothing interrupts a call, so that a slow one is only found out afterwards."""

    def run(self, call: Callable[[], T], deadline: Deadline, name: str) -> T:
        """The result of `call`, or what it raised; TooLate where there was no time to begin with."""
        if deadline.passed:
            raise TooLate(f"no time was left to {name}")
        return call()


@dataclass
class Threaded:
    """In one thread beside the caller's, which goes on at the deadline whatever the work does.

    Work that overran goes on in its thread, and until it ends all further work is too late at once: two pieces would
    share the state of one policy. Times are those of the machine, so the deadline's clock must be its monotonic one.
    """

    _pool: ThreadPoolExecutor = field(init=False)
    _running: Future[Any] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="steering")

    def run(self, call: Callable[[], T], deadline: Deadline, name: str) -> T:
        """The result of `call`, or what it raised; TooLate at the deadline."""
        if deadline.passed:
            raise TooLate(f"no time was left to {name}")
        if self._running is not None and not self._running.done():
            raise TooLate(f"cannot {name}: what was begun for an observation before is still running")
        future = self._pool.submit(call)
        self._running = future
        try:
            return future.result(timeout=deadline.left_s)
        except TimeoutError:
            if future.done():  # the work's own TimeoutError
                raise
            raise TooLate(f"there was not enough time to {name}") from None

    def close(self) -> None:
        """Begin nothing more; work that overran may end when it likes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
