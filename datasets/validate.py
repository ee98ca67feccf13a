"""What is odd about a store: findings with place and remedy, most severe first."""

from collections import Counter

import numpy as np

from robot_rl.datasets.schema import SEVERITIES, Finding
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec
from robot_rl.types import Array, Episode

SATURATION_EDGE = 0.999  # share of the half-range from which an action counts as saturated
SATURATED_SHARE = 0.2  # of the numbers of a channel; above it the recording is clipped or bang-bang
LENGTH_OUTLIER = 5.0  # median absolute deviations


def validate(store: EpisodeStore) -> list[Finding]:
    """Check every array of a store.

    Reads the store to memory.
    """
    findings = _damage(store)
    episodes = [] if findings else list(store.episodes())
    if not episodes:
        empty = Finding(
            severity="error", place=store.path.name, text="there is no episode", remedy="record or ingest some"
        )
        return findings or [empty]
    for key in store.spec.observation:
        findings += _channels(f"observation '{key}'", [episode.observation[key] for episode in episodes])
    findings += _channels("action", [episode.action for episode in episodes])
    findings += _channels("reward", [episode.reward[:, None] for episode in episodes], dead=False)
    findings += _range(np.concatenate([episode.action for episode in episodes]), store.spec.action)
    findings += _rewards(episodes) + _ends(episodes) + _success(episodes) + _lengths(episodes)
    findings += _duplicates(store.digests)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def exceeds(actions: Array, spec: ArraySpec) -> tuple[float, float]:
    """Share of the numbers outside the bounds, and the largest distance beyond them. Shapes: (N, A)."""
    if spec.low is None or spec.high is None:
        return 0.0, 0.0
    distance = np.maximum(spec.low - actions, actions - spec.high)
    return float((distance > 0).mean()), float(max(distance.max(), 0.0))


def saturation(actions: Array, spec: ArraySpec) -> Array:
    """Share of steps at or beyond the bounds, by channel. Shapes: (N, A) -> (A,)."""
    if spec.low is None or spec.high is None:
        return np.zeros(actions.shape[1])
    center, half = (spec.low + spec.high) / 2, (spec.high - spec.low) / 2
    return np.asarray((np.abs(actions - center) >= SATURATION_EDGE * half).mean(axis=0))


def _damage(store: EpisodeStore) -> list[Finding]:
    try:
        store.verify()
    except InputError as error:
        return [Finding(severity="error", place=store.path.name, text=str(error))]
    return []


def _channels(place: str, arrays: list[Array], *, dead: bool = True) -> list[Finding]:
    rows = np.concatenate([array.reshape(len(array), -1) for array in arrays])
    if rows.dtype.kind not in "fiu":
        return []
    findings = []
    bad = ~np.isfinite(rows)
    if bad.any():
        text = f"{int(bad.sum())} numbers are NaN or infinite, in channels {np.flatnonzero(bad.any(axis=0)).tolist()}"
        findings.append(Finding(severity="error", place=place, text=text, remedy="ingest the source again, repaired"))
    constant = np.flatnonzero(rows.min(axis=0) == rows.max(axis=0))
    if dead and len(constant):
        text = f"{len(constant)} of {rows.shape[1]} channels never change: {_shorten(constant)}"
        remedy = "check the sensor or the key; normalisation leaves them at 0"
        findings.append(Finding(severity="warning", place=place, text=text, remedy=remedy))
    return findings


def _range(actions: Array, spec: ArraySpec) -> list[Finding]:
    findings = []
    share, distance = exceeds(actions, spec)
    if share > 0:
        text = f"{share:.1%} of the numbers lie outside the bounds, by up to {distance:.3g}"
        remedy = (
            "they are stored as recorded; train with `out_of_range: clip`, or ingest again with action_low and "
            "action_high"
        )
        findings.append(Finding(severity="warning", place="action", text=text, remedy=remedy))
    saturated = np.flatnonzero(saturation(actions, spec) > SATURATED_SHARE)
    if len(saturated):
        text = f"more than {SATURATED_SHARE:.0%} of the steps are at a bound in channels {_shorten(saturated)}"
        remedy = "expected of a gripper; elsewhere check whether the recording was clipped"
        findings.append(Finding(severity="information", place="action", text=text, remedy=remedy))
    return findings


def _rewards(episodes: list[Episode]) -> list[Finding]:
    if any(episode.reward.any() for episode in episodes):
        return []
    remedy = "set success_reward on the data set of a run (it needs success), or record the reward"
    return [Finding(severity="warning", place="reward", text="there is no reward anywhere: all are 0", remedy=remedy)]


def _ends(episodes: list[Episode]) -> list[Finding]:
    findings = []
    missing = sum(not episode.has_final_observation for episode in episodes)
    if missing:
        text = f"{missing} of {len(episodes)} episodes lack the observation behind their last step"
        remedy = "that step counts for returns, but gives no transition unless it terminated"
        findings.append(Finding(severity="information", place="ends", text=text, remedy=remedy))
    open_ended = [index for index, e in enumerate(episodes) if not (e.terminated[-1] or e.truncated[-1])]
    if open_ended:
        text = f"{len(open_ended)} episodes neither terminated nor truncated: {_shorten(np.asarray(open_ended))}"
        findings.append(Finding(severity="warning", place="ends", text=text, remedy="they are read as truncated"))
    return findings


def _success(episodes: list[Episode]) -> list[Finding]:
    unknown = sum(episode.success is None for episode in episodes)
    if unknown:
        text = f"success is unknown in {unknown} of {len(episodes)} episodes"
        remedy = "ingest again with a rule: success.observation=KEY success.index=I success.minimum=X"
        return [Finding(severity="information", place="success", text=text, remedy=remedy)]
    if not any(episode.success is not None and episode.success.any() for episode in episodes):
        remedy = "check the rule that labels success"
        return [Finding(severity="warning", place="success", text="no episode succeeds", remedy=remedy)]
    return []


def _lengths(episodes: list[Episode]) -> list[Finding]:
    lengths = np.asarray([len(episode) for episode in episodes])
    deviation = np.abs(lengths - np.median(lengths))
    spread = float(np.median(deviation))
    outliers = np.flatnonzero(deviation > LENGTH_OUTLIER * spread) if spread > 0 else np.empty(0, int)
    if len(outliers) == 0:
        return []
    shown = ", ".join(f"{index} ({lengths[index]} steps)" for index in outliers[:5])
    text = f"{len(outliers)} episodes are far from the median of {np.median(lengths):.0f} steps: {shown}"
    return [Finding(severity="information", place="lengths", text=text, remedy="look at them before training")]


def _duplicates(digests: list[str]) -> list[Finding]:
    twice = [digest for digest, count in Counter(digests).items() if count > 1]
    if not twice:
        return []
    first = [index for index, digest in enumerate(digests) if digest == twice[0]]
    text = f"{len(twice)} episodes are there more than once, such as episodes {_shorten(np.asarray(first))}"
    return [
        Finding(severity="warning", place="episodes", text=text, remedy="they weigh more in training; ingest them once")
    ]


def _shorten(indices: Array, limit: int = 8) -> str:
    shown = ", ".join(str(int(index)) for index in indices[:limit])
    return shown + (", ..." if len(indices) > limit else "")
