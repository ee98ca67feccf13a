"""Which topics of a recording are used, and what they are: the part of a plan that is about messages, not times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robot_rl.datasets.ingest.bag_files import Messages
from robot_rl.datasets.ingest.bag_images import ImageTopic, image_topic
from robot_rl.datasets.ingest.bag_messages import (
    COMPRESSED_IMAGE,
    IMAGE,
    Feature,
    action_feature,
    features,
    joint_names,
)
from robot_rl.datasets.ingest.bag_segments import Clock, Segment, Stream
from robot_rl.datasets.ingest.bag_source import Bag
from robot_rl.datasets.ingest.bag_types import Schema, schema, user_definitions
from robot_rl.datasets.ingest.base import BagOptions
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError, nearest

SHOWN = 6  # topics that are not used for the same reason, by name
COMMANDS = ("command", "cmd", "setpoint", "target", "joint_trajectory")
COMMAND_TYPES = ("JointTrajectory", "Twist", "TwistStamped")
"""What the name or the type of a command's topic often is."""
EXAMPLES = 32  # messages of a topic that are looked at for the names of joints
SEMANTICS = {
    "position": "joint_position_target",
    "positions": "joint_position_target",
    "velocity": "joint_velocity_target",
    "velocities": "joint_velocity_target",
    "effort": "joint_effort_target",
}
TYPE_SEMANTICS = {"Twist": "twist_target", "TwistStamped": "twist_target", "Pose": "pose_target",
                  "PoseStamped": "pose_target"}  # fmt: skip


@dataclass(kw_only=True)
class Plan:
    """How a recording is read."""

    place: str
    bags: list[Bag]
    features: list[Feature] = field(default_factory=list)
    images: list[ImageTopic] = field(default_factory=list)
    action: Feature | None = None
    success: str | None = None  # topic of Bool
    language: str | None = None  # topic of String
    schemas: dict[str, Schema] = field(default_factory=dict)  # of the topics that are used
    clocks: dict[str, Clock] = field(default_factory=dict)
    streams: list[dict[str, Stream]] = field(default_factory=list)  # by bag and topic
    period_s: float = 0.0
    maximum_gap_s: dict[str, float] = field(default_factory=dict)  # of the topics that must not be silent for longer
    segments: list[Segment] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def say(self, severity: str, text: str, remedy: str = "") -> None:
        """One more finding."""
        self.findings.append(Finding(severity=severity, place=self.place, text=text, remedy=remedy))

    def topics(self) -> list[str]:
        """Topics that are used, the command too."""
        names = [feature.topic for feature in self.features] + [image.topic for image in self.images]
        return list(dict.fromkeys(names + ([] if self.action is None else [self.action.topic])))

    def leave_out(self, topic: str) -> None:
        """Not use a topic as an observation."""
        self.features = [feature for feature in self.features if feature.topic != topic]
        self.images = [image for image in self.images if image.topic != topic]

    def about(self) -> dict[str, Any]:
        """For the provenance."""
        return {
            "bags": [bag.name for bag in self.bags],
            "ros_distribution": self.bags[0].ros_distribution,
            "clock": {topic: "header" if clock.header else "receive" for topic, clock in self.clocks.items()},
        }

    def action_semantics(self) -> str | None:
        """What the command means, where its field or type says so."""
        assert self.action is not None
        field_name = self.action.fields[0].split(".")[-1]
        return SEMANTICS.get(field_name, TYPE_SEMANTICS.get(self.action.schema.type.split("/")[-1]))


def split_field(asked: str, topics: Sequence[str]) -> tuple[str, str | None]:
    """TOPIC or TOPIC:FIELD; the slash before a topic may be left out.

    Raises:
        InputError: there is no such topic.
    """
    name, _, field_name = asked.partition(":")
    for topic in topics:
        if topic.strip("/") == name.strip("/"):
            return topic, field_name or None
    raise InputError(f"there is no topic {name}: {nearest(name, topics)}")


def choose_topics(plan: Plan, path: Path, options: BagOptions) -> None:
    """The topics: those that were asked for, else all that can be used."""
    counts: dict[str, int] = {}
    for bag in plan.bags:
        for name, messages in bag.messages.items():
            counts[name] = counts.get(name, 0) + len(messages)
    names = sorted(name for name, count in counts.items() if count)
    definitions = user_definitions(options.definitions)
    asked = [split_field(name, names) for name in options.observations]
    command = None if options.action is None else split_field(options.action, names)
    marker = None if options.marker is None else split_field(options.marker, names)[0]
    plan.success = None if options.success is None else split_field(options.success, names)[0]
    plan.language = None if options.language is None else split_field(options.language, names)[0]
    reserved = {marker, command[0] if command else None, plan.success, plan.language}
    wanted: list[tuple[str, str | None]] = asked or [(name, None) for name in names if name not in reserved]
    unused: dict[str, str] = {}
    for topic, field_name in wanted:
        if not asked and counts[topic] < 2:
            unused[topic] = f"{counts[topic]} message"
            continue
        try:
            _add_topic(plan, topic, field_name, definitions, asked=bool(asked))
        except InputError as error:
            if asked:
                raise InputError(f"{path}: {error}") from error
            unused[topic] = str(error).removeprefix(f"topic {topic} ")
    if command is not None:
        found, _ = _features(plan, command[0], command[1], definitions, asked=True)
        plan.action = action_feature(command[0], found)
    else:
        _say_commands(plan, names)
    for told in (marker, plan.success, plan.language):
        if told is not None:
            plan.schemas[told] = _schema(plan, told, definitions)
    if not plan.features and not plan.images:
        seen = "; ".join(f"{name} ({_type(plan, name)} x {counts[name]})" for name in names) or "none"
        raise InputError(
            f"{path} has no topic that can be an observation: at least two messages of numbers or images are needed, "
            f"such as sensor_msgs/msg/JointState or sensor_msgs/msg/Image. Topics: {seen}"
        )
    _require_keys(plan)
    if unused:
        text = f"{len(unused)} topic{'s are' if len(unused) > 1 else ' is'} not used: {by_reason(unused)}"
        texts = [name for name in unused if _type(plan, name).split("/")[-1] == "String"]
        told = f"; where it says the task, set bag.language={texts[0]}" if texts and plan.language is None else ""
        plan.say("information", text, f"name those with numbers or images that you need in bag.observations{told}")


def _say_commands(plan: Plan, names: Sequence[str]) -> None:
    """Topics that may be the command, where none was named."""
    found = [
        name
        for name in names
        if any(word in name.lower() for word in COMMANDS) or _type(plan, name).split("/")[-1] in COMMAND_TYPES
    ]
    if found:
        text = f"no topic was named as the command, so there are no actions; it may be {', '.join(found[:SHOWN])}"
        plan.say(
            "information", text, f"set bag.action={found[0]}, or take actions from an observation with action_from"
        )


def by_reason(unused: Mapping[str, str]) -> str:
    """Topics in words, those with the same reason together, and of many only the first."""
    topics: dict[str, list[str]] = {}
    for topic, why in unused.items():
        topics.setdefault(why, []).append(topic)
    return "; ".join(
        f"{', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}: {why}"
        for why, names in topics.items()
    )


def _add_topic(plan: Plan, topic: str, field_name: str | None, definitions: dict[str, Any], *, asked: bool) -> None:
    found, image = _features(plan, topic, field_name, definitions, asked=asked)
    plan.features += found
    if image is not None:
        plan.images.append(image)
        plan.findings += image.findings(plan.place)


def _features(
    plan: Plan, topic: str, field_name: str | None, definitions: dict[str, Any], *, asked: bool
) -> tuple[list[Feature], ImageTopic | None]:
    """What the messages of a topic give."""
    kind = _schema(plan, topic, definitions)
    bag = next(bag for bag in plan.bags if len(bag.messages.get(topic, ())))
    messages = bag.messages[topic]
    data = _example(plan, topic, kind, bag, messages)
    if kind.type in (IMAGE, COMPRESSED_IMAGE) and field_name is None:
        image = image_topic(topic, kind, data)
        plan.schemas[topic] = kind
        return [], image
    sizes = [bag.messages[topic].size for bag in plan.bags if topic in bag.messages]
    steady = all(bool((part == messages.size[0]).all()) for part in sizes)
    found, unmeasured = features(topic, kind, data, field_name, asked=asked, steady=steady)
    if unmeasured:
        plan.say("information", f"topic {topic}: {', '.join(unmeasured)} are not measured (NaN), so they are left out")
    plan.schemas[topic] = kind
    return found, None


def _example(plan: Plan, topic: str, kind: Schema, bag: Bag, messages: Messages) -> bytes:
    """The message that tells what the topic is: the first, or where several publishers name joints, that with most."""
    (first,) = bag.payloads(messages.take(slice(0, 1)))
    place = f"topic {topic}"
    if not joint_names(kind.layout(first, place), first):
        return first
    some = bag.payloads(messages.take(slice(0, EXAMPLES)))
    names = [set(joint_names(kind.layout(data, place), data)) for data in some]
    most = max(range(len(some)), key=lambda number: len(names[number]))
    others = sorted(set().union(*names) - names[most])
    if others:
        plan.say(
            "warning",
            f"topic {topic}: some of its messages name other joints ({', '.join(others)}): they are not used",
            "record them on a topic of their own",
        )
    return some[most]


def _schema(plan: Plan, topic: str, definitions: dict[str, Any]) -> Schema:
    bag = next(bag for bag in plan.bags if topic in bag.topics)
    return schema(bag.topics[topic], bag.ros_distribution, definitions)


def _type(plan: Plan, topic: str) -> str:
    return next(bag.topics[topic].type for bag in plan.bags if topic in bag.topics)


def _require_keys(plan: Plan) -> None:
    keys = [feature.key for feature in plan.features] + [image.key for image in plan.images]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise InputError(f"{plan.place}: several observations have the key {', '.join(twice)}: name other fields")
