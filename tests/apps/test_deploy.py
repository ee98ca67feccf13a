"""What of `robot-rl deploy` needs no robot; the rest is in `tests/hardware/test_ros_deploy.py`."""

import os
import threading

import pytest

from robot_rl.apps.deploy import keeping_time
from robot_rl.deploy_config import DeployConfig


@pytest.mark.parametrize(("asynchronous", "ranks"), [(False, [49]), (True, [])])
def test_other_threads_follow_the_loop_unless_one_of_them_decides_beside_it(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool, ranks: list[int]
) -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    asked: dict[int, list[int]] = {}

    def note(number: int, kind: int, given: os.sched_param) -> None:
        asked.setdefault(number, []).append(given.sched_priority)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "sched_setscheduler", note)
            with keeping_time(DeployConfig(asynchronous=asynchronous)) as problems:
                assert problems == []
                assert asked[threading.get_native_id()] == [50]
                assert thread.native_id is not None
                assert asked.get(thread.native_id, []) == ranks
    finally:
        release.set()
        thread.join()
