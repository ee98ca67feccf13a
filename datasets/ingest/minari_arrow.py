"""Minari's Arrow and Parquet storage: a folder for each episode, with a table of T + 1 rows and a `metadata.json`.

What exists once a step (actions, rewards, ends) has a filler in the last row. Dict and Tuple spaces are structs, boxes
are flat lists of one length, images that the space declares are JPEG.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from robot_rl.datasets.frames import EncodedFrames, as_array
from robot_rl.datasets.ingest.arrow import ParquetFile, clear_arrow_errors, numbers, read_arrow
from robot_rl.datasets.ingest.minari_spaces import LARGEST_NESTING, Leaf, parsed
from robot_rl.errors import InputError, nearest
from robot_rl.types import Array

METADATA_FILE = "metadata.json"
TUPLE = "_index_"
FORMATS = ("arrow", "parquet")


class ArrowEpisodes:
    """The episodes of a folder, by number; the last one stays open.

    Raises:
        InputError: from every method, where a file is damaged or lacks something.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind
        names = [path.name for path in folder.iterdir() if path.is_dir()]
        self.numbers = sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)
        self._resources = ExitStack()
        self._opened: tuple[int, list[ParquetFile | pa.Table]] | None = None
        self._kept: dict[str, pa.Array] = {}

    def close(self) -> None:
        """Free the files."""
        self._resources.close()
        self._opened = None
        self._kept = {}

    def files(self) -> list[Path]:
        """What is read."""
        return [file for number in self.numbers for file in sorted(self._of(number).iterdir()) if file.is_file()]

    def place(self, number: int) -> str:
        """An episode, in words."""
        return f"{self.folder}: episode {number}"

    def metadata(self) -> dict[str, Any]:
        """Nothing: all is in the metadata of the data set."""
        return {}

    def about(self, number: int) -> dict[str, Any]:
        """What an episode says about itself: id, total_steps, seed, options."""
        file = self._of(number) / METADATA_FILE
        return parsed(file.read_bytes(), str(file)) if file.is_file() else {}

    def flat(self, number: int, name: str) -> Array:
        """Rewards, terminations or truncations. Shapes: (T,)."""
        return numbers(self._column(number, name), self._name(number, (name,))).reshape(-1)[:-1]

    def rows(self, number: int, root: str, leaf: Leaf) -> Array:
        """The rows of a numeric leaf; images are Frames. Shapes: (N, *)."""
        name, array = self._leaf(number, root, leaf)
        if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
            with clear_arrow_errors(Path(name)):
                return as_array(EncodedFrames.of([value or b"" for value in array.to_pylist()], name))
        rows = numbers(array, name)
        if leaf.shape is not None and rows.ndim == 2 and rows.shape[1] == int(np.prod(leaf.shape)):
            rows = rows.reshape(len(rows), *leaf.shape)
        return rows[:-1] if root == "actions" else rows

    def texts(self, number: int, root: str, leaf: Leaf) -> list[str]:
        """The rows of a text."""
        name, array = self._leaf(number, root, leaf)
        if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
            raise InputError(f"{name} holds {array.type}, expected text")
        with clear_arrow_errors(Path(name)):
            return ["" if value is None else str(value) for value in array.to_pylist()]

    def infos(self, number: int) -> tuple[dict[str, Array], list[str]]:
        """Numeric arrays below `infos` by name, nested names joined with `/`, and the names of the others."""
        found: dict[str, Array] = {}
        others: list[str] = []
        if "infos" in self._names(number):
            _infos(self._column(number, "infos"), "", self._name(number, ("infos",)), found, others)
        return found, others

    def info_names(self, number: int) -> set[str]:
        """Of the numeric arrays below `infos`."""
        return set(self.infos(number)[0])

    def leaves(self, number: int, root: str) -> list[Leaf]:
        """Refused: the rows are flat, so that a space must say what they mean."""
        raise InputError(f"{self.place(number)}: the space of the {root} is missing in {METADATA_FILE} of the data set")

    def _of(self, number: int) -> Path:
        return self.folder / str(number)

    def _name(self, number: int, parts: tuple[str, ...]) -> str:
        return f"{self.place(number)}, {'/'.join(parts)}"

    def _tables(self, number: int) -> list[ParquetFile | pa.Table]:
        if self._opened is None or self._opened[0] != number:
            self.close()
            files = sorted(file for file in self._of(number).iterdir() if file.suffix == f".{self.kind}")
            if not files:
                raise InputError(f"{self.place(number)} has no .{self.kind} file: check that the copy is complete")
            tables: list[ParquetFile | pa.Table] = []
            for file in files:
                table = ParquetFile(file) if self.kind == "parquet" else read_arrow(file)
                if isinstance(table, ParquetFile):
                    self._resources.callback(table.close)
                tables.append(table)
            self._opened = (number, tables)
        return self._opened[1]

    def _names(self, number: int) -> list[str]:
        table = self._tables(number)[0]
        return table.names if isinstance(table, ParquetFile) else list(table.column_names)

    def _column(self, number: int, name: str) -> pa.Array:
        """All rows of a column, in one piece."""
        tables = self._tables(number)
        if name not in self._names(number):
            raise InputError(f"{self.place(number)}: there is no column '{name}'; {nearest(name, self._names(number))}")
        if name not in self._kept:
            with clear_arrow_errors(self._of(number)):
                parts = [t.columns([name]).column(0) if isinstance(t, ParquetFile) else t.column(name) for t in tables]
                chunks = [chunk for part in parts for chunk in part.chunks]
                self._kept[name] = pa.concat_arrays(chunks) if chunks else pa.array([], parts[0].type)
        return self._kept[name]

    def _leaf(self, number: int, root: str, leaf: Leaf) -> tuple[str, pa.Array]:
        name = self._name(number, (root, *leaf.parts))
        array = self._column(number, root)
        with clear_arrow_errors(self._of(number)):
            for part in leaf.parts:
                if not pa.types.is_struct(array.type):
                    raise InputError(f"{name} is no part of a struct, but of {array.type!s:.80}")
                fields = [array.type.field(i).name for i in range(array.type.num_fields)]
                wanted = part if part in fields else part.removeprefix(TUPLE)
                if fields.count(wanted) != 1:
                    raise InputError(f"{name}: there is no '{wanted}'; {nearest(wanted, fields)}")
                array = array.field(fields.index(wanted))
        return name, array


def _infos(array: pa.Array, above: str, place: str, found: dict[str, Array], others: list[str]) -> None:
    """Sort the fields of a struct, and of those below it, into arrays and names."""
    with clear_arrow_errors(Path(place)):
        if not pa.types.is_struct(array.type) or above.count("/") > LARGEST_NESTING:
            raise InputError(f"{place} is no struct, but {array.type!s:.80}")
        for number in range(array.type.num_fields):
            field, inner = array.type.field(number), array.field(number)
            key = f"{above}{field.name}"
            if pa.types.is_struct(field.type):
                _infos(inner, f"{key}/", place, found, others)
                continue
            element = field.type.value_type if pa.types.is_fixed_size_list(field.type) else field.type
            numeric = pa.types.is_integer(element) or pa.types.is_floating(element) or pa.types.is_boolean(element)
            if not numeric or inner.null_count:
                others.append(key)
                continue
            rows = numbers(inner, f"{place}/{key}")
            shape = (field.metadata or {}).get(b"shape")
            if shape is not None:  # of a row, which the list holds flat
                rows = rows.reshape(len(rows), *(int(size) for size in shape.split(b",") if size))
            found[key] = rows
