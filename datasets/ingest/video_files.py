"""Video files: mp4, mov, mkv, webm, avi and others, alone or with a table of actions and states beside them.

One file is one episode, seen by one camera, `image`. Of a folder every video is an episode; of a folder of folders
every folder is one, and every video in it a camera with the name of the file. A video has one step less than frames.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.frames import as_array
from robot_rl.datasets.ingest.base import ReadOptions, Recording, SuccessSource, array_spec, provenance
from robot_rl.datasets.ingest.csv_log import absent_of, action_of, episode_of, held_rewards, names_of
from robot_rl.datasets.ingest.resample import grid, nearest
from robot_rl.datasets.ingest.table import Roles, Rows, Table, at_times, roles_of, rows_of, times_of, whole_numbers_of
from robot_rl.datasets.ingest.table_files import read_table
from robot_rl.datasets.mp4_boxes import is_mp4
from robot_rl.datasets.schema import Finding
from robot_rl.datasets.video import VideoFrames, VideoIndex, video_index
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

VERSION = 1
CAMERA = "image"
STEM = "{stem}"
"""Stands in `side_file` for the name of the video (or of its folder) without its ending."""
SIGNATURES = {0: (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"OggS"), 8: (b"AVI ",)}
TRANSPORT_PACKET = 188  # bytes between the sync bytes of an MPEG transport stream
EPOCH_S = 1e6  # numbers beyond it count from 1970 or from the start of a machine, not from that of the video
LARGEST_REFINEMENT = 1000  # grid points for each frame


class VideoFilesReader:
    """`format=video`."""

    name = "video"
    description = "video files (mp4, mov, mkv, webm, avi, ...), or a folder of them, one for each episode"

    def probe(self, path: Path) -> str | None:
        """A video by its first bytes, or a folder of them, or a folder of nothing but folders of them."""
        if path.is_file():
            return "it begins as a video file does" if is_video(path) else None
        sources = _sources(path)
        folders = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        if not sources or (folders and any(entry.name not in sources for entry in folders)):
            return None  # a data set of a layout that has more than videos
        return f"it has {len(sources)} videos, or folders of videos"

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Index the first episode; the others are indexed as they are read.

        Raises:
            InputError: there is no video, it is damaged, or the side file does not fit it.
        """
        sources = {path.stem: {CAMERA: path}} if path.is_file() else _sources(path)
        if not sources:
            raise InputError(f"{path} has no video files: name a video, or a folder of them")
        chosen = list(sources.items())[: options.maximum_episodes]
        sides = [side_file(path, stem, options.side_file, len(chosen)) for stem, _ in chosen]
        findings: list[Finding] = []
        first = _Take.of(path, chosen[0][0], chosen[0][1], sides[0], options, findings)
        period_s, about = _control_period_s(first, options)
        findings += about
        if len(first.indices) > 1:
            text = f"the cameras {', '.join(first.indices)} are taken to have begun at the same moment"
            findings.append(Finding(severity="information", place=path.name, text=text))
        episode = first.episode(period_s if options.control_period_s is not None else None, [])
        success, about = _success(first, options, path)
        findings += about
        action, metadata = ArraySpec(shape=(0,), dtype="float32"), {}
        if first.table is not None and first.roles is not None:
            action, about = action_of(first.table, first.roles, options)
            findings += about
            if about and len(chosen) > 1:  # each video has a table of its own
                metadata = {"action_bounds": "data"}
        spec = Spec(
            observation=first.observation_spec(episode),
            action=action,
            control_period_s=period_s,
            metadata={"absent": success.lacking(first.absent)} | metadata,
        )
        recording: Recording

        def read(index: int) -> Episode:
            stem, cameras = chosen[index]
            found: list[Finding] = []
            take = first if index == 0 else _Take.of(path, stem, cameras, sides[index], options, found)
            if index:
                found += _other_rate(take, spec, options)
            taken = take.episode(options.control_period_s, found)
            recording.findings += [item for item in found if item not in recording.findings]
            return success.label(taken, str(take.place))

        files = [file for _, cameras in chosen for file in cameras.values()] + [
            side for side in sides if side is not None
        ]
        several = path.is_dir() or len(files) > 1
        recording = Recording(
            spec=spec,
            provenance=provenance(
                path, self.name, VERSION, first.attributes, files=list(dict.fromkeys(files)) if several else None
            ),
            count=len(chosen),
            read=read,
            findings=findings,
        )
        return recording


def is_video(path: Path) -> bool:
    """Whether a file begins as a container of videos does."""
    try:
        with path.open("rb") as file:
            head = file.read(2 * TRANSPORT_PACKET + 1)
    except OSError:
        return False
    if any(head.startswith(mark, place) for place, marks in SIGNATURES.items() for mark in marks):
        return True
    if len(head) > 2 * TRANSPORT_PACKET and all(head[k * TRANSPORT_PACKET] == 0x47 for k in range(3)):
        return True
    return is_mp4(path) and head[8:12] not in (b"heic", b"heix", b"mif1", b"avif", b"M4A ", b"crx ")


def side_file(source: Path, stem: str, given: str | None, episodes: int) -> Path | None:
    """The table beside a video: as it is named, from the working folder or from that of the video.

    Raises:
        InputError: there is none, or one is to serve several videos.
    """
    if given is None:
        return None
    if STEM not in given and episodes > 1:
        raise InputError(
            f"side_file={given} is one table, but {source} has {episodes} videos: put {STEM} in the place of their "
            f"names, such as side_file={STEM}.csv, or convert the videos one by one"
        )
    name = given.replace(STEM, stem)
    folder = source if source.is_dir() else source.parent
    places = [Path(name), folder / name]
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"there is no table at {' or at '.join(map(str, dict.fromkeys(places)))}: check side_file")


@dataclass(kw_only=True)
class _Take:
    """One episode: its cameras, and the table beside them."""

    place: Path
    name: str
    indices: dict[str, VideoIndex]
    table: Table | None = None
    roles: Roles | None = None
    table_times_s: Array | None = None  # of the rows, since the first frame
    findings: list[Finding] = field(default_factory=list)

    @staticmethod
    def of(
        source: Path,
        stem: str,
        cameras: Mapping[str, Path],
        side: Path | None,
        options: ReadOptions,
        findings: list[Finding],
    ) -> "_Take":
        """Index the videos and read the table.

        Raises:
            InputError: one of them is damaged, or they do not fit one another.
        """
        indices = {key: video_index(path) for key, path in cameras.items()}
        place = source if source.is_file() else source / stem
        name = next(iter(cameras.values())).name if len(cameras) == 1 else stem
        lengths = {key: len(index) for key, index in indices.items()}
        for key, index in indices.items():
            if lengths[key] < 2:
                raise InputError(f"{index.path} has {len(index)} frame: an episode needs two")
        if len(set(lengths.values())) > 1 and options.control_period_s is None:
            raise InputError(
                f"{place}: its cameras have different numbers of frames ({lengths}), and nothing says which belong "
                "together: set control_period_s, so that they are matched by their times"
            )
        take = _Take(place=place, name=name, indices=indices)
        if side is None:
            return take
        table = read_table(side, options.table)
        roles = roles_of(table, options.table, alone=False)
        clash = sorted(set(roles.observation) & set(indices))
        if clash:
            raise InputError(f"{side}: '{clash[0]}' is the name of a camera: rename it with table.observation")
        findings += table.findings
        take.table, take.roles = table, roles
        times_s = times_of(table, roles, options.table)
        first = next(iter(indices.values()))
        if times_s is None:
            if options.table.first_frame_s is not None:
                raise InputError(f"{side}: table.first_frame_s needs the column of times: set table.time")
            if len(table) != len(first):
                raise InputError(
                    f"{side} has {len(table)} rows, but {first.path} has {len(first)} frames: a table needs a row for "
                    f"each frame, or a column of times: set table.time to one of {', '.join(table.names)}"
                )
            take.table_times_s = first.times_s
        else:
            take.table_times_s = _since_the_first_frame(take, times_s, options.table.first_frame_s, findings)
        missing = {name: int(np.isnan(table.columns[name]).sum()) for name in roles.numbers if _is_float(table, name)}
        gaps = {name: count for name, count in missing.items() if count}
        if gaps and options.table.missing != "hold":
            raise InputError(
                f"{side}: {sum(gaps.values())} numbers are missing ({', '.join(f'{k} {n}' for k, n in gaps.items())}). "
                "Set table.missing=hold to repeat the number before; a video cannot be split there"
            )
        if gaps:
            text = f"{sum(gaps.values())} numbers are missing and repeated from the row before ({', '.join(gaps)})"
            findings.append(Finding(severity="warning", place=side.name, text=text, remedy="check the table"))
        return take

    @property
    def absent(self) -> list[str]:
        """See `absent_of`."""
        return ["action", "reward", "success", "end"] if self.roles is None else absent_of(self.roles)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the videos and the table say about themselves."""
        about: dict[str, Any] = {
            key: index.attributes
            | {
                "frames": len(index),
                "average_rate": index.average_rate,
                "rotation_degrees": index.rotation_degrees,
                "width": index.width,
                "height": index.height,
            }
            for key, index in self.indices.items()
        }
        if self.table is not None:
            about["side_file"] = {"name": self.table.path.name, "rows": len(self.table), **self.table.attributes}
        return about

    def episode(self, period_s: float | None, findings: list[Finding]) -> Episode:
        """The episode, on a grid of a period where one is given.

        Raises:
            InputError: too little of it is left.
        """
        first = next(iter(self.indices.values()))
        start, end = 0.0, min(float(index.times_s[-1]) for index in self.indices.values())
        if self.table_times_s is not None:
            start, end = self._covered(start, end, findings)
        if period_s is None:
            numbers = np.flatnonzero((first.times_s >= start) & (first.times_s <= end))
            points, chosen = first.times_s[numbers], dict.fromkeys(self.indices, numbers)
        else:
            if (end - start) / period_s > LARGEST_REFINEMENT * len(first):
                raise InputError(f"{self.place}: control_period_s={period_s} is far too fine for {len(first)} frames")
            points = grid(start, end, period_s)
            chosen = {key: nearest(index.times_s, points) for key, index in self.indices.items()}
            for key, numbers in chosen.items():
                findings += _about_grid(self.indices[key], numbers, points, period_s, self.name)
        if len(points) < 2:
            raise InputError(f"{self.place}: {len(points)} frames are left, an episode needs two")
        images = {key: VideoFrames(index, chosen[key]) for key, index in self.indices.items()}
        rows = Rows(observation={key: as_array(frames) for key, frames in images.items()}, times_s=points)
        if self.table is not None and self.roles is not None and self.table_times_s is not None:
            side = rows_of(self.table, self.roles, self.table_times_s, np.arange(len(self.table)))
            side = at_times(side, points, whole_numbers_of(self.table, self.roles))
            rows = replace(side, observation=rows.observation | side.observation)
        done = rows.action is not None or rows.reward is not None or rows.success is not None
        if done:  # every frame has an action; the final observation is not recorded
            repeated = np.append(np.arange(len(points)), len(points) - 1)
            pictures = {key: as_array(frames[repeated]) for key, frames in images.items()}
            episode = episode_of(replace(rows, observation=_without(rows.observation, images)), str(self.place), {})
            episode = replace(episode, observation=pictures | episode.observation)
        else:
            episode = episode_of(rows, str(self.place), {})
        extras = dict(episode.extras)
        for key, index in self.indices.items():
            if period_s is not None:
                extras[f"timestamp_s/{key}"] = index.times_s[chosen[key]] - points[0]
        return replace(episode, extras=extras, metadata={"source": self.name})

    def _covered(self, start: float, end: float, findings: list[Finding]) -> tuple[float, float]:
        """The part of the video for which the table has rows, half a frame more at either end."""
        assert self.table_times_s is not None
        index = next(iter(self.indices.values()))
        slack = 0.5 / index.average_rate if index.average_rate > 0 else 0.0
        first, last = float(self.table_times_s[0]) - slack, float(self.table_times_s[-1]) + slack
        if first > start or last < end:
            outside = int(((index.times_s < first) | (index.times_s > last)).sum())
            text = f"{outside} of {len(index)} frames lie outside of the times of the table, and are left out"
            found = Finding(severity="warning", place=self.name, text=text, remedy="check table.time")
            if outside and found not in findings:
                findings.append(found)
        return max(start, first), min(end, last)

    def observation_spec(self, episode: Episode) -> dict[str, ArraySpec]:
        """The spec of each observation, with the names of the columns."""
        found = {}
        for key, array in episode.observation.items():
            found[key] = array_spec(array)
            if self.table is not None and self.roles is not None and key in self.roles.observation:
                found[key] = replace(found[key], names=names_of(self.table, self.roles.observation[key]))
        return found


def _sources(folder: Path) -> dict[str, dict[str, Path]]:
    """Cameras of each episode: every video of a folder, or every folder of videos in it, in natural order."""
    if not folder.is_dir():
        return {}
    videos = _videos(folder)
    if videos:
        return {path.stem if _unique(videos) else path.name: {CAMERA: path} for path in videos}
    found = {entry.name: _videos(entry) for entry in sorted(folder.iterdir(), key=_natural) if entry.is_dir()}
    return {
        name: {CAMERA if len(paths) == 1 else path.stem if _unique(paths) else path.name: path for path in paths}
        for name, paths in found.items()
        if paths
    }


def _videos(folder: Path) -> list[Path]:
    entries = [entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    return sorted((entry for entry in entries if is_video(entry)), key=_natural)


def _unique(paths: Sequence[Path]) -> bool:
    return len({path.stem for path in paths}) == len(paths)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sorts take_2 before take_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _is_float(table: Table, name: str) -> bool:
    return bool(np.issubdtype(table.columns[name].dtype, np.floating))


def _without(observation: Mapping[str, Array], keys: Mapping[str, Any]) -> dict[str, Array]:
    return {key: array for key, array in observation.items() if key not in keys}


def _since_the_first_frame(take: _Take, times_s: Array, first_frame_s: float | None, findings: list[Finding]) -> Array:
    """Times of a table on the clock of its video.

    Raises:
        InputError: they go back, or miss the video.
    """
    assert take.table is not None
    place = take.table.path
    back = np.flatnonzero(np.diff(times_s) < 0)
    if len(back):
        raise InputError(f"{place}: the time goes back at row {back[0] + 2}: sort the table")
    end_s = float(next(iter(take.indices.values())).times_s[-1])
    remedy = "set table.time_unit_s to the seconds in a unit of table.time"
    if first_frame_s is not None:
        times_s = times_s - first_frame_s
        remedy += ", and table.first_frame_s to the time of the first frame on that clock"
    elif abs(times_s[0]) > EPOCH_S:
        text = "its times are of another clock: its first row is taken to be of the first frame"
        why = "where it is not: set table.first_frame_s to the time of the first frame, in seconds on the table's clock"
        findings.append(Finding(severity="warning", place=place.name, text=text, remedy=why))
        times_s = times_s - times_s[0]
    if times_s[0] >= end_s or times_s[-1] <= 0:
        raise InputError(
            f"{place}: its times, {times_s[0]:g} to {times_s[-1]:g} s, miss the video, 0 to {end_s:g} s: {remedy}"
        )
    return times_s


def _control_period_s(take: _Take, options: ReadOptions) -> tuple[float | None, list[Finding]]:
    """The declared one, else that of the first camera where its rate is constant."""
    if options.control_period_s is not None:
        return options.control_period_s, []
    index = next(iter(take.indices.values()))
    rate = index.constant_rate
    if rate is not None:
        return float(f"{1 / rate:.6g}"), []
    steps = np.diff(index.times_s)
    text = (
        f"the frame rate varies: frames are {steps.min():.4g} to {steps.max():.4g} s apart, {index.average_rate:.4g} "
        "a second on average; all are kept, and there is no control period"
    )
    remedy = f"set control_period_s, such as {float(np.median(steps)):.3g}, to resample them to a regular one"
    return None, [Finding(severity="warning", place=take.name, text=text, remedy=remedy)]


def _other_rate(take: _Take, spec: Spec, options: ReadOptions) -> list[Finding]:
    """Where a video runs at another rate than the first."""
    period_s = _control_period_s(take, options)[0]
    if period_s == spec.control_period_s:
        return []
    text = f"its frames are {period_s} s apart, those of the first video {spec.control_period_s} s"
    remedy = "set control_period_s to resample all videos to one"
    return [Finding(severity="warning", place=take.name, text=text, remedy=remedy)]


def _about_grid(index: VideoIndex, numbers: Array, points: Array, period_s: float, place: str) -> list[Finding]:
    """How many frames were repeated or left out, and how far the worst is from its time."""
    repeated = int((np.diff(numbers) == 0).sum())
    left_out = int(numbers[-1] - numbers[0] + 1 - len(np.unique(numbers)))
    worst_s = float(np.abs(index.times_s[numbers] - points).max())
    if not repeated and not left_out and worst_s <= 0.5 * period_s:
        return []
    text = (
        f"resampled to {period_s:g} s: {len(points)} of {len(index)} frames, {repeated} repeated, {left_out} left out; "
        f"none is more than {worst_s:.4g} s from its time"
    )
    severity = "warning" if worst_s > period_s else "information"
    remedy = "set a control_period_s near that of the video" if severity == "warning" else ""
    return [Finding(severity=severity, place=place, text=text, remedy=remedy)]


def _success(take: _Take, options: ReadOptions, path: Path) -> tuple[SuccessSource, list[Finding]]:
    roles, table = take.roles, take.table
    if roles is None or table is None:
        if options.success is None:
            return SuccessSource(rule=None, success_reward=None), []
        return SuccessSource(rule=options.success, success_reward=None), []
    rewards = [] if roles.reward is None else [held_rewards(table, roles, [np.arange(len(table))])]
    if not rewards and roles.success is None and options.success is None:
        return SuccessSource(rule=None, success_reward=None), []
    return SuccessSource.of(options, rewards, recorded=roles.success is not None, path=path)
