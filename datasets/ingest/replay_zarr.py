"""Replay buffers of diffusion_policy and UMI: flat arrays of zarr version 2, cut by `episode_ends`.

Layout of "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion" (arXiv 2303.04137): `data/<key>` with a
row for every step of all episodes, `meta/episode_ends` with cumulative ends; in a folder or a zip. Others leave out the
two groups. The layout knows no rewards, ends, language or final observations.
"""

import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.frames import Frames, as_array
from robot_rl.datasets.ingest.base import ReadOptions, Recording, SuccessSource, action_spec, array_spec, provenance
from robot_rl.datasets.ingest.zarr2 import Files, Folder, Zarr2Array, Zip
from robot_rl.datasets.schema import Finding, require_finite
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

VERSION = 1
ENDS = ("meta/episode_ends", "episode_ends")
ACTIONS = ("action", "actions")
REWARDS = ("reward", "rewards")
PER_EPISODE = ("success",)
CHANNELS = (1, 3)
LARGEST_EPISODES = 10_000_000


class ReplayZarrReader:
    """`format=replay_zarr`."""

    name = "replay_zarr"
    description = "zarr version 2 with flat arrays and episode_ends, in a folder or a zip (diffusion_policy, UMI)"

    def probe(self, path: Path) -> str | None:
        """A description of `episode_ends`."""
        try:
            if path.is_dir():
                found = any((path / f"{name}/.zarray").is_file() for name in ENDS)
            elif zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    found = any(name.endswith("episode_ends/.zarray") for name in archive.namelist())
            else:
                return None
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
            return None
        return "it has episode_ends of zarr version 2" if found else None

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Read the descriptions and the ends; episodes are read one by one, images as they are looked at.

        Raises:
            InputError: damaged, or without ends, actions or observations.
        """
        with ExitStack() as stack:
            files: Files
            if path.is_dir():
                files = Folder(path)
            else:
                archive = Zip(path)
                stack.callback(archive.close)
                files = archive
            present = files.names()
            source = _Source(files, present)
            ends, findings = source.ends(path.name)
            ends = ends[: options.maximum_episodes]
            arrays = source.arrays(int(ends[-1]))
            actions = source.actions(arrays)
            rewards = [name for name in arrays if name.split("/")[-1] in REWARDS]
            observed = {key: array for key, array in arrays.items() if key not in {*actions, *rewards}}
            if not observed:
                raise InputError(f"{path}: there are no observations beside {', '.join(arrays)}")
            facts = source.facts(len(ends))
            success = facts.get("success")
            spec = _spec(observed, [arrays[name] for name in actions], options, path)
            absent = [name for name, there in (("action", actions), ("reward", rewards)) if not there]
            absent += [*(["success"] if success is None else []), "end"]
            known = [arrays[name].rows(0, int(ends[-1])) for name in rewards] or [np.zeros(0)]
            rule, more = SuccessSource.of(options, known, recorded=success is not None, path=path)
            findings += more
            spec = replace(spec, metadata={"absent": rule.lacking(absent)})
            if len(actions) > 1:
                text = f"the action is {', '.join(actions)}, one behind the other"
                findings.append(Finding(severity="information", place=path.name, text=text))
            starts = np.concatenate([[0], ends[:-1]])

            def read(index: int) -> Episode:
                start, stop = int(starts[index]), int(ends[index])
                place = f"{path}: episode {index}"
                metadata: dict[str, Any] = {"source": f"episode {index}"}
                metadata |= {name: values[index].item() for name, values in facts.items() if name != "success"}
                episode = _episode(
                    observed, [arrays[n] for n in actions], [arrays[n] for n in rewards], start, stop, place
                )
                if success is not None:
                    succeeded = np.zeros(len(episode), bool)
                    succeeded[-1] = bool(success[index])
                    episode = replace(episode, success=succeeded)
                return rule.label(replace(episode, metadata=metadata), place)

            used = sorted(path / name for name in present) if path.is_dir() else None
            about = {"arrays": {key: list(array.shape) for key, array in arrays.items()}}
            return Recording(
                spec=spec,
                provenance=provenance(path, self.name, VERSION, about, used),
                count=len(ends),
                read=read,
                findings=findings,
                resources=stack.pop_all(),
            )


class ZarrFrames(Frames):
    """Images of an episode, read chunk by chunk."""

    def __init__(self, array: Zarr2Array, rows: Array) -> None:
        height, width, channels = array.shape[1:]
        super().__init__((len(rows), height, width, channels))
        self.array = array
        self.rows = rows

    def decode(self, indices: Array) -> Array:
        """See `Frames.decode`."""
        wanted = self.rows[indices]
        if len(wanted) == 0:
            return np.empty((0, *self.shape[1:]), np.uint8)
        first, last = int(wanted.min()), int(wanted.max()) + 1
        if last - first <= 2 * len(wanted):
            return np.asarray(self.array.rows(first, last)[wanted - first])
        return np.concatenate([self.array.rows(int(row), int(row) + 1) for row in wanted])

    def select(self, indices: Array) -> "ZarrFrames":
        """See `Frames.select`."""
        return ZarrFrames(self.array, self.rows[indices])


class _Source:
    """The arrays of a store by key, without the group `data/`."""

    def __init__(self, files: Files, present: Sequence[str]) -> None:
        self.files = files
        self.present = present
        self._opened: dict[str, Zarr2Array] = {}
        self.names = [name.removesuffix("/.zarray") for name in present if name.endswith("/.zarray")]

    def ends(self, place: str) -> tuple[Array, list[Finding]]:
        """Cumulative ends, increasing.

        Raises:
            InputError: they are missing or not increasing.
        """
        name = next((name for name in ENDS if name in self.names), None)
        if name is None:
            raise InputError(f"{self.files.place}: there is no episode_ends, only {', '.join(self.names[:12])}")
        array = self._array(name)
        if len(array.shape) != 1 or array.dtype.kind not in "iu" or not 0 < array.shape[0] <= LARGEST_EPISODES:
            raise InputError(f"{self.files.place}: {name} is no list of whole numbers: the recording is damaged")
        ends = array.rows(0, array.shape[0]).astype(np.int64)
        if (np.diff(ends, prepend=0) <= 0).any():
            raise InputError(f"{self.files.place}: {name} does not increase: the recording is damaged")
        rows = {self._array(name).shape[0] for name in self._data()}
        longest = max(rows, default=0)
        findings = []
        if longest > int(ends[-1]):
            text = f"{longest - int(ends[-1])} rows lie behind the last episode: the recorder was stopped amid it"
            findings.append(
                Finding(severity="warning", place=place, text=text, remedy="they are left out, as the layout asks")
            )
        return ends, findings

    def arrays(self, rows: int) -> dict[str, Zarr2Array]:
        """What has a row for every step.

        Raises:
            InputError: one is too short.
        """
        found = {}
        for name in self._data():
            array = self._array(name)
            if len(array.shape) == 1 and array.shape[0] < rows and "/" not in name:
                continue  # of episodes, in a layout without groups
            if array.shape[0] < rows:
                raise InputError(
                    f"{self.files.place}: {name} has {array.shape[0]} rows, but the episodes end at {rows}: the "
                    "recording is damaged"
                )
            if array.dtype.kind in "fiub":
                found[name.removeprefix("data/")] = array
        return found

    def actions(self, arrays: dict[str, Zarr2Array]) -> list[str]:
        """The key `action`, or all keys of a group of that name, in alphabetical order."""
        return sorted(key for key in arrays if key.split("/")[0] in ACTIONS)

    def facts(self, episodes: int) -> dict[str, Array]:
        """What has one entry for every episode: success, the name of the task."""
        found = {}
        for name in self.names:
            key = name.split("/")[-1]
            if name not in ENDS and (name.startswith("meta/") or "/" not in name):
                array = self._array(name)
                if len(array.shape) == 1 and array.shape[0] == episodes and array.dtype.kind in "iubfUS":
                    values = array.rows(0, episodes)
                    found[key] = np.char.decode(values, errors="replace") if array.dtype.kind == "S" else values
        success = found.get("success")
        if success is not None and not np.isin(success, (0, 1)).all():
            del found["success"]
        return {key: values for key, values in found.items() if values.dtype.kind != "f" or np.isfinite(values).all()}

    def _data(self) -> list[str]:
        if any(name.startswith("data/") for name in self.names):
            return [name for name in self.names if name.startswith("data/")]
        return [name for name in self.names if name not in ENDS and not name.startswith("meta/")]

    def _array(self, name: str) -> Zarr2Array:
        if name not in self._opened:
            self._opened[name] = Zarr2Array.open(self.files, name, self.present)
        return self._opened[name]


def _spec(observed: dict[str, Zarr2Array], actions: list[Zarr2Array], options: ReadOptions, path: Path) -> Spec:
    observation = {}
    for key, array in observed.items():
        if _is_image(array):
            observation[key] = ArraySpec(shape=array.shape[1:], dtype="uint8")
        else:
            observation[key] = array_spec(_columns(array.rows(0, 1)))
    first = _joined(actions, 0, 1) if actions else np.zeros((1, 0), np.float32)
    action = action_spec(first, options, str(path)) if actions else ArraySpec(shape=(0,))
    return Spec(observation=observation, action=action, control_period_s=options.control_period_s)


def _episode(
    observed: dict[str, Zarr2Array],
    actions: list[Zarr2Array],
    rewards: list[Zarr2Array],
    start: int,
    stop: int,
    place: str,
) -> Episode:
    count = stop - start
    steps = count if actions else count - 1
    if steps < 1:
        raise InputError(f"{place} has a single row and no action: nothing to store")
    rows = np.arange(start, stop)
    if actions:  # the observation behind the last action is not recorded
        rows = np.append(rows, stop - 1)
    observation = {}
    for key, array in observed.items():
        if _is_image(array):
            observation[key] = as_array(ZarrFrames(array, rows))
        else:
            values = _columns(array.rows(start, stop))
            require_finite(values, f"{place}: {key}")
            observation[key] = values[rows - start]
    action = _joined(actions, start, stop) if actions else np.zeros((steps, 0), np.float32)
    require_finite(action, f"{place}: action")
    reward = np.zeros(steps, np.float32)
    if rewards:
        reward = rewards[0].rows(start, start + steps).reshape(steps, -1)[:, 0].astype(np.float64)
        require_finite(reward, f"{place}: reward")
    return Episode(
        observation=observation,
        action=action,
        reward=reward,
        terminated=np.zeros(steps, bool),
        truncated=np.arange(steps) == steps - 1,
        has_final_observation=not actions,
    )


def _joined(arrays: list[Zarr2Array], start: int, stop: int) -> Array:
    parts = [array.rows(start, stop) for array in arrays]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _columns(rows: Array) -> Array:
    return rows[:, None] if rows.ndim == 1 else rows


def _is_image(array: Zarr2Array) -> bool:
    return array.dtype == np.uint8 and len(array.shape) == 4 and array.shape[3] in CHANNELS
