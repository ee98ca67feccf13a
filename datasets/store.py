"""The episode store: a zarr v3 folder that is written episode by episode and read whole.

One episode is one commit. Its rows are written, then its line in `episodes.jsonl`, and last its entry in
`meta/episode_ends`, whose fill value means "not committed". A reader trusts that table only, so a crash at any moment
leaves a store that opens with exactly the committed episodes; appending again overwrites the rest.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from robot_rl.datasets.schema import (
    EPISODE_LOG,
    SCHEMA_VERSION,
    SUCCESS_UNKNOWN,
    UNCOMMITTED,
    digest,
    episode_of_rows,
    rows_of_episode,
)
from robot_rl.datasets.statistics import episode_statistics
from robot_rl.datasets.store_files import (
    building,
    clear_disk_errors,
    flush,
    flush_rows,
    is_store,
    kept_aside,
    near,
    read_log,
    write_log,
)
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

CHUNK_BYTES = 1 << 20
TABLE_CHUNK = 4096  # entries of a `meta/` array in one chunk


class EpisodeStore:
    """A store, open for reading (`open`) or for reading and appending (`create`, `append_to`).

    Open it inside the process that uses it: zarr's background loop does not survive a fork.
    """

    def __init__(self, path: Path, group: zarr.Group, *, writable: bool) -> None:
        self.path = path
        self._group = group
        self._writable = writable
        attributes = dict(group.attrs)
        self.spec = Spec.from_json(attributes["spec"])  # type: ignore[arg-type]  # JSON that `create` wrote
        self.provenance: dict[str, Any] = attributes["provenance"]  # type: ignore[assignment]  # as above
        ends = np.asarray(_array(group, "meta/episode_ends")[:], np.int64)
        uncommitted = np.flatnonzero(ends == UNCOMMITTED)
        self._ends = ends[: uncommitted[0]] if len(uncommitted) else ends  # rows, cumulative, exclusive
        self._has_final = np.asarray(_array(group, "meta/has_final_observation")[: len(self._ends)], bool)
        self._log, self._log_bytes = read_log(path / EPISODE_LOG, len(self._ends))

    @staticmethod
    def create(path: str | Path, spec: Spec, *, provenance: dict[str, Any], overwrite: bool = False) -> "EpisodeStore":
        """A new, empty store.

        Raises:
            InputError: something is there already, or the folder cannot be written.
        """
        path = Path(path)
        with building(path, overwrite=overwrite) as temporary, clear_disk_errors(path):
            group = zarr.create_group(temporary, overwrite=False, zarr_format=3)
            for name, dtype, fill in (("episode_ends", "int64", UNCOMMITTED), ("has_final_observation", "bool", False)):
                group.create_array(
                    f"meta/{name}", shape=(0,), chunks=(TABLE_CHUNK,), dtype=dtype, fill_value=fill, compressors=None
                )
            (temporary / EPISODE_LOG).touch()
            group.attrs.update({"schema_version": SCHEMA_VERSION, "spec": spec.to_json(), "provenance": provenance})
        return EpisodeStore.append_to(path)

    @staticmethod
    def open(path: str | Path) -> "EpisodeStore":
        """An existing store, for reading.

        Raises:
            InputError: nothing is there (with near names), it is no store, or of a newer schema.
        """
        return EpisodeStore(Path(path), _open_group(Path(path), writable=False), writable=False)

    @staticmethod
    def append_to(path: str | Path) -> "EpisodeStore":
        """An existing store, for reading and appending; rows behind the last commit are overwritten.

        Raises:
            InputError: as `open`.
        """
        return EpisodeStore(Path(path), _open_group(Path(path), writable=True), writable=True)

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def rows(self) -> int:
        """Committed rows of every `steps/` array: steps plus one per episode."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def steps(self) -> int:
        """Committed steps."""
        return self.rows - len(self)

    @property
    def digests(self) -> list[str]:
        """SHA-256 of each episode's arrays, as recorded when it was written."""
        return [line["sha256"] for line in self._log]

    @property
    def statistics(self) -> dict[str, Any]:
        """As `finish` wrote them; computed where a crash left them behind the committed episodes."""
        stored: Any = self._group.attrs.get("statistics")
        if stored is not None and stored["episodes"] == len(self):
            return dict(stored)
        return episode_statistics(self.episodes())

    def append(self, episode: Episode) -> None:
        """Commit one episode; when this returns, it is on the disk.

        Raises:
            InputError: the episode does not fit the spec, or the disk is full; the store keeps what it had.
        """
        self.extend([episode])

    def extend(self, episodes: Sequence[Episode]) -> None:
        """Commit several episodes at once: faster, and all of them are lost if the process dies before the end.

        Raises:
            InputError: as `append`.
        """
        if not self._writable:
            raise RuntimeError(f"{self.path} is open for reading: use EpisodeStore.append_to")
        if not episodes:
            return
        for index, episode in enumerate(episodes):
            _require_json(episode, _place(episode, len(self) + index))
        blocks = [
            rows_of_episode(self.spec, episode, _place(episode, len(self) + index))
            for index, episode in enumerate(episodes)
        ]
        with clear_disk_errors(self.path):
            arrays = self._step_arrays(episodes[0], blocks[0])
            for index, block in enumerate(blocks):
                _require_same_arrays(arrays, block, _place(episodes[index], len(self) + index))
            blocks = [{key: rows.astype(arrays[key].dtype, copy=False) for key, rows in b.items()} for b in blocks]
            self._commit(episodes, blocks, arrays)

    def _commit(
        self, episodes: Sequence[Episode], blocks: list[dict[str, Array]], arrays: dict[str, zarr.Array[Any]]
    ) -> None:
        start, number = self.rows, len(self)
        ends = start + np.cumsum([len(block["action"]) for block in blocks], dtype=np.int64)
        has_final = np.asarray([episode.has_final_observation for episode in episodes], bool)
        for key, array in arrays.items():
            rows = np.concatenate([block[key] for block in blocks])
            array.resize((int(ends[-1]), *rows.shape[1:]))
            array[start : int(ends[-1])] = rows
        flush_rows(self.path, {f"steps/{key}": array for key, array in arrays.items()}, start, int(ends[-1]))
        log = [
            {
                "episode": number + index,
                "steps": len(episode),
                "sha256": digest(block, has_final_observation=episode.has_final_observation),
                "metadata": episode.metadata,
            }
            for index, (episode, block) in enumerate(zip(episodes, blocks, strict=True))
        ]
        log_bytes = write_log(self.path / EPISODE_LOG, log, self._log_bytes)
        for name, values in (("has_final_observation", has_final), ("episode_ends", ends)):  # the ends are the commit
            table = _array(self._group, f"meta/{name}")
            table.resize((number + len(values),))
            table[number : number + len(values)] = values
            flush_rows(self.path, {f"meta/{name}": table}, number, number + len(values))
        self._ends = np.concatenate([self._ends, ends])
        self._has_final = np.concatenate([self._has_final, has_final])
        self._log, self._log_bytes = [*self._log, *log], log_bytes

    def finish(self) -> None:
        """Write statistics and the checksum of all episodes. A store without them still opens.

        Raises:
            InputError: the disk is full.
        """
        checksum = hashlib.sha256("".join(self.digests).encode()).hexdigest()
        statistics = episode_statistics(self.episodes())
        with clear_disk_errors(self.path):
            self._group.attrs.update({"statistics": statistics, "checksums": {"episodes": checksum}})
            flush([self.path / "zarr.json", self.path])

    def episode(self, index: int) -> Episode:
        """One episode.

        Raises:
            InputError: there is no such episode.
        """
        return next(self.episodes([index]))

    def episodes(self, indices: Sequence[int] | None = None) -> Iterator[Episode]:
        """Episodes in order, or those named, in their order.

        Everything between the first and the last of them is read into memory at once, with one read per key: the
        arrays of the episodes are views of it.

        Raises:
            InputError: there is no such episode, or the store is damaged.
        """
        chosen = range(len(self)) if indices is None else indices
        if len(chosen) == 0:
            return
        if min(chosen) < 0 or max(chosen) >= len(self):
            raise InputError(f"{self.path} has episodes 0 to {len(self) - 1}, asked for {min(chosen)} to {max(chosen)}")
        starts = np.concatenate([[0], self._ends[:-1]])
        first, last = int(starts[min(chosen)]), int(self._ends[max(chosen)])
        bulk, whole = self._read(first, last)
        for index in chosen:
            rows = slice(int(starts[index]) - first, int(self._ends[index]) - first)
            yield episode_of_rows(
                self.spec,
                {key: array[rows] for key, array in bulk.items()},
                has_final_observation=bool(self._has_final[index]),
                metadata=self._log[index]["metadata"],
                whole=whole,
            )

    def verify(self) -> None:
        """Compare every episode with the checksum it was written with.

        Raises:
            InputError: names the damaged episodes.
        """
        damaged = []
        bulk, _ = self._read(0, self.rows) if len(self) else ({}, set())
        for index, end in enumerate(self._ends):
            start = int(self._ends[index - 1]) if index else 0
            rows = {key: array[start:end] for key, array in bulk.items()}
            if digest(rows, has_final_observation=bool(self._has_final[index])) != self._log[index]["sha256"]:
                damaged.append(index)
        if damaged:
            raise InputError(
                f"{self.path}: episodes {damaged} differ from their checksums: the files changed after they were "
                "written. Restore the store from a copy, or ingest the source again with overwrite=true"
            )

    def _read(self, start: int, stop: int) -> tuple[dict[str, Array], set[str]]:
        bulk, whole = {}, set()
        for key, array in self._existing_arrays().items():
            if array.shape[0] < stop:
                raise InputError(
                    f"{self.path}: steps/{key} has {array.shape[0]} rows, but {stop} are committed: the store is "
                    "damaged. Restore it from a copy, or ingest the source again with overwrite=true"
                )
            bulk[key] = np.asarray(array[start:stop])
            if array.attrs.get("rows") == "states":
                whole.add(key)
        return bulk, whole

    def _existing_arrays(self) -> dict[str, zarr.Array[Any]]:
        """The `steps/` arrays by key."""
        if "steps" not in self._group:
            return {}
        steps = self._group["steps"]
        assert isinstance(steps, zarr.Group)
        return {name: member for name, member in steps.members(max_depth=None) if isinstance(member, zarr.Array)}

    def _step_arrays(self, episode: Episode, rows: dict[str, Array]) -> dict[str, zarr.Array[Any]]:
        """The `steps/` arrays, made at the first episode, which fixes the data type of the reward and the extras."""
        arrays = self._existing_arrays()
        if len(self):
            return arrays
        for key in set(arrays) - set(rows):  # a crash left another first episode
            shutil.rmtree(self.path / "steps" / key)
        for key, values in rows.items():
            shape = values.shape[1:]
            row_bytes = max(1, values.dtype.itemsize * int(np.prod(shape)))
            image = values.dtype == np.uint8 and len(shape) >= 2  # read through a memory map, so not compressed
            array = self._group.create_array(
                f"steps/{key}",
                shape=(0, *shape),
                chunks=(max(1, CHUNK_BYTES // row_bytes), *(max(1, size) for size in shape)),
                dtype=values.dtype,
                fill_value=SUCCESS_UNKNOWN if key == "success" else 0,
                compressors=None if image else [ZstdCodec(level=1)],
                overwrite=True,
            )
            extra = episode.extras.get(key.removeprefix("extras/")) if key.startswith("extras/") else None
            states = key.startswith("observation/") or (extra is not None and len(extra) == len(episode) + 1)
            array.attrs["rows"] = "states" if states else "steps"
            arrays[key] = array
        return {key: arrays[key] for key in rows}


def _open_group(path: Path, *, writable: bool) -> zarr.Group:
    if not path.exists():
        stores = [entry for entry in path.parent.glob("[!.]*") if is_store(entry)]
        guess = near(path, stores)
        make = f"{guess}{'Or make' if guess else 'Make'} it with `robot-rl ingest SOURCE {path}`"
        raise InputError(f"there is no store at {path}. {kept_aside(path) or make}")
    if not is_store(path):
        raise InputError(f"{path} is no episode store: make one with `robot-rl ingest {path} NAME.zarr`")
    group = zarr.open_group(path, mode="r+" if writable else "r", use_consolidated=False)
    found = group.attrs["schema_version"]
    if found != SCHEMA_VERSION:
        raise InputError(f"{path} has schema version {found}, this robot_rl reads {SCHEMA_VERSION}: ingest it again")
    return group


def _array(group: zarr.Group, name: str) -> Any:
    return group[name]


def _place(episode: Episode, number: int) -> str:
    source = episode.metadata.get("source")
    return f"episode {number}" if source is None else f"episode {number} ({source})"


def _require_json(episode: Episode, place: str) -> None:
    try:
        json.dumps(episode.metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{place}: the metadata is not plain JSON ({error}): give numbers, text, lists") from error


def _require_same_arrays(arrays: dict[str, zarr.Array[Any]], rows: dict[str, Array], place: str) -> None:
    if set(arrays) != set(rows):
        missing, unknown = sorted(set(arrays) - set(rows)), sorted(set(rows) - set(arrays))
        raise InputError(f"{place} does not have the arrays of the store: missing {missing}, unknown {unknown}")
    for key, array in arrays.items():
        if array.shape[1:] != rows[key].shape[1:]:
            raise InputError(f"{place}: {key} has shape {rows[key].shape[1:]} a step, the store has {array.shape[1:]}")
        if not np.can_cast(rows[key].dtype, array.dtype, casting="same_kind"):
            raise InputError(f"{place}: {key} has data type {rows[key].dtype}, the store has {array.dtype}")
