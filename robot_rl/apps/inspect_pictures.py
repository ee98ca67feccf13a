"""What cameras saw, small enough for a page: first, middle and last frames, and short clips."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from robot_rl.apps.inspect_survey import is_depth, is_picture, spread
from robot_rl.datasets.frames import block_size, encode_jpeg, resize, resize_frames
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array

STRIP_EPISODES = 24
STRIP_FRAMES = 3
STRIP_HEIGHT = 108  # pixels of a frame in the grid
STRIP_QUALITY = 80  # of JPEG
CLIP_EPISODES = 8
CLIP_FRAMES = 150
CLIP_HEIGHT = 180  # pixels of one camera in a clip
CLIP_COLUMNS = 3  # cameras beside one another
CLIP_BYTES = 900_000  # of one clip, at most
SLOWEST_FPS, FASTEST_FPS = 12.0, 50.0
MAXIMUM_CAMERAS = 6
PAGE_BYTES = 8_000_000  # of all pictures together, before base64


@dataclass(frozen=True, kw_only=True)
class Strip:
    """First, middle and last frame of a camera in an episode, side by side."""

    episode: int
    camera: str
    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Clip:
    """An episode as its cameras saw it, side by side, without sound."""

    episode: int
    mp4: bytes
    poster: bytes  # JPEG
    width: int
    height: int
    seconds: float
    speed: float | None  # times real time; None where the control period is not known


@dataclass(frozen=True, kw_only=True)
class Light:
    """How bright the frames of a clip's camera are, and how much they change."""

    episode: int
    camera: str
    steps: Array  # (K,), numbers of the frames
    brightness: Array  # (K,), mean of the pixels, 0 to 255
    contrast: Array  # (K,), deviation of the pixels
    change: Array  # (K - 1,), mean difference from the frame before


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """All that a page shows of the cameras."""

    cameras: Sequence[str]
    omitted: int  # cameras that are not shown
    damage: Sequence[str]  # what kept episodes out
    strips: Sequence[Strip]
    clips: Sequence[Clip]
    lights: Sequence[Light]


def pictures(store: EpisodeStore) -> Pictures:
    """Decode a bounded number of frames, spread evenly over the store; an episode with a damaged image is left out."""
    keys = [key for key, spec in store.spec.observation.items() if is_picture(spec)]
    cameras = sorted(keys, key=lambda key: is_depth(store.spec.observation[key]))[:MAXIMUM_CAMERAS]
    if not cameras:
        return Pictures(cameras=[], omitted=0, damage=[], strips=[], clips=[], lights=[])
    strips: list[Strip] = []
    clips: list[Clip] = []
    lights: list[Light] = []
    damage: list[str] = []
    room = PAGE_BYTES
    films = set(spread(len(store), CLIP_EPISODES))
    grid = set(spread(len(store), STRIP_EPISODES))
    numbers = sorted(grid | films)
    for number, episode in zip(numbers, store.episodes(numbers, keys=cameras), strict=True):
        images = {key: episode.observation[key] for key in cameras}
        try:
            if number in films and room > 0:
                clip, light = _film(store.spec, number, images)
                clips.append(clip)
                lights += light
                room -= len(clip.mp4) + len(clip.poster)
            for key in cameras if number in grid else ():
                if room > 0:
                    strips.append(_strip(store.spec, number, key, images[key]))
                    room -= len(strips[-1].jpeg)
        except InputError as error:
            damage.append(f"episode {number}: {error}")
    return Pictures(
        cameras=cameras, omitted=len(keys) - len(cameras), damage=damage, strips=strips, clips=clips, lights=lights
    )


def drawable(frames: Array) -> Array:
    """Frames as RGB. Distances become grey, near is bright. Shapes: (K, H, W, C) or (K, H, W) -> (K, H, W, 3)."""
    if frames.ndim == 4:
        return np.asarray(np.broadcast_to(frames, (*frames.shape[:3], 3)))
    planes = frames.astype(np.float64)
    valid = np.isfinite(planes) & (planes > 0)
    low, high = np.percentile(planes[valid], [1, 99]) if valid.any() else (0.0, 1.0)
    share = np.clip((planes - low) / max(high - low, 1e-9), 0.0, 1.0)
    grey = np.where(valid, 255 * (1.0 - 0.85 * share), 0.0).astype(np.uint8)
    return np.asarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))


def encode_mp4(frames: Array, frames_per_second: float) -> bytes:
    """H.264 that browsers play, at most about `CLIP_BYTES`. Shapes: (K, H, W, 3), uint8, both sides even."""
    file = io.BytesIO()
    bits = int(min(1_500_000, 8 * CLIP_BYTES * frames_per_second / len(frames)))
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "26", "preset": "veryfast", "maxrate": str(bits), "bufsize": str(2 * bits)}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _film(spec: Spec, number: int, images: dict[str, Array]) -> tuple[Clip, list[Light]]:
    """The clip of an episode, and the light of each camera, at a bounded number of steps."""
    rows = len(next(iter(images.values())))
    steps = np.arange(0, rows, -(-rows // CLIP_FRAMES))
    frames = {key: _small(spec, key, images[key], steps, CLIP_HEIGHT) for key in images}
    lights = [_light(number, key, frames[key], steps) for key in images if spec.observation[key].is_image]
    return _clip(spec, number, frames, steps), lights


def _small(spec: Spec, key: str, images: Array, steps: Array, height: int) -> Array:
    """Frames of the given height, width in proportion, both even; decoded one after the other."""
    rows, columns = spec.observation[key].shape[:2]
    size = (height, max(2, 2 * round(height * columns / rows / 2)))
    if is_depth(spec.observation[key]):
        return np.stack([resize(frame, size) for frame in drawable(np.asarray(images)[steps])])
    out, small = np.empty((len(steps), *size, 3), np.uint8), resize_frames(images, size)
    count = block_size(images.shape[1:])
    for start in range(0, len(steps), count):
        block = slice(start, start + count)
        out[block] = np.asarray(small[steps[block]])  # grey fills all three channels
    return out


def _clip(spec: Spec, number: int, frames: dict[str, Array], steps: Array) -> Clip:
    canvas = _side_by_side(list(frames.values()))
    stride = int(steps[1] - steps[0]) if len(steps) > 1 else 1
    period_s = spec.control_period_s
    natural = SLOWEST_FPS if period_s is None else 1.0 / (period_s * stride)
    fps = min(max(natural, SLOWEST_FPS), FASTEST_FPS)
    return Clip(
        episode=number,
        mp4=encode_mp4(canvas, fps),
        poster=encode_jpeg(canvas[len(canvas) // 2], STRIP_QUALITY),
        width=canvas.shape[2],
        height=canvas.shape[1],
        seconds=len(canvas) / fps,
        speed=None if period_s is None else fps / natural,
    )


def _side_by_side(cameras: Sequence[Array]) -> Array:
    """Cameras in rows of `CLIP_COLUMNS`. Shapes: each (K, h, w, 3) -> (K, H, W, 3)."""
    rows = [cameras[start : start + CLIP_COLUMNS] for start in range(0, len(cameras), CLIP_COLUMNS)]
    width = max(sum(camera.shape[2] for camera in row) for row in rows)
    height = sum(row[0].shape[1] for row in rows)
    canvas = np.zeros((len(cameras[0]), height, width, 3), np.uint8)
    top = 0
    for row in rows:
        left = 0
        for camera in row:
            canvas[:, top : top + camera.shape[1], left : left + camera.shape[2]] = camera
            left += camera.shape[2]
        top += row[0].shape[1]
    return canvas


def _strip(spec: Spec, number: int, key: str, images: Array) -> Strip:
    steps = np.asarray(spread(len(images), STRIP_FRAMES))
    frames = _small(spec, key, images, steps, STRIP_HEIGHT)
    row = np.concatenate(list(frames), axis=1)
    return Strip(
        episode=number, camera=key, jpeg=encode_jpeg(row, STRIP_QUALITY), width=row.shape[1], height=row.shape[0]
    )


def _light(number: int, key: str, frames: Array, steps: Array) -> Light:
    grey = frames.astype(np.float32).mean(axis=3)
    return Light(
        episode=number,
        camera=key,
        steps=steps,
        brightness=grey.mean(axis=(1, 2)),
        contrast=grey.std(axis=(1, 2)),
        change=np.abs(np.diff(grey, axis=0)).mean(axis=(1, 2)) if len(grey) > 1 else np.empty(0, np.float32),
    )
