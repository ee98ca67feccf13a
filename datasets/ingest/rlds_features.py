"""What `features.json` of an RLDS data set declares, and the arrays of one record under it.

Layout of TensorFlow Datasets: nested dictionaries become names joined with `/`; integers and booleans are stored as
int64, all floats as float32; a sequence in a sequence is stored flat, with the lengths of its rows beside it.
"""

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from robot_rl.datasets.frames import JPEG_SIGNATURE, LARGEST_SIDE, PNG_SIGNATURE
from robot_rl.datasets.ingest.tfrecord import Example, Feature
from robot_rl.errors import InputError
from robot_rl.types import Array

STEPS = "steps"
TEXT, IMAGE, TENSOR = "text", "image", "tensor"
DEEPEST = 32  # of nested features
MOST_DIMENSIONS = 16
LARGEST_TENSOR = 1 << 28  # bytes of one that is compressed
TYPES = {name: np.dtype(name) for name in ("bool", "float32", "float64")} | {
    f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)
}
TYPES |= {"float16": np.dtype(np.float32), "bfloat16": np.dtype(np.float32)}  # as they are stored
ENCODED_TYPES = TYPES | {"float16": np.dtype(np.float16)}


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One feature with values of its own."""

    name: str  # as in the record, such as `steps/observation/image`
    kind: str  # TEXT, IMAGE or TENSOR
    shape: tuple[int | None, ...] = ()  # of one value; None is not declared
    dtype: str = ""
    encoding: str = "none"  # of tensors: none | bytes | zlib
    levels: int = 0  # sequences around it; 1 is a value per step

    @property
    def per_step(self) -> bool:
        """It has values for each step."""
        return self.name == STEPS or self.name.startswith(f"{STEPS}/")


def read_features(path: Path) -> tuple[list[Leaf], list[str]]:
    """The leaves of a `features.json` sorted by name, and the names of those of an unknown kind.

    Raises:
        InputError: it is damaged.
    """
    try:
        tree = json.loads(path.read_bytes())
        leaves, unknown = _leaves(tree, "", 0, 0)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}): copy it again") from error
    return sorted(leaves, key=lambda leaf: leaf.name), sorted(unknown)


def _leaves(node: dict[str, Any], name: str, levels: int, depth: int) -> tuple[list[Leaf], list[str]]:
    if depth > DEEPEST:
        raise ValueError(f"features are nested more than {DEEPEST} deep")
    kind, content = _content(node)
    if kind in ("FeaturesDict", "Dataset", "Sequence") and levels > DEEPEST:
        raise ValueError("too many sequences in one another")
    if kind == "FeaturesDict":
        leaves: list[Leaf] = []
        unknown: list[str] = []
        for key, child in content.get("features", content).items():
            more = _leaves(child, f"{name}/{key}" if name else key, levels, depth + 1)
            leaves += more[0]
            unknown += more[1]
        return leaves, unknown
    if kind in ("Dataset", "Sequence"):
        return _leaves(content["feature"], name, levels + 1, depth + 1)
    if kind == "Text":
        return [Leaf(name=name, kind=TEXT, dtype="string", levels=levels)], []
    if kind == "ClassLabel":
        return [Leaf(name=name, kind=TENSOR, dtype="int64", levels=levels)], []
    dtype = str(content.get("dtype", {"BBoxFeature": "float32"}.get(kind, ""))).removeprefix("tf.")
    shape = _shape(content.get("shape"))
    if kind == "Image":
        shape = shape if len(shape) == 3 else (None, None, None)
        return [Leaf(name=name, kind=IMAGE, shape=shape, dtype=dtype if dtype else "uint8", levels=levels)], []
    if kind in ("Tensor", "Scalar", "Audio", "BBoxFeature"):
        if dtype in ("string", "object"):
            return [Leaf(name=name, kind=TEXT, shape=shape, dtype="string", levels=levels)], []
        encoding = str(content.get("encoding", "none")).lower()
        if dtype in TYPES and encoding in ("", "none", "bytes", "zlib"):
            encoding = encoding if encoding else "none"
            return [Leaf(name=name, kind=TENSOR, shape=shape, dtype=dtype, encoding=encoding, levels=levels)], []
    return [], [name]


def _content(node: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The last part of the class name, and what the class keeps; in the layout of 2022 and in the one before."""
    if "type" in node:
        content = node.get("content", {})
        content = json.loads(content) if isinstance(content, str) else content
        return str(node["type"]).rsplit(".", 1)[-1], dict(content)
    kind = str(node["pythonClassName"]).rsplit(".", 1)[-1]
    for key in ("featuresDict", "sequence", "tensor", "image", "text", "classLabel", "audio", "boundingBox"):
        if isinstance(node.get(key), dict):
            return kind, node[key]
    return kind, {}


def _shape(value: Any) -> tuple[int | None, ...]:
    """Dimensions; -1 and null are not declared."""
    dimensions = value.get("dimensions", []) if isinstance(value, dict) else ([] if value is None else list(value))
    if len(dimensions) > MOST_DIMENSIONS:
        raise ValueError(f"a shape with {len(dimensions)} dimensions")
    sizes = [None if size is None or int(size) < 0 else int(size) for size in dimensions]
    if any(size is not None and size > 2**40 for size in sizes):
        raise ValueError(f"a shape of {sizes}")
    return tuple(sizes)


def infer_features(example: Example) -> list[Leaf]:
    """The leaves as one record shows them: shapes are one-dimensional, integers int64, flags known by their name."""
    bases = {_base(name) for name in example}
    steps = next(
        (len(example[f"{STEPS}/{name}"]) for name in ("is_last", "is_first", "reward", "discount", "is_terminal")
         if f"{STEPS}/{name}" in example),
        None,
    )  # fmt: skip
    leaves = []
    for name in sorted(bases):
        ragged = name not in example
        if ragged and f"{name}/ragged_flat_values" not in example:
            continue
        value = example[f"{name}/ragged_flat_values"] if ragged else example[name]
        levels = 0 if not name.startswith(f"{STEPS}/") else 2 if ragged else 1
        if isinstance(value, list):
            start = value[0] if value else b""
            image = start[:3] == JPEG_SIGNATURE or start[:8] == PNG_SIGNATURE
            kind, dtype = (IMAGE, "uint8") if image else (TEXT, "string")
            shape: tuple[int | None, ...] = (None, None, None) if image else ()
            if image and start[:8] == PNG_SIGNATURE and start[24:25] == b"\x10":
                dtype = "uint16"
        else:
            kind = TENSOR
            flag = name.rsplit("/", 1)[-1].startswith("is_")
            dtype = "float32" if value.dtype == np.float32 else "bool" if flag else "int64"
            rows = 1 if levels == 0 else steps
            single = levels == 2 or rows is None or len(value) == rows
            shape = () if single else (None,)
        leaves.append(Leaf(name=name, kind=kind, shape=shape, dtype=dtype, levels=levels))
    return leaves


def _base(name: str) -> str:
    """The feature that a stored name belongs to."""
    head, _, tail = name.rpartition("/")
    return head if tail == "ragged_flat_values" or tail.startswith("ragged_row_lengths_") else name


def count_steps(leaves: Sequence[Leaf], example: Example, place: str) -> int:
    """The number of steps of an episode, from the first feature that tells it.

    Raises:
        InputError: none does, or there are no steps.
    """
    for leaf in leaves:
        lengths = row_lengths(leaf, example, 0) if leaf.levels > 1 else None
        if lengths is not None:
            rows = len(lengths)
        elif leaf.name not in example or None in leaf.shape or leaf.levels > 1:
            continue
        else:
            value = example[leaf.name]
            numbers = 1 if isinstance(value, list) else math.prod(size for size in leaf.shape if size is not None)
            rows = len(value) // max(numbers, 1)
        if rows < 1:
            break
        return rows
    raise InputError(f"{place} has no steps, or none of the features that were declared")


def row_lengths(leaf: Leaf, example: Example, level: int) -> Array | None:
    """The lengths of the rows of a ragged feature; None where the record has none.

    Raises:
        InputError: they are no numbers, or negative.
    """
    name = f"{leaf.name}/ragged_row_lengths_{level}"
    if name not in example:
        return None
    lengths = example[name]
    if isinstance(lengths, list) or lengths.dtype.kind != "i" or (lengths < 0).any():
        raise InputError(f"{example.place}: feature '{name}' is damaged: it has other things than lengths")
    return lengths


def decode(leaf: Leaf, example: Example, steps: int, place: str, width: int | None = None) -> Array | list[bytes]:
    """The values of a leaf: of numbers an array, (steps, *) where it is per step and (*) elsewhere; of texts and
    images the bytes.

    Args:
        leaf: what is declared.
        example: the record.
        steps: of the episode.
        place: of the record, for messages.
        width: rows of a ragged feature are filled with zeros up to it; None wants them of one length.

    Raises:
        InputError: it is missing, or does not have the declared shape.
    """
    place = f"{place}: feature '{leaf.name}'"
    try:
        if leaf.levels > 1 or (leaf.levels == 1 and not leaf.per_step):
            return _nested(leaf, example, steps, place, width)
        rows = steps if leaf.per_step else 1
        shape = leaf.shape
        if leaf.kind == TENSOR and sum(size is None for size in shape) > 1:
            values = _encoded(leaf, _bytes(example, f"{leaf.name}/value", place), _stored_shapes(leaf, example), place)
        elif leaf.kind == TENSOR and leaf.encoding != "none":
            values = _encoded(leaf, _bytes(example, leaf.name, place), None, place)
        elif leaf.kind == TENSOR:
            values = _rows(_numbers(example, leaf, leaf.name, place), rows, shape, place)
        else:
            texts = _bytes(example, leaf.name, place)
            if leaf.kind == TEXT and leaf.shape:
                return texts
            _require_rows(len(texts), rows, place)
            return texts
    except (KeyError, zlib.error, ArithmeticError) as error:
        raise InputError(f"{place} is missing or damaged ({error})") from error
    _require_rows(len(values), rows, place)
    return values if leaf.per_step else values[0]


def _nested(leaf: Leaf, example: Example, steps: int, place: str, width: int | None) -> Array | list[bytes]:
    """A sequence in the steps, or one for the whole episode."""
    name = f"{leaf.name}/ragged_flat_values"
    if name not in example:  # all rows have one length: stored as they are
        if leaf.kind != TENSOR:
            return _bytes(example, leaf.name, place)
        flat = _rows(_numbers(example, leaf, leaf.name, place), None, leaf.shape, place)
        if not leaf.per_step:
            return flat
        if leaf.levels > 2 or len(flat) % steps:
            raise InputError(f"{place} has {len(flat)} values in {steps} steps, and no lengths of their rows")
        return flat.reshape(steps, len(flat) // steps, *flat.shape[1:])
    flat = _rows(_numbers(example, leaf, name, place), None, leaf.shape, place)
    sizes = []
    for level in range(leaf.levels - 1):
        lengths = row_lengths(leaf, example, level)
        if lengths is None:
            raise InputError(f"{place} lacks the lengths of its rows: copy the file again")
        if level == 0:
            _require_rows(len(lengths), steps, place)
            if width is not None and leaf.levels == 2:
                return _padded(flat, lengths, width, place)
        if len(lengths) and (lengths != lengths[0]).any():
            raise InputError(f"{place} has rows of {lengths.min()} to {lengths.max()} values: they make no array")
        sizes.append(int(lengths[0]) if len(lengths) else 0)
    shape = (steps, *sizes)
    if math.prod(shape) != len(flat):
        raise InputError(f"{place} has {len(flat)} values, its row lengths say {math.prod(shape)}")
    return flat.reshape(*shape, *flat.shape[1:])


def _padded(flat: Array, lengths: Array, width: int, place: str) -> Array:
    """Rows one after the other as (steps, width, *), with zeros behind each."""
    if int(lengths.max()) > width or sum(lengths.tolist()) != len(flat):
        raise InputError(f"{place} has {len(flat)} values, its row lengths say {sum(lengths.tolist())}")
    rows = np.zeros((len(lengths), width, *flat.shape[1:]), flat.dtype)
    rows[np.arange(width) < lengths[:, None]] = flat
    return rows


def _numbers(example: Example, leaf: Leaf, name: str, place: str) -> Array:
    value: Feature = example[name]
    dtype = TYPES[leaf.dtype]
    if isinstance(value, list):
        if value:
            raise InputError(f"{place} holds bytes, features.json declares {leaf.dtype}")
        return np.empty(0, dtype)
    if value.dtype.kind != ("f" if dtype.kind == "f" else "i") and len(value):
        raise InputError(f"{place} holds {value.dtype}, features.json declares {leaf.dtype}")
    if dtype.kind in "iu" and dtype.itemsize < 8 and len(value):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if value.min() < low or value.max() > high:
            raise InputError(f"{place} holds {value.min()} to {value.max()}, features.json declares {leaf.dtype}")
    return value.astype(dtype, copy=False)


def _bytes(example: Example, name: str, place: str) -> list[bytes]:
    value = example[name]
    if not isinstance(value, list):
        raise InputError(f"{place} holds {value.dtype}, features.json declares text, an image or encoded numbers")
    return value


def _rows(flat: Array, rows: int | None, shape: tuple[int | None, ...], place: str) -> Array:
    """Values one after the other as (rows, *shape); a size that is not known follows from the others."""
    known = math.prod(size for size in shape if size is not None)
    unknown = sum(size is None for size in shape) + (rows is None)
    filled = known * (1 if rows is None else rows)
    if unknown > 1 or known == 0 or len(flat) % max(filled, 1) or (unknown == 0 and len(flat) != filled):
        raise InputError(
            f"{place} has {len(flat)} numbers, expected {'a multiple of ' if unknown else ''}{filled}: "
            f"{'' if rows is None else f'{rows} of '}shape {tuple('?' if size is None else size for size in shape)}"
        )
    rest = len(flat) // max(filled, 1)
    sizes = [rest if size is None else size for size in shape]
    return flat.reshape(rest if rows is None else rows, *sizes)


def _encoded(leaf: Leaf, values: list[bytes], shapes: Array | None, place: str) -> Array:
    """Tensors as bytes, or compressed, each on its own. Shapes: (N, *)."""
    dtype = ENCODED_TYPES[leaf.dtype]
    arrays = []
    for number, value in enumerate(values):
        shape = leaf.shape if shapes is None else tuple(shapes[number].tolist())
        if leaf.encoding == "zlib":
            value = _inflate(value, leaf, shape, place)
        if leaf.dtype == "bfloat16":
            array = (np.frombuffer(value, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif len(value) % dtype.itemsize:
            raise InputError(f"{place} has {len(value)} bytes, no whole number of {leaf.dtype}")
        else:
            array = np.frombuffer(value, dtype.newbyteorder("<")).astype(TYPES[leaf.dtype], copy=False)
        arrays.append(_rows(array, 1, shape, place)[0])
    if len({array.shape for array in arrays}) > 1:
        raise InputError(f"{place} has values of different shapes in one episode: they make no array")
    return np.stack(arrays) if arrays else np.empty((0,), TYPES[leaf.dtype])


def _inflate(value: bytes, leaf: Leaf, shape: tuple[int | None, ...], place: str) -> bytes:
    """Compressed bytes, no more of them than the declared shape has; without one, than zlib can make of honest data."""
    known = None if None in shape else math.prod(size for size in shape if size is not None)
    limit = 1024 * len(value) if known is None else min(known * ENCODED_TYPES[leaf.dtype].itemsize, LARGEST_TENSOR)
    decompressor = zlib.decompressobj()
    content = decompressor.decompress(value, limit + 1)
    if len(content) > limit or not decompressor.eof:
        raise InputError(f"{place} is damaged: it has more or fewer bytes than its shape {shape}")
    return content


def _stored_shapes(leaf: Leaf, example: Example) -> Array:
    shapes = example[f"{leaf.name}/shape"]
    if isinstance(shapes, list) or len(shapes) % len(leaf.shape) or (len(shapes) and shapes.min() < 0):
        raise InputError(f"feature '{leaf.name}/shape' is damaged")
    return shapes.reshape(-1, len(leaf.shape))


def _require_rows(found: int, rows: int, place: str) -> None:
    if found != rows:
        raise InputError(f"{place} has {found} values, the episode has {rows} steps")


def decode_depth(images: list[bytes], dtype: str, place: str) -> Array:
    """PNG images of one channel with more than 8 bits: uint16, or float32 that is stored as four 8-bit channels.

    Shapes: N images -> (N, H, W).

    Raises:
        InputError: one of them is damaged, or they differ in size.
    """
    rows = []
    for number, data in enumerate(images):
        sides = (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
        if data[:8] != PNG_SIGNATURE or not 0 < min(sides) <= max(sides) <= LARGEST_SIDE:
            raise InputError(f"{place}, image {number} is no PNG of up to {LARGEST_SIDE} pixels a side")
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise InputError(f"{place}, image {number} cannot be decoded ({error})") from error
        if image is not None and dtype == "float32" and image.dtype == np.uint8 and image.shape[2:] == (4,):
            image = np.ascontiguousarray(image[:, :, [2, 1, 0, 3]]).view("<f4")[:, :, 0]  # OpenCV swaps red and blue
        if image is None or str(image.dtype) != dtype or image.ndim != 2:
            raise InputError(f"{place}, image {number} has no single channel of {dtype}")
        rows.append(image)
    if len({row.shape for row in rows}) > 1:
        raise InputError(f"{place}: the images differ in size")
    return np.stack(rows)
