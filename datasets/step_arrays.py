"""The arrays of a store that are read into memory: all but images. Compressed zarr, one row per observation."""

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from robot_rl.datasets.schema import SUCCESS_UNKNOWN, array_names, key_of_name, narrowed
from robot_rl.datasets.store_files import chunk_files, clear_store_errors
from robot_rl.errors import InputError
from robot_rl.types import Array, Episode

CHUNK_BYTES = 1 << 20
WIDE_CHUNK_BYTES = 4 << 20
WIDE_ROW_BYTES = 1 << 14
"""Rows from this size on, such as depth images, are read by episode; narrower ones for many episodes at once."""
READ_BYTES = 64 << 20  # of narrow rows that are in memory at once


class StepArrays:
    """Those under `steps/`, by key. They are made by the first episode that is committed."""

    def __init__(self, store: Path, group: zarr.Group, images: Collection[str], *, committed: bool) -> None:
        """Those that are there, without the images, which are given by key.

        Args:
            store: its folder.
            group: at its root.
            images: left out, by key.
            committed: there are episodes; else what there is was left by a crash, and nothing is looked at.
        """
        self.store = store
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {}
        if committed:
            steps = group["steps"]
            assert isinstance(steps, zarr.Group)
            left_out = {f"observation/{key}" for key in images}
            found = {key_of_name(name): member for name, member in steps.members(max_depth=None)}
            self._arrays = {
                key: array for key, array in found.items() if isinstance(array, zarr.Array) and key not in left_out
            }

    @property
    def whole(self) -> set[str]:
        """Keys of the arrays whose last row of an episode is real, as that of an observation is."""
        return {key for key, array in self._arrays.items() if array.attrs.get("rows") == "states"}

    @property
    def folders(self) -> list[Path]:
        """Of the arrays."""
        return [self.store / array.path for array in self._arrays.values()]

    def create(self, episode: Episode, rows: Mapping[str, Array]) -> None:
        """Make the arrays that this episode needs, in place of what a crash left; it fixes their data types.

        Raises:
            InputError: a key cannot be the name of an array.
        """
        shutil.rmtree(self.store / "steps", ignore_errors=True)
        self._arrays = {}
        for key, name in array_names(rows).items():
            values = rows[key]
            shape = values.shape[1:]
            row_bytes = max(1, values.dtype.itemsize * int(np.prod(shape)))
            chunk_bytes = CHUNK_BYTES if row_bytes < WIDE_ROW_BYTES else WIDE_CHUNK_BYTES
            array = self._group.create_array(
                f"steps/{name}",
                shape=(0, *shape),
                chunks=(max(1, chunk_bytes // row_bytes), *(max(1, size) for size in shape)),
                dtype=values.dtype,
                fill_value=SUCCESS_UNKNOWN if key == "success" else 0,
                compressors=[ZstdCodec(level=1)],
                overwrite=True,
            )
            extra = episode.extras.get(key.removeprefix("extras/")) if key.startswith("extras/") else None
            states = key.startswith("observation/") or (extra is not None and len(extra) == len(episode) + 1)
            array.attrs["rows"] = "states" if states else "steps"
            self._arrays[key] = array

    def fitting(self, episode: Episode, rows: Mapping[str, Array], place: str) -> dict[str, Array]:
        """The rows of an episode in the data types of the arrays.

        Raises:
            InputError: its arrays are others; names the place.
        """
        if set(self._arrays) != set(rows):
            missing, unknown = sorted(set(self._arrays) - set(rows)), sorted(set(rows) - set(self._arrays))
            raise InputError(f"{place} does not have the arrays of the store: missing {missing}, unknown {unknown}")
        for key, array in self._arrays.items():
            found = rows[key]
            if array.shape[1:] != found.shape[1:]:
                raise InputError(f"{place}: {key} has shape {found.shape[1:]} a step, the store has {array.shape[1:]}")
            if not np.can_cast(found.dtype, array.dtype, casting="same_kind"):
                raise InputError(f"{place}: {key} has data type {found.dtype}, the store has {array.dtype}")
        whole = self.whole
        for key, values in episode.extras.items():
            steps = len(episode)
            wanted = steps + 1 if f"extras/{key}" in whole else steps
            if len(values) != wanted:
                raise InputError(
                    f"{place}: extra '{key}' has {len(values)} rows for {steps} steps; in this store it has {wanted} "
                    "for as many: give it the same in all episodes"
                )
        return {key: narrowed(values, self._arrays[key].dtype, f"{place}: {key}") for key, values in rows.items()}

    def write(self, blocks: Sequence[Mapping[str, Array]], start: int) -> set[Path]:
        """Put episodes, one behind another, at row `start`; returns the files that were written."""
        stop = start + sum(len(block["action"]) for block in blocks)
        for key, array in self._arrays.items():
            array.resize((stop, *array.shape[1:]))
            array[start:stop] = np.concatenate([block[key] for block in blocks])
        return chunk_files(self.store, self._arrays.values(), start, stop)

    def read(self, spans: Sequence[tuple[int, int]], leave_out: Collection[str] = ()) -> Iterator[dict[str, Array]]:
        """The rows of each span [start, stop), in this order, by key.

        Each array is read once for as many spans that follow one another as READ_BYTES hold.

        Raises:
            InputError: an array is too short.
        """
        arrays = {key: array for key, array in self._arrays.items() if key not in leave_out}
        needed = max(stop for _, stop in spans)
        for key, array in arrays.items():
            if array.shape[0] < needed:
                raise InputError(
                    f"{self.store}: steps/{key} has {array.shape[0]} rows, but {needed} are committed: the store is "
                    "damaged. Restore it from a copy, or ingest the source again with overwrite=true"
                )
        narrow = {key: array for key, array in arrays.items() if _row_bytes(array) < WIDE_ROW_BYTES}
        most = READ_BYTES // max(1, sum(_row_bytes(array) for array in narrow.values()))
        first, last = 0, 0
        bulk: dict[str, Array] = {}
        for number, (start, stop) in enumerate(spans):
            if not first <= start < stop <= last:
                first, last = start, stop
                for following in spans[number + 1 :]:
                    if following[0] < last or following[1] - first > most:
                        break
                    last = following[1]
                bulk = self._slices(narrow, first, last)
            rows = {key: values[start - first : stop - first] for key, values in bulk.items()}
            wide = {key: array for key, array in arrays.items() if key not in narrow}
            yield rows | self._slices(wide, start, stop)

    def _slices(self, arrays: Mapping[str, zarr.Array[Any]], start: int, stop: int) -> dict[str, Array]:
        found = {}
        for key, array in arrays.items():
            with clear_store_errors(self.store / array.path):
                found[key] = np.asarray(array[start:stop])
        return found


def _row_bytes(array: zarr.Array[Any]) -> int:
    return int(array.dtype.itemsize * np.prod(array.shape[1:], dtype=np.int64))
