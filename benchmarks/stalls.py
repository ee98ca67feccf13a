"""What the machine itself takes from a process that must not wait: the floor under benchmarks/control_loop.py.

    python benchmarks/stalls.py [--seconds 60]

On each core a process of the highest priority that is allowed does nothing but read the clock; between two readings
passes less than a microsecond, unless something takes the processor away, which no program can prevent: the hypervisor
below a virtual machine, firmware, interrupts. Four fifths of the time it looks, in turns of 0.2 s, so that the kernel's
own limit on real-time processes (95 % of a second) plays no part. One line a core: how many gaps were longer than each
of some lengths, and the longest.
"""

import argparse
import gc
import multiprocessing
import os
import time

LENGTHS_MS = (0.2, 0.5, 1.0, 2.0, 5.0)
TURN_NS, REST_S = 200_000_000, 0.05


def watch(core: int, seconds: float) -> None:
    """Look at the clock from one core, and print what was missed."""
    os.sched_setaffinity(0, [core])
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(60))
        scheduled = "in real time"
    except PermissionError:
        scheduled = "at ordinary priority"
    gc.disable()
    gaps_ms = []
    watched_s, now = 0.0, time.perf_counter_ns
    while watched_s < seconds:
        start = last = now()
        while last - start < TURN_NS:
            read = now()
            if read - last > LENGTHS_MS[0] * 1e6:
                gaps_ms.append((read - last) / 1e6)
            last = read
        watched_s += (last - start) / 1e9
        time.sleep(REST_S)
    longer = ", ".join(f"{sum(gap > length for gap in gaps_ms)} > {length:g} ms" for length in LENGTHS_MS)
    print(
        f"core {core}, {scheduled}, {watched_s:.0f} s: {longer}; longest {max(gaps_ms, default=0.0):.1f} ms", flush=True
    )


def main() -> None:
    """Watch all cores at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    watchers = [multiprocessing.Process(target=watch, args=[core, seconds]) for core in sorted(os.sched_getaffinity(0))]
    for watcher in watchers:
        watcher.start()
    for watcher in watchers:
        watcher.join()


if __name__ == "__main__":
    main()
