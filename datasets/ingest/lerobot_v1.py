"""LeRobot v1.x: one table of all frames (Arrow or Parquet), one video of each camera per episode, few words beside."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from robot_rl.datasets.frames import Frames
from robot_rl.datasets.ingest.arrow import ParquetFile, clear_arrow_errors, numbers, read_arrow
from robot_rl.datasets.ingest.base import ReadOptions, Recording
from robot_rl.datasets.ingest.lerobot import (
    FACTS,
    INDEX_COLUMNS,
    LARGEST_VALUES,
    NUMBERS,
    Feature,
    Info,
    find_root,
    inside,
    read_json,
)
from robot_rl.datasets.ingest.lerobot_episode import Rows, frames_of_video
from robot_rl.datasets.ingest.lerobot_layout import Layout, layout_of
from robot_rl.datasets.ingest.lerobot_recording import Source, all_files, finding_on_gaps, named, recording_of
from robot_rl.datasets.ingest.lerobot_tables import Tables
from robot_rl.datasets.schema import Finding
from robot_rl.datasets.video import VideoFrames, VideoIndex, video_index
from robot_rl.errors import InputError
from robot_rl.types import Array

VERSION = 1
ARROW_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}
OFFSETS = ("episode_data_index_from", "episode_data_index_to", "episode_id")  # columns that say nothing of a step


class LerobotV1Reader:
    """`format=lerobot_v1`."""

    name = "lerobot_v1"
    description = "LeRobot v1.x: a folder with meta_data/info.json and train/*.arrow or data/*.parquet"

    def probe(self, path: Path) -> str | None:
        """By meta_data/info.json and a table, in this folder or above a file of the data set."""
        root = find_root(path, "meta_data")
        return None if root is None or not _table_paths(root) else "it has meta_data/info.json and a table"

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Map the table and find the episodes.

        Raises:
            InputError: it is damaged, or lacks the column episode_index.
        """
        root = find_root(path, "meta_data")
        paths = [] if root is None else _table_paths(root)
        if root is None or not paths:
            raise InputError(f"{path} is no LeRobot data set of v1: meta_data/info.json or the table is missing")
        whole = _whole_table(paths, root)
        info = _info(root, whole.schema)
        columns = [name for name in whole.column_names if name not in OFFSETS]
        layout, findings = layout_of(info.features, columns, info.place)
        findings = [*info.findings, *findings]
        episodes = _episodes(whole, paths[0])
        indices = [rows.episode for rows in episodes]
        findings += finding_on_gaps(indices, info.place)
        videos = _Videos(root=root, table=whole)
        found = {}
        for key, feature in layout.videos.items():
            found[key], more = videos.examine(feature, key, episodes, info.place)
            findings += more

        def table(layout: Layout, rows: Rows) -> pa.Table:
            return whole.select(layout.columns).slice(rows.start, len(rows))

        def frames(layout: Layout, rows: Rows, count: int) -> Mapping[str, Frames]:
            place = f"{root}: episode {rows.episode}"
            return {key: videos.frames(feature, rows, count, place) for key, feature in layout.videos.items()}

        tables = Tables()
        source = Source(
            info=info,
            layout=layout,
            episodes=episodes,
            table=table,
            frames=frames,
            videos=found,
            tasks={},
            statistics=[],
            files=[*paths, *(file for file in all_files(root) if file not in paths)],
            findings=findings,
            resources=tables.resources,
        )
        return recording_of(source, options, self.name, VERSION)


@dataclass(frozen=True, kw_only=True)
class _Videos:
    """Columns `struct{path, timestamp}`: which video a row is of, and when in it."""

    root: Path
    table: pa.Table

    def path(self, feature: Feature, rows: Rows) -> Path:
        """The video of an episode.

        Raises:
            InputError: rows name several, or none.
        """
        column = self.table[feature.name].slice(rows.start, len(rows))
        place = f"{self.root}: episode {rows.episode}: {feature.name}"
        with clear_arrow_errors(self.root):
            names = sorted({str(value["path"]) for value in column.to_pylist() if value is not None})
        if len(names) != 1:
            raise InputError(f"{place} names {len(names)} videos, expected one: {named(names)}")
        return inside(self.root, names[0])

    def frames(self, feature: Feature, rows: Rows, count: int, place: str) -> VideoFrames:
        """The frames of an episode, counted from the one nearest to its first time stamp."""
        path = self.path(feature, rows)
        if not path.is_file():
            raise InputError(f"{place}: {path} is missing: copy the videos too")
        index = video_index(path)
        first = self.table[feature.name].slice(rows.start, 1).to_pylist()[0].get("timestamp")
        steps = rows.scalars.get("frame_index")
        steps = None if steps is None else steps - steps[0]
        return frames_of_video(index, _nearest(index, first, place), steps, count, f"{place}, {feature.name}")

    def examine(
        self, feature: Feature, key: str, episodes: list[Rows], place: str
    ) -> tuple[Path | None, list[Finding]]:
        """The first video of a camera, and which are missing."""
        paths = {}
        for rows in episodes:
            try:
                paths[rows.episode] = self.path(feature, rows)
            except InputError:  # reading the episode says so
                continue
        missing = [episode for episode, path in paths.items() if not path.is_file()]
        first = next((path for path in paths.values() if path.is_file()), None)
        if first is not None and not missing:
            return first, []
        if first is None:
            text = f"no video of {feature.name} is there, so the observation '{key}' is left out"
        else:
            text = f"{len(missing)} of {len(paths)} videos of {feature.name} are missing, of episodes {named(missing)}"
        finding = Finding(severity="error", place=place, text=text, remedy="copy the folder `videos` too")
        return first, [finding]


def _nearest(index: VideoIndex, seconds: object, place: str) -> int:
    if len(index) == 0 or not isinstance(seconds, int | float) or not np.isfinite(seconds):
        raise InputError(f"{place}: {index.path} has {len(index)} frames, the first row is at {seconds!r} s in it")
    return int(np.abs(index.times_s - seconds).argmin())


def _table_paths(root: Path) -> list[Path]:
    for pattern in ("train/*.arrow", "data/*.parquet", "train/*.parquet", "*.arrow"):
        paths = sorted(path for path in root.glob(pattern) if path.is_file())
        if paths:
            return paths
    return []


def _whole_table(paths: list[Path], root: Path) -> pa.Table:
    tables = []
    for path in paths:
        if path.suffix == ".arrow":
            tables.append(read_arrow(path))
        else:
            file = ParquetFile(path)
            tables.append(file.columns(file.names))
            file.close()
    with clear_arrow_errors(root):
        return pa.concat_tables(tables).combine_chunks()


def _info(root: Path, schema: pa.Schema) -> Info:
    """v1 has no `features`: they are the columns of the table."""
    path = root / "meta_data" / "info.json"
    declared = read_json(path)
    fps = declared.get("fps")
    findings = []
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        text = f"meta_data/info.json declares fps={fps!r}, so there is no control period"
        findings.append(Finding(severity="warning", place=root.name, text=text, remedy="set control_period_s"))
        fps = None
    features = {}
    for field in schema:
        feature = None if field.name in OFFSETS else _feature(field)
        if feature is not None:
            features[field.name] = feature
        elif field.name not in OFFSETS:
            text = f"the column {field.name} of type {field.type} is left out"
            findings.append(Finding(severity="warning", place=root.name, text=text))
    return Info(
        root=root,
        version=str(declared.get("codebase_version", "v1")),
        fps=None if fps is None else float(fps),
        features=features,
        splits={"train": (0, 2**53)},  # the table lies in a folder of that name
        declared=declared,
        findings=findings,
    )


def _feature(field: pa.Field) -> Feature | None:
    type, shape = field.type, []
    if pa.types.is_struct(type):
        names = {type.field(i).name for i in range(type.num_fields)}
        dtype = "video" if {"path", "timestamp"} <= names else "image" if "bytes" in names else None
        return None if dtype is None else Feature(name=field.name, dtype=dtype, shape=())
    if pa.types.is_string(type) or pa.types.is_large_string(type):
        return Feature(name=field.name, dtype="string", shape=(1,))
    while pa.types.is_fixed_size_list(type):
        shape.append(type.list_size)
        type = type.value_type
    dtype = ARROW_FLOATS.get(str(type), str(type))
    if dtype not in NUMBERS or any(size < 1 for size in shape) or np.prod(shape, dtype=float) > LARGEST_VALUES:
        return None
    return Feature(name=field.name, dtype=dtype, shape=tuple(shape) or (1,))


def _episodes(table: pa.Table, path: Path) -> list[Rows]:
    if "episode_index" not in table.column_names:
        raise InputError(f"{path} has no column episode_index: is it a table of LeRobot?")
    names = [name for name in (*INDEX_COLUMNS, *FACTS) if name in table.column_names]
    values: dict[str, Array] = {}
    for name in names:
        column = numbers(table[name], f"{path}: {name}")
        if column.size != len(table):
            raise InputError(f"{path}: {name} has several numbers in a row, expected one")
        values[name] = column.reshape(len(table))
    found = values["episode_index"]
    if len(found) == 0:
        return []
    starts = np.flatnonzero(np.append(True, found[1:] != found[:-1]))
    episodes = []
    for start, stop in zip(starts, np.append(starts[1:], len(found)), strict=True):
        part = {name: array[start:stop] for name, array in values.items()}
        episodes.append(Rows(episode=int(found[start]), path=path, start=int(start), stop=int(stop), scalars=part))
    return episodes
