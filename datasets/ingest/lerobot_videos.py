"""The videos of LeRobot v3.0: which frames of which file are an episode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from robot_rl.datasets.ingest.lerobot import Info
from robot_rl.datasets.ingest.lerobot_episode import Rows
from robot_rl.datasets.ingest.lerobot_layout import Layout
from robot_rl.datasets.ingest.lerobot_meta import EpisodeMeta, InVideo, video_path
from robot_rl.datasets.ingest.lerobot_recording import named
from robot_rl.datasets.schema import Finding
from robot_rl.datasets.video import VideoIndex, video_index
from robot_rl.errors import InputError
from robot_rl.types import Array

MOST_FILES = 100_000


@dataclass(kw_only=True)
class Videos:
    """Places of all episodes in the videos of all cameras; first frames are looked up when a video is first asked for.

    `findings` takes what the containers say then.
    """

    places: dict[str, dict[int, InVideo]]  # by our key and episode_index
    lengths: dict[int, int]  # frames of each episode in its videos
    findings: list[Finding]
    place: str
    _first: dict[tuple[str, Path], dict[int, int]] = field(default_factory=dict)
    _indices: dict[Path, VideoIndex] = field(default_factory=dict)

    @staticmethod
    def of(
        info: Info,
        layout: Layout,
        episodes: Sequence[Rows],
        declared: Mapping[int, EpisodeMeta],
        findings: list[Finding],
        extra_frames: Mapping[int, int] | None = None,
    ) -> "Videos":
        """Places as meta/episodes declares them; those it lacks are counted behind the ones before.

        Args:
            info: of the data set.
            layout: with the cameras.
            episodes: all of them, in order.
            declared: by episode_index.
            findings: of the recording.
            extra_frames: by episode_index, frames behind the last row (final observations of our exporter).
        """
        more = extra_frames or {}
        lengths = {rows.episode: len(rows) + more.get(rows.episode, 0) for rows in episodes}
        rate = info.fps
        places: dict[str, dict[int, InVideo]] = {}
        for key, feature in layout.videos.items():
            known = {
                number: meta.videos[feature.name] for number, meta in declared.items() if feature.name in meta.videos
            }
            places[key] = {rows.episode: known[rows.episode] for rows in episodes if rows.episode in known}
            lacking = [rows.episode for rows in episodes if rows.episode not in known]
            if lacking and rate is not None:
                counted = _counted(info, feature.name, places[key], lengths, [rows.episode for rows in episodes])
                places[key] |= counted
                lost = [number for number in lacking if number not in counted]
                text = f"meta/episodes does not say where episodes {named(lacking)} lie in {feature.name}: "
                text += f"{len(counted)} were found by counting frames" + (f", {len(lost)} were not" if lost else "")
                remedy = "look at these episodes: images and states must fit"
                findings.append(Finding(severity="warning", place=info.place, text=text, remedy=remedy))
            findings += _absent(places[key], key, feature.name, info.place)
            findings += _durations(places[key], lengths, more, rate, feature.name, info.place)
        return Videos(places=places, lengths=lengths, findings=findings, place=info.place)

    def any_file(self, key: str) -> Path | None:
        """A video of a camera that is there."""
        return next((video.path for video in self.places[key].values() if video.path.is_file()), None)

    def first_frame(self, key: str, episode: int, place: str) -> tuple[VideoIndex, int]:
        """The video of an episode, and the number of its first frame.

        Raises:
            InputError: it has none, or it is missing or damaged.
        """
        video = self.places[key].get(episode)
        if video is None:
            raise InputError(
                f"{place}: where it lies in the videos of '{key}' is not known: meta/episodes is incomplete"
            )
        if not video.path.is_file():
            raise InputError(
                f"{place}: {video.path} is missing: copy the videos, or leave the camera out with exclude=[{key}]"
            )
        if video.path not in self._indices:
            self._indices[video.path] = video_index(video.path)
        index = self._indices[video.path]
        if (key, video.path) not in self._first:
            inside = {number: other for number, other in self.places[key].items() if other.path == video.path}
            self._first[key, video.path] = self._look_up(index, inside)
        return index, self._first[key, video.path][episode]

    def _look_up(self, index: VideoIndex, inside: Mapping[int, InVideo]) -> dict[int, int]:
        order = sorted(inside, key=lambda number: (inside[number].from_s, number))
        starts_s = np.asarray([inside[number].from_s for number in order])
        lengths = np.asarray([self.lengths[number] for number in order])
        first, text = first_frames(index, starts_s, lengths)
        if text:
            place = f"{self.place}: {index.path.name}"
            remedy = "look at these episodes: images and states must fit"
            self.findings.append(Finding(severity="warning", place=place, text=text, remedy=remedy))
        return dict(zip(order, first.tolist(), strict=True))


def first_frames(index: VideoIndex, starts_s: Array, lengths: Array) -> tuple[Array, str]:
    """The first frame of each episode in a video, and what is odd about it.

    The frame nearest to `from_timestamp` in presentation time is compared with the sum of the lengths before it. Where
    they differ and all lengths together are the frames of the container, float times have drifted and the sum counts;
    otherwise there are frames that belong to no episode, and the time counts.

    Shapes: (K,), (K,) -> (K,).
    """
    times_s = index.times_s
    if len(times_s) == 0:
        return np.zeros(len(starts_s), np.int64), "the video has no frames"
    right = np.clip(np.searchsorted(times_s, starts_s), 1, max(1, len(times_s) - 1))
    left = np.minimum(right - 1, len(times_s) - 1)
    right = np.minimum(right, len(times_s) - 1)
    nearest = np.where(np.abs(times_s[left] - starts_s) <= np.abs(times_s[right] - starts_s), left, right)
    counted = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    total = int(lengths.sum())
    period = float(np.median(np.diff(times_s))) if len(times_s) > 1 else np.inf
    off = np.abs(times_s[nearest] - starts_s) > period / 2
    differ = int((nearest != counted).sum())
    parts = []
    if total != len(index):
        parts.append(f"it has {len(index)} frames, its episodes {total} together")
    if off.any():
        parts.append(f"{int(off.sum())} of {len(starts_s)} episodes begin where there is no frame")
    if differ and total == len(index):
        parts.append(
            f"from_timestamp of {differ} episodes is not where the lengths before it end: the lengths are taken"
        )
    first = counted if total == len(index) else nearest
    return first.astype(np.int64), "; ".join(parts)


def _counted(
    info: Info, name: str, known: Mapping[int, InVideo], lengths: Mapping[int, int], episodes: Sequence[int]
) -> dict[int, InVideo]:
    """Places of the episodes that have none, as a recorder fills files: behind the last episode, else in the next file.

    Only episodes behind all known ones are placed.
    """
    assert info.fps is not None
    behind = [number for number in episodes if number > max(known, default=-1)]
    files = _files(info, name)
    number, used = 0, 0
    if known:
        last = known[max(known)]
        if last.path not in files:
            return {}
        number, used = files.index(last.path), round(last.to_s * info.fps)
    found: dict[int, InVideo] = {}
    for episode in behind:
        while number < len(files) and _frames(files[number]) < used + lengths[episode]:
            number, used = number + 1, 0
        if number == len(files):
            break
        start, used = used, used + lengths[episode]
        found[episode] = InVideo(path=files[number], from_s=start / info.fps, to_s=used / info.fps)
    return found


def _files(info: Info, name: str) -> list[Path]:
    """The videos of a camera that are there, in their order."""
    size = info.total("chunks_size")
    per_chunk = 1000 if size is None or size < 1 else size
    files: list[Path] = []
    for number in range(MOST_FILES):
        path = video_path(info, name, number // per_chunk, number % per_chunk)
        if not path.is_file():
            break
        files.append(path)
    return files


def _frames(path: Path) -> int:
    try:
        return len(video_index(path))
    except InputError:  # the video of a session that was cut off; nothing in it can be counted
        return 0


def _absent(places: Mapping[int, InVideo], key: str, name: str, place: str) -> list[Finding]:
    paths = {video.path for video in places.values()}
    missing = sorted(path for path in paths if not path.is_file())
    if places and not missing:
        return []
    if len(missing) == len(paths):
        text = f"{name} is declared, but no video of it is there, so the observation '{key}' is left out"
        remedy = "copy the folder `videos` too, if the camera is wanted"
    else:
        text = f"{len(missing)} of {len(paths)} videos of {name} are missing: {named([path.name for path in missing])}"
        remedy = f"their episodes are refused; copy the videos, or leave the camera out with exclude=[{key}]"
    return [Finding(severity="error", place=place, text=text, remedy=remedy)]


def _durations(
    places: Mapping[int, InVideo],
    lengths: Mapping[int, int],
    more: Mapping[int, int],
    fps: float | None,
    name: str,
    place: str,
) -> list[Finding]:
    if fps is None:
        return []
    odd = [
        number
        for number, video in places.items()
        if abs((video.to_s - video.from_s) * fps - (lengths[number] - more.get(number, 0))) > 0.5
    ]
    if not odd:
        return []
    text = f"to_timestamp - from_timestamp of {name} is not length / fps in episodes {named(odd)}"
    remedy = "the number of rows is taken; look at these episodes"
    return [Finding(severity="warning", place=place, text=text, remedy=remedy)]
