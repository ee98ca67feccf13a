"""A robot of joints that go exactly where they are told: the least that can stand behind the topics of a description.

    python -m robot_rl.hardware.joint_robot_node ROBOT [--parent PID]

It measures no contact (a wrench of zero), has no cameras and no dynamics. It stops by itself when commands fail to come
for the `maximum_age_s` of the command topic, once they have begun. With `--parent` it ends when that process, which
has started it, does.
"""

import argparse
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from threading import Event
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import WrenchStamped
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

from robot_rl.hardware.cdr import JointWriter
from robot_rl.hardware.description import TOOL_MODES, load
from robot_rl.hardware.kinematics import way_to
from robot_rl.hardware.ros_io import (
    Inbox,
    commanded,
    message_class,
    pose_of,
    profile,
    qos,
    schedule,
    set_stamp,
    twist_of,
)
from robot_rl.hardware.watch import SECOND_NS, Lease

PRIORITY = 60


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser()
    parser.add_argument("robot")
    parser.add_argument("--parent", type=int)
    given = parser.parse_args(arguments)
    robot = load(given.robot)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("robot", namespace=f"/{robot.name}")
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    position = [joint.start for joint in robot.joints]
    velocity = [0.0] * len(position)
    lease = Lease(robot.command.maximum_age_s)

    tool = robot.tool_motion()

    def for_tool(message: Any) -> list[float]:
        """What a Cartesian controller would make of it: the joints' velocities of least squares, for one period."""
        point, turned, jacobian = tool(position)
        if robot.mode == "tool_twist":
            twist = np.array(twist_of(message))
        else:
            twist = np.concatenate(way_to(pose_of(message), point, turned)) / robot.control_period_s
        found: list[float] = (np.linalg.pinv(jacobian, rcond=1e-3) @ twist).tolist()
        return found

    def command(message: Any, _: str) -> None:
        lease.renew(time.monotonic_ns())
        if robot.mode in TOOL_MODES:
            velocity[:] = for_tool(message)
        else:
            (position if robot.mode == "joint_position" else velocity)[:] = commanded(message, robot.names, robot.mode)

    inbox = Inbox(node)
    inbox.subscribe(message_class(robot.command), robot.command.topic, qos(robot.command), command)
    states = node.create_publisher(JointState, robot.joint_states.topic, qos(robot.joint_states))
    wrench = robot.wrench_topic
    wrenches = None if wrench is None else node.create_publisher(WrenchStamped, wrench.topic, profile())
    wrench_message, written = WrenchStamped(), JointWriter(robot.names)
    period = round(SECOND_NS / robot.joint_states.rate_hz)
    gc.collect()
    gc.freeze()
    gc.disable()
    problem = schedule(PRIORITY)
    if problem is not None:
        sys.stderr.write(f"robot: {problem}\n")
    last = time.monotonic_ns()
    next_ns = last + period
    while not stop.is_set() and given.parent in (None, os.getppid()):
        now = time.monotonic_ns()
        if now < next_ns:
            inbox.wait(next_ns - now)
            continue
        next_ns += max(-(-(now - next_ns + 1) // period), 1) * period  # the next point of the grid
        if not lease.expired(now):
            for i, v in enumerate(velocity):
                position[i] += v * (now - last) / SECOND_NS
        last = now
        stamp = time.time_ns()
        if wrenches is not None:
            set_stamp(wrench_message.header, stamp)
            wrenches.publish(wrench_message)
        message = written(stamp, position=position, velocity=velocity)
        states.publish(message)
    node.destroy_node()
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
