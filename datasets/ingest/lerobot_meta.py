"""The folder `meta` of LeRobot v3.0: where each episode lies, and the instructions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from robot_rl.datasets.ingest.arrow import clear_arrow_errors, texts
from robot_rl.datasets.ingest.lerobot import Info, fill, whole_number
from robot_rl.datasets.ingest.lerobot_tables import open_table
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES = "meta/episodes"


@dataclass(frozen=True, kw_only=True)
class InVideo:
    """Where an episode lies in a video."""

    path: Path
    from_s: float
    to_s: float


@dataclass(frozen=True, kw_only=True)
class EpisodeMeta:
    """A row of `meta/episodes`."""

    length: int
    chunk: int
    file: int
    tasks: tuple[str, ...] = ()
    videos: dict[str, InVideo] = field(default_factory=dict)  # by feature name


def read_episodes(info: Info) -> tuple[dict[int, EpisodeMeta], list[Finding]]:
    """All rows by episode_index, in their order; a file that cannot be read is a finding, as the rows tell the rest."""
    folder = info.root / EPISODES
    paths = sorted(folder.rglob("*.parquet")) if folder.is_dir() else []
    findings = []
    found: dict[int, EpisodeMeta] = {}
    for path in paths:
        try:
            found |= _read(path, info)
        except InputError as error:
            text = f"{error}; its episodes are taken from the tables"
            findings.append(Finding(severity="error", place=info.place, text=text, remedy="copy the data set again"))
    if not paths:
        text = f"{EPISODES} has no table: episodes and their place in the videos are taken from the data"
        findings.append(Finding(severity="error", place=info.place, text=text, remedy="copy the data set again"))
    return dict(sorted(found.items())), findings


def data_path(info: Info, meta: EpisodeMeta) -> Path:
    """The table of an episode.

    Raises:
        InputError: the template of info.json is none.
    """
    fields: dict[str, int | str] = {"chunk_index": meta.chunk, "file_index": meta.file}
    return fill(info.template("data_path", DATA_PATH), fields, info.root)


def video_path(info: Info, key: str, chunk: int, file: int) -> Path:
    """A video by the name of its feature and its numbers.

    Raises:
        InputError: the template of info.json is none.
    """
    fields: dict[str, int | str] = {"video_key": key, "chunk_index": chunk, "file_index": file}
    return fill(info.template("video_path", VIDEO_PATH), fields, info.root)


def read_tasks(root: Path, place: str) -> tuple[dict[int, str], list[Finding]]:
    """Instructions by task_index; the text is the index that pandas writes as a column, or a column `task`."""
    path = root / "meta" / "tasks.parquet"
    if not path.is_file():
        return {}, []
    try:
        table = open_table(path)
        names = [
            field.name
            for field in table.schema
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
        ]
        name = next((name for name in ("task", "__index_level_0__") if name in names), names[0] if names else None)
        if name is None or "task_index" not in table.names:
            raise InputError(f"{path} has the columns {', '.join(table.names)}, expected task_index and a text")
        rows = table.columns(["task_index", name])
        with clear_arrow_errors(path):
            indices = rows["task_index"].to_pylist()
        return {i: text for i, text in zip(indices, texts(rows[name], str(path)), strict=True) if i is not None}, []
    except InputError as error:
        text = f"the instructions cannot be read: {error}"
        return {}, [Finding(severity="error", place=place, text=text, remedy="copy meta/tasks.parquet again")]


def _read(path: Path, info: Info) -> dict[int, EpisodeMeta]:
    table = open_table(path)
    columns = [name for name in table.names if not name.startswith("stats/")]
    rows = table.columns(columns)
    with clear_arrow_errors(path):
        entries: list[dict[str, Any]] = rows.to_pylist()
    cameras = [name for name, feature in info.features.items() if feature.dtype == "video"]
    found = {}
    for number, entry in enumerate(entries):
        place = f"{path}, row {number}"
        tasks = entry.get("tasks")
        found[whole_number(entry, "episode_index", place)] = EpisodeMeta(
            length=whole_number(entry, "length", place),
            chunk=whole_number(entry, "data/chunk_index", place),
            file=whole_number(entry, "data/file_index", place),
            tasks=tuple(str(task) for task in tasks) if isinstance(tasks, list) else (),
            videos={key: video for key in cameras if (video := _in_video(entry, key, info, place)) is not None},
        )
    return found


def _in_video(entry: Mapping[str, Any], key: str, info: Info, place: str) -> InVideo | None:
    prefix = f"videos/{key}/"
    if entry.get(f"{prefix}chunk_index") is None:
        return None
    times = [entry.get(f"{prefix}{name}_timestamp") for name in ("from", "to")]
    from_s, to_s = (float(time) if isinstance(time, int | float) else np.nan for time in times)
    if not np.isfinite([from_s, to_s]).all():
        raise InputError(f"{place}: {prefix}from_timestamp and to_timestamp are {times}, expected seconds")
    path = video_path(
        info,
        key,
        whole_number(entry, f"{prefix}chunk_index", place),
        whole_number(entry, f"{prefix}file_index", place),
    )
    return InVideo(path=path, from_s=from_s, to_s=to_s)
