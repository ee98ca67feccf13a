"""What a store has already, so that giving it the same recording twice changes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from robot_rl.datasets.convert_transforms import ACTION_BOUNDS
from robot_rl.datasets.convert_workers import Job, Outcome, sendable
from robot_rl.datasets.frames import blocks
from robot_rl.datasets.schema import digest, rows_of_episode
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Episode

THERE = "in the store already"
APPENDED = "appended"  # in the provenance of a store: of what was added to it
EDITS = "edits"  # in the provenance of a store: what was changed in it


@dataclass(kw_only=True)
class Known:
    """The episodes of a store, by where they come from and by what they hold."""

    job: Job | None = None  # None: there is no store yet
    store: EpisodeStore | None = None
    sha256: str = ""  # of the source that is added
    places: set[tuple[str, str]] = field(default_factory=set)  # checksum of the source, place in it
    numbers: dict[str, list[int]] = field(default_factory=dict)  # episodes by the digest of all but images

    @staticmethod
    def of(store: EpisodeStore, job: Job, sha256: str) -> "Known":
        """Reads all of a store but its images."""
        known = Known(job=job, store=store, sha256=sha256)
        sources = _sources(store)
        for index, episode in enumerate(store.episodes(keys=_numbers(store.spec))):
            known.numbers.setdefault(_digest(store.spec, episode), []).append(index)
            if "source" in episode.metadata and sources[index]:
                known.places.add((sources[index], episode.metadata["source"]))
        return known

    def without_known(self, outcome: Outcome) -> Outcome:
        """The outcome, left out where the store has that episode."""
        if self.store is None or self.job is None or outcome.episode is None:
            return outcome
        place = (self.sha256, str(outcome.episode.metadata.get("source")))
        if place in self.places or self._is_there(outcome, self.store, self.job):
            return replace(outcome, episode=None, left_out=THERE)
        return outcome

    def _is_there(self, outcome: Outcome, store: EpisodeStore, job: Job) -> bool:
        assert outcome.episode is not None
        candidates = self.numbers.get(_digest(store.spec, outcome.episode), [])
        if not candidates or not job.tiers:
            return bool(candidates)
        ready = sendable(outcome, job).episode  # as it would be stored: JPEG changes pixels
        return ready is not None and any(_same_images(ready, store.episode(index), job) for index in candidates)


def require_same_spec(store: EpisodeStore, job: Job) -> None:
    """Refuse to put episodes of another kind into a store.

    Raises:
        InputError: says what differs.
    """
    found = differences(store.spec, job.spec)
    if store.tiers != dict(job.tiers):
        found.append(f"image tiers: {store.tiers} and {dict(job.tiers)}")
    if found:
        raise InputError(
            f"{job.source.name} does not fit into {store.path}: {'; '.join(found)}. Choose the settings that the "
            "store was made with, or make another store"
        )


def differences(left: Spec, right: Spec) -> list[str]:
    """What keeps episodes of two specs from being in one store. Bounds that are the range of the data do not count."""
    ours, theirs = _comparable(left), _comparable(right)
    if ACTION_BOUNDS in left.metadata and ACTION_BOUNDS in right.metadata:
        for side in (ours, theirs):
            side["action"] |= {"low": None, "high": None}
    return [
        f"{key}: {ours.get(key)} and {theirs.get(key)}"
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key) != theirs.get(key)
    ]


def appended(provenance: Mapping[str, Any], addition: Mapping[str, Any], first: int, count: int) -> dict[str, Any]:
    """The provenance of a store with that of episodes [first, first + count) added."""
    entry = dict(addition) | {"first_episode": first, "episodes": count}
    return dict(provenance) | {APPENDED: [*provenance.get(APPENDED, ()), entry]}


def _sources(store: EpisodeStore) -> list[str]:
    """The checksum of the source of every episode; empty where it is not known, as in a store that was edited."""
    if EDITS in store.provenance:
        return [""] * len(store)
    sources = [str(store.provenance.get("source_sha256", ""))] * len(store)
    for entry in store.provenance.get(APPENDED, ()):
        first, count = entry["first_episode"], entry["episodes"]
        sources[first : first + count] = [str(entry["source_sha256"])] * count
    return sources[: len(store)]


def _numbers(spec: Spec) -> list[str]:
    return [key for key, array in spec.observation.items() if not array.is_image]


def _digest(spec: Spec, episode: Episode) -> str:
    keys = _numbers(spec)
    shown = replace(spec, observation={key: spec.observation[key] for key in keys})
    episode = replace(episode, observation={key: episode.observation[key] for key in keys})
    return digest(rows_of_episode(shown, episode, "episode"), has_final_observation=episode.has_final_observation)


def _same_images(ours: Episode, theirs: Episode, job: Job) -> bool:
    return all(
        ours.observation[key].shape == theirs.observation[key].shape
        and all(
            np.array_equal(one, other)
            for one, other in zip(blocks(ours.observation[key]), blocks(theirs.observation[key]), strict=True)
        )
        for key in job.tiers
    )


def _comparable(spec: Spec) -> dict[str, Any]:
    return {
        **{f"observation '{key}'": array.to_json() for key, array in spec.observation.items()},
        "action": spec.action.to_json(),
        "control period": spec.control_period_s,
        "action semantics": spec.action_semantics,
        "absent": sorted(spec.metadata.get("absent", ())),
    }
