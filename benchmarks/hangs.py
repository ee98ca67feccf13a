"""How long after a hang two processes hear each other again over DDS, which forgets who hangs beyond the lease.

    python benchmarks/hangs.py 1 2 2.5 3 4

For each number, two processes that publish 20 times a second, reliably; one of them is stopped (SIGSTOP) for so many
seconds. Prints when, after it went on, either heard what the other sent after that; `never` where not within 40 s.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing

from robot_rl.hardware import ros
from robot_rl.hardware.domains import Domain

PERIOD_S, TURN_NS = 0.05, 10_000_000
FIRST_S, PATIENCE_S = 240.0, 40.0
NAMES = ("runs", "hangs")


def publish(me: str, other: str, parent: int) -> None:
    """Speak, and print when the other was heard to say something new, and when it said it; not without the parent."""
    import rclpy
    from std_msgs.msg import Header

    from robot_rl.hardware.ros_io import Inbox, profile, set_stamp, stamp_ns

    rclpy.init()
    node = rclpy.create_node(me)
    publisher = node.create_publisher(Header, f"hangs/{me}", profile())
    inbox, spoken_s = Inbox(node), 0.0

    def heard(message: Header, _: str) -> None:
        sys.stdout.write(f"{time.monotonic_ns()} {stamp_ns(message)}\n")
        sys.stdout.flush()

    inbox.subscribe(Header, f"hangs/{other}", profile(), heard)
    while os.getppid() == parent:
        inbox.wait(TURN_NS)
        if time.monotonic() - spoken_s > PERIOD_S:
            spoken_s, message = time.monotonic(), Header()
            set_stamp(message, time.monotonic_ns())
            publisher.publish(message)


def measure(hang_s: float) -> dict[str, float | None]:
    """Seconds until each heard the other again."""
    with closing(Domain()) as domain:
        environ = ros.environment(os.environ, domain_id=domain.number)
        words = [sys.executable, __file__, "--peer", str(os.getpid())]
        processes = {
            me: subprocess.Popen([*words, me, other], env=environ, stdout=subprocess.PIPE)
            for me, other in (NAMES, NAMES[::-1])
        }
        texts = dict.fromkeys(NAMES, b"")
        for process in processes.values():
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)

        def read(name: str) -> list[tuple[int, int]]:
            """When it heard what was sent when."""
            stream = processes[name].stdout
            assert stream is not None
            texts[name] += stream.read() or b""
            return [(int(a), int(b)) for a, b in (line.split() for line in texts[name].split(b"\n")[:-1])]

        def wait(limit_s: float, since_ns: int, count: int) -> dict[str, float | None]:
            began, found = time.monotonic(), dict[str, float | None].fromkeys(NAMES)
            while None in found.values() and time.monotonic() - began < limit_s:
                time.sleep(PERIOD_S)
                for name in NAMES:
                    new = [at for at, sent in read(name) if sent > since_ns]
                    if len(new) >= count:
                        found[name] = (new[0] - since_ns) / 1e9
            return found

        try:
            if None in wait(FIRST_S, 0, 20).values():
                sys.exit(f"they did not hear each other within {FIRST_S:g} s")
            processes["hangs"].send_signal(signal.SIGSTOP)
            time.sleep(hang_s)
            since_ns = time.monotonic_ns()
            processes["hangs"].send_signal(signal.SIGCONT)
            return wait(PATIENCE_S, since_ns, 1)
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()


def main(arguments: Sequence[str]) -> int:
    """Measure each hang."""
    if arguments[:1] == ["--peer"]:
        publish(*arguments[2:4], int(arguments[1]))
        return 0
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float, nargs="+")
    for hang_s in parser.parse_args(arguments).seconds:
        said = {name: "never" if s is None else f"{s:.2f} s" for name, s in measure(hang_s).items()}
        sys.stdout.write(f"{hang_s:g} s: the one that ran hears the other after {said['runs']}, and is heard after ")
        sys.stdout.write(f"{said['hangs']}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
