"""How late, and how slow, is a thread in real time that wakes up every 5 ms, while processors may sleep and may not?

    python benchmarks/experiments/waking.py [--turns 8]

Turns of 4 s, in alternation: processors sleep as they like; `/dev/cpu_dma_latency` is held at 0, as the loops do
(robot_rl/loops/realtime.py); a process of the lowest priority keeps each core busy. Prints of each kind the medians
over its turns: by how much the median wake-up was late, and how long the median turn of work took that followed.
"""

import argparse
import gc
import multiprocessing
import os
import time
from contextlib import ExitStack

import numpy as np

from robot_rl.loops.realtime import awake

PERIOD_NS, PERIODS = 5_000_000, 800
KINDS = ("processors sleep", "/dev/cpu_dma_latency held at 0", "cores kept busy")


def keep_busy(core: int) -> None:
    """At the lowest priority there is, until it is terminated."""
    os.sched_setaffinity(0, [core])
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while True:
        pass


def turn() -> tuple[float, float]:
    """Medians of lateness and of work, in microseconds."""
    late, busy, wanted = [], [], time.perf_counter_ns()
    for _ in range(PERIODS):
        wanted += PERIOD_NS
        time.sleep(max(0, wanted - time.perf_counter_ns()) / 1e9)
        woken = time.perf_counter_ns()
        sum(map(len, {i: str(i) for i in range(300)}.values()))
        late.append(woken - wanted)
        busy.append(time.perf_counter_ns() - woken)
    return float(np.median(late)) / 1e3, float(np.median(busy)) / 1e3


def main() -> None:
    """Measure, on the last core."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=8, help="of each kind")
    turns = parser.parse_args().turns
    cores = sorted(os.sched_getaffinity(0))
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    problems: list[str] = []
    gc.disable()
    for _ in range(turns):
        for kind in KINDS:
            with ExitStack() as stack:
                if kind == KINDS[1]:
                    stack.enter_context(awake(problems))
                    if problems:
                        raise SystemExit(problems[0])
                if kind == KINDS[2]:
                    for core in cores:
                        process = multiprocessing.Process(target=keep_busy, args=[core], daemon=True)
                        process.start()
                        stack.callback(process.terminate)
                os.sched_setaffinity(0, [cores[-1]])
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(60))
                try:
                    found[kind].append(turn())
                finally:
                    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
                    os.sched_setaffinity(0, cores)
    for kind, medians in found.items():
        late, busy = np.median(medians, axis=0)
        print(f"{kind}: late by {late:.0f} us, busy for {busy:.0f} us")


if __name__ == "__main__":
    main()
