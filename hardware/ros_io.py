"""Topics in a loop at rate: one wait set built once, and messages taken from it in the thread that needs them.

No executor of rclpy serves topics: the multi-threaded one starves under load, and `EventsExecutor.spin` never sleeps in
the wheels. Services wait in a thread of their own, in turns of 0.2 s.
"""

import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from geometry_msgs.msg import PointStamped, PoseStamped, WrenchStamped
from rclpy.experimental import EventsExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from robot_rl.hardware.description import Topic
from robot_rl.hardware.watch import SECOND_NS

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


class Inbox:
    """The subscriptions of one node, served in the calling thread."""

    def __init__(self, node: Node) -> None:
        """Subscribe, then `wait`."""
        self._node = node
        self._handlers: list[tuple[Any, type, Handler]] = []
        self._wait_set: Any = None

    def subscribe(self, message: type, topic: str, quality: QoSProfile, handler: Handler) -> None:
        """Give every message of the topic to `handler`, in `wait`."""
        subscription = self._node.create_subscription(message, topic, lambda _: None, quality)
        self._handlers.append((subscription, message, handler))
        self._wait_set = None

    def wait(self, timeout_ns: int) -> None:
        """Wait for messages, at most so long, and handle those that are there."""
        context = self._node.context
        with context.handle:
            if self._wait_set is None:
                count = len(self._handlers)
                self._wait_set = rclpy_implementation.WaitSet(count, 0, 0, 0, 0, 0, context.handle)
            self._wait_set.clear_entities()
            for subscription, _, _ in self._handlers:
                self._wait_set.add_subscription(subscription.handle)
            self._wait_set.wait(max(timeout_ns, 0))
        for subscription, message, handler in self._handlers:
            for _ in range(TAKEN_AT_ONCE):
                taken = subscription.handle.take_message(message, False)
                if taken is None:
                    break
                handler(taken[0], bytes(taken[1]["publisher_gid"]["data"][:12]).hex())


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
        "geometry_msgs/msg/PointStamped": PointStamped,
        "sensor_msgs/msg/Image": Image,
        "sensor_msgs/msg/CompressedImage": CompressedImage,
    }
    return types[topic.type]


def command_message(
    topic: Topic, names: Sequence[str], position: Sequence[float], velocity: Sequence[float], mode: str, period_s: float
) -> Any:
    """What a controller of that type listens to. Shapes: (J,) each."""
    values = position if mode == "joint_position" else velocity
    match topic.type:
        case "std_msgs/msg/Float64MultiArray":
            return Float64MultiArray(data=list(values))
        case "trajectory_msgs/msg/JointTrajectory":
            point = JointTrajectoryPoint(positions=list(position), velocities=list(velocity))
            point.time_from_start.sec, point.time_from_start.nanosec = divmod(round(period_s * SECOND_NS), SECOND_NS)
            return JointTrajectory(joint_names=list(names), points=[point])
        case _:
            message = JointState(name=list(names))
            if mode == "joint_position":
                message.position = list(position)
            else:
                message.velocity = list(velocity)
            set_stamp(message.header, time.time_ns())
            return message


def commanded(message: Any, names: Sequence[str], mode: str) -> list[float]:
    """The positions, or by `mode` velocities, of a command in the order of `names`. Shapes: -> (J,)."""
    if isinstance(message, Float64MultiArray):
        return list(message.data)  # it does not say of which joints
    if isinstance(message, JointTrajectory):
        found, values = list(message.joint_names), message.points[0].positions
    else:
        found, values = list(message.name), message.position if mode == "joint_position" else message.velocity
    return [values[found.index(name)] for name in names]
