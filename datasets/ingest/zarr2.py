"""Arrays of zarr version 2, in a folder or a zip, read chunk by chunk with everything checked before it is believed.

Our own reading, because the general one fills chunks that are missing with zeros, instantiates any codec that a file
names (one of them unpickles), and allocates what a damaged header asks for.
Specification: zarr-specs.readthedocs.io, "Zarr storage specification version 2".
"""

import bz2
import json
import lzma
import math
import zipfile
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numcodecs
import numpy as np

from robot_rl.errors import InputError
from robot_rl.types import Array

LARGEST_CHUNK_BYTES = 1 << 30
LARGEST_TEXT_BYTES = 1 << 20  # of a `.zarray` or `.zattrs`
SMALL_BYTES = 1 << 16  # what a compressed chunk may exceed its contents by
BUFFER_CODECS = ("blosc", "zstd", "lz4")  # of numcodecs; they check the size they would write against the buffer
IMAGE_CODECS = ("jpeg", "jpeg2k", "jpegxl", "png", "webp")
FILTERS = ("delta", "shuffle")


class Files(Protocol):
    """Where the members of a store lie."""

    place: str

    def names(self) -> list[str]:
        """All files, with `/` between folders."""

    def read(self, name: str, limit: int) -> bytes | None:
        """The bytes of a file; None where there is none.

        Raises:
            InputError: it is damaged, or larger than `limit`.
        """


class Folder:
    """Files below a folder."""

    def __init__(self, root: Path) -> None:
        self.place = str(root)
        self._root = root

    def names(self) -> list[str]:
        """See `Files`."""
        return [path.relative_to(self._root).as_posix() for path in sorted(self._root.rglob("*")) if path.is_file()]

    def read(self, name: str, limit: int) -> bytes | None:
        """See `Files`."""
        path = self._root / name
        if not path.is_file():
            return None
        if path.stat().st_size > limit:
            raise InputError(f"{path} has {path.stat().st_size} bytes, more than it can hold ({limit}): it is damaged")
        return path.read_bytes()


class Zip:
    """Files in a zip; nothing is extracted."""

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        try:
            self._zip = zipfile.ZipFile(path)
            infos = [info for info in self._zip.infolist() if not info.is_dir()]
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is truncated or damaged ({error}): copy it again from its source") from error
        roots = {info.filename.split("/")[0] for info in infos}
        prefix = f"{roots.pop()}/" if len(roots) == 1 and all("/" in info.filename for info in infos) else ""
        self._infos = {info.filename.removeprefix(prefix): info for info in infos}

    def close(self) -> None:
        """Close the file."""
        self._zip.close()

    def names(self) -> list[str]:
        """See `Files`."""
        return sorted(self._infos)

    def read(self, name: str, limit: int) -> bytes | None:
        """See `Files`."""
        info = self._infos.get(name)
        if info is None:
            return None
        place = f"{self.place}: {name}"
        if info.file_size > limit:
            raise InputError(f"{place} has {info.file_size} bytes, more than it can hold ({limit}): it is damaged")
        try:
            return self._zip.read(info)
        except (
            OSError,
            ValueError,
            RuntimeError,
            EOFError,
            NotImplementedError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise InputError(f"{place} is damaged ({error}): copy {self.place} again from its source") from error


@dataclass(frozen=True, kw_only=True)
class Zarr2Array:
    """One array: its description, and its chunks as they are asked for."""

    files: Files
    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    compressor: Mapping[str, Any] | None
    filters: tuple[Mapping[str, Any], ...]
    order: str
    separator: str

    @staticmethod
    def open(files: Files, name: str, present: Collection[str]) -> "Zarr2Array":
        """Read `NAME/.zarray`.

        Args:
            files: of the store.
            name: of the array.
            present: names of all files. A chunk that is not there is an error, never a block of zeros, so a shape that
                lies is refused before anything is allocated.

        Raises:
            InputError: it is damaged, lacks chunks, or asks for what is not supported; names the array.
        """
        place = f"{files.place}: {name}/.zarray"
        about = read_json(files, f"{name}/.zarray")
        try:
            shape = tuple(int(size) for size in about["shape"])
            chunks = tuple(int(size) for size in about["chunks"])
            dtype = np.dtype(about["dtype"])
            compressor, filters = about.get("compressor"), about.get("filters") or []
            order, separator = str(about.get("order", "C")), str(about.get("dimension_separator", "."))
            codecs = [*([] if compressor is None else [compressor]), *filters]
            known = all(isinstance(codec, dict) and isinstance(codec.get("id"), str) for codec in codecs)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{place} describes no array ({error}): the recording is damaged") from error
        if not known or about.get("zarr_format") != 2 or order not in "CF" or separator not in (".", "/"):
            raise InputError(f"{place} describes no array of zarr version 2: the recording is damaged")
        if len(shape) != len(chunks) or not shape or min(shape) < 0 or min(chunks) < 1 or dtype.hasobject:
            raise InputError(
                f"{place}: shape {shape}, chunks {chunks} and type {dtype} are no array of numbers or text"
            )
        if math.prod(chunks) * dtype.itemsize > LARGEST_CHUNK_BYTES or math.prod(shape) * dtype.itemsize > 1 << 50:
            raise InputError(f"{place} claims chunks of {chunks} and a shape of {shape}: the recording is damaged")
        grid = [math.ceil(whole / part) for whole, part in zip(shape, chunks, strict=True)]
        found = sum(file.startswith(f"{name}/") and not file.endswith("/.zarray") for file in present)
        if math.prod(grid) > found:
            raise InputError(
                f"{files.place}: {name} lacks {math.prod(grid) - found} of its {math.prod(grid)} chunks: copy the "
                "recording again from its source"
            )
        return Zarr2Array(
            files=files,
            name=name,
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            compressor=compressor,
            filters=tuple(filters),
            order=order,
            separator=separator,
        )

    def rows(self, start: int, stop: int) -> Array:
        """Rows [start, stop).

        Raises:
            InputError: a chunk is missing or damaged; names it.
        """
        place = f"{self.files.place}: {self.name}"
        if not 0 <= start <= stop <= self.shape[0]:
            raise InputError(f"{place} has {self.shape[0]} rows, asked for {start} to {stop}")
        size = self.chunks[0]
        numbers = range(start // size, (stop - 1) // size + 1) if stop > start else range(0)
        grid = [math.ceil(whole / part) for whole, part in zip(self.shape[1:], self.chunks[1:], strict=True)]
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        for number in numbers:
            first, last = max(start, number * size), min(stop, (number + 1) * size)
            for index in np.ndindex(*grid):
                chunk = self._chunk(self._chunk_name(number, index))[first - number * size : last - number * size]
                low = [i * part for i, part in zip(index, self.chunks[1:], strict=True)]
                high = [
                    min(a + part, whole) for a, part, whole in zip(low, self.chunks[1:], self.shape[1:], strict=True)
                ]
                target = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
                inside = tuple(slice(0, b - a) for a, b in zip(low, high, strict=True))
                out[(slice(first - start, last - start), *target)] = chunk[(slice(None), *inside)]
        return out

    @property
    def _bytes(self) -> int:
        return math.prod(self.chunks) * self.dtype.itemsize

    @property
    def _limit(self) -> int:
        return 2 * self._bytes + SMALL_BYTES

    def _chunk_name(self, number: int, index: tuple[int, ...]) -> str:
        return f"{self.name}/{self.separator.join(str(part) for part in (number, *index))}"

    def _chunk(self, name: str) -> Array:
        data = self.files.read(name, self._limit)
        place = f"{self.files.place}: {name}"
        if data is None:
            raise InputError(f"{place} is missing: copy it again from its source")
        try:
            decoded = _decoded(data, self.compressor, self._bytes)
            for codec in reversed(self.filters):
                if codec["id"] not in FILTERS:
                    raise ValueError(f"filter {codec['id']} is not supported")
                decoded = np.asarray(numcodecs.get_codec(dict(codec)).decode(decoded))
            array = np.frombuffer(np.ascontiguousarray(decoded).tobytes(), self.dtype)
            return array.reshape(self.chunks, order="F" if self.order == "F" else "C")
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        except (ValueError, TypeError, RuntimeError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            raise InputError(f"{place} is damaged ({error}): copy it again from its source") from error


def read_json(files: Files, name: str) -> dict[str, Any]:
    """A JSON object of a file.

    Raises:
        InputError: it is missing, or none.
    """
    data = files.read(name, LARGEST_TEXT_BYTES)
    if data is None:
        raise InputError(f"{files.place}: {name} is missing")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{files.place}: {name} is not JSON ({error}): the recording is damaged") from error
    if not isinstance(value, dict):
        raise InputError(f"{files.place}: {name} is not a JSON object: the recording is damaged")
    return value


def _decoded(data: bytes, compressor: Mapping[str, Any] | None, size: int) -> Array:
    """The bytes of a chunk, exactly `size` of them."""
    if compressor is None:
        out = np.frombuffer(data, np.uint8)
    else:
        codec = str(compressor["id"])
        out = np.zeros(size, np.uint8)
        if codec in BUFFER_CODECS:
            decoded = numcodecs.get_codec(dict(compressor)).decode(data, out)
            out = np.frombuffer(decoded, np.uint8)
        elif codec in ("zlib", "gzip"):
            out = np.frombuffer(zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, size + 1), np.uint8)
        elif codec == "bz2":
            out = np.frombuffer(bz2.BZ2Decompressor().decompress(data, size + 1), np.uint8)
        elif codec == "lzma":
            out = np.frombuffer(lzma.LZMADecompressor().decompress(data, size + 1), np.uint8)
        elif codec.removeprefix("imagecodecs_") in IMAGE_CODECS:
            out = _image(data, codec.removeprefix("imagecodecs_"))
        else:
            raise ValueError(f"the compressor {codec} is not supported")
    if out.nbytes != size:
        raise ValueError(f"{out.nbytes} bytes, expected {size}")
    return out


def _image(data: bytes, kind: str) -> Array:
    try:
        import imagecodecs
    except ImportError as error:
        raise InputError(
            f"its images are compressed with {kind}, which needs imagecodecs: pip install 'robot-rl[codecs]'"
        ) from error
    match kind:
        case "jpeg2k":
            image = imagecodecs.jpeg2k_decode(data)
        case "jpegxl":
            image = imagecodecs.jpegxl_decode(data)
        case "jpeg":
            image = imagecodecs.jpeg_decode(data)
        case "png":
            image = imagecodecs.png_decode(data)
        case _:
            image = imagecodecs.webp_decode(data)
    return np.ascontiguousarray(image)
