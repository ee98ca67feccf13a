"""Notices in time that nobody goes on: a stop that is latched needs a person, one that comes before does not."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import Condition, Thread
from typing import Any


class Overdue:
    """Calls a function, in a thread of its own, when something that was expected does not come in time."""

    def __init__(self, after_s: float, act: Callable[[], None], lock: AbstractContextManager[Any]) -> None:
        """Nothing is expected yet.

        Args:
            after_s: how long after `expect` it is overdue.
            act: called once for each `expect` that nothing followed, holding the lock.
            lock: of what `act` uses. Whoever says `came` takes it afterwards, so that `act` is done or does not come.
        """
        self._after_s, self._act, self._lock = after_s, act, lock
        self._due_s: float | None = None
        self._closed = False
        self._changed = Condition()
        self._thread = Thread(target=self._run, name="overdue", daemon=True)
        self._thread.start()

    def expect(self) -> None:
        """From now on. Wakes nobody: the thread looks again before this can be overdue."""
        self._due_s = time.monotonic() + self._after_s

    def came(self) -> None:
        """It is here, or not expected any more."""
        self._due_s = None

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                left_s = self._left_s()
                if left_s > 0:
                    self._changed.wait(left_s)
                    continue
            with self._lock:
                if self._left_s() > 0:  # while the lock was waited for, it may have come
                    continue
                self._due_s = None
                self._act()

    def _left_s(self) -> float:
        due_s = self._due_s
        return self._after_s if due_s is None else due_s - time.monotonic()
