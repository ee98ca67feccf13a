"""Joint states to and from the bytes of the wire, without a message object of rclpy in between.

A loop at rate takes and sends one message a period. Through rclpy's classes that runs through some thousand lines of
Python, which other programs have driven out of the caches meanwhile; this runs through a few. The layout is that of
CDR, version 1: numbers aligned to their size from the fourth byte on, little-endian as we write it, either as we read.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from robot_rl.hardware.watch import SECOND_NS

LITTLE = b"\0\1\0\0"


@dataclass(slots=True)
class Stamp:
    """builtin_interfaces/Time."""

    sec: int
    nanosec: int


@dataclass(slots=True)
class Head:
    """std_msgs/Header."""

    stamp: Stamp
    frame_id: str


@dataclass(slots=True)
class JointsRead:
    """sensor_msgs/JointState as it was read, under the same names; to be looked at, not to be published."""

    header: Head
    name: tuple[str, ...]
    position: tuple[float, ...]
    velocity: tuple[float, ...]
    effort: tuple[float, ...]


class JointReader:
    """Reads sensor_msgs/JointState. The names of a topic hardly ever change, so they are compared, not decoded."""

    def __init__(self) -> None:
        """Knows no names yet."""
        self._block = b""  # of the names that were read last, from their count on
        self._names: tuple[str, ...] = ()

    def __call__(self, content: bytes) -> JointsRead:
        """Read a message.

        Raises:
            ValueError: the bytes are no such message.
        """
        try:
            order = "<" if content[1] & 1 else ">"
            sec, nanosec, length = struct.unpack_from(f"{order}iII", content, 4)
            frame = content[16 : 16 + max(length - 1, 0)].decode()
            at = _aligned(16 + length, 4)
            if not (self._block and content.startswith(self._block, at)):
                self._learn(content, at, order)
            at += len(self._block)
            lists = []
            for _ in range(3):
                at = _aligned(at, 4)
                (count,) = struct.unpack_from(f"{order}I", content, at)
                at += 4
                if count:
                    at = _aligned(at, 8)
                    lists.append(struct.unpack_from(f"{order}{count}d", content, at))
                    at += 8 * count
                else:
                    lists.append(())
        except (IndexError, struct.error, UnicodeDecodeError) as error:
            raise ValueError(f"{len(content)} bytes that are no sensor_msgs/JointState: {error}") from error
        return JointsRead(Head(Stamp(sec, nanosec), frame), self._names, *lists)

    def _learn(self, content: bytes, begin: int, order: str) -> None:
        (count,) = struct.unpack_from(f"{order}I", content, begin)
        at, names = begin + 4, []
        for _ in range(min(count, len(content))):
            at = _aligned(at, 4)
            (length,) = struct.unpack_from(f"{order}I", content, at)
            at += 4
            if at + length > len(content):
                raise struct.error("a name is longer than the message")
            names.append(content[at : at + max(length - 1, 0)].decode())
            at += length
        self._block, self._names = content[begin:at], tuple(names)


class JointWriter:
    """Writes sensor_msgs/JointState of the same joints again and again."""

    def __init__(self, names: Sequence[str]) -> None:
        """Of J joints."""
        self.names = tuple(names)
        self._block = struct.pack("<I", len(names))
        for name in names:
            content = name.encode() + b"\0"
            self._block += bytes(-len(self._block) % 4) + struct.pack("<I", len(content)) + content
        self._layouts: dict[tuple[int, int, int, int], struct.Struct] = {}

    def __call__(
        self,
        stamp_ns: int,
        frame: str = "",
        *,
        position: Sequence[float] = (),
        velocity: Sequence[float] = (),
        effort: Sequence[float] = (),
    ) -> bytes:
        """The message. Shapes: (J,) each, or empty."""
        words = frame.encode() + b"\0"
        key = (len(words), len(position), len(velocity), len(effort))
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._layouts[key] = self._layout(*key)
        sec, nanosec = divmod(stamp_ns, SECOND_NS)
        size, p, v, e = key
        return layout.pack(LITTLE, sec, nanosec, size, words, self._block, p, *position, v, *velocity, e, *effort)

    def _layout(self, words: int, *counts: int) -> struct.Struct:
        begin = _aligned(16 + words, 4)
        at = begin + len(self._block)
        layout = f"<4siII{words}s{begin - 16 - words}x{len(self._block)}s"
        for count in counts:
            layout += f"{_aligned(at, 4) - at}xI"
            at = _aligned(at, 4) + 4
            if count:
                layout += f"{_aligned(at, 8) - at}x{count}d"
                at = _aligned(at, 8) + 8 * count
        return struct.Struct(layout)


def write_numbers(values: Sequence[float]) -> bytes:
    """std_msgs/Float64MultiArray without dimensions. Shapes: (N,), N >= 1."""
    return struct.pack(f"<4s3I4x{len(values)}d", LITTLE, 0, 0, len(values), *values)


def _aligned(at: int, size: int) -> int:
    """The next place at which a number of that size may stand, counted as the message is: from its fourth byte."""
    return at + (4 - at) % size
