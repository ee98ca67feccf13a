"""What `inspect` knows of a store before it shows anything: a line for every episode, and a sample of their numbers.

One pass reads what exists once a step; a second reads the observations of a bounded number of episodes. Images are not
decoded here.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.remote import url_of
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.validate import saturation
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SAMPLED_EPISODES = 300
SAMPLED_STEPS = 200_000  # of all sampled episodes together
SAMPLED_NUMBERS = 40_000_000  # of all sampled episodes and observations together
SAMPLED_ROWS = 20_000  # that go into a histogram
WIDEST = 4096  # numbers a step, above which nobody looks at them one by one
EXAMPLES = 3  # episodes that are drawn over time
SMALLEST_DEPTH_SIDE = 16  # pixels: a smaller matrix is numbers, not a picture


@dataclass(frozen=True, kw_only=True)
class EpisodeTable:
    """One entry for every episode of the store."""

    lengths: Array  # (N,), steps
    returns: Array  # (N,), undiscounted sums of the recorded reward
    success: Array  # (N,), int8: 1 succeeded, 0 did not, -1 is not known
    terminated: Array  # (N,), bool
    truncated: Array  # (N,), bool
    complete: Array  # (N,), bool: has a final observation
    metadata: Sequence[dict[str, Any]]  # N

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def known_success(self) -> Array:
        """Whether success is recorded. Shapes: (N,)."""
        return self.success >= 0

    def texts(self, key: str) -> list[str | None]:
        """An entry of the metadata as text, by episode; None where an episode has none."""
        values = [entry.get(key) for entry in self.metadata]
        return [None if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A store, read as far as its pictures and tables need."""

    store: EpisodeStore
    place: str  # its path, or the URL that `store` is a copy of
    statistics: dict[str, Any]
    table: EpisodeTable
    sample: dict[int, Episode]  # by number; observations without images
    layout: Sequence["LayoutEntry"]

    @property
    def spec(self) -> Spec:
        """Of the store."""
        return self.store.spec

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.place.rstrip("/").rpartition("/")[2]

    @property
    def bytes(self) -> int:
        """What it takes on the disk of this machine."""
        return sum(entry.bytes for entry in self.layout)

    @property
    def bytes_place(self) -> str:
        """Where these bytes are."""
        return "on the disk" if url_of(self.place) is None else "copied here so far"

    @property
    def absent(self) -> set[str]:
        """What the source lacks, of `action`, `reward`, `success` and `end`."""
        return set(self.spec.metadata.get("absent", ()))

    @cached_property
    def instructions(self) -> int:
        """Distinct ones."""
        return len(set(self.table.texts("language")) - {None})

    @property
    def channel_keys(self) -> list[str]:
        """Observations that are numbers, few enough to be looked at one by one."""
        return [key for key, spec in self.spec.observation.items() if not is_large(spec)]

    def tier(self, key: str) -> str:
        """How the images of an observation are stored; a dash where they are none."""
        return str(self.store.tiers.get(key, "–"))

    def bytes_of(self, name: str) -> int:
        """On the disk, of an array such as `observation/KEY` and what belongs to it."""
        places = (f"steps/{name}", f"images/{name.removeprefix('observation/')}")
        return sum(e.bytes for e in self.layout if any(f"{e.name}/".startswith(f"{place}/") for place in places))

    @cached_property
    def examples(self) -> list[int]:
        """Numbers of sampled episodes of low, median and high return, or spread evenly where returns say nothing."""
        numbers = sorted(self.sample)
        returns = self.table.returns[numbers]
        order = np.argsort(returns, kind="stable") if np.ptp(returns) > 0 else np.arange(len(numbers))
        places = sorted({int(place) for place in np.linspace(0, len(order) - 1, EXAMPLES).round()})
        return [numbers[int(order[place])] for place in places]

    def rows(self, name: str) -> Array:
        """A sample of the numbers of `action`, `reward` or `observation/KEY`. Shapes: (M, channels)."""
        arrays = [_flat(array_of(episode, name)) for episode in self.sample.values()]
        step = -(-sum(map(len, arrays)) // SAMPLED_ROWS)
        return np.asarray(np.concatenate([array[::step] for array in arrays]), np.float64)

    def channels(self, name: str) -> dict[str, Array]:
        """`minimum`, `maximum`, `mean` and `std` of each channel, over the whole store. Shapes: each (channels,)."""
        numbers = self.statistics["arrays"].get(name, {"count": 0})
        if numbers["count"] == 0:
            return dict.fromkeys(("minimum", "maximum", "mean", "std"), np.empty(0))
        return {key: np.ravel(numbers[key]) for key in ("minimum", "maximum", "mean", "std")}

    def saturation(self) -> Array:
        """Share of the sampled actions at or beyond finite bounds, by channel. Shapes: (A,)."""
        spec = self.spec.action
        if spec.low is None or spec.high is None or not (np.isfinite(spec.low) & np.isfinite(spec.high)).all():
            return np.zeros(spec.shape)
        return saturation(self.rows("action"), spec)


@dataclass(frozen=True, kw_only=True)
class LayoutEntry:
    """An array or a folder of a store on the disk."""

    name: str
    kind: str  # data type, `files`
    shape: str
    files: int
    bytes: int


def survey(store: EpisodeStore, place: str | None = None) -> Survey:
    """Read a store.

    Args:
        store: to read.
        place: what a person called it; None is its path.

    Raises:
        InputError: it is damaged, or has no episodes.
    """
    if len(store) == 0:
        raise InputError(f"{store.path} has no episodes: record or ingest some")
    table = _table(store)
    keys = [key for key, spec in store.spec.observation.items() if not is_large(spec)]
    shapes = [store.spec.action.shape, *(store.spec.observation[key].shape for key in keys)]
    width = sum(int(np.prod(shape)) for shape in shapes)
    numbers = _sampled(table.lengths, width)
    episodes = store.episodes(numbers, keys=keys)
    return Survey(
        store=store,
        place=str(store.path) if place is None else place,
        statistics=store.statistics,
        table=table,
        sample=dict(zip(numbers, episodes, strict=True)),
        layout=layout(store.path),
    )


def spread(count: int, limit: int) -> list[int]:
    """At most `limit` numbers of `range(count)`, spread evenly, the first and the last among them."""
    if count <= limit:
        return list(range(count))
    return sorted({int(place) for place in np.linspace(0, count - 1, limit).round()})


def is_depth(spec: ArraySpec) -> bool:
    """A plane (H, W) of numbers, such as distances."""
    return len(spec.shape) == 2 and min(spec.shape) >= SMALLEST_DEPTH_SIDE


def is_picture(spec: ArraySpec) -> bool:
    """An image or a plane."""
    return spec.is_image or is_depth(spec)


def is_large(spec: ArraySpec) -> bool:
    """Too many numbers to be looked at one by one."""
    return is_picture(spec) or int(np.prod(spec.shape)) > WIDEST


def array_of(episode: Episode, name: str) -> Array:
    """`action`, `reward` or `observation/KEY` of an episode."""
    match name:
        case "action":
            return episode.action
        case "reward":
            return episode.reward
    return episode.observation[name.removeprefix("observation/")]


def channel_names(spec: ArraySpec) -> list[str]:
    """A name for every channel: the declared one, else its number."""
    size = int(np.prod(spec.shape))
    return list(spec.names) if spec.names is not None and len(spec.names) == size else [str(i) for i in range(size)]


def times_s(spec: Spec, episode: Episode, key: str | None = None) -> Array | None:
    """Seconds since the episode began, of its T + 1 rows.

    From the time stamps of the observation `key` where it has its own, else from those of the episode, else from the
    control period; None where nothing is known. A missing last stamp is set from the median difference.

    Shapes: (T + 1,).
    """
    rows = len(episode) + 1
    stamps = _stamps(episode, f"timestamp_s/{key}")
    stamps = _stamps(episode, "timestamp_s") if stamps is None else stamps
    if stamps is None:
        return None if spec.control_period_s is None else np.arange(rows) * spec.control_period_s
    if len(stamps) == rows:
        return stamps
    default_s = 0.0 if spec.control_period_s is None else spec.control_period_s
    period_s = float(np.median(np.diff(stamps))) if len(stamps) > 1 else default_s
    return np.append(stamps, stamps[-1] + period_s)


def _stamps(episode: Episode, name: str) -> Array | None:
    """Time stamps, where they are numbers, one a row. Shapes: (T + 1,) or (T,)."""
    stamps = episode.extras.get(name)
    if stamps is None or stamps.size != len(stamps) or not np.isfinite(stamps).all():
        return None
    return np.asarray(stamps, np.float64).reshape(len(stamps))


def layout(path: Path) -> list[LayoutEntry]:
    """The arrays of a store on this machine's disk, and its other files by folder."""
    files: dict[str, list[int]] = {}
    arrays: dict[str, dict[str, Any]] = {}
    for folder, _, names in os.walk(path):
        inside = Path(folder).relative_to(path).as_posix()
        node = _array_node(Path(folder) / "zarr.json") if "zarr.json" in names else None
        if node is not None:
            arrays[inside] = node
        owner = next((array for array in arrays if inside == array or inside.startswith(f"{array}/")), inside)
        files.setdefault(owner, []).extend(_disk_bytes(Path(folder) / name) for name in names)
    entries = []
    for name, sizes in files.items():
        if not sizes:
            continue
        node = arrays.get(name)
        entries.append(
            LayoutEntry(
                name="the folder itself" if name == "." else name,
                kind="files" if node is None else str(node.get("data_type")),
                shape="" if node is None else " × ".join(map(str, node.get("shape", ()))),
                files=len(sizes),
                bytes=sum(sizes),
            )
        )
    return sorted(entries, key=lambda entry: -entry.bytes)


def number_of(count: int, word: str) -> str:
    """Such as `1 episode` and `2 episodes`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def shortened(text: str, length: int) -> str:
    """At most so many characters, and an ellipsis where some are missing."""
    return text if len(text) <= length else f"{text[:length]} …"


def bytes_text(size: float) -> str:
    """A number of bytes for a person."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "B" else f"{size:.0f} B"
        size /= 1000
    return f"{size:.3g} TB"


def _disk_bytes(path: Path) -> int:
    """What a file takes; a sparse one takes less than its length."""
    return path.stat().st_blocks * 512


def _array_node(path: Path) -> dict[str, Any] | None:
    node = json.loads(path.read_text("utf-8"))
    return node if isinstance(node, dict) and node.get("node_type") == "array" else None


def _table(store: EpisodeStore) -> EpisodeTable:
    columns: dict[str, list[Any]] = {
        name: [] for name in ("lengths", "returns", "success", "terminated", "truncated", "complete", "metadata")
    }
    for episode in store.episodes(keys=[]):
        success = -1 if episode.success is None else int(episode.success.any())
        line = (
            len(episode),
            float(episode.reward.sum(dtype=np.float64)),
            success,
            bool(episode.terminated[-1]),
            bool(episode.truncated[-1]),
            episode.has_final_observation,
            episode.metadata,
        )
        for column, value in zip(columns.values(), line, strict=True):
            column.append(value)
    metadata = columns.pop("metadata")
    return EpisodeTable(**{name: np.asarray(values) for name, values in columns.items()}, metadata=metadata)


def _sampled(lengths: Array, width: int) -> list[int]:
    """Episodes spread evenly over the store, as many as fit the limits; at least one. `width`: numbers a step."""
    limit, steps = SAMPLED_EPISODES, min(SAMPLED_STEPS, SAMPLED_NUMBERS // max(1, width))
    while limit > 1 and lengths[spread(len(lengths), limit)].sum() > steps:
        limit //= 2
    return spread(len(lengths), limit)


def _flat(array: Array) -> Array:
    return array.reshape(len(array), -1)
