"""TFRecord files and the `tf.train.Example` inside their records, without TensorFlow or protobuf.

Framing, little endian: length u64 | masked CRC-32C of the length u32 | data | masked CRC-32C of the data u32. An
Example is a protobuf map from a name to a list of bytes, floats (float32) or integers (int64).
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np

from robot_rl.errors import InputError
from robot_rl.types import Array

Feature = Array | list[bytes]
"""float32 (N,), int64 (N,), or N byte strings."""

HEADER_BYTES = 12  # length and its checksum
FRAME_BYTES = 16  # header and the checksum behind the data
MASK_DELTA = 0xA282EAD8
FLOAT = np.dtype("<f4")
LONGEST_VARINT = 10  # bytes of a 64-bit number, 7 bits in each
BYTES_LIST, FLOAT_LIST, INT64_LIST = 1, 2, 3  # fields of the message Feature


@dataclass(frozen=True, kw_only=True)
class RecordIndex:
    """Where the records of a file lie; built from the headers, without reading the data."""

    path: Path
    offsets: Array  # (N,) int64, of the data
    lengths: Array  # (N,) int64
    damage: str | None = None  # why nothing behind the last record can be found; None where the file ends with it

    def __len__(self) -> int:
        return len(self.offsets)

    def read(self, index: int) -> bytes:
        """The data of one record, its checksum verified.

        Raises:
            InputError: the checksum is another.
        """
        length = int(self.lengths[index])
        with self.path.open("rb") as file:
            file.seek(int(self.offsets[index]))
            return _verified(file.read(length), file.read(4), length, f"{self.path}: record {index}")


def masked_crc32c(data: bytes) -> int:
    """CRC-32C rotated right by 15 bits, plus a constant: a checksum of data that may hold checksums itself."""
    crc = google_crc32c.value(data)
    return int(((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF)


def is_tfrecord(path: Path) -> bool:
    """By the checksum of the first header."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    return len(header) == HEADER_BYTES and _length(header) is not None


def record_index(path: Path) -> RecordIndex:
    """Find the records of a file by their headers. Damage ends the index and is said in it.

    Raises:
        InputError: the file cannot be opened.
    """
    offsets: list[int] = []
    lengths: list[int] = []
    damage = None
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            position = 0
            while position < size:
                place = f"record {len(offsets)} at byte {position}"
                if size - position < FRAME_BYTES:
                    damage = f"{place} is truncated: the file ends within its header"
                    break
                file.seek(position)
                length = _length(file.read(HEADER_BYTES))
                if length is None:
                    damage = f"the header of {place} is damaged, so the records behind it cannot be found"
                    break
                if length > size - position - FRAME_BYTES:
                    missing = length - (size - position - FRAME_BYTES)
                    damage = f"{place} is truncated: {missing} bytes are missing at the end of the file"
                    break
                offsets.append(position + HEADER_BYTES)
                lengths.append(length)
                position += FRAME_BYTES + length
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error})") from error
    return RecordIndex(
        path=path, offsets=np.asarray(offsets, np.int64), lengths=np.asarray(lengths, np.int64), damage=damage
    )


def records(path: Path) -> Iterator[bytes]:
    """The data of all records in order, their checksums verified.

    Raises:
        InputError: one of them is damaged.
    """
    index = record_index(path)
    if index.damage is not None:
        raise InputError(f"{path}: {index.damage}")
    with path.open("rb") as file:
        for number, length in enumerate(index.lengths.tolist()):
            file.read(HEADER_BYTES)
            yield _verified(file.read(length), file.read(4), length, f"{path}: record {number}")


def peek(index: RecordIndex) -> Iterator["Example | None"]:
    """Every record in order, over the mapped file and without its checksum, so that only what is looked at is read;
    None where the record is damaged. An Example is good until the next one is asked for.
    """
    if not len(index):
        return
    with (
        index.path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        for number in range(len(index)):
            start = int(index.offsets[number])
            with view[start : start + int(index.lengths[number])] as record:
                try:
                    example = parse_example(record, "")
                except InputError:
                    example = None
                yield example


class Example(Mapping[str, Feature]):
    """The features of a record by name, decoded when they are looked at. What comes out owns its memory.

    Looking raises InputError where the feature is damaged.
    """

    def __init__(self, data: bytes | memoryview, spans: dict[str, tuple[int, int, int]], place: str) -> None:
        self.data = data
        self.spans = spans  # by name: the field of the message Feature, start and end of the list in it
        self.place = place

    def __getitem__(self, name: str) -> Feature:
        kind, start, end = self.spans[name]
        try:
            if kind == BYTES_LIST:
                return _bytes_list(self.data, start, end)
            if kind == FLOAT_LIST:
                return _packed(self.data, start, end, FLOAT)
            return _packed(self.data, start, end, None) if kind == INT64_LIST else []
        except (ValueError, IndexError) as error:
            raise InputError(f"{self.place}: feature '{name}' is damaged ({error}): copy the file again") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.spans)

    def __len__(self) -> int:
        return len(self.spans)


def parse_example(data: bytes | memoryview, place: str) -> Example:
    """Find the features of a serialised Example.

    Args:
        data: one record.
        place: of it, in words, for messages.

    Raises:
        InputError: it is no Example, or damaged.
    """
    spans: dict[str, tuple[int, int, int]] = {}
    try:
        for _, start, end in _messages(data, 0, len(data), wanted=1):  # Example.features
            position = start
            while position < end:  # Features.feature, a map
                if data[position] == 0x0A:
                    position = _entry(data, position + 1, end, spans)
                else:
                    position = _skip(data, position, end)[0]
    except (ValueError, IndexError) as error:
        raise InputError(f"{place} is no tf.train.Example, or damaged ({error}): copy the file again") from error
    return Example(data, spans, place)


def decode_varints(data: bytes) -> Array:
    """Numbers of 7 bits a byte, the lowest first; the top bit says that more follow. Returns int64 (N,).

    Raises:
        ValueError: the last one is not complete, or one is too long.
    """
    content = np.frombuffer(data, np.uint8)
    if data.isascii():  # no top bit: each byte is a number
        return content.astype(np.int64)
    last = content < 0x80
    if not last[-1]:
        raise ValueError("a number is cut off")
    ends = np.flatnonzero(last) + 1
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    if lengths.max() > LONGEST_VARINT:
        raise ValueError(f"a number has {lengths.max()} bytes")
    place = np.arange(len(content)) - np.repeat(starts, lengths)
    parts = (content & np.uint8(0x7F)).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(parts, starts).view(np.int64)


def _length(header: bytes) -> int | None:
    """The length in a header, or None where its checksum is another."""
    if len(header) < HEADER_BYTES:
        return None
    length, crc = struct.unpack("<QI", header)
    return int(length) if crc == masked_crc32c(header[:8]) else None


def _verified(data: bytes, checksum: bytes, length: int, place: str) -> bytes:
    if len(data) != length or int.from_bytes(checksum, "little") != masked_crc32c(data):
        raise InputError(f"{place} is damaged: its checksum is another. Copy the file again from its source")
    return data


def _entry(data: bytes | memoryview, position: int, limit: int, spans: dict[str, tuple[int, int, int]]) -> int:
    """Note one entry of the map in `spans`; returns where it ends. Written for the order in which all writers write."""
    length = data[position]
    position += 1
    if length >= 0x80:
        length, position = _varint(data, position - 1)
    end = position + length
    if end > limit:
        raise ValueError(f"an entry at byte {position} reaches past its end")
    name_end = position + 2 + data[position + 1]  # 0x0A, length below 128, name, 0x12, length, value
    if data[position] == 0x0A and name_end <= position + 129 and name_end < end and data[name_end] == 0x12:
        value_length, value = data[name_end + 1], name_end + 2
        if value_length >= 0x80:
            value_length, value = _varint(data, name_end + 1)
        if value + value_length == end and value < end:
            kind, list_length, first = data[value], data[value + 1], value + 2
            if list_length >= 0x80:
                list_length, first = _varint(data, value + 1)
            if first + list_length == end and kind in (0x0A, 0x12, 0x1A):
                spans[str(data[position + 2 : name_end], "utf-8")] = kind >> 3, first, end
                return end
    name, kind, first, last = "", 0, end, end
    for field, start, stop in _messages(data, position, end):
        if field == 1:
            name = str(data[start:stop], "utf-8")
        elif field == 2:
            kind, first, last = 0, stop, stop
            for kind, first, last in _messages(data, start, stop):  # noqa: B007  # the last one counts
                pass
    spans[name] = kind, first, last
    return end


def _bytes_list(data: bytes | memoryview, start: int, end: int) -> list[bytes]:
    values = []
    position = start
    while position < end:  # written out: it is most of the time that an episode with images takes
        tag, length = data[position], data[position + 1]
        position += 2
        if length >= 0x80:
            high = data[position]
            if high < 0x80:
                length += (high << 7) - 0x80
                position += 1
            else:
                length, position = _varint(data, position - 1)
        if tag != 0x0A or position + length > end:
            raise ValueError(f"the part at byte {position} is no text, or reaches past its end")
        stop = position + length
        values.append(data[position:stop])
        position = stop
    return [bytes(value) for value in values]  # no copy of what is bytes already


def _packed(data: bytes | memoryview, start: int, end: int, dtype: np.dtype[np.float32] | None) -> Array:
    """A list of floats of `dtype`, or of int64 where it is None; packed into one run of bytes, or each with a tag."""
    if start < end and data[start] == 0x0A:
        length, position = data[start + 1], start + 2
        if length >= 0x80:
            length, position = _varint(data, start + 1)
        if position + length == end:  # one run, as all writers write it
            if dtype is None:
                return decode_varints(bytes(data[position:end]))
            if length % 4 == 0:
                return np.frombuffer(data, dtype, length // 4, position).copy()
    parts = []
    position = start
    while position < end:
        tag, position = _varint(data, position)
        if tag == 0x0A:
            length, position = _varint(data, position)
            stop = position + length
            if stop > end or (dtype is not None and length % 4):
                raise ValueError(f"a list of numbers at byte {position} has {length} bytes")
            run = bytes(data[position:stop])
            parts.append(decode_varints(run) if dtype is None else np.frombuffer(run, dtype))
        elif tag == 0x0D and dtype is not None and position + 4 <= end:  # 4 bytes
            stop = position + 4
            parts.append(np.frombuffer(data, dtype, 1, position))
        elif tag == 0x08 and dtype is None:  # a number
            _, stop = _varint(data, position)
            parts.append(decode_varints(bytes(data[position:stop])))
        else:
            raise ValueError(f"a list of numbers has the tag {tag} at byte {position}")
        position = stop
    return np.concatenate(parts) if parts else np.empty(0, np.int64 if dtype is None else dtype)


def _messages(
    data: bytes | memoryview, start: int, end: int, wanted: int | None = None
) -> Iterator[tuple[int, int, int]]:
    """Field, start and end of the parts of a message that have a length; others are passed over."""
    position = start
    while position < end:
        stop, field, first = _skip(data, position, end)
        if first is not None and (wanted is None or field == wanted):
            yield field, first, stop
        position = stop


def _skip(data: bytes | memoryview, position: int, end: int) -> tuple[int, int, int | None]:
    """End of the part at a position, its field, and where its content starts if it has a length.

    Raises:
        ValueError: it reaches past the end, or is of an unknown kind.
    """
    tag, position = _varint(data, position)
    first = None
    match tag & 7:
        case 2:
            length, first = _varint(data, position)
            stop = first + length
        case 0:
            _, stop = _varint(data, position)
        case 1:
            stop = position + 8
        case 5:
            stop = position + 4
        case kind:
            raise ValueError(f"unknown kind {kind} of part at byte {position}")
    if stop > end:
        raise ValueError(f"a length at byte {position} reaches past its end")
    return stop, tag >> 3, first


def _varint(data: bytes | memoryview, position: int) -> tuple[int, int]:
    byte = data[position]
    position += 1
    if byte < 0x80:
        return byte, position
    number, shift = byte & 0x7F, 7
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
        if shift >= 7 * LONGEST_VARINT:
            raise ValueError(f"a number at byte {position} is too long")
