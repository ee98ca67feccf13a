"""A policy in a process of its own, as light as can be, that can be killed, stopped, and told to go wrong.

    python policy_process.py DESCRIPTION PARENT

Reads words from its standard input: what it does from then on, and answers with when that was, in nanoseconds of the
wall clock. It ends with the process PARENT.
"""

import os
import random
import sys
import time
from collections import deque
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

from robot_rl.hardware.description import load
from robot_rl.hardware.person import Lines
from robot_rl.hardware.ros_io import Inbox, profile, qos, set_stamp, stamp_ns

BEAT_S, TURN_NS = 0.05, 10_000_000
AMPLITUDE_RAD, SPEED_RAD_S = 0.04, 0.1  # of the motion around the start pose
FAR_RAD, FAST_RAD_S = 10.0, 100.0
AGES_AGO = 80  # joint states, that an old answer is behind
FLOODS = 10  # commands at a time
BROKEN = {"nan": float("nan"), "infinity": float("inf")}


def main(path: str, parent: int) -> None:
    robot = load(path)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("policy", namespace=f"/{robot.name}")
    inbox, lines = Inbox(node), Lines(sys.stdin.fileno())
    seen: deque[Any] = deque(maxlen=AGES_AGO)
    inbox.subscribe(
        JointState, robot.joint_states.topic, qos(robot.joint_states), lambda message, _: seen.append(message.header)
    )
    action = node.create_publisher(JointState, "rl/action", profile())
    beat = node.create_publisher(Header, "rl/heartbeat", profile(reliable=False))
    start = [joint.start for joint in robot.joints]
    chance = random.Random(0)
    doing, spoken_s, beaten_s = "swing", 0.0, 0.0

    def command() -> JointState:
        """What it is told to do, once."""
        message = JointState(name=list(robot.names))
        set_stamp(message.header, stamp_ns(seen[-1]))
        sweep = time.monotonic() * SPEED_RAD_S % (4 * AMPLITUDE_RAD)  # there and back at one speed
        swing = [x + abs(sweep - 2 * AMPLITUDE_RAD) - AMPLITUDE_RAD for x in start]
        match doing:
            case "nan" | "infinity":
                message.position = [BROKEN[doing], *swing[1:]]
            case "old answers":
                message.header = seen[0]
                message.position = swing
            case "unknown answers":
                set_stamp(message.header, stamp_ns(seen[-1]) + 10**15)
                message.position = swing
            case "other joints":
                message.name[0] = "elbow"
                message.position = swing
            case "far positions":  # of all joints, which takes the tool out of its box, or of the last, which does not
                far = [chance.choice((-FAR_RAD, FAR_RAD)) for _ in start]
                last = [0.0] * (len(start) - 1) + far[-1:]
                message.position = [x + d for x, d in zip(start, chance.choice((far, last)), strict=True)]
            case "fast velocities":
                message.velocity = [chance.choice((-FAST_RAD_S, FAST_RAD_S)) for _ in start]
            case _:
                message.position = swing
        return message

    while os.getppid() == parent and not lines.ended:
        inbox.wait(TURN_NS)
        for line in lines.take():
            doing = line
            sys.stdout.write(f"{time.time_ns()}\n")
            sys.stdout.flush()
        now = time.monotonic()
        if doing != "no heartbeat" and now - beaten_s > BEAT_S:
            beaten_s = now
            beat.publish(Header())
        pause_s = 0.0 if doing == "flood" else 1 / robot.controller_rate_hz
        if doing != "no commands" and len(seen) == AGES_AGO and now - spoken_s >= pause_s:
            spoken_s = now
            for _ in range(FLOODS if doing == "flood" else 1):
                action.publish(command())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
