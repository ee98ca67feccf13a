"""The governor as a ROS 2 node: a thin shell, and the only publisher of commands.

    python -m robot_rl.hardware.governor_node ROBOT [--lockstep] [--parent PID]

With `--lockstep` its time is that of a simulated arm (`hardware/lockstep.py`), with `--parent` it ends when that
process, which has started it, does. `robot_rl.hardware.ros.start` starts it, and sets the environment. Topics below
/NAME, the name of the robot; stamps of actions are those of the joint states that they answer.

| topic | type | |
|---|---|---|
| rl/action | sensor_msgs/JointState | a policy's: position or velocity |
| rl/action_chunk | trajectory_msgs/JointTrajectory | a policy's, several steps ahead |
| rl/heartbeat | std_msgs/Header | of the policy's process |
| rl/permit | std_msgs/Bool | the operator's, repeated; False or silence stops |
| rl/takeover | sensor_msgs/Joy | the person's: velocities of the joints in axes, the button first in buttons |
| rl/applied | sensor_msgs/JointState | what was sent, stamped as the action it follows |
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
from collections.abc import Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import WrenchStamped
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState, Joy
from std_msgs.msg import Bool, Header
from trajectory_msgs.msg import JointTrajectory

from robot_rl.clock import Clock, FakeClock, MonotonicClock
from robot_rl.hardware.commands import Command, Output
from robot_rl.hardware.description import Robot, load
from robot_rl.hardware.governor import Governor
from robot_rl.hardware.governor_lockstep import run_lockstep
from robot_rl.hardware.phase import Phase
from robot_rl.hardware.ros_io import (
    Inbox,
    Services,
    command_message,
    message_class,
    profile,
    qos,
    set_stamp,
    stamp_ns,
)
from robot_rl.hardware.states import State
from robot_rl.hardware.watch import Lease, nanoseconds

QUIET = (State.DISARMED, State.FAULT)
STATE_PERIOD_S = 0.5
CLOSING_S = 5.0


class GovernorNode:
    """Messages in, ticks on a fixed grid, messages out; all in one thread, but for the waiting of the services."""

    def __init__(self, robot: Robot, clock: Clock) -> None:
        """rclpy must be initialised."""
        self.governor, self.robot, self._clock = Governor(robot), robot, clock
        self.node, self._service_node = (
            rclpy.create_node(name, namespace=f"/{robot.name}") for name in ("governor", "governor_services")
        )
        self._alive: dict[str, Lease] = {}  # processes that send heartbeats
        inbox = self.inbox = Inbox(self.node)
        inbox.subscribe(JointState, robot.joint_states.topic, qos(robot.joint_states), self._joint_states)
        inbox.subscribe(JointState, "rl/action", profile(), self._action)
        inbox.subscribe(JointTrajectory, "rl/action_chunk", profile(), self._chunk)
        inbox.subscribe(Header, "rl/heartbeat", profile(reliable=False), self._heartbeat)
        inbox.subscribe(Bool, "rl/permit", profile(), lambda m, _: self.governor.on_permit(m.data, self._now()))
        inbox.subscribe(Joy, "rl/takeover", profile(reliable=False), self._takeover)
        if robot.wrench_topic is not None:
            inbox.subscribe(WrenchStamped, robot.wrench_topic.topic, qos(robot.wrench_topic), self._wrench)
        publisher = self.node.create_publisher
        self._command = publisher(message_class(robot.command), robot.command.topic, qos(robot.command))
        commands = round(1 / (robot.controller_rate_hz * robot.control_period_s))  # that follow one of a policy
        self._applied = publisher(JointState, "rl/applied", profile(depth=max(10, 2 * commands)))
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
        next_ns = self._now() + period
        phase = Phase(period, nanoseconds(1 / self.robot.controller_rate_hz))
        close_ns: int | None = None
        while True:
            now = self._now()
            if now < next_ns:
                self.inbox.wait(next_ns - now)
                continue
            self.cycle(now)
            self.applied.clear()
            next_ns += max(-(-(now - next_ns + 1) // period), 1) * period  # the next point of the grid
            next_ns += phase.shift_ns(None if self._action_ns is None else now - self._action_ns)
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
        output = self.governor.tick(now_ns)
        self._publish(output, now_ns)
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

    def _joint_states(self, message: Any, _: str) -> None:
        self._note("joint_states", message)
        self.governor.on_joint_states(
            message.name, message.position, message.velocity, message.effort, stamp_ns(message.header), self._now()
        )

    def _note(self, sensor: str, message: Any) -> None:
        self.last_ns[sensor] = stamp_ns(message.header)

    def _wrench(self, message: Any, _: str) -> None:
        self._note("wrench", message)
        force, torque = message.wrench.force, message.wrench.torque
        self.governor.on_wrench((force.x, force.y, force.z), (torque.x, torque.y, torque.z), self._now())

    def _heartbeat(self, _: Any, source: str) -> None:
        now = self._now()
        self._alive.setdefault(source, Lease(self.robot.watchdogs.heartbeat_stop_s)).renew(now)
        self.governor.on_heartbeat(source, now)

    def _action(self, message: Any, source: str) -> None:
        self.action_number = message.header.frame_id
        velocity = len(message.position) == 0
        self._commanded(message, source, [message.velocity if velocity else message.position], [0.0], velocity)

    def _chunk(self, message: Any, source: str) -> None:
        velocity = bool(message.points) and len(message.points[0].positions) == 0
        values = [point.velocities if velocity else point.positions for point in message.points]
        offsets = [point.time_from_start.sec + point.time_from_start.nanosec * 1e-9 for point in message.points]
        self._commanded(message, source, values, offsets, velocity)

    def _commanded(
        self, message: Any, source: str, values: list[Sequence[float]], offsets_s: list[float], velocity: bool
    ) -> None:
        names = message.joint_names if isinstance(message, JointTrajectory) else message.name
        now = self._now()
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

    def _publish(self, output: Output, now_ns: int) -> None:
        robot, sent = self.robot, output.sent
        if sent is not None:
            self._command.publish(
                command_message(
                    robot.command, robot.names, sent.position, sent.velocity, robot.mode, robot.control_period_s
                )
            )
            applied = JointState(name=list(robot.names), position=sent.position, velocity=sent.velocity)
            applied.header.frame_id = output.source or ""
            if output.answers_ns is not None:
                set_stamp(applied.header, output.answers_ns)
            self._applied.publish(applied)
            self.applied.append(applied)
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
