"""Records a run: every topic of a description and of the governor into one MCAP bag, in a process of its own.

    python -m robot_rl.hardware.recorder_node ROBOT --output FOLDER [--parent PID]

Messages are written as they came, without being decoded, in turns of a few milliseconds, so that the death of any
process, this one too, costs nothing that was written before. `metadata.yaml` appears when the first joint states are in
the bag: from then on it records. SIGTERM and SIGINT end the bag; with `--parent` it also ends when that process, which
has started it, does, but not before it has recorded how the robot stopped. Where the disk is full, or the folder is
lost, it ends with status 2.

Log time is when the recorder received a message, publish time when it was sent, both on this machine's wall clock.
"""

import argparse
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool, Header
from trajectory_msgs.msg import JointTrajectory

from robot_rl.errors import InputError
from robot_rl.hardware.bag_writer import BagWriter
from robot_rl.hardware.commands import stop_time_s
from robot_rl.hardware.description import Robot, Topic, load
from robot_rl.hardware.ros_io import message_class, profile
from robot_rl.hardware.watch import SECOND_NS, nanoseconds

OURS = {
    "rl/action": (JointState, True),
    "rl/action_chunk": (JointTrajectory, True),
    "rl/action_pose": (PoseStamped, True),
    "rl/action_twist": (TwistStamped, True),
    "rl/applied": (JointState, True),
    "rl/telemetry": (JointState, False),
    "rl/safety_state": (DiagnosticStatus, True),
    "rl/permit": (Bool, True),
    "rl/takeover": (Joy, False),
    "rl/heartbeat": (Header, False),
}
"""Topics below /NAME: type, and whether they are sent reliably."""
KEPT, IMAGES_KEPT = 2000, 60  # messages that wait for us, of a topic
TURN_NS, SYNC_NS = 20_000_000, SECOND_NS
TURN_MESSAGES = 500  # of a topic in one turn
LINGER_S = 1.0  # after the robot has stopped, without the process that recorded


class Recorder:
    """Subscriptions to everything, and the bag."""

    def __init__(self, robot: Robot, folder: Path) -> None:
        """rclpy must be initialised."""
        self._node = rclpy.create_node("recorder", namespace=f"/{robot.name}")
        facts = {"robot": robot.name, "description": Path(robot.file).read_text(), "started_ns": time.time_ns()}
        self.bag = BagWriter(folder, facts)
        self._joint_states = robot.joint_states.topic
        self._described = False
        self._taken: list[tuple[Any, type, str]] = []
        for topic in _described(robot):
            self._subscribe(message_class(topic), topic.topic, topic.reliability == "reliable")
        for name, (kind, reliable) in OURS.items():
            self._subscribe(kind, f"/{robot.name}/{name}", reliable)
        context = self._node.context
        with context.handle:
            self._wait_set = rclpy_implementation.WaitSet(len(self._taken), 0, 0, 0, 0, 0, context.handle)
        self._synced_ns = time.monotonic_ns()

    def turn(self) -> None:
        """Wait for messages, and write those that are there."""
        context = self._node.context
        with context.handle:
            self._wait_set.clear_entities()
            for subscription, _, _ in self._taken:
                self._wait_set.add_subscription(subscription.handle)
            self._wait_set.wait(TURN_NS)
        found = []
        for subscription, kind, topic in self._taken:
            for _ in range(TURN_MESSAGES):
                taken = subscription.handle.take_message(kind, True)
                if taken is None:
                    break
                found.append((taken[1]["received_timestamp"], topic, taken[0], taken[1]))
        found.sort(key=lambda entry: entry[0])
        for received_ns, topic, content, info in found:
            self.bag.write(
                topic,
                content,
                received_ns=received_ns,
                published_ns=info["source_timestamp"],
                number=info["publication_sequence_number"],
                publisher=bytes(info["publisher_gid"]["data"]).hex(),
            )
        if found:
            self.bag.flush()
        if not self._described and self.bag.counts[self._joint_states]:
            self.bag.describe()
            self._described = True
        if time.monotonic_ns() - self._synced_ns > SYNC_NS:
            self.bag.sync()
            self._synced_ns = time.monotonic_ns()

    def close(self) -> None:
        """End the bag, and leave."""
        self.bag.close()
        self._node.destroy_node()

    def _subscribe(self, kind: type, topic: str, reliable: bool) -> None:
        depth = IMAGES_KEPT if "Image" in kind.__name__ else KEPT
        latched = topic.endswith("safety_state")
        quality = profile(reliable=reliable, depth=depth, latched=latched)
        self._taken.append(
            (self._node.create_subscription(kind, topic, lambda _: None, quality, raw=True), kind, topic)
        )
        module, name = kind.__module__.split(".")[0], kind.__name__
        self.bag.add_topic(topic, f"{module}/msg/{name}")


def _described(robot: Robot) -> list[Topic]:
    found = [robot.joint_states, robot.command, robot.wrench_topic, robot.tool_pose, robot.outcome]
    return [topic for topic in [*found, *robot.points.values(), *robot.cameras.values()] if topic is not None]


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser()
    parser.add_argument("robot")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--parent", type=int)
    given = parser.parse_args(arguments)
    stop = Event()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        robot = load(given.robot)
        recorder = Recorder(robot, given.output)
        gc.collect()
        gc.freeze()
        lingers_ns = nanoseconds(robot.watchdogs.heartbeat_stop_s + stop_time_s(robot.limits) + LINGER_S)
        until_ns: int | None = None
        while not stop.is_set() and (until_ns is None or time.monotonic_ns() < until_ns):
            recorder.turn()
            if until_ns is None and given.parent not in (None, os.getppid()):
                until_ns = time.monotonic_ns() + lingers_ns
        recorder.close()
    except (InputError, OSError) as error:
        sys.stderr.write(f"recorder: {error}\n")
        return 2
    finally:
        rclpy.shutdown()
        gc.unfreeze()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
