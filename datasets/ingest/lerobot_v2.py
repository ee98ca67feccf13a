"""LeRobot v2.0 and v2.1: one Parquet file, and one video of each camera, per episode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from robot_rl.datasets.frames import Frames
from robot_rl.datasets.ingest.base import ReadOptions, Recording
from robot_rl.datasets.ingest.lerobot import (
    Info,
    fill,
    info_of,
    read_json,
    read_json_lines,
    version_of,
    whole_number,
)
from robot_rl.datasets.ingest.lerobot_episode import Rows, frames_of_video
from robot_rl.datasets.ingest.lerobot_layout import Layout, layout_of
from robot_rl.datasets.ingest.lerobot_recording import (
    Source,
    all_files,
    finding_on_gaps,
    findings_on_salvage,
    findings_on_splits,
    findings_on_totals,
    named,
    only_videos,
    recording_of,
)
from robot_rl.datasets.ingest.lerobot_tables import Tables, scalars
from robot_rl.datasets.schema import Finding
from robot_rl.datasets.video import video_index
from robot_rl.errors import InputError

VERSION = 1
DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
CHUNK = 1000
SPARE_EPISODES = 1000  # that info.json may count without a table of theirs


class LerobotV2Reader:
    """`format=lerobot_v2`."""

    name = "lerobot_v2"
    description = "LeRobot v2.0 or v2.1: a folder with meta/info.json whose codebase_version begins with v2"

    def probe(self, path: Path) -> str | None:
        """By `codebase_version` of info.json, in this folder or above a file of the data set."""
        return version_of(path, "v2")

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Read the description and the index columns of every episode.

        Raises:
            InputError: info.json is missing or damaged, or no episode can be read.
        """
        files = _Files(info_of(path))
        info = files.info
        root = info.root
        lengths, findings = _lengths(info)
        findings = [*info.findings, *findings]
        tables = Tables(info.features)
        with tables.resources as resources:
            episodes, readable, columns, more = _scan(tables, files, lengths)
            findings += more + findings_on_salvage(tables.salvaged, info.place)
            if readable:
                layout, more = layout_of(info.features, columns, info.place)
            else:
                reason = episodes[0].problem if episodes else "there is no episode"
                layout, more = only_videos(info, f"none of the {len(episodes)} tables can be read ({reason})")
            findings += more
            videos, more = _videos(files, layout, episodes)
            findings += more
            if not readable:
                episodes = [_of_video(files, layout, rows) for rows in episodes]
            indices = [rows.episode for rows in episodes]
            findings += findings_on_totals(info, len(episodes), sum(len(rows) for rows in episodes))
            findings += findings_on_splits(info, indices) + finding_on_gaps(indices, info.place)
            tasks, tasks_of_episode = _tasks(info)

            def table(layout: Layout, rows: Rows) -> pa.Table:
                if not layout.columns:
                    return pa.table({"": pa.nulls(len(rows))})
                return tables[rows.path].rows(rows.start, rows.stop, layout.columns)

            def frames(layout: Layout, rows: Rows, count: int) -> Mapping[str, Frames]:
                place, steps = f"{root}: episode {rows.episode}", rows.scalars.get("frame_index")
                return {
                    key: frames_of_video(video_index(files.video(rows.episode, feature.name)), 0, steps, count, place)
                    for key, feature in layout.videos.items()
                }

            source = Source(
                info=info,
                layout=layout,
                episodes=episodes,
                table=table,
                frames=frames,
                videos=videos,
                tasks=tasks,
                tasks_of_episode=tasks_of_episode,
                statistics=_statistics(root),
                files=all_files(root),
                findings=findings,
                resources=tables.resources,
            )
            recording = recording_of(source, options, self.name, VERSION)
            recording.resources = resources.pop_all()
            return recording


@dataclass(frozen=True)
class _Files:
    """Paths from the templates of info.json."""

    info: Info

    def table(self, episode: int) -> Path:
        """The Parquet file of an episode."""
        return fill(self.info.template("data_path", DATA_PATH), self._fields(episode), self.info.root)

    def video(self, episode: int, key: str) -> Path:
        """The video of a camera."""
        fields = self._fields(episode) | {"video_key": key}
        return fill(self.info.template("video_path", VIDEO_PATH), fields, self.info.root)

    def _fields(self, episode: int) -> dict[str, int | str]:
        size = self.info.total("chunks_size")
        chunk = episode // (CHUNK if size is None or size < 1 else size)
        return {"episode_index": episode, "episode_chunk": chunk}


def _lengths(info: Info) -> tuple[dict[int, int], list[Finding]]:
    """Frames of each episode as `episodes.jsonl` declares them; without it, zero for the number in info.json."""
    path = info.root / "meta" / "episodes.jsonl"
    if not path.is_file():
        count = info.total("total_episodes")
        tables = sum(1 for _ in (info.root / "data").rglob("*.parquet"))
        if count is None or not 0 < count <= max(SPARE_EPISODES, 10 * tables):
            counts = f"info.json has total_episodes={count}, and there are {tables} tables"
            raise InputError(f"{path} is missing, {counts}: copy the data set again")
        text = "meta/episodes.jsonl is missing: episodes are those that info.json counts"
        finding = Finding(severity="warning", place=info.place, text=text, remedy="copy the data set again")
        return dict.fromkeys(range(count), 0), [finding]
    lengths: dict[int, int] = {}
    twice = []
    for number, row in enumerate(read_json_lines(path), 1):
        episode = whole_number(row, "episode_index", f"{path}, line {number}")
        if episode in lengths:
            twice.append(episode)
        lengths[episode] = whole_number(row, "length", f"{path}, line {number}")
    if not twice:
        return dict(sorted(lengths.items())), []
    text = f"meta/episodes.jsonl has {len(twice)} episodes twice: {named(twice)}: the last line counts"
    return dict(sorted(lengths.items())), [Finding(severity="warning", place=info.place, text=text)]


def _scan(
    tables: Tables, files: _Files, lengths: Mapping[int, int]
) -> tuple[list[Rows], int, Sequence[str], list[Finding]]:
    """Where the rows of each episode are, how many tables can be read, and their columns.

    An episode whose table cannot be read stays in the list, so that reading it says why.
    """
    place = files.info.place
    episodes: list[Rows] = []
    columns: Sequence[str] | None = None
    readable = 0
    otherwise: dict[str, list[int]] = {"lengths": [], "index": []}
    for episode, length in lengths.items():
        path = files.table(episode)
        try:
            table = tables[path]
            values = scalars(table)
        except InputError as error:
            episodes.append(Rows(episode=episode, path=path, start=0, stop=length, problem=str(error)))
            continue
        columns = table.names if columns is None else [name for name in columns if name in table.names]
        readable += 1
        start, stop = 0, len(table)
        own = np.flatnonzero(values["episode_index"] == episode) if "episode_index" in values else np.arange(stop)
        if 0 < len(own) < stop and own[-1] - own[0] + 1 == len(own):
            start, stop = int(own[0]), int(own[-1]) + 1
        if len(own) != len(table):
            otherwise["index"].append(episode)
        if stop - start != length:
            otherwise["lengths"].append(episode)
        values = {name: array[start:stop] for name, array in values.items()}
        episodes.append(Rows(episode=episode, path=path, start=start, stop=stop, scalars=values))
    findings = []
    if otherwise["lengths"]:
        text = f"meta/episodes.jsonl declares another length than the table has for {named(otherwise['lengths'])}"
        findings.append(Finding(severity="warning", place=place, text=text, remedy="the rows of the table are taken"))
    if otherwise["index"]:
        text = f"the tables of {named(otherwise['index'])} have rows of another episode_index"
        remedy = "rows of the episode are taken where they stand together, else all of the table"
        findings.append(Finding(severity="warning", place=place, text=text, remedy=remedy))
    return episodes, readable, columns or (), findings


def _videos(files: _Files, layout: Layout, episodes: Sequence[Rows]) -> tuple[dict[str, Path | None], list[Finding]]:
    """The first video of each camera, and which are missing."""
    videos: dict[str, Path | None] = {}
    findings = []
    for key, feature in layout.videos.items():
        paths = {rows.episode: files.video(rows.episode, feature.name) for rows in episodes}
        missing = [episode for episode, path in paths.items() if not path.is_file()]
        videos[key] = next((path for episode, path in paths.items() if episode not in set(missing)), None)
        if missing and videos[key] is None:
            text = f"all {len(missing)} videos of {feature.name} are missing, so the observation '{key}' is left out"
            remedy = "copy the folder `videos` too, if the camera is wanted"
            findings.append(Finding(severity="error", place=files.info.place, text=text, remedy=remedy))
        elif missing:
            text = f"{len(missing)} of {len(paths)} videos of {feature.name} are missing, of episodes {named(missing)}"
            remedy = f"these episodes are refused; copy the videos, or leave the camera out with exclude=[{key}]"
            findings.append(Finding(severity="error", place=files.info.place, text=text, remedy=remedy))
    return videos, findings


def _of_video(files: _Files, layout: Layout, rows: Rows) -> Rows:
    """An episode without a table, as long as its shortest video."""
    counts = []
    for feature in layout.videos.values():
        path = files.video(rows.episode, feature.name)
        if path.is_file():
            counts.append(len(video_index(path)))
    return Rows(episode=rows.episode, path=rows.path, start=0, stop=min(counts, default=0))


def _tasks(info: Info) -> tuple[dict[int, str], dict[int, str]]:
    """Instructions by task_index, and by episode_index."""
    folder = info.root / "meta"
    tasks: dict[int, str] = {}
    if (folder / "tasks.jsonl").is_file():
        for number, row in enumerate(read_json_lines(folder / "tasks.jsonl"), 1):
            tasks[whole_number(row, "task_index", f"{folder / 'tasks.jsonl'}, line {number}")] = str(
                row.get("task", "")
            )
    of_episode: dict[int, str] = {}
    if (folder / "episodes.jsonl").is_file():
        for row in read_json_lines(folder / "episodes.jsonl"):
            names = row.get("tasks")
            if isinstance(names, list) and names and isinstance(names[0], str):
                of_episode[whole_number(row, "episode_index", str(folder / "episodes.jsonl"))] = names[0]
    return tasks, of_episode


def _statistics(root: Path) -> list[dict[str, Any]]:
    """Of the whole (v2.0), or of each episode (v2.1)."""
    if (root / "meta" / "stats.json").is_file():
        return [read_json(root / "meta" / "stats.json")]
    path = root / "meta" / "episodes_stats.jsonl"
    rows = read_json_lines(path) if path.is_file() else []
    return [row["stats"] for row in rows if isinstance(row.get("stats"), dict)]
