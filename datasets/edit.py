"""Changes of stores: merge, split, filter, relabel and delete. Each makes new stores beside the old and then renames.

What an episode holds goes over untouched: JPEG bytes and videos are copied, not decoded, so an episode that an
operation does not change keeps its checksum.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.convert_append import APPENDED, EDITS, differences
from robot_rl.datasets.convert_transforms import (
    ABSENT,
    RewardLabel,
    choose_keys,
    splits_of,
    with_keys,
    with_reward_from,
    with_success_at_end,
)
from robot_rl.datasets.convert_write import BLOCK_BYTES, BLOCK_STEPS, declare_bounds
from robot_rl.datasets.ingest.base import SuccessLabel, plain
from robot_rl.datasets.remote import building_at, is_url
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import WriterLock, clear_disk_errors, flush, is_store
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Episode

VALIDATION_SPLITS = ("train", "valid", "validation", "val", "test")
"""Names of masks that split a robomimic file; its other masks, such as `20_percent`, may overlap."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which episodes are kept, and which of their observations; the fields mirror `EditConfig`."""

    episodes: Sequence[int] = ()
    keep: str = "all"
    minimum_steps: int = 1
    maximum_steps: int | None = None
    minimum_return: float | None = None
    task: str | None = None
    keys: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def wants(self, index: int, episode: Episode) -> bool:
        """Whether an episode is kept."""
        language = str(episode.metadata.get("language", ""))
        return (
            (not self.episodes or index in self.episodes)
            and (self.keep == "all" or (episode.success is not None and bool(episode.success.any())))
            and len(episode) >= self.minimum_steps
            and (self.maximum_steps is None or len(episode) <= self.maximum_steps)
            and (self.minimum_return is None or float(episode.reward.sum(dtype=np.float64)) >= self.minimum_return)
            and (self.task is None or self.task.lower() in language.lower())
        )


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What episodes are given in place of what they have; None leaves it."""

    language: str | None = None
    success: SuccessLabel | None = None
    reward: RewardLabel = field(default_factory=RewardLabel)

    @property
    def gives(self) -> list[str]:
        """What no longer counts as absent."""
        last_steps, observation = self.reward.last_steps, self.reward.observation
        success = self.success is not None or last_steps is not None
        reward = last_steps is not None or observation is not None
        return (["success"] if success else []) + (["reward"] if reward else [])

    def episode(self, episode: Episode, place: str) -> Episode:
        """The episode with new labels.

        Raises:
            InputError: a rule names something that it does not have.
        """
        if self.success is not None:
            episode = replace(episode, success=self.success(episode.observation, place))
        if self.reward.observation is not None:
            reward = with_reward_from(episode, self.reward.observation, self.reward.index, place).reward
            episode = replace(episode, reward=reward)
        if self.reward.last_steps is not None:
            episode = with_success_at_end(episode, self.reward.last_steps, self.reward.values)
        if self.language is not None:
            episode = replace(episode, metadata=episode.metadata | {"language": self.language})
        return episode


@dataclass(frozen=True, kw_only=True)
class Made:
    """A store that an operation made."""

    path: str  # or its URL
    episodes: int
    steps: int
    removed: int = 0  # episodes that the operation left out


def merge(stores: Sequence[str | Path], output: str | Path | None = None, *, overwrite: bool = False) -> Made:
    """One store with the episodes of several, in their order; without an output, the first becomes it.

    Raises:
        InputError: there is one store only, or they hold episodes of different kinds.
    """
    opened = [EpisodeStore.open(path) for path in stores]
    if len(opened) < 2:
        raise InputError("merge needs at least two stores: name the others, others=[b.zarr,c.zarr]")
    first = opened[0]
    for other in opened[1:]:
        found = differences(first.spec, other.spec)
        if first.tiers != other.tiers:
            found.append(f"image tiers: {first.tiers} and {other.tiers}")
        if found:
            raise InputError(f"{other.path} cannot be merged with {first.path}: {'; '.join(found)}")
    origins = [{"store": store.path.name, "episodes": len(store), "provenance": store.provenance} for store in opened]
    provenance = {"source": f"{len(opened)} stores", "format": "merged", "merged": origins}
    with _output(first, stores[0], output, overwrite) as (temporary, final):
        episodes = (episode for store in opened for episode in store.episodes())
        made = _write(temporary, first, first.spec, episodes, provenance)
        declare_bounds(made)
    return Made(path=final, episodes=len(made), steps=made.steps)


def filter_episodes(
    store: str | Path, selection: Selection, output: str | Path | None = None, *, overwrite: bool = False
) -> Made:
    """The store with the chosen episodes and observations only.

    Raises:
        InputError: nothing is left, a key or an episode is not there, or the store does not know success.
    """
    source = EpisodeStore.open(store)
    _require_episodes(source, selection.episodes)
    if selection.keep == "successful" and "success" in source.spec.metadata.get(ABSENT, ()):
        raise InputError(f"{source.path} does not say what succeeds: label it first, with `robot-rl edit relabel`")
    keys = choose_keys(list(source.spec.observation), selection.keys, selection.exclude)
    numbers = [key for key, array in source.spec.observation.items() if not array.is_image]
    wanted = [i for i, episode in enumerate(source.episodes(keys=numbers)) if selection.wants(i, episode)]
    spec = replace(source.spec, observation={key: source.spec.observation[key] for key in keys})
    return _keep(store, source, wanted, spec, {"operation": "filter", **_given(selection)}, output, overwrite)


def delete(
    store: str | Path, episodes: Sequence[int], output: str | Path | None = None, *, overwrite: bool = False
) -> Made:
    """The store without some episodes; those behind them move up.

    Raises:
        InputError: none is named, one is not there, or none would be left.
    """
    source = EpisodeStore.open(store)
    if not episodes:
        raise InputError("delete needs the episodes: episodes=[3,7]")
    _require_episodes(source, episodes)
    deleted = set(episodes)
    wanted = [index for index in range(len(source)) if index not in deleted]
    return _keep(
        store, source, wanted, source.spec, {"operation": "delete", "episodes": sorted(deleted)}, output, overwrite
    )


def relabel(store: str | Path, labels: Labels, output: str | Path | None = None, *, overwrite: bool = False) -> Made:
    """The store with other labels.

    Raises:
        InputError: no label is given, or a rule names something that the store does not have.
    """
    if labels == Labels():
        raise InputError("relabel needs what to set: language=..., success.observation=... or reward.last_steps=...")
    return rewrite(
        store,
        lambda index, episode: labels.episode(episode, f"episode {index}"),
        {"operation": "relabel", **_given(labels)},
        output,
        gives=labels.gives,
        overwrite=overwrite,
    )


def rewrite(
    store: str | Path,
    change: Callable[[int, Episode], Episode],
    about: dict[str, Any],
    output: str | Path | None = None,
    *,
    gives: Sequence[str] = (),
    overwrite: bool = False,
) -> Made:
    """The store with every episode changed in what is no image.

    Args:
        store: the source.
        change: an episode of this number becomes another, with the same observations; all get the same arrays.
        about: what the provenance says of it, as JSON; `operation` names it.
        output: of the new store; None is in place.
        gives: what no longer counts as absent: `reward`, `success`.
        overwrite: replace a store that is there.

    Raises:
        InputError: an episode does not fit the others.
    """
    source = EpisodeStore.open(store)
    absent = [name for name in source.spec.metadata.get(ABSENT, ()) if name not in gives]
    metadata = {key: value for key, value in source.spec.metadata.items() if key != ABSENT}
    spec = replace(source.spec, metadata=metadata | ({ABSENT: absent} if absent else {}))
    with _output(source, store, output, overwrite) as (temporary, final):
        episodes = (change(index, episode) for index, episode in enumerate(source.episodes()))
        made = _write(temporary, source, spec, episodes, _edited(source, about))
    return Made(path=final, episodes=len(made), steps=made.steps)


def split(
    store: str | Path,
    output: str | Path,
    *,
    shares: Mapping[str, float] | None = None,
    by: str = "random",
    seed: int = 0,
    overwrite: bool = False,
) -> list[Made]:
    """A folder of stores, `NAME.zarr` for each part; every episode is in exactly one of them.

    Args:
        store: to be split; it stays.
        output: the folder.
        shares: of each part, by name; without any, nine tenths `train` and one tenth `validation`.
        by: `random`; `order` (the first part has the first episodes); `recorded` (as the source says; shares are not
            used).
        seed: of the random choice.
        overwrite: replace a folder of stores that is there.

    Raises:
        InputError: shares do not sum to 1, a part would be empty, or the source does not say one split per episode.
    """
    if is_url(output):
        raise InputError(f"split makes a folder of stores on this machine, not at {output}: name one here")
    source, folder = EpisodeStore.open(store), Path(output)
    if by == "recorded":
        parts = recorded_parts(source)
    else:
        shares = shares if shares else {"train": 0.9, "validation": 0.1}
        parts = parts_by_share(source.digests, shares, seed, shuffled=by == "random")
    made = []
    with _folder(folder, source.path, overwrite) as temporary:
        for name, indices in parts.items():
            about = {"operation": "split", "part": name, "by": by, "episodes": indices} | (
                {"seed": seed} if by == "random" else {}
            )
            provenance = _edited(source, about)
            part = _write(temporary / f"{name}.zarr", source, source.spec, source.episodes(indices), provenance)
            made.append(Made(path=str(folder / f"{name}.zarr"), episodes=len(part), steps=part.steps))
    return made


def parts_by_share(
    digests: Sequence[str], shares: Mapping[str, float], seed: int, *, shuffled: bool
) -> dict[str, list[int]]:
    """Episodes of each part, in order. Episodes that are equal come into the same part, so that none leaks.

    Args:
        digests: of the episodes.
        shares: of each part; the sizes are the nearest whole numbers.
        seed: of the order in which episodes are dealt.
        shuffled: deal them in random order; else as they are.

    Raises:
        InputError: shares do not sum to 1, or a part would be empty.
    """
    if any(share < 0 for share in shares.values()) or abs(sum(shares.values()) - 1.0) > 1e-6:
        raise InputError(f"shares={dict(shares)} must not be negative, and must sum to 1")
    ends = np.round(np.cumsum(list(shares.values())) * len(digests)).astype(int)
    groups: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        groups.setdefault(digest, []).append(index)
    order = np.random.default_rng(seed).permutation(len(groups)) if shuffled else np.arange(len(groups))
    parts: dict[str, list[int]] = {name: [] for name in shares}
    names, dealt, copies = list(shares), 0, list(groups.values())
    for number in order:
        part = int(np.searchsorted(ends, dealt, side="right"))
        parts[names[part]] += copies[number]
        dealt += len(copies[number])
    empty = [name for name, indices in parts.items() if not indices]
    if empty:
        raise InputError(f"of {len(digests)} episodes none is left for {', '.join(empty)}: choose other shares")
    return {name: sorted(indices) for name, indices in parts.items()}


def recorded_parts(store: EpisodeStore) -> dict[str, list[int]]:
    """Episodes of each split that the source declared, in order.

    Raises:
        InputError: an episode is in none, or in several.
    """
    parts: dict[str, list[int]] = {}
    for index, episode in enumerate(store.episodes(keys=[])):
        splits = splits_of(episode)
        splits = splits if len(splits) == 1 else splits & set(VALIDATION_SPLITS)
        if len(splits) != 1:
            found = ", ".join(sorted(splits_of(episode))) or "no split"
            raise InputError(f"{store.path}: the source has episode {index} in {found}: split it by=random or by=order")
        parts.setdefault(splits.pop(), []).append(index)
    return parts


def _given(choice: Selection | Labels) -> dict[str, Any]:
    """The settings that are not the default, as JSON."""
    values, default = asdict(choice), asdict(type(choice)())
    return {item.name: plain(values[item.name]) for item in fields(choice) if values[item.name] != default[item.name]}


def _keep(
    path: str | Path,
    source: EpisodeStore,
    wanted: list[int],
    spec: Spec,
    about: dict[str, Any],
    output: str | Path | None,
    overwrite: bool,
) -> Made:
    if not wanted:
        raise InputError(f"that would leave none of {len(source)} episodes of {source.path}: nothing was changed")
    keys = list(spec.observation)
    removed = len(source) - len(wanted)
    with _output(source, path, output, overwrite) as (temporary, final):
        episodes = (with_keys(episode, keys) for episode in source.episodes(wanted))
        made = _write(temporary, source, spec, episodes, _edited(source, about | {"removed": removed}))
    return Made(path=final, episodes=len(made), steps=made.steps, removed=removed)


def _write(
    path: Path, source: EpisodeStore, spec: Spec, episodes: Iterator[Episode], provenance: dict[str, Any]
) -> EpisodeStore:
    tiers = {key: tier for key, tier in source.tiers.items() if key in spec.observation}
    store = EpisodeStore.create(path, spec, provenance=provenance, tiers=tiers, quality=source.quality)
    block: list[Episode] = []
    steps, size = 0, 0
    for episode in episodes:
        block.append(episode)
        steps, size = steps + len(episode), size + _image_bytes(spec, episode)
        if steps >= BLOCK_STEPS or size >= BLOCK_BYTES:
            store.extend(block)
            block, steps, size = [], 0, 0
    store.extend(block)
    store.finish()
    return store


def _image_bytes(spec: Spec, episode: Episode) -> int:
    return sum(int(np.prod(episode.observation[key].shape)) for key, a in spec.observation.items() if a.is_image)


def _edited(source: EpisodeStore, about: dict[str, Any]) -> dict[str, Any]:
    """The provenance of a store, with one more change; episodes have moved, so what counted them goes with it."""
    origin = {key: value for key, value in source.provenance.items() if key not in (EDITS, APPENDED)}
    counted = {key: value for key, value in source.provenance.items() if key == APPENDED}
    return origin | {EDITS: [*source.provenance.get(EDITS, ()), about | counted]}


@contextlib.contextmanager
def _output(
    source: EpisodeStore, path: str | Path, output: str | Path | None, overwrite: bool
) -> Iterator[tuple[Path, str]]:
    """Where to write, and what it becomes: another store, or the source itself, which nobody may write meanwhile.

    Args:
        source: as it was opened, and as the change was chosen by.
        path: of the source, or its URL.
        output: of the new store; None is in place.
        overwrite: replace a store that is there.

    Raises:
        InputError: the source was written to since it was opened, or is written to now.
    """
    if output is None or _same_place(path, output):
        lock = None if is_url(path) else WriterLock(Path(path))
        if EpisodeStore.open(path).records != source.records:
            raise InputError(f"{path} was changed by another process meanwhile, so it is left as it is: try again")
        with building_at(path, overwrite=True) as temporary:
            yield temporary, str(path)
        del lock
        return
    with building_at(output, overwrite=overwrite) as temporary:
        yield temporary, str(output)


def _same_place(one: str | Path, other: str | Path) -> bool:
    if is_url(one) or is_url(other):
        return str(one) == str(other)
    return Path(one).resolve() == Path(other).resolve()


@contextlib.contextmanager
def _folder(folder: Path, source: Path, overwrite: bool) -> Iterator[Path]:
    """A folder for stores that appears whole or not at all. It replaces one whose stores a split has made."""
    if folder.exists():
        if not folder.is_dir() or is_store(folder) or not all(map(is_store, folder.iterdir())):
            raise InputError(f"{folder} is there already and is no folder of stores: choose another name")
        if not overwrite:
            raise InputError(f"{folder} is there already: choose another name, or replace it with overwrite=true")
        if folder.resolve() in source.resolve().parents:
            raise InputError(f"{source} lies in {folder}, and would be replaced with it: choose another folder")
        others = [entry.name for entry in sorted(folder.iterdir()) if not _is_part(EpisodeStore.open(entry))]
        if others:
            raise InputError(
                f"{folder} holds {others[0]}, which no split has made, so it is not replaced: choose another folder"
            )
    unique = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary, replaced = (folder.with_name(f".{folder.name}.{kind}-{unique}") for kind in ("partial", "replaced"))
    try:
        with clear_disk_errors(folder):
            temporary.mkdir(parents=True)
        yield temporary
        with clear_disk_errors(folder):
            if folder.exists():
                folder.rename(replaced)
            temporary.rename(folder)
            flush([folder, folder.parent])
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)


def _is_part(store: EpisodeStore) -> bool:
    return any(change.get("operation") == "split" for change in store.provenance.get(EDITS, ()))


def _require_episodes(store: EpisodeStore, episodes: Sequence[int]) -> None:
    missing = [index for index in episodes if not 0 <= index < len(store)]
    if missing:
        raise InputError(f"{store.path} has episodes 0 to {len(store) - 1}, not {', '.join(map(str, missing))}")
