"""The Parquet files of a LeRobot data set, those without a footer with what can be saved of them."""

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from robot_rl.datasets.ingest.arrow import ParquetFile, has_footer, is_parquet, numbers
from robot_rl.datasets.ingest.lerobot import FACTS, INDEX_COLUMNS, Feature
from robot_rl.datasets.ingest.parquet_salvage import salvage
from robot_rl.errors import InputError
from robot_rl.types import Array

OPEN_FILES = 4


class Tables:
    """Files of steps, the last few of them open.

    `salvaged` says of each file without a footer how many rows were saved.
    """

    def __init__(self, features: Mapping[str, Feature] | None = None) -> None:
        """`features` are those of info.json; without them nothing is saved."""
        self.resources = ExitStack()
        self.resources.callback(self.close)
        self.salvaged: dict[Path, str] = {}
        self._features = features
        self._schema: pa.Schema | None = None  # of the first whole file
        self._open: OrderedDict[Path, ParquetFile] = OrderedDict()

    def __getitem__(self, path: Path) -> ParquetFile:
        """A file.

        Raises:
            InputError: it is missing or damaged.
        """
        if path not in self._open:
            self._open[path] = self._opened(path)
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]

    def close(self) -> None:
        """Free all files."""
        while self._open:
            self._open.popitem()[1].close()

    def _opened(self, path: Path) -> ParquetFile:
        if self._features is not None and is_parquet(path) and not has_footer(path):
            schema = schema_of(self._features) if self._schema is None else self._schema
            shapes = {name: feature.shape for name, feature in self._features.items()}
            saved = salvage(path, schema, shapes)
            table = ParquetFile(path, saved.source)
            _require_counting(table)
            self.salvaged[path] = f"{saved.rows} rows in {saved.groups} row groups"
            return table
        table = open_table(path)
        self._schema = table.schema if self._schema is None else self._schema
        return table


def open_table(path: Path) -> ParquetFile:
    """A Parquet file.

    Raises:
        InputError: it is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} is missing: copy the data set again from its source")
    return ParquetFile(path)


def schema_of(features: Mapping[str, Feature]) -> pa.Schema:
    """The columns that LeRobot writes for the features."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = []
    for name, feature in features.items():
        match feature.dtype:
            case "video":
                continue
            case "image":
                fields.append((name, image))
                continue
            case "string":
                type = pa.string()
            case "bool":
                type = pa.bool_()
            case dtype:
                type = pa.from_numpy_dtype(np.dtype(dtype))
        for _ in feature.shape if feature.shape != (1,) else ():
            type = pa.list_(type)
        fields.append((name, type))
    return pa.schema(fields)


def scalars(table: ParquetFile) -> dict[str, Array]:
    """The index columns and facts of all rows of a table, those that it has. Shapes: each (N,).

    Raises:
        InputError: one of them is damaged.
    """
    names = [name for name in (*INDEX_COLUMNS, *FACTS) if name in table.names]
    columns = table.columns(names)
    found = {}
    for name in names:
        values = numbers(columns[name], f"{table.path}: {name}")
        if values.size != len(table):
            raise InputError(f"{table.path}: {name} has {values.shape[1:]} numbers in a row, expected one")
        found[name] = values.reshape(len(table))
    return found


def _require_counting(table: ParquetFile) -> None:
    """Refuse rows that were put together wrongly: the index columns would not count."""
    values = scalars(table)
    episode, frame = values.get("episode_index"), values.get("frame_index")
    if episode is None or frame is None:
        raise InputError(f"{table.path} has no footer, and no index columns to check what is saved by")
    same = episode[1:] == episode[:-1]
    counts = np.where(same, frame[1:] == frame[:-1] + 1, frame[1:] == 0)
    index = values.get("index")
    if not counts.all() or (index is not None and not (np.diff(index) == 1).all()):
        raise InputError(f"{table.path} has no footer, and the rows that can be saved do not count: it is damaged too")
