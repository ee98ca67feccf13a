"""When the topics of a recording speak: on which clock, at which period, and where episodes lie."""

from pathlib import Path

import numpy as np

from robot_rl.datasets.ingest.bag_segments import (
    SAME_CLOCK_S,
    SECOND,
    Clock,
    Segment,
    Silence,
    Stream,
    clock,
    covered,
    instructed,
    judged,
    marked,
    said,
    without_pauses,
)
from robot_rl.datasets.ingest.bag_source import Bag
from robot_rl.datasets.ingest.bag_topics import Plan, choose_topics, split_field
from robot_rl.datasets.ingest.base import BagOptions, ReadOptions
from robot_rl.datasets.ingest.resample import usual_period
from robot_rl.errors import InputError

GAP_PERIODS = 5
SMALLEST_GAP_S = 0.5
SLOW_S = 0.5
"""Topics whose messages are further apart do not choose the control period where there is a faster one."""
SHORTEST_PERIOD_S = 1e-5


def make_plan(path: Path, bags: list[Bag], options: ReadOptions) -> Plan:
    """Decide everything but the reading.

    Raises:
        InputError: a topic that was asked for is not there or cannot be used, or nothing can be.
    """
    plan = Plan(place=path.name, bags=bags, findings=[finding for bag in bags for finding in bag.findings])
    choose_topics(plan, path, options.bag)
    _choose_clocks(plan, options.bag.clock)
    distances_s = _fill_streams(plan)
    if not options.bag.observations:
        _leave_out_strangers(plan, [topic for topic in plan.topics() if distances_s[topic] <= SLOW_S])
    _choose_period(plan, options, distances_s)
    _choose_gaps(plan, options.bag, distances_s)
    _say_clocks(plan, options.bag.clock)
    _find_segments(plan, path, options.bag)
    return plan


def _choose_clocks(plan: Plan, setting: str) -> None:
    """Header stamps where they can be used, and on one clock with the others."""
    topics = list(plan.schemas)
    for topic in topics:
        messages = [bag.messages[topic] for bag in plan.bags if topic in bag.messages]
        plan.clocks[topic] = clock(setting, messages, plan.schemas[topic])
    if setting == "header":
        bare = [topic for topic in plan.topics() if not plan.clocks[topic].header]
        if bare:
            raise InputError(
                f"bag.clock=header, but {', '.join(bare)} has messages without a stamp: use bag.clock=auto, "
                "or leave it out"
            )
    headers = {topic: found for topic, found in plan.clocks.items() if found.header and found.offset_s is not None}
    if setting != "auto" or not headers:
        return
    offsets = [found.offset_s for found in headers.values() if found.offset_s is not None]
    together = max(offsets) - min(offsets) <= SAME_CLOCK_S
    alone = len(headers) == len(topics)
    for topic, found in headers.items():
        assert found.offset_s is not None
        if abs(found.offset_s) > SAME_CLOCK_S and not (together and alone):
            plan.clocks[topic] = Clock(header=False, stamped=True, offset_s=found.offset_s, jitter_s=found.jitter_s)
            plan.say(
                "warning",
                f"topic {topic}: its stamps are {found.offset_s:g} s before the reception, on another clock than other "
                "topics: the time of reception is used",
                "set the clocks of the machines, or choose with bag.clock",
            )


def _fill_streams(plan: Plan) -> dict[str, float]:
    """Sort the messages by the clock of each topic. Returns the usual distance of its messages in seconds."""
    for bag in plan.bags:
        plan.streams.append(
            {
                topic: plan.clocks[topic].stream(bag.messages[topic], kind.ros1)
                for topic, kind in plan.schemas.items()
                if topic in bag.messages and len(bag.messages[topic])
            }
        )
    distances: dict[str, float] = {}
    for topic in plan.schemas:
        times = [streams[topic].times_ns for streams in plan.streams if topic in streams]
        found = usual_period(np.concatenate(times)) if times else None
        distances[topic] = float("inf") if found is None else found / SECOND
    return distances


def _choose_period(plan: Plan, options: ReadOptions, distances: dict[str, float]) -> None:
    """The control period: as it was set, else that of the command, else of the slowest topic."""
    if options.control_period_s is not None:
        plan.period_s = options.control_period_s
        return
    numbers = [feature.topic for feature in plan.features]
    candidates = numbers or [image.topic for image in plan.images]
    quick = [topic for topic in candidates if distances[topic] <= SLOW_S]
    source = max(quick or candidates, key=lambda topic: distances[topic])
    text = f"the slowest topic of {'numbers' if numbers else 'images'}"
    if plan.action is not None and np.isfinite(distances[plan.action.topic]):
        source, text = plan.action.topic, "the topic of the command"
    period = distances[source]
    if not SHORTEST_PERIOD_S <= period < float("inf"):
        raise InputError(
            f"{plan.place}: the messages of {source} are {period:g} s apart, which cannot be the control period: set "
            "control_period_s"
        )
    plan.period_s = round(period, 6)
    plan.say(
        "information",
        f"the control period is {plan.period_s:g} s, the median of {source}, {text}",
        "set control_period_s for another one",
    )


def _say_clocks(plan: Plan, setting: str) -> None:
    """Where the two clocks differ by more than half a step."""
    for topic in plan.topics():
        found = plan.clocks[topic]
        if found.offset_s is None or found.jitter_s is None:
            continue
        used = "the stamp of the header is used" if found.header else "the time of reception is used"
        if max(abs(found.offset_s), found.jitter_s) > plan.period_s / 2:
            plan.say(
                "warning",
                f"topic {topic}: between stamp and reception lie {found.offset_s:g} s (median), with a jitter of "
                f"{found.jitter_s:g} s (95th percentile): more than half a control period; {used}",
                "choose with bag.clock=header or bag.clock=receive",
            )
    bare = [topic for topic in plan.topics() if not plan.clocks[topic].header]
    if setting == "auto" and bare and any(plan.clocks[topic].header for topic in plan.topics()):
        text = f"{', '.join(bare)}: without usable stamps, so the time of reception; the other topics by their stamps"
        plan.say("information", text, "bag.clock=receive takes one clock for all")


def _choose_gaps(plan: Plan, options: BagOptions, distances: dict[str, float]) -> None:
    """The rule on gaps; a topic that is slower than that by itself is held instead, or left out if nobody asked."""
    limit = options.maximum_gap_s
    if limit is None:
        limit = max(SMALLEST_GAP_S, GAP_PERIODS * plan.period_s)
    if not limit > 0:
        raise InputError(f"bag.maximum_gap_s={limit} must be positive")
    asked = bool(options.observations)
    command = None if plan.action is None else plan.action.topic
    sparse = [topic for topic in plan.topics() if distances[topic] > limit]
    if len(sparse) == len(plan.topics()):
        apart = ", ".join(f"{topic} {distances[topic]:g} s" for topic in sparse)
        raise InputError(
            f"{plan.place}: all topics have messages further apart than the largest gap of {limit:g} s ({apart}): set "
            "bag.maximum_gap_s"
        )
    for topic in sparse:
        if asked or topic == command:
            text = f"topic {topic}: its messages are {distances[topic]:g} s apart, so the last one is held"
            plan.say("information", text)
            continue
        text = f"topic {topic} is left out: its messages are {distances[topic]:g} s apart"
        remedy = "name it in bag.observations to hold its last message"
        if plan.schemas[topic].type.endswith("/Bool"):
            remedy += f"; where it says how episodes ended, set bag.success={topic}"
        plan.say("information", text, remedy)
        plan.leave_out(topic)
    plan.maximum_gap_s = {topic: limit for topic in plan.topics() if topic not in sparse}
    if options.segment == "idle" and command in plan.maximum_gap_s:
        plan.maximum_gap_s[command] = max(limit, options.idle_s)
    for number, streams in enumerate(plan.streams):
        kept = set(plan.topics())
        plan.streams[number] = {topic: stream for topic, stream in streams.items() if topic in kept}


def _leave_out_strangers(plan: Plan, topics: list[str]) -> None:
    """Leave out topics that never speak while the others do: the command stays, then joints, other numbers, images."""
    command = None if plan.action is None else plan.action.topic
    numbers = [feature.topic for feature in plan.features]

    def importance(topic: str) -> tuple[bool, bool, bool, int]:
        joints = plan.schemas[topic].type.endswith("/JointState")
        count = sum(len(streams[topic].times_ns) for streams in plan.streams if topic in streams)
        return topic != command, not joints, topic not in numbers, -count

    common: dict[int, tuple[int, int]] = {}
    strangers = []
    for topic in sorted(topics, key=importance):
        spans = {number: _span(streams[topic]) for number, streams in enumerate(plan.streams) if topic in streams}
        if common:
            shared = [number for number in common if number in spans]
            spans = {n: (max(spans[n][0], common[n][0]), min(spans[n][1], common[n][1])) for n in shared}
        together = {number: span for number, span in spans.items() if span[0] < span[1]}
        if together:
            common = together
        else:
            strangers.append(topic)
    if strangers:
        listed = ", ".join(strangers)
        text = f"{listed}: left out, without messages while there are of the others ({_spans(plan)})"
        plan.say("warning", text, "name the topics that are needed together in bag.observations")
    for topic in strangers:
        plan.leave_out(topic)


def _span(stream: Stream) -> tuple[int, int]:
    return int(stream.times_ns[0]), int(stream.times_ns[-1])


def _find_segments(plan: Plan, path: Path, options: BagOptions) -> None:
    """Episodes: parts of the bags as `segment` says, without what lies in gaps."""
    silence = Silence()
    short = 0
    for number, bag in enumerate(plan.bags):
        streams = plan.streams[number]
        missing = [topic for topic in plan.topics() if topic not in streams]
        if missing:
            text = f"{bag.name} has no messages of {', '.join(missing)}, which others have: it is left out"
            plan.say("warning", text, "name the topics that all bags have in bag.observations")
            continue
        parts = [
            part
            for segment in _segments(plan, number, options)
            for part in covered(segment, streams, plan.maximum_gap_s, silence)
        ]
        usable = [part for part in parts if (part.end_ns - part.start_ns) / SECOND + 1e-9 >= plan.period_s]
        short += len(parts) - len(usable)
        plan.segments += _told(plan, number, usable)
    if silence.count:
        plan.say(
            "warning",
            f"{silence.count} parts in which a topic is silent for longer than the largest gap are left out: "
            f"{silence.seconds:.3f} s with {silence.messages} messages of the others. The longest silence has "
            f"{silence.longest_s:.3f} s, of {silence.longest_topic}",
            "set bag.maximum_gap_s, or leave that topic out with bag.observations",
        )
    if short:
        plan.say("information", f"{short} parts shorter than one control period are left out")
    if not plan.segments:
        raise InputError(
            f"{path}: there is no time at which all topics have messages ({_spans(plan)}): name fewer in "
            "bag.observations, or set bag.clock or bag.maximum_gap_s"
        )


def _told(plan: Plan, number: int, segments: list[Segment]) -> list[Segment]:
    """Episodes of one bag with their success and instruction, where topics tell them."""
    bag = plan.bags[number]
    for topic, setting, kind in ((plan.success, "bag.success", "Bool"), (plan.language, "bag.language", "String")):
        if topic is None or len(bag.messages.get(topic, ())) == 0:
            continue
        stream = plan.clocks[topic].stream(bag.messages[topic], plan.schemas[topic].ros1)
        messages = said(bag, stream, plan.schemas[topic], setting, [kind])
        if kind == "Bool":
            segments = judged(segments, stream, [true for true, _ in messages])
        else:
            segments = instructed(segments, stream, [text for _, text in messages])
    return segments


def _spans(plan: Plan) -> str:
    """When each topic speaks, in seconds since the first message of the first bag."""
    streams = plan.streams[0]
    first = min((int(stream.times_ns[0]) for stream in streams.values()), default=0)
    return "; ".join(
        f"{topic} from {(stream.times_ns[0] - first) / SECOND:.3f} s to {(stream.times_ns[-1] - first) / SECOND:.3f} s"
        for topic, stream in streams.items()
    )


def _segments(plan: Plan, number: int, options: BagOptions) -> list[Segment]:
    """What may be episodes of one bag."""
    bag, streams = plan.bags[number], plan.streams[number]
    start = min(int(stream.times_ns[0]) for stream in streams.values())
    end = max(int(stream.times_ns[-1]) for stream in streams.values())
    segment = options.segment
    if segment == "auto":
        segment = "bag" if options.marker is None else "marker"
    if segment == "marker":
        assert options.marker is not None
        topic, _ = split_field(options.marker, list(plan.schemas))
        if topic not in bag.messages or len(bag.messages[topic]) == 0:
            plan.say("warning", f"{bag.name} has no messages of the marker {topic}: it is left out")
            return []
        stream = plan.clocks[topic].stream(bag.messages[topic], plan.schemas[topic].ros1)
        return marked(bag, stream, plan.schemas[topic], number, end)
    if segment == "idle":
        if plan.action is None:
            raise InputError("bag.segment=idle needs the topic of the command: set bag.action")
        return without_pauses(streams[plan.action.topic], options.idle_s, number)
    return [Segment.of(number, start, end)]
