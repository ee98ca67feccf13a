"""Converts a recording until it is killed: for each number on the standard input, a child has so many seconds.

Prints `killed` or the exit status of the child. The parent never touches zarr, so that forking is safe and the imports
are paid once.
"""

import os
import signal
import sys
import time
from pathlib import Path

from robot_rl.datasets.convert import ConvertSettings, convert


def ended(child: int, within_s: float) -> bool:
    """Whether a child ends by itself in that time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        time.sleep(0.001)
    return False


def main() -> None:
    """A child for each line of the standard input. Arguments: source, store, workers."""
    source, store, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            convert(source, store, ConvertSettings(workers=workers))
            os._exit(0)
        killed = not ended(child, float(line))
        if killed:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if killed else os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
