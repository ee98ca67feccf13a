"""Thrift's compact protocol, as Parquet's headers and footers are written in it: a struct as a dict by field number.

Of the Apache Thrift specification "Compact protocol encoding". Values keep their wire type, so that what was read can
be changed and written again without knowing its schema.
"""

from dataclasses import dataclass
from typing import Any

from robot_rl.errors import InputError

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
DEEPEST = 32


@dataclass
class Value:
    """A value with its wire type; lists are `(type of the elements, [values])`."""

    type: int
    value: Any


Struct = dict[int, Value]


class ThriftReader:
    """Reads from bytes at a position.

    Every method raises InputError where the bytes end, or are no thrift.
    """

    def __init__(self, data: memoryview, position: int = 0) -> None:
        self.data = data
        self.position = position

    def struct(self, depth: int = 0) -> Struct:
        """A struct, up to its stop byte."""
        if depth > DEEPEST:
            raise InputError("structs too deep inside each other")
        found: Struct = {}
        field = 0
        while (head := self._byte()) != 0:
            delta, type = head >> 4, head & 15
            field = field + delta if delta else self._integer()
            found[field] = Value(type, self._value(type, depth))
        return found

    def _value(self, type: int, depth: int) -> Any:
        match type:
            case 1 | 2:
                return type == TRUE
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._integer()
            case 7:
                return self._bytes(8)
            case 8:
                return self._bytes(self._varint())
            case 9 | 10:
                return self._list(depth)
            case 12:
                return self.struct(depth + 1)
        raise InputError(f"type {type} is unknown")

    def _list(self, depth: int) -> tuple[int, list[Any]]:
        head = self._byte()
        size, type = head >> 4, head & 15
        if size == 15:
            size = self._varint()
        if size > len(self.data) - self.position:  # each element takes at least a byte
            raise InputError("a list longer than the file")
        if type in (TRUE, FALSE):
            return type, [self._byte() == TRUE for _ in range(size)]
        return type, [self._value(type, depth + 1) for _ in range(size)]

    def _integer(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
            if shift > 63:
                raise InputError("a number of more than 64 bits")

    def _byte(self) -> int:
        if self.position >= len(self.data):
            raise InputError("the bytes end")
        self.position += 1
        return self.data[self.position - 1]

    def _bytes(self, size: int) -> bytes:
        if size > len(self.data) - self.position:
            raise InputError("the bytes end")
        self.position += size
        return bytes(self.data[self.position - size : self.position])


def write_struct(struct: Struct) -> bytes:
    """Undo `ThriftReader.struct`."""
    out = bytearray()
    last = 0
    for field in sorted(struct):
        item = struct[field]
        type = item.type if item.type not in (TRUE, FALSE) else TRUE if item.value else FALSE
        delta = field - last
        out += bytes([(delta << 4) | type]) if delta <= 15 else bytes([type]) + _integer(field)
        out += b"" if type in (TRUE, FALSE) else _value(type, item.value)
        last = field
    return bytes(out) + b"\0"


def _value(type: int, value: Any) -> bytes:
    match type:
        case 1 | 2:
            return bytes([TRUE if value else FALSE])
        case 3:
            return bytes([value])
        case 4 | 5 | 6:
            return _integer(value)
        case 7:
            return bytes(value)
        case 8:
            return _varint(len(value)) + bytes(value)
        case 12:
            return write_struct(value)
    element, items = value
    head = bytes([(len(items) << 4) | element]) if len(items) < 15 else bytes([0xF0 | element]) + _varint(len(items))
    return head + b"".join(_value(element, item) for item in items)


def _integer(number: int) -> bytes:
    return _varint((number << 1) ^ (number >> 63))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(128 | (number & 127))
        number >>= 7
    out.append(number)
    return bytes(out)
