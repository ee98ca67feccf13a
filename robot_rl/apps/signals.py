"""The first Ctrl-C asks to stop, the second stops."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def stop_requests(asked: Callable[[], None]) -> Iterator[list[int]]:
    """Inside, the first Ctrl-C or SIGTERM fills the list that is given, and the second raises KeyboardInterrupt.

    Args:
        asked: is called when the first one comes.
    """
    requested: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if requested:
            raise KeyboardInterrupt
        requested.append(number)
        asked()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
