"""MCAP files of rosbag2, by one pass over the records.

Format: https://mcap.dev/spec. Records are an opcode, a length of 8 bytes and content; chunks hold records.
"""

import mmap
import struct
from pathlib import Path

from robot_rl.datasets.ingest.bag_files import (
    DAMAGE,
    PREFIX_BYTES,
    ZSTD_SIGNATURE,
    Block,
    Columns,
    MappedFile,
    Topic,
    check_sum,
    unpack,
    unpack_message,
)
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError

SIGNATURE = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
FIRST_PRIVATE = 0x80  # opcodes from here on belong to applications; those between are not given out
LAST_KNOWN = 0x0F
HEAD = struct.Struct("<BQ")
MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
CHUNK_HEAD = struct.Struct("<QQQI")  # start, end, bytes unpacked, checksum
Buffer = bytes | mmap.mmap


class McapFile(MappedFile):
    """One MCAP file."""

    def __init__(self, path: Path, shown: Path) -> None:
        super().__init__(path, shown)
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._channels: dict[int, tuple[Topic, Columns]] = {}

    def index(self) -> dict[Topic, Columns]:
        """See `BagFile.index`."""
        buffer = self.buffer()
        if buffer[: len(SIGNATURE)] != SIGNATURE:
            raise InputError(f"{self.shown} is no MCAP file: it begins with {buffer[:8]!r}")
        position, closed = self._scan(buffer, len(SIGNATURE), len(buffer), block=-1, nested=False)
        if not closed and buffer[-len(SIGNATURE) :] == SIGNATURE and len(buffer) > len(SIGNATURE):
            raise self._damage(position)
        if not closed:
            self.findings.append(
                Finding(
                    severity="warning",
                    place=self.shown.name,
                    text=f"the file has no end, its recorder was killed: read up to byte {position} of {len(buffer)}",
                    remedy="nothing needs to be done; `mcap recover FILE` writes a whole file of it",
                )
            )
        topics: dict[Topic, Columns] = {}
        for topic, columns in self._channels.values():
            if topic in topics:  # several publishers of a topic have a channel each
                topics[topic].extend(columns)
            else:
                topics[topic] = columns
        self._schemas, self._channels = {}, {}
        return topics

    def _scan(self, data: Buffer, position: int, end: int, *, block: int, nested: bool) -> tuple[int, bool]:
        """Read records. Returns where no more could be read, and whether the data section was closed there."""
        try:
            while position + HEAD.size <= end:
                opcode, length = HEAD.unpack_from(data, position)
                start, stop = position + HEAD.size, position + HEAD.size + length
                known = 0 < opcode <= LAST_KNOWN or opcode >= FIRST_PRIVATE
                if opcode in (DATA_END, FOOTER) and not nested:
                    return position, True
                if stop > end or not known or (nested and opcode == CHUNK):
                    break
                if opcode == MESSAGE:
                    self._add(data, start, stop, block)
                elif opcode == CHUNK:
                    self._chunk(data, start, stop)
                elif opcode == SCHEMA:
                    self._schema(data[start:stop])
                elif opcode == CHANNEL:
                    self._channel(data[start:stop], position)
                position = stop
        except DAMAGE as error:
            raise InputError(f"{self._place(position)} is damaged: {type(error).__name__}: {error}") from error
        return position, False

    def _add(self, data: Buffer, start: int, stop: int, block: int) -> None:
        channel, _, log_time, _ = MESSAGE_HEAD.unpack_from(data, start)
        content = start + MESSAGE_HEAD.size
        if content > stop:
            raise InputError(f"{self._place(start)}: a message of {stop - start} bytes: the file is damaged there")
        prefix = data[content : min(content + PREFIX_BYTES, stop)]
        if prefix.startswith(ZSTD_SIGNATURE):
            prefix = unpack_message(data[content:stop], self._place(content), PREFIX_BYTES)
        self._channels[channel][1].add(log_time, prefix, block, content, stop - content)

    def _chunk(self, data: Buffer, start: int, stop: int) -> None:
        _, _, size, checksum = CHUNK_HEAD.unpack_from(data, start)
        compression, position = _text(data, start + CHUNK_HEAD.size, stop)
        (packed,) = struct.unpack_from("<Q", data, position)
        position += 8
        if position + packed > stop:
            raise InputError(f"{self._place(start)}: a chunk reaches beyond its record: the file is damaged there")
        if compression:
            raw = unpack(data[position : position + packed], compression, size, self._place(start))
            self.blocks.append(Block(position, packed, compression, size))
            reached = self._scan(raw, 0, size, block=len(self.blocks) - 1, nested=True)[0]
        else:  # its records stay where they are in the file
            if size != packed:
                raise InputError(
                    f"{self._place(start)}: a chunk of {packed} bytes declares {size}: the file is damaged"
                )
            raw = data[position : position + packed] if checksum else b""
            reached = self._scan(data, position, position + packed, block=-1, nested=True)[0] - position
        check_sum(raw, checksum, self._place(start))
        if reached != size:
            raise self._damage(start)

    def _damage(self, position: int) -> InputError:
        return InputError(
            f"{self._place(position)}: a record reaches beyond its chunk or file, or is of no known kind: the file is "
            "damaged there. `mcap recover FILE` keeps what is readable"
        )

    def _schema(self, content: bytes) -> None:
        (number,) = struct.unpack_from("<H", content)
        name, position = _text(content, 2, len(content))
        encoding, position = _text(content, position, len(content))
        text, _ = _text(content, position, len(content))
        self._schemas[number] = (name, encoding, text)

    def _channel(self, content: bytes, position: int) -> None:
        number, schema = struct.unpack_from("<HH", content)
        name, place = _text(content, 4, len(content))
        encoding, _ = _text(content, place, len(content))
        if schema and schema not in self._schemas:
            raise InputError(f"{self._place(position)}: topic {name} has the schema {schema}, which is not in the file")
        kind, form, text = self._schemas[schema] if schema else ("", "", "")
        if number not in self._channels:
            topic = Topic(name=name, type=kind, encoding=encoding, definition=text, definition_format=form)
            self._channels[number] = (topic, Columns())


def _text(data: Buffer, position: int, end: int) -> tuple[str, int]:
    """A text with its length before it, and where it ends."""
    (length,) = struct.unpack_from("<I", data, position)
    stop = position + 4 + length
    if stop > end:
        raise IndexError(f"a text of {length} bytes in a record that has {end - position - 4} left")
    return data[position + 4 : stop].decode(), stop
