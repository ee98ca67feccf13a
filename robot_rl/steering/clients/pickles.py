"""The few pickles of LeRobot's policy server, written and read without pickle: nothing in them is ever executed.

Its protocol carries `RemotePolicyConfig`, `TimedObservation` and `list[TimedAction]` as pickles. Here a pickle is a
list of opcodes: the writer emits those of plain data, arrays and instances; the reader turns opcodes into plain data,
keeps what they would call as a `Call` that nobody calls, and takes tensors out of exactly the calls that torch writes
for them. Everything else is refused.
"""

import io
import math
import pickletools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_rl.steering.wire import WireError
from robot_rl.types import Array

MAXIMUM_OPCODES = 500_000
HELPERS = "lerobot.async_inference.helpers"
STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2"}
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001


@dataclass(frozen=True)
class Name:
    """What a pickle would import."""

    module: str
    name: str


@dataclass
class Call:
    """What a pickle would call, and the state it would give to what comes back."""

    called: Name
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class Reference:
    """What a pickle would ask its reader for (a storage of torch)."""

    key: Any


@dataclass(frozen=True)
class Instance:
    """An object to write: its class and its fields."""

    kind: Name
    fields: Mapping[str, Any]


# Writing --------------------------------------------------------------------------------------------------------------


def write(value: Any) -> bytes:
    """A pickle, protocol 3, of plain data, numpy arrays of numbers and instances.

    Raises:
        WireError: something else.
    """
    return b"\x80\x03" + b"".join(_opcodes(value)) + b"."


def _opcodes(value: Any) -> list[bytes]:
    match value:
        case None:
            return [b"N"]
        case bool():
            return [b"\x88" if value else b"\x89"]
        case int() if -(2**31) <= value < 2**31:
            return [b"J", struct.pack("<i", value)]
        case float():
            return [b"G", struct.pack(">d", value)]
        case str():
            text = value.encode("utf-8", "surrogatepass")
            return [b"X", struct.pack("<I", len(text)), text]
        case bytes():
            return [b"B", struct.pack("<I", len(value)), value]
        case list():
            return [b"](", *(part for each in value for part in _opcodes(each)), b"e"]
        case tuple():
            return [b"(", *(part for each in value for part in _opcodes(each)), b"t"]
        case dict():
            pairs = (part for pair in value.items() for each in pair for part in _opcodes(each))
            return [b"}(", *pairs, b"u"]
        case Name():
            return [f"c{value.module}\n{value.name}\n".encode()]
        case Instance():
            return [*_opcodes(value.kind), b")\x81", *_opcodes(dict(value.fields)), b"b"]
        case np.ndarray() if value.dtype.kind in "biuf":
            return _array_opcodes(value)
    raise WireError(f"a {type(value).__name__} has no place in a message")


def _array_opcodes(array: Array) -> list[bytes]:
    """As numpy pickles it: an empty array that is given shape, type and bytes as its state."""
    made = [*_opcodes(Name("numpy.core.multiarray", "_reconstruct"))]
    made += [*_opcodes((Name("numpy", "ndarray"), (0,), b"b")), b"R"]
    order = "|" if array.dtype.itemsize == 1 else "<"
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    kind = [*_opcodes(Name("numpy", "dtype")), *_opcodes((array.dtype.str[1:], False, True)), b"R"]
    kind += [*_opcodes((3, order, None, None, None, -1, -1, 0)), b"b"]
    state = [b"(", *_opcodes(1), *_opcodes(tuple(array.shape)), *kind, *_opcodes(False), *_opcodes(little.tobytes())]
    return [*made, *state, b"tb"]


# Reading --------------------------------------------------------------------------------------------------------------


def read(data: bytes | io.BytesIO) -> Any:
    """The data of one pickle; of a stream, the next one.

    Raises:
        WireError: no pickle, or one that holds more than plain data and calls.
    """
    try:
        return _Reader().run(data)
    except WireError:
        raise
    except UNREADABLE as error:
        raise WireError(f"no pickle that can be read ({type(error).__name__}: {str(error)[:200]})") from error


MARK = object()
UNREADABLE = (
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    struct.error,
    RecursionError,
    DeprecationWarning,
)
"""What `pickletools` and the stack machine raise; the last of a damaged name, where warnings are errors."""
PUSHED = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES",
    "BINBYTES8",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


class _Reader:
    """A stack machine for the opcodes above."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes | io.BytesIO) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count > MAXIMUM_OPCODES:
                raise WireError(f"more than {MAXIMUM_OPCODES} opcodes in one pickle")
            if opcode.name == "STOP":
                (found,) = self.stack
                return found
            self.step(opcode.name, argument)
        raise WireError("a pickle without an end")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in PUSHED:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        else:
            match name:
                case "PROTO" | "FRAME":
                    pass
                case "MEMOIZE":
                    self.memo[len(self.memo)] = stack[-1]
                case "BINPUT" | "LONG_BINPUT":
                    self.memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(self.memo[argument])
                case "MARK":
                    stack.append(MARK)
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE":
                    stack.append(tuple(self.since_mark()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    size = int(name[-1])
                    stack[-size:] = [tuple(stack[-size:])]
                case "APPEND":
                    item = stack.pop()
                    self.of_type(list).append(item)
                case "APPENDS":
                    items = self.since_mark()
                    self.of_type(list).extend(items)
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    self.of_type(dict)[key] = value
                case "SETITEMS":
                    items = self.since_mark()
                    self.of_type(dict).update(zip(items[::2], items[1::2], strict=True))
                case "GLOBAL":
                    module, _, attribute = argument.partition(" ")
                    stack.append(Name(module, attribute))
                case "STACK_GLOBAL":
                    attribute, module = stack.pop(), stack.pop()
                    stack.append(Name(str(module), str(attribute)))
                case "REDUCE" | "NEWOBJ":
                    arguments, called = stack.pop(), stack.pop()
                    if not isinstance(called, Name) or not isinstance(arguments, tuple):
                        raise WireError("a pickle that calls what is no name")
                    stack.append(Call(called, arguments))
                case "BUILD":
                    state = stack.pop()
                    self.of_type(Call).state = state
                case "BINPERSID":
                    stack.append(Reference(stack.pop()))
                case _:
                    raise WireError(f"a pickle with the opcode {name}, which none of these messages has")

    def since_mark(self) -> list[Any]:
        at = next((n for n in range(len(self.stack) - 1, -1, -1) if self.stack[n] is MARK), None)
        if at is None:
            raise WireError("a pickle that ends what it did not begin")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def of_type(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise WireError(f"a pickle that takes a {type(self.stack[-1]).__name__} for a {kind.__name__}")
        return self.stack[-1]


def tensor(call: Any) -> Array:
    """The array of a pickled torch tensor of real numbers.

    Raises:
        WireError: it is something else, or its storage does not hold what it says.
    """
    match call:
        case Call(Name("torch._utils", "_rebuild_tensor_v2"), (storage, int(offset), tuple(size), tuple(stride), *_)):
            pass
        case _:
            raise WireError(f"{_words(call)} is no tensor")
    match storage:
        case Call(Name("torch.storage", "_load_from_bytes"), (bytes(data),)):
            flat = _storage(data)
        case _:
            raise WireError(f"{_words(storage)} is no storage of a tensor")
    if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise WireError(f"a tensor of size {size!r:.60} and stride {stride!r:.60}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > 0 and last >= len(flat):
        raise WireError(f"a tensor of size {size} and stride {stride} in a storage of {len(flat)}")
    if math.prod(size) > 10 * len(flat) + 10:  # strides of 0 would make much of little
        raise WireError(f"a tensor of size {size} in a storage of {len(flat)}")
    places = np.full(size, offset)
    for axis, (count, step) in enumerate(zip(size, stride, strict=True)):
        places = places + (np.arange(count) * step).reshape([-1 if a == axis else 1 for a in range(len(size))])
    return np.asarray(flat[places])


def _storage(data: bytes) -> Array:
    """torch's older format: magic number, version, facts, reference to the storage, its keys, length and bytes."""
    stream = io.BytesIO(data)
    if read(stream) != TORCH_MAGIC or read(stream) != TORCH_PROTOCOL:
        raise WireError("a storage of a tensor in another format than that of torch.save(.., legacy)")
    facts = read(stream)
    if not isinstance(facts, dict) or facts.get("little_endian") is not True:
        raise WireError("a storage of a tensor of another machine's byte order")
    match read(stream):
        case Reference(("storage", Name("torch", kind), _, _, int(), *_)) if kind in STORAGES:
            dtype = np.dtype(STORAGES[kind])
        case other:
            raise WireError(f"a storage of {_words(other)}: actions are float16, float32 or float64")
    read(stream)  # its key
    raw = stream.read()
    length = struct.unpack("<q", raw[:8])[0] if len(raw) >= 8 else -1
    if len(raw) - 8 != length * dtype.itemsize:
        raise WireError(f"a storage of {length} numbers in {max(0, len(raw) - 8)} bytes")
    return np.frombuffer(raw[8:], dtype)


def _words(value: Any) -> str:
    match value:
        case Call(Name(module, name)) | Name(module, name):
            return f"{module}.{name}"[:100]
        case Reference(key):
            return f"a reference to {key!r:.100}"
    return type(value).__name__
