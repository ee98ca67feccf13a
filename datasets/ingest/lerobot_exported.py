"""What our exporter adds to a LeRobot data set, under `meta/robot_rl`, so that a store comes back exactly.

LeRobot passes over it. `spec.json` has the spec and which feature is which key, `episodes.jsonl` has the metadata and
what is known of each episode, `last_rows.parquet` has the observations behind the last step, which LeRobot's layout
cannot hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.ingest.arrow import clear_arrow_errors
from robot_rl.datasets.ingest.lerobot import Feature, Info, read_json, read_json_lines
from robot_rl.datasets.ingest.lerobot_episode import ExtraColumn, Kept, Rows
from robot_rl.datasets.ingest.lerobot_layout import Layout
from robot_rl.datasets.ingest.lerobot_tables import open_table
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array

FOLDER = "meta/robot_rl"
SPEC_FILE = f"{FOLDER}/spec.json"
EPISODES_FILE = f"{FOLDER}/episodes.jsonl"
LAST_ROWS_FILE = f"{FOLDER}/last_rows.parquet"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What our exporter added to a data set."""

    spec: Spec
    keys: dict[str, str]  # feature -> key, of observations and extras
    episodes: dict[int, Kept]  # by episode_index

    def extra_frames(self) -> dict[int, int]:
        """By episode_index: frames of the videos behind the last row."""
        return {number: kept.frame_behind for number, kept in self.episodes.items()}

    def named(self, layout: Layout) -> Layout:
        """The layout with the keys of the store."""

        def renamed(features: Mapping[str, Feature]) -> dict[str, Feature]:
            return {self.keys.get(feature.name, key): feature for key, feature in features.items()}

        return replace(
            layout,
            observations=renamed(layout.observations),
            images=renamed(layout.images),
            videos=renamed(layout.videos),
            extras=renamed(layout.extras),
        )


def describe(spec: Spec, observations: Mapping[str, str], extras: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `spec.json` holds.

    Args:
        spec: of the episodes.
        observations: key -> feature.
        extras: key -> the fields of `ExtraColumn`.
    """
    return {
        "version": VERSION,
        "spec": spec.to_json(),
        "observations": dict(observations),
        "extras": {key: dict(entry) for key, entry in extras.items()},
    }


def read_exported(info: Info, layout: Layout, episodes: Sequence[Rows]) -> tuple[Exported | None, list[Finding]]:
    """What our exporter added, where it still fits; None where there is nothing.

    Args:
        info: of the data set.
        layout: of its features.
        episodes: all of them.
    """
    if not (info.root / SPEC_FILE).is_file():
        return None, []
    try:
        exported = _read(info, layout, episodes)
    except InputError as error:
        text = f"what robot-rl had added to the data set is not used: {error}"
        remedy = "nothing to do where the data set was changed on purpose; else copy it again"
        return None, [Finding(severity="warning", place=info.place, text=text, remedy=remedy)]
    others = [rows.episode for rows in episodes if rows.episode not in exported.episodes]
    if not others:
        return exported, []
    text = f"{EPISODES_FILE} does not fit {len(others)} episodes, the first is {others[0]}: they are read without it"
    return exported, [Finding(severity="warning", place=info.place, text=text)]


def _read(info: Info, layout: Layout, episodes: Sequence[Rows]) -> Exported:
    path = info.root / SPEC_FILE
    declared = read_json(path)
    if declared.get("version") != VERSION:
        raise InputError(f"{path} has version {declared.get('version')!r}, this robot_rl reads {VERSION}")
    try:
        spec = Spec.from_json(declared["spec"])
        observations = {str(key): str(name) for key, name in declared["observations"].items()}
        extras = {
            str(key): ExtraColumn(
                feature=entry["feature"],
                dtype=str(np.dtype(str(entry["dtype"]))),
                shape=tuple(int(size) for size in entry["shape"]),
                behind=entry["behind"] is True,
            )
            for key, entry in declared["extras"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    _require_fit(path, info, layout, spec, observations, extras)
    last_rows = _read_last_rows(info.root / LAST_ROWS_FILE, spec, observations, extras, layout)
    frames = {rows.episode: len(rows) for rows in episodes}
    kept = {}
    for number, line in enumerate(read_json_lines(info.root / EPISODES_FILE), 1):
        episode, steps, metadata = line.get("episode_index"), line.get("steps"), line.get("metadata")
        wanted = frames.get(episode) if isinstance(episode, int) else None
        if wanted is None or line.get("frames") != wanted or not isinstance(metadata, dict):
            continue
        if steps != (wanted if layout.actions else wanted - 1):
            raise InputError(f"{info.root / EPISODES_FILE}, line {number}: {steps!r} steps do not fit {wanted} frames")
        assert isinstance(episode, int)
        kept[episode] = Kept(
            spec=spec,
            extras=extras,
            has_final_observation=line.get("has_final_observation") is True,
            frame_behind=int(line.get("has_final_observation") is True and steps == wanted),
            success_known=line.get("success_known") is True,
            metadata=metadata,
            last_rows=last_rows.get(episode, {}),
        )
    keys = {name: key for key, name in observations.items()}
    keys |= {extra.feature: key for key, extra in extras.items() if extra.feature is not None}
    return Exported(spec=spec, keys=keys, episodes=kept)


def _require_fit(
    path: Path,
    info: Info,
    layout: Layout,
    spec: Spec,
    observations: Mapping[str, str],
    extras: Mapping[str, ExtraColumn],
) -> None:
    if set(observations) != set(spec.observation) or any(name not in info.features for name in observations.values()):
        raise InputError(f"{path} names other observations than info.json")
    for key, name in observations.items():
        feature, array = info.features[name], spec.observation[key]
        if feature.dtype not in ("image", "video") and not _same(feature, array.shape, array.dtype):
            raise InputError(f"{path}: '{key}' is {array.dtype} {array.shape}, info.json has another {name}")
    if layout.action_width != int(np.prod(spec.action.shape)) or spec.action.dtype != layout.action_dtype:
        raise InputError(f"{path}: the action has {spec.action.shape} numbers, info.json {layout.action_width}")
    for key, extra in extras.items():
        if extra.feature is None and 0 not in extra.shape:
            raise InputError(f"{path}: the extra '{key}' has no column")
        if extra.feature in (None, "timestamp"):
            continue
        if extra.feature not in info.features or not _same(info.features[extra.feature], extra.shape, extra.dtype):
            raise InputError(f"{path}: the extra '{key}' is not as info.json has it")


def _same(feature: Feature, shape: tuple[int, ...], dtype: str) -> bool:
    return feature.shape == (shape or (1,)) and feature.dtype == dtype


def _read_last_rows(
    path: Path, spec: Spec, observations: Mapping[str, str], extras: Mapping[str, ExtraColumn], layout: Layout
) -> dict[int, dict[str, Array | bytes]]:
    """By episode_index: `observation/<key>` and `extras/<key>`, images as they were encoded."""
    if not path.is_file():
        return {}
    images = {feature.name for feature in layout.images.values()}
    arrays = {
        f"observation/{key}": (spec.observation[key].dtype, spec.observation[key].shape)
        for key, name in observations.items()
        if name not in images
    }
    arrays |= {f"extras/{key}": (extra.dtype, extra.shape) for key, extra in extras.items()}
    table = open_table(path)
    with clear_arrow_errors(path):
        entries: list[dict[str, Any]] = table.columns(table.names).to_pylist()
    table.close()
    found: dict[int, dict[str, Array | bytes]] = {}
    for entry in entries:
        row: dict[str, Array | bytes] = {}
        for name, data in entry.items():
            if name == "episode_index" or data is None:
                continue
            if name not in arrays:
                row[name] = data
                continue
            dtype, shape = arrays[name]
            if not isinstance(data, bytes) or len(data) != np.dtype(dtype).itemsize * int(np.prod(shape)):
                raise InputError(f"{path}: {name} is not {dtype} {shape}")
            row[name] = np.frombuffer(data, dtype).reshape(shape)
        found[entry["episode_index"]] = row
    return found
