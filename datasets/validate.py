"""What is odd about a store: findings with place and remedy, most severe first.

One pass over the store collects facts (`robot_rl.datasets.validation`); each check is a function of them. Memory is
bounded: one episode at a time, a few numbers of each, and a sample of the images.
"""

from typing import Protocol

from robot_rl.datasets.schema import SEVERITIES, Finding
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.validation.alignment import ActionFacts, image_lag
from robot_rl.datasets.validation.duplicates import DuplicateFacts, leaks_between
from robot_rl.datasets.validation.ends import EpisodeFacts
from robot_rl.datasets.validation.facts import error
from robot_rl.datasets.validation.numbers import SATURATED_SHARE, NumberFacts, exceeds, saturation
from robot_rl.datasets.validation.pictures import PictureFacts
from robot_rl.datasets.validation.quaternions import QuaternionFacts
from robot_rl.datasets.validation.timing import TimeFacts
from robot_rl.errors import InputError
from robot_rl.types import Episode

__all__ = ["SATURATED_SHARE", "exceeds", "leaks", "saturation", "validate"]


class Facts(Protocol):
    """What a pass over a store collects for a group of checks."""

    def add(self, index: int, episode: Episode) -> None:
        """One episode of the store, in order."""

    def findings(self) -> list[Finding]:
        """What is odd about all that was added."""


def validate(store: EpisodeStore, place: str | None = None) -> list[Finding]:
    """Check every array of a store, and a sample of its images.

    Reads the store once for its checksums and once for the checks, episode by episode.

    Args:
        store: to check.
        place: how a person names the store, for remedies; None takes its path.
    """
    findings = _damage(store)
    if findings:
        return findings
    if len(store) == 0:
        return [error(store.path.name, "there is no episode", "record or ingest some")]
    spec, path, count = store.spec, str(store.path) if place is None else place, len(store)
    pictures = PictureFacts(spec, path, count)
    collectors: list[Facts] = [
        NumberFacts(spec, path),
        QuaternionFacts(spec, path),
        ActionFacts(spec, count),
        EpisodeFacts(spec, path),
        TimeFacts(spec, path),
        pictures,
        DuplicateFacts(spec, path, store.digests),
    ]
    for index, episode in enumerate(store.episodes()):
        for facts in collectors:
            facts.add(index, episode)
    for facts in collectors:
        findings += facts.findings()
    for camera in pictures.cameras.values():
        findings += image_lag(camera, spec.control_period_s)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def leaks(store: EpisodeStore, other: EpisodeStore) -> list[Finding]:
    """Episodes of `other` (a validation set, say) that `store` has too, exactly or nearly."""
    ours = _sketched(store, None)
    return leaks_between(ours, _sketched(other, ours), str(store.path))


def _sketched(store: EpisodeStore, like: DuplicateFacts | None) -> DuplicateFacts:
    facts = DuplicateFacts(store.spec, str(store.path), store.digests, like)
    for index, episode in enumerate(store.episodes()):
        facts.add(index, episode)
    return facts


def _damage(store: EpisodeStore) -> list[Finding]:
    try:
        store.verify()
    except InputError as damage:
        return [error(store.path.name, str(damage))]
    return []
