"""What of `robot-rl deploy` needs no robot; the rest is in `tests/hardware/test_ros_deploy.py`."""

import threading

import pytest

from robot_rl.apps.deploy import keeping_time
from robot_rl.deploy_config import DeployConfig


@pytest.mark.parametrize(("asynchronous", "wanted"), [(False, [49]), (True, [])])
def test_other_threads_follow_the_loop_unless_one_of_them_decides_beside_it(
    ranks: tuple[int, dict[int, list[int]]], asynchronous: bool, wanted: list[int]
) -> None:
    thread, asked = ranks
    with keeping_time(DeployConfig(asynchronous=asynchronous)) as problems:
        assert problems == []
        assert asked[threading.get_native_id()] == [50]
        assert asked.get(thread, []) == wanted
