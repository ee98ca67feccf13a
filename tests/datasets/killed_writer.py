"""Appends to a store until it is killed: for each number on the standard input, a child writes for so many seconds.

Prints how many episodes the child had reported as committed. The parent never touches zarr, so that forking is safe
and the imports are paid once.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from robot_rl.datasets.store import EpisodeStore
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode


def make_spec() -> Spec:
    """Low-dimensional, two kinds of array."""
    return Spec(observation={"state": ArraySpec(shape=(3,), dtype="float64")}, action=ArraySpec(shape=(2,)))


def make_written_episode(seed: int) -> Episode:
    """The episode at index `seed` of the store."""
    rng = np.random.default_rng(seed)
    steps = 5 + seed % 50
    truncated = np.zeros(steps, bool)
    truncated[-1] = True
    return Episode(
        observation={"state": rng.normal(size=(steps + 1, 3))},
        action=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        reward=rng.normal(size=steps),
        terminated=np.zeros(steps, bool),
        truncated=truncated,
        metadata={"seed": seed},
    )


def write(path: Path, report: int) -> None:
    """Append until killed."""
    store = EpisodeStore.append_to(path)
    os.write(report, f"{len(store)}\n".encode())
    while True:
        store.append(make_written_episode(len(store)))
        os.write(report, f"{len(store)}\n".encode())


def main() -> None:
    """A child for each line of the standard input."""
    for line in sys.stdin:
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            write(Path(sys.argv[1]), write_end)
        os.close(write_end)
        with os.fdopen(read_end) as reports:
            first = reports.readline()
            time.sleep(float(line))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print([first, *reports.read().split()][-1].strip(), flush=True)


if __name__ == "__main__":
    main()
