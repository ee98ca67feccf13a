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

import rclpy
from geometry_msgs.msg import WrenchStamped
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState

from robot_rl.hardware.description import load
from robot_rl.hardware.ros_io import Inbox, commanded, message_class, profile, qos, set_stamp
from robot_rl.hardware.watch import SECOND_NS, Lease


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

    def command(message: Any, _: str) -> None:
        lease.renew(time.monotonic_ns())
        (position if robot.mode == "joint_position" else velocity)[:] = commanded(message, robot.names, robot.mode)

    inbox = Inbox(node)
    inbox.subscribe(message_class(robot.command), robot.command.topic, qos(robot.command), command)
    states = node.create_publisher(JointState, robot.joint_states.topic, qos(robot.joint_states))
    wrench = robot.wrench_topic
    wrenches = None if wrench is None else node.create_publisher(WrenchStamped, wrench.topic, profile())
    period = round(SECOND_NS / robot.joint_states.rate_hz)
    gc.collect()
    gc.freeze()
    gc.disable()
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
        message = JointState(name=list(robot.names), position=list(position), velocity=list(velocity))
        set_stamp(message.header, time.time_ns())
        states.publish(message)
        if wrenches is not None:
            wrenches.publish(WrenchStamped(header=message.header))
    node.destroy_node()
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
