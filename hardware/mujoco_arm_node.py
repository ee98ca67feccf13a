"""A simulated robot behind the topics of a description: a MuJoCo arm in a process of its own.

    python -m robot_rl.hardware.mujoco_arm_node ROBOT [--settings JSON] [--lockstep] [--parent PID]

It publishes joint states, wrench, tool pose, points, outcome and cameras as far as the description has them, on its own
clock and after its own latency, and goes where the command topic says; it holds by itself when commands fail to come
for the `maximum_age_s` of that topic. `--settings` are those of `ArmSettings`. With `--lockstep` its time goes on when
`rl/physics` asks (`hardware/lockstep.py`). With `--parent` it ends when that process, which has started it, does.

Service `/NAME/robot/reset` (std_srvs/Trigger) begins the episode of the parameter `reset.seed` of `/NAME/arm`. Its
parameters `fault.drop`, `late`, `late_s`, `stuck`, `dead`, `clock_jump_s`, `silent` are those of `Faults`; lists are
texts with commas. Cameras are drawn only while somebody listens.
"""

import argparse
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Header

from robot_rl.errors import InputError
from robot_rl.hardware import lockstep
from robot_rl.hardware.arm_cameras import ArmCameras, Picture
from robot_rl.hardware.arm_messages import measured, picture
from robot_rl.hardware.description import Robot, load
from robot_rl.hardware.faults import Faults, Outbox
from robot_rl.hardware.mujoco_arm import ArmSettings, MujocoArm
from robot_rl.hardware.ros_io import (
    Inbox,
    Services,
    commanded,
    message_class,
    profile,
    qos,
    schedule,
    set_stamp,
    stamp_ns,
)
from robot_rl.hardware.sensors import Due, outlets
from robot_rl.hardware.watch import SECOND_NS, Lease, nanoseconds

PRIORITY = 60  # of what receives for it; it has one less
CATCH_UP = 10  # periods at once after a delay; what is longer is lost to the arm, as to a driver that hung


class MujocoArmNode:
    """The arm, its topics, its faults."""

    def __init__(self, robot: Robot, settings: ArmSettings) -> None:
        """rclpy must be initialised."""
        self.arm = MujocoArm(robot, settings)
        self.faults = Faults()
        self.closing = False
        self._robot, self._settings = robot, settings
        self._node, self._service_node = (
            rclpy.create_node(name, namespace=f"/{robot.name}") for name in ("robot", "arm")
        )
        self._inbox = Inbox(self._node)
        self._inbox.subscribe(message_class(robot.command), robot.command.topic, qos(robot.command), self._commanded)
        self._sensors = outlets(robot)
        self._outbox = Outbox()
        self._cameras = ArmCameras(self.arm, settings.image_size)
        topics = {**self._sensors, **robot.cameras}
        self._publishers = {
            name: self._node.create_publisher(message_class(topic), topic.topic, qos(topic))
            for name, topic in topics.items()
        }
        self._due = Due()
        self._newest: dict[str, Any] = {}  # messages that were sent last
        self._stuck: dict[str, Any] = {}  # what stuck sensors repeat
        self._lease = Lease(robot.command.maximum_age_s)
        self._waiting: list[float] | None = None  # a command for the next step of lockstep
        self._asked: Any = None  # of lockstep
        self._seed = 0
        self._began_ns, self._wall_ns = time.monotonic_ns(), time.time_ns()
        self._declare()
        self._services = Services(self._service_node, {"robot/reset": self._reset})

    def run(self, *, parent: int | None) -> None:
        """In real time, until `closing`."""
        problem = schedule(PRIORITY)
        if problem is not None:
            sys.stderr.write(f"simulated arm: {problem}\n")
        period = round(SECOND_NS / self._robot.joint_states.rate_hz)
        next_ns = time.monotonic_ns() + period
        while not self.closing and parent in (None, os.getppid()):
            now = time.monotonic_ns()
            if now < next_ns:
                self._inbox.wait(next_ns - now)
                continue
            self._services.answer()
            if self._waiting is not None:
                self._obey(self._waiting)
                self._waiting = None
            if self._lease.expired(now):
                self.arm.hold()
            periods = (now - next_ns) // period + 1
            self.arm.advance(min(periods, CATCH_UP) * period / SECOND_NS)
            next_ns += periods * period
            drift = round((now - self._began_ns) * self._settings.clock_drift)
            self._measure(now, self._wall_ns + (now - self._began_ns) + drift)
            self._post(self._cameras.take(wait=False), now)
            self._send(now)

    def run_lockstep(self, *, parent: int | None) -> None:
        """When asked, until `closing`."""
        self._inbox.subscribe(Header, lockstep.PHYSICS, profile(depth=lockstep.DEPTH), self._physics)
        answer = self._node.create_publisher(Header, lockstep.STEPPED, profile(depth=lockstep.DEPTH))
        now = lockstep.BEGIN_NS
        self._measure(now, now)
        while not self.closing and parent in (None, os.getppid()):
            self._inbox.wait(lockstep.POLL_NS)
            self._services.answer()
            if self._asked is None:
                continue
            until = stamp_ns(self._asked)
            if until > now:
                moves = lockstep.unpack(self._asked.frame_id, lockstep.PHYSICS)["command"]
                if moves and self._waiting is None:
                    continue  # it is on its way
                if moves:
                    self._obey(self._waiting or [])
                    self.arm.advance((until - now) / SECOND_NS)
                else:
                    self.arm.brake()
                    self._due.clear()  # so that what is due later does not depend on how long nothing moved
                self._waiting = None
                now = until
                self._measure(now, now)
                self._post(self._cameras.take(wait=True), now)
            else:
                self._repeat(now)
            self._asked = None
            self._send(now)
            sent = {name: stamp_ns(message.header) for name, message in self._newest.items()}
            told = Header(frame_id=lockstep.pack(sent=sent))
            set_stamp(told, now)
            answer.publish(told)

    def close(self) -> None:
        """End the threads and the nodes."""
        self._services.close()
        self._cameras.close()
        self._service_node.destroy_node()
        self._node.destroy_node()

    def _commanded(self, message: Any, _: str) -> None:
        self._lease.renew(time.monotonic_ns())
        self._waiting = commanded(message, self._robot.names, self._robot.mode)

    def _obey(self, values: list[float]) -> None:
        names = self._robot.names
        self.arm.command(values, frozenset(names.index(name) for name in self.faults.dead))

    def _physics(self, message: Any, _: str) -> None:
        self._asked = message

    def _reset(self) -> str | None:
        self.arm.reset(self._seed)
        self._waiting = None
        self._outbox.clear()
        self._stuck.clear()
        self._due.clear()
        return None

    def _measure(self, now_ns: int, clock_ns: int) -> None:
        """Measure what is due, and put it on its way."""
        found = self.arm.measure()
        chance = self.arm.chance()
        stamp = clock_ns + nanoseconds(self._settings.clock_offset_s + self.faults.clock_jump_s)
        for name, topic in self._sensors.items():
            if self._due.now(name, topic, now_ns):
                message = self._as_stuck(name, measured(self._robot, name, topic, found, stamp))
                self._put(name, message, now_ns, chance)
        for name, topic in self._robot.cameras.items():
            if self._publishers[name].get_subscription_count() > 0 and self._due.now(name, topic, now_ns):
                self._cameras.ask(name, stamp, self.arm.snapshot())

    def _as_stuck(self, name: str, message: Any) -> Any:
        """The message with what stuck sensors said when they got stuck."""
        if name == "joint_states":
            for index, joint in enumerate(message.name):
                if {joint, name} & set(self.faults.stuck):
                    last = self._stuck.setdefault(joint, message.position[index])
                    message.position[index], message.velocity[index] = last, 0.0
                else:
                    self._stuck.pop(joint, None)
            return message
        if name in self.faults.stuck:
            last = self._stuck.setdefault(name, message)
            return type(last)(
                **{field: getattr(last, field) for field in last.get_fields_and_field_types()}
                | {"header": message.header}
            )
        self._stuck.pop(name, None)
        return message

    def _put(self, name: str, message: Any, now_ns: int, chance: np.random.Generator) -> None:
        self._outbox.put(name, message, now_ns, nanoseconds(self._settings.latency_s), self.faults, chance)

    def _post(self, pictures: list[Picture], now_ns: int) -> None:
        for found in pictures:
            message = picture(self._robot.cameras[found.camera], found.pixels, found.stamp_ns)
            self._put(found.camera, self._as_stuck(found.camera, message), now_ns, self.arm.chance())

    def _send(self, now_ns: int) -> None:
        for name, message in self._outbox.take(now_ns):
            self._newest[name] = message
            self._publishers[name].publish(message)

    def _repeat(self, now_ns: int) -> None:
        """Send the newest of everything once more, and draw what nobody listened to before."""
        for name, message in self._newest.items():
            if name not in self._robot.cameras:
                self._publishers[name].publish(message)
        for name in self._robot.cameras:
            if self._publishers[name].get_subscription_count() > 0:
                self._cameras.ask(name, now_ns, self.arm.snapshot())
        self._post(self._cameras.take(wait=True), now_ns)

    def _declare(self) -> None:
        """The parameters, and what may be written into them."""
        node = self._service_node
        node.declare_parameter("reset.seed", 0)
        for name in Faults.__dataclass_fields__:
            value = getattr(self.faults, name)
            node.declare_parameter(f"fault.{name}", "" if isinstance(value, tuple) else value)
        node.add_on_set_parameters_callback(self._set)

    def _set(self, parameters: Sequence[Any]) -> Any:
        """Runs in the thread of the services: one assignment each."""
        values = {}
        for parameter in parameters:
            group, _, name = parameter.name.partition(".")
            if group == "fault":
                listed = isinstance(getattr(Faults(), name, None), tuple)
                values[name] = [x for x in parameter.value.split(",") if x] if listed else parameter.value
        try:
            names = self._robot.names
            faults = self.faults.with_values(values, [*names, *self._sensors, *self._robot.cameras], names)
        except InputError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.faults = faults
        for parameter in parameters:
            if parameter.name == "reset.seed":
                self._seed = parameter.value
        return SetParametersResult(successful=True)


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser()
    parser.add_argument("robot")
    parser.add_argument("--settings", default="{}")
    parser.add_argument("--lockstep", action="store_true")
    parser.add_argument("--parent", type=int)
    given = parser.parse_args(arguments)
    robot, settings = load(given.robot), ArmSettings(**json.loads(given.settings))
    if given.lockstep and (settings.clock_offset_s or settings.clock_drift):
        raise InputError("simulated arm: in lockstep there is one clock, so clock_offset_s and clock_drift must be 0")
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = MujocoArmNode(robot, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(node, "closing", True))
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        (node.run_lockstep if given.lockstep else node.run)(parent=given.parent)
    finally:
        node.close()
        rclpy.shutdown()
        gc.unfreeze()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
