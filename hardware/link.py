"""What a controller says to the governor and hears from the robot, over ROS 2, and how its time goes by.

One participant of DDS, which is how the governor knows who commands. Everything happens in the thread that calls.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Header
from std_srvs.srv import Trigger

from robot_rl.errors import InputError
from robot_rl.hardware import lockstep
from robot_rl.hardware.cdr import JointWriter
from robot_rl.hardware.connection import TELEMETRY
from robot_rl.hardware.description import Robot, Topic
from robot_rl.hardware.inverse import TWIST_NAMES
from robot_rl.hardware.ros_io import Inbox, causes_of, message_class, profile, qos, set_stamp, stamp_ns
from robot_rl.hardware.states import SENT
from robot_rl.hardware.watch import Lease

SLICE_NS = 10_000_000  # of waiting, between two heartbeats
BEAT_NS = 50_000_000
CALL_S = 2.0  # for an answer, before a service is asked again
Heard = Callable[[str, Any, int, int], None]  # sensor, message, its stamp, when it came


class Link:
    """To one governor and one robot."""

    def __init__(
        self,
        robot: Robot,
        domain_id: int,
        *,
        in_lockstep: bool,
        patience_s: float,
        heard: Heard,
        check: Callable[[], None],
    ) -> None:
        """Joins the domain; the process must be prepared by `ros.adopt`.

        Args:
            robot: the description.
            domain_id: of ROS.
            in_lockstep: the arm's time goes on when we ask.
            patience_s: how long, on this machine's clock, to wait for answers before giving up.
            heard: takes the messages of `listen`, in the thread that waits.
            check: called while waiting; raises where waiting is in vain.
        """
        self.robot, self.in_lockstep, self._patience_s, self._heard = robot, in_lockstep, patience_s, heard
        self._check = check
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node(
            "controller", namespace=f"/{robot.name}", context=self._context, enable_rosout=False
        )
        self._calls = rclpy.create_node(
            "controller_calls", namespace=f"/{robot.name}", context=self._context, enable_rosout=False
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._calls)
        self._clients: dict[str, Any] = {}
        self._inbox = Inbox(self._node)
        self._topics: dict[str, str] = {}
        self._last_ns: dict[str, int] = {}  # stamp of the last message of each sensor
        self.applied: list[Any] = []  # since `clear_applied`
        self.state = ""  # of the governor
        self.causes: list[str] = []
        self.ready = False  # a person has said so, since it was set to False
        self._governor = Lease(robot.watchdogs.heartbeat_stop_s)
        self._inbox.subscribe(JointState, "rl/applied", profile(depth=50), self._on_applied)
        self._inbox.subscribe(DiagnosticStatus, "rl/safety_state", profile(latched=True), self._safety_state)
        self._inbox.subscribe(Bool, "rl/ready", profile(), self._ready)
        publisher = self._node.create_publisher
        self._action = publisher(JointState, "rl/action", profile())
        self._telemetry = publisher(JointState, "rl/telemetry", profile(reliable=False, depth=10))
        self._measured = JointWriter(TELEMETRY)
        self._beat = publisher(Header, "rl/heartbeat", profile(reliable=False))
        self._beat_ns = 0
        self._name = secrets.token_hex(4)  # our actions are not those of who commanded before
        self._actions = 0
        self._written, self._twist_written = JointWriter(robot.names), JointWriter(TWIST_NAMES)
        self._time_ns = 0  # of the arm, in lockstep
        self._stepped: tuple[int, dict[str, int]] = (0, {})
        self._answer: dict[str, Any] | None = None
        if in_lockstep:
            self._permit = publisher(Bool, "rl/permit", profile())
            self._advance, self._physics = (
                publisher(Header, topic, profile(depth=lockstep.DEPTH))
                for topic in (lockstep.ADVANCE, lockstep.PHYSICS)
            )
            self._inbox.subscribe(Header, lockstep.STEPPED, profile(depth=lockstep.DEPTH), self._on_stepped)
            self._inbox.subscribe(Header, lockstep.ADVANCED, profile(depth=lockstep.DEPTH), self._on_advanced)

    def listen(self, sensor: str, topic: Topic) -> None:
        """Hear a sensor from now on."""

        def take(message: Any, _: str) -> None:
            stamp = stamp_ns(message.header)
            self._last_ns[sensor] = stamp
            received_ns = stamp if self.in_lockstep else time.monotonic_ns() - self._inbox.age_ns
            self._heard(sensor, message, stamp, received_ns)

        self._inbox.subscribe(message_class(topic), topic.topic, qos(topic), take)
        self._last_ns[sensor] = 0
        self._topics[sensor] = topic.topic

    def now_ns(self) -> int:
        """Of the clock by which ages are told: the arm's in lockstep, else this machine's monotonic one."""
        return self._time_ns if self.in_lockstep else time.monotonic_ns()

    def act(self, values: Sequence[float], *, of: str, velocity: bool, answers_ns: int) -> None:
        """Send positions or velocities of the `joints`, or a `twist`, answering joint states of that stamp."""
        self._actions += 1
        write = self._twist_written if of == "twist" else self._written
        message = write(
            answers_ns,
            self._number(),
            position=() if velocity else values,
            velocity=values if velocity else (),
        )
        self._action.publish(message)

    def watch(self, sensor: str, until_ns: int) -> None:
        """Look for a message of a sensor without sleeping until one was heard."""
        self._inbox.watch((self._topics[sensor],), (self._topics[sensor],), until_ns)

    def wait_until(self, time_ns: int) -> None:
        """Let time go by, hear what comes, and say that we are alive."""
        if self.in_lockstep:
            self._advance_to(time_ns)
            return
        while (left := time_ns - time.monotonic_ns()) > 0:
            self.beat()
            self._inbox.wait(min(left, SLICE_NS))
        self._inbox.wait(0)
        now = time.monotonic_ns()
        if self.state in SENT and self._governor.expired(now):
            self.causes = [f"nothing from the governor for {self._governor.silence_s(now):.3f} s: it is dead, or hangs"]
            self.state = ""

    def look(self, camera: str) -> None:
        """Lockstep: have the cameras that we listen to drawn as they are now, without time going by."""
        began, asked = time.monotonic(), -lockstep.ASK_AGAIN_S
        while self._last_ns[camera] < self._time_ns:
            now = time.monotonic()
            if now - began > self._patience_s:
                raise InputError(f"no picture of {self.robot.cameras[camera].topic} came for {self._patience_s:g} s")
            if now - asked > lockstep.ASK_AGAIN_S:
                self._check()
                asked = now
                self._physics.publish(Header(frame_id=lockstep.pack(command=False)))
            self._inbox.wait(SLICE_NS)

    def beat(self) -> None:
        """Say that we are alive, not more often than needed."""
        now = time.monotonic_ns()
        if now - self._beat_ns >= BEAT_NS:
            self._beat_ns = now
            self._beat.publish(Header())

    def tell(self, numbers: Sequence[float], answers_ns: int) -> None:
        """In real time: publish TELEMETRY of the step whose observation has that stamp."""
        if not self.in_lockstep:
            self._telemetry.publish(self._measured(answers_ns, "environment", position=numbers))

    def clear_applied(self) -> None:
        """Forget what was applied so far."""
        self.applied.clear()

    def trigger(self, service: str, patience_s: float | None = None) -> tuple[bool, str]:
        """Call a service below /NAME: whether it succeeded, and its message.

        Raises:
            InputError: nobody answers, for the usual time or that one.
        """
        answer = self._call(Trigger, service, Trigger.Request(), patience_s)
        return bool(answer.success), str(answer.message)

    def set_parameters(self, node: str, values: dict[str, Any]) -> None:
        """Set parameters of a node below /NAME.

        Raises:
            InputError: nobody answers, or it refuses; with its reason.
        """
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        )
        for result in self._call(SetParameters, f"{node}/set_parameters", request).results:
            if not result.successful:
                raise InputError(f"/{self.robot.name}/{node} refuses {values}: {result.reason}")

    def close(self) -> None:
        """Leave the domain; twice is allowed."""
        if self._context.ok():
            self._executor.shutdown()
            self._calls.destroy_node()
            self._node.destroy_node()
            rclpy.shutdown(context=self._context)

    def _number(self) -> str:
        """Of the newest action."""
        return f"{self._name}-{self._actions}"

    def _call(self, kind: Any, service: str, request: Any, patience_s: float | None = None) -> Any:
        patience_s = self._patience_s if patience_s is None else patience_s
        if service not in self._clients:
            self._clients[service] = self._calls.create_client(kind, service)
        client = self._clients[service]
        began, future, asked = time.monotonic(), None, 0.0
        while True:
            now = time.monotonic()
            if now - began > patience_s:
                raise InputError(
                    f"nobody answers the service /{self.robot.name}/{service} for {patience_s:g} s: is its node "
                    "running, in this ROS domain, with this description?"
                )
            self._check()
            # An answer can be lost while both sides still find each other, so it is asked again.
            if client.service_is_ready() and (future is None or now - asked > CALL_S):
                future, asked = client.call_async(request), now
            self.beat()
            self._executor.spin_once(timeout_sec=0.02)
            self._inbox.wait(0)
            if future is not None and future.done():
                return future.result()

    def _advance_to(self, time_ns: int) -> None:
        """Lockstep: until the arm's time, and everything that was sent until then, has come."""
        self._answer = None
        began, asked = time.monotonic(), -lockstep.ASK_AGAIN_S
        request = Header(frame_id=lockstep.pack(action=self._number() if self._actions else None))
        set_stamp(request, time_ns)
        while (answer := self._arrived(time_ns)) is None:
            now = time.monotonic()
            if now - began > self._patience_s:
                raise InputError(
                    f"the governor and the simulated arm of /{self.robot.name} did not step for "
                    f"{self._patience_s:g} s: are both running with --lockstep, in this ROS domain?"
                )
            if now - asked > lockstep.ASK_AGAIN_S:
                self._check()
                asked = now
                self.applied.clear()
                self._beat.publish(Header())
                self._permit.publish(Bool(data=True))
                self._advance.publish(request)
            self._inbox.wait(SLICE_NS)
        self._time_ns, self.state, self.causes = answer["time_ns"], answer["state"], answer["causes"]

    def _arrived(self, time_ns: int) -> dict[str, Any] | None:
        """The governor's answer, once all that was sent until then has come."""
        answer, (stepped_ns, sent) = self._answer, self._stepped
        if answer is None or answer["time_ns"] < max(time_ns, stepped_ns) or len(self.applied) < answer["applied"]:
            return None
        heard = all(last == sent.get(sensor, last) for sensor, last in self._last_ns.items())
        return answer if heard and stepped_ns == answer["time_ns"] else None

    def _on_stepped(self, message: Any, _: str) -> None:
        self._stepped = stamp_ns(message), lockstep.unpack(message.frame_id, lockstep.STEPPED)["sent"]

    def _on_advanced(self, message: Any, _: str) -> None:
        self._answer = lockstep.unpack(message.frame_id, lockstep.ADVANCED) | {"time_ns": stamp_ns(message)}

    def _on_applied(self, message: Any, _: str) -> None:
        self._governor.renew(time.monotonic_ns())
        self.applied.append(message)

    def _safety_state(self, message: Any, _: str) -> None:
        self._governor.renew(time.monotonic_ns())
        if not self.in_lockstep:  # where it comes with every answer
            self.state = message.message
            self.causes = list(causes_of(message))

    def _ready(self, message: Any, _: str) -> None:
        self.ready = self.ready or bool(message.data)
