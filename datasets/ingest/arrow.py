"""Reading Parquet and Arrow files with errors that name the file, the column and the remedy."""

import contextlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robot_rl.errors import InputError, nearest
from robot_rl.types import Array

MAGIC = b"PAR1"
SMALLEST_PARQUET = 12  # bytes: the magic number twice and the length of the footer
ROWS_OF_A_BYTE = 100
"""A file that claims more rows than this for each of its bytes is damaged: even a counter that packs into nothing has
pages with headers."""
SPARE_ROWS = 1_000_000
LARGEST_TABLE = 4 << 30  # bytes that a row group or a record batch may decode to
KEPT_GROUPS = 2  # decoded row groups that stay in memory


@contextlib.contextmanager
def clear_arrow_errors(path: Path) -> Iterator[None]:
    """Damage shows as an ArrowException, OSError or one of Python's own errors deep in the library.

    Raises:
        InputError: in place of them.
    """
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, OverflowError, MemoryError) as error:
        text = re.sub(r"\s+", " ", str(error)) or type(error).__name__
        raise InputError(f"{path} is truncated or damaged ({text}): copy it again from its source") from error


def is_parquet(path: Path) -> bool:
    """By the magic number at its start, so also for one whose writer died before the footer."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def has_footer(path: Path) -> bool:
    """Whether the magic number stands at the end too, which the writer puts there when it closes the file."""
    size = path.stat().st_size
    if size < SMALLEST_PARQUET:
        return False
    with path.open("rb") as file:
        file.seek(size - len(MAGIC))
        return file.read() == MAGIC


class ParquetFile:
    """One Parquet file, its columns read by name and its rows by number; the last row groups stay decoded.

    Raises:
        InputError: from the constructor, where the file is damaged or its claims cannot be true.
    """

    def __init__(self, path: Path, source: Any = None) -> None:
        self.path = path
        self._kept: OrderedDict[tuple[int, tuple[str, ...]], pa.Table] = OrderedDict()
        if source is None:
            with clear_arrow_errors(path):
                if not is_parquet(path):
                    raise InputError(f"{path} is no Parquet file: copy it again from its source")
                if not has_footer(path):
                    raise InputError(
                        f"{path} has no footer: its writer was stopped before it closed it, or the copy is cut off"
                    )
        with clear_arrow_errors(path):
            size = path.stat().st_size
            limit = max(size, 1 << 20)
            self._file = pq.ParquetFile(
                path if source is None else source,
                memory_map=False,
                pre_buffer=False,
                thrift_string_size_limit=limit,
                thrift_container_size_limit=limit,
            )
            self.schema: pa.Schema = self._file.schema_arrow
            groups = [self._file.metadata.row_group(i) for i in range(self._file.num_row_groups)]
            lengths = np.asarray([group.num_rows for group in groups], np.int64)
            sizes = [group.total_byte_size for group in groups]
        if (lengths < 0).any() or lengths.sum() > ROWS_OF_A_BYTE * size + SPARE_ROWS:
            raise InputError(f"{path} claims {lengths.sum()} rows in {size} bytes: it is damaged, copy it again")
        if sizes and not 0 <= max(sizes) <= LARGEST_TABLE:
            raise InputError(f"{path} has a row group of {max(sizes)} bytes: it is damaged, or beyond what can be read")
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def names(self) -> list[str]:
        """Columns, in the order of the file."""
        return list(self.schema.names)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """All rows of some columns.

        Raises:
            InputError: a column is missing or damaged.
        """
        self._require(names)
        with clear_arrow_errors(self.path):
            table = self._file.read(columns=list(names), use_threads=False)
        return self._of_length(table, len(self))

    def rows(self, start: int, stop: int, names: Sequence[str]) -> pa.Table:
        """Rows [start, stop) of some columns; reads only the row groups they lie in.

        Raises:
            InputError: a column is missing or damaged.
        """
        self._require(names)
        first, last = int(np.searchsorted(self._ends, start, "right")), int(np.searchsorted(self._ends, stop, "left"))
        tables = [self._group(number, tuple(names)) for number in range(first, last + 1)]
        offset = start - (int(self._ends[first - 1]) if first else 0)
        with clear_arrow_errors(self.path):
            return pa.concat_tables(tables).slice(offset, stop - start)

    def close(self) -> None:
        """Free the file."""
        self._kept.clear()
        self._file.close(force=True)

    def _group(self, number: int, names: tuple[str, ...]) -> pa.Table:
        key = (number, names)
        if key not in self._kept:
            with clear_arrow_errors(self.path):
                table = self._file.read_row_group(number, columns=list(names), use_threads=False)
            length = int(self._ends[number]) - (int(self._ends[number - 1]) if number else 0)
            self._kept[key] = self._of_length(table, length)
            while len(self._kept) > KEPT_GROUPS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _of_length(self, table: pa.Table, length: int) -> pa.Table:
        if table.num_columns and len(table) != length:
            raise InputError(f"{self.path} has {len(table)} rows where its footer says {length}: it is damaged")
        return table

    def _require(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.schema.names:
                raise InputError(f"{self.path}: there is no column '{name}'; {nearest(name, self.schema.names)}")


def read_arrow(path: Path) -> pa.Table:
    """All of an Arrow IPC file or stream, through a memory map, with every offset checked.

    Raises:
        InputError: it is neither, or damaged.
    """
    with clear_arrow_errors(path):
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty: copy it again from its source")
        with pa.memory_map(str(path)) as source:
            try:
                with pa.ipc.open_stream(source) as reader:
                    table = reader.read_all()
            except pa.ArrowInvalid:
                source.seek(0)
                with pa.ipc.open_file(source) as reader:
                    table = reader.read_all()
        table.validate(full=True)  # IPC hands the bytes over as they are: an offset may point anywhere
    return table


def numbers(column: pa.ChunkedArray, place: str) -> Array:
    """A column of numbers, or of lists of numbers that are all of one length. Shapes: (N,) or (N, *).

    Raises:
        InputError: it has gaps, lists of several lengths, or holds something else than numbers.
    """
    with clear_arrow_errors(Path(place)):
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(array, pa.ChunkedArray):  # pyarrow leaves one without chunks as it is
            array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
        shape = [len(array)]
        while _is_list(array.type):
            _require_whole(array, place)
            lengths = np.unique(pc.list_value_length(array).to_numpy(zero_copy_only=False))
            if len(lengths) > 1:
                raise InputError(f"{place} has rows of {lengths[:3].tolist()} numbers: they must all have as many")
            shape.append(int(lengths[0]) if len(lengths) else max(0, getattr(array.type, "list_size", 0)))
            array = array.flatten()
        if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type)):
            raise InputError(f"{place} holds {array.type}, expected numbers")
        _require_whole(array, place)
        return np.asarray(array.to_numpy(zero_copy_only=False)).reshape(shape)


def texts(column: pa.ChunkedArray, place: str) -> list[str]:
    """A column of text.

    Raises:
        InputError: it holds something else.
    """
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InputError(f"{place} holds {column.type}, expected text")
    with clear_arrow_errors(Path(place)):
        return [value if value is not None else "" for value in column.to_pylist()]


def _is_list(type: pa.DataType) -> bool:
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type))


def _require_whole(array: pa.Array, place: str) -> None:
    if array.null_count:
        row = int(np.flatnonzero(np.asarray(array.is_null().to_numpy(zero_copy_only=False)))[0])
        raise InputError(f"{place} has {array.null_count} gaps, the first at {row}: repair the recording")
