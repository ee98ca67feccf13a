"""ROS domains that this machine has free: simulated robots of two runs, or of two tests, must not hear each other."""

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

from robot_rl.errors import InputError

FIRST, LAST = 1, 101  # 0 is where everybody is; above 101 the ports of DDS meet those that Linux gives out


class Domain:
    """A domain that nobody else of this machine takes before `close`, or before this process ends, however it does."""

    def __init__(self, start: int | None = None) -> None:
        """Take the first one that is free, from one that `start` chooses: by default the number of this process.

        Raises:
            InputError: there is none.
        """
        folder = Path(tempfile.gettempdir())
        count = LAST - FIRST + 1
        for offset in range(count):
            number = FIRST + ((os.getpid() if start is None else start) + offset) % count
            lock = _locked(folder / f"robot_rl_ros_domain_{number}.lock")
            if lock is not None:
                self.number, self._lock = number, lock
                return
        raise InputError(f"all ROS domains from {FIRST} to {LAST} are taken on this machine: end what uses them")

    def close(self) -> None:
        """Give it back."""
        self._lock.close()


def _locked(path: Path) -> IO[str] | None:
    """The open file, locked; None where somebody else holds it."""
    try:
        file = path.open("a")
    except PermissionError:  # another user's
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
