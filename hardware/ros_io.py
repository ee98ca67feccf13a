"""Topics in a loop at rate: one wait set built once, and messages taken from it in the thread that needs them.

No executor of rclpy serves topics: the multi-threaded one starves under load, and `EventsExecutor.spin` never sleeps in
the wheels. Services wait in a thread of their own, in turns of 0.2 s.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from geometry_msgs.msg import PointStamped, PoseStamped, TwistStamped, WrenchStamped
from rclpy.experimental import EventsExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from robot_rl.hardware.cdr import JointReader, JointWriter, write_numbers
from robot_rl.hardware.description import Topic
from robot_rl.hardware.watch import SECOND_NS

SWITCH_S = 0.0005  # longest time that another thread of Python keeps this one waiting
TAKEN_AT_ONCE = 32  # of one topic, so that a flood cannot keep the loop from its time

Handler = Callable[[Any, str], None]
"""Takes a message and the process that sent it, as 12 bytes of hexadecimal that all its publishers share."""


def qos(topic: Topic) -> QoSProfile:
    """As the description says."""
    return profile(reliable=topic.reliability == "reliable", depth=topic.depth, latched=topic.durability != "volatile")


def profile(*, reliable: bool = True, depth: int = 1, latched: bool = False) -> QoSProfile:
    """Keep the last `depth`; `latched` gives the last one to those that come late."""
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def stamp_ns(header: Any) -> int:
    """Of a std_msgs/Header."""
    return int(header.stamp.sec) * SECOND_NS + int(header.stamp.nanosec)


def set_stamp(header: Any, time_ns: int) -> None:
    """Of a std_msgs/Header."""
    header.stamp.sec, header.stamp.nanosec = divmod(time_ns, SECOND_NS)


def causes_of(status: Any) -> tuple[str, ...]:
    """Why the governor stops, or has, as its diagnostic_msgs/DiagnosticStatus says."""
    return tuple(value.value for value in status.values if value.key.startswith("cause "))


def schedule(priority: int) -> str | None:
    """Schedule this process in real time: first what receives for it, then this thread, then its other threads.

    The others too, since one of them that holds Python's lock, and is kept from going on, would keep this one waiting.

    Args:
        priority: of SCHED_FIFO for the threads of Fast DDS; this thread has one less, the others two. Where the process
            was started in real time already, as by `chrt -f`, its own counts.

    Returns:
        What the machine does not allow, in words; or None.
    """
    if os.sched_getscheduler(0) == os.SCHED_FIFO:
        priority = os.sched_getparam(0).sched_priority
    sys.setswitchinterval(SWITCH_S)
    try:
        for entry in Path("/proc/self/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                receives = (entry / "comm").read_text().startswith("dds.")
                less = 0 if receives else 1 if int(entry.name) == threading.get_native_id() else 2
                os.sched_setscheduler(int(entry.name), os.SCHED_FIFO, os.sched_param(priority - less))
    except PermissionError as error:
        return (
            f"no real-time scheduling ({error.strerror}), so periods will be less even: allow it with `ulimit -r "
            f"{priority}` (rtprio in /etc/security/limits.conf)"
        )
    return None


class Inbox:
    """The subscriptions of one node, served in the calling thread. Joint states come as `cdr.JointsRead`."""

    def __init__(self, node: Node) -> None:
        """Subscribe, then `wait`."""
        self._node = node
        self._handlers: list[tuple[str, Any, type, JointReader | None, Handler]] = []
        self._wait_set: Any = None
        self._waited_ns = time.monotonic_ns()  # when `wait` returned last
        self.age_ns = 0
        """How long before now the message came that is being handled, at most since the `wait` before."""
        self.unreadable = 0  # messages

    def subscribe(self, message: type, topic: str, quality: QoSProfile, handler: Handler) -> None:
        """Give every message of the topic to `handler`, in `wait`."""
        subscription = self._node.create_subscription(message, topic, lambda _: None, quality)
        reader = JointReader() if message is JointState else None
        self._handlers.append((topic, subscription, message, reader, handler))
        self._wait_set = None

    def wait(self, timeout_ns: int) -> None:
        """Wait for messages, at most so long, and handle those that are there; 0 does not wait."""
        if timeout_ns > 0:
            context = self._node.context
            with context.handle:
                if self._wait_set is None:
                    count = len(self._handlers)
                    self._wait_set = rclpy_implementation.WaitSet(count, 0, 0, 0, 0, 0, context.handle)
                self._wait_set.clear_entities()
                for _, subscription, *_ in self._handlers:
                    self._wait_set.add_subscription(subscription.handle)
                self._wait_set.wait(timeout_ns)
        for handler in self._handlers:
            self._take(handler)
        self._waited_ns = time.monotonic_ns()

    def watch(self, topics: Collection[str], ends: Collection[str], until_ns: int) -> None:
        """Look for messages of these topics without sleeping until one of `ends` was handled; a core is busy meanwhile.

        Args:
            topics: as they were given.
            until_ns: of the monotonic clock, when it ends without one.
        """
        watched = [handler for handler in self._handlers if handler[0] in topics]
        while time.monotonic_ns() < until_ns:
            for handler in watched:
                if self._take(handler) and handler[0] in ends:
                    return

    def _take(self, subscribed: tuple[str, Any, type, JointReader | None, Handler]) -> int:
        """Handle the messages of a topic. Returns how many."""
        _, subscription, message, reader, handler = subscribed
        take, count = subscription.handle.take_message, 0
        while count < TAKEN_AT_ONCE and (taken := take(message, reader is not None)) is not None:
            content, information = taken
            count += 1
            if reader is not None:
                try:
                    content = reader(content)
                except ValueError:
                    self.unreadable += 1
                    continue
            since_ns = time.monotonic_ns() - self._waited_ns
            self.age_ns = min(max(time.time_ns() - information["received_timestamp"], 0), since_ns)
            handler(content, bytes(information["publisher_gid"]["data"][:12]).hex())
        return count


class Services:
    """Trigger services whose answers are given in the thread that calls `answer`."""

    def __init__(self, node: Node, services: dict[str, Callable[[], str | None]], timeout_s: float = 2.0) -> None:
        """Offer services on a node that has nothing else; each function returns what is wrong, or None."""
        self._requests: SimpleQueue[tuple[Callable[[], str | None], Event, list[str | None]]] = SimpleQueue()
        self._timeout_s = timeout_s
        self._stop = Event()
        for name, function in services.items():
            node.create_service(Trigger, name, self._served(function))
        self._executor = EventsExecutor()
        self._executor.add_node(node)
        self._thread = Thread(target=self._run, name="services", daemon=True)
        self._thread.start()

    def answer(self) -> None:
        """Do what was asked for since the last call."""
        while True:
            try:
                function, done, result = self._requests.get_nowait()
            except Empty:
                return
            result.append(function())
            done.set()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()
        self._executor.shutdown()

    def _served(self, function: Callable[[], str | None]) -> Callable[[Any, Any], Any]:
        def serve(_: Any, response: Any) -> Any:
            done, result = Event(), list[str | None]()
            self._requests.put((function, done, result))
            in_time = done.wait(self._timeout_s)
            problem = result[0] if in_time else "the loop did not answer in time"
            response.success, response.message = problem is None, problem or ""
            return response

        return serve

    def _run(self) -> None:
        while not self._stop.is_set():
            self._executor.spin_once(timeout_sec=0.2)


def message_class(topic: Topic) -> type:
    """Of the messages of a topic."""
    types: dict[str, type] = {
        "sensor_msgs/msg/JointState": JointState,
        "std_msgs/msg/Float64MultiArray": Float64MultiArray,
        "trajectory_msgs/msg/JointTrajectory": JointTrajectory,
        "geometry_msgs/msg/WrenchStamped": WrenchStamped,
        "geometry_msgs/msg/PoseStamped": PoseStamped,
        "geometry_msgs/msg/TwistStamped": TwistStamped,
        "geometry_msgs/msg/PointStamped": PointStamped,
        "sensor_msgs/msg/Image": Image,
        "sensor_msgs/msg/CompressedImage": CompressedImage,
    }
    return types[topic.type]


def command_message(
    topic: Topic, write: JointWriter, position: Sequence[float], velocity: Sequence[float], mode: str, period_s: float
) -> Any:
    """What a controller of that type listens to; `write` is of its joints. Shapes: (J,) each."""
    values = position if mode == "joint_position" else velocity
    match topic.type:
        case "std_msgs/msg/Float64MultiArray":
            return write_numbers(values)
        case "trajectory_msgs/msg/JointTrajectory":
            point = JointTrajectoryPoint(positions=list(position), velocities=list(velocity))
            point.time_from_start.sec, point.time_from_start.nanosec = divmod(round(period_s * SECOND_NS), SECOND_NS)
            return JointTrajectory(joint_names=list(write.names), points=[point])
        case _:
            position_mode = mode == "joint_position"
            return write(
                time.time_ns(),
                position=position if position_mode else (),
                velocity=() if position_mode else velocity,
            )


def pose_message(topic: Topic, point_m: Sequence[float], quaternion: Sequence[float]) -> Any:
    """Of the tool, for a controller that takes nothing else. Shapes: (3,), (4,) w x y z."""
    message = PoseStamped()
    message.header.frame_id = topic.frame
    set_stamp(message.header, time.time_ns())
    place, turn = message.pose.position, message.pose.orientation
    place.x, place.y, place.z = map(float, point_m)
    turn.w, turn.x, turn.y, turn.z = map(float, quaternion)
    return message


def twist_message(topic: Topic, twist: Sequence[float]) -> Any:
    """Of the tool, for a controller that takes nothing else. Shapes: (6,)."""
    message = TwistStamped()
    message.header.frame_id = topic.frame
    set_stamp(message.header, time.time_ns())
    linear, angular = message.twist.linear, message.twist.angular
    linear.x, linear.y, linear.z = map(float, twist[:3])
    angular.x, angular.y, angular.z = map(float, twist[3:])
    return message


def pose_of(message: Any) -> list[float]:
    """Of a geometry_msgs/PoseStamped: x y z, then w x y z. Shapes: -> (7,)."""
    place, turn = message.pose.position, message.pose.orientation
    return [place.x, place.y, place.z, turn.w, turn.x, turn.y, turn.z]


def twist_of(message: Any) -> list[float]:
    """Of a geometry_msgs/TwistStamped. Shapes: -> (6,)."""
    linear, angular = message.twist.linear, message.twist.angular
    return [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]


def commanded(message: Any, names: Sequence[str], mode: str) -> list[float]:
    """The positions, or by `mode` velocities, of a command in the order of `names`. Shapes: -> (J,)."""
    if isinstance(message, Float64MultiArray):
        return list(message.data)  # it does not say of which joints
    if isinstance(message, JointTrajectory):
        found, values = list(message.joint_names), message.points[0].positions
    else:
        found, values = list(message.name), message.position if mode == "joint_position" else message.velocity
    return [values[found.index(name)] for name in names]
