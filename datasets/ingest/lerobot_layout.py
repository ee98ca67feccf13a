"""What each feature of a LeRobot data set is to us.

Names become keys without `observation.` and `images.`: `observation.state` is `state`, `observation.images.wrist` is
`wrist`. `action` is the action (or `actions`, or all of `action.*` in their order). `next.reward`, `next.done` and
`next.success` are those facts. Numbers of other names become `extras`, text becomes metadata, images are always
observations. Where no name begins with `observation.`, all numbers that mean nothing else are observations.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robot_rl.datasets.ingest.base import ReadOptions, action_spec
from robot_rl.datasets.ingest.lerobot import FACTS, INDEX_COLUMNS, NUMBERS, Feature
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec
from robot_rl.types import Array

OBSERVATION = "observation."
EXTRAS = "extras."  # prefix of our exporter


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What each column is to us."""

    observations: dict[str, Feature]  # numbers, by our key
    images: dict[str, Feature]  # encoded images in the table
    videos: dict[str, Feature]
    actions: tuple[Feature, ...]
    extras: dict[str, Feature]
    texts: dict[str, Feature]
    facts: frozenset[str]  # those of FACTS that are recorded
    indices: tuple[str, ...]  # those of INDEX_COLUMNS that are recorded

    @property
    def columns(self) -> list[str]:
        """Columns of the table that an episode needs."""
        groups = (self.observations, self.images, self.extras, self.texts)
        names = [feature.name for group in groups for feature in group.values()]
        return [*names, *(feature.name for feature in self.actions), *sorted(self.facts), *self.indices]

    @property
    def absent(self) -> list[str]:
        """What the whole source lacks, as `spec.metadata["absent"]` has it."""
        ends = {"next.done", "next.terminated", "next.truncated"}
        missing = {
            "action": not self.actions,
            "reward": "next.reward" not in self.facts,
            "success": "next.success" not in self.facts,
            "end": not ends & self.facts,
        }
        return [name for name, is_missing in missing.items() if is_missing]

    @property
    def action_names(self) -> tuple[str, ...] | None:
        """Names of all channels of the action, where every part has names."""
        parts = [feature.names for feature in self.actions]
        named = [name for part in parts if part is not None for name in part]
        return tuple(named) if parts and all(part is not None for part in parts) else None

    @property
    def action_width(self) -> int:
        """A; 0 without actions."""
        return sum(int(np.prod(feature.shape)) for feature in self.actions)

    @property
    def action_dtype(self) -> str:
        """Of all parts together."""
        dtypes = [np.dtype(feature.dtype) for feature in self.actions]
        return str(np.result_type(*dtypes)) if dtypes else "float32"

    def without_videos(self, keys: Iterable[str]) -> "Layout":
        """The layout without some cameras."""
        gone = set(keys)
        return replace(self, videos={key: value for key, value in self.videos.items() if key not in gone})


def layout_of(features: Mapping[str, Feature], columns: Sequence[str], place: str) -> tuple[Layout, list[Finding]]:
    """Sort the features; those that the tables do not have are left out, with a finding.

    Args:
        features: of info.json.
        columns: of the tables.
        place: for findings.
    """
    findings = []
    missing = [f.name for f in features.values() if f.dtype != "video" and f.name not in columns]
    if missing:
        text = f"info.json declares {', '.join(missing)}, but the tables have no such column: left out"
        remedy = "repair info.json, or copy the tables again"
        findings.append(Finding(severity="error", place=place, text=text, remedy=remedy))
    extra = [name for name in columns if name not in features and name not in INDEX_COLUMNS]
    if extra:
        text = f"the tables have columns that info.json does not declare: {', '.join(extra)}: left out"
        findings.append(Finding(severity="information", place=place, text=text, remedy="declare them in info.json"))
    there = {name: feature for name, feature in features.items() if name not in missing}
    depth = [name for name, feature in there.items() if feature.depth]
    if depth:
        text = f"{', '.join(depth)}: videos of quantised distances are not read: left out"
        findings.append(Finding(severity="error", place=place, text=text, remedy="convert them to images"))
    there = {name: feature for name, feature in there.items() if name not in depth}
    return _sorted(there, [name for name in INDEX_COLUMNS if name in columns]), findings


def action_bounds(
    layout: Layout, options: ReadOptions, statistics: Sequence[Mapping[str, Any]], data: Array | None, place: str
) -> tuple[ArraySpec, list[Finding]]:
    """Bounds of the action: as the options say, else the recorded range, which LeRobot keeps in its statistics.

    A channel that never moves gets its value plus and minus 1.

    Args:
        layout: which has actions.
        options: `action_low` and `action_high` come first.
        statistics: of the whole or of episodes: feature name -> `min`, `max`.
        data: (N, A), where there are no statistics.
        place: for findings.

    Raises:
        InputError: bounds were given that do not fit.
    """
    width = layout.action_width
    if options.action_low is not None or options.action_high is not None:
        spec = action_spec(np.empty((0, width), layout.action_dtype), options, place)
        return replace(spec, names=layout.action_names), []
    found = _range_of_statistics(layout, statistics)
    origin = "its statistics"
    if found is None and data is not None and len(data):
        found, origin = (data.min(axis=0).astype(np.float64), data.max(axis=0).astype(np.float64)), "the data"
    if found is None or not np.isfinite(found).all():
        raise InputError(f"{place}: the range of the action is not known: set action_low and action_high")
    low, high = found
    still = high <= low
    low, high = np.where(still, low - 1, low), np.where(still, high + 1, high)
    text = f"LeRobot declares no bounds of the action: they are the recorded range, from {origin}"
    if still.any():
        text += f"; {int(still.sum())} of {width} channels never move and get their value plus and minus 1"
    remedy = "set action_low and action_high where the limits of the robot are known"
    finding = Finding(severity="information", place=place, text=text, remedy=remedy)
    spec = ArraySpec(shape=(width,), dtype=layout.action_dtype, low=low, high=high, names=layout.action_names)
    return spec, [finding]


def our_key(name: str) -> str:
    """The observation key of a feature."""
    return name.removeprefix(OBSERVATION).removeprefix("images.") or name


def _sorted(features: Mapping[str, Feature], indices: Sequence[str]) -> Layout:
    actions = _actions(features)
    taken = {feature.name for feature in actions} | set(FACTS) | set(INDEX_COLUMNS)
    plain_names = not any(name.startswith(OBSERVATION) for name in features)
    groups: dict[str, dict[str, Feature]] = {name: {} for name in ("number", "image", "video", "extra", "text")}
    for name, feature in features.items():
        if name in taken:
            continue
        kind = feature.dtype if feature.dtype in ("image", "video") else "number"
        if feature.dtype == "string":
            groups["text"][name] = feature
        elif kind == "number" and not name.startswith(OBSERVATION) and (not plain_names or name.startswith(EXTRAS)):
            groups["extra"][name.removeprefix(EXTRAS)] = feature
        else:
            key, used = our_key(name), groups["number"] | groups["image"] | groups["video"]
            groups[kind][name if key in used else key] = feature
    return Layout(
        observations=groups["number"],
        images=groups["image"],
        videos=groups["video"],
        actions=actions,
        extras=groups["extra"],
        texts=groups["text"],
        facts=frozenset(name for name in FACTS if name in features),
        indices=tuple(indices),
    )


def _actions(features: Mapping[str, Feature]) -> tuple[Feature, ...]:
    numeric = {name: feature for name, feature in features.items() if feature.dtype in NUMBERS}
    for name in ("action", "actions"):
        if name in numeric:
            return (numeric[name],)
    return tuple(feature for name, feature in numeric.items() if name.startswith("action."))


def _range_of_statistics(layout: Layout, statistics: Sequence[Mapping[str, Any]]) -> tuple[Array, Array] | None:
    parts: dict[str, list[Array]] = {"min": [], "max": []}
    for feature in layout.actions:
        for name, numbers in parts.items():
            rows = []
            for entry in statistics:
                values = entry.get(feature.name)
                try:
                    row = np.asarray(values[name] if isinstance(values, dict) else None, np.float64).reshape(-1)
                except (KeyError, TypeError, ValueError):
                    return None
                if row.shape != (int(np.prod(feature.shape)),) or not np.isfinite(row).all():
                    return None
                rows.append(row)
            if not rows:
                return None
            numbers.append(np.min(rows, axis=0) if name == "min" else np.max(rows, axis=0))
    low, high = np.concatenate(parts["min"]), np.concatenate(parts["max"])
    return (low, high) if (low <= high).all() else None
