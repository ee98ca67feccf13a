"""Gymnasium's spaces as Minari writes them: JSON that nests, flattened to arrays with a key each."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_rl.datasets.ingest.base import FLAT_KEY
from robot_rl.datasets.schema import array_names
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec
from robot_rl.types import Array

IMAGE_KEY = "image"
"""Observation key of a source whose whole observation is one image."""
SMALLEST_IMAGE = 32  # pixels a side: Minari's own rule, below which a grid of bytes means symbols
LARGEST_NESTING = 32
LARGEST_ROW = 1 << 28  # numbers of one step; a damaged shape asks for more
INTEGERS = ("Discrete", "MultiDiscrete", "MultiBinary")


@dataclass(frozen=True, kw_only=True, eq=False)
class Leaf:
    """One array or text of a space."""

    parts: tuple[str, ...]  # the names of the groups down to it; () where the space is this leaf
    kind: str  # Box | Discrete | MultiDiscrete | MultiBinary | Text
    shape: tuple[int, ...] | None = None  # of a row; None where it is not declared
    dtype: str | None = None
    low: Array | None = None  # (*shape), where all are finite
    high: Array | None = None

    @property
    def key(self) -> str:
        """Of the observation: nested names joined with `/`."""
        return "/".join(self.parts) or (IMAGE_KEY if self.is_image else FLAT_KEY)

    @property
    def is_image(self) -> bool:
        """Whether Minari stores it as an image, by the declaration: bytes of 0 to 255, (H, W) or (H, W, C)."""
        if self.kind != "Box" or self.dtype != "uint8" or self.shape is None or len(self.shape) not in (2, 3):
            return False
        full = self.low is not None and self.high is not None and not self.low.any() and bool((self.high == 255).all())
        return full and min(self.shape[:2]) >= SMALLEST_IMAGE and (len(self.shape) == 2 or self.shape[2] in (1, 3))

    def spec(self, rows: Array) -> ArraySpec:
        """Of rows (N, *) of this leaf; bounds only where they are declared, and of numbers."""
        shape = tuple(rows.shape[1:])
        if self.low is None or self.low.shape != shape or self.is_image:
            return ArraySpec(shape=shape, dtype=str(rows.dtype))
        return ArraySpec(shape=shape, dtype=str(rows.dtype), low=self.low, high=self.high)


def parsed(text: Any, place: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: it is none.
    """
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON ({error}): copy the file again from its source") from error
    if not isinstance(value, dict):
        raise InputError(f"{place} is not a JSON object")
    return value


def space_leaves(text: Any, place: str) -> list[Leaf]:
    """The leaves of a serialised space, in its order.

    Raises:
        InputError: it is none, of a kind that is not known, or two leaves have one key.
    """
    try:
        space = json.loads(text) if isinstance(text, str | bytes) else text
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is no JSON ({error}): copy the file again from its source") from error
    found = list(_leaves(space, (), place))
    keys = [leaf.key for leaf in found]
    if len(set(keys)) < len(keys):
        raise InputError(f"{place} has several parts of one name: {', '.join(sorted(keys)[:12])}")
    try:
        array_names(keys)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    return found


def _leaves(space: Any, parts: tuple[str, ...], place: str) -> Iterator[Leaf]:
    where = f"{place}, '{'/'.join(parts)}'" if parts else place
    if not isinstance(space, Mapping) or not isinstance(space.get("type"), str):
        raise InputError(f"{where} is no space with a type, but {str(space)[:80]!r}")
    if len(parts) > LARGEST_NESTING:
        raise InputError(f"{place} is nested more than {LARGEST_NESTING} deep: it is damaged")
    match space["type"], space.get("subspaces"):
        case "Dict", dict() as subspaces:
            for name, inner in subspaces.items():
                yield from _leaves(inner, (*parts, name), place)
        case "Tuple", list() as subspaces:
            for number, inner in enumerate(subspaces):
                yield from _leaves(inner, (*parts, f"_index_{number}"), place)
        case "Text", _:
            yield Leaf(parts=parts, kind="Text")
        case ("Box" | "Discrete" | "MultiDiscrete" | "MultiBinary") as kind, _:
            try:
                yield _numeric(space, kind, parts)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise InputError(f"{where} is a {kind} whose declaration is damaged ({error!r})") from error
        case kind, _:
            raise InputError(
                f"{where} is a space of type '{kind}', which cannot be read. Known: Box, Dict, Discrete, MultiBinary, "
                "MultiDiscrete, Text, Tuple"
            )


def _numeric(space: Mapping[str, Any], kind: str, parts: tuple[str, ...]) -> Leaf:
    """Raises KeyError, TypeError or ValueError where the declaration is damaged."""
    match kind:
        case "Box":
            shape = tuple(_size(size) for size in space["shape"])
            low, high, dtype = _bound(space["low"], shape), _bound(space["high"], shape), str(np.dtype(space["dtype"]))
        case "Discrete":
            shape, dtype, start, count = (1,), "int64", int(space.get("start", 0)), int(space["n"])
            low, high = np.asarray([start], np.float64), np.asarray([start + count - 1], np.float64)
        case "MultiDiscrete":
            sizes = np.asarray(space["nvec"], np.float64)
            shape, dtype = sizes.shape, str(np.dtype(space.get("dtype", "int64")))
            low = np.broadcast_to(np.asarray(space.get("start", 0), np.float64), shape)
            high = low + sizes - 1
        case _:
            count = space["n"]
            shape = tuple(_size(size) for size in count) if isinstance(count, list) else (_size(count),)
            if int(np.prod(shape, dtype=object)) > LARGEST_ROW:
                raise ValueError(f"shape {shape} is too large")
            dtype, low, high = "int8", np.zeros(shape), np.ones(shape)
    finite = low is not None and high is not None and bool(np.isfinite(low).all() and np.isfinite(high).all())
    return Leaf(
        parts=parts, kind=kind, shape=shape, dtype=dtype, low=low if finite else None, high=high if finite else None
    )


def _size(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= LARGEST_ROW:
        raise ValueError(f"{value!r} is no size")
    return value


def _bound(values: Any, shape: tuple[int, ...]) -> Array:
    if int(np.prod(shape, dtype=object)) > LARGEST_ROW:
        raise ValueError(f"shape {shape} is too large")
    array = np.asarray(values, np.float64)
    if array.shape not in ((), shape):
        raise ValueError(f"bounds have shape {array.shape}, the space {shape}")
    return np.broadcast_to(array, shape)
