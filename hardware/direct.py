"""The simulated arm and its governor in this process, without ROS: the numbers of lockstep over DDS, to the last bit.

The cores are the same (`Governor`, `MujocoArm`), and so is the order in which they are called: that of
`governor_lockstep.py` and `mujoco_arm_node.py`. What is missing is what makes a robot of it: processes that can die,
messages that can be late, people. So it is for learning that is to be quick, and for comparing.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from robot_rl.errors import InputError
from robot_rl.hardware import lockstep
from robot_rl.hardware.commands import Command
from robot_rl.hardware.connection import Heard
from robot_rl.hardware.description import Robot, Topic
from robot_rl.hardware.faults import Faults, Outbox
from robot_rl.hardware.governor import Governor
from robot_rl.hardware.inverse import TWIST_NAMES
from robot_rl.hardware.mujoco_arm import ArmSettings, Measurement, MujocoArm
from robot_rl.hardware.sensors import Due, outlets
from robot_rl.hardware.watch import SECOND_NS, nanoseconds

SOURCE = "environment"  # who commands
HEALTHY = Faults()


class Direct:
    """A `Connection` whose time goes on when a step asks."""

    in_lockstep = True

    def __init__(self, robot: Robot, settings: ArmSettings, heard: Heard) -> None:
        """The arm stands at the start pose of seed 0.

        Args:
            robot: the description.
            settings: of the arm.
            heard: takes the messages of `listen`.

        Raises:
            InputError: settings that do not fit the description, or a clock of the arm's own.
        """
        if settings.clock_offset_s or settings.clock_drift:
            raise InputError("simulated arm: here there is one clock, so clock_offset_s and clock_drift must be 0")
        self.robot = robot
        self.applied: list[Any] = []
        self.state, self.causes, self.ready = "", list[str](), False
        self._settings, self._heard = settings, heard
        self._governor, self._arm = Governor(robot), MujocoArm(robot, settings)
        self._sensors = outlets(robot)
        self._listened: set[str] = set()
        self._outbox, self._due = Outbox(), Due()
        self._period_ns = nanoseconds(robot.control_period_s)
        self._time_ns = 0
        self._sent: list[Any] = []  # what was applied in the last stretch of time
        self._newest: dict[str, tuple[Any, int]] = {}
        self._seed = 0
        self._measure(lockstep.BEGIN_NS)

    def listen(self, sensor: str, topic: Topic) -> None:
        """Hear a sensor from now on.

        Raises:
            InputError: it is a camera.
        """
        if sensor not in self._sensors:
            raise InputError(
                f"environment.transport=none has no cameras, and {topic.topic} is one: leave it out of "
                "environment.observation, or use transport=loopback"
            )
        self._listened.add(sensor)

    def now_ns(self) -> int:
        """Of the arm's clock."""
        return self._time_ns

    def act(self, values: Sequence[float], *, of: str, velocity: bool, answers_ns: int) -> None:
        """Positions or velocities of the `joints`, or a `twist`, answering joint states of that stamp."""
        command = Command(
            source=SOURCE,
            stamp_ns=answers_ns,
            names=TWIST_NAMES if of == "twist" else self.robot.names,
            values=[list(values)],
            velocity=velocity,
        )
        self._governor.on_command(command, self._time_ns)

    def watch(self, sensor: str, until_ns: int) -> None:
        """There is no real time here."""
        raise RuntimeError("watch without real time: time goes on in `wait_until`")

    def wait_until(self, time_ns: int) -> None:
        """Let the governor and the arm go on, a control period at a time, up to that time."""
        governor = self._governor
        self.applied = list(self._sent)
        governor.on_heartbeat(SOURCE, self._time_ns)
        governor.on_permit(True, self._time_ns)
        if self._time_ns == 0:
            self._time_ns = lockstep.BEGIN_NS
            self._deliver()
        if time_ns > self._time_ns:
            self.applied = []
            while self._time_ns < time_ns:
                self._cycle()
            self._sent = list(self.applied)
        else:
            for sensor, (message, stamp) in self._newest.items():
                self._tell(sensor, message, stamp)
        self.state, self.causes = governor.state.value, list(governor.causes)

    def look(self, camera: str) -> None:
        """There are no cameras.

        Raises:
            InputError: always.
        """
        raise InputError(f"environment.transport=none draws no pictures, so not of '{camera}': use transport=loopback")

    def tell(self, numbers: Sequence[float], answers_ns: int) -> None:
        """Nobody listens."""

    def clear_applied(self) -> None:
        """Forget what was applied so far."""
        self.applied = []

    def trigger(self, service: str, patience_s: float | None = None) -> tuple[bool, str]:
        """What the services of the governor and the arm do: whether it succeeded, and the message."""
        governor, now = self._governor, self._time_ns
        problem: str | None = None
        match service:
            case "governor/arm":
                problem = governor.claim(SOURCE, now)
                problem = governor.arm(now) if problem is None else problem
            case "governor/disarm":
                governor.disarm(now)
            case "governor/home":
                problem = governor.home(now)
            case "governor/stop":
                governor.stop("the operator", now)
            case "governor/clear":
                problem = governor.clear()
            case "robot/reset":
                self._arm.reset(self._seed)
                self._outbox.clear()
                self._due.clear()
            case _:
                problem = f"there is no service {service}"
        return problem is None, problem or ""

    def set_parameters(self, node: str, values: dict[str, Any]) -> None:
        """`reset.seed` of the arm; faults are those of a robot over ROS.

        Raises:
            InputError: another parameter.
        """
        for name, value in values.items():
            if (node, name) != ("arm", "reset.seed"):
                raise InputError(
                    f"environment.transport=none has no parameter {name} of {node}: use transport=loopback"
                )
            self._seed = int(value)

    def close(self) -> None:
        """Nothing is held."""

    def _cycle(self) -> None:
        """A control period."""
        robot, arm = self.robot, self._arm
        output = self._governor.tick(self._time_ns)
        if output.sent is not None:
            sent = output.sent
            header = SimpleNamespace(frame_id=output.source or "")
            self.applied.append(SimpleNamespace(header=header, position=sent.position, velocity=sent.velocity))
            arm.command(sent.position if robot.mode == "joint_position" else sent.velocity)
            arm.advance(self._period_ns / SECOND_NS)
        else:
            arm.brake()
            self._due.clear()
        self._time_ns += self._period_ns
        self._measure(self._time_ns)
        self._deliver()

    def _measure(self, now_ns: int) -> None:
        found, chance = self._arm.measure(), self._arm.chance()
        for sensor, topic in self._sensors.items():
            if self._due.now(sensor, topic, now_ns):
                latency_ns = nanoseconds(self._settings.latency_s)
                message = (self._message(sensor, found), now_ns)
                self._outbox.put(sensor, message, now_ns, latency_ns, HEALTHY, chance)

    def _deliver(self) -> None:
        for sensor, (message, stamp) in self._outbox.take(self._time_ns):
            self._newest[sensor] = message, stamp
            self._tell(sensor, message, stamp)

    def _tell(self, sensor: str, message: Any, stamp_ns: int) -> None:
        """To the governor, and to the environment."""
        if sensor == "joint_states":
            self._governor.on_joint_states(
                message.name, message.position, message.velocity, message.effort, stamp_ns, self._time_ns
            )
        elif sensor == "wrench":
            force, torque = message.wrench.force, message.wrench.torque
            self._governor.on_wrench((force.x, force.y, force.z), (torque.x, torque.y, torque.z), self._time_ns)
        if sensor in self._listened:
            self._heard(sensor, message, stamp_ns, stamp_ns)

    def _message(self, sensor: str, found: Measurement) -> Any:
        """What `arm_messages.measured` makes, without its types."""
        if sensor == "joint_states":
            return SimpleNamespace(
                name=self.robot.names, position=found.position, velocity=found.velocity, effort=found.effort
            )
        if sensor == "wrench":
            return SimpleNamespace(wrench=SimpleNamespace(force=_axes(found.force_N), torque=_axes(found.torque_Nm)))
        if sensor == "tool_pose":
            w, x, y, z = found.tool_quaternion
            turn = SimpleNamespace(w=w, x=x, y=y, z=z)
            return SimpleNamespace(pose=SimpleNamespace(position=_axes(found.tool_m), orientation=turn))
        if sensor == "outcome":
            values = [-found.distance_m, float(found.reached), 0.0]
            return SimpleNamespace(name=["reward", "success", "terminated"], position=values)
        return SimpleNamespace(point=_axes(found.target_m))


def _axes(values: Sequence[float]) -> SimpleNamespace:
    x, y, z = values
    return SimpleNamespace(x=x, y=y, z=z)
