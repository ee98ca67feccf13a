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
SMOOTHING = 3  # steps over which motions are averaged: a camera's frames come unevenly
CLEAR = 0.25  # mean correlation at the best offset; a real robot seen from its head reaches 0.3 to 0.4
AHEAD = 0.04  # correlation by which the best offset beats none
CERTAIN = 3.0  # standard errors, over blocks, by which it does
SMALLEST_LAG = 3  # steps: the motion of a real arm already leads or trails its picture by one or two
AGREE = 2  # steps by which the offsets of every other block and of the others may differ from that of all
LEAST_BLOCKS = 4
LEAST_PAIRS = 200  # frames
FOLLOW_REACH = 10  # steps that a state may follow a command
FOLLOWS = 0.1  # of the variance of a channel of the action: what the state leaves unexplained where it follows it
FOLLOWING = 0.6  # of the channels that move: a gripper that holds something does not follow
SAMPLED = 32  # episodes that are compared with their actions


@dataclass(frozen=True)
class Offset:
    """The offset at which two signals agree best; positive: the second is later."""

    steps: int
    correlation: float
    at_zero: float
    certainty: float  # standard errors by which the best offset beats none
    halves: tuple[int, int]  # the offsets of every other block, and of the others


def image_offset(facts: CameraFacts) -> Offset | None:
    """Where the motion in the picture agrees best with the speed of the state.

    Both are smoothed, and ranked within their block, so that single flashes do not decide. Positive: the picture is
    later than the state. None where there is too little to compare.
    """
    blocks = []
    for clip, speed in zip(facts.clips, speeds_of(facts.clips), strict=True):
        if len(speed) > 4 * REACH and speed.std() > 0 and clip.motion.std() > 0:
            blocks.append((_ranked(_smooth(speed)), _ranked(_smooth(clip.motion))))
    if len(blocks) < LEAST_BLOCKS or sum(len(speed) for speed, _ in blocks) < LEAST_PAIRS:
        return None
    curves = np.stack([_correlations(speed, motion) for speed, motion in blocks])  # (blocks, 2 REACH + 1)
    best = int(curves.mean(axis=0).argmax())
    ahead = curves[:, best] - curves[:, REACH]
    error = float(ahead.std(ddof=1)) / np.sqrt(len(ahead))
    certainty = float(ahead.mean()) / error if error > 0 else 0.0
    return Offset(
        steps=best - REACH,
        correlation=float(curves[:, best].mean()),
        at_zero=float(curves[:, REACH].mean()),
        certainty=certainty,
        halves=(int(curves[::2].mean(axis=0).argmax()) - REACH, int(curves[1::2].mean(axis=0).argmax()) - REACH),
    )


def image_lag(facts: CameraFacts, period_s: float | None) -> list[Finding]:
    """An offset is only told where it is clear: a peak well above no offset, certain, and the same in both halves."""
    offset = image_offset(facts)
    if offset is None or not SMALLEST_LAG <= abs(offset.steps) < REACH:
        return []
    ahead = offset.correlation - offset.at_zero
    if offset.correlation < CLEAR or ahead < AHEAD or offset.certainty < CERTAIN:
        return []
    if any(abs(half - offset.steps) > AGREE for half in offset.halves):
        return []
    steps = abs(offset.steps)
    time = "" if period_s is None else f" ({steps * period_s:.3g} s)"
    direction = "behind" if offset.steps > 0 else "ahead of"
    text = (
        f"the picture is about {steps} steps{time} {direction} the state: their motions correlate with "
        f"{offset.correlation:.2f} at that offset and with {offset.at_zero:.2f} without"
    )
    remedy = (
        "check the clock of the camera and the first frame of the video; record with one clock, or shift the frames"
    )
    return [warning(f"observation '{facts.key}'", text, remedy)]


@dataclass
class _Sums:
    """Squared differences of action and later state, by offset, and the squares that they are measured against."""

    error: Array  # (2 FOLLOW_REACH + 1, A)
    spread: Array  # (A,)
    rows: int = 0
    exact: Array = field(default_factory=lambda: np.ones(2 * FOLLOW_REACH + 1, bool))


class ActionFacts:
    """Compares actions with the observations of the same width, at offsets from -`FOLLOW_REACH` to `FOLLOW_REACH`."""

    def __init__(self, spec: Spec, count: int) -> None:
        width = int(np.prod(spec.action.shape))
        self.keys = [key for key in vectors(spec) if width and int(np.prod(spec.observation[key].shape)) == width]
        self.chosen = set(np.unique(np.linspace(0, max(count - 1, 0), min(count, SAMPLED)).astype(int)).tolist())
        self.sums = {key: _Sums(np.zeros((2 * FOLLOW_REACH + 1, width)), np.zeros(width)) for key in self.keys}

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
                sums.error[place] += np.square(difference).sum(axis=0)
                sums.exact[place] &= bool(np.abs(difference).max() < 1e-6)
            sums.spread += np.square(action[inner] - action[inner].mean(axis=0)).sum(axis=0)
            sums.rows += inner.stop - inner.start

    def findings(self) -> list[Finding]:
        """All checks of this file on actions."""
        return [finding for key in self.keys for finding in action_offset(key, self.sums[key])]


def action_offset(key: str, sums: _Sums) -> list[Finding]:
    """Actions that are positions: which later state they are."""
    moving = sums.spread > 1e-9 * sums.rows
    if sums.rows < LEAST_PAIRS or not moving.any():
        return []
    place = "action"
    if sums.exact[FOLLOW_REACH]:
        text = f"the action of a step is the observation '{key}' of the same step: cloning learns to copy it"
        remedy = f"take the next one: ingest again with action_from={key}"
        return [warning(place, text, remedy)]
    if sums.exact[FOLLOW_REACH:].any():
        shift = int(np.flatnonzero(sums.exact[FOLLOW_REACH:])[0])
        text = f"the action of a step is the observation '{key}' {shift} steps later"
        return [information(place, text, "it was made from the observations: a policy commands positions")]
    left = sums.error[:, moving] / sums.spread[moving]
    follows = left.min(axis=0) <= FOLLOWS
    if follows.mean() < FOLLOWING:
        return []
    shift = int(np.median(left[:, follows].argmin(axis=0))) - FOLLOW_REACH
    channels = f"{int(follows.sum())} of the {len(follows)} channels that move"
    if shift < 0:
        text = f"the action of a step agrees best with the observation '{key}' {-shift} steps before, in {channels}"
        remedy = "actions seem to be recorded late: check the clock of the command, or shift them when ingesting"
        return [warning(place, text, remedy)]
    text = f"actions are positions: '{key}' follows them within {shift} steps, in {channels}"
    return [information(place, text, "a policy on this robot must command positions in the same order")]


def _ranked(values: Array) -> Array:
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def _smooth(values: Array) -> Array:
    return np.convolve(values, np.full(SMOOTHING, 1.0 / SMOOTHING), "valid")


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
