"""Tables in files: CSV, Parquet, and NumPy's .npz, as they lie beside videos."""

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from robot_rl.datasets.ingest.arrow import ParquetFile, clear_arrow_errors, is_parquet
from robot_rl.datasets.ingest.base import TableOptions
from robot_rl.datasets.ingest.csv_text import read_csv
from robot_rl.datasets.ingest.table import Table
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError
from robot_rl.types import Array

npy: Any = np.lib.format  # its functions have no types
LARGEST_NPZ = 8 << 30  # bytes, unpacked
LARGEST_RATIO = 1100  # of deflate, about 1032 at most


def read_table(path: Path, options: TableOptions) -> Table:
    """A table, by its content.

    Raises:
        InputError: there is no file, or it is damaged, or no table.
    """
    if not path.is_file():
        raise InputError(f"there is no table at {path}: check side_file")
    if is_parquet(path):
        return _read_parquet(path)
    return _read_npz(path) if zipfile.is_zipfile(path) or path.suffix == ".npz" else read_csv(path, options)


def _read_npz(path: Path) -> Table:
    """Arrays by name. Those without rows of their own, such as a rate, are attributes."""
    table = Table(path=path, named=True)
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {
                item.filename.removesuffix(".npy"): _read_npy(archive, item, path)
                for item in archive.infolist()
                if item.filename.endswith(".npy")
            }
    except (
        zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, KeyError, NotImplementedError,
        RuntimeError, MemoryError, SyntaxError, TypeError,
    ) as error:  # fmt: skip
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({error}): it is damaged, or no .npz file") from error
    lengths = {name: len(array) for name, array in arrays.items() if array.ndim}
    rows = max(lengths.values(), default=0)
    for name, array in arrays.items():
        if array.ndim == 0 or (len(array) == 1 and rows > 1):
            table.attributes[name] = array.reshape(-1)[0].item()
        elif len(array) != rows:
            raise InputError(
                f"{path}: its arrays have different numbers of rows: {lengths}. Keep those with a row for each frame"
            )
        elif array.dtype.kind in "US":
            table.texts[name] = [str(text) for text in array.reshape(rows, -1)[:, 0].tolist()]
        else:
            table.columns[name] = array
    if not table.columns:
        raise InputError(f"{path} has no array of numbers with rows")
    return table


def _read_npy(archive: zipfile.ZipFile, item: zipfile.ZipInfo, path: Path) -> Array:
    place = f"{path}: array '{item.filename.removesuffix('.npy')}'"
    if item.file_size > min(LARGEST_NPZ, LARGEST_RATIO * max(item.compress_size, 1)):
        raise InputError(f"{place} claims {item.file_size} bytes in {item.compress_size}: the file is damaged")
    with archive.open(item) as file:
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(file)
        if dtype.hasobject or dtype.kind not in "biufUS":
            raise InputError(f"{place} holds {dtype}, expected numbers: save it without Python objects")
        if min(shape, default=0) < 0 or int(np.prod(shape, dtype=object)) * dtype.itemsize > item.file_size:
            raise InputError(f"{place} claims shape {shape}, more than its bytes hold: the file is damaged")
    with archive.open(item) as file:
        return np.asarray(npy.read_array(file, allow_pickle=False))


def _read_parquet(path: Path) -> Table:
    """Columns of numbers and of texts; lists of numbers that are all as long become (N, *)."""
    file = ParquetFile(path)
    table = Table(path=path)
    with clear_arrow_errors(path):
        found = file.columns(file.names)
        for name in file.names:
            column = found.column(name)
            kind = column.type
            if pa.types.is_string(kind) or pa.types.is_large_string(kind):
                table.texts[name] = ["" if text is None else str(text) for text in column.to_pylist()]
            else:
                array = _parquet_numbers(column, kind)
                if array is None:
                    text = f"column '{name}' holds {kind}, which is no number, and is left out"
                    table.findings.append(Finding(severity="information", place=path.name, text=text))
                else:
                    table.columns[name] = array
    file.close()
    table.named = any(array.ndim > 1 for array in table.columns.values())
    return table


def _parquet_numbers(column: Any, kind: Any) -> Array | None:
    if pa.types.is_timestamp(kind):
        seconds = column.cast(pa.timestamp("ns")).cast(pa.int64()).to_numpy().astype(np.float64) / 1e9
        return np.asarray(seconds)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        rows = column.to_pylist()
        lengths = {-1 if row is None else len(row) for row in rows}
        if len(lengths) != 1 or -1 in lengths:
            return None
        array = np.asarray(rows)
        return array if array.dtype.kind in "biuf" else None
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        array = column.to_numpy()
        return np.asarray(array, np.float64) if array.dtype == object else np.asarray(array)
    return None
