"""Which clock the messages of a bag are on, and which parts of it are episodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robot_rl.datasets.ingest.bag_files import Messages
from robot_rl.datasets.ingest.bag_source import Bag
from robot_rl.datasets.ingest.bag_types import Schema, column, stamps_ns, tables
from robot_rl.datasets.ingest.resample import gaps, windows
from robot_rl.errors import InputError
from robot_rl.types import Array

SECOND = 10**9
SAME_CLOCK_S = 1.0
"""Header stamps that differ by more from the time of reception, in the median, come from another clock."""


@dataclass(kw_only=True)
class Stream:
    """Messages of a topic in one bag, sorted by the time that is used."""

    times_ns: Array  # (N,), int64
    messages: Messages

    def take(self, rows: slice) -> "Stream":
        """Some of the messages."""
        return Stream(times_ns=self.times_ns[rows], messages=self.messages.take(rows))

    def within(self, start_ns: int, end_ns: int) -> slice:
        """Those in [start, end]."""
        low = int(np.searchsorted(self.times_ns, start_ns, side="left"))
        return slice(low, int(np.searchsorted(self.times_ns, end_ns, side="right")))

    def around(self, segment: "Segment", maximum_gap_s: float | None) -> slice:
        """The messages of an episode, and of those before and after it the nearest, as far as they may be used.

        Args:
            segment: the episode.
            maximum_gap_s: of this topic; None where the last message is held however old it is.
        """
        rows = self.within(segment.start_ns, segment.end_ns)
        low, high = rows.start, rows.stop
        if maximum_gap_s is None:
            return slice(max(low - 1, 0), high)
        near = np.diff(self.times_ns[max(low - 1, 0) : high + 1]) <= maximum_gap_s * SECOND
        if low > 0 and len(near) and near[0] and self.times_ns[low - 1] >= segment.from_ns:
            low -= 1
        if high < len(self.times_ns) and len(near) and near[-1] and self.times_ns[high] <= segment.until_ns:
            high += 1
        return slice(low, high)

    def between(self, start_ns: int, end_ns: int) -> int:
        """How many lie inside, not at the edges."""
        low = np.searchsorted(self.times_ns, start_ns, side="right")
        return max(0, int(np.searchsorted(self.times_ns, end_ns, side="left") - low))


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Which time of a topic is used, and what the two have to do with each other."""

    header: bool  # else the time of reception
    stamped: bool  # every message has a stamp that is set
    offset_s: float | None = None  # median of reception minus stamp
    jitter_s: float | None = None  # 95th percentile of the distance from the median

    def stream(self, messages: Messages, ros1: bool) -> Stream:
        """Messages by this clock."""
        times = stamps_ns(messages.prefix, ros1) if self.header else messages.receive_ns
        order = np.argsort(times, kind="stable")
        return Stream(times_ns=times[order], messages=messages.take(order))


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a bag that is one episode."""

    bag: int
    start_ns: int
    end_ns: int
    from_ns: int  # the part as it was cut, before silences were taken out: no message outside of it is used
    until_ns: int
    label: str = ""  # text of the marker
    success: bool | None = None  # what the topic of success says of it
    language: str = ""  # what the topic of instructions said last

    @staticmethod
    def of(bag: int, start_ns: int, end_ns: int, label: str = "") -> "Segment":
        """A part as it was cut."""
        return Segment(bag=bag, start_ns=start_ns, end_ns=end_ns, from_ns=start_ns, until_ns=end_ns, label=label)


def clock(setting: str, messages: Sequence[Messages], schema: Schema) -> Clock:
    """The clock of a topic over all bags: as set, else the header's where every message has a stamp.

    Raises:
        InputError: `header` is set, but the topic has no stamps.
    """
    receive = np.concatenate([part.receive_ns for part in messages])
    if not schema.stamped or len(receive) == 0:
        return Clock(header=False, stamped=False)
    stamps = np.concatenate([stamps_ns(part.prefix, schema.ros1) for part in messages])
    moving = len(np.unique(stamps)) >= len(stamps) / 2  # some drivers send one stamp again and again
    if not (stamps != 0).all() or not moving:
        return Clock(header=False, stamped=False)
    difference = (receive - stamps) / SECOND
    offset = float(np.median(difference))
    jitter = float(np.percentile(np.abs(difference - offset), 95))
    return Clock(header=setting != "receive", stamped=True, offset_s=offset, jitter_s=jitter)


def marked(bag: Bag, stream: Stream, schema: Schema, number: int, end_ns: int) -> list[Segment]:
    """Parts between marks: a true, any or a non-empty one starts an episode and ends the one before.

    Raises:
        InputError: the marker is no Bool, String or Empty, or is damaged.
    """
    marks = said(bag, stream, schema, "bag.marker", ("Bool", "String", "Empty"))
    out: list[Segment] = []
    for k, (starts, label) in enumerate(marks):
        if starts:
            start = int(stream.times_ns[k])
            end = int(stream.times_ns[k + 1]) if k + 1 < len(marks) else end_ns
            # a message at the time of the next mark belongs to what that begins
            out.append(Segment.of(number, start, end - 1 if k + 1 < len(marks) else end, label))
    return out


def without_pauses(stream: Stream, pause_s: float, number: int) -> list[Segment]:
    """Parts in which the command does not pause for longer than `pause_s`."""
    times = stream.times_ns
    silences = gaps(times, pause_s * SECOND)
    return [
        Segment.of(number, int(start), int(end)) for start, end in windows(int(times[0]), int(times[-1]), [silences])
    ]


@dataclass(kw_only=True)
class Silence:
    """What the rule on gaps left out of a recording."""

    count: int = 0
    seconds: float = 0.0
    messages: int = 0
    longest_s: float = 0.0
    longest_topic: str = ""


def covered(
    segment: Segment, streams: Mapping[str, Stream], maximum_gap_s: Mapping[str, float], silence: Silence
) -> list[Segment]:
    """The parts of a segment in which every topic with a largest gap speaks; the others only have to have spoken.

    Args:
        segment: where to look.
        streams: by topic.
        maximum_gap_s: for the topics that must not be silent for longer.
        silence: is added to.
    """
    start, end = segment.start_ns, segment.end_ns
    quiet: list[Array] = []
    for topic, stream in streams.items():
        if topic not in maximum_gap_s:
            start = max(start, int(stream.times_ns[0]))
            continue
        times = stream.times_ns[stream.within(segment.start_ns, segment.end_ns)]
        found = gaps(np.concatenate([[segment.start_ns], times, [segment.end_ns]]), maximum_gap_s[topic] * SECOND)
        quiet.append(found)
        longest_s = float(np.diff(found, axis=1).max(initial=0)) / SECOND
        if longest_s > silence.longest_s:
            silence.longest_s, silence.longest_topic = longest_s, topic
        if len(times):
            start, end = max(start, int(times[0])), min(end, int(times[-1]))
    parts = windows(start, end, quiet)
    edges = [segment.start_ns, *(edge for part in parts for edge in part), segment.end_ns]
    shortest = min(maximum_gap_s.values(), default=0.0) * SECOND
    for number, (low, high) in enumerate(zip(edges[::2], edges[1::2], strict=True)):
        if 0 < number < len(parts) or high - low > shortest:
            silence.count += 1
            silence.seconds += (high - low) / SECOND
            silence.messages += sum(stream.between(int(low), int(high)) for stream in streams.values())
    return [replace(segment, start_ns=int(low), end_ns=int(high)) for low, high in parts]


def judged(segments: Sequence[Segment], stream: Stream, verdicts: Sequence[bool]) -> list[Segment]:
    """Segments of one bag in order of time, each with what was said from its start to that of the next."""
    out = []
    for number, segment in enumerate(segments):
        low = int(np.searchsorted(stream.times_ns, segment.start_ns, side="left"))
        high = len(verdicts)
        if number + 1 < len(segments):
            high = int(np.searchsorted(stream.times_ns, segments[number + 1].start_ns, side="left"))
        out.append(replace(segment, success=any(verdicts[low:high]) if high > low else None))
    return out


def instructed(segments: Sequence[Segment], stream: Stream, words: Sequence[str]) -> list[Segment]:
    """Segments of one bag, each with the last text before its end."""
    before = [int(np.searchsorted(stream.times_ns, segment.end_ns, side="right")) for segment in segments]
    return [
        replace(segment, language=words[count - 1] if count else "")
        for segment, count in zip(segments, before, strict=True)
    ]


def said(bag: Bag, stream: Stream, schema: Schema, setting: str, types: Sequence[str]) -> list[tuple[bool, str]]:
    """Whether each message is true, has a text, or just is, and its text.

    Raises:
        InputError: the topic that `setting` names is of none of the `types`, or is damaged.
    """
    name = schema.type.split("/")[-1]
    place = f"{bag.name}: topic of {setting}"
    if name not in types:
        wanted = f"{', '.join(types[:-1])} or {types[-1]}" if len(types) > 1 else types[0]
        raise InputError(f"{setting} is a topic of {schema.type}: it must be of {wanted} messages")
    if name == "Empty":
        return [(True, "")] * len(stream.times_ns)
    payloads = bag.payloads(stream.messages)
    out: list[tuple[bool, str]] = [(False, "")] * len(payloads)
    for members, layout, rows in tables(payloads, schema, place):
        if "data" not in (layout.texts if name == "String" else layout.leaves):
            raise InputError(
                f"{place} says it is {schema.type}, but the definition in the recording is not that of ROS"
            )
        for row, member in enumerate(members.tolist()):
            if name == "Bool":
                out[member] = (bool(column(layout, rows[row : row + 1], "data")[0, 0]), "")
            else:
                text = layout.text(payloads[member], "data")
                out[member] = (bool(text), text)
    return out
