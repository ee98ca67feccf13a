"""ROS 1 bags, version 2.0, by one pass over the records.

Format: http://wiki.ros.org/Bags/Format/2.0. A record is a header of `name=value` fields and data, each with its length
before it; chunks hold connections and messages.
"""

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from robot_rl.datasets.ingest.bag_files import (
    PREFIX_BYTES,
    Block,
    Columns,
    MappedFile,
    Topic,
    clear_errors,
    unpack,
)
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError

SIGNATURE = b"#ROSBAG V2.0\n"
MESSAGE, BAG, CHUNK, CONNECTION = 2, 3, 5, 7
KNOWN = range(2, 8)
FILE, CHUNK_OF_FILE = -1, -2
"""In place of a block: records that lie in the file, outside of chunks or in one that is not compressed."""
LENGTH = struct.Struct("<I")
Buffer = bytes | mmap.mmap


class Ros1File(MappedFile):
    """One ROS 1 bag."""

    def __init__(self, path: Path, shown: Path) -> None:
        super().__init__(path, shown)
        self._connections: dict[int, tuple[Topic, Columns]] = {}

    def index(self) -> dict[Topic, Columns]:
        """See `BagFile.index`."""
        buffer = self.buffer()
        if buffer[: len(SIGNATURE)] != SIGNATURE:
            raise InputError(f"{self.shown} is no ROS 1 bag of version 2.0: it begins with {buffer[:16]!r}")
        with clear_errors(self._place(len(SIGNATURE))):
            _, fields, *_ = next(self._records(buffer, len(SIGNATURE), len(buffer)), (0, {}, 0, 0))
            if fields.get(b"op") != bytes([BAG]):
                raise InputError(f"{self.shown}: the bag header is missing: the file is damaged")
            encryptor = fields.get(b"encryptor", b"")
            if encryptor:
                raise InputError(f"{self.shown} is encrypted with {encryptor.decode()}: decrypt it with rosbag first")
            (indexed,) = struct.unpack("<Q", fields[b"index_pos"])
        reached = self._scan(buffer, len(SIGNATURE), len(buffer), block=FILE)
        if reached != len(buffer) and indexed:
            raise InputError(
                f"{self._place(reached)}: a record reaches beyond the file or is of no known kind: the bag is damaged "
                f"or cut there. `rosbag reindex {self.shown.name}` keeps what is readable"
            )
        if not indexed:
            self.findings.append(
                Finding(
                    severity="warning",
                    place=self.shown.name,
                    text=f"the bag has no index, its recorder was killed: read up to byte {reached} of {len(buffer)}",
                    remedy=f"nothing needs to be done; `rosbag reindex {self.shown.name}` makes it whole",
                )
            )
        topics: dict[Topic, Columns] = {}
        for topic, columns in self._connections.values():
            if topic in topics:  # several publishers of a topic have a connection each
                topics[topic].extend(columns)
            else:
                topics[topic] = columns
        self._connections = {}
        return topics

    def _records(self, data: Buffer, position: int, end: int) -> Iterator[tuple[int, dict[bytes, bytes], int, int]]:
        """Start of each whole record, its header, and start and end of its data."""
        while position + 8 <= end:
            (length,) = LENGTH.unpack_from(data, position)
            data_length = position + 4 + length
            if data_length + 4 > end:
                return
            fields = _fields(data[position + 4 : data_length])
            start = data_length + 4
            stop = start + LENGTH.unpack_from(data, data_length)[0]
            if stop > end or fields.get(b"op", b"\0")[0] not in KNOWN:
                return
            yield position, fields, start, stop
            position = stop

    def _scan(self, data: Buffer, position: int, end: int, *, block: int) -> int:
        """Read records; returns where no more could be read."""
        with clear_errors(self._place(position)):
            for place, fields, start, stop in self._records(data, position, end):
                position = stop
                match fields[b"op"][0]:
                    case op if op == MESSAGE:
                        self._message(fields, data, start, stop, block)
                    case op if op == CONNECTION:
                        self._connection(fields, data[start:stop])
                    case op if op == CHUNK and block == FILE:
                        self._chunk(fields, data, place, start, stop)
        return position

    def _message(self, fields: dict[bytes, bytes], data: Buffer, start: int, stop: int, block: int) -> None:
        (number,) = LENGTH.unpack(fields[b"conn"])
        seconds, nanoseconds = struct.unpack("<II", fields[b"time"])
        if number not in self._connections:
            raise InputError(
                f"{self._place(start)}: a message of connection {number}, which was not declared before it"
            )
        prefix = data[start : min(start + PREFIX_BYTES, stop)]
        time_ns = seconds * 10**9 + nanoseconds
        self._connections[number][1].add(time_ns, prefix, block, start, stop - start)

    def _connection(self, fields: dict[bytes, bytes], content: bytes) -> None:
        (number,) = LENGTH.unpack(fields[b"conn"])
        about = _fields(content)
        kind = about[b"type"].decode()
        package, _, name = kind.partition("/")
        topic = Topic(
            name=fields[b"topic"].decode(),
            type=f"{package}/msg/{name}",
            encoding="ros1",
            definition=about.get(b"message_definition", b"").decode(errors="replace"),
            definition_format="ros1msg",
        )
        self._connections.setdefault(number, (topic, Columns()))

    def _chunk(self, fields: dict[bytes, bytes], data: Buffer, place: int, start: int, stop: int) -> None:
        compression = fields[b"compression"].decode()
        (size,) = LENGTH.unpack(fields[b"size"])
        if compression == "none":  # its records stay where they are in the file
            reached = self._scan(data, start, stop, block=CHUNK_OF_FILE)
            whole = reached == stop
        else:
            raw = unpack(data[start:stop], compression, size, self._place(place))
            self.blocks.append(Block(start, stop - start, compression, size))
            whole = self._scan(raw, 0, size, block=len(self.blocks) - 1) == size
        if not whole:
            raise InputError(
                f"{self._place(place)}: the chunk there is damaged. `rosbag reindex` keeps what is readable"
            )


def _fields(header: bytes) -> dict[bytes, bytes]:
    """Names and values of a header."""
    fields, position = {}, 0
    while position < len(header):
        (length,) = LENGTH.unpack_from(header, position)
        position += 4
        name, equals, value = header[position : position + length].partition(b"=")
        if not equals or position + length > len(header):
            raise IndexError("a field of a record header is cut")
        fields[name] = value
        position += length
    return fields
