"""Something that does not come in time is noticed once, and never after it came."""

import time
from threading import RLock

from robot_rl.hardware.pause import Overdue


def waited(condition: object, limit_s: float = 20.0) -> None:
    began = time.monotonic()
    while not condition():  # type: ignore[operator]  # a function
        assert time.monotonic() - began < limit_s
        time.sleep(0.005)


def test_what_is_overdue_is_noticed_once() -> None:
    noticed: list[float] = []
    overdue = Overdue(0.02, lambda: noticed.append(time.monotonic()), RLock())
    time.sleep(0.05)
    assert not noticed  # nothing was expected
    began = time.monotonic()
    overdue.expect()
    waited(lambda: noticed)
    assert noticed[0] - began >= 0.02
    time.sleep(0.05)
    assert len(noticed) == 1
    overdue.expect()
    waited(lambda: len(noticed) == 2)
    overdue.close()


def test_what_came_is_not_noticed_even_where_the_lock_was_waited_for() -> None:
    noticed: list[bool] = []
    lock = RLock()
    overdue = Overdue(0.01, lambda: noticed.append(True), lock)
    with lock:
        overdue.expect()
        time.sleep(0.1)  # it is overdue, but whoever holds the lock may still say that it came
        overdue.came()
    overdue.close()
    assert not noticed
