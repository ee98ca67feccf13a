"""The governor as a ROS 2 node: a thin shell, and the only publisher of commands.

    python -m robot_rl.hardware.governor_node ROBOT [--lockstep] [--parent PID]

With `--lockstep` its time is that of a simulated arm (`hardware/lockstep.py`), with `--parent` it ends when that
process, which has started it, does. `robot_rl.hardware.ros.start` starts it, and sets the environment. Topics below
/NAME, the name of the robot; stamps of actions are those of the joint states that they answer.

| topic | type | |
|---|---|---|
| rl/action | sensor_msgs/JointState | a policy's: position or velocity |
| rl/action_chunk | trajectory_msgs/JointTrajectory | a policy's, several steps ahead |
| rl/action_pose | geometry_msgs/PoseStamped | a policy's, of the tool in the base frame, which its header names |
| rl/action_twist | geometry_msgs/TwistStamped | a policy's, of the tool's point, along the axes of the base frame |
| rl/heartbeat | std_msgs/Header | of the policy's process |
| rl/permit | std_msgs/Bool | the operator's, repeated; False or silence stops |
| rl/takeover | sensor_msgs/Joy | the person's: velocities of the joints in axes, the button first in buttons |
| rl/applied | sensor_msgs/JointState | what was sent, stamped as the action it follows |
| rl/telemetry | sensor_msgs/JointState | ours and the environment's, named numbers |
| rl/safety_state | diagnostic_msgs/DiagnosticStatus | state, causes, counts |
| rl/heartbeat/governor | std_msgs/Header | ours |

Services, all std_srvs/Trigger: governor/arm, disarm, home, stop, clear. The process that commands is known by its DDS
participant, which it cannot choose: `arm` gives the robot to the one process whose heartbeat is heard, and refuses two.
"""

import argparse
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped, TwistStamped, WrenchStamped
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool, Header
from trajectory_msgs.msg import JointTrajectory

from robot_rl.clock import Clock, FakeClock, MonotonicClock
from robot_rl.hardware.cdr import JointWriter
from robot_rl.hardware.commands import Command, Output
from robot_rl.hardware.description import TOOL_MODES, Robot, load
from robot_rl.hardware.governor import Governor
from robot_rl.hardware.governor_lockstep import run_lockstep
from robot_rl.hardware.inverse import POSE_NAMES, TWIST_NAMES
from robot_rl.hardware.kinematics import quaternion_of
from robot_rl.hardware.phase import Phase
from robot_rl.hardware.ros_io import (
    Inbox,
    Services,
    command_message,
    message_class,
    pose_message,
    pose_of,
    profile,
    qos,
    schedule,
    stamp_ns,
    twist_message,
    twist_of,
)
from robot_rl.hardware.safety import Sent
from robot_rl.hardware.states import State
from robot_rl.hardware.watch import SECOND_NS, Lease, nanoseconds

PRIORITY = 60  # of what receives for it; it has one less
ACTIONS = ("rl/action", "rl/action_chunk", "rl/action_pose", "rl/action_twist")
TELEMETRY = ("governor_s", "action_age_s", "missed", "reasons")
"""What the tick took until its command had been sent, how long before it an action came, periods missed so far, the
bits of `safety.REASON_NAMES`; then `changes.JOINT`, those of each joint."""
QUIET = (State.DISARMED, State.FAULT)
STATE_PERIOD_S = 0.5
CLOSING_S = 5.0


class GovernorNode:
    """Messages in, ticks on a fixed grid, messages out; all in one thread, but for the waiting of the services."""

    def __init__(self, robot: Robot, clock: Clock) -> None:
        """rclpy must be initialised."""
        self.governor, self.robot, self._clock = Governor(robot), robot, clock
        self._simulated = isinstance(clock, FakeClock)
        self._written = JointWriter(robot.names)
        self._tool_motion = robot.tool_motion()
        self.node, self._service_node = (
            rclpy.create_node(name, namespace=f"/{robot.name}") for name in ("governor", "governor_services")
        )
        self._alive: dict[str, Lease] = {}  # processes that send heartbeats
        inbox = self.inbox = Inbox(self.node)
        inbox.subscribe(JointState, robot.joint_states.topic, qos(robot.joint_states), self._joint_states)
        inbox.subscribe(JointState, "rl/action", profile(), self._action)
        inbox.subscribe(JointTrajectory, "rl/action_chunk", profile(), self._chunk)
        if robot.cartesian is not None:
            inbox.subscribe(PoseStamped, "rl/action_pose", profile(), self._pose)
            inbox.subscribe(TwistStamped, "rl/action_twist", profile(), self._twist)
        inbox.subscribe(Header, "rl/heartbeat", profile(reliable=False), self._heartbeat)
        inbox.subscribe(Bool, "rl/permit", profile(), lambda m, _: self.governor.on_permit(m.data, self._now()))
        inbox.subscribe(Joy, "rl/takeover", profile(reliable=False), self._takeover)
        if robot.wrench_topic is not None:
            inbox.subscribe(WrenchStamped, robot.wrench_topic.topic, qos(robot.wrench_topic), self._wrench)
        publisher = self.node.create_publisher
        self._command = publisher(message_class(robot.command), robot.command.topic, qos(robot.command))
        commands = round(1 / (robot.controller_rate_hz * robot.control_period_s))  # that follow one of a policy
        self._applied = publisher(JointState, "rl/applied", profile(depth=max(10, 2 * commands)))
        self._telemetry = publisher(JointState, "rl/telemetry", profile(reliable=False, depth=10))
        self._measured = JointWriter([*TELEMETRY, *(f"changes.{name}" for name in robot.names)])
        self._state = publisher(DiagnosticStatus, "rl/safety_state", profile(latched=True))
        self._beat = publisher(Header, "rl/heartbeat/governor", profile(reliable=False))
        self._told: tuple[State, tuple[str, ...]] | None = None
        self._told_ns = 0
        self._services = Services(
            self._service_node,
            {
                "governor/arm": self._arm,
                "governor/disarm": lambda: self.governor.disarm(self._now()),
                "governor/home": lambda: self.governor.home(self._now()),
                "governor/stop": lambda: self.governor.stop("the operator", self._now()),
                "governor/clear": self.governor.clear,
            },
        )
        self.closing = False
        self.applied: list[Any] = []  # messages since somebody emptied it
        self.last_ns: dict[str, int] = {}  # stamp of the last message of each sensor
        self.action_number = ""  # `frame_id` of the newest action
        self._action_ns: int | None = None  # when it came, if since the last tick

    def run(self, *, parent: int | None) -> None:
        """Until `closing`, or without the process that started it; then bring the robot to rest."""
        period = nanoseconds(self.robot.control_period_s)
        gc.collect()
        gc.freeze()
        gc.disable()
        problem = schedule(PRIORITY)
        if problem is not None:
            sys.stderr.write(f"governor: {problem}\n")
        due_ns = self._now() + period
        phase = Phase(period, nanoseconds(1 / self.robot.controller_rate_hz))
        close_ns: int | None = None
        while True:
            now = self._now()
            opens_ns, closes_ns = due_ns - phase.early_ns, phase.closes_ns(due_ns)
            if now < opens_ns:
                self.inbox.wait(opens_ns - now)
                continue
            came = self._action_ns is not None and phase.belongs(self._action_ns, due_ns)
            if not came and now < closes_ns:
                if phase.expects(due_ns):  # after the joint states that it answers
                    self.inbox.watch((self.robot.joint_states.topic, *ACTIONS), ACTIONS, closes_ns)
                else:
                    self.inbox.wait(closes_ns - now)
                continue
            self.cycle(now)
            self.applied.clear()
            shift = phase.shift_ns(due_ns, self._action_ns, at_once=self.governor.at_rest)
            due_ns += max(-(-(now - due_ns + 1) // period), 1) * period + shift  # the next point of the grid
            self._action_ns = None
            self.closing = self.closing or parent not in (None, os.getppid())
            if self.closing:
                if close_ns is None:
                    close_ns = now + nanoseconds(CLOSING_S)
                    self.governor.disarm(now)
                if self.governor.state in QUIET or now > close_ns:
                    return

    def cycle(self, now_ns: int) -> Output:
        """Answer services, let the governor decide, publish."""
        self.answer_services()
        began_ns = time.monotonic_ns()
        output = self.governor.tick(now_ns)
        self._publish(output, now_ns, began_ns)
        return output

    def answer_services(self) -> None:
        """Do what was asked for."""
        self._services.answer()

    def publish_applied(self) -> None:
        """Once more."""
        for message in self.applied:
            self._applied.publish(message)

    def close(self) -> None:
        """End the thread of the services, and both nodes."""
        self._services.close()
        self._service_node.destroy_node()
        self.node.destroy_node()

    def _now(self) -> int:
        return self._clock.now_ns()

    def _arrived(self) -> int:
        """When the message came that is being handled. In lockstep all that came came now."""
        return self._clock.now_ns() - (0 if self._simulated else self.inbox.age_ns)

    def _joint_states(self, message: Any, _: str) -> None:
        self._note("joint_states", message)
        self.governor.on_joint_states(
            message.name, message.position, message.velocity, message.effort, stamp_ns(message.header), self._arrived()
        )

    def _note(self, sensor: str, message: Any) -> None:
        self.last_ns[sensor] = stamp_ns(message.header)

    def _wrench(self, message: Any, _: str) -> None:
        self._note("wrench", message)
        force, torque = message.wrench.force, message.wrench.torque
        self.governor.on_wrench((force.x, force.y, force.z), (torque.x, torque.y, torque.z), self._arrived())

    def _heartbeat(self, _: Any, source: str) -> None:
        now = self._now()
        self._alive.setdefault(source, Lease(self.robot.watchdogs.heartbeat_stop_s)).renew(now)
        self.governor.on_heartbeat(source, now)

    def _action(self, message: Any, source: str) -> None:
        self.action_number = message.header.frame_id
        velocity = len(message.position) == 0
        self._commanded(
            message, source, [message.velocity if velocity else message.position], [0.0], velocity, message.name
        )

    def _chunk(self, message: Any, source: str) -> None:
        velocity = bool(message.points) and len(message.points[0].positions) == 0
        values = [point.velocities if velocity else point.positions for point in message.points]
        offsets = [point.time_from_start.sec + point.time_from_start.nanosec * 1e-9 for point in message.points]
        self._commanded(message, source, values, offsets, velocity, message.joint_names)

    def _pose(self, message: Any, source: str) -> None:
        self._commanded(message, source, [pose_of(message)], [0.0], False, self._axes(message, POSE_NAMES))

    def _twist(self, message: Any, source: str) -> None:
        self._commanded(message, source, [twist_of(message)], [0.0], True, self._axes(message, TWIST_NAMES))

    def _axes(self, message: Any, names: Sequence[str]) -> list[str]:
        """The names of the values; in another frame than the base's they are others, which the governor refuses."""
        frame = message.header.frame_id
        return list(names) if frame == self.robot.base_frame else [f"{name} in '{frame}'" for name in names]

    def _commanded(
        self,
        message: Any,
        source: str,
        values: list[Sequence[float]],
        offsets_s: list[float],
        velocity: bool,
        names: Sequence[str],
    ) -> None:
        now = self._arrived()
        self._action_ns = now
        self.governor.on_command(
            Command(
                source=source,
                stamp_ns=stamp_ns(message.header),
                names=names,
                values=values,
                offsets_s=offsets_s,
                velocity=velocity,
            ),
            now,
        )

    def _takeover(self, message: Any, source: str) -> None:
        now = self._now()
        held = bool(message.buttons and message.buttons[0])
        self.governor.on_takeover(held, now, source)
        if held:
            self.governor.on_person(message.axes, True, now, source)

    def _arm(self) -> str | None:
        now = self._now()
        self._alive = {source: lease for source, lease in self._alive.items() if not lease.expired(now)}
        if len(self._alive) != 1:
            state = self.governor.state
            first = "" if state is State.DISARMED else f"the governor is {state.value}; "
            return f"{first}{len(self._alive)} processes send heartbeats on rl/heartbeat: one has to command"
        source = next(iter(self._alive))
        controller = self.governor.controller
        if controller is not None and controller != source and self.governor.state is State.DISARMED:
            self.governor.release(controller, now)  # it is not heard any more
        refusal = self.governor.claim(source, now)
        return self.governor.arm(now) if refusal is None else refusal

    def _outgoing(self, sent: Sent) -> Any:
        """What the robot's controller listens to."""
        robot = self.robot
        if robot.mode in TOOL_MODES:
            point, turned, jacobian = self._tool_motion(sent.position)
            if robot.mode == "tool_pose":
                return pose_message(robot.command, point.tolist(), quaternion_of(turned))
            return twist_message(robot.command, jacobian @ np.asarray(sent.velocity))
        return command_message(
            robot.command, self._written, sent.position, sent.velocity, robot.mode, robot.control_period_s
        )

    def _publish(self, output: Output, now_ns: int, began_ns: int) -> None:
        sent = output.sent
        if sent is not None:
            self._command.publish(self._outgoing(sent))
            answers_ns = 0 if output.answers_ns is None else output.answers_ns
            applied = self._written(answers_ns, output.source or "", position=sent.position, velocity=sent.velocity)
            self._applied.publish(applied)
            self.applied.append(applied)
            age_s = 0.0 if self._action_ns is None else (now_ns - self._action_ns) / SECOND_NS
            numbers = (time.monotonic_ns() - began_ns) / SECOND_NS, age_s, output.missed, sent.reasons
            self._telemetry.publish(self._measured(answers_ns, "governor", position=(*numbers, *sent.changes)))
        told = (output.state, output.causes)
        if told != self._told or now_ns - self._told_ns > nanoseconds(STATE_PERIOD_S):
            self._told, self._told_ns = told, now_ns
            self._state.publish(self._status(output))
        self._beat.publish(Header(frame_id="governor"))

    def _status(self, output: Output) -> Any:
        level = DiagnosticStatus.ERROR if output.state is State.FAULT else DiagnosticStatus.OK
        counts = {"missed": output.missed, "early": self.governor.early, **self.governor.refused}
        values = [KeyValue(key=f"cause {i}", value=cause) for i, cause in enumerate(output.causes)]
        values += [KeyValue(key=key, value=str(value)) for key, value in counts.items()]
        return DiagnosticStatus(
            level=level, name="governor", message=output.state.value, hardware_id=self.robot.name, values=values
        )


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT; the robot is then brought to rest first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("robot")
    parser.add_argument("--lockstep", action="store_true")
    parser.add_argument("--parent", type=int)
    given = parser.parse_args(arguments)
    robot = load(given.robot)
    # With rclpy's own handler the context is gone before the last commands are.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    simulated = FakeClock()
    node = GovernorNode(robot, simulated if given.lockstep else MonotonicClock())

    def close(*_: object) -> None:
        node.closing = True

    signal.signal(signal.SIGTERM, close)
    signal.signal(signal.SIGINT, close)
    try:
        if given.lockstep:
            run_lockstep(node, simulated, parent=given.parent)
        else:
            node.run(parent=given.parent)
    finally:
        node.close()
        rclpy.shutdown()
        gc.unfreeze()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
