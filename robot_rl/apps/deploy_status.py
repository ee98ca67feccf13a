"""The line that says how a deployment is going, drawn by a thread of its own so that the loop does not wait for it."""

import threading
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

PERIOD_S = 0.25


class StatusLine:
    """Shows what `line` returns, four times a second; on a terminal alone."""

    def __init__(self, console: Console, line: Callable[[], Text | None]) -> None:
        """Enter it to begin. Where `line` returns None, what is shown stays, and a person can type."""
        self._line, self._stop = line, threading.Event()
        self._live = Live(Text(), console=console, auto_refresh=False, transient=True)
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._shown = console.is_terminal

    def __enter__(self) -> "StatusLine":
        if self._shown:
            self._live.start()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._shown:
            self._thread.join()
            self._live.stop()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            line = self._line()
            if line is not None:
                self._live.update(line, refresh=True)
