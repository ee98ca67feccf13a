"""LeRobot v3.0: many episodes in one Parquet file and in one video.

Rows are found by the column `episode_index`. The first frame of an episode in its video is looked up once, by its
`from_timestamp` in the presentation times of the container, and compared with the lengths of the episodes before it;
from there frames are counted, so float times do not add up.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from robot_rl.datasets.frames import Frames
from robot_rl.datasets.ingest.base import ReadOptions, Recording
from robot_rl.datasets.ingest.lerobot import Info, info_of, read_json, version_of
from robot_rl.datasets.ingest.lerobot_episode import Rows, frames_of_video
from robot_rl.datasets.ingest.lerobot_exported import read_exported
from robot_rl.datasets.ingest.lerobot_layout import Layout, layout_of
from robot_rl.datasets.ingest.lerobot_meta import EpisodeMeta, data_path, read_episodes, read_tasks
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
from robot_rl.datasets.ingest.lerobot_videos import Videos
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError

VERSION = 1


class LerobotV3Reader:
    """`format=lerobot_v3`."""

    name = "lerobot_v3"
    description = "LeRobot v3.0: a folder with meta/info.json whose codebase_version begins with v3"

    def probe(self, path: Path) -> str | None:
        """By `codebase_version` of info.json, in this folder or above a file of the data set."""
        return version_of(path, "v3")

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Read the description and the index columns of every table.

        Raises:
            InputError: info.json is missing or damaged, or no episode can be read.
        """
        info = info_of(path)
        root = info.root
        declared, findings = read_episodes(info)
        findings = [*info.findings, *findings]
        tables = Tables(info.features)
        with tables.resources as resources:
            episodes, columns, more = _scan(tables, info, declared)
            findings += [*more, *findings_on_salvage(tables.salvaged, info.place)]
            if columns is None:
                layout, more = only_videos(info, f"no table can be read ({more[0].text if more else 'there is none'})")
                episodes = [
                    Rows(episode=number, path=root, start=0, stop=meta.length) for number, meta in declared.items()
                ]
            else:
                layout, more = layout_of(info.features, columns, info.place)
            findings += more
            indices = [rows.episode for rows in episodes]
            findings += findings_on_totals(info, len(episodes), sum(len(rows) for rows in episodes))
            findings += findings_on_splits(info, indices) + finding_on_gaps(indices, info.place)
            exported, more = read_exported(info, layout, episodes) if layout.columns else (None, [])
            findings += more
            layout = layout if exported is None else exported.named(layout)
            behind = None if exported is None else exported.extra_frames()
            videos = Videos.of(info, layout, episodes, declared, findings, behind)
            tasks, more = read_tasks(root, info.place)
            findings += more

            def table(layout: Layout, rows: Rows) -> pa.Table:
                if not layout.columns:
                    return pa.table({"": pa.nulls(len(rows))})
                return tables[rows.path].rows(rows.start, rows.stop, layout.columns)

            def frames(layout: Layout, rows: Rows, count: int) -> Mapping[str, Frames]:
                place, steps = f"{root}: episode {rows.episode}", rows.scalars.get("frame_index")
                found = {}
                for key in layout.videos:
                    index, first = videos.first_frame(key, rows.episode, place)
                    found[key] = frames_of_video(index, first, steps, count, f"{place}, '{key}'")
                return found

            statistics_path = root / "meta" / "stats.json"
            source = Source(
                info=info,
                layout=layout,
                episodes=episodes,
                table=table,
                frames=frames,
                videos={key: videos.any_file(key) for key in layout.videos},
                tasks=tasks,
                tasks_of_episode={number: meta.tasks[0] for number, meta in declared.items() if meta.tasks},
                statistics=[read_json(statistics_path)] if statistics_path.is_file() else [],
                files=all_files(root),
                findings=findings,
                resources=tables.resources,
                exported=exported,
            )
            recording = recording_of(source, options, self.name, VERSION)
            recording.resources = resources.pop_all()
            return recording


def _scan(
    tables: Tables, info: Info, declared: Mapping[int, EpisodeMeta]
) -> tuple[list[Rows], Sequence[str] | None, list[Finding]]:
    """Where the rows of every episode are, by the column `episode_index`; and the columns that all tables have.

    An episode that is declared and has no rows stays in the list, so that reading it says why.
    """
    found: dict[int, list[Rows]] = {}
    columns: list[str] | None = None
    problems: dict[Path, str] = {}
    for path in _tables(info, declared):
        try:
            table = tables[path]
            values = scalars(table)
            if "episode_index" not in values:
                raise InputError(f"{path} has no column episode_index: copy it again from its source")
        except InputError as error:
            problems[path] = str(error)
            continue
        columns = table.names if columns is None else [name for name in columns if name in table.names]
        numbers = values["episode_index"]
        starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1])) if len(numbers) else np.empty(0, int)
        for start, stop in zip(starts, np.append(starts[1:], len(numbers)), strict=False):
            part = {name: array[start:stop] for name, array in values.items()}
            rows = Rows(episode=int(numbers[start]), path=path, start=int(start), stop=int(stop), scalars=part)
            found.setdefault(rows.episode, []).append(rows)
    findings = [
        Finding(severity="error", place=info.place, text=f"a table cannot be read: {text}")
        for text in problems.values()
    ]
    episodes = {number: _best(parts, declared.get(number)) for number, parts in found.items()}
    for number, meta in declared.items():
        if number not in episodes:
            path = data_path(info, meta)
            reason = problems.get(path, f"no table has rows of it, {path.name} should")
            episodes[number] = Rows(episode=number, path=path, start=0, stop=meta.length, problem=reason)
    return [episodes[number] for number in sorted(episodes)], columns, findings + _compare(info, found, declared)


def _best(parts: Sequence[Rows], meta: EpisodeMeta | None) -> Rows:
    """The rows of an episode that lie together; where there are several such places, those of the declared length."""
    return max(parts, key=lambda rows: (meta is not None and len(rows) == meta.length, len(rows)))


def _compare(info: Info, found: Mapping[int, Sequence[Rows]], declared: Mapping[int, EpisodeMeta]) -> list[Finding]:
    groups = {
        "have rows in several places, of which the longest is taken": [
            n for n, parts in found.items() if len(parts) > 1
        ],
        "have rows, but no entry in meta/episodes (a crash before it was written?)": [
            number for number in found if declared and number not in declared
        ],
        "have an entry in meta/episodes, but no rows in the tables": [n for n in declared if n not in found],
        "have another number of rows than meta/episodes declares; the rows are taken": [
            number
            for number, meta in declared.items()
            if number in found and len(_best(found[number], meta)) != meta.length
        ],
    }
    return [
        Finding(severity="warning", place=info.place, text=f"episodes {named(sorted(numbers))} {text}")
        for text, numbers in groups.items()
        if numbers
    ]


def _tables(info: Info, declared: Mapping[int, EpisodeMeta]) -> list[Path]:
    referenced = {data_path(info, meta) for meta in declared.values()}
    folder = info.root / "data"
    there = {path for path in folder.rglob("*.parquet") if path.is_file()} if folder.is_dir() else set()
    return sorted(referenced | there)
