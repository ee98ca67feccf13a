"""What a robot is: joints with their limits, kinematics, workspace, topics, and how long silence may last.

One YAML file, `configs/robot/NAME.yaml`, read by `load`. There are no default limits: a file that leaves one out is
refused, and so is a key that means nothing. Units stand in the keys: `velocity_rad_s` of a revolute joint is
`velocity_m_s` of a prismatic one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robot_rl.errors import InputError
from robot_rl.hardware.inverse import Cartesian, Inverse
from robot_rl.hardware.kinematics import Chain, Link, ToolFrame, ToolPoint
from robot_rl.hardware.limiter import Limits
from robot_rl.hardware.reading import Section, read_yaml

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "robot"

COMMAND_TYPES = {
    "joint_position": (
        "sensor_msgs/msg/JointState",
        "std_msgs/msg/Float64MultiArray",
        "trajectory_msgs/msg/JointTrajectory",
    ),
    "joint_velocity": ("sensor_msgs/msg/JointState", "std_msgs/msg/Float64MultiArray"),
    "tool_pose": ("geometry_msgs/msg/PoseStamped",),
    "tool_twist": ("geometry_msgs/msg/TwistStamped",),
}
"""What the robot may be sent, by mode. A stream of one-point trajectories is how a trajectory controller is driven;
poses and twists, which are those of the joints' planned motion, are for controllers that take nothing else."""
TOOL_MODES = ("tool_pose", "tool_twist")

INPUT_TYPES = {
    "joint_states": ("sensor_msgs/msg/JointState",),
    "wrench": ("geometry_msgs/msg/WrenchStamped",),
    "tool_pose": ("geometry_msgs/msg/PoseStamped",),
    "camera": ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
    "point": ("geometry_msgs/msg/PointStamped",),
    "outcome": ("sensor_msgs/msg/JointState",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """One joint, in rad or m (`prismatic`) and SI."""

    name: str
    prismatic: bool
    low: float
    high: float
    velocity: float
    acceleration: float
    jerk: float
    effort: float  # N m or N, measured, beyond which the robot stops
    tracking: float  # how far it may be from what it was sent
    start: float  # where it is when a run begins
    start_tolerance: float
    first_command: float  # how far from where it is the first command may be
    home: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """Where the tool may be, in the base frame."""

    low_m: tuple[float, float, float]
    high_m: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrench:
    """Measured magnitudes beyond which the robot stops."""

    force_N: float
    torque_Nm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdogs:
    """How long, or how often, something may be missing. Holding ends by itself, stopping is latched."""

    command_hold_s: float  # silence of the controller after which the robot brakes and holds
    command_stop_s: float  # and after which it stops
    observation_stop_s: float  # silence of the joint states after which it stops
    heartbeat_stop_s: float  # silence of the controller's heartbeat after which it stops
    permit_stop_s: float  # silence of the operator's permit after which it stops
    takeover_hold_s: float  # silence of the operator's device, while it has the robot, after which the robot holds
    takeover_stop_s: float  # and after which it stops
    frozen_s: float  # joint states that do not change while the command moves
    clock_jump_s: float  # how far the stamps of the joint states may jump ahead between two of them
    answer_age_s: float  # how old the observation may be that a command answers, when the command arrives
    invalid_commands: int  # in a row, after which it stops
    tracking_errors: int  # joint states in a row
    missed_deadlines: int  # control periods in a row
    flood_factor: float  # times the declared rate of commands


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic with everything both sides must agree on."""

    topic: str
    type: str
    reliability: str  # reliable | best_effort
    durability: str  # volatile | transient_local
    depth: int
    unit: str
    frame: str
    rate_hz: float
    maximum_age_s: float  # a message that is older is not used; without a younger command the robot must stop by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Robot:
    """A robot description, checked."""

    name: str
    file: str
    control_period_s: float  # of the governor: one command to the robot each
    controller_rate_hz: float  # commands a second that a policy, or a person's device, sends
    mode: str  # a key of COMMAND_TYPES
    base_frame: str
    tool_frame: str
    joints: tuple[Joint, ...]
    chain: Chain
    workspace: Box
    cartesian: Cartesian | None  # None: no pose or twist of the tool is taken as a command
    wrench: Wrench | None
    start_speed: float  # rad/s and m/s: a robot that is faster is not armed
    home_speed_scale: float
    watchdogs: Watchdogs
    command: Topic
    joint_states: Topic
    wrench_topic: Topic | None
    tool_pose: Topic | None
    cameras: dict[str, Topic]
    points: dict[str, Topic]  # positions that something else than the robot measures, such as a target's
    outcome: Topic | None  # reward, success and terminated by name, of whatever watches the task

    @property
    def names(self) -> tuple[str, ...]:
        """Of the J joints."""
        return tuple(joint.name for joint in self.joints)

    @property
    def limits(self) -> Limits:
        """Of the J joints."""
        return Limits(
            names=self.names,
            low=tuple(joint.low for joint in self.joints),
            high=tuple(joint.high for joint in self.joints),
            velocity=tuple(joint.velocity for joint in self.joints),
            acceleration=tuple(joint.acceleration for joint in self.joints),
            jerk=tuple(joint.jerk for joint in self.joints),
        )

    def tool_point(self) -> ToolPoint:
        """The position of the tool as a function of the J joints."""
        return ToolPoint(self.chain, self.names, [max(abs(joint.low), abs(joint.high)) for joint in self.joints])

    def tool_motion(self) -> ToolFrame:
        """Pose and Jacobian of the tool as functions of the J joints."""
        return ToolFrame(self.chain, self.names)

    def inverse(self) -> Inverse | None:
        """From the motion of the tool to that of the joints, where the description allows it."""
        if self.cartesian is None:
            return None
        return Inverse(self.tool_motion(), self.cartesian, self.limits.velocity, self.control_period_s)


def available() -> list[str]:
    """The names of the descriptions that come with us."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(robot: str | Path) -> Robot:
    """Read and check a description.

    Args:
        robot: a name, such as `ur5e` for configs/robot/ur5e.yaml, or the path of a file.

    Raises:
        InputError: names the file, the key and the remedy.
    """
    text = str(robot)
    path = Path(text) if text.endswith((".yaml", ".yml")) or "/" in text else FOLDER / f"{text}.yaml"
    if not path.is_file():
        raise InputError(f"{path} does not exist. Give the path of a YAML file, or one of {', '.join(available())}")
    top = read_yaml(path)
    joints = _joints(top)
    frames = top.section("frames")
    base, tool = frames.text("base"), frames.text("tool")
    frames.finish()
    outgoing = top.section("command")
    mode = outgoing.choice("mode", COMMAND_TYPES)
    command = _topic(outgoing, COMMAND_TYPES[mode])
    topics = top.section("topics")
    joint_states = _topic(topics.section("joint_states"), INPUT_TYPES["joint_states"])
    wrench_topic = _topic(topics.section("wrench"), INPUT_TYPES["wrench"]) if topics.has("wrench") else None
    tool_pose = _topic(topics.section("tool_pose"), INPUT_TYPES["tool_pose"]) if topics.has("tool_pose") else None
    outcome = _topic(topics.section("outcome"), INPUT_TYPES["outcome"]) if topics.has("outcome") else None
    cameras, points = _named_topics(topics, "cameras", "camera"), _named_topics(topics, "points", "point")
    topics.finish()
    start, home = top.section("start"), top.section("home")
    found = Robot(
        name=top.text("name"),
        file=str(path),
        control_period_s=top.number("control_period_s", low=0, above=True, high=1),
        controller_rate_hz=top.number("controller_rate_hz", low=0, above=True),
        mode=mode,
        base_frame=base,
        tool_frame=tool,
        joints=joints,
        chain=_chain(top, joints),
        workspace=_workspace(top, base),
        cartesian=_cartesian(top),
        wrench=_wrench(top, wrench_topic),
        start_speed=start.number("speed_per_s", low=0, above=True),
        home_speed_scale=home.number("speed_scale", low=0, above=True, high=1),
        watchdogs=_watchdogs(top),
        command=command,
        joint_states=joint_states,
        wrench_topic=wrench_topic,
        tool_pose=tool_pose,
        cameras=cameras,
        points=points,
        outcome=outcome,
    )
    for section in (start, home, top):
        section.finish()
    _check(found, top)
    return found


def _joints(top: Section) -> tuple[Joint, ...]:
    joints: list[Joint] = []
    for entry in top.sections("joints"):
        kind = entry.choice("kind", ("revolute", "prismatic"))
        u, force = ("m", "N") if kind == "prismatic" else ("rad", "Nm")
        low, high = entry.interval(f"position_{u}")
        joint = Joint(
            name=entry.text("name"),
            prismatic=kind == "prismatic",
            low=low,
            high=high,
            velocity=entry.number(f"velocity_{u}_s", low=0),
            acceleration=entry.number(f"acceleration_{u}_s2", low=0),
            jerk=entry.number(f"jerk_{u}_s3", low=0),
            effort=entry.number(f"effort_{force}", low=0, above=True),
            tracking=entry.number(f"tracking_{u}", low=0, above=True),
            start=entry.number(f"start_{u}"),
            start_tolerance=entry.number(f"start_tolerance_{u}", low=0, above=True),
            first_command=entry.number(f"first_command_{u}", low=0, above=True),
            home=entry.number(f"home_{u}"),
        )
        for key, value in (("start", joint.start), ("home", joint.home)):
            if not low <= value <= high:
                raise entry.error(f"{key}_{u}", f"is {value:g}, outside position_{u} [{low:g}, {high:g}]")
        entry.finish()
        if joint.name in (other.name for other in joints):
            raise entry.error("name", f"is '{joint.name}', as another joint's")
        joints.append(joint)
    return tuple(joints)


def _chain(top: Section, joints: Sequence[Joint]) -> Chain:
    section = top.section("kinematics")
    by_name = {joint.name: joint for joint in joints}
    links: list[Link] = []
    for entry in section.sections("links"):
        name = entry.choice("joint", by_name)
        if name in (link.joint for link in links):
            raise entry.error("joint", f"is '{name}', which another link moves already")
        x, y, z = entry.numbers("xyz_m", 3)
        roll, pitch, yaw = entry.numbers("rpy_rad", 3)
        ax, ay, az = entry.numbers("axis", 3)
        if math.hypot(ax, ay, az) < 1e-6:
            raise entry.error("axis", "has no length; write a direction, such as [0, 0, 1]")
        entry.finish()
        links.append(
            Link(
                joint=name,
                prismatic=by_name[name].prismatic,
                xyz_m=(x, y, z),
                rpy_rad=(roll, pitch, yaw),
                axis=(ax, ay, az),
            )
        )
    tool = section.section("tool")
    x, y, z = tool.numbers("xyz_m", 3)
    roll, pitch, yaw = tool.numbers("rpy_rad", 3)
    tool.finish()
    section.finish()
    return Chain(links=tuple(links), tool_xyz_m=(x, y, z), tool_rpy_rad=(roll, pitch, yaw))


def _workspace(top: Section, base: str) -> Box:
    section = top.section("workspace")
    frame = section.text("frame")
    if frame != base:
        raise section.error("frame", f"is '{frame}'; the box is checked in the base frame, '{base}'")
    (x0, y0, z0), (x1, y1, z1) = section.numbers("low_m", 3), section.numbers("high_m", 3)
    if not (x0 < x1 and y0 < y1 and z0 < z1):
        raise section.error("low_m", f"{[x0, y0, z0]} must lie below high_m {[x1, y1, z1]} in every coordinate")
    section.finish()
    return Box(low_m=(x0, y0, z0), high_m=(x1, y1, z1))


def _cartesian(top: Section) -> Cartesian | None:
    if top.value("cartesian") is None:  # written down as none
        return None
    section = top.section("cartesian")
    found = Cartesian(
        speed_m_s=section.number("speed_m_s", low=0, above=True),
        acceleration_m_s2=section.number("acceleration_m_s2", low=0, above=True),
        turn_rad_s=section.number("turn_rad_s", low=0, above=True),
        turn_acceleration_rad_s2=section.number("turn_acceleration_rad_s2", low=0, above=True),
        damping=section.number("damping", low=0, above=True),
        first_command_m=section.number("first_command_m", low=0, above=True),
        first_command_rad=section.number("first_command_rad", low=0, above=True),
    )
    section.finish()
    return found


def _wrench(top: Section, topic: Topic | None) -> Wrench | None:
    if top.value("wrench") is None:  # written down as none
        if topic is not None:
            raise top.error(
                "topics.wrench", "is given, but `wrench` has no thresholds: write them, or leave out the topic"
            )
        return None
    section = top.section("wrench")
    if topic is None:
        raise section.error("", "has thresholds, but there is no topics.wrench: write it, or set `wrench: null`")
    found = Wrench(
        force_N=section.number("force_N", low=0, above=True), torque_Nm=section.number("torque_Nm", low=0, above=True)
    )
    section.finish()
    return found


def _watchdogs(top: Section) -> Watchdogs:
    section = top.section("watchdogs")
    seconds = {
        key: section.number(key, low=0, above=True, high=60) for key in Watchdogs.__annotations__ if key.endswith("_s")
    }
    found = Watchdogs(
        command_hold_s=seconds["command_hold_s"],
        command_stop_s=seconds["command_stop_s"],
        observation_stop_s=seconds["observation_stop_s"],
        heartbeat_stop_s=seconds["heartbeat_stop_s"],
        permit_stop_s=seconds["permit_stop_s"],
        takeover_hold_s=seconds["takeover_hold_s"],
        takeover_stop_s=seconds["takeover_stop_s"],
        frozen_s=seconds["frozen_s"],
        clock_jump_s=seconds["clock_jump_s"],
        answer_age_s=seconds["answer_age_s"],
        invalid_commands=section.whole("invalid_commands", low=1),
        tracking_errors=section.whole("tracking_errors", low=1),
        missed_deadlines=section.whole("missed_deadlines", low=1),
        flood_factor=section.number("flood_factor", low=1, above=True),
    )
    section.finish()
    for first, last in (("command_hold_s", "command_stop_s"), ("takeover_hold_s", "takeover_stop_s")):
        if seconds[first] >= seconds[last]:
            raise section.error(first, f"is {seconds[first]:g}; it must be below {last}, {seconds[last]:g}")
    return found


def _topic(section: Section, types: tuple[str, ...]) -> Topic:
    found = Topic(
        topic=section.text("topic"),
        type=section.choice("type", types),
        reliability=section.choice("reliability", ("reliable", "best_effort")),
        durability=section.choice("durability", ("volatile", "transient_local")),
        depth=section.whole("depth", low=1),
        unit=section.text("unit"),
        frame=section.text("frame"),
        rate_hz=section.number("rate_hz", low=0, above=True),
        maximum_age_s=section.number("maximum_age_s", low=0, above=True),
    )
    section.finish()
    if not found.topic.startswith("/"):
        raise section.error("topic", f"is '{found.topic}'; write the whole name, beginning with /")
    return found


def _named_topics(topics: Section, key: str, kind: str) -> dict[str, Topic]:
    if not topics.has(key):
        return {}
    section = topics.section(key)
    return {name: _topic(section.section(name), INPUT_TYPES[kind]) for name in section.names()}


def _check(robot: Robot, top: Section) -> None:
    """What several sections say together."""
    dogs = robot.watchdogs
    for key, topic in (("joint_states", robot.joint_states), ("wrench", robot.wrench_topic)):
        if topic is not None and topic.maximum_age_s * topic.rate_hz < 1:
            raise top.error(
                f"topics.{key}.maximum_age_s",
                f"is {topic.maximum_age_s:g}, less than one period at {topic.rate_hz:g} Hz: all are too old",
            )
    if robot.mode in TOOL_MODES and robot.command.frame != robot.base_frame:
        raise top.error(
            "command.frame",
            f"is '{robot.command.frame}'; poses and twists are sent in the base frame, '{robot.base_frame}'",
        )
    if dogs.observation_stop_s < robot.joint_states.maximum_age_s:
        raise top.error(
            "watchdogs.observation_stop_s",
            f"is {dogs.observation_stop_s:g}, below topics.joint_states.maximum_age_s, "
            f"{robot.joint_states.maximum_age_s:g}",
        )
    if abs(robot.command.rate_hz * robot.control_period_s - 1) > 0.01:
        raise top.error(
            "command.rate_hz",
            f"is {robot.command.rate_hz:g}, but one command leaves every control_period_s={robot.control_period_s:g}: "
            f"write {1 / robot.control_period_s:g}",
        )
    for key, silence_s in (("command_hold_s", dogs.command_hold_s), ("takeover_hold_s", dogs.takeover_hold_s)):
        if silence_s * robot.controller_rate_hz < 1:
            raise top.error(
                f"watchdogs.{key}",
                f"is {silence_s:g}, less than one period at controller_rate_hz={robot.controller_rate_hz:g}",
            )
    for pose in ("start", "home"):
        position = [joint.start if pose == "start" else joint.home for joint in robot.joints]
        tool = robot.tool_point()(position)
        box = robot.workspace
        if not all(low <= x <= high for low, x, high in zip(box.low_m, tool, box.high_m, strict=True)):
            at = [round(x, 4) for x in tool]
            raise top.error(
                "workspace",
                f"from {list(box.low_m)} to {list(box.high_m)} does not hold the {pose} pose, "
                f"where the tool is at {at}: make it larger, or move {pose}_* of the joints",
            )
