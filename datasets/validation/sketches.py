"""Small sketches of episodes that tell which are nearly the same, without comparing all with all.

An episode's distinct rows are rounded and hashed; the smallest `SIZE` hashes are its sketch. The share of hashes that
two sketches have in common estimates the share of rows that their episodes have in common (Broder, 1997, "On the
resemblance and containment of documents": bottom-k sketches), so copies that were cut, shifted or stored with another
precision are found too.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from robot_rl.types import Array

SIZE = 64  # hashes of a sketch
ROUNDING = 1e-3  # of a channel's deviation
SMALLEST = 8  # distinct rows; fewer say nothing about an episode
COMMON = 32  # episodes that share a hash, from which it is a pose they all visit


@dataclass(frozen=True)
class Sketch:
    """The smallest hashes of the distinct rows of an episode, and how many distinct rows there are."""

    hashes: Array  # (<= SIZE,), uint64, ascending
    distinct: int


@dataclass(frozen=True)
class Pair:
    """Two episodes that share rows."""

    first: int
    second: int
    share: float  # of the rows that either has


class Sketcher:
    """Hashes rows. The scale of each channel is fixed by the first episode, so sketches can be compared."""

    def __init__(self, scale: Array | None = None) -> None:
        self.scale = scale

    def __call__(self, rows: Array) -> Sketch:
        """Shapes: (N, C)."""
        rows = np.nan_to_num(np.asarray(rows, np.float64))
        if rows.shape[1] == 0 or len(rows) == 0:
            return Sketch(np.empty(0, np.uint64), 0)
        if self.scale is None:
            deviation = rows.std(axis=0)
            self.scale = np.where(deviation > 0, deviation, np.maximum(np.abs(rows).max(axis=0), 1.0))
        rounded = np.rint(np.clip(rows / (self.scale * ROUNDING), -(2.0**52), 2.0**52)).astype(np.int64)
        hashes = np.unique(hash_rows(rounded))
        return Sketch(hashes[:SIZE], len(hashes))


def resemblance(first: Sketch, second: Sketch) -> float:
    """Estimate of the share of rows in both among the rows in either."""
    union = np.union1d(first.hashes, second.hashes)[:SIZE]
    if len(union) == 0:
        return 0.0
    both = np.isin(union, first.hashes) & np.isin(union, second.hashes)
    return float(both.mean())


def similar(sketches: Sequence[Sketch], minimum: float) -> list[Pair]:
    """Pairs of episodes that share at least so many of their rows. Each copy is paired with one earlier episode.

    Args:
        sketches: of all episodes.
        minimum: share of rows.
    """
    first_with: dict[bytes, int] = {}
    pairs, distinct = [], []
    for index, sketch in enumerate(sketches):
        if sketch.distinct < SMALLEST:
            continue
        same = first_with.setdefault(sketch.hashes.tobytes(), index)
        if same == index:
            distinct.append(index)
        else:
            pairs.append(Pair(same, index, 1.0))
    shared: Counter[tuple[int, int]] = Counter()
    for members in _sharing(sketches, distinct):
        shared.update(combinations(members, 2))
    for (first, second), count in sorted(shared.items()):
        if count >= minimum * SIZE / 2:
            share = resemblance(sketches[first], sketches[second])
            if share >= minimum:
                pairs.append(Pair(first, second, share))
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))


def _sharing(sketches: Sequence[Sketch], chosen: Sequence[int]) -> Iterator[list[int]]:
    """For each hash that more than one of the chosen episodes has, and at most `COMMON`: those that have it."""
    if not chosen:
        return
    hashes = np.concatenate([sketches[index].hashes for index in chosen])
    holders = np.repeat(np.asarray(chosen), [len(sketches[index].hashes) for index in chosen])
    order = np.argsort(hashes, kind="stable")
    hashes, holders = hashes[order], holders[order]
    starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    counts = np.diff(starts, append=len(hashes))
    for place in np.flatnonzero((counts > 1) & (counts <= COMMON)):
        yield holders[starts[place] : starts[place] + counts[place]].tolist()


def hash_rows(numbers: Array) -> Array:
    """64 bits of each row. Shapes: (N, C), int64 -> (N,), uint64."""
    factors = np.random.default_rng(0).integers(1, 2**63, numbers.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(
        1
    )
    mixed = _mix(numbers.view(np.uint64) * factors)
    return _mix(mixed.sum(axis=1, dtype=np.uint64))


def _mix(values: Array) -> Array:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
