"""Pickles of numpy arrays, without running what a pickle asks for.

A pickle is a program. This unpickler lets it name numpy's constructors only, and puts harmless stand-ins in their
place: numpy's own `__setstate__` trusts its input, and a crafted one can damage the interpreter. What comes out is
lists, dictionaries, numbers, text and arrays of numbers that were built here, from bytes and a data type.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from robot_rl.errors import InputError
from robot_rl.types import Array

DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, MemoryError, SystemError,
    OverflowError, RecursionError,
)  # fmt: skip
"""What a pickle with changed bytes raises."""
NUMERIC = "fiub"  # kinds of data type: floating, signed, unsigned, bool


def load_arrays(path: Path) -> Any:
    """The content of a pickle.

    Raises:
        InputError: it names anything but numpy arrays, or is damaged.
    """
    try:
        data = path.read_bytes()
        _require_sound(data)
        return _arrays(_ArrayUnpickler(io.BytesIO(data), path).load())
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{path} is a damaged pickle ({error}): copy it again from its source") from error


def _require_sound(data: bytes) -> None:
    """Read the operations without doing them: the unpickler reserves whatever memory a damaged one announces."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(str(argument)) <= count:
            raise ValueError(f"operation {count} stores at place {argument}")


class _Dtype:
    """Stands in for numpy.dtype: a name, then a byte order."""

    __slots__ = ("value",)

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        if not isinstance(name, str):
            raise TypeError("a data type without a name")
        self.value = np.dtype(name)
        if self.value.kind not in NUMERIC or self.value.names is not None:
            raise TypeError(f"data type {name}, expected numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands in for numpy.ndarray: empty, then filled from bytes."""

    __slots__ = ("value",)

    def __init__(self, *_: object) -> None:
        self.value: Array | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _from_bytes(data, dtype, shape, "F" if fortran else "C")


def _from_bytes(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> Array:
    content = data.encode("latin1") if isinstance(data, str) else data  # Python 2 wrote bytes as text
    if not isinstance(content, bytes | bytearray):
        raise TypeError("an array that is not made of bytes")
    return np.frombuffer(bytes(content), dtype.value).reshape(shape, order=order).copy()


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(data: Any, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    array = _Array()
    array.value = _from_bytes(data, dtype, shape, order)
    return array


def _scalar(dtype: _Dtype, data: Any) -> Any:
    return _from_bytes(data, dtype, (), "C").item()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes written as {encoding}, expected latin1")
    return text.encode("latin1")


ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,  # bytes in protocol 2
} | {
    (f"numpy.{core}.{module}", name): stand_in
    for core in ("core", "_core")  # numpy 1 and 2
    for module, name, stand_in in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _from_buffer),  # protocol 5
    )
}


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in.

        Raises:
            InputError: names the refused global.
        """
        if (module, name) not in ADMITTED:
            raise InputError(
                f"{self._path} is refused: the pickle asks for {module}.{name}, and a demonstration needs numpy arrays "
                "only. Loading it could run any program: do not, unless you know who made it"
            )
        return ADMITTED[module, name]


def _arrays(content: Any) -> Any:
    """The content with arrays in place of their stand-ins."""
    match content:
        case _Array():
            if content.value is None:
                raise ValueError("an array without content")
            return content.value
        case dict():
            return {_arrays(key): _arrays(value) for key, value in content.items()}
        case list():
            return [_arrays(value) for value in content]
        case tuple():
            return tuple(_arrays(value) for value in content)
        case str() | bytes() | int() | float() | bool() | None:
            return content
    raise TypeError(f"{type(content).__name__} is not data")
