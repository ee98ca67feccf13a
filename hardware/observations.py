"""From the messages of a description to the parts of an observation, each with its age. Knows messages, not rclpy."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg

from robot_rl.errors import InputError, nearest
from robot_rl.hardware.description import Joint, Robot, Topic
from robot_rl.hardware.watch import SECOND_NS
from robot_rl.spec import ArraySpec
from robot_rl.types import Array

CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One key of the observation: which sensor has it, and how it is read from a message."""

    key: str
    sensor: str  # as in `sensors`
    topic: Topic
    spec: ArraySpec
    read: Callable[[Any], Array | None]  # None: the message has no numbers for it
    needs: str  # what a message must have; one that has not is not taken


@dataclass(frozen=True, slots=True)
class Heard:
    """The newest message of a sensor."""

    message: Any
    stamp_ns: int  # on the robot's clock
    received_ns: int  # on ours
    values: dict[str, Array]  # what it says, by key; without images, which are decoded when they are asked for


def parts_of(robot: Robot, keys: list[str] | None, image_size: int) -> dict[str, Part]:
    """The parts that a description offers, or those of them that are asked for.

    Args:
        robot: the description.
        keys: in the order of the observation; None takes all but the cameras.
        image_size: height and width of images in pixels, cut to a square and scaled.

    Raises:
        InputError: a key that the description does not offer.
    """
    offered = _offered(robot, image_size)
    if keys is None:
        keys = [key for key in offered if key not in robot.cameras]
    for key in keys:
        if key not in offered:
            raise InputError(f"environment.observation: {robot.file} offers no '{key}': {nearest(key, offered)}")
    return {key: offered[key] for key in keys}


def _offered(robot: Robot, image_size: int) -> dict[str, Part]:
    joints, names = robot.joint_states, robot.names
    positions, velocities = InOrder(names), InOrder(names)
    per_second = {"rad": "rad/s", "m": "m/s"}.get(joints.unit)
    found = {
        "joint_position": Part(
            key="joint_position",
            sensor="joint_states",
            topic=joints,
            spec=ArraySpec(shape=(len(names),), names=names, unit=joints.unit, frame=joints.frame),
            read=lambda message: positions(message.name, message.position),
            needs="the positions of all joints",
        ),
        "joint_velocity": Part(
            key="joint_velocity",
            sensor="joint_states",
            topic=joints,
            spec=ArraySpec(shape=(len(names),), names=names, unit=per_second, frame=joints.frame),
            read=lambda message: velocities(message.name, message.velocity),
            needs="the velocities of all joints",
        ),
    }
    if (topic := robot.tool_pose) is not None:
        pose_axes = ("x", "y", "z", "qw", "qx", "qy", "qz")
        spec = ArraySpec(shape=(7,), names=pose_axes, unit=topic.unit, frame=topic.frame)
        found["tool_pose"] = Part(
            key="tool_pose", sensor="tool_pose", topic=topic, spec=spec, read=_pose, needs="a pose of numbers"
        )
    if (topic := robot.wrench_topic) is not None:
        axes = ("fx", "fy", "fz", "tx", "ty", "tz")
        spec = ArraySpec(shape=(6,), names=axes, unit=topic.unit, frame=topic.frame)
        found["wrench"] = Part(
            key="wrench", sensor="wrench", topic=topic, spec=spec, read=_wrench, needs="a wrench of numbers"
        )
    for name, topic in robot.points.items():
        spec = ArraySpec(shape=(3,), names=("x", "y", "z"), unit=topic.unit, frame=topic.frame)
        found[name] = Part(
            key=name, sensor=f"points.{name}", topic=topic, spec=spec, read=_point, needs="a point of numbers"
        )
    for name, topic in robot.cameras.items():
        found[name] = Part(
            key=name,
            sensor=name,
            topic=topic,
            spec=ArraySpec(shape=(image_size, image_size, 3), dtype="uint8", frame=topic.frame),
            read=lambda message: square(decode(message), image_size),
            needs="an image",
        )
    return found


def outcome_part(topic: Topic) -> Part:
    """What is watched as a part is, but not shown to the policy."""

    def read(message: Any) -> Array | None:
        return _finite(list(message.position)) if len(message.name) == len(message.position) else None

    return Part(
        key="outcome",
        sensor="outcome",
        topic=topic,
        spec=ArraySpec(shape=()),
        read=read,
        needs="a number for each name",
    )


@dataclass(slots=True)
class Picture:
    """What a camera has been showing, to the last bit."""

    pose: list[float]  # (J,) of the robot when it was new
    moved: bool  # the robot has, since then
    true_ns: int  # when it could last be true: when it was new, or last came before the robot moved


class Observer:
    """The newest of every sensor, and observations made from it.

    A picture that stays the same to the last bit while the robot moves is not believed: it is as old as the motion.
    """

    def __init__(self, parts: dict[str, Part], joints: Sequence[Joint] = ()) -> None:
        """Nothing heard yet.

        Args:
            parts: by key.
            joints: by whose motion pictures are checked: that of one joint by more than `tracking` changes them.
        """
        self.parts = parts
        self._joints = tuple(joints)
        self._positions = InOrder(tuple(joint.name for joint in joints))
        self._pictures: dict[str, Picture] = {}  # by sensor
        self._cameras = {part.sensor for part in parts.values() if part.spec.is_image}
        self._parts_of: dict[str, list[Part]] = {}  # by sensor
        for part in parts.values():
            self._parts_of.setdefault(part.sensor, []).append(part)
        self.heard: dict[str, Heard] = {}  # by sensor
        self.refused: Counter[str] = Counter()  # messages, by the key for which they had no numbers

    def take(self, sensor: str, message: Any, stamp_ns: int, received_ns: int) -> None:
        """A message; one with an older stamp than what is there, or without the numbers it should have, is not used."""
        values = {}
        for part in self._parts_of.get(sensor, ()):
            if not part.spec.is_image:
                array = part.read(message)
                if array is None:
                    self.refused[part.key] += 1
                    return
                values[part.key] = array
        known = self.heard.get(sensor)
        if known is None or stamp_ns >= known.stamp_ns or received_ns - known.received_ns > SECOND_NS:
            if self._joints and sensor in self._cameras:
                self._look(sensor, message, known, received_ns)
            self.heard[sensor] = Heard(message, stamp_ns, received_ns, values)

    def ages_s(self, now_ns: int) -> dict[str, float]:
        """How long ago what each key would show arrived; infinite where nothing did."""
        found = {}
        for key, part in self.parts.items():
            heard = self.heard.get(part.sensor)
            found[key] = math.inf if heard is None else (now_ns - self._true_ns(part.sensor, heard)) / SECOND_NS
        return found

    def stale(self, now_ns: int, since_ns: int) -> list[str]:
        """Keys that are too old for the description, or older than `since_ns`."""
        found = []
        for key, age_s in self.ages_s(now_ns).items():
            part = self.parts[key]
            heard = self.heard.get(part.sensor)
            if heard is None or age_s > part.topic.maximum_age_s or heard.received_ns <= since_ns:
                found.append(key)
        return found

    def why_stale(self, keys: list[str], now_ns: int) -> str:
        """A sentence for each key."""
        ages, said = self.ages_s(now_ns), []
        for key in keys:
            topic, age_s = self.parts[key].topic, ages[key]
            heard = "nothing came" if math.isinf(age_s) else f"the newest came {age_s:.3f} s ago"
            if (picture := self._pictures.get(self.parts[key].sensor)) is not None and picture.moved:
                heard = f"it shows the same picture for {age_s:.3f} s in which the robot moved"
            refused = (
                f", {self.refused[key]} messages did not have {self.parts[key].needs}" if self.refused[key] else ""
            )
            said.append(f"'{key}' of {topic.topic} ({topic.type}): {heard}{refused}")
        return "; ".join(said)

    def _look(self, sensor: str, message: Any, known: Heard | None, received_ns: int) -> None:
        """Whether a camera shows something new, or the robot stands, so that it need not."""
        pose = self._pose()
        picture = self._pictures.get(sensor)
        if picture is None or known is None or message.data != known.message.data:
            self._pictures[sensor] = Picture(pose, False, received_ns)
            return
        picture.moved = picture.moved or any(
            abs(q - p) > joint.tracking for joint, q, p in zip(self._joints, pose, picture.pose, strict=False)
        )
        if not picture.moved:
            picture.true_ns = received_ns

    def _pose(self) -> list[float]:
        """The joints as last heard; empty before."""
        heard = self.heard.get("joint_states")
        found = None if heard is None else self._positions(heard.message.name, heard.message.position)
        pose: list[float] = [] if found is None else found.tolist()
        return pose

    def _true_ns(self, sensor: str, heard: Heard) -> int:
        picture = self._pictures.get(sensor)
        return picture.true_ns if picture is not None and picture.moved else heard.received_ns

    def read(self, key: str) -> Array:
        """What the newest message says, of a sensor that was heard. The array is the caller's."""
        part = self.parts[key]
        heard = self.heard[part.sensor]
        if key in heard.values:
            return heard.values[key].copy()
        array = part.read(heard.message)
        assert array is not None, "`take` has let a message through that cannot be read"
        return array


class InOrder:
    """Values by the names of the wanted joints, whatever the order of the message, which hardly ever changes."""

    def __init__(self, wanted: tuple[str, ...]) -> None:
        """Of J joints."""
        self._wanted = wanted
        self._names: tuple[str, ...] | None = None
        self._rows: list[int] | None = None

    def __call__(self, names: Sequence[str], values: Sequence[float]) -> Array | None:
        """The values of the wanted joints; None where one is missing or no number. Shapes: -> (J,)."""
        if names is not self._names:
            self._names = tuple(names)
            order = {name: index for index, name in enumerate(names)}
            self._rows = [order[name] for name in self._wanted] if order.keys() >= set(self._wanted) else None
        if self._rows is None or len(values) != len(self._names):
            return None
        return _finite([values[row] for row in self._rows])


def _pose(message: Any) -> Array | None:
    place, turn = message.pose.position, message.pose.orientation
    return _finite([place.x, place.y, place.z, turn.w, turn.x, turn.y, turn.z])


def _wrench(message: Any) -> Array | None:
    force, torque = message.wrench.force, message.wrench.torque
    return _finite([force.x, force.y, force.z, torque.x, torque.y, torque.z])


def _point(message: Any) -> Array | None:
    return _finite([message.point.x, message.point.y, message.point.z])


def _finite(values: list[float]) -> Array | None:
    array = np.asarray(values, np.float32)
    return array if np.isfinite(array).all() else None


def decode(message: Any) -> Array:
    """Pixels of an `Image` or a `CompressedImage`. Shapes: -> (H, W, 3), uint8, RGB.

    Raises:
        InputError: an encoding that is not read.
    """
    if hasattr(message, "format"):
        data = bytes(message.data)
        if simplejpeg.is_jpeg(data):
            found: Array = simplejpeg.decode_jpeg(data)
            return found
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise InputError(f"a compressed image of format '{message.format}' cannot be read: use JPEG or PNG")
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
    channels = CHANNELS.get(message.encoding)
    if channels is None:
        raise InputError(f"an image has the encoding '{message.encoding}'; {', '.join(CHANNELS)} are read")
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    pixels = rows[:, : message.width * channels].reshape(message.height, message.width, channels)
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    order = [2, 1, 0] if message.encoding.startswith("bgr") else [0, 1, 2]
    return np.ascontiguousarray(pixels[:, :, order])


def square(pixels: Array, size: int) -> Array:
    """The middle square, scaled. Shapes: (H, W, 3) -> (size, size, 3)."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = pixels[top : top + side, left : left + side]
    if side == size:
        return np.array(cut)
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.array(cv2.resize(cut, (size, size), interpolation=how), np.uint8)
