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
        """From now on."""
        with self._changed:
            self._due_s = time.monotonic() + self._after_s
            self._changed.notify()

    def came(self) -> None:
        """It is here, or not expected any more."""
        with self._changed:
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
                if left_s is None or left_s > 0:
                    self._changed.wait(left_s)
                    continue
            with self._lock:
                with self._changed:
                    left_s = self._left_s()  # while the lock was waited for, it may have come
                    if left_s is None or left_s > 0:
                        continue
                    self._due_s = None
                self._act()

    def _left_s(self) -> float | None:
        return None if self._due_s is None else self._due_s - time.monotonic()
