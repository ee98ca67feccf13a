"""Repairs of a store that need no guess: the store is written anew beside itself and takes its own place at the end.

What is repaired: quaternions that jump to the other sign or are slightly off norm 1, exact copies of episodes, episodes
with NaN or infinite numbers, ends that are neither terminated nor truncated, actions that exceed their bounds by
rounding, statistics that a crash left behind. Nothing is invented: no reward, no success, no missing step. A store of
which files were damaged is left alone, because new checksums would hide the damage. A second repair does nothing.
"""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.convert_append import APPENDED
from robot_rl.datasets.remote import building_at, is_url
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import WriterLock
from robot_rl.datasets.validation.facts import listed, vectors
from robot_rl.datasets.validation.numbers import ROUNDING
from robot_rl.datasets.validation.quaternions import QuaternionFacts, continuous, normalised
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

CLIPPED = 1e-3  # of the range between the bounds: an action that is farther out was meant so, or has other bounds
BLOCK_STEPS = 4096  # steps that are committed at once


@dataclass
class Plan:
    """What is wrong with a store and can be repaired."""

    dropped: dict[int, str] = field(default_factory=dict)  # episode -> why
    quaternions: dict[str, list[int]] = field(default_factory=dict)  # `action` or an observation -> first channels
    changed: dict[str, set[int]] = field(default_factory=dict)  # what is done -> episodes

    def note(self, what: str, episode: int) -> None:
        """This will be done to that episode."""
        self.changed.setdefault(what, set()).add(episode)

    def done(self) -> list[str]:
        """In words."""
        said = []
        for why in dict.fromkeys(self.dropped.values()):
            episodes = [index for index, reason in self.dropped.items() if reason == why]
            said.append(f"left out {len(episodes)} episodes, {why}: {listed(episodes)}")
        return said + [
            f"{what} in {len(found)} episodes: {listed(sorted(found))}" for what, found in self.changed.items()
        ]


def repair(path: str | Path) -> list[str]:
    """Repair a store in place, whole or not at all.

    Args:
        path: of the store, or its URL; statistics that a crash left behind are repaired on this machine only.

    Returns:
        What was done, one sentence each; nothing where there was nothing to do.

    Raises:
        InputError: the files of the store are damaged, another process writes to it, or no episode would be left.
    """
    store = EpisodeStore.open(path)
    lock = None if is_url(path) else WriterLock(store.path)
    store = store if lock is None else EpisodeStore.open(path)  # with what was appended until we had the lock
    store.verify()
    plan = _plan(store)
    done = plan.done()
    if done:
        _rewrite(store, path, plan, done)
    elif lock is not None:
        del lock  # `append_to` takes it
        done = _finish(store.path)
    return done


def _plan(store: EpisodeStore) -> Plan:
    plan = Plan()
    facts = QuaternionFacts(store.spec, str(store.path))
    first: dict[str, int] = {}
    for index, episode in enumerate(store.episodes(keys=vectors(store.spec))):
        bad = [name for name, array in _numbers(episode) if not np.isfinite(array).all()]
        if bad:
            plan.dropped[index] = "which hold NaN or infinite numbers"
            continue
        known = json.dumps([store.digests[index], episode.metadata.get("split"), episode.metadata.get("language")])
        if first.setdefault(known, index) != index:
            plan.dropped[index] = "which are exact copies of others"
            continue
        facts.add(index, episode)
    if len(plan.dropped) == len(store) > 0:
        raise InputError(f"{store.path}: no episode would be left after the repair: ingest the source again")
    plan.quaternions = {key: window.groups() for key, window in facts.windows() if window.groups()}
    for index, episode in enumerate(store.episodes(keys=vectors(store.spec))):
        if index not in plan.dropped:
            _repaired(episode, store.spec, plan, index)
    return plan


def _repaired(episode: Episode, spec: Spec, plan: Plan, index: int) -> Episode:
    """The episode as it should be; what had to be changed is noted in the plan."""
    observation = dict(episode.observation)
    action = episode.action
    for key, groups in plan.quaternions.items():
        rows = action if key == "action" else observation[key]
        smooth, unit = _quaternions(rows, groups)
        if smooth is not None:
            plan.note("made quaternions continuous", index)
        if unit is not None:
            plan.note("normalised quaternions", index)
        changed = unit if unit is not None else smooth
        if changed is not None and key == "action":
            action = changed
        elif changed is not None:
            observation[key] = changed
    clipped = _clipped(action, spec)
    if clipped is not None:
        plan.note(f"clipped actions that exceeded their bounds by less than {CLIPPED:.1%} of the range", index)
        action = clipped
    truncated = episode.truncated
    if not (episode.terminated[-1] or truncated[-1]):
        plan.note("marked the last step as truncated", index)
        truncated = np.arange(len(truncated)) == len(truncated) - 1
    return replace(episode, observation=observation, action=action, truncated=truncated)


def _quaternions(rows: Array, groups: list[int]) -> tuple[Array | None, Array | None]:
    """Rows without jumps, where there are any; and with norms of 1 besides, where they were off."""
    flat = rows.reshape(len(rows), -1)
    smooth, unit = flat.copy(), flat.copy()
    for group in groups:
        window = slice(group, group + 4)
        smooth[:, window] = continuous(flat[:, window])
        unit[:, window] = normalised(smooth[:, window])
    jumped, off = not np.array_equal(smooth, flat), not np.array_equal(unit, smooth)
    return smooth.reshape(rows.shape) if jumped else None, unit.reshape(rows.shape) if off else None


def _clipped(action: Array, spec: Spec) -> Array | None:
    low, high = spec.action.low, spec.action.high
    if low is None or high is None or action.size == 0:
        return None
    outside = np.maximum(low - action, action - high) / (high - low)
    slightly = (outside > ROUNDING) & (outside <= CLIPPED)
    if not slightly.any():
        return None
    return np.where(slightly, np.clip(action, low, high), action).astype(action.dtype)


def _numbers(episode: Episode) -> Iterator[tuple[str, Array]]:
    for name, array in (*episode.observation.items(), ("action", episode.action), ("reward", episode.reward)):
        if array.dtype.kind == "f":
            yield name, array


def _rewrite(store: EpisodeStore, path: str | Path, plan: Plan, done: list[str]) -> None:
    kept = [index for index in range(len(store)) if index not in plan.dropped]
    provenance: dict[str, Any] = {**store.provenance, "repairs": [*store.provenance.get("repairs", []), *done]}
    if APPENDED in provenance:
        provenance[APPENDED] = [_moved(entry, kept) for entry in provenance[APPENDED]]
    with building_at(path, overwrite=True) as temporary:
        target = EpisodeStore.create(
            temporary, store.spec, provenance=provenance, tiers=store.tiers, quality=store.quality
        )
        block: list[Episode] = []
        for index, episode in zip(kept, store.episodes(kept), strict=True):
            block.append(_repaired(episode, store.spec, plan, index))
            if sum(map(len, block)) >= BLOCK_STEPS:
                target.extend(block)
                block = []
        target.extend(block)
        target.finish()


def _moved(entry: Mapping[str, Any], kept: list[int]) -> dict[str, Any]:
    """What the provenance says of an addition, where only these episodes stay."""
    first, last = (
        bisect_left(kept, number) for number in (entry["first_episode"], entry["first_episode"] + entry["episodes"])
    )
    return dict(entry) | {"first_episode": first, "episodes": last - first}


def _finish(path: Path) -> list[str]:
    """Statistics and the checksum of all episodes, where they do not belong to the episodes that are there."""
    store = EpisodeStore.append_to(path)
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    checksum = hashlib.sha256("".join(store.digests).encode()).hexdigest()
    counted = (attributes.get("statistics") or {}).get("episodes")
    if counted == len(store) and (attributes.get("checksums") or {}).get("episodes") == checksum:
        return []
    store.finish()
    return [f"computed the statistics and the checksum of all {len(store)} episodes, which were missing or old"]
