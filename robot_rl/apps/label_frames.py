"""The frames of one camera of a store, as a judge sees them, and what is known of each."""

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robot_rl.datasets.frames import encode_jpeg, resize
from robot_rl.datasets.mapped import ImageColumn
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError, nearest
from robot_rl.types import Array

UNKNOWN = -1
RECORDED_REWARD, RECORDED_SUCCESS = "recorded/reward", "recorded/success"
"""Extras that keep what a label took the place of; a second label leaves them as they are."""
READ_AT_ONCE = 256


@dataclass(kw_only=True, eq=False)
class StoreFrames:
    """A frame is known by its row in the store."""

    store: EpisodeStore
    camera: str
    _column: ImageColumn = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._column = self.store.column(self.camera)

    def rows(self, episode: int) -> Array:
        """Of all observations of an episode. Shapes: -> (T + 1,)."""
        ends = self.store.ends
        return np.arange(int(ends[episode - 1]) if episode else 0, int(ends[episode]))

    def recorded_rows(self, episode: int) -> Array:
        """Without a last one that repeats the one before. Shapes: -> (T + 1,) or (T,)."""
        rows = self.rows(episode)
        return rows if self.store.has_final_observation(episode) else rows[:-1]

    def pixels(self, rows: Array, size: Sequence[int] | None, fit: str = "stretch") -> Array:
        """Shapes: (N,) -> (N, H, W, C), uint8; None keeps the size."""
        images = self._column.gather(np.asarray(rows, np.int64))
        if size is None or images.shape[1:3] == tuple(size):
            return images
        return np.stack([resize(image, (size[0], size[1]), fit) for image in images])

    def gatherer(self, size: Sequence[int], fit: str) -> Callable[[Array], Tensor]:
        """Takes rows (N,) and gives images (N, H, W, C), uint8."""
        return lambda rows: torch.from_numpy(self.pixels(rows, size, fit))

    def scores(self, episode: int, size: Sequence[int], fit: str, score: Callable[[Tensor], Array]) -> Array:
        """Of every observation of an episode. Shapes: -> (T + 1,), float64."""
        rows = self.rows(episode)
        parts = [
            score(torch.from_numpy(self.pixels(rows[at : at + READ_AT_ONCE], size, fit)))
            for at in range(0, len(rows), READ_AT_ONCE)
        ]
        return np.concatenate(parts)


@dataclass(kw_only=True, eq=False)
class Pictures:
    """Frames as they are sent to somebody, from several threads."""

    frames: StoreFrames
    size: Sequence[int] | None
    fit: str
    quality: int
    _digests: dict[int, str] = field(default_factory=dict, repr=False)

    def jpeg(self, row: int) -> bytes:
        """Shapes: -> JPEG bytes."""
        return encode_jpeg(self.frames.pixels(np.asarray([row]), self.size, self.fit)[0], self.quality)

    def digest(self, row: int) -> str:
        """Of the pixels and their size: another version of the JPEG library changes nothing."""
        if row not in self._digests:
            image = self.frames.pixels(np.asarray([row]), self.size, self.fit)[0]
            self._digests[row] = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        return self._digests[row]


def frames_of(store: EpisodeStore, camera: str | None) -> StoreFrames:
    """The frames of the camera that is named, or of the only one.

    Raises:
        InputError: the store has no frames, no such camera, or several and none is named.
    """
    if len(store) == 0:
        raise InputError(f"{store.path} has no episodes")
    cameras = [key for key, array in store.spec.observation.items() if array.is_image and array.shape[2] == 3]
    if not cameras:
        raise InputError(f"{store.path} has no images in colour: it has {sorted(store.spec.observation)}")
    if camera is None:
        if len(cameras) > 1:
            raise InputError(f"{store.path} has the cameras {', '.join(cameras)}: name one with camera=NAME")
        camera = cameras[0]
    if camera not in cameras:
        raise InputError(f"camera={camera}: {nearest(camera, cameras)}")
    return StoreFrames(store=store, camera=camera)


def recorded_labels(frames: StoreFrames) -> list[Array]:
    """Whether each observation shows success: that behind a step as its success says; -1 where nothing says it.

    What an earlier label wrote does not count, and the first observation shows none. Shapes: -> (T + 1,) each.

    Raises:
        InputError: the store does not say what succeeds.
    """
    found = []
    for episode in frames.store.episodes(keys=[]):
        label = np.full(len(episode) + 1, UNKNOWN)
        success = episode.extras.get(RECORDED_SUCCESS, episode.success)
        if success is not None and (np.asarray(success) != UNKNOWN).all():
            label[0], label[1:] = 0, success
            if not episode.has_final_observation:
                label[-1] = UNKNOWN
        found.append(label)
    if not any((label == 1).any() for label in found):
        raise InputError(
            f"{frames.store.path} has no step of success: label frames with label.frames=FILE.csv, or label steps with "
            "`robot-rl edit relabel STORE success.observation=...`"
        )
    return found


def labels_of_file(path: Path, frames: StoreFrames) -> list[Array]:
    """As `recorded_labels`, from lines `episode,first,last,success`; later lines win.

    Raises:
        InputError: the file is not there, or a line is wrong; names it.
    """
    lengths = [len(frames.rows(episode)) for episode in range(len(frames.store))]
    found = [np.full(length, UNKNOWN) for length in lengths]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"label.frames={path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=2):
        place = f"{path}, line {number}"
        try:
            episode, first, last, success = (int(line[name]) for name in ("episode", "first", "last", "success"))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{place}: expected whole numbers under episode,first,last,success") from error
        if not 0 <= episode < len(found):
            raise InputError(f"{place}: episode {episode} is none of 0 to {len(found) - 1}")
        if not 0 <= first <= last < lengths[episode]:
            raise InputError(f"{place}: {first} to {last} is not within 0 to {lengths[episode] - 1}")
        if success not in (0, 1):
            raise InputError(f"{place}: success={success} must be 0 or 1")
        found[episode][first : last + 1] = success
    if not any((label == 1).any() for label in found):
        raise InputError(f"{path} names no frame of success")
    return found


def successes(store: EpisodeStore) -> list[bool | None]:
    """Whether each episode succeeds: as it was recorded, else as a label says; None where nothing says it."""
    found: list[bool | None] = []
    for episode in store.episodes(keys=[]):
        recorded = episode.extras.get(RECORDED_SUCCESS)
        known = episode.success if recorded is None or (recorded == UNKNOWN).any() else recorded
        found.append(None if known is None else bool((np.asarray(known) == 1).any()))
    return found
