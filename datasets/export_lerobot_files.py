"""The files of a LeRobot data set, as the exporter writes them."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robot_rl.datasets.store_files import clear_disk_errors, flush
from robot_rl.errors import InputError


@contextlib.contextmanager
def building(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """The name of a folder that takes the name `path` when the block ends well, and vanishes when it does not.

    Raises:
        InputError: something is there already that may not be replaced.
    """
    _refuse_existing(path, overwrite=overwrite)
    unique = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary, replaced = (
        path.with_name(f".{path.name}.partial-{unique}"),
        path.with_name(f".{path.name}.replaced-{unique}"),
    )
    try:
        with clear_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _refuse_existing(path, overwrite=overwrite)
        with clear_disk_errors(path):
            entries = list(temporary.rglob("*"))
            flush([entry for entry in entries if entry.is_file()])
            if path.exists():
                path.rename(replaced)
            temporary.rename(path)
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)


def _refuse_existing(path: Path, *, overwrite: bool) -> None:
    if not path.exists():
        return
    if not (path / "meta" / "info.json").is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} is there already and is no LeRobot data set: choose another name")
    if not overwrite:
        raise InputError(f"{path} is there already: choose another name, or replace it with overwrite=true")


@dataclass(kw_only=True)
class Tables:
    """Parquet files that are filled one after the other."""

    root: Path
    template: str
    schema: pa.Schema
    limit_bytes: int
    chunks_size: int
    file: int = 0
    _writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> int:
        """Append one row group; returns the number of its file."""
        path = self.root / numbered(self.template, self.file, self.chunks_size)
        if self._writer is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(path, self.schema, compression="snappy")
        self._writer.write_table(table, row_group_size=max(1, len(table)))
        used = self.file
        if path.stat().st_size >= self.limit_bytes:
            self.close()
            self.file += 1
        return used

    def close(self) -> None:
        """Write the footer of the file."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()


def numbered(template: str, file: int, chunks_size: int) -> str:
    """The path of a file by its number."""
    return template.format(chunk_index=file // chunks_size, file_index=file % chunks_size)


def episodes_schema(row: Mapping[str, Any]) -> pa.Schema:
    """Of meta/episodes, by one of its rows."""
    names = [*row, "meta/episodes/chunk_index", "meta/episodes/file_index"]
    return pa.schema([(name, _type_of(name, row.get(name, 0))) for name in names])


def write_tasks(path: Path, tasks: Mapping[str, int]) -> None:
    """meta/tasks.parquet: pandas takes the text as the index."""
    index = "__index_level_0__"
    columns: list[dict[str, str | None]] = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": None, "field_name": index, "pandas_type": "unicode", "numpy_type": "object"},
    ]
    description = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [c | {"metadata": None} for c in columns],
    }
    table = pa.table(
        {"task_index": pa.array(list(tasks.values()), pa.int64()), index: pa.array(list(tasks), pa.string())}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(description)}), path)


def write_last_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The bytes of what stands behind the last row of an episode, by episode_index."""
    names = dict.fromkeys(name for row in rows for name in row)
    schema = pa.schema([(name, pa.int64() if name == "episode_index" else pa.binary()) for name in names])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4), encoding="utf-8")


def _type_of(name: str, value: Any) -> pa.DataType:
    if isinstance(value, list):
        return pa.list_(_type_of(name, value[0]))
    if isinstance(value, str):
        return pa.string()
    return pa.int64() if name.endswith(("/count", "_index", "length")) else pa.float64()
