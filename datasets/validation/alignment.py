"""Rows that belong to different moments: images against the state, actions against the state.

A camera that lags shows what was; a policy trained on it reacts too late, or too early. Where the picture moves as the
state does, the offset is where the two agree best.
"""

from dataclasses import dataclass, field

import numpy as np

from robot_rl.datasets.schema import Finding
from robot_rl.datasets.validation.facts import flat, information, real_rows, vectors, warning
from robot_rl.datasets.validation.pictures import CameraFacts, speeds_of
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

REACH = 12  # steps of offset that are tried in both directions
CLEAR = 0.6  # correlation at the best offset
AHEAD = 0.1  # correlation by which the best offset beats none
AGREEING = 0.75  # share of the blocks in which the same offset (within one step) is better than none
LEAST_PAIRS = 200  # frames
FOLLOW_REACH = 10  # steps that a state may follow a command
FOLLOWS = 0.05  # of the variance of the action: what the state leaves unexplained where it follows it
SAMPLED = 32  # episodes that are compared with their actions


@dataclass(frozen=True)
class Offset:
    """The offset at which two signals agree best; positive: the second is later."""

    steps: int
    correlation: float
    at_zero: float
    agreeing: float  # share of the blocks


def image_offset(facts: CameraFacts) -> Offset | None:
    """Where the motion in the picture agrees best with the speed of the state.

    Both are ranked within their block, so that single flashes do not decide. Positive: the picture is later than the
    state. None where there is too little to compare.
    """
    blocks = []
    for clip, speed in zip(facts.clips, speeds_of(facts.clips), strict=True):
        if len(speed) > 4 * REACH and speed.std() > 0 and clip.motion.std() > 0:
            blocks.append((_ranked(speed), _ranked(clip.motion)))
    if sum(len(speed) for speed, _ in blocks) < LEAST_PAIRS:
        return None
    curves = np.stack([_correlations(speed, motion) for speed, motion in blocks])  # (blocks, 2 REACH + 1)
    weights = np.asarray([len(speed) for speed, _ in blocks], np.float64)
    mean = weights @ curves / weights.sum()
    best = int(mean.argmax())
    near = curves[:, max(best - 1, 0) : best + 2].max(axis=1)
    agreeing = float(weights[near > curves[:, REACH]].sum() / weights.sum())
    return Offset(best - REACH, float(mean[best]), float(mean[REACH]), agreeing)


def image_lag(facts: CameraFacts, period_s: float | None) -> list[Finding]:
    """An offset is only told where it is clear: a high peak, well above no offset, in nearly all blocks."""
    offset = image_offset(facts)
    if offset is None or abs(offset.steps) < 2 or abs(offset.steps) == REACH:
        return []
    if offset.correlation < CLEAR or offset.correlation - offset.at_zero < AHEAD or offset.agreeing < AGREEING:
        return []
    steps = abs(offset.steps)
    time = "" if period_s is None else f" ({steps * period_s:.3g} s)"
    direction = "behind" if offset.steps > 0 else "ahead of"
    text = (
        f"the picture is {steps} steps{time} {direction} the state: their motions correlate with "
        f"{offset.correlation:.2f} at that offset and with {offset.at_zero:.2f} without"
    )
    remedy = "shift the frames when ingesting (clock of the camera, first frame of the video), or record with one clock"
    return [warning(f"observation '{facts.key}'", text, remedy)]


@dataclass
class _Sums:
    """Squared differences of action and later state, by offset, and the squares that they are measured against."""

    error: Array = field(default_factory=lambda: np.zeros(2 * FOLLOW_REACH + 1))
    spread: float = 0.0
    rows: int = 0
    exact: Array = field(default_factory=lambda: np.ones(2 * FOLLOW_REACH + 1, bool))


class ActionFacts:
    """Compares actions with the observations of the same width, at offsets from -`FOLLOW_REACH` to `FOLLOW_REACH`."""

    def __init__(self, spec: Spec, count: int) -> None:
        width = int(np.prod(spec.action.shape))
        self.keys = [key for key in vectors(spec) if width and int(np.prod(spec.observation[key].shape)) == width]
        self.chosen = set(np.unique(np.linspace(0, max(count - 1, 0), min(count, SAMPLED)).astype(int)).tolist())
        self.sums = {key: _Sums() for key in self.keys}

    def add(self, index: int, episode: Episode) -> None:
        """One episode of the store."""
        if index not in self.chosen or len(episode) <= 4 * FOLLOW_REACH:
            return
        action = flat(episode.action).astype(np.float64)
        inner = slice(FOLLOW_REACH, len(action) - FOLLOW_REACH)
        for key, sums in self.sums.items():
            state = flat(real_rows(episode, episode.observation[key])).astype(np.float64)
            for place in range(2 * FOLLOW_REACH + 1):
                shift = place - FOLLOW_REACH
                difference = action[inner] - state[inner.start + shift : inner.stop + shift]
                sums.error[place] += float(np.square(difference).sum())
                sums.exact[place] &= bool(np.abs(difference).max() < 1e-6)
            sums.spread += float(np.square(action[inner] - action[inner].mean(axis=0)).sum())
            sums.rows += inner.stop - inner.start

    def findings(self) -> list[Finding]:
        """All checks of this file on actions."""
        return [finding for key in self.keys for finding in action_offset(key, self.sums[key])]


def action_offset(key: str, sums: _Sums) -> list[Finding]:
    """Actions that are positions: which later state they are."""
    if sums.rows < LEAST_PAIRS or sums.spread == 0:
        return []
    best = int(sums.error.argmin())
    shift, left = best - FOLLOW_REACH, float(sums.error[best]) / sums.spread
    place = "action"
    if sums.exact[FOLLOW_REACH]:
        text = f"the action of a step is the observation '{key}' of the same step: cloning learns to copy it"
        remedy = f"take the next one: ingest again with action_from={key}"
        return [warning(place, text, remedy)]
    if left > FOLLOWS:
        return []
    if sums.exact[best] and shift > 0:
        text = f"the action of a step is the observation '{key}' {shift} steps later"
        return [information(place, text, "it was made from the observations: a policy commands positions")]
    if shift < 0:
        text = f"the action of a step agrees best with the observation '{key}' {-shift} steps before ({1 - left:.1%})"
        remedy = "actions seem to be recorded late: check the clock of the command, or shift them when ingesting"
        return [warning(place, text, remedy)]
    text = f"actions are positions: '{key}' follows them within {shift} steps ({1 - left:.1%} of their variance)"
    return [information(place, text, "a policy on this robot must command positions in the same order")]


def _ranked(values: Array) -> Array:
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def _correlations(first: Array, second: Array) -> Array:
    """Pearson's correlation of `first[t]` with `second[t + k]` for k from -REACH to REACH, over their overlap."""
    out = np.zeros(2 * REACH + 1)
    for place in range(2 * REACH + 1):
        shift = place - REACH
        a = first[max(0, -shift) : len(first) - max(0, shift)]
        b = second[max(0, shift) : len(second) - max(0, -shift)]
        a, b = a - a.mean(), b - b.mean()
        norm = float(np.sqrt((a @ a) * (b @ b)))
        out[place] = float(a @ b) / norm if norm > 0 else 0.0
    return out
