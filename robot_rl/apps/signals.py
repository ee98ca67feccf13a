"""The first Ctrl-C asks to stop, the second stops."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stop_requests(asked: Callable[[], None], *, second_stops: bool = True) -> Iterator[list[int]]:
    """Inside, each Ctrl-C or SIGTERM goes into the list that is given, and the second raises KeyboardInterrupt.

    Args:
        asked: is called when one comes that does not raise.
        second_stops: the second one raises.
    """
    requested: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if requested and second_stops:
            raise KeyboardInterrupt
        requested.append(number)
        asked()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM stops as cleanly as Ctrl-C: it raises KeyboardInterrupt."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
