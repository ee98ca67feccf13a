"""Message types: their fields, and where the fields of a message lie in its bytes.

The definitions are parsed by `rosbags`; nothing is generated from them and no code of theirs is run. Messages that have
the same lengths of texts and sequences have their numbers at the same bytes, so a stream of them is decoded as one
table (`tables`), not message by message.

CDR as in OMG formal/02-06-51: numbers are aligned to their size, counted behind the 4 bytes of the encapsulation.
ROS 1: the same without alignment, encapsulation and zero at the end of a text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore

from robot_rl.datasets.ingest.bag_files import Topic
from robot_rl.errors import InputError
from robot_rl.types import Array

Types = Mapping[str, Any]
"""As of rosbags: type -> (constants, fields), a field is (name, description)."""
HEADER = "std_msgs/msg/Header"
QUATERNION = "geometry_msgs/msg/Quaternion"
CLOCKS = ("builtin_interfaces/msg/Time", "builtin_interfaces/msg/Duration")
NUMBERS = {
    "bool": "?", "byte": "u1", "char": "u1", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8",
}  # fmt: skip
FILLER = "structure_needs_at_least_one_member"
"""A byte in ROS 2 messages without fields, which their definitions do not mention; those of ROS 1 take no bytes."""
MOST_PARTS = 8192  # fields of one message, elements of sequences counted
DEEPEST = 32  # levels of messages in messages
MOST_TABLES = 64  # layouts of one size, from which on messages are taken one by one
IDL_SEPARATOR = "=" * 80 + "\n"


@dataclass(frozen=True)
class Leaf:
    """Numbers in a message."""

    offset: int
    dtype: str  # with byte order
    count: int
    scalar: bool  # one number, not a sequence or array of one
    fixed: bool  # there in every message of the type, with this count


@dataclass(kw_only=True)
class Layout:
    """Where everything lies in a message."""

    leaves: dict[str, Leaf] = field(default_factory=dict)
    texts: dict[str, tuple[int, int]] = field(default_factory=dict)  # start and end
    quaternions: list[str] = field(default_factory=list)
    clocks: list[str] = field(default_factory=list)  # times and durations
    decides: list[int] = field(default_factory=list)
    """Bytes that decide where the others lie: lengths, and names in sequences, which decide what the numbers mean."""

    def text(self, data: bytes, path: str) -> str:
        """A text of the message."""
        start, end = self.texts[path]
        return data[start:end].decode(errors="replace")

    def names(self, data: bytes, path: str) -> tuple[str, ...]:
        """A sequence of texts."""
        out: list[str] = []
        while f"{path}[{len(out)}]" in self.texts:
            out.append(self.text(data, f"{path}[{len(out)}]"))
        return tuple(out)


@dataclass(frozen=True, eq=False)
class Schema:
    """One message type with all it needs."""

    type: str
    types: Types
    ros1: bool

    @property
    def stamped(self) -> bool:
        """It begins with a header, whose stamp lies in the first 12 bytes."""
        fields = self.types[self.type][1]
        return bool(fields) and fields[0][1] == (Nodetype.NAME, HEADER)

    def layout(self, data: bytes, place: str) -> Layout:
        """Where the fields of a message lie.

        Raises:
            InputError: the bytes do not fit the type.
        """
        walk = _Walk(data, self, place)
        walk.message(self.type, "", 0, True)
        return walk.layout


def schema(topic: Topic, ros_distribution: str | None, definitions: Mapping[str, Any]) -> Schema:
    """The type of a topic: from the definition in the recording, else from the type store, else from the user's files.

    Raises:
        InputError: it is not known, or cannot be read; says what is missing.
    """
    if topic.encoding not in ("cdr", "ros1"):
        raise InputError(f"topic {topic.name} is encoded as '{topic.encoding}', not as cdr or ros1")
    ros1 = topic.encoding == "ros1"
    embedded = _embedded(topic.type, topic.definition, topic.definition_format)
    types = {**definitions, **_store(ros_distribution, ros1), **embedded}
    missing = _missing(topic.type, types)
    if missing:
        raise InputError(
            f"topic {topic.name} has the type {topic.type}, and {', '.join(missing)} is not known: give its .msg file "
            "in bag.definitions"
        )
    return Schema(topic.type, types, ros1)


def user_definitions(files: Sequence[str]) -> dict[str, Any]:
    """Types of .msg files, named by their folders: PACKAGE/msg/Name.msg or PACKAGE/Name.msg.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    types: dict[str, Any] = {}
    for name in files:
        path = Path(name).resolve()
        package = path.parent.parent.name if path.parent.name == "msg" else path.parent.name
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"bag.definitions: {name} cannot be read: {error}") from error
        try:
            types.update(get_types_from_msg(text, f"{package}/msg/{path.stem}"))
        except (TypesysError, RecursionError) as error:
            raise InputError(f"bag.definitions: {name} is no message definition: {_short(error)}") from error
    return types


def tables(payloads: Sequence[bytes], schema: Schema, place: str) -> Iterator[tuple[Array, Layout, Array]]:
    """Messages by layout: which they are, how they are laid out, and their bytes as a table.

    Shapes: (K,), layout, (K, bytes of a message).

    Raises:
        InputError: a message does not fit the type.
    """
    sizes = np.asarray([len(data) for data in payloads])
    for size in np.unique(sizes).tolist():
        members = np.flatnonzero(sizes == size)
        rows = np.frombuffer(b"".join([payloads[i] for i in members]), np.uint8).reshape(len(members), size)
        for count in range(len(members)):
            if len(members) == 0:
                break
            layout = schema.layout(payloads[members[0]], place)
            alone = count >= MOST_TABLES
            candidates = slice(0, 1) if alone else slice(None)
            same = np.zeros(len(members), bool)
            same[candidates] = (rows[candidates][:, layout.decides] == rows[0, layout.decides]).all(axis=1)
            if same.all():
                yield members, layout, rows
                break
            yield members[same], layout, rows[same]
            members, rows = members[~same], rows[~same]


def column(layout: Layout, rows: Array, path: str) -> Array:
    """The numbers of one field in all messages of a table. Shapes: (K, bytes) -> (K, count)."""
    leaf = layout.leaves[path]
    dtype = np.dtype(leaf.dtype)
    data = np.ascontiguousarray(rows[:, leaf.offset : leaf.offset + leaf.count * dtype.itemsize])
    values = data.view(dtype) if leaf.count else np.zeros((len(rows), 0), dtype)
    return values.astype(dtype.newbyteorder("="), copy=False)


def stamps_ns(prefix: Array, ros1: bool) -> Array:
    """Header stamps of the first bytes of messages, 0 where it is not set. Shapes: (N, 12) uint8 -> (N,) int64."""
    words = np.ascontiguousarray(prefix[:, 4:12])
    little = words.view("<u4").astype(np.int64)
    if not ros1:
        big = prefix[:, 1] % 2 == 0
        little[big] = words[big].view(">u4").astype(np.int64)
        little[:, 0] = little[:, 0].astype(np.int32)  # ROS 2 seconds are signed
    return np.asarray(little[:, 0] * 10**9 + little[:, 1])


class _Walk:
    """Goes through the bytes of one message."""

    def __init__(self, data: bytes, schema: Schema, place: str) -> None:
        self.data, self.types, self.ros1, self.place = data, schema.types, schema.ros1, place
        self.layout = Layout()
        self.base = 0 if self.ros1 else 4
        self.position = self.base
        self.order = "<"
        self.parts = 0
        if not self.ros1:
            if len(data) < 4 or data[0] != 0 or data[1] > 1:
                raise self._error(f"the encapsulation {data[:4]!r} is not plain CDR")
            self.order = "<" if data[1] else ">"
            self.layout.decides += [0, 1]

    def message(self, kind: str, path: str, depth: int, fixed: bool) -> None:
        if depth > DEEPEST:
            raise self._error(f"the type {kind} is nested too deeply")
        self.count_part()
        if kind == QUATERNION:
            self.layout.quaternions.append(path)
        if kind in CLOCKS:
            self.layout.clocks.append(path)
        fields = [(name, description) for name, description in self.types[kind][1] if name != FILLER]
        if not fields and not self.ros1:
            self.numbers("uint8", f"{path}.{FILLER}" if path else FILLER, 1, fixed, scalar=True)
        for name, description in fields:
            inner = f"{path}.{name}" if path else name
            match description:
                case (Nodetype.BASE, (base, _)):
                    self.numbers(base, inner, 1, fixed, scalar=True)
                case (Nodetype.NAME, other):
                    self.message(other, inner, depth + 1, fixed)
                case (Nodetype.ARRAY, (element, count)):
                    self.elements(element, inner, count, depth, fixed)
                case (Nodetype.SEQUENCE, (element, _)):
                    self.elements(element, inner, self.length(), depth, False)

    def elements(self, element: Any, path: str, count: int, depth: int, fixed: bool) -> None:
        if count > len(self.data):  # any element takes a byte, but for messages without fields
            raise self._error(f"field {path} claims {count} elements in a message of {len(self.data)} bytes")
        if element[0] == Nodetype.BASE:
            self.numbers(element[1][0], path, count, fixed, scalar=False)
            return
        for index in range(count):
            self.message(element[1], f"{path}[{index}]", depth + 1, fixed)

    def numbers(self, base: str, path: str, count: int, fixed: bool, *, scalar: bool) -> None:
        self.count_part()
        if base == "string":
            for index in range(count):
                self.string(path if scalar else f"{path}[{index}]", named=not scalar)
            return
        if base not in NUMBERS:
            raise self._error(f"field {path} has the type {base}, which is not read")
        number = "i1" if self.ros1 and base == "byte" else NUMBERS[base]  # signed in ROS 1, not in ROS 2
        dtype = self.order + number if number != "?" else "?"
        size = np.dtype(dtype).itemsize
        if count and not self.ros1:
            self.position += -(self.position - self.base) % size
        start = self.position
        self.position += count * size
        if self.position > len(self.data):
            raise self._error(f"field {path} ends at byte {self.position} of {len(self.data)}")
        self.layout.leaves[path] = Leaf(start, dtype, count, scalar, fixed)

    def string(self, path: str, *, named: bool) -> None:
        self.count_part()
        length = self.length()
        start = self.position
        self.position += length
        if self.position > len(self.data):
            raise self._error(f"text {path} ends at byte {self.position} of {len(self.data)}")
        end = self.position if self.ros1 else self.position - min(length, 1)  # a zero ends it in CDR
        self.layout.texts[path] = (start, end)
        if named:
            self.layout.decides += range(start, end)

    def count_part(self) -> None:
        self.parts += 1
        if self.parts > MOST_PARTS:
            raise self._error(f"it has more than {MOST_PARTS} fields")

    def length(self) -> int:
        if not self.ros1:
            self.position += -(self.position - self.base) % 4
        start = self.position
        self.position += 4
        if self.position > len(self.data):
            raise self._error(f"it ends in a length, at byte {start} of {len(self.data)}")
        self.layout.decides += range(start, start + 4)
        return int.from_bytes(self.data[start : self.position], "little" if self.order == "<" else "big")

    def _error(self, text: str) -> InputError:
        return InputError(f"{self.place}: a message does not fit its type: {text}")


@cache
def _embedded(kind: str, text: str, form: str) -> dict[str, Any]:
    """Types of a definition in the recording; empty where there is none that can be parsed."""
    if not text:
        return {}
    try:
        if form in ("ros2msg", "ros1msg"):
            return dict(get_types_from_msg(text, kind))
        if form not in ("ros2idl", "omgidl"):
            return {}
        types: dict[str, Any] = {}
        parts = text.split(IDL_SEPARATOR)[1:] if text.startswith(f"{IDL_SEPARATOR}IDL: ") else [f"\n{text}"]
        for part in parts:
            types.update(get_types_from_idl(part.partition("\n")[2]))
        return types
    except (TypesysError, RecursionError, ValueError, IndexError, KeyError, AttributeError):
        return {}  # the type store is asked next; a type that it has not is reported by name


@cache
def _store(distribution: str | None, ros1: bool) -> dict[str, Any]:
    names = {store.value: store for store in Stores}
    wanted = names.get(f"ros2_{distribution}", Stores.LATEST)
    return dict(get_typestore(Stores.ROS1_NOETIC if ros1 else wanted).fielddefs)


def _missing(kind: str, types: Types) -> list[str]:
    """Types that are needed and not known."""
    seen: set[str] = set()
    missing, todo = [], [kind]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in types:
            missing.append(name)
            continue
        for _, description in types[name][1]:
            element = description[1][0] if description[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE) else description
            if element[0] == Nodetype.NAME:
                todo.append(element[1])
    return sorted(missing)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
