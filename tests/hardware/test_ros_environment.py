"""The ROS 2 environment passes the contract of every simulator, over real DDS, in lockstep with processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from robots import NEEDS_ROS, shared_memory, simulated

from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.hardware.description import load
from robot_rl.hardware.launch import SimulatedRobot
from robot_rl.hardware.mujoco_arm import ArmSettings
from robot_rl.testing.contracts import ENVIRONMENT_CHECKS, actions_of, need_equal, roll_out

pytestmark = NEEDS_ROS
STEPS = 15


@pytest.fixture(scope="module")
def robot() -> Iterator[SimulatedRobot]:
    """One simulated robot, which all tests but those that break it share."""
    before = shared_memory()
    with simulated(settings=ArmSettings(image_size=32)) as found:
        yield found
    assert shared_memory() <= before


def connect(robot: SimulatedRobot, **changes: Any) -> Any:
    """An environment on it."""
    from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment

    settings = EnvironmentSettings(mode="lockstep", reset="service", image_size=32, maximum_steps=STEPS)
    return RosEnvironment(
        load("sim_panda"), replace(settings, **changes), domain_id=robot.domain_id, check=robot.check
    )


@pytest.mark.parametrize("check", ENVIRONMENT_CHECKS, ids=lambda check: check.__name__)
def test_contract(robot: SimulatedRobot, check: Callable[[Callable[[], Environment]], None]) -> None:
    check(lambda: connect(robot))
