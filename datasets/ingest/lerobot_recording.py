"""What is the same for every LeRobot layout once it is known where the rows and frames of each episode lie."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from robot_rl.datasets.frames import Frames
from robot_rl.datasets.ingest.arrow import numbers
from robot_rl.datasets.ingest.base import ReadOptions, Recording, SuccessSource, provenance
from robot_rl.datasets.ingest.lerobot import Info
from robot_rl.datasets.ingest.lerobot_episode import (
    Rows,
    assemble,
    encoded_frames,
    findings_on_rows,
    number_specs,
    runs,
    shaped,
    video_specs,
)
from robot_rl.datasets.ingest.lerobot_exported import Exported
from robot_rl.datasets.ingest.lerobot_layout import Layout, action_bounds, layout_of
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

NAMED = 5  # episodes or files that a finding names


@dataclass(kw_only=True)
class Source:
    """A data set whose episodes are found."""

    info: Info
    layout: Layout
    episodes: list[Rows]
    table: Callable[[Layout, Rows], pa.Table]
    """The columns of a layout."""
    frames: Callable[[Layout, Rows, int], Mapping[str, Frames]]
    """So many frames of each camera of a layout."""
    videos: Mapping[str, Path | None]  # one of each camera
    tasks: Mapping[int, str]
    statistics: Sequence[Mapping[str, Any]]
    files: Sequence[Path]
    findings: list[Finding]
    resources: ExitStack
    exported: Exported | None = None
    tasks_of_episode: Mapping[int, str] = field(default_factory=dict)  # where the rows do not say


def recording_of(source: Source, options: ReadOptions, reader: str, version: int) -> Recording:
    """The recording of a data set.

    Raises:
        InputError: there is no episode, or nothing to learn from.
    """
    info, findings = source.info, source.findings
    if not source.episodes:
        raise InputError(f"{info.root} has no episode: copy the data set again from its source")
    findings += findings_on_rows(source.episodes, info.fps, info.place)
    episodes = source.episodes[: options.maximum_episodes]
    specs, more = video_specs(source.layout, source.videos, info.place)
    findings += more
    images, more = _image_specs(source, episodes)
    findings += more
    lost = [key for key in source.layout.videos if key not in specs]
    dropped = [key for key in source.layout.images if key not in images]
    layout = replace(
        source.layout.without_videos(lost),
        images={key: feature for key, feature in source.layout.images.items() if key not in dropped},
    )
    source = replace(source, layout=layout)
    observations = number_specs(layout) | images | specs
    rewards = [rows.scalars["next.reward"] for rows in episodes if "next.reward" in rows.scalars]
    recorded = "next.success" in layout.facts
    success, more = SuccessSource.of(options, rewards or [np.zeros(1)], recorded, info.root)
    findings += more
    if source.exported is not None:
        declared = source.exported.spec
        there = {key: array for key, array in declared.observation.items() if key in observations}
        for key in images | specs:
            if key in there and there[key].shape != observations[key].shape:
                there[key] = observations[key]
        spec = replace(declared, observation=there)
    else:
        action, more = _action(source, episodes, options)
        findings += more
        absent = success.lacking(layout.absent)
        spec = Spec(
            observation=observations,
            action=action,
            control_period_s=options.control_period_s if info.fps is None else 1 / info.fps,
            metadata={"absent": absent} if absent else {},
        )

    def read(number: int) -> Episode:
        rows = episodes[number]
        return _read(source, rows, options, success, findings)

    return Recording(
        spec=spec,
        provenance=provenance(info.root, reader, version, _about(info), files=source.files),
        count=len(episodes),
        read=read,
        findings=findings,
        resources=source.resources,
    )


def only_videos(info: Info, reason: str) -> tuple[Layout, list[Finding]]:
    """The layout that is left where no table can be read: cameras.

    Raises:
        InputError: there is no camera either.
    """
    layout, _ = layout_of(info.features, list(info.features), info.place)
    if not layout.videos:
        raise InputError(f"{info.root}: {reason}, and there are no videos: copy the data set again from its source")
    text = f"{reason}: only the videos are left, without actions and states"
    finding = Finding(severity="error", place=info.place, text=text, remedy="copy the folder `data` again")
    return replace(
        layout, observations={}, images={}, actions=(), extras={}, texts={}, facts=frozenset(), indices=()
    ), [finding]


def findings_on_totals(info: Info, episodes: int, frames: int) -> list[Finding]:
    """Where info.json counts otherwise than the files, or has splits beyond them."""
    findings = []
    for name, found in (("total_episodes", episodes), ("total_frames", frames)):
        declared = info.total(name)
        if declared is not None and declared != found:
            text = f"info.json declares {name}={declared}, but the files have {found}"
            remedy = "the files are taken; the data set is incomplete, or info.json is wrong"
            findings.append(Finding(severity="warning", place=info.place, text=text, remedy=remedy))
    return findings


def findings_on_splits(info: Info, episodes: Sequence[int]) -> list[Finding]:
    """Splits that reach beyond the last episode."""
    findings = []
    end = max(episodes, default=-1) + 1
    for name, (start, stop) in info.splits.items():
        if stop > end:
            text = f"info.json declares the split {name} as {start}:{stop}, but the last episode is {end - 1}"
            remedy = "the episodes that are there keep their split"
            findings.append(Finding(severity="warning", place=info.place, text=text, remedy=remedy))
    return findings


def findings_on_salvage(salvaged: Mapping[Path, str], place: str) -> list[Finding]:
    """Tables whose writer died before it closed them."""
    return [
        Finding(
            severity="warning",
            place=place,
            text=f"{path.name} has no footer: its writer was stopped before it closed the file; saved from it: {saved}",
            remedy="frames behind them are lost; the videos may have more",
        )
        for path, saved in salvaged.items()
    ]


def finding_on_gaps(episodes: Sequence[int], place: str) -> list[Finding]:
    """Numbers that are left out between the first and the last episode."""
    there = sorted({-1, *(number for number in episodes if number >= 0)})
    gaps = [(before + 1, after) for before, after in pairwise(there) if after > before + 1]
    if not gaps:
        return []
    count = sum(stop - start for start, stop in gaps)
    where = [f"{start}" if stop == start + 1 else f"{start} to {stop - 1}" for start, stop in gaps]
    text = f"episode_index leaves out {count} numbers: {named(where)}"
    remedy = "nothing to do: episodes are joined by episode_index"
    return [Finding(severity="information", place=place, text=text, remedy=remedy)]


def all_files(root: Path) -> list[Path]:
    """What belongs to a data set, in order."""
    folders = [root / name for name in ("meta", "data", "videos", "images")]
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.rglob("*")) if path.is_file()]


def named(items: Sequence[Any]) -> str:
    """The first few of a list, in words."""
    return ", ".join(map(str, items[:NAMED])) + (f" and {len(items) - NAMED} more" if len(items) > NAMED else "")


def _read(source: Source, rows: Rows, options: ReadOptions, success: SuccessSource, findings: list[Finding]) -> Episode:
    info, layout = source.info, source.layout
    place = f"{info.root}: episode {rows.episode}"
    kept = None if source.exported is None else source.exported.episodes.get(rows.episode)
    metadata: dict[str, Any] = {"source": f"episode_index {rows.episode}"}
    if "task_index" in rows.scalars and source.tasks:
        known = [source.tasks.get(int(number), "") for number in rows.scalars["task_index"]]
        metadata["language"] = known[0]
        if isinstance(changes := runs(known), list):
            metadata["tasks"] = changes
    elif rows.episode in source.tasks_of_episode:
        metadata["language"] = source.tasks_of_episode[rows.episode]
    if (split := info.split(rows.episode)) is not None:
        metadata["split"] = split
    if rows.problem:
        raise InputError(f"{place}: {rows.problem}")
    table = source.table(layout, rows)
    more_frames = 0 if kept is None else kept.frame_behind
    return assemble(
        layout,
        table,
        source.frames(layout, rows, len(rows) + more_frames) if layout.videos else {},
        root=info.root,
        options=options,
        success=success,
        metadata=metadata,
        place=place,
        kept=kept,
        findings=findings,
    )


def _action(source: Source, episodes: Sequence[Rows], options: ReadOptions) -> tuple[ArraySpec, list[Finding]]:
    layout, place = source.layout, source.info.place
    if not layout.actions:
        return ArraySpec(shape=(0,)), []
    known = all(any(feature.name in entry for entry in source.statistics) for feature in layout.actions)
    data = None if known else _recorded_range(source, episodes)
    return action_bounds(layout, options, source.statistics, data, place)


def _recorded_range(source: Source, episodes: Sequence[Rows]) -> Array | None:
    ranges = []
    for rows in episodes:
        try:
            table = source.table(source.layout, rows)
            parts = [
                shaped(numbers(table[f.name], f.name), f, source.info.place).reshape(len(rows), -1)
                for f in source.layout.actions
            ]
        except InputError:  # `read` refuses this episode with the same words
            continue
        action = np.concatenate(parts, axis=1)
        ranges += [action.min(axis=0), action.max(axis=0)]
    return np.asarray(ranges) if ranges else None


def _image_specs(source: Source, episodes: Sequence[Rows]) -> tuple[dict[str, ArraySpec], list[Finding]]:
    specs: dict[str, ArraySpec] = {}
    findings: list[Finding] = []
    for key, feature in source.layout.images.items():
        reason = ""
        for rows in episodes:
            try:
                column = source.table(source.layout, rows)[feature.name].slice(0, 1)
                frames = encoded_frames(column, source.info.root, f"{source.info.place}: {feature.name}")
            except InputError as error:
                reason = reason or str(error)
                continue
            specs[key] = ArraySpec(shape=tuple(frames.shape[1:]), dtype="uint8")
            break
        else:
            text = f"the images of {feature.name} cannot be read, so the observation is left out: {reason}"
            findings.append(Finding(severity="error", place=source.info.place, text=text, remedy="copy it again"))
    return specs, findings


def _about(info: Info) -> dict[str, Any]:
    names = ("codebase_version", "robot_type", "fps", "total_episodes", "total_frames", "total_tasks", "splits")
    return {name: info.declared[name] for name in names if name in info.declared}
