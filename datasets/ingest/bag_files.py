"""Files of a bag: which topics they have, when each message came, and the bytes of any message.

One pass over a file makes the index; nothing is decoded in it but the times. It needs neither the summary at the end of
an MCAP file nor the index of a ROS 1 bag, so a recording whose recorder was killed is read as far as it goes.
"""

import bz2
import mmap
import struct
import zlib
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lz4.frame  # type: ignore[import-untyped]  # ships no types
import numpy as np
from backports import zstd

from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError
from robot_rl.types import Array

PREFIX_BYTES = 12  # of each message: encapsulation or sequence number, then the stamp of a header
ZSTD_SIGNATURE = b"\x28\xb5\x2f\xfd"
DAMAGE = (struct.error, IndexError, KeyError, OverflowError, UnicodeDecodeError, TypeError)
"""Errors as which damage shows in code that takes a file apart."""
LARGEST_BLOCK = 1 << 28
"""Bytes of a compressed chunk or message, unpacked; recorders write a few MB, a damaged size asks for more."""


@dataclass(frozen=True, kw_only=True)
class Topic:
    """What a recording says about a topic."""

    name: str  # such as /joint_states
    type: str  # such as sensor_msgs/msg/JointState
    encoding: str  # of its messages: cdr, ros1, or one we do not read
    definition: str = ""  # embedded text, empty where the recording has none
    definition_format: str = ""  # ros2msg | ros2idl | ros1msg


@dataclass(kw_only=True)
class Messages:
    """Where the N messages of a topic lie, in the order in which they were received."""

    receive_ns: Array  # (N,), int64
    prefix: Array  # (N, PREFIX_BYTES), uint8: the first bytes, zero behind a shorter message
    file: Array  # (N,), int32, number of the file in its bag
    block: Array  # (N,), int64: a compressed chunk by its number, -1 in the file itself
    offset: Array  # (N,), int64: byte in the block or file; the row in a database
    size: Array  # (N,), int64, bytes

    def __len__(self) -> int:
        return len(self.receive_ns)

    def take(self, rows: Any) -> "Messages":
        """Some of the messages, in the order of `rows`."""
        return Messages(
            receive_ns=self.receive_ns[rows],
            prefix=self.prefix[rows],
            file=self.file[rows],
            block=self.block[rows],
            offset=self.offset[rows],
            size=self.size[rows],
        )

    @staticmethod
    def concatenate(parts: Sequence["Messages"]) -> "Messages":
        """One after the other."""
        names = ("receive_ns", "prefix", "file", "block", "offset", "size")
        return Messages(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    @staticmethod
    def join(parts: Sequence["Messages"]) -> "Messages":
        """Messages of several files, sorted by the time they were received."""
        joined = Messages.concatenate(parts)
        order = np.argsort(joined.receive_ns, kind="stable")
        return joined if (order == np.arange(len(order))).all() else joined.take(order)


@dataclass(kw_only=True)
class Columns:
    """Messages of one topic as they are found."""

    rows: "array[int]" = field(default_factory=lambda: array("q"))  # four numbers each
    prefixes: bytearray = field(default_factory=bytearray)  # PREFIX_BYTES each

    def add(self, receive_ns: int, prefix: bytes, block: int, offset: int, size: int) -> None:
        """One more message.

        Raises:
            OverflowError: a number has more than 63 bits.
        """
        self.rows.extend((receive_ns, block, offset, size))
        self.prefixes += prefix if len(prefix) == PREFIX_BYTES else prefix.ljust(PREFIX_BYTES, b"\0")

    def extend(self, more: "Columns") -> None:
        """Those of another publisher of the topic."""
        self.rows.extend(more.rows)
        self.prefixes += more.prefixes

    def messages(self, file: int) -> Messages:
        """As arrays."""
        table = np.frombuffer(self.rows, np.int64).reshape(-1, 4) if self.rows else np.zeros((0, 4), np.int64)
        receive_ns, block, offset, size = (np.ascontiguousarray(column) for column in table.T)
        return Messages(
            receive_ns=receive_ns,
            prefix=np.frombuffer(bytes(self.prefixes), np.uint8).reshape(-1, PREFIX_BYTES),
            file=np.full(len(table), file, np.int32),
            block=block,
            offset=offset,
            size=size,
        )


class BagFile(ABC):
    """One file. It can be pickled: a copy opens the file for itself when it is asked for bytes."""

    def __init__(self, path: Path, shown: Path) -> None:
        """`shown` is the file that a person knows, where `path` is an unpacked copy of it."""
        self.path = path
        self.shown = shown
        self.findings: list[Finding] = []

    @abstractmethod
    def index(self) -> dict[Topic, Columns]:
        """Topics and where their messages are.

        Raises:
            InputError: the file is damaged.
        """

    @abstractmethod
    def payloads(self, messages: Messages) -> list[bytes]:
        """The bytes of messages, in their order.

        Raises:
            InputError: the file is damaged, or has changed since it was indexed.
        """

    @abstractmethod
    def close(self) -> None:
        """Free the file. Asked for bytes later, it opens again."""


class MappedFile(BagFile):
    """A file in the address space, with compressed blocks of which the last one is kept."""

    def __init__(self, path: Path, shown: Path) -> None:
        super().__init__(path, shown)
        self.blocks: list[Block] = []
        self._map: mmap.mmap | None = None
        self._unpacked: tuple[int, bytes] = (-1, b"")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None, "_unpacked": (-1, b"")}

    def buffer(self) -> mmap.mmap:
        """The bytes of the file."""
        if self._map is None:
            try:
                with self.path.open("rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # an empty file cannot be mapped
                raise InputError(f"{self.shown} cannot be opened: {error}") from error
        return self._map

    def unpacked(self, number: int) -> bytes:
        """A compressed block, unpacked."""
        kept, raw = self._unpacked  # read once: threads share the file
        if kept != number:
            block = self.blocks[number]
            data = self.buffer()[block.start : block.start + block.packed_bytes]
            raw = unpack(data, block.compression, block.bytes, self._place(block.start))
            self._unpacked = (number, raw)
        return raw

    def payloads(self, messages: Messages) -> list[bytes]:
        """See `BagFile.payloads`."""
        out = [b""] * len(messages)
        buffer = self.buffer()
        order = np.lexsort((messages.offset, messages.block)).tolist()
        block, offset, size = messages.block.tolist(), messages.offset.tolist(), messages.size.tolist()
        for row in order:
            source = buffer if block[row] < 0 else self.unpacked(block[row])
            data = source[offset[row] : offset[row] + size[row]]
            if len(data) != size[row]:
                raise InputError(f"{self._place(offset[row])}: the file has changed since it was opened")
            out[row] = data
        if out and out[0].startswith(ZSTD_SIGNATURE):
            return [unpack_message(data, str(self.shown)) for data in out]
        return out

    def close(self) -> None:
        """See `BagFile.close`."""
        self._unpacked = (-1, b"")
        if self._map is not None:
            self._map.close()
            self._map = None

    def _place(self, position: int) -> str:
        return f"{self.shown}: byte {position}"


@dataclass(frozen=True)
class Block:
    """A compressed part of a file."""

    start: int
    packed_bytes: int
    compression: str
    bytes: int


def unpack(data: bytes, compression: str, size: int, place: str) -> bytes:
    """Undo the compression of a block whose size is known.

    Raises:
        InputError: it is damaged, of another size, or of an unknown compression.
    """
    if size > LARGEST_BLOCK:
        raise InputError(f"{place}: a chunk of {size} bytes, more than {LARGEST_BLOCK}: the file is damaged there")
    try:
        match compression:
            case "zstd":
                raw = zstd.ZstdDecompressor().decompress(data, max_length=size + 1)
            case "lz4":
                raw = lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
            case "bz2":
                raw = bz2.BZ2Decompressor().decompress(data, max_length=size + 1)
            case _:
                raise InputError(f"{place}: the compression '{compression}' is none of zstd, lz4, bz2")
    except (zstd.ZstdError, RuntimeError, OSError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{place}: {compression} data is damaged: {error}") from error
    if len(raw) != size:
        raise InputError(f"{place}: {compression} data has {len(raw)} bytes, declared are {size}: it is damaged")
    return bytes(raw)


def unpack_message(data: bytes, place: str, most: int = LARGEST_BLOCK) -> bytes:
    """A message that rosbag2 compressed by itself (compression_mode: message), at most its first `most` bytes.

    Raises:
        InputError: it is damaged.
    """
    try:
        raw = zstd.ZstdDecompressor().decompress(data, max_length=most)
    except zstd.ZstdError as error:
        raise InputError(f"{place}: a compressed message is damaged: {error}") from error
    return bytes(raw)


def check_sum(data: bytes, expected: int, place: str) -> None:
    """Compare a CRC-32; 0 means that the recorder made none.

    Raises:
        InputError: it differs.
    """
    if expected and zlib.crc32(data) != expected:
        raise InputError(f"{place}: the checksum of a chunk is wrong: the file is damaged there")


@contextmanager
def clear_errors(place: str) -> Iterator[None]:
    """Damage that shows as an error of struct, of a lookup or of a text becomes an InputError."""
    try:
        yield
    except DAMAGE as error:
        raise InputError(f"{place} is damaged: {type(error).__name__}: {error}") from error
