"""Videos: an index of presentation times, and frames that are decoded when they are looked at.

A frame is found by its presentation time stamp, an integer in units of the stream's time base, never by `t * fps`:
rates vary, streams begin late, and edit lists hide frames. Reading in order never seeks.
"""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation
from av.video.stream import VideoStream

from robot_rl.datasets.frames import LARGEST_SIDE, Frames, block_size, placement
from robot_rl.datasets.mp4_boxes import require_whole_mp4
from robot_rl.errors import InputError
from robot_rl.types import Array

CONTAINERS = "mov,matroska,avi,mpegts,mpeg,asf,flv,ogg"
"""The containers that are opened, as libavformat names them: no playlists, which would open other files."""
LARGEST_PIXELS = 1 << 26  # of a frame; a damaged header asks for more
DECODER_THREADS = 4
"""At most: every thread of a decoder holds a frame, and conversions run in several processes."""
SEEK_FRAMES = 12
"""Decoding on over so many frames is quicker than to seek, which drains the decoder and starts at a keyframe."""
UNTIMED_IN_AVI = ("h264", "hevc")
REMUX = "copy it into a sound file with `ffmpeg -i OLD -c copy NEW.mp4`, or record it again"
TRANSCODE = "re-encode it with `ffmpeg -i OLD NEW.mp4`"


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoIndex:
    """Where and when the frames of a video are, in presentation order."""

    path: Path
    pts: Array  # (N,), int64, ascending, in units of `time_base`
    time_base: Fraction  # seconds
    width: int  # pixels, as shown: after rotation
    height: int
    rotation_degrees: int  # counter-clockwise, by which the coded picture is turned to be shown: 0, 90, 180, 270
    keyframe: Array  # (N,), bool
    orientation: tuple[int, int, int, int] = (1, 0, 0, 1)
    """(a, b, c, d) of the display matrix, each -1, 0 or 1: the coded pixel (x, y) is shown at (ax + cy, bx + dy)."""
    stream: int = 0  # number of the stream in its container
    nominal_rate: float | None = None  # frames/s that the container declares
    attributes: dict[str, Any] = field(default_factory=dict)  # JSON: codec, pixel format, colour, as declared

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def times_s(self) -> Array:
        """Seconds since the first frame. Shapes: (N,), float64."""
        return np.asarray((self.pts - self.pts[0]) * float(self.time_base))

    @property
    def average_rate(self) -> float:
        """Frames per second over the whole video; that of the container where there is one frame only, else 0."""
        duration_s = float(self.times_s[-1])
        if duration_s > 0:
            return (len(self) - 1) / duration_s
        return 0.0 if self.nominal_rate is None else self.nominal_rate

    @property
    def constant_rate(self) -> float | None:
        """Frames per second, where every frame lies within 5 % of a period (or a unit of time) of a regular grid."""
        rates = [rate for rate in (self.nominal_rate, self.average_rate) if rate is not None and rate > 0]
        for rate in rates:
            slack_s = max(0.05 / rate, 1.001 * float(self.time_base))
            if np.abs(self.times_s - np.arange(len(self)) / rate).max() <= slack_s:
                return rate
        return None


@contextmanager
def clear_video_errors(place: str) -> Iterator[None]:
    """Damage found by FFmpeg, as InputError.

    Raises:
        InputError: the file is damaged, or cannot be read.
    """
    try:
        yield
    except (av.FFmpegError, OSError, ValueError, EOFError, OverflowError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{place} cannot be read ({error}): the video is damaged there; {REMUX}") from error


def video_index(path: Path) -> VideoIndex:
    """Index a video in one pass over its packets; of the pictures only the first is decoded.

    Raises:
        InputError: there is no such file, or it is no video that can be decoded; names the file and the damage.
    """
    require_whole_mp4(path)
    with _opened(path, threads=1) as (container, stream), clear_video_errors(str(path)):
        pts: list[int] = []
        keyframe: list[bool] = []
        first: VideoFrame | None = None
        for packet in container.demux(stream):
            if first is None:
                first = next(iter(packet.decode()), None)
            if packet.size == 0 or packet.is_discard or _is_invisible(packet, stream):
                continue  # the flush at the end; frames before the start of an edit list; hidden references
            if packet.pts is None:
                raise InputError(f"{path}: frame {len(pts)} has no presentation time: {TRANSCODE}")
            pts.append(packet.pts)
            keyframe.append(packet.is_keyframe)
        context = stream.codec_context
        if container.format.name == "avi" and context.has_b_frames and context.codec.canonical_name in UNTIMED_IN_AVI:
            raise InputError(
                f"{path}: an AVI file cannot hold the times of frames that are coded out of order: {TRANSCODE}"
            )
        if not pts:
            raise InputError(f"{path} has a video stream without frames: the recording is empty")
        if first is None:
            raise InputError(f"{path}: none of its {len(pts)} frames can be decoded: the video is damaged")
        _require_8_bits_of_grey(first, path)
        _require_size(first.width, first.height, path)
        order = np.argsort(pts, kind="stable")
        times = np.asarray(pts, np.int64)[order]
        same = np.flatnonzero(np.diff(times) == 0)
        if len(same):
            raise InputError(f"{path}: frames {same[0]} and {same[0] + 1} have one presentation time: {TRANSCODE}")
        orientation = _orientation(first, path)
        assert stream.time_base is not None  # of every stream that FFmpeg opened
        width, height = (first.height, first.width) if orientation[0] == 0 else (first.width, first.height)
        return VideoIndex(
            path=path,
            pts=times,
            time_base=Fraction(stream.time_base),
            width=width,
            height=height,
            rotation_degrees=_rotation_degrees(orientation),
            keyframe=np.asarray(keyframe, bool)[order],
            orientation=orientation,
            stream=stream.index,
            nominal_rate=None if stream.average_rate is None else float(stream.average_rate),
            attributes=_attributes(container, stream, first),
        )


class VideoFrames(Frames):
    """Frames of a video, decoded as they are indexed; numbers may repeat.

    Only the file's path and the numbers are pickled; the file is opened when a frame is asked for, at most once at a
    time, and closed when the last frame has been read. Calls from several threads wait for one another.
    """

    def __init__(
        self,
        index: VideoIndex,
        frames: Array | None = None,
        *,
        size: tuple[int, int] | None = None,
        fit: str = "stretch",
        threads: int = DECODER_THREADS,
    ) -> None:
        """Frames of an indexed video.

        Args:
            index: of the video.
            frames: (K,) numbers in presentation order; None takes all.
            size: height and width to decode to; None keeps the video's.
            fit: see `robot_rl.datasets.frames.resize`.
            threads: of the decoder, at most; fewer where there are fewer cores.

        Raises:
            InputError: the video has no frame of such a number.
        """
        self.index = index
        self.numbers: Array = np.arange(len(index)) if frames is None else np.asarray(frames, np.int64).reshape(-1)
        self.size = size
        self.fit = fit
        self.threads = threads
        wrong = self.numbers[(self.numbers < 0) | (self.numbers >= len(index))]
        if len(wrong):
            raise InputError(f"{index.path} has frames 0 to {len(index) - 1}, asked for frame {wrong[0]}")
        height, width = (index.height, index.width) if size is None else size
        super().__init__((len(self.numbers), height, width, 3))
        self._decoder: _Decoder | None = None
        self._lock = threading.Lock()

    @staticmethod
    def of(path: Path) -> "VideoFrames":
        """All frames of a video.

        Raises:
            InputError: see `video_index`.
        """
        return VideoFrames(video_index(path))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.index, self.numbers, self.size, self.fit, self.threads)

    def decode(self, indices: Array) -> Array:
        """See `Frames.decode`. The frames are decoded in the order of the video, each once."""
        with self._lock:
            if self._decoder is None:
                self._decoder = _Decoder(self.index, self.size, self.fit, self.threads)
            try:
                numbers = self.numbers[indices]
                images = self._decoder.frames(numbers, self._decoder.room(numbers))
            except InputError:
                self._close()
                raise
            if len(indices) and int(np.max(indices)) == len(self) - 1:  # read to its end: hold no file open
                self._close()
            return images

    def select(self, indices: Array) -> "VideoFrames":
        """See `Frames.select`."""
        return VideoFrames(self.index, self.numbers[indices], size=self.size, fit=self.fit, threads=self.threads)

    def resized(self, size: tuple[int, int], fit: str = "stretch") -> Frames:
        """Decodes straight to the size, so no large image is made. Pixels differ a little from those of `resize`."""
        if self.size is not None:
            return super().resized(size, fit)
        return VideoFrames(self.index, self.numbers, size=size, fit=fit, threads=self.threads)

    def blocks(self, size: int | None = None) -> Iterator[Array]:
        """See `Frames.blocks`. The next block is decoded while the caller works on this one."""
        size = block_size(self.shape[1:]) if size is None else size
        parts = [self.numbers[start : start + size] for start in range(0, len(self), size)]
        with _Decoder(self.index, self.size, self.fit, self.threads) as decoder, ThreadPoolExecutor(1) as pool:
            following = pool.submit(decoder.frames, parts[0], decoder.room(parts[0])) if parts else None
            for later in [*parts[1:], None]:
                if following is None:
                    return
                images = following.result()
                following = None if later is None else pool.submit(decoder.frames, later, decoder.room(later))
                yield images

    def close(self) -> None:
        """Close the file; the next frame opens it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None


def _restored(index: VideoIndex, numbers: Array, size: tuple[int, int] | None, fit: str, threads: int) -> VideoFrames:
    return VideoFrames(index, numbers, size=size, fit=fit, threads=threads)


class _Decoder:
    """One open video, and where in it the decoder stands."""

    def __init__(self, index: VideoIndex, size: tuple[int, int] | None, fit: str, threads: int) -> None:
        self.index = index
        self.threads = threads
        self.height, self.width = (index.height, index.width) if size is None else size
        self.inner, self.window = placement((index.height, index.width), (self.height, self.width), fit)
        self.keys = np.flatnonzero(index.keyframe)
        self.resources = ExitStack()
        self._reopen()

    def close(self) -> None:
        self.upcoming: Iterator[VideoFrame] = iter(())
        self.current: VideoFrame | None = None
        self.resources.close()

    def __enter__(self) -> "_Decoder":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def room(self, numbers: Array) -> Array:
        """Memory for frames. The thread that gets it should be the main one, whose memory is used again."""
        return np.empty((len(numbers), self.height, self.width, 3), np.uint8)

    def frames(self, numbers: Array, images: Array) -> Array:
        """Decode into `images`. Shapes: (K,), (K, H, W, 3) -> (K, H, W, 3)."""
        wanted, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
        for number, row in zip(wanted.tolist(), first.tolist(), strict=True):
            with clear_video_errors(f"{self.index.path}: frame {number} of {len(self.index)}"):
                self._convert(self._find(number), number, images[row])
        repeated = np.setdiff1d(np.arange(len(numbers)), first)
        images[repeated] = images[first[inverse[repeated]]]
        return images

    def _find(self, number: int) -> VideoFrame:
        """The frame of a number: by decoding on where it is near, else from the keyframe before it."""
        if number == self.position and self.current is not None:
            return self.current
        key = self._key_before(number)
        if self.position < number and key <= self.position + SEEK_FRAMES:
            frame = self._forward(number)
        else:
            frame = self._after_seek(key, number) or self._after_seek(self._key_before(key - 1), number)
            if frame is None:  # some containers cannot seek to where they should
                self._reopen()
                frame = self._forward(number)
        if frame is None or frame.is_corrupt:
            raise InputError(
                f"{self.index.path}: frame {number} of {len(self.index)} (at {self.index.times_s[number]:.3f} s) "
                "cannot be decoded: the video is damaged there. Leave it out, or keep what is before with "
                "`ffmpeg -i OLD -t SECONDS -c copy NEW.mp4`"
            )
        return frame

    def _after_seek(self, key: int, number: int) -> VideoFrame | None:
        try:
            self.container.seek(int(self.index.pts[key]), stream=self.stream)
        except av.FFmpegError:
            return None
        self.upcoming = _decoded(self.container, self.stream)
        self.position, self.current = -1, None
        return self._forward(number)

    def _forward(self, number: int) -> VideoFrame | None:
        """Decode on to a frame; None where the decoder passes its time, or ends, without giving it."""
        wanted = int(self.index.pts[number])
        for frame in self.upcoming:
            if frame.pts is not None and frame.pts >= wanted:
                self.position = int(np.searchsorted(self.index.pts, frame.pts))
                self.current = frame
                return frame if frame.pts == wanted else None
        self.position, self.current = len(self.index), None
        return None

    def _reopen(self) -> None:
        self.close()
        threads = min(self.threads, os.cpu_count() or 1)
        self.container, self.stream = self.resources.enter_context(
            _opened(self.index.path, threads=threads, number=self.index.stream)
        )
        self.upcoming = _decoded(self.container, self.stream)
        self.position = -1  # number of `current`, which came last out of the decoder

    def _key_before(self, number: int) -> int:
        """Number of the last keyframe at or before a frame, 0 where there is none."""
        found = int(np.searchsorted(self.keys, number, side="right")) - 1
        return int(self.keys[found]) if found >= 0 else 0

    def _convert(self, frame: VideoFrame, number: int, out: Array) -> None:
        """Scale, turn and place a picture. Shapes: out (H, W, 3), filled with black."""
        transposed = self.index.orientation[0] == 0
        shown = (frame.width, frame.height) if transposed else (frame.height, frame.width)
        if shown != (self.index.height, self.index.width):
            raise InputError(
                f"{self.index.path}: frame {number} is {shown[1]} x {shown[0]} pixels, the first is "
                f"{self.index.width} x {self.index.height}: {TRANSCODE}"
            )
        height, width = (self.inner[1], self.inner[0]) if transposed else self.inner
        picture = frame.reformat(
            width=width,
            height=height,
            format="rgb24",
            interpolation=Interpolation.BILINEAR
            if (height, width) == (frame.height, frame.width)
            else Interpolation.AREA,
            src_color_range=frame.color_range,
            threads=1,
        )
        plane = picture.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:height, : 3 * width]
        shown_picture = _shown(rows.reshape(height, width, 3), self.index.orientation)
        source, target = self.window
        if out[target].shape != out.shape:
            out[:] = 0
        out[target] = shown_picture[source]


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in container.demux(stream):
        yield from packet.decode()


@contextmanager
def _opened(path: Path, *, threads: int, number: int | None = None) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A container and its video stream: that of a number, or the first that is not a cover picture.

    Raises:
        InputError: there is no such file, it is no video, or its codec is not built in.
    """
    if not path.is_file():
        raise InputError(f"there is no video at {path}: restore the file, or name the folder it was moved to")
    with ExitStack() as stack:
        with clear_video_errors(str(path)):
            options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
            container = stack.enter_context(av.open(f"file:{path}", options=options, metadata_errors="replace"))
            streams = [
                stream
                for stream in container.streams.video
                if number in (None, stream.index) and not stream.disposition & Disposition.attached_pic
            ]
        if not streams:
            raise InputError(f"{path} has no video stream: it is a {container.format.name} file of something else")
        stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise InputError(f"{path}: its video codec is not known to this build of FFmpeg: {TRANSCODE}")
        _require_size(context.width, context.height, path)
        context.thread_type = "AUTO"
        context.thread_count = threads
        context.options = {"max_pixels": str(LARGEST_PIXELS)}
        yield container, stream


def _require_size(width: int, height: int, path: Path) -> None:
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE and width * height <= LARGEST_PIXELS):
        raise InputError(f"{path} claims to be {width} x {height} pixels: the video is damaged, or empty")


def _is_invisible(packet: "Packet[VideoStream]", stream: VideoStream) -> bool:
    """VP8 packs a reference that is never shown as a packet of its own (RFC 6386, 9.1: show_frame is bit 4)."""
    return stream.codec_context.name.startswith(("vp8", "libvpx")) and not memoryview(packet)[0] >> 4 & 1


def _orientation(frame: VideoFrame, path: Path) -> tuple[int, int, int, int]:
    """(a, b, c, d) of the display matrix, as signs.

    Raises:
        InputError: the picture is turned by other than right angles.
    """
    side_data: Any = frame.side_data
    data = [side_data[number] for number in range(len(side_data))]
    found = [item for item in data if item.type == SideDataType.DISPLAYMATRIX]
    if not found:
        return (1, 0, 0, 1)
    matrix = np.frombuffer(memoryview(found[0]), "=i4")[[0, 1, 3, 4]]  # in the order of bytes of this machine
    a, b, c, d = np.sign(np.where(np.abs(matrix) < 1 << 8, 0, matrix)).tolist()
    if not ((a and d and not b and not c) or (b and c and not a and not d)):
        raise InputError(f"{path} is turned by {frame.rotation} degrees: only right angles can be undone; {TRANSCODE}")
    return (a, b, c, d)


def _rotation_degrees(orientation: tuple[int, int, int, int]) -> int:
    a, b, _, _ = orientation
    return {(1, 0): 0, (0, -1): 90, (-1, 0): 180, (0, 1): 270}[a, b]


def _shown(picture: Array, orientation: tuple[int, int, int, int]) -> Array:
    """A coded picture as it is to be shown. Shapes: (H, W, C) -> (H, W, C) or (W, H, C)."""
    a, b, c, d = orientation
    if a == 0:
        picture = picture.transpose(1, 0, 2)
    across, down = a + c, b + d  # each is the sum of one number and a zero
    return picture[::down, ::across]


def _require_8_bits_of_grey(frame: VideoFrame, path: Path) -> None:
    """Refuse depth: turned into RGB it would lose all but 8 bits."""
    components = frame.format.components
    if len(components) == 1 and components[0].bits > 8:
        raise InputError(
            f"{path} has grey pictures of {components[0].bits} bits, depth as it seems, which 8 bits cannot hold: "
            "give the depth as an array in a .npz file"
        )


def _attributes(container: InputContainer, stream: VideoStream, frame: VideoFrame) -> dict[str, Any]:
    ratio = stream.sample_aspect_ratio
    return {
        "container": container.format.name,
        "codec": stream.codec_context.codec.canonical_name,
        "pixel_format": frame.format.name,
        "color_range": ColorRange(frame.color_range).name,
        "color_space": int(frame.colorspace),
        "pixel_aspect_ratio": "1:1" if not ratio else f"{ratio.numerator}:{ratio.denominator}",
        "time_base": str(stream.time_base),
        "nominal_rate": None if stream.average_rate is None else str(stream.average_rate),
        "start_time": stream.start_time,
        "coded_width": frame.width,
        "coded_height": frame.height,
        "metadata": {**container.metadata, **stream.metadata},
    }
