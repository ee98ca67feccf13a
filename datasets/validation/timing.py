"""Time stamps: order, jitter, gaps, the declared control period, and how old an observation was at its step."""

from dataclasses import dataclass, field

import numpy as np

from robot_rl.datasets.schema import Finding
from robot_rl.datasets.validation.facts import error, information, listed, warning
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

STAMP = "timestamp_s"
PERIOD_ERROR = 0.02  # of the period, between the declared one and the median of the stamps
JITTER_SHARE = 0.25  # of the period, of the 99th percentile of the deviation from it
GAP_PERIODS = 2.5  # periods between two steps from which a step is missing
AGE_PERIODS = 2.0  # periods, of the 99th percentile of the age of an observation
SAMPLES = 4096  # intervals, or ages, of one episode that are kept, evenly spread


@dataclass
class StampFacts:
    """One kind of stamp."""

    key: str
    intervals_s: list[Array] = field(default_factory=list)  # between rows, of each episode
    backward: list[int] = field(default_factory=list)  # episodes in which time stands still or runs backwards
    gaps: list[tuple[float, int, int]] = field(
        default_factory=list
    )  # largest interval of each episode: s, episode, row
    ages_s: list[Array] = field(default_factory=list)  # step stamp minus this stamp
    not_finite: list[int] = field(default_factory=list)


class TimeFacts:
    """Collects what the checks of this file need."""

    def __init__(self, spec: Spec, store: str) -> None:
        self.period_s = spec.control_period_s
        self.store = store
        self.stamps: dict[str, StampFacts] = {}

    def add(self, index: int, episode: Episode) -> None:
        """One episode of the store."""
        step = episode.extras.get(STAMP)
        for key, array in episode.extras.items():
            if key != STAMP and not key.startswith(f"{STAMP}/"):
                continue
            stamps = np.asarray(array, np.float64)
            if stamps.ndim != 1:
                continue
            stamps = stamps if episode.has_final_observation else stamps[: len(episode)]
            facts = self.stamps.setdefault(key, StampFacts(key))
            if not np.isfinite(stamps).all():
                facts.not_finite.append(index)
                continue
            if len(stamps) > 1:
                interval = np.diff(stamps)
                if (interval < 0).any() or (key == STAMP and (interval == 0).any()):
                    facts.backward.append(index)
                facts.intervals_s.append(_spread(interval))
                largest = int(interval.argmax())
                facts.gaps.append((float(interval[largest]), index, largest))
            if key != STAMP and step is not None:
                length = min(len(stamps), len(step))
                facts.ages_s.append(_spread(np.asarray(step[:length], np.float64) - stamps[:length]))

    def findings(self) -> list[Finding]:
        """All checks of this file."""
        found = []
        for key, facts in self.stamps.items():
            found += running_backwards(facts)
            if key == STAMP:
                found += wrong_period(facts, self.period_s) + jitter(facts) + gaps(facts, self.store)
            else:
                found += ages(facts, self._step_period_s())
        return found

    def _step_period_s(self) -> float | None:
        if STAMP in self.stamps and self.stamps[STAMP].intervals_s:
            return float(np.median(np.concatenate(self.stamps[STAMP].intervals_s)))
        return self.period_s


def running_backwards(facts: StampFacts) -> list[Finding]:
    """Stamps must grow."""
    if not facts.backward:
        return []
    text = f"time stands still or runs backwards in {len(facts.backward)} episodes: {listed(facts.backward)}"
    remedy = "rows are out of order, or two clocks were mixed: sort the recording, or name its clock (bag.clock)"
    return [error(f"extra '{facts.key}'", text, remedy)]


def wrong_period(facts: StampFacts, period_s: float | None) -> list[Finding]:
    """The declared control period against the median interval."""
    found = _median_s(facts)
    if found is None or found <= 0:
        return []
    if period_s is None:
        remedy = f"ingest again with control_period_s={found:.4g}"
        return [information("control period", f"the time stamps are {found:.4g} s apart, nothing is declared", remedy)]
    if abs(found - period_s) <= PERIOD_ERROR * period_s:
        return []
    text = f"{period_s:g} s is declared, but the time stamps are {found:.4g} s apart (median)"
    remedy = "one of them is wrong: a policy would run at another pace than it was recorded at"
    return [warning("control period", text, remedy)]


def jitter(facts: StampFacts) -> list[Finding]:
    """Deviation of single intervals from the median one; gaps are another matter."""
    period = _median_s(facts)
    if period is None or period <= 0:
        return []
    intervals = np.concatenate(facts.intervals_s)
    deviation = np.abs(intervals[intervals < GAP_PERIODS * period] - period) / period
    high = float(np.percentile(deviation, 99)) if len(deviation) else 0.0
    if high <= JITTER_SHARE:
        return []
    text = f"steps are {period:.4g} s apart, but 1 % of them deviate by more than {high:.0%} of that"
    remedy = "a policy sees steps of even length: resample onto the control period where the format allows it"
    return [warning(f"extra '{facts.key}'", text, remedy)]


def gaps(facts: StampFacts, store: str) -> list[Finding]:
    """Missing steps inside an episode."""
    period = _median_s(facts)
    if period is None or period <= 0:
        return []
    wide = [gap for gap in facts.gaps if gap[0] > GAP_PERIODS * period]
    if not wide:
        return []
    length, episode, row = max(wide)
    text = (
        f"{len(wide)} episodes have a gap of more than {GAP_PERIODS:g} periods; the widest is {length:.3g} s behind "
        f"row {row} of episode {episode}; episodes {listed(gap[1] for gap in wide)}"
    )
    remedy = (
        "transitions across a gap are wrong: split there (table.maximum_gap_s, bag.maximum_gap_s), or leave them out "
        f"with `robot-rl edit delete {store}`"
    )
    return [warning(f"extra '{facts.key}'", text, remedy)]


def ages(facts: StampFacts, period_s: float | None) -> list[Finding]:
    """How old an observation was when its step began; one from the future tells the policy what it cannot know."""
    if not facts.ages_s or period_s is None or period_s <= 0:
        return []
    age = np.concatenate(facts.ages_s) / period_s
    low, middle, high = (float(value) for value in np.percentile(age, [1, 50, 99]))
    place = f"extra '{facts.key}'"
    if low < -0.5:
        text = f"it is up to {-low:.1f} periods younger than its step: it shows what has not happened yet"
        return [warning(place, text, "check the offset between the clocks; take the last sample before each step")]
    if high <= AGE_PERIODS:
        return []
    text = f"it is {middle:.1f} periods old at its step (median), {high:.1f} at the 99th percentile"
    return [warning(place, text, "a slow sensor, or an offset between clocks: a lower control rate would fit it")]


def _median_s(facts: StampFacts) -> float | None:
    return float(np.median(np.concatenate(facts.intervals_s))) if facts.intervals_s else None


def _spread(values: Array) -> Array:
    chosen: Array = values[np.linspace(0, len(values) - 1, min(len(values), SAMPLES)).astype(int)]
    return chosen
