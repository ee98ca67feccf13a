"""Simulated robots in processes of their own, over real DDS on this machine, each in a ROS domain of its own."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


CALL_S = 2.0  # for an answer, before a service is asked again


def ask(
    client: Any,
    request: Any,
    spin: Callable[[Callable[[], bool]], object],
    serve: Callable[[], object] = lambda: None,
) -> Any:
    """What a service answers; an answer can be lost while both sides still find each other, so it is asked again.

    Args:
        client: of the service.
        request: to it.
        spin: lets time go by until what it is given says that it is over.
        serve: hears answers, where `spin` does not.
    """
    futures: list[Any] = []
    asked = 0.0

    def answered() -> bool:
        nonlocal asked
        if client.service_is_ready() and time.monotonic() - asked > CALL_S:
            futures.append(client.call_async(request))
            asked = time.monotonic()
        serve()
        return any(future.done() for future in futures)

    spin(answered)
    return next(future.result() for future in futures if future.done())


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
