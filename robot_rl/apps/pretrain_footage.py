"""Videos of any source as tracks: brought to one size once, cut into pieces, parted into learning and measuring."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from robot_rl.apps.ingest import ProgressDisplay
from robot_rl.datasets.convert import ConvertSettings, convert
from robot_rl.datasets.convert_transforms import ImageOptions, Transforms
from robot_rl.datasets.frames import as_array, resize_frames
from robot_rl.datasets.ingest.base import ReadOptions
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import building, is_store
from robot_rl.errors import InputError, nearest
from robot_rl.replay.footage import SHORTEST, Track, strided
from robot_rl.replay.instructions import Instructions
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.video_config import FootageConfig, PretrainVideoConfig

ONE_SOURCE = "video"
"""Name of the source where `path` names the only one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Video:
    """A video that measures: at the rate of the learning, with what else was recorded of it."""

    track: Track
    episode: int  # of the store
    camera: str
    first: int  # row of the episode with which the video begins
    step: int  # rows of the episode between two frames


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """One source, ready."""

    name: str
    store: EpisodeStore
    learning: list[Track]
    fitting: list[Video]  # the videos that are learned from, as videos: for probes
    held_out: list[Video]
    facts: dict[str, Any]  # JSON


def load_sources(config: PretrainVideoConfig, instructions: Instructions, console: Console) -> list[Source]:
    """Convert what is not yet, and part each source.

    Raises:
        InputError: there is no source, or one has no video that can be used.
    """
    sources = {ONE_SOURCE: FootageConfig(path=config.path)} if config.path else dict(config.sources)
    if not sources or (config.path and config.sources):
        raise InputError(
            "name videos: `robot-rl pretrain-video PATH`, or several sources with +sources.NAME.path=PATH, not both"
        )
    return [_load(name, source, config, instructions, console) for name, source in sources.items()]


def _load(
    name: str, source: FootageConfig, config: PretrainVideoConfig, instructions: Instructions, console: Console
) -> Source:
    if not source.path:
        raise InputError(f"source {name} has no path: set sources.{name}.path")
    store = EpisodeStore.open(ready_store(name, source, config, console))
    cameras = _cameras(name, store.spec, source)
    stride = 1
    period_s = store.spec.control_period_s
    if config.frame_period_s is not None:
        if period_s is None:
            raise InputError(
                f"source {name} does not say how far its frames are apart: convert it with `robot-rl ingest ... "
                "control_period_s=S`, or take every frame with frame_period_s=null"
            )
        stride = max(1, round(config.frame_period_s / period_s))
    rows = store.column(cameras[0]).shape[0]
    if rows == 0:
        raise InputError(f"source {name} ({source.path}) has no frames")
    spans = _spans(store, source, stride, period_s)
    if not spans:
        raise InputError(
            f"source {name} ({source.path}) has no video of {SHORTEST} frames {stride} recorded ones apart: lower "
            "frame_period_s"
        )
    order = Seeds(config.seed).numpy("held_out", name).permutation(len(spans))
    count = 0 if config.held_out == 0 or len(spans) < 2 else max(1, round(config.held_out * len(spans)))
    held = {int(number) for number in order[:count]}
    columns = {camera: store.column(camera) for camera in cameras}
    learning: list[Track] = []
    fitting: list[Video] = []
    held_out: list[Video] = []
    for number, (episode, start, stop) in enumerate(spans):
        text = store.metadata(episode).get("language", source.language)
        instruction = -1 if text is None else instructions.number(str(text))
        first = int(store.ends[episode - 1]) if episode else 0
        for camera in cameras:
            track = Track(
                column=columns[camera],
                rows=np.arange(first + start, first + stop),
                source=name,
                instruction=instruction,
            )
            parts = strided(track, stride)
            video = Video(track=parts[0], episode=episode, camera=camera, first=start, step=stride)
            if number in held:
                held_out.append(video)
            else:
                learning += parts
                fitting.append(video)
    facts = {
        "path": source.path,
        "store": str(store.path),
        "sha256": hashlib.sha256("".join(store.digests).encode()).hexdigest(),
        "episodes": len(store),
        "cameras": cameras,
        "frames": sum(len(track) for track in learning),
        "videos": len(fitting),
        "held_out": len(held_out),
        "frame_period_s": None if period_s is None else period_s * stride,
    }
    return Source(name=name, store=store, learning=learning, fitting=fitting, held_out=held_out, facts=facts)


def _cameras(name: str, spec: Spec, source: FootageConfig) -> list[str]:
    images = [key for key, array in spec.observation.items() if array.is_image and array.shape[2] == 3]
    if not images:
        raise InputError(f"source {name} ({source.path}) has no images in colour: it has {sorted(spec.observation)}")
    for camera in source.cameras:
        if camera not in images:
            raise InputError(f"sources.{name}.cameras names '{camera}': {nearest(camera, images)}")
    return list(source.cameras) or images


def _spans(
    store: EpisodeStore, source: FootageConfig, stride: int, period_s: float | None
) -> list[tuple[int, int, int]]:
    """Episode, first row and the row behind the last, of every video that is long enough at this stride."""
    if source.piece_s is not None and period_s is None:
        raise InputError(f"{source.path} does not say how far its frames are apart, so piece_s cannot be used")
    spans = []
    last = len(store) if source.maximum_episodes is None else min(len(store), source.maximum_episodes)
    for episode in range(last):
        rows = int(store.lengths[episode]) + (1 if store.has_final_observation(episode) else 0)
        pieces = 1
        if source.piece_s is not None and period_s is not None:
            pieces = max(1, round(rows * period_s / source.piece_s))
        edges = np.linspace(0, rows, pieces + 1).astype(int).tolist()
        spans += [(episode, a, b) for a, b in pairwise(edges) if b - a > stride * (SHORTEST - 1)]
    return spans


# Conversion -----------------------------------------------------------------------------------------------------------


def ready_store(name: str, source: FootageConfig, config: PretrainVideoConfig, console: Console) -> Path:
    """A store whose images have the size wanted: the source itself, or a copy that is made once.

    Raises:
        InputError: the source cannot be read.
    """
    path, size = Path(source.path).expanduser(), (config.image_size[0], config.image_size[1])
    if is_store(path):
        spec = EpisodeStore.open(path).spec
        if all(spec.observation[camera].shape[:2] == size for camera in _cameras(name, spec, source)):
            return path
    if not path.exists():
        raise InputError(f"source {name}: there is nothing at {path}")
    target = Path(config.footage).expanduser() / f"{name}-{_key(path, source, config)}.zarr"
    if is_store(target):
        return target
    console.print(f"Source {name}: {path} becomes {target}, {size[0]} x {size[1]} pixels", markup=False, soft_wrap=True)
    if is_store(path):
        _shrink(EpisodeStore.open(path), target, size, config.fit, lambda text: console.print(text, markup=False))
        return target
    image = ImageOptions(size=size, fit=config.fit, tier="raw")
    settings = ConvertSettings(
        format=source.format,
        read=ReadOptions(maximum_episodes=source.maximum_episodes),
        transforms=Transforms(image=image),
        overwrite=True,  # of a half that an interruption left
    )
    with ProgressDisplay(console) as display:
        report = convert(path, target, settings, progress=display.show)
    for finding in report.findings:
        if finding.severity == "error":
            console.print(f"{finding.place}: {finding.text}", style="red", markup=False, soft_wrap=True)
    return target


def _key(path: Path, source: FootageConfig, config: PretrainVideoConfig) -> str:
    """Changes with the files of a source, and with whatever changes the copy."""
    files = sorted(entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else [path]
    facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    wanted = [str(path.resolve()), config.image_size, config.fit, source.format, source.maximum_episodes, facts]
    return hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:12]


def _shrink(store: EpisodeStore, target: Path, size: tuple[int, int], fit: str, say: Callable[[str], None]) -> None:
    """A copy of a store with images of one size."""
    images = [key for key, array in store.spec.observation.items() if array.is_image]
    observation = {
        key: replace(array, shape=(*size, array.shape[2])) if key in images else array
        for key, array in store.spec.observation.items()
    }
    spec = replace(store.spec, observation=observation)
    with building(target) as temporary:
        copy = EpisodeStore.create(temporary, spec, provenance=store.provenance, tiers=dict.fromkeys(images, "raw"))
        for number, episode in enumerate(store.episodes()):
            resized = {key: as_array(resize_frames(episode.observation[key], size, fit)) for key in images}
            copy.append(replace(episode, observation=episode.observation | resized))
            if (number + 1) % 50 == 0:
                say(f"  {number + 1} of {len(store)} episodes")
        copy.finish()
