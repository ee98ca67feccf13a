"""Simulated robots in processes of their own, over real DDS on this machine, each in a ROS domain of its own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from robot_rl.errors import InputError
from robot_rl.hardware import ros
from robot_rl.hardware.launch import SimulatedRobot
from robot_rl.hardware.mujoco_arm import ArmSettings


def why_no_ros() -> str | None:
    """Why processes with ROS 2 cannot be started here; None: they can."""
    try:
        ros.environment(os.environ, domain_id=1)
    except InputError as error:
        return str(error)
    return None


NEEDS_ROS = [
    pytest.mark.skipif(why_no_ros() is not None, reason=str(why_no_ros())),
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),  # lark, which the wheels bring
]


def shared_memory() -> set[Path]:
    """What Fast DDS would leave there."""
    return set(Path("/dev/shm").glob("*fastrtps*")) | set(Path("/dev/shm").glob("*fastdds*"))


@contextmanager
def simulated(
    robot: str = "sim_panda", *, in_lockstep: bool = True, settings: ArmSettings | None = None
) -> Iterator[SimulatedRobot]:
    """Arm and governor, and this process prepared to speak with them."""
    found = SimulatedRobot(robot, ArmSettings() if settings is None else settings, os.environ, in_lockstep=in_lockstep)
    try:
        ros.adopt(os.environ, domain_id=found.domain_id)
        yield found
    finally:
        found.close()
