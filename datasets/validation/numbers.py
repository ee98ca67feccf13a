"""Numbers by channel: NaN, channels that never change, actions at or beyond their bounds, units."""

from dataclasses import dataclass, field

import numpy as np

from robot_rl.datasets.schema import Finding
from robot_rl.datasets.validation.facts import (
    channel_names,
    error,
    flat,
    information,
    is_vector,
    listed,
    real_rows,
    warning,
)
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SATURATION_EDGE = 0.999  # share of the half-range from which an action counts as saturated
SATURATED_SHARE = 0.2  # of the steps, by channel; above it the recording is clipped or bang-bang
ROUNDING = 1e-6  # of the range between the bounds: so far an action may lie outside without a word
IDLE_SHARE = 0.05  # of the steps with an action of zeros only, above which it is said


def exceeds(actions: Array, spec: ArraySpec) -> tuple[float, float]:
    """Share of the numbers outside the bounds, and the largest distance beyond them. Shapes: (N, A)."""
    if spec.low is None or spec.high is None or actions.size == 0:
        return 0.0, 0.0
    distance = np.maximum(spec.low - actions, actions - spec.high)
    return float((distance > 0).mean()), float(max(distance.max(), 0.0))


def saturation(actions: Array, spec: ArraySpec) -> Array:
    """Share of steps at or beyond the bounds, by channel. Shapes: (N, A) -> (A,)."""
    if spec.low is None or spec.high is None or actions.size == 0:
        return np.zeros(actions.shape[1])
    center, half = (spec.low + spec.high) / 2, (spec.high - spec.low) / 2
    return np.asarray((np.abs(actions - center) >= SATURATION_EDGE * half).mean(axis=0))


@dataclass
class ChannelFacts:
    """Range and defects of one array, by channel of its flattened rows."""

    place: str
    spec: ArraySpec
    low: Array | None = None  # (C,), over the finite numbers
    high: Array | None = None  # (C,)
    rows: int = 0
    bad: int = 0
    bad_channels: set[int] = field(default_factory=set)
    bad_episodes: list[int] = field(default_factory=list)

    def add(self, index: int, rows: Array) -> None:
        """Rows of one episode. Shapes: (N, *)."""
        rows = flat(rows)
        if rows.size == 0:
            return
        low, high = rows.min(axis=0), rows.max(axis=0)
        if rows.dtype.kind == "f" and not (np.isfinite(low).all() and np.isfinite(high).all()):
            bad = ~np.isfinite(rows)
            self.bad += int(bad.sum())
            self.bad_channels |= set(np.flatnonzero(bad.any(axis=0)).tolist())
            self.bad_episodes.append(index)
            low = np.where(bad, np.inf, rows).min(axis=0)
            high = np.where(bad, -np.inf, rows).max(axis=0)
        self.rows += len(rows)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)


@dataclass
class ActionFacts:
    """Actions against their bounds."""

    spec: ArraySpec
    steps: int = 0
    outside: int = 0  # numbers
    distance: float = 0.0
    worst: tuple[int, int, int] = (0, 0, 0)  # episode, step, channel
    saturated: Array | None = None  # (A,), steps
    zeros: int = 0  # steps

    def add(self, index: int, actions: Array) -> None:
        """Shapes: (T, A)."""
        if actions.size == 0:
            return
        self.steps += len(actions)
        self.zeros += int((actions == 0).all(axis=1).sum())
        counts = saturation(actions, self.spec) * len(actions)
        self.saturated = counts if self.saturated is None else self.saturated + counts
        if self.spec.low is None or self.spec.high is None:
            return
        distance = np.maximum(self.spec.low - actions, actions - self.spec.high)
        distance = np.where(distance > ROUNDING * (self.spec.high - self.spec.low), distance, 0.0)
        self.outside += int((distance > 0).sum())
        if distance.max() > self.distance:
            self.distance = float(distance.max())
            step, channel = np.unravel_index(int(distance.argmax()), distance.shape)
            self.worst = (index, int(step), int(channel))


class NumberFacts:
    """Collects what the checks of this file need."""

    def __init__(self, spec: Spec, store: str) -> None:
        self.spec = spec
        self.store = store
        self.observation = {
            key: ChannelFacts(f"observation '{key}'", array_spec)
            for key, array_spec in spec.observation.items()
            if not array_spec.is_image
        }
        self.action = ChannelFacts("action", spec.action)
        self.reward = ChannelFacts("reward", ArraySpec(shape=()))
        self.extras: dict[str, ChannelFacts] = {}
        self.bounds = ActionFacts(spec.action)

    def add(self, index: int, episode: Episode) -> None:
        """One episode of the store."""
        for key, facts in self.observation.items():
            facts.add(index, real_rows(episode, episode.observation[key]))
        self.action.add(index, episode.action)
        self.reward.add(index, episode.reward)
        for key, array in episode.extras.items():
            if np.asarray(array).dtype.kind in "fiub":
                spec = ArraySpec(shape=tuple(array.shape[1:]), dtype=str(array.dtype))
                self.extras.setdefault(key, ChannelFacts(f"extra '{key}'", spec)).add(index, array)
        self.bounds.add(index, episode.action)

    def findings(self) -> list[Finding]:
        """All checks of this file."""
        arrays = [*self.observation.values(), self.action]
        found = [f for facts in (*arrays, self.reward) for f in not_finite(facts, self.store)]
        found += [f for facts in self.extras.values() for f in not_finite_extra(facts)]
        found += [f for facts in arrays for f in dead_channels(facts)]
        found += outside_bounds(self.bounds) + saturated_channels(self.bounds) + idle(self.bounds)
        return found + undeclared(self.spec)


def not_finite(facts: ChannelFacts, store: str) -> list[Finding]:
    """NaN and infinity poison every statistic and every update."""
    if not facts.bad:
        return []
    text = (
        f"{facts.bad} numbers are NaN or infinite, in channels {listed(sorted(facts.bad_channels))} of episodes "
        f"{listed(facts.bad_episodes)}"
    )
    remedy = f"repair the source and ingest it again, or drop these episodes: `robot-rl inspect {store} --fix`"
    return [error(facts.place, text, remedy)]


def not_finite_extra(facts: ChannelFacts) -> list[Finding]:
    """Extras are not trained on, so this only matters to whoever reads them."""
    if not facts.bad:
        return []
    text = f"{facts.bad} numbers are NaN or infinite, in episodes {listed(facts.bad_episodes)}"
    return [warning(facts.place, text, "nothing is trained on extras; whoever uses them must expect it")]


def dead_channels(facts: ChannelFacts) -> list[Finding]:
    """Channels that never change in the whole store."""
    if facts.low is None or facts.high is None or facts.rows < 2 or not is_vector(facts.spec):
        return []
    constant = np.flatnonzero(facts.low == facts.high)
    if len(constant) == 0:
        return []
    total = len(facts.low)
    if len(constant) == total:
        text = f"none of its {total} channels ever changes"
        remedy = "nothing can be learned from it: check the sensor and the key"
        return [warning(facts.place, text, remedy)]
    text = f"{len(constant)} of {total} channels never change: {channel_names(facts.spec, constant)}"
    return [warning(facts.place, text, "check the sensor or the key; normalisation leaves them at 0")]


def outside_bounds(facts: ActionFacts) -> list[Finding]:
    """Actions that no policy of ours could have given."""
    if not facts.outside:
        return []
    share = facts.outside / (facts.steps * facts.spec.shape[0])
    episode, step, channel = facts.worst
    text = (
        f"{share:.1%} of the numbers lie outside the bounds, by up to {facts.distance:.3g} "
        f"(episode {episode}, step {step}, channel {channel})"
    )
    remedy = (
        "they are stored as recorded; train with `datasets.offline.out_of_range=clip`, or ingest again with action_low "
        "and action_high"
    )
    return [warning("action", text, remedy)]


def saturated_channels(facts: ActionFacts) -> list[Finding]:
    """Channels that sit at a bound for much of the time."""
    if facts.saturated is None:
        return []
    saturated = np.flatnonzero(facts.saturated / facts.steps > SATURATED_SHARE)
    if len(saturated) == 0:
        return []
    text = (
        f"more than {SATURATED_SHARE:.0%} of the steps are at a bound in channels "
        f"{channel_names(facts.spec, saturated)}"
    )
    return [information("action", text, "expected of a gripper; elsewhere check whether the recording was clipped")]


def idle(facts: ActionFacts) -> list[Finding]:
    """Steps in which nothing is commanded: cloning learns to stand still from them."""
    if facts.steps == 0 or facts.zeros in (0, facts.steps) or facts.zeros / facts.steps <= IDLE_SHARE:
        return []
    text = f"{facts.zeros / facts.steps:.1%} of the steps have an action of zeros only"
    return [information("action", text, "cloning learns to stand still from them; cut pauses out of the recording")]


def undeclared(spec: Spec) -> list[Finding]:
    """Facts about the numbers that only the person who recorded them knows."""
    width = int(np.prod(spec.action.shape))
    missing = []
    if spec.control_period_s is None:
        missing.append("the control period (control_period_s=SECONDS)")
    if width and (spec.action.low is None or spec.action.high is None):
        missing.append("bounds of the action (action_low=[...] action_high=[...])")
    if width and spec.action_semantics is None:
        missing.append("what an action means (positions, differences, torques)")
    nameless = [
        key for key, array_spec in spec.observation.items() if is_vector(array_spec) and array_spec.unit is None
    ]
    nameless += ["action"] if width and spec.action.unit is None else []
    if nameless:
        missing.append(f"units of {', '.join(nameless[:6])}{', ...' if len(nameless) > 6 else ''}")
    if not missing:
        return []
    remedy = "declare them in the source, or with the settings named here when ingesting"
    return [information("declarations", f"not declared: {'; '.join(missing)}", remedy)]
