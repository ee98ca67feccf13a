"""The episode store: a zarr v3 folder that is written episode by episode and read whole.

One episode is one commit. Its rows are written, then its line in `episodes.jsonl`, and last its entry in
`meta/episode_ends`, whose fill value means "not committed". A reader trusts that table only, so a crash at any moment
leaves a store that opens with exactly the committed episodes; appending again overwrites the rest.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from robot_rl.datasets.blocks import BLOCK_BYTES
from robot_rl.datasets.frames import JPEG_QUALITY, as_array
from robot_rl.datasets.images import IMAGES_NOTE, ImageWriter, checked_tiers, image_column, image_folders, image_writer
from robot_rl.datasets.mapped import ImageColumn
from robot_rl.datasets.remote import fetcher, is_url, localize, url_of
from robot_rl.datasets.schema import (
    EPISODE_LOG,
    READABLE_VERSIONS,
    SCHEMA_VERSION,
    UNCOMMITTED,
    Feed,
    array_names,
    digest,
    episode_of_rows,
    header,
    rows_of_episode,
)
from robot_rl.datasets.statistics import episode_statistics
from robot_rl.datasets.step_arrays import StepArrays
from robot_rl.datasets.store_files import (
    WriterLock,
    building,
    chunk_files,
    clear_disk_errors,
    clear_store_errors,
    flush,
    flush_within,
    is_store,
    kept_aside,
    log_lines,
    near,
    read_records,
    remove_partial,
    write_log,
)
from robot_rl.errors import InputError, nearest
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

TABLE_CHUNK = 4096  # entries of a `meta/` array in one chunk


class EpisodeStore:
    """A store, open for reading (`open`) or for reading and appending (`create`, `append_to`).

    Open it inside the process that uses it: zarr's background loop does not survive a fork.
    """

    def __init__(self, path: Path, group: zarr.Group, *, lock: WriterLock | None = None) -> None:
        self.path = path
        self._group = group
        self._lock = lock
        self._writers: dict[str, ImageWriter] = {}
        self._columns: dict[str, ImageColumn] = {}
        with clear_store_errors(path):
            attributes: dict[str, Any] = dict(group.attrs)
            self.spec = Spec.from_json(attributes["spec"])
            self.provenance: dict[str, Any] = attributes["provenance"]
            images = attributes.get("images", {})  # version 1 has none: all are raw
            self._version = int(attributes["schema_version"])
            self.quality: int = images.get("quality", JPEG_QUALITY)  # of JPEG, for images that were not JPEG
            self._block_bytes: int = images.get("block_bytes", BLOCK_BYTES)
            self.tiers: dict[str, str] = checked_tiers(self.spec, images.get("tiers"))
            """`raw`, `jpeg` or `video` for each observation that is an image."""
            lines = log_lines(path / EPISODE_LOG)
            self.ends = self._committed(len(lines) + 1)
            """(E,) int64: cumulative rows behind each episode, the same for every array."""
            self.records = read_records(path, lines, self.ends)
            """Of each episode: `episode`, `steps`, `sha256`, `metadata`."""
            self._log_bytes = sum(map(len, lines[: len(self)]))
            self._has_final = np.asarray(_array(group, "meta/has_final_observation")[: len(self)], bool)
            self._arrays = StepArrays(path, group, self.tiers, committed=len(self) > 0)
            self._image_names = array_names(self.spec.observation)

    @staticmethod
    def create(
        path: str | Path,
        spec: Spec,
        *,
        provenance: dict[str, Any],
        overwrite: bool = False,
        tiers: Mapping[str, str] | None = None,
        quality: int = JPEG_QUALITY,
        block_bytes: int = BLOCK_BYTES,
    ) -> "EpisodeStore":
        """A new, empty store.

        Args:
            path: of the folder.
            spec: of the episodes that will come.
            provenance: where they come from, as JSON.
            overwrite: replace a store that is there.
            tiers: how images are kept, by key: `raw` pixels (which those that are not named get), `jpeg`, or the
                recorded `video`.
            quality: of JPEG, for images that are not JPEG already.
            block_bytes: of the files of images.

        Raises:
            InputError: something is there already, a tier does not fit, or the folder cannot be written.
        """
        path = _here(path)
        chosen = checked_tiers(spec, tiers)
        array_names(spec.observation)  # refuses what cannot be a path
        with building(path, overwrite=overwrite) as temporary, clear_disk_errors(path):
            group = zarr.create_group(temporary, overwrite=False, zarr_format=3)
            for name, dtype, fill in (("episode_ends", "int64", UNCOMMITTED), ("has_final_observation", "bool", False)):
                group.create_array(
                    f"meta/{name}", shape=(0,), chunks=(TABLE_CHUNK,), dtype=dtype, fill_value=fill, compressors=None
                )
            (temporary / EPISODE_LOG).touch()
            images: Any = {"tiers": chosen, "quality": quality, "block_bytes": block_bytes, "note": IMAGES_NOTE}
            group.attrs.update(
                {"schema_version": SCHEMA_VERSION, "spec": spec.to_json(), "provenance": provenance, "images": images}
            )
        return EpisodeStore.append_to(path)

    @staticmethod
    def open(path: str | Path) -> "EpisodeStore":
        """An existing store, for reading; its path may be a URL (see `remote.py`).

        Raises:
            InputError: nothing is there (with near names), it is no store, or of a newer schema.
        """
        url = url_of(path)
        path = Path(path) if url is None else localize(url)
        return EpisodeStore(path, _open_group(path, writable=False))

    @staticmethod
    def append_to(path: str | Path) -> "EpisodeStore":
        """An existing store, for reading and appending; rows behind the last commit are overwritten.

        Raises:
            InputError: as `open`, or another process appends to it.
        """
        path = _here(path)
        _open_group(path, writable=False)  # so that nothing else gets a lock file
        lock = WriterLock(path)
        store = EpisodeStore(path, _open_group(path, writable=True), lock=lock)
        for folder in (path / "meta", *store._arrays.folders):
            remove_partial(folder.rglob("*.partial"))
        images = [folder for name in store._image_names.values() for folder in image_folders(path, name)]
        above = {folder for image in images for folder in image.parents if folder.is_relative_to(path)}  # groups
        for folder in {path, *images, *above}:
            remove_partial(folder.glob("*.partial"))  # not deeper, where blocks are, which are many
        return store

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def rows(self) -> int:
        """Committed rows of every `steps/` array: steps plus one per episode."""
        return int(self.ends[-1]) if len(self) else 0

    @property
    def steps(self) -> int:
        """Committed steps."""
        return self.rows - len(self)

    @property
    def lengths(self) -> Array:
        """Steps of each episode. Shapes: (E,), int64."""
        return np.diff(self.ends, prepend=0) - 1

    @property
    def digests(self) -> list[str]:
        """SHA-256 of each episode's arrays, as recorded when it was written."""
        return [record["sha256"] for record in self.records]

    def has_final_observation(self, index: int) -> bool:
        """Whether the last row of an episode was recorded; else it repeats the one before."""
        return bool(self._has_final[index])

    def metadata(self, index: int) -> dict[str, Any]:
        """What an episode says about itself: source, language, split."""
        return dict(self.records[index]["metadata"])

    @property
    def statistics(self) -> dict[str, Any]:
        """As `finish` wrote them; computed where a crash left them behind the committed episodes."""
        stored: Any = self._group.attrs.get("statistics")
        if stored is not None and stored["episodes"] == len(self):
            return dict(stored)
        return episode_statistics(self.episodes(), leave_out=set(self.tiers))

    # Writing ----------------------------------------------------------------------------------------------------------

    def append(self, episode: Episode) -> None:
        """Commit one episode; when this returns, it is on the disk.

        Raises:
            InputError: the episode does not fit the spec, or the disk is full; the store keeps what it had.
        """
        self.extend([episode])

    def extend(self, episodes: Sequence[Episode]) -> None:
        """Commit several episodes at once: faster, and all of them are lost if the process dies before the end.

        Images are taken a few at a time, so Frames are never decoded as a whole.

        Raises:
            InputError: as `append`, or somebody else appended meanwhile.
        """
        if self._lock is None:
            raise RuntimeError(f"{self.path} is open for reading: use EpisodeStore.append_to")
        if not episodes:
            return
        self._lock.acquire()
        if len(self._committed(len(self) + 1)) != len(self):
            raise InputError(f"{self.path} was appended to elsewhere since it was opened here: open it again")
        places = [_place(episode, len(self) + index) for index, episode in enumerate(episodes)]
        for episode, place in zip(episodes, places, strict=True):
            _require_json(episode, place)
        blocks = [
            rows_of_episode(self.spec, episode, place, lazy_images=True)
            for episode, place in zip(episodes, places, strict=True)
        ]
        images = [{key: block.pop(f"observation/{key}") for key in self.tiers} for block in blocks]
        with clear_disk_errors(self.path):
            if len(self) == 0:
                self._arrays.create(episodes[0], blocks[0])
            if len(self) == 0 or not self._writers:
                self._writers = {key: self._writer(key) for key in self.tiers}
            blocks = [self._arrays.fitting(*one) for one in zip(episodes, blocks, places, strict=True)]
            self._commit(episodes, blocks, images)

    def _commit(
        self,
        episodes: Sequence[Episode],
        blocks: list[dict[str, Array]],
        images: list[dict[str, Array]],
    ) -> None:
        start, number = self.rows, len(self)
        ends = start + np.cumsum([len(block["action"]) for block in blocks], dtype=np.int64)
        has_final = np.asarray([episode.has_final_observation for episode in episodes], bool)
        written: set[Path] = set()
        log = []
        for index, episode in enumerate(episodes):
            first = int(ends[index]) - len(blocks[index]["action"])
            log.append(
                {
                    "episode": number + index,
                    "steps": len(episode),
                    "sha256": digest(
                        blocks[index],
                        has_final_observation=episode.has_final_observation,
                        feeds={
                            f"observation/{key}": self._write(key, images[index][key], first, written)
                            for key in images[index]
                        },
                    ),
                    "metadata": episode.metadata,
                }
            )
        written |= self._arrays.write(blocks, start)
        for writer in self._writers.values():
            written |= writer.resize(int(ends[-1]))
        written |= self._extend_table("has_final_observation", has_final)
        log_bytes = write_log(self.path / EPISODE_LOG, log, self._log_bytes)
        flush_within(self.path, written | {self.path / EPISODE_LOG})
        flush_within(self.path, self._extend_table("episode_ends", ends))  # this is the commit
        self.ends = np.concatenate([self.ends, ends])
        self._has_final = np.concatenate([self._has_final, has_final])
        self.records, self._log_bytes = [*self.records, *log], log_bytes
        self._columns = {}

    def _writer(self, key: str) -> ImageWriter:
        return image_writer(
            self.path,
            self._image_names[key],
            self.spec.observation[key],
            self.tiers[key],
            quality=self.quality,
            block_bytes=self._block_bytes,
            anew=len(self) == 0,
        )

    def _write(self, key: str, images: Array, start: int, written: set[Path]) -> Feed:
        """What writes the images of an episode while it feeds its digest."""

        def write(sha: Any) -> None:
            sha.update(header(f"observation/{key}", self.tiers[key], images.shape))
            written.update(self._writers[key].write(images, start, sha))

        return write

    def _extend_table(self, name: str, values: Array) -> set[Path]:
        table, start = _array(self._group, f"meta/{name}"), len(self)
        table.resize((start + len(values),))
        table[start : start + len(values)] = values
        return chunk_files(self.path, [table], start, start + len(values))

    def finish(self) -> None:
        """Write statistics and the checksum of all episodes. A store without them still opens.

        Raises:
            InputError: the disk is full.
        """
        checksum = hashlib.sha256("".join(self.digests).encode()).hexdigest()
        statistics = episode_statistics(self.episodes(), leave_out=set(self.tiers))
        with clear_disk_errors(self.path):
            self._group.attrs.update({"statistics": statistics, "checksums": {"episodes": checksum}})
            flush([self.path / "zarr.json", self.path])

    # Reading ----------------------------------------------------------------------------------------------------------

    def episode(self, index: int) -> Episode:
        """One episode.

        Raises:
            InputError: there is no such episode.
        """
        return next(self.episodes([index]))

    def episodes(self, indices: Sequence[int] | None = None, keys: Collection[str] | None = None) -> Iterator[Episode]:
        """Episodes in order, or those named, in their order.

        A bounded amount is in memory at once. Images are Frames, which are decoded or mapped as they are looked at.

        Args:
            indices: of the episodes; None takes all.
            keys: of the observations; None takes all.

        Raises:
            InputError: there is no such episode or key, or the store is damaged.
        """
        chosen = range(len(self)) if indices is None else indices
        if len(chosen) == 0:
            return
        if min(chosen) < 0 or max(chosen) >= len(self):
            raise InputError(f"{self.path} has episodes 0 to {len(self) - 1}, asked for {min(chosen)} to {max(chosen)}")
        wanted = list(self.spec.observation) if keys is None else list(keys)
        for key in wanted:
            if key not in self.spec.observation:
                raise InputError(f"{self.path} has no observation '{key}': {nearest(key, self.spec.observation)}")
        columns = {key: self._column(key) for key in wanted if key in self.tiers}
        left_out = {f"observation/{key}" for key in self.spec.observation if key not in wanted}
        whole = self._arrays.whole
        spans = [self._span(index) for index in chosen]
        for index, (start, stop), rows in zip(chosen, spans, self._arrays.read(spans, left_out), strict=True):
            for key, column in columns.items():
                rows[f"observation/{key}"] = as_array(column.frames(np.arange(start, stop)))
            yield episode_of_rows(
                self.spec,
                rows,
                has_final_observation=bool(self._has_final[index]),
                metadata=self.metadata(index),
                whole=whole,
            )

    def column(self, key: str, *, cache: Path | None = None) -> ImageColumn:
        """The images of one observation, to be gathered by row at memory speed.

        Args:
            key: of the observation.
            cache: folder for the pixels of tier `video`, which is decoded once; None puts it beside the store.

        Raises:
            InputError: the observation is no image, or the store is damaged.
        """
        if key not in self.tiers:
            raise InputError(f"{self.path}: '{key}' is no image: {nearest(key, self.tiers)}")
        if len(self) == 0:
            raise InputError(f"{self.path} has no episodes yet, and so no images")
        return image_column(
            self.path,
            self._image_names[key],
            self.spec.observation[key],
            self.tiers[key],
            self.rows,
            cache=self.path.with_name(f".{self.path.name}.cache") if cache is None else cache,
            missing_is_zero=self._version == 1,
            fetch=fetcher(self.path),
        )

    def _column(self, key: str) -> ImageColumn:
        """The same one for all episodes: it keeps maps and indices of videos."""
        if key not in self._columns:
            self._columns[key] = self.column(key)
        return self._columns[key]

    def verify(self) -> None:
        """Compare every episode with the checksum it was written with. A bounded amount is in memory at once.

        Raises:
            InputError: names the damaged episodes.
        """
        if len(self) == 0:
            return
        columns = {key: self.column(key) for key in self.tiers}  # which have looked at no file yet
        damaged: list[int] = []
        reasons: list[str] = []
        spans = [self._span(index) for index in range(len(self))]
        for index, rows in enumerate(self._arrays.read(spans)):
            try:
                feeds = {f"observation/{key}": self._feed(key, column, index) for key, column in columns.items()}
                found = digest(rows, has_final_observation=bool(self._has_final[index]), feeds=feeds)
            except InputError as error:  # a file of images is lost
                found, reasons = "", [*reasons, str(error)]
            if found != self.records[index]["sha256"]:
                damaged.append(index)
        if damaged:
            raise InputError(
                f"{self.path}: episodes {damaged} differ from their checksums: the files changed after they were "
                "written. Restore the store from a copy, or ingest the source again with overwrite=true"
                + (f". {reasons[0]}" if reasons else "")
            )

    def _feed(self, key: str, column: ImageColumn, index: int) -> Feed:
        start, stop = self._span(index)

        def feed(sha: Any) -> None:
            sha.update(header(f"observation/{key}", self.tiers[key], (stop - start, *column.shape[1:])))
            column.digest(sha, start, stop)

        return feed

    def _span(self, index: int) -> tuple[int, int]:
        return int(self.ends[index - 1]) if index else 0, int(self.ends[index])

    def _committed(self, most: int) -> Array:
        """The table of ends, up to so many episodes."""
        ends = np.asarray(_array(self._group, "meta/episode_ends")[:most], np.int64)
        uncommitted = np.flatnonzero(ends == UNCOMMITTED)
        return ends[: uncommitted[0]] if len(uncommitted) else ends


def _here(path: str | Path) -> Path:
    if is_url(path):
        raise InputError(
            f"{path} cannot be written in place: build the store on this machine and publish it there "
            "(`robot_rl.datasets.remote.building_at`, as `robot-rl ingest SOURCE URL` does)"
        )
    return Path(path)


def _open_group(path: Path, *, writable: bool) -> zarr.Group:
    if not path.exists():
        stores = [entry for entry in path.parent.glob("[!.]*") if is_store(entry)]
        guess = near(path, stores)
        make = (
            f"{guess}{'Or make' if guess else 'Make'} it with `robot-rl ingest SOURCE {path}`, or record it in a "
            f"simulator with `robot-rl evaluate ... record={path}`"
        )
        raise InputError(f"there is no store at {path}. {kept_aside(path) or make}")
    if not is_store(path):
        raise InputError(f"{path} is no episode store: make one with `robot-rl ingest {path} NAME.zarr`")
    group = zarr.open_group(path, mode="r+" if writable else "r", use_consolidated=False)
    found = group.attrs["schema_version"]
    if found not in READABLE_VERSIONS:
        raise InputError(f"{path} has schema version {found}, this robot_rl reads {READABLE_VERSIONS}: ingest it again")
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
