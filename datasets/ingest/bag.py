"""Bags of ROS 2 (sqlite3, MCAP) and ROS 1: topics, each with times of its own, become steps of one control period.

Opening makes an index of topics and times; the messages of an episode are decoded when it is read.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.ingest.bag_messages import Decoded, Feature
from robot_rl.datasets.ingest.bag_plan import make_plan
from robot_rl.datasets.ingest.bag_segments import SECOND, Segment, Stream
from robot_rl.datasets.ingest.bag_source import Bag, files_of, find_bags, open_bag, summary
from robot_rl.datasets.ingest.bag_topics import Plan
from robot_rl.datasets.ingest.base import ReadOptions, Recording, SuccessSource, action_spec, provenance
from robot_rl.datasets.ingest.resample import grid, interpolate, latest, nearest, slerp
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

VERSION = 1
MOST_POINTS = 1000
"""Points of the grid for each message of an episode, from which on the control period cannot be meant."""


class BagReader:
    """`format=bag`."""

    name = "bag"
    description = "rosbag2 (sqlite3 or MCAP, a folder with metadata.yaml or the files alone) and ROS 1 bags"

    def probe(self, path: Path) -> str | None:
        """The first bytes of the files."""
        try:
            bags = find_bags(path)
        except InputError:
            return "it has a metadata.yaml of rosbag2"
        if not bags:
            return None
        files = list(files_of(bags))
        return f"it has {len(bags)} bags in {len(files)} files, such as {files[0].name}"

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Index the bags, choose topics and clock, and find the episodes.

        Raises:
            InputError: a file is damaged, a topic that was asked for is not there, or none can be used.
        """
        places = find_bags(path)
        if not places:
            raise InputError(f"{path} is no bag: expected an MCAP file, a database of rosbag2 or a ROS 1 bag")
        with ExitStack() as stack:
            bags = [open_bag(place, stack) for place in places]
            plan = make_plan(path, bags, options)
            segments = plan.segments[: options.maximum_episodes]
            origin = provenance(path, self.name, VERSION, plan.about(), list(files_of(places)))
            spec = _spec(plan, options, path)
            success, findings = SuccessSource.of(options, [np.zeros(1)], recorded=plan.success is not None, path=path)

            def read(index: int) -> Episode:
                segment = segments[index]
                place = f"{path}: episode {index} ({bags[segment.bag].name})"
                return success.label(_read(plan, segment, place), place)

            return Recording(
                spec=spec,
                provenance=origin,
                count=len(segments),
                read=read,
                findings=plan.findings + findings,
                resources=stack.pop_all(),
            )


def _spec(plan: Plan, options: ReadOptions, path: Path) -> Spec:
    observation = {feature.key: feature.spec for feature in plan.features} | {
        image.key: image.spec for image in plan.images
    }
    absent = ["reward", "success", "end"] if plan.success is None else ["reward", "end"]
    if plan.action is None:
        absent.insert(0, "action")
        action = ArraySpec(shape=(0,), dtype="float32")
    else:
        rows = np.zeros((1, *plan.action.spec.shape), _action_dtype(plan.action))
        bounded = action_spec(rows, options, str(path))
        action = replace(
            bounded, names=plan.action.spec.names, unit=plan.action.spec.unit, frame=plan.action.spec.frame
        )
    return Spec(
        observation=observation,
        action=action,
        control_period_s=plan.period_s,
        action_semantics=None if plan.action is None else plan.action_semantics(),
        metadata={"absent": absent},
    )


def _action_dtype(action: Feature) -> str:
    return action.spec.dtype if action.spec.dtype.startswith("float") else "float64"


@dataclass(kw_only=True)
class _Samples:
    """A decoded stream: N rows and their times in seconds since the episode began."""

    times: Array
    values: Array


def _read(plan: Plan, segment: Segment, place: str) -> Episode:
    """Decode and resample the messages of one episode."""
    bag, streams = plan.bags[segment.bag], plan.streams[segment.bag]
    seconds = (segment.end_ns - segment.start_ns) / SECOND
    parts = {
        topic: stream.take(stream.around(segment, plan.maximum_gap_s.get(topic))) for topic, stream in streams.items()
    }
    if seconds / plan.period_s > MOST_POINTS * sum(len(part.times_ns) for part in parts.values()):
        raise InputError(
            f"{place}: {seconds:g} s have few messages for a period of {plan.period_s} s: set control_period_s"
        )
    times = grid(0.0, seconds, plan.period_s)
    samples = _decode(plan, bag, parts, segment, place)
    observation: dict[str, Array] = {}
    extras = {"timestamp_s": times}
    for feature in plan.features:
        part = samples[feature.key, feature.topic]
        observation[feature.key] = _resampled(feature, part, times)
        extras[f"timestamp_s/{feature.key}"] = part.times[latest(part.times, times)]
    for image in plan.images:
        stream = parts[image.topic]
        stamps = _seconds(stream.times_ns, segment)
        chosen = nearest(stamps, times, plan.period_s / 2)
        observation[image.key] = image.read(bag, stream.messages.take(chosen))
        extras[f"timestamp_s/{image.key}"] = stamps[chosen]
    steps = len(times) - 1
    action = np.zeros((steps, 0), np.float32)
    if plan.action is not None:
        command = samples[None, plan.action.topic]
        chosen = latest(command.times, times[:-1])
        action = command.values[chosen].astype(_action_dtype(plan.action))
        extras["timestamp_s/action"] = command.times[chosen]
    truncated = np.zeros(steps, bool)
    truncated[-1] = True  # the recording stopped; whether the task ended it does not say
    start_s = segment.start_ns / SECOND
    metadata: dict[str, Any] = {
        "source": f"{bag.name}: {start_s:.3f} s to {segment.end_ns / SECOND:.3f} s",
        "start_time_s": start_s,
    }
    if segment.label:
        metadata["marker"] = segment.label
    if segment.language:
        metadata["language"] = segment.language
    success = None
    if segment.success is not None:
        success = np.zeros(steps, bool)
        success[-1] = segment.success
    return Episode(
        observation=observation,
        action=action,
        reward=np.zeros(steps),
        terminated=np.zeros(steps, bool),
        truncated=truncated,
        success=success,
        extras=extras,
        metadata=metadata,
    )


def _seconds(times_ns: Array, segment: Segment) -> Array:
    return np.asarray((times_ns - segment.start_ns) / SECOND)


def _decode(
    plan: Plan, bag: Bag, parts: dict[str, Stream], segment: Segment, place: str
) -> dict[tuple[str | None, str], _Samples]:
    """The numbers of all topics, by key and topic; the command without a key."""
    wanted: list[tuple[str | None, Feature]] = [(feature.key, feature) for feature in plan.features]
    if plan.action is not None:
        wanted.append((None, plan.action))
    schemas = {feature.topic: feature.schema for _, feature in wanted}
    payloads = bag.payloads_of({topic: parts[topic].messages for topic in schemas})
    decoded = {
        topic: Decoded.of(payloads[topic], schema, f"{place}: topic {topic}") for topic, schema in schemas.items()
    }
    out: dict[tuple[str | None, str], _Samples] = {}
    for key, feature in wanted:
        stream = parts[feature.topic]
        values, has = feature.read(decoded[feature.topic], f"{place}: topic {feature.topic}")
        times = _seconds(stream.times_ns, segment)[has]
        limit = plan.maximum_gap_s.get(feature.topic)
        _require_dense(feature, times, limit, (segment.end_ns - segment.start_ns) / SECOND, place)
        out[key, feature.topic] = _Samples(times=times, values=values[has])
    return out


def _require_dense(feature: Feature, times: Array, limit: float | None, end: float, place: str) -> None:
    """Messages without the wanted joints are not used: what is left must not have gaps either."""
    edges = np.sort(np.concatenate([[0.0], times, [end]]))
    if len(times) == 0 or (limit is not None and float(np.diff(edges).max()) > limit):
        raise InputError(
            f"{place}: topic {feature.topic} has too few messages with all of the joints {', '.join(feature.joints)}: "
            "name the observations that are to be used in bag.observations"
        )


def _resampled(feature: Feature, samples: _Samples, points: Array) -> Array:
    """The rows of a feature at the points of the grid. Shapes: (K,) -> (K, C)."""
    held = samples.values[latest(samples.times, points)]
    if not feature.spec.dtype.startswith("float"):
        return held
    out = interpolate(samples.values, samples.times, points)
    for first in feature.quaternions:
        columns = slice(first, first + 4)
        out[:, columns] = slerp(samples.values[:, columns], samples.times, points)
    out[:, list(feature.held)] = held[:, list(feature.held)]
    return out


__all__ = ["BagReader", "summary"]
