"""A ROS domain belongs to one run at a time, and is free again however that run ends."""

import os
import signal
import subprocess
import sys

from robot_rl.hardware.domains import FIRST, LAST, Domain


def test_two_runs_get_two_domains_and_give_them_back() -> None:
    one, other = Domain(), Domain()
    assert one.number != other.number
    assert all(FIRST <= domain.number <= LAST for domain in (one, other))
    number = one.number
    one.close()
    again = Domain()
    assert again.number == number
    for domain in (other, again):
        domain.close()


def test_a_killed_run_gives_its_domain_back() -> None:
    code = "from robot_rl.hardware.domains import Domain; d = Domain(); print(d.number, flush=True); input()"
    run = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    assert run.stdin is not None
    number = int(run.stdout.readline())
    start = (number - FIRST) % (LAST - FIRST + 1)
    assert taken(start) != number
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()
    run.stdin.close()
    assert taken(start) == number


def taken(start: int) -> int:
    """The domain that one gets now who begins to look there."""
    domain = Domain(start)
    domain.close()
    return domain.number
