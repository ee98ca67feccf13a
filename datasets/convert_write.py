"""Outcomes become commits of a store, in their order; what the store refuses is left out, one by one."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import zarr

from robot_rl.datasets.convert_append import Known
from robot_rl.datasets.convert_partial import Entry, Journal
from robot_rl.datasets.convert_transforms import ACTION_BOUNDS, bounds_of_data
from robot_rl.datasets.convert_workers import Outcome, Resumable
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import clear_disk_errors, flush
from robot_rl.errors import InputError

BLOCK_STEPS = 4096  # that are committed at once
BLOCK_BYTES = 64 << 20  # of images, decoded, that are committed at once
BLOCK_S = 5.0  # after which what there is is committed


@dataclass(kw_only=True)
class Writer:
    """Writes a store and its journal."""

    store: EpisodeStore
    journal: Journal
    known: Known
    committed: Callable[["Writer"], None]  # called after every commit
    steps: int = 0  # that were stored
    frames: int = 0  # images that were stored
    _block: list[Outcome] = field(default_factory=list)
    _block_steps: int = 0
    _block_bytes: int = 0  # of images, decoded

    def write(self, outcomes: Iterable[Outcome], *, stop: bool) -> None:
        """Commit outcomes in blocks.

        Args:
            outcomes: of the episodes behind those in the journal.
            stop: raise the first error, in place of leaving the episode out.

        Raises:
            InputError: an episode cannot be used and `stop` is on.
            Resumable: the disk is full.
        """
        since = time.monotonic()
        for outcome in outcomes:
            if stop and outcome.error is not None:
                raise InputError(outcome.error)
            self._take(self.known.without_known(outcome))
            if self._is_full() or time.monotonic() - since > BLOCK_S:
                self._commit(stop)
                since = time.monotonic()
        self._commit(stop)

    def _take(self, outcome: Outcome) -> None:
        self._block.append(outcome)
        if outcome.episode is not None:
            self._block_steps += len(outcome.episode)
            self._block_bytes += sum(
                outcome.episode.observation[key].shape[0] * _pixels(self.store, key)
                for key, spec in self.store.spec.observation.items()
                if spec.is_image
            )

    def _is_full(self) -> bool:
        most = max(len(self._block), self._block_steps)
        return most >= BLOCK_STEPS or self._block_bytes >= BLOCK_BYTES

    def _commit(self, stop: bool) -> None:
        block, self._block = self._block, []
        self._block_steps = self._block_bytes = 0
        if not block:
            return
        refused = self._try(block)
        if refused is not None:
            for outcome in block:  # find out which
                refused = self._try([outcome])
                if refused is not None:
                    if stop:
                        raise InputError(refused)
                    self._try([replace(outcome, episode=None, error=refused)])
        self.committed(self)

    def _try(self, block: list[Outcome]) -> str | None:
        """Commit a block, or say why it is refused; then nothing of it is there."""
        start = len(self.journal.entries)
        episodes = [outcome.episode for outcome in block if outcome.episode is not None]
        self.journal.write(start, [_entry(outcome) for outcome in block])
        try:
            self.store.extend(episodes)
        except InputError as error:
            if isinstance(error.__cause__, OSError):
                raise Resumable(f"{error}. Give the same command again to go on") from error
            self.journal.write(start, [])
            return str(error)
        self.steps += sum(map(len, episodes))
        for key, spec in self.store.spec.observation.items():
            if spec.is_image:
                self.frames += sum(len(episode.observation[key]) for episode in episodes)
        return None


def finish(store: EpisodeStore, provenance: dict[str, Any]) -> None:
    """Write statistics, provenance, and the bounds of actions.

    Raises:
        InputError: the disk is full.
    """
    store.finish()
    _set_attributes(store, {"provenance": provenance})
    declare_bounds(store)


def declare_bounds(store: EpisodeStore) -> None:
    """Write the bounds of actions where they are declared to be those of the data.

    Raises:
        InputError: the disk is full.
    """
    if store.spec.metadata.get(ACTION_BOUNDS) == "data":
        range_of = store.statistics["arrays"]["action"]
        low, high = bounds_of_data(range_of["minimum"], range_of["maximum"])
        action = replace(store.spec.action, low=low, high=high)
        _set_attributes(store, {"spec": replace(store.spec, action=action).to_json()})


def _set_attributes(store: EpisodeStore, attributes: dict[str, Any]) -> None:
    with clear_disk_errors(store.path):
        zarr.open_group(store.path, mode="r+", use_consolidated=False).attrs.update(attributes)
        flush([store.path / "zarr.json", store.path])


def _pixels(store: EpisodeStore, key: str) -> int:
    height, width, channels = store.spec.observation[key].shape
    return height * width * channels


def _entry(outcome: Outcome) -> Entry:
    return Entry(
        place=outcome.place,
        stored=outcome.episode is not None,
        error=outcome.error,
        left_out=outcome.left_out,
        findings=outcome.findings,
    )
