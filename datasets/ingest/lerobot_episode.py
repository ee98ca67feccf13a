"""Rows of a LeRobot table, and the frames beside them, become an episode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from robot_rl.datasets.frames import EncodedFrames, Frames, as_array, lazy
from robot_rl.datasets.ingest.arrow import numbers, texts
from robot_rl.datasets.ingest.base import ReadOptions, SuccessSource
from robot_rl.datasets.ingest.lerobot import Feature, inside
from robot_rl.datasets.ingest.lerobot_layout import Layout
from robot_rl.datasets.schema import Finding
from robot_rl.datasets.video import VideoFrames, VideoIndex, video_index
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

TIMESTAMP_TOLERANCE_S = 1e-4  # of LeRobot's own loader
LARGEST_IMAGE_FILE = 1 << 28  # bytes


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Where the rows of an episode lie, with its scalar columns."""

    episode: int  # episode_index
    path: Path
    start: int
    stop: int
    scalars: dict[str, Array] = field(default_factory=dict)  # each (N,): INDEX_COLUMNS and the facts
    problem: str = ""  # why they cannot be read

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class ExtraColumn:
    """Where our exporter put an extra."""

    feature: str | None  # None where a row has no numbers
    dtype: str
    shape: tuple[int, ...]
    behind: bool  # there is a row behind the last step


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What our exporter adds for one episode, so that it comes back exactly."""

    spec: Spec
    extras: dict[str, ExtraColumn]
    has_final_observation: bool
    frame_behind: int  # 1 where the videos have a frame behind the last row
    success_known: bool
    metadata: dict[str, Any]
    last_rows: Mapping[str, Array | bytes]
    """`observation/<key>` and `extras/<key>` behind the last row of the table; images as they were encoded."""


def assemble(
    layout: Layout,
    table: pa.Table,
    frames: Mapping[str, Frames],
    *,
    root: Path,
    options: ReadOptions,
    success: SuccessSource,
    metadata: dict[str, Any],
    place: str,
    kept: Kept | None,
    findings: list[Finding],
) -> Episode:
    """An episode of N frames: N steps without a final observation where there are actions, else N - 1 with one.

    Args:
        layout: what each column means.
        table: the N rows.
        frames: of each camera of `layout.videos`; N, or N + 1 where `kept` has the final observation.
        root: of the data set, where images lie beside the table.
        options: of the reader.
        success: how it is told.
        metadata: of the episode.
        place: the episode, in words.
        kept: what our exporter added.
        findings: takes what is odd in this episode.

    Raises:
        InputError: a column is damaged, or there are not enough rows.
    """
    count = len(table)
    steps = count if layout.actions else count - 1
    if steps < 1:
        raise InputError(f"{place} has {count} frames: at least {2 - bool(layout.actions)} are needed")
    columns = {name: numbers(table[name], f"{place}: {name}") for name in (*sorted(layout.facts), *layout.indices)}
    observation: dict[str, Array] = {}
    for key, feature in layout.observations.items():
        rows = shaped(numbers(table[feature.name], f"{place}: {feature.name}"), feature, place)
        observation[key] = _with_last(rows, steps, _last(kept, f"observation/{key}"))
    for key, feature in layout.images.items():
        encoded = encoded_frames(table[feature.name], root, f"{place}: {feature.name}")
        last = None if kept is None else kept.last_rows.get(f"observation/{key}")
        if isinstance(last, bytes) and len(encoded) == steps:
            encoded = EncodedFrames([*encoded.encoded, last], encoded.shape[1:], encoded.place)
        observation[key] = _frames_with_last(encoded, steps)
    for key in layout.videos:
        observation[key] = _frames_with_last(frames[key], steps)
    if layout.actions:
        parts = [shaped(numbers(table[f.name], f"{place}: {f.name}"), f, place) for f in layout.actions]
        action = np.concatenate([part.reshape(count, -1) for part in parts], axis=1).astype(layout.action_dtype)
    else:
        action = np.zeros((steps, 0), np.float32)
    extras = {
        key: shaped(numbers(table[feature.name], f"{place}: {feature.name}"), feature, place)
        for key, feature in layout.extras.items()
    }
    if "timestamp" in columns:
        seconds = columns["timestamp"].astype(np.float64).reshape(count)
        extras.setdefault("timestamp_s", seconds - seconds[0])
    for key, feature in layout.texts.items():
        metadata[key] = runs(texts(table[feature.name], f"{place}: {feature.name}"))
    reward = columns["next.reward"].reshape(count)[:steps] if "next.reward" in columns else np.zeros(steps, np.float32)
    recorded = "next.success" in columns and (kept is None or kept.success_known)
    episode = Episode(
        observation=observation,
        action=action,
        reward=reward,
        terminated=np.zeros(steps, bool),
        truncated=np.arange(steps) == steps - 1,
        success=columns["next.success"].reshape(count)[:steps].astype(bool) if recorded else None,
        intervened=columns["intervened"].reshape(count)[:steps].astype(bool) if "intervened" in columns else None,
        has_final_observation=not layout.actions,
        extras=extras,
        metadata=metadata,
    )
    if kept is not None:
        return _as_exported(episode, columns, kept)
    episode = success.label(episode, place)
    return _with_end(episode, columns, options, place, findings)


def shaped(rows: Array, feature: Feature, place: str) -> Array:
    """A column in the shape and data type that info.json declares. Shapes: (N, *) -> (N, *shape).

    Raises:
        InputError: it has another number of channels, or does not fit the data type.
    """
    if int(np.prod(rows.shape[1:])) != int(np.prod(feature.shape)):
        found = list(rows.shape[1:]) or [1]
        raise InputError(f"{place}: {feature.name} has shape {found}, but info.json says {list(feature.shape)}")
    dtype = np.dtype(feature.dtype)
    if rows.dtype != dtype and not np.can_cast(rows.dtype, dtype, casting="same_kind"):
        raise InputError(f"{place}: {feature.name} holds {rows.dtype}, but info.json says {dtype}")
    return rows.reshape(len(rows), *feature.shape).astype(dtype, copy=False)


def runs(values: Sequence[str]) -> Any:
    """A text that stays the same, else `[[first step, text], ...]`."""
    changes = [0, *(i for i in range(1, len(values)) if values[i] != values[i - 1])]
    return values[0] if len(changes) == 1 else [[start, values[start]] for start in changes]


def encoded_frames(column: pa.ChunkedArray, root: Path, place: str) -> EncodedFrames:
    """Images of a column `struct{bytes, path}` or of bytes; those without bytes lie beside the table.

    Raises:
        InputError: there is neither, or the first is damaged.
    """
    encoded = []
    for number, value in enumerate(column.to_pylist()):
        data = value.get("bytes") if isinstance(value, dict) else value
        name = value.get("path") if isinstance(value, dict) else None
        if data is None and isinstance(name, str):
            data = _image_file(inside(root, name), place)
        if not isinstance(data, bytes):
            raise InputError(f"{place} has no image in row {number}: copy the data set again from its source")
        encoded.append(data)
    return EncodedFrames.of(encoded, place)


def frames_of_video(index: VideoIndex, first: int, frame_index: Array | None, count: int, place: str) -> VideoFrames:
    """The frames of an episode that begins with frame `first` of a video, by frame number.

    Args:
        index: of the video.
        first: frame of the first row, where `frame_index` is 0.
        frame_index: (N,) of the rows; passed over where it does not grow.
        count: of frames.
        place: for messages.

    Raises:
        InputError: the video is too short.
    """
    if count > len(index):
        raise InputError(f"{place} has {count} frames, {index.path} has {len(index)}: the video is too short")
    steps = np.arange(count)
    if frame_index is not None and is_growing(frame_index):
        steps = np.concatenate([frame_index, frame_index[-1] + 1 + np.arange(count - len(frame_index))])
    if first < 0 or first + int(steps[-1]) >= len(index):
        raise InputError(
            f"{place} needs frames {first} to {first + int(steps[-1])} of {index.path}, which has {len(index)}: "
            "the video is too short"
        )
    return VideoFrames(index, first + steps.astype(np.int64))


def is_growing(frame_index: Array) -> bool:
    """Whether the numbers can be taken as numbers of frames."""
    return bool(frame_index[0] >= 0 and (np.diff(frame_index) > 0).all())


def findings_on_rows(episodes: Sequence[Rows], fps: float | None, place: str) -> list[Finding]:
    """What the index columns of all episodes say: numbers that do not count, times that drift."""
    findings = []
    odd = [rows.episode for rows in episodes if not _counts(rows)]
    if odd:
        text = f"frame_index does not count from 0 by 1 in {len(odd)} episodes, the first is {odd[0]}"
        remedy = "frames are taken by frame_index where it grows; check the recorder"
        findings.append(Finding(severity="warning", place=place, text=text, remedy=remedy))
    if fps is None:
        return findings
    drifts = {rows.episode: _drift(rows.scalars["timestamp"], fps) for rows in episodes if "timestamp" in rows.scalars}
    drifting = [episode for episode, drift in drifts.items() if not drift <= TIMESTAMP_TOLERANCE_S]
    if drifting:
        worst = max(drifting, key=lambda episode: drifts[episode])
        text = (
            f"timestamp differs from frame / fps by more than {TIMESTAMP_TOLERANCE_S:g} s in {len(drifting)} episodes, "
            f"most in episode {worst}: {drifts[worst]:.3g} s"
        )
        remedy = "frames are taken by number, not by time; check whether fps is right"
        findings.append(Finding(severity="warning", place=place, text=text, remedy=remedy))
    return findings


def video_specs(
    layout: Layout, videos: Mapping[str, Path | None], place: str
) -> tuple[dict[str, ArraySpec], list[Finding]]:
    """The size of each camera by a video of it; a size that info.json declares otherwise is a finding.

    Raises:
        InputError: the video is damaged.
    """
    specs, findings = {}, []
    for key, feature in layout.videos.items():
        path = videos.get(key)
        if path is None:
            continue
        index = video_index(path)
        specs[key] = ArraySpec(shape=(index.height, index.width, 3), dtype="uint8")
        if feature.shape and sorted(feature.shape) != sorted((index.height, index.width, 3)):
            size = f"{path.name} has {index.height} x {index.width} pixels"
            text = f"info.json declares {feature.name} with the shape {list(feature.shape)}, but {size}"
            remedy = "the size of the video is taken; repair info.json"
            findings.append(Finding(severity="warning", place=place, text=text, remedy=remedy))
    return specs, findings


def number_specs(layout: Layout) -> dict[str, ArraySpec]:
    """Specs of the observations that are numbers."""
    return {
        key: ArraySpec(shape=feature.shape, dtype=feature.dtype, names=feature.names)
        for key, feature in layout.observations.items()
    }


def _counts(rows: Rows) -> bool:
    found = rows.scalars.get("frame_index")
    return found is None or bool((found == np.arange(len(found))).all())


def _drift(timestamp: Array, fps: float) -> float:
    seconds = timestamp.astype(np.float64)
    return float(np.abs(seconds - seconds[0] - np.arange(len(seconds)) / fps).max())


def _with_last(rows: Array, steps: int, last: Array | None) -> Array:
    if len(rows) == steps + 1:
        return rows
    final = rows[-1:] if last is None else last.reshape(1, *rows.shape[1:]).astype(rows.dtype, copy=False)
    return np.concatenate([rows, final])


def _frames_with_last(frames: Frames, steps: int) -> Array:
    if len(frames) == steps:
        frames = frames[np.append(np.arange(steps), steps - 1)]
    return as_array(frames)


def _last(kept: Kept | None, key: str) -> Array | None:
    last = None if kept is None else kept.last_rows.get(key)
    return None if isinstance(last, bytes) else last


def _as_exported(episode: Episode, columns: Mapping[str, Array], kept: Kept) -> Episode:
    """The episode as it was in the store."""
    steps = len(episode)
    terminated, truncated = (
        columns[name].reshape(-1)[:steps].astype(bool) if name in columns else recorded
        for name, recorded in (("next.terminated", episode.terminated), ("next.truncated", episode.truncated))
    )
    observation = dict(episode.observation)
    for key, array in kept.spec.observation.items():
        if key in observation and lazy(observation[key]) is None:
            observation[key] = observation[key].reshape(steps + 1, *array.shape)
    intervened = episode.intervened
    return replace(
        episode,
        observation={key: observation[key] for key in kept.spec.observation if key in observation},
        terminated=terminated,
        truncated=truncated,
        intervened=None if intervened is None or not intervened.any() else intervened,
        extras={key: _exported_extra(key, extra, episode, kept) for key, extra in kept.extras.items()},
        has_final_observation=kept.has_final_observation,
        metadata=kept.metadata,
    )


def _exported_extra(key: str, extra: ExtraColumn, episode: Episode, kept: Kept) -> Array:
    steps = len(episode)
    if extra.feature is None:
        return np.zeros((steps + extra.behind, *extra.shape), extra.dtype)
    rows = episode.extras[key].reshape(-1, *extra.shape)
    if not extra.behind:
        return rows[:steps]
    last = _last(kept, f"extras/{key}")
    if len(rows) == steps + 1:
        return rows
    if last is None:
        raise InputError(f"the last row of the extra '{key}' is missing from meta/robot_rl: copy the data set again")
    return np.concatenate([rows, last[None]])


def _with_end(
    episode: Episode, columns: Mapping[str, Array], options: ReadOptions, place: str, findings: list[Finding]
) -> Episode:
    """The end of an episode out of `next.done`, or of our own columns where the rest of an export is gone."""
    steps = len(episode)
    done = columns["next.done"].reshape(-1)[:steps].astype(bool) if "next.done" in columns else np.zeros(steps, bool)
    if done[:-1].any():
        step = int(np.flatnonzero(done)[0])
        text = f"next.done is set at step {step} of {steps} though the recording goes on: the episode ends with it"
        remedy = "cut the episode there if the task is over"
        findings.append(Finding(severity="warning", place=place, text=text, remedy=remedy))
    terminated = np.zeros(steps, bool)
    if "next.terminated" in columns:
        terminated[-1] = bool(columns["next.terminated"].reshape(-1)[steps - 1])
    elif options.done_semantics == "auto":
        terminated[-1] = done[-1] and episode.success is not None and bool(episode.success[-1])
    else:
        terminated[-1] = done[-1] and options.done_semantics == "terminated"
    truncated = np.zeros(steps, bool)
    truncated[-1] = not terminated[-1]
    return replace(episode, terminated=terminated, truncated=truncated)


def _image_file(path: Path, place: str) -> bytes:
    try:
        if path.stat().st_size > LARGEST_IMAGE_FILE:
            raise InputError(f"{place}: {path} is too large for an image")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{place}: {path} cannot be read ({error.strerror or error})") from error
