"""Unit quaternions among the channels of an array: which they are, their norms, their jumps to the other sign.

q and -q are one rotation. A recording that jumps between them within an episode shows a network two far points for one
pose, and their average means nothing.
"""

from dataclasses import dataclass, field

import numpy as np

from robot_rl.datasets.schema import Finding
from robot_rl.datasets.validation.facts import flat, is_vector, listed, real_rows, warning
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

UNIT = 0.02  # deviation of the norm from 1 that is taken for rounding, and repaired
MATTERS = 20.0  # times the deviation of the norm that each channel of an undeclared quaternion must be worth
DECLARED_UNIT = 0.5  # deviation from which four channels are no quaternion, whatever their names say
NORM_ERROR = 1e-3  # deviation of the norm from which it is said, and repaired
NAMES = (("w", "x", "y", "z"), ("x", "y", "z", "w"))


@dataclass
class WindowFacts:
    """All groups of four consecutive channels of an array: group i has channels i to i + 3."""

    place: str
    spec: ArraySpec
    deviation: Array | None = None  # (C - 3,), largest distance of the norm from 1
    low: Array | None = None  # (C,)
    high: Array | None = None  # (C,)
    flips: Array | None = None  # (C - 3,), steps
    flipped: dict[int, list[int]] = field(default_factory=dict)  # group -> episodes
    rows: int = 0

    def add(self, index: int, rows: Array) -> None:
        """Rows of one episode. Shapes: (N, *)."""
        values = flat(rows).astype(np.float64)
        if len(values) == 0 or values.shape[1] < 4:
            return
        deviation = np.abs(np.sqrt(_sums_of_four(np.square(values))) - 1.0).max(axis=0)
        flips = (_sums_of_four(values[1:] * values[:-1]) < 0).sum(axis=0)
        low, high = values.min(axis=0), values.max(axis=0)
        for group in np.flatnonzero(flips):
            if deviation[group] < DECLARED_UNIT:
                self.flipped.setdefault(int(group), []).append(index)
        if self.deviation is None or self.flips is None or self.low is None or self.high is None:
            self.deviation, self.flips, self.low, self.high = deviation, flips, low, high
        else:
            self.deviation, self.flips = np.maximum(self.deviation, deviation), self.flips + flips
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.rows += len(values)

    def groups(self) -> list[int]:
        """First channels of the quaternions."""
        if self.deviation is None or self.low is None or self.high is None or self.rows < 2:
            return []
        return quaternion_groups(self.spec, self.deviation, self.low, self.high)


def quaternion_groups(spec: ArraySpec, deviation: Array, low: Array, high: Array) -> list[int]:
    """First channels of the groups of four that are unit quaternions.

    Those that names declare (`qw qx qy qz`, `quat_x ... quat_w`); else those whose norm is 1 in all data, where each of
    the four is needed for that. A unit vector with a small fourth channel beside it is none, nor is a one-hot code, nor
    (cos, sin, 0, 0): a rotation about one axis is only found by its names. Where groups overlap, the one with the
    smaller deviation wins.

    Args:
        spec: of the array.
        deviation: (C - 3,), largest distance of each group's norm from 1.
        low: (C,), smallest number of each channel.
        high: (C,), largest number of each channel.
    """
    declared = declared_groups(spec)
    taken = {channel for group in declared for channel in range(group, group + 4)}
    found = [group for group in declared if deviation[group] < DECLARED_UNIT]
    worth = (
        np.square(np.maximum(np.abs(low), np.abs(high))) / 2
    )  # what the norm of 1 loses without the channel, at most
    for first in np.argsort(deviation, kind="stable"):
        group = int(first)
        window, channels = slice(group, group + 4), range(group, group + 4)
        if deviation[group] > UNIT:
            break
        needed = worth[window].min() > max(MATTERS * deviation[group], 1e-6)
        codes = np.isin(low[window], (-1.0, 0.0, 1.0)).all() and np.isin(high[window], (0.0, 1.0)).all()
        if needed and not codes and (high[window] > low[window]).any() and not taken.intersection(channels):
            found.append(group)
            taken.update(channels)
    return sorted(found)


def declared_groups(spec: ArraySpec) -> list[int]:
    """First channels of the groups whose names end in w x y z, or x y z w, after a `q` or the word `quat`."""
    names = [] if spec.names is None else [name.lower() for name in spec.names]
    found = []
    for start in range(len(names) - 3):
        group = names[start : start + 4]
        ends = tuple(name[-1:] for name in group)
        stems = {name[:-1].rstrip("_.- ") for name in group}
        if ends in NAMES and len(stems) == 1 and (next(iter(stems)).endswith("q") or "quat" in next(iter(stems))):
            found.append(start)
    return found


class QuaternionFacts:
    """Collects what the checks of this file need."""

    def __init__(self, spec: Spec, store: str) -> None:
        self.store = store
        self.observation = {
            key: WindowFacts(f"observation '{key}'", array_spec)
            for key, array_spec in spec.observation.items()
            if is_vector(array_spec)
        }
        self.action = WindowFacts("action", spec.action)

    def add(self, index: int, episode: Episode) -> None:
        """One episode of the store."""
        for key, facts in self.observation.items():
            facts.add(index, real_rows(episode, episode.observation[key]))
        self.action.add(index, episode.action)

    def windows(self) -> list[tuple[str, WindowFacts]]:
        """The arrays by the key of their observation, and `action`."""
        return [*self.observation.items(), ("action", self.action)]

    def findings(self) -> list[Finding]:
        """All checks of this file."""
        arrays = [facts for _, facts in self.windows()]
        return [finding for facts in arrays for finding in (*norms(facts, self.store), *sign_flips(facts, self.store))]


def norms(facts: WindowFacts, store: str) -> list[Finding]:
    """Quaternions whose norm is not quite 1, or (where names declare them) far from it."""
    off = [group for group in facts.groups() if facts.deviation is not None and facts.deviation[group] > NORM_ERROR]
    if facts.deviation is not None:
        off += [group for group in declared_groups(facts.spec) if facts.deviation[group] >= DECLARED_UNIT]
    if not off or facts.deviation is None:
        return []
    worst = float(facts.deviation[off].max())
    text = f"the norms of the quaternions in channels {_channels(off)} differ from 1 by up to {worst:.2g}"
    remedy = (
        f"normalise them: `robot-rl inspect {store} --fix`"
        if worst <= UNIT
        else "that is no rounding: check the order of the channels, and rows that were never filled"
    )
    return [warning(facts.place, text, remedy)]


def sign_flips(facts: WindowFacts, store: str) -> list[Finding]:
    """Jumps from q to -q between two steps."""
    groups = [group for group in facts.groups() if facts.flips is not None and facts.flips[group] > 0]
    if not groups or facts.flips is None:
        return []
    episodes = sorted({episode for group in groups for episode in facts.flipped.get(group, ())})
    jumps = int(facts.flips[groups].sum())
    text = f"the quaternions in channels {_channels(groups)} jump to the other sign {jumps} times"
    text += f", in episodes {listed(episodes)}"
    return [warning(facts.place, text, f"make them continuous: `robot-rl inspect {store} --fix`")]


def continuous(values: Array) -> Array:
    """The same rotations without jumps between q and -q: each has the sign that is nearer to the one before.

    Shapes: (N, 4) -> (N, 4).
    """
    signs = np.where((values[1:] * values[:-1]).sum(axis=1) < 0, -1.0, 1.0)
    return np.asarray(values * np.concatenate([[1.0], np.cumprod(signs)])[:, None], values.dtype)


def normalised(values: Array) -> Array:
    """Norm 1 where it is off by more than `NORM_ERROR` and not by more than `UNIT`. Shapes: (N, 4) -> (N, 4)."""
    norm = np.linalg.norm(values.astype(np.float64), axis=1, keepdims=True)
    off = (np.abs(norm - 1.0) > NORM_ERROR) & (np.abs(norm - 1.0) <= UNIT)
    return np.where(off, values / np.where(off, norm, 1.0), values).astype(values.dtype)


def _sums_of_four(values: Array) -> Array:
    """Shapes: (N, C) -> (N, C - 3)."""
    width = values.shape[1] - 3
    return np.asarray(sum(values[:, shift : shift + width] for shift in range(4)))


def _channels(groups: list[int]) -> str:
    return ", ".join(f"{group}-{group + 3}" for group in sorted(groups))
