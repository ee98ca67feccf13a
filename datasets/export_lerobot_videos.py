"""Videos of a LeRobot data set: encoded, many episodes to a file, or copied as they were recorded."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from robot_rl.datasets.frames import blocks, lazy
from robot_rl.datasets.video import VideoFrames
from robot_rl.errors import InputError
from robot_rl.types import Array

CODECS = {"libsvtav1": "libsvtav1", "h264": "libx264"}
NAMES = {"libsvtav1": "av1", "h264": "h264"}  # as info.json has them
COPIED_CODECS = ("av1", "h264", "hevc")
GOP = 2
PRESETS = {"libsvtav1": "10", "h264": "veryfast"}
MEGABYTE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an episode lies in the videos of a camera."""

    file: int
    from_s: float
    to_s: float


@contextlib.contextmanager
def _scheduling_kept() -> Iterator[None]:
    """SVT-AV1, where root runs it, makes the calling thread a real-time one and leaves it so."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


@dataclass(kw_only=True)
class Camera:
    """The videos of one camera.

    Args:
        folder: of its chunks.
        fps: frames per second.
        codec: a key of CODECS.
        crf: quality, lower is better.
        limit_bytes: a file that is larger takes no further episode.
        chunk_files: files in a folder.
    """

    folder: Path
    fps: Fraction
    codec: str
    crf: int
    limit_bytes: int
    chunk_files: int
    about: dict[str, Any] | None = None  # of the first file, as info.json has it
    _files: int = 0
    _copied: dict[Path, int] = field(default_factory=dict)
    _encoder: "_Encoder | None" = None

    def append(self, frames: Array, steps: int, histogram: "Histogram") -> Place:
        """Write the frames of an episode; `steps` of them are rows of the table, one more may be its last observation.

        Raises:
            InputError: a frame is damaged, or the encoder refuses.
        """
        recorded = lazy(frames)
        if isinstance(recorded, VideoFrames) and is_regular(recorded, self.fps):
            for block in recorded[np.asarray(sorted(histogram.wanted(len(frames))))].blocks():
                histogram.add(block)
            return self._copy(recorded, steps)
        with _scheduling_kept():
            return self._encode(frames, steps, histogram)

    def _encode(self, frames: Array, steps: int, histogram: "Histogram") -> Place:
        if self._encoder is None:
            self._encoder = _Encoder.open(self._new_file(), frames.shape[1], frames.shape[2], self)
            self.about = self.about or self._encoder.about(self)
        encoder = self._encoder
        start, wanted, number = encoder.frames, histogram.wanted(len(frames)), 0
        for block in blocks(frames):
            encoder.write(block)
            histogram.add(block[[i for i in range(len(block)) if number + i in wanted]])
            number += len(block)
        place = Place(file=encoder.file, from_s=float(start / self.fps), to_s=float((start + steps) / self.fps))
        if encoder.bytes >= self.limit_bytes:
            self.close()
        return place

    def close(self) -> None:
        """Finish the file that is being written."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def abort(self) -> None:
        """Let go of the file that is being written."""
        if self._encoder is not None:
            with contextlib.suppress(InputError):
                self.close()

    def path(self, file: int) -> Path:
        """Of a file by its number."""
        return self.folder / f"chunk-{file // self.chunk_files:03d}" / f"file-{file % self.chunk_files:03d}.mp4"

    def _new_file(self) -> int:
        number, self._files = self._files, self._files + 1
        self.path(number).parent.mkdir(parents=True, exist_ok=True)
        return number

    def _copy(self, frames: VideoFrames, steps: int) -> Place:
        source = frames.index.path
        if source not in self._copied:
            self._copied[source] = self._new_file()
            shutil.copyfile(source, self.path(self._copied[source]))
            self.about = self.about or _about_file(source)
        from_s = float(frames.index.times_s[frames.numbers[0]])
        return Place(file=self._copied[source], from_s=from_s, to_s=from_s + float(steps / self.fps))


class Histogram:
    """How often each value of each channel occurs in evenly spaced frames of an episode: every statistic is in it."""

    PIXELS = 96  # of a side

    def __init__(self, most_frames: int = 0) -> None:
        """`most_frames` of the episode are looked at."""
        self.most_frames = most_frames
        self.counts = np.zeros((3, 256), np.int64)
        self.frames = 0

    def wanted(self, length: int) -> set[int]:
        """Which frames are looked at."""
        return set(np.linspace(0, length - 1, min(length, self.most_frames)).round().astype(int).tolist())

    def add(self, images: Array) -> None:
        """Shapes: (K, H, W, 3)."""
        step = max(1, min(images.shape[1:3]) // self.PIXELS)
        part = images[:, ::step, ::step]
        for channel in range(3):
            self.counts[channel] += np.bincount(part[..., channel].reshape(-1), minlength=256)
        self.frames += len(images)


def is_regular(frames: VideoFrames, fps: Fraction) -> bool:
    """Whether frames can be handed on as their file is: every frame once, upright, at the rate of the data set."""
    numbers, index = frames.numbers, frames.index
    if frames.size is not None or index.rotation_degrees != 0 or index.path.suffix != ".mp4" or len(numbers) == 0:
        return False
    if not (numbers == numbers[0] + np.arange(len(numbers))).all():
        return False
    times_s = index.times_s[numbers]
    late_s = times_s - times_s[0] - np.arange(len(numbers)) / float(fps)
    return bool((np.abs(late_s) < 0.5 / float(fps)).all()) and _about_file(index.path)["video.codec"] in COPIED_CODECS


def _about_file(path: Path) -> dict[str, Any]:
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            name = {"libdav1d": "av1", "libaom-av1": "av1"}.get(context.name, context.name)
            return _about(context.height, context.width, name, str(context.pix_fmt), float(stream.average_rate or 0))
    except (av.FFmpegError, IndexError, OSError) as error:
        raise InputError(f"{path} cannot be opened ({error}): the video is damaged") from error


def _about(height: int, width: int, codec: str, pixels: str, fps: float) -> dict[str, Any]:
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": codec,
        "video.pix_fmt": pixels,
        "video.is_depth_map": False,
        "video.fps": int(fps) if fps == int(fps) else fps,
        "video.channels": 3,
        "has_audio": False,
    }


@dataclass(kw_only=True)
class _Encoder:
    container: Any
    stream: Any
    file: int
    path: Path
    pixels: str
    frames: int = 0
    bytes: int = 0

    @staticmethod
    def open(file: int, height: int, width: int, camera: Camera) -> "_Encoder":
        path = camera.path(file)
        pixels = "yuv420p" if height % 2 == 0 and width % 2 == 0 else "yuv444p"
        if pixels == "yuv444p" and camera.codec != "h264":
            raise InputError(f"{width} x {height} pixels: AV1 needs even numbers: export with video_codec=h264")
        with _clear_encoder_errors(path), _quiet_encoder():
            container = av.open(str(path), "w")
            stream: Any = container.add_stream(CODECS[camera.codec], rate=camera.fps)
            stream.height, stream.width, stream.pix_fmt = height, width, pixels
            stream.options = {"g": str(GOP), "crf": str(camera.crf), "preset": PRESETS[camera.codec]}
            stream.codec_context.time_base = 1 / camera.fps
        return _Encoder(container=container, stream=stream, file=file, path=path, pixels=pixels)

    def about(self, camera: Camera) -> dict[str, Any]:
        """As info.json has it."""
        return _about(self.stream.height, self.stream.width, NAMES[camera.codec], self.pixels, float(camera.fps))

    def write(self, images: Array) -> None:
        """Encode images. Shapes: (K, H, W, 3)."""
        with _clear_encoder_errors(self.path), _quiet_encoder():
            for image in images:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame.pts, frame.time_base = self.frames, self.stream.codec_context.time_base
                self.frames += 1
                self._mux(self.stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder still holds, and the index of the file."""
        with _clear_encoder_errors(self.path):
            try:
                self._mux(self.stream.encode(None))
            finally:
                self.container.close()

    def _mux(self, packets: Any) -> None:
        for packet in packets:
            self.bytes += packet.size
            self.container.mux(packet)


@contextlib.contextmanager
def _clear_encoder_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f"{path.name} cannot be encoded ({error}): try video_codec=h264") from error


@contextlib.contextmanager
def _quiet_encoder() -> Iterator[None]:
    """SVT-AV1 prints its settings to the terminal unless its own variable says not to."""
    before = os.environ.get("SVT_LOG")
    os.environ["SVT_LOG"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["SVT_LOG"]
        else:
            os.environ["SVT_LOG"] = before
