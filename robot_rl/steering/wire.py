"""Messages of the openpi policy protocol: msgpack with numpy arrays, and nothing that could be executed.

An array is a map with bytes as keys, {b"__ndarray__": True, b"data": C-order bytes, b"dtype": dtype.str, b"shape":
shape}; a numpy scalar is {b"__npgeneric__": True, b"data": number, b"dtype": dtype.str} (Physical-Intelligence/openpi,
packages/openpi-client/src/openpi_client/msgpack_numpy.py, commit 15a9616). Objects, structures and complex numbers are
refused in both directions.
"""

import math
import re
from typing import Any

import msgpack
import numpy as np

ARRAY, SCALAR, DATA, DTYPE, SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"
DTYPES = re.compile(r"[<>|=][biufSU][1-9]\d{0,5}")
MAXIMUM_PARTS = 20_000
"""Maps and lists in one message: a message of a few megabytes could hold as many empty maps, of 64 bytes each."""
MAXIMUM_AXES = 8


class WireError(ValueError):
    """Bytes that are no message, or a value that no message can hold."""


def pack(message: dict[Any, Any]) -> bytes:
    """The bytes of one message.

    Raises:
        WireError: it holds something else than numbers, text, bytes, arrays, lists and maps.
    """
    try:
        packed: bytes = msgpack.packb(message, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"this cannot be sent: {error}") from error
    return packed


def unpack(data: bytes) -> dict[Any, Any]:
    """The message in these bytes; its arrays are copies that may be written to.

    Raises:
        WireError: cut off, followed by more, no map, an array whose bytes do not fit its shape, too many parts.
    """
    parts = _Parts()
    try:
        message = msgpack.unpackb(data, object_hook=parts.map, list_hook=parts.list)
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"no msgpack message ({type(error).__name__}: {error})") from error
    if not isinstance(message, dict):
        raise WireError(f"a message is a map, this one is of the type {type(message).__name__}")
    return message


def _encode(value: Any) -> dict[bytes, Any]:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"a {type(value).__name__} has no place in a message")
    if DTYPES.fullmatch(value.dtype.str) is None:
        raise TypeError(f"arrays of the type {value.dtype} have no place in a message")
    if isinstance(value, np.ndarray):
        return {ARRAY: True, DATA: value.tobytes(), DTYPE: value.dtype.str, SHAPE: value.shape}
    return {SCALAR: True, DATA: value.item(), DTYPE: value.dtype.str}


class _Parts:
    """Counts and decodes the maps and lists of one message."""

    def __init__(self) -> None:
        self.count = 0

    def list(self, items: list[Any]) -> list[Any]:
        self._another()
        return items

    def map(self, items: dict[Any, Any]) -> Any:
        self._another()
        if ARRAY in items:
            return _array(items)
        return _scalar(items) if SCALAR in items else items

    def _another(self) -> None:
        self.count += 1
        if self.count > MAXIMUM_PARTS:
            raise WireError(f"more than {MAXIMUM_PARTS} maps and lists in one message")


def _dtype(items: dict[Any, Any]) -> np.dtype[Any]:
    name = items.get(DTYPE)
    if not isinstance(name, str) or DTYPES.fullmatch(name) is None:
        raise WireError(f"arrays of the type {name!r:.40} are not taken")
    try:
        return np.dtype(name)
    except TypeError as error:
        raise WireError(f"there is no array type {name!r}") from error


def _array(items: dict[Any, Any]) -> np.ndarray[Any, Any]:
    dtype, data, shape = _dtype(items), items.get(DATA), items.get(SHAPE)
    if not isinstance(shape, list) or len(shape) > MAXIMUM_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise WireError(f"{shape!r:.60} is no shape of an array")
    if not isinstance(data, bytes) or math.prod(shape) * dtype.itemsize != len(data):
        size = len(data) if isinstance(data, bytes) else type(data).__name__
        raise WireError(f"an array of shape {shape} and type {dtype.str} does not have {size} bytes")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def _scalar(items: dict[Any, Any]) -> np.generic:
    dtype, value = _dtype(items), items.get(DATA)
    if not isinstance(value, bool | int | float | str | bytes):
        raise WireError(f"{type(value).__name__} is no scalar")
    try:
        scalar: Any = np.array(value, dtype)[()]
    except (ValueError, OverflowError, TypeError) as error:
        raise WireError(f"{value!r:.40} is no {dtype.str}: {error}") from error
    assert isinstance(scalar, np.generic)
    return scalar
