"""Episodes as a LeRobot v3.0 data set, whole or not at all.

What the layout lacks is added where LeRobot does not look (`robot_rl.datasets.ingest.lerobot_exported`), so our reader
takes a store back exactly, but for what the codec of a video changes. A video that was recorded as one is copied, not
encoded again. Where an episode has a final observation, its last image stands in the video behind the frames of the
episode: `from_timestamp` and `to_timestamp` of LeRobot pass over it.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from robot_rl.datasets.export_lerobot_columns import Plan, Survey, encoded, frames_of, timestamps
from robot_rl.datasets.export_lerobot_files import (
    Tables,
    building,
    episodes_schema,
    write_json,
    write_last_rows,
    write_tasks,
)
from robot_rl.datasets.export_lerobot_statistics import MOST_CHANNELS, Statistics, Total, of_images, of_rows
from robot_rl.datasets.export_lerobot_videos import MEGABYTE, Camera, Histogram, Place
from robot_rl.datasets.ingest.lerobot_exported import EPISODES_FILE, LAST_ROWS_FILE, SPEC_FILE, describe
from robot_rl.datasets.schema import rows_of_episode
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

CODEBASE_VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
SAMPLED_FRAMES, FEWEST_FRAMES = 1024, 16  # of a camera, for its statistics: of all episodes, and of each
EPISODES_AT_ONCE = 256  # rows of meta/episodes in one group


@dataclass(frozen=True, kw_only=True)
class LerobotOptions:
    """How to write."""

    fps: float | None = None  # None takes the control period of the spec
    task: str | None = None  # of episodes without language
    robot_type: str = "unknown"
    video_codec: str = "libsvtav1"  # libsvtav1 | h264 | none (images in the tables, as PNG or as the JPEG they are)
    crf: int = 30
    data_files_size_in_mb: int = 100
    video_files_size_in_mb: int = 200
    chunks_size: int = 1000


def write_lerobot(
    path: str | Path,
    spec: Spec,
    episodes: Callable[[], Iterable[Episode]],
    options: LerobotOptions,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write a folder, first under a temporary name beside it.

    Args:
        path: of the folder.
        spec: of the episodes.
        episodes: gives them, and is called twice: once to look at all of them, once to write. At least one.
        options: how.
        overwrite: replace a LeRobot data set that is there.
        progress: is told how many episodes are written.

    Raises:
        InputError: something is there already, an episode does not fit the spec or lacks an instruction, there is no
            rate, or the disk is full.
    """
    fps = _rate(spec, options)
    with building(Path(path), overwrite=overwrite) as folder, clear_disk_errors(Path(path)):
        survey = Survey.of(episodes(), spec, float(fps))
        plan = Plan.of(spec, survey, video=options.video_codec != "none")
        writer = _Writer.open(folder, plan, survey, options, fps)
        try:
            for number, episode in enumerate(episodes()):
                writer.append(episode)
                progress(number + 1)
            writer.finish()
        finally:
            writer.abort()


@dataclass(kw_only=True)
class _Writer:
    root: Path
    plan: Plan
    survey: Survey
    options: LerobotOptions
    fps: Fraction
    data: Tables
    cameras: dict[str, Camera]  # by our key
    total: Total
    tasks: dict[str, int] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)  # of meta/episodes, not written yet
    last_rows: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    episodes: int = 0
    frames: int = 0
    _meta: Tables | None = None

    @staticmethod
    def open(folder: Path, plan: Plan, survey: Survey, options: LerobotOptions, fps: Fraction) -> "_Writer":
        folder.mkdir(parents=True)
        cameras = {
            key: Camera(
                folder=folder / "videos" / name,
                fps=fps,
                codec=options.video_codec,
                crf=options.crf,
                limit_bytes=options.video_files_size_in_mb * MEGABYTE,
                chunk_files=options.chunks_size,
            )
            for key, name in plan.videos.items()
        }
        limit = options.data_files_size_in_mb * MEGABYTE
        data = Tables(
            root=folder, template=DATA_PATH, schema=plan.schema, limit_bytes=limit, chunks_size=options.chunks_size
        )
        return _Writer(
            root=folder,
            plan=plan,
            survey=survey,
            options=options,
            fps=fps,
            data=data,
            cameras=cameras,
            total=Total(survey.frames),
        )

    def append(self, episode: Episode) -> None:
        """Write one episode."""
        plan, number = self.plan, self.episodes
        place = f"episode {number}"
        if set(episode.observation) != set(plan.spec.observation):
            raise InputError(f"{place} has the observations {sorted(episode.observation)}, the spec has other ones")
        numbers_spec = replace(plan.spec, observation={key: plan.spec.observation[key] for key in plan.observations})
        numbers = replace(episode, observation={key: episode.observation[key] for key in plan.observations})
        rows = rows_of_episode(numbers_spec, numbers, place)
        count = frames_of(episode, plan.spec)
        columns = plan.rows(episode, rows, self._index(episode, count, place))
        images = {name: encoded(episode.observation[key]) for key, name in plan.images.items()}
        table = plan.table(columns, {name: data[:count] for name, data in images.items()})
        file = self.data.write(table)
        statistics = self._statistics(columns)
        places: dict[str, Place] = {}
        for key, name in plan.videos.items():
            histogram = Histogram(max(FEWEST_FRAMES, SAMPLED_FRAMES // self.survey.episodes))
            places[name] = self.cameras[key].append(self._frames(episode, key, count), count, histogram)
            statistics[name] = of_images(histogram.counts, histogram.frames)
            self.total.add_images(name, histogram)
        self._add_row(episode, count, file, columns["task_index"], statistics, places)
        self._add_line(episode, count)
        self._add_last(number, episode, rows, images, count)
        self.episodes, self.frames = number + 1, self.frames + count

    def finish(self) -> None:
        """Close all files and describe them."""
        self.data.close()
        for camera in self.cameras.values():
            camera.close()
        self._flush_rows()
        if self._meta is not None:
            self._meta.close()
        write_tasks(self.root / "meta" / "tasks.parquet", self.tasks)
        write_json(self.root / "meta" / "stats.json", self.total.to_json())
        write_json(self.root / "meta" / "info.json", self._info())
        write_json(self.root / SPEC_FILE, self._description())
        (self.root / EPISODES_FILE).write_text("".join(self.lines), encoding="utf-8")
        if self.last_rows:
            write_last_rows(self.root / LAST_ROWS_FILE, self.last_rows)

    def abort(self) -> None:
        """Let go of all files."""
        self.data.close()
        for camera in self.cameras.values():
            camera.abort()
        if self._meta is not None:
            self._meta.close()

    def _index(self, episode: Episode, count: int, place: str) -> dict[str, Array]:
        return {
            "timestamp": timestamps(count, float(self.fps)),
            "frame_index": np.arange(count, dtype=np.int64),
            "episode_index": np.full(count, self.episodes, np.int64),
            "index": np.arange(self.frames, self.frames + count, dtype=np.int64),
            "task_index": self._task_index(episode, count, place),
        }

    def _task_index(self, episode: Episode, count: int, place: str) -> Array:
        changes = _changes(episode.metadata.get("tasks"))
        if changes is None:
            language = episode.metadata.get("language")
            task = language if isinstance(language, str) and language else self.options.task
            if task is None:
                raise InputError(f"{place} has no language, and LeRobot needs an instruction: set task='...'")
            changes = [(0, task)]
        found = np.empty(count, np.int64)
        for start, task in changes:
            found[start:] = self.tasks.setdefault(task, len(self.tasks))
        return found

    def _frames(self, episode: Episode, key: str, count: int) -> Array:
        """The frames of the rows, and the one behind them where it was recorded."""
        rows = episode.observation[key]
        more = int(episode.has_final_observation and count == len(episode))
        return rows if len(rows) == count + more else rows[: count + more]

    def _statistics(self, columns: Mapping[str, Array]) -> dict[str, Statistics]:
        found = {}
        for name, rows in columns.items():
            if int(np.prod(rows.shape[1:])) <= MOST_CHANNELS:
                found[name] = of_rows(rows)
                self.total.add_rows(name, rows, found[name])
        return found

    def _add_row(
        self,
        episode: Episode,
        count: int,
        file: int,
        task_index: Array,
        statistics: Mapping[str, Statistics],
        places: Mapping[str, Place],
    ) -> None:
        names = list(self.tasks)
        size = self.options.chunks_size
        row: dict[str, Any] = {
            "episode_index": self.episodes,
            "tasks": [names[number] for number in dict.fromkeys(task_index.tolist())],
            "length": count,
            "data/chunk_index": file // size,
            "data/file_index": file % size,
            "dataset_from_index": self.frames,
            "dataset_to_index": self.frames + count,
        }
        for name, place in places.items():
            row |= {
                f"videos/{name}/chunk_index": place.file // size,
                f"videos/{name}/file_index": place.file % size,
                f"videos/{name}/from_timestamp": place.from_s,
                f"videos/{name}/to_timestamp": place.to_s,
            }
        for name, values in statistics.items():
            row |= {f"stats/{name}/{kind}": array.tolist() for kind, array in values.items()}
        self.rows.append(row)
        if len(self.rows) >= EPISODES_AT_ONCE:
            self._flush_rows()

    def _flush_rows(self) -> None:
        if not self.rows:
            return
        if self._meta is None:
            self._meta = Tables(
                root=self.root,
                template=EPISODES_PATH,
                schema=episodes_schema(self.rows[0]),
                limit_bytes=self.options.data_files_size_in_mb * MEGABYTE,
                chunks_size=self.options.chunks_size,
            )
        size = self.options.chunks_size
        where = {
            "meta/episodes/chunk_index": self._meta.file // size,
            "meta/episodes/file_index": self._meta.file % size,
        }
        self._meta.write(pa.Table.from_pylist([row | where for row in self.rows], schema=self._meta.schema))
        self.rows = []

    def _add_line(self, episode: Episode, count: int) -> None:
        line = {
            "episode_index": self.episodes,
            "frames": count,
            "steps": len(episode),
            "has_final_observation": episode.has_final_observation,
            "success_known": episode.success is not None,
            "metadata": episode.metadata,
        }
        self.lines.append(json.dumps(line) + "\n")

    def _add_last(
        self,
        number: int,
        episode: Episode,
        rows: Mapping[str, Array],
        images: Mapping[str, list[bytes]],
        count: int,
    ) -> None:
        """What stands behind the last row of the table."""
        if count > len(episode):
            return
        last: dict[str, Any] = {}
        if episode.has_final_observation:
            last = {f"observation/{key}": rows[f"observation/{key}"][count].tobytes() for key in self.plan.observations}
            last |= {f"observation/{key}": images[name][count] for key, name in self.plan.images.items()}
        for key in self.plan.extras:
            if self.survey.extras[key][2]:
                last[f"extras/{key}"] = np.ascontiguousarray(episode.extras[key][count]).tobytes()
        if last:
            self.last_rows.append({"episode_index": number, **last})

    def _description(self) -> dict[str, Any]:
        extras = {
            key: {
                "feature": self.plan.extras.get(key, "timestamp" if 0 not in shape else None),
                "dtype": dtype,
                "shape": list(shape),
                "behind": behind,
            }
            for key, (dtype, shape, behind) in self.survey.extras.items()
        }
        return describe(self.plan.spec, self.plan.observations | self.plan.images | self.plan.videos, extras)

    def _info(self) -> dict[str, Any]:
        features = {name: dict(entry) for name, entry in self.plan.features.items()}
        for key, name in self.plan.videos.items():
            features[name]["info"] = self.cameras[key].about
        return {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": self.options.robot_type,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self.tasks),
            "chunks_size": self.options.chunks_size,
            "data_files_size_in_mb": self.options.data_files_size_in_mb,
            "video_files_size_in_mb": self.options.video_files_size_in_mb,
            "fps": int(self.fps) if self.fps.denominator == 1 else float(self.fps),
            "splits": _splits(self.survey.splits),
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self.plan.videos else None,
            "features": features,
        }


def _rate(spec: Spec, options: LerobotOptions) -> Fraction:
    if options.fps is None and spec.control_period_s is None:
        raise InputError("the store declares no control period, and LeRobot needs a rate: set fps")
    rate = options.fps if options.fps is not None else 1 / (spec.control_period_s or 1)
    whole = round(rate)
    return Fraction(whole) if abs(rate - whole) < 1e-6 * rate else Fraction(rate).limit_denominator(1001)


def _splits(names: list[str | None]) -> dict[str, str]:
    """Ranges of episodes, where every split is one; else all of them are `train`."""
    found: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        if name is not None:
            found.setdefault(name, []).append(number)
    if not found or any(numbers[-1] - numbers[0] + 1 != len(numbers) for numbers in found.values()):
        return {"train": f"0:{len(names)}"}
    return {name: f"{numbers[0]}:{numbers[-1] + 1}" for name, numbers in found.items()}


def _changes(value: Any) -> list[tuple[int, str]] | None:
    """Metadata `tasks` as our reader writes it, `[[first step, text], ...]`; None where it is something else."""
    if not isinstance(value, list) or not value:
        return None
    for part in value:
        if not (isinstance(part, list) and len(part) == 2 and isinstance(part[0], int) and isinstance(part[1], str)):
            return None
    return None if value[0][0] != 0 else [(start, task) for start, task in value]
