"""What a run of a benchmark does in its own process: a command line, watched by whoever asked for it."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path


def main(argv: list[str]) -> int:
    """Run a command line; when standard input ends, the asker is gone, so stop as after Ctrl-C.

    Args:
        argv: the file to which a line with what was used is added, then the words behind `robot-rl`.
    """
    usage, *words = argv
    threading.Thread(target=_stop_with_standard_input, daemon=True).start()
    begin = time.monotonic()
    from robot_rl.apps import cli

    try:
        return cli.main(words)
    finally:
        used = os.times()
        line = {"wall_s": time.monotonic() - begin, "cpu_s": used.user + used.system}
        with Path(usage).open("a") as file:
            file.write(json.dumps(line) + "\n")


def _stop_with_standard_input() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
