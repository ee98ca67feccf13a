"""Messages of a topic as arrays: which numbers they hold, what these mean, and how they are put in order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robot_rl.datasets.ingest.bag_types import FILLER, Layout, Schema, column, tables
from robot_rl.errors import InputError, nearest
from robot_rl.spec import ArraySpec
from robot_rl.types import Array

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
NAMES = ("name", "joint_names")
"""Fields with the names of joints; sequences of as many numbers go with them."""
LONGEST = 4096  # numbers in a sequence that is an observation without being asked for
QUATERNION_ORDER = ("w", "x", "y", "z")
UNITS = {
    ("sensor_msgs/msg/JointState", "velocity"): "rad/s",
    ("sensor_msgs/msg/JointState", "effort"): "N m",
    ("trajectory_msgs/msg/JointTrajectory", "velocities"): "rad/s",
    ("sensor_msgs/msg/Imu", "orientation"): "1",
    ("sensor_msgs/msg/Imu", "angular_velocity"): "rad/s",
    ("sensor_msgs/msg/Imu", "linear_acceleration"): "m/s^2",
    ("sensor_msgs/msg/MagneticField", ""): "T",
    ("sensor_msgs/msg/FluidPressure", "fluid_pressure"): "Pa",
    ("sensor_msgs/msg/LaserScan", "ranges"): "m",
    ("geometry_msgs/msg/Point", ""): "m",
    ("geometry_msgs/msg/PointStamped", ""): "m",
    ("geometry_msgs/msg/Quaternion", ""): "1",
    ("geometry_msgs/msg/QuaternionStamped", ""): "1",
}
POSITIONS = {("sensor_msgs/msg/JointState", "position"), ("trajectory_msgs/msg/JointTrajectory", "positions")}
SLIDING = ("finger", "gripper", "prismatic", "slide", "linear", "lift", "rail")
"""Joints with such names may be in metres: the message does not say, so no unit is declared for their topic."""
NAMED_NUMBERS = ("telemetry", "outcome")
"""Topics that use JointState for any numbers with names, such as reward and success: no unit, not interpolated."""
APART = {
    "sensor_msgs/msg/JointState": ("position", "velocity", "effort"),  # where the joints have no names
    "sensor_msgs/msg/Imu": ("orientation", "angular_velocity", "linear_acceleration"),
    "nav_msgs/msg/Odometry": ("pose.pose", "twist.twist"),
    "sensor_msgs/msg/Joy": ("axes", "buttons"),
}
"""Types of which each of these fields is an observation of its own."""
ACTION_FIELDS = ("position", "positions", "velocity", "velocities", "effort")
NOT_OBSERVED = (
    "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/PointCloud", "sensor_msgs/msg/PointCloud2",
    "sensor_msgs/msg/PointField", "sensor_msgs/msg/RegionOfInterest", "sensor_msgs/msg/TimeReference",
    "rosgraph_msgs/msg/Clock", "std_msgs/msg/Header", "std_msgs/msg/Empty",
)  # fmt: skip
NOT_OBSERVED_PACKAGES = (
    "rcl_interfaces", "rosbag2_interfaces", "diagnostic_msgs", "visualization_msgs", "tf2_msgs", "action_msgs",
    "lifecycle_msgs", "bond", "rosgraph_msgs", "dynamic_reconfigure", "actionlib_msgs",
)  # fmt: skip
"""Types that hold no state of the robot or the scene as numbers; naming the topic in bag.observations takes them."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """Messages of a topic, as tables of those that are laid out alike; several features are read from them."""

    count: int
    tables: list[tuple[Array, Layout, Array]]

    @staticmethod
    def of(payloads: Sequence[bytes], schema: Schema, place: str) -> "Decoded":
        """Sort the messages.

        Raises:
            InputError: one does not fit its type.
        """
        return Decoded(count=len(payloads), tables=list(tables(payloads, schema, place)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Feature:
    """An array that the messages of a topic give: C numbers a message, from one or several fields."""

    key: str
    topic: str
    schema: Schema
    spec: ArraySpec
    fields: tuple[str, ...]  # paths in the message, in the order of the columns
    counts: tuple[int, ...]  # numbers of each
    joints: tuple[str, ...] = ()  # order of the numbers, where the message names them
    joints_field: str = ""
    quaternions: tuple[int, ...] = ()  # columns at which a quaternion w x y z begins
    held: tuple[int, ...] = ()  # columns between whose values nothing lies, such as integers

    def read(self, decoded: Decoded, place: str) -> tuple[Array, Array]:
        """The numbers of messages, and which of the messages have them.

        A message without all the joints has them not: another publisher of the topic sent it.

        Shapes: N messages -> (N, C), (N,).

        Raises:
            InputError: a message is damaged, or has other fields than the first one of the recording.
        """
        out = np.zeros((decoded.count, *self.spec.shape), self.spec.dtype)
        has = np.zeros(decoded.count, bool)
        for members, layout, rows in decoded.tables:
            order = None
            if self.joints:
                names = layout.names(rows[0].tobytes(), self.joints_field)
                if not set(self.joints) <= set(names):
                    continue
                order = [names.index(joint) for joint in self.joints]
            with np.errstate(over="ignore", invalid="ignore"):  # of damaged numbers, which a store refuses
                out[members] = np.concatenate(
                    [self._field(layout, rows, k, order, place) for k in range(len(self.fields))], 1
                )
            has[members] = True
        return out, has

    def _field(self, layout: Layout, rows: Array, number: int, order: list[int] | None, place: str) -> Array:
        path, count = self.fields[number], self.counts[number]
        found = layout.leaves[path].count if path in layout.leaves else 0
        if found != count if order is None else found < len(order):
            raise InputError(
                f"{place}: field {path} has {found} numbers in one message and {count} in the first of the recording: "
                "leave this topic, or this field, out of bag.observations"
            )
        values = column(layout, rows, path)
        return values if order is None else values[:, order]


def features(
    topic: str, schema: Schema, data: bytes, field: str | None, *, asked: bool, steady: bool
) -> tuple[list[Feature], list[str]]:
    """What the messages of a topic give, told from one of them, and which of its fields are not measured (NaN).

    Args:
        topic: its name.
        schema: its type.
        data: the message.
        field: only this field, `pose.position` or `velocity`; None takes all.
        asked: a person named the topic.
        steady: all its messages have as many bytes as the first, so sequences can be taken too.

    Raises:
        InputError: the message does not fit its type, or has no such field or no numbers.
    """
    place = f"topic {topic}"
    package = schema.type.split("/")[0]
    if not asked and (schema.type in NOT_OBSERVED or package in NOT_OBSERVED_PACKAGES):
        raise InputError(f"{place} has the type {schema.type}, which is taken only where bag.observations names it")
    layout = schema.layout(data, place)
    names_field = _names_field(layout)
    joints = joint_names(layout, data)
    if len(set(joints)) != len(joints):
        raise InputError(f"{place} names a joint twice: {', '.join(joints)}")
    numbers = [path for path, leaf in layout.leaves.items() if leaf.count and not _is_apart(path, layout)]
    if field is not None:
        chosen = [path for path in numbers if _below(path, field) or _below(path, f"points[0].{field}")]
        if not chosen:
            raise InputError(f"{place} has no numbers in the field {field}. {nearest(field, numbers)}")
        parts = [chosen]
    elif joints:
        parts = [[path] for path in numbers if layout.leaves[path].count == len(joints) and _first_point(path)]
    elif schema.type in APART:
        parts = [[path for path in numbers if _below(path, part)] for part in APART[schema.type]]
    else:
        usable = [path for path in numbers if _usable(path, layout, asked or steady)]
        parts = [usable]
    wanted = {path for part in parts for path in part}
    unmeasured = [path for path in numbers if path in wanted and field is None and _unmeasured(layout, data, path)]
    parts = [[path for path in part if path not in unmeasured] for part in parts]
    out = [_feature(topic, schema, layout, data, part, field, joints, names_field) for part in parts if part]
    if not out:
        raise InputError(f"{place} has the type {schema.type}, which has no numbers of a fixed count")
    return out, unmeasured


def joint_names(layout: Layout, data: bytes) -> tuple[str, ...]:
    """The joints that a message names, in its order; none where it names none."""
    field = _names_field(layout)
    return layout.names(data, field) if field else ()


def action_feature(topic: str, found: Sequence[Feature]) -> Feature:
    """The one that is the command: positions before velocities before efforts, or the only one.

    Raises:
        InputError: there are several and none of these.
    """
    for field in ACTION_FIELDS:
        for feature in found:
            if feature.fields[0].split(".")[-1] == field:
                return feature
    if len(found) > 1:
        fields = ", ".join(".".join(feature.key.split("/")[-1:]) for feature in found)
        raise InputError(f"bag.action={topic}: choose a field, bag.action={topic}:FIELD of {fields}")
    return found[0]


def default_key(topic: str) -> str:
    """Key of an observation: the topic without the slash before it."""
    return topic.strip("/")


def _feature(
    topic: str,
    schema: Schema,
    layout: Layout,
    data: bytes,
    paths: Sequence[str],
    field: str | None,
    joints: tuple[str, ...],
    names_field: str,
) -> Feature:
    leaves = layout.leaves
    named = bool(joints) and all(leaves[path].count == len(joints) for path in paths)
    paths = _with_quaternions_in_order(paths, layout)
    counts = [leaves[path].count for path in paths]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(int)
    dtypes = [np.dtype(leaves[path].dtype).newbyteorder("=") for path in paths]
    kinds = {dtype.kind for dtype in dtypes}
    dtype = np.result_type(*dtypes) if kinds in ({"f"}, {"b"}, {"i"}, {"u"}) else np.dtype(np.float64)
    stepwise = topic.split("/")[-1] in NAMED_NUMBERS
    whole = [k for k in range(len(paths)) if stepwise or dtypes[k].kind in "iub"]
    part = _part(schema, paths, field, named)
    shared = _shared_prefix(paths) if field is None else ""
    return Feature(
        key="/".join([default_key(topic), *([part.replace(".", "/")] if part else [])]),
        topic=topic,
        schema=schema,
        fields=tuple(paths),
        counts=tuple(counts),
        joints=joints if named else (),
        joints_field=names_field if named else "",
        quaternions=tuple(int(starts[k]) for k, path in enumerate(paths) if path.endswith(".w") or path == "w")
        if layout.quaternions
        else (),
        held=tuple(int(column) for k in whole for column in range(starts[k], starts[k + 1])),
        spec=ArraySpec(
            shape=(int(starts[-1]),),
            dtype=str(dtype),
            names=joints * len(paths) if named else _names(paths, counts, shared),
            unit=_unit(topic, schema.type, part, joints),
            frame=_frame(layout, data),
        ),
    )


def _names_field(layout: Layout) -> str:
    return next((name for name in NAMES if f"{name}[0]" in layout.texts), "")


def _part(schema: Schema, paths: Sequence[str], field: str | None, named: bool) -> str:
    """What the key says behind the topic: empty where the topic has one feature."""
    if field is not None:
        return field
    if named:
        return paths[0].removeprefix("points[0].")
    for part in APART.get(schema.type, ()):
        if _below(paths[0], part):
            return part.split(".")[0]
    return ""


def _with_quaternions_in_order(paths: Sequence[str], layout: Layout) -> list[str]:
    """ROS has x y z w; ours is w x y z."""
    out = list(paths)
    for prefix in layout.quaternions:
        ours = [f"{prefix}.{axis}" if prefix else axis for axis in QUATERNION_ORDER]
        if set(ours) <= set(out):
            first = min(out.index(path) for path in ours)
            out = [path for path in out if path not in ours]
            out[first:first] = ours
    return out


def _below(path: str, field: str) -> bool:
    return path == field or path.startswith((f"{field}.", f"{field}["))


def _is_apart(path: str, layout: Layout) -> bool:
    """Headers, layouts of arrays, times and covariances are no state."""
    inside = any(_below(path, clock) for clock in layout.clocks)
    return (
        inside
        or path.endswith(FILLER)
        or _below(path, "header")
        or _below(path, "layout")
        or path.split(".")[-1].endswith("covariance")
    )


def _first_point(path: str) -> bool:
    return "[" not in path or (path.startswith("points[0].") and path.count("[") == 1)


def _usable(path: str, layout: Layout, sequences: bool) -> bool:
    leaf = layout.leaves[path]
    return leaf.fixed or (sequences and "[" not in path and leaf.count <= LONGEST)


def _unmeasured(layout: Layout, data: bytes, path: str) -> bool:
    """Drivers say NaN for what they do not measure."""
    values = column(layout, np.frombuffer(data, np.uint8)[None], path)
    return values.dtype.kind == "f" and bool(np.isnan(values).all())


def _shared_prefix(paths: Sequence[str]) -> str:
    """The fields around all the numbers: `pose.` of pose.position.x and pose.orientation.w."""
    parts = [path.split(".")[:-1] for path in paths]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "".join(f"{name}." for name in shared)


def _names(paths: Sequence[str], counts: Sequence[int], shared: str) -> tuple[str, ...] | None:
    if len(paths) == 1 and "." not in paths[0]:
        return None
    short = [path.removeprefix(shared) for path in paths]
    return tuple(
        short[k] if counts[k] == 1 else f"{short[k]}[{n}]" for k in range(len(paths)) for n in range(counts[k])
    )


def _unit(topic: str, kind: str, part: str, joints: tuple[str, ...]) -> str | None:
    slides = any(word in joint.lower() for joint in joints for word in SLIDING)
    if topic.split("/")[-1] in NAMED_NUMBERS:
        return None
    if (kind, part) in POSITIONS:
        return None if slides else "rad"
    return None if slides else UNITS.get((kind, part))


def _frame(layout: Layout, data: bytes) -> str | None:
    """The frame of the header."""
    frame = layout.text(data, "header.frame_id") if "header.frame_id" in layout.texts else ""
    return frame or None
