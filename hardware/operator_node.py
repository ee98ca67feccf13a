"""The operator's terminal: the permit without which nothing moves, and what only a person may ask for.

    python -m robot_rl.hardware.operator_node ROBOT [--permit] [--child]

Publishes the permit on `/NAME/rl/permit` ten times a second, from the first `permit` that is typed, or from the start
with `--permit`, until `stop` is typed or this program ends. With `--child`, for simulated robots, it reads nothing and
ends when the process that started it does. What can be typed, each with the Enter key:

    permit   let the robot move          stop    brake, and stay stopped      (an empty line, too)
    clear    leave the fault             home    go slowly to the home pose
    ready    the scene has been put back, the next episode may begin
"""

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from threading import Event

import rclpy
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from robot_rl.hardware.description import load
from robot_rl.hardware.ros_io import profile

PERIOD_S = 0.1
ANSWER_S = 5.0


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM, SIGINT or the end of the input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("robot")
    parser.add_argument("--permit", action="store_true")
    parser.add_argument("--child", action="store_true")
    given = parser.parse_args(arguments)
    robot = load(given.robot)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("operator", namespace=f"/{robot.name}")
    permit = node.create_publisher(Bool, "rl/permit", profile())
    ready = node.create_publisher(Bool, "rl/ready", profile())
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    permitted, parent = given.permit, os.getppid()
    asked: str | None = None  # a service whose answer is waited for
    future, asked_s = None, 0.0
    while not stop.is_set() and not (given.child and os.getppid() != parent):
        if permitted:
            permit.publish(Bool(data=True))
        rclpy.spin_once(node, timeout_sec=PERIOD_S)
        if future is not None and (future.done() or time.monotonic() - asked_s > ANSWER_S):
            answer = future.result() if future.done() else None
            said = "no answer" if answer is None else "done" if answer.success else answer.message
            sys.stdout.write(f"{asked}: {said}\n")
            sys.stdout.flush()
            future = None
        if given.child or not select.select([sys.stdin], [], [], 0)[0]:
            continue
        line = sys.stdin.readline()
        if not line:
            break
        match line.strip():
            case "permit":
                permitted = True
            case "stop" | "":
                permitted = False
                permit.publish(Bool(data=False))
            case "ready":
                ready.publish(Bool(data=True))
            case "clear" | "home" as asked:
                future = node.create_client(Trigger, f"governor/{asked}").call_async(Trigger.Request())
                asked_s = time.monotonic()
            case other:
                sys.stdout.write(f"'{other}' means nothing here: permit, stop, clear, home or ready\n")
                sys.stdout.flush()
    node.destroy_node()
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
