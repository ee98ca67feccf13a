"""Frames per second of getting videos in, against what the decoder alone does, in one run on the same files.

    python benchmarks/video.py [--frames 300] [--repeats 3]

The decoder alone: PyAV decodes every frame and converts it to an RGB array, with as many threads as ours. Ours: frames
in order from `VideoFrames`; and the whole way from opening the file to the committed episode of a store, as pixels or
as JPEG. Numbers are the fastest of the repeats, which take turns; use the ratios. Those by the clock say something on a
machine that does nothing else; those in processor time, of all threads, on any. The videos are those of
`../shared/data` where they are there, else one made up of moving noise.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from rich.console import Console
from rich.table import Table

from robot_rl.datasets.frames import resize_frames
from robot_rl.datasets.ingest.base import ReadOptions
from robot_rl.datasets.ingest.video_files import CAMERA, VideoFilesReader
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.video import DECODER_THREADS, VideoFrames, video_index
from robot_rl.types import Array, Episode

SIDE = 128
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FILES = (
    "videos/human_hand_video.mp4",
    "videos/umi_handheld_gripper_human_demo_ep0.mp4",
    "lerobot/g1_inspire_bottle_v21/videos/chunk-000/observation.images.cam_high/episode_000000.mp4",
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300, help="of each video")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        videos = [SHARED / file for file in FILES if (SHARED / file).is_file()]
        if not videos:
            videos = [Path(folder) / "noise.mp4"]
            write_noise(videos[0], arguments.frames)
        for video in videos:
            measure(console, video, arguments.frames, arguments.repeats, Path(folder))


def measure(console: Console, video: Path, count: int, repeats: int, folder: Path) -> None:
    """One table."""
    index = video_index(video)
    count = min(count, len(index))
    native = (index.height, index.width)
    ways: dict[str, Callable[[], None]] = {
        "decoder alone, to RGB arrays": lambda: decode_alone(video, count),
        "decoder alone, to RGB arrays of 128 px": lambda: decode_alone(video, count, SIDE),
        "frames in order": lambda: read_all(video, count, native),
        "frames in order, 128 px": lambda: read_all(video, count, (SIDE, SIDE)),
        "into a store: raw, 128 px": lambda: into_store(video, count, (SIDE, SIDE), "raw", folder),
        "into a store: jpeg, 128 px": lambda: into_store(video, count, (SIDE, SIDE), "jpeg", folder),
        "into a store: raw": lambda: into_store(video, count, native, "raw", folder),
        "into a store: jpeg": lambda: into_store(video, count, native, "jpeg", folder),
    }
    fastest = dict.fromkeys(ways, float("inf"))
    busy = dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, way in ways.items():
            start, work = time.perf_counter(), time.process_time()
            way()
            fastest[name] = min(fastest[name], time.perf_counter() - start)
            busy[name] = min(busy[name], time.process_time() - work)
    about = f"{video.name}: {count} frames, {index.width} x {index.height}, {index.attributes['codec']}"
    table = Table(title=f"{about}, {os.cpu_count()} cores", title_justify="left")
    table.add_column("what")
    table.add_column("frames/s", justify="right")
    table.add_column("x decoder alone", justify="right")
    table.add_column("processor ms/frame", justify="right")
    table.add_column("x decoder alone", justify="right")
    first, first_busy = next(iter(fastest.values())), next(iter(busy.values()))
    for name, seconds in fastest.items():
        table.add_row(
            name,
            f"{count / seconds:,.0f}",
            f"{first / seconds:.2f}",
            f"{1e3 * busy[name] / count:.2f}",
            f"{first_busy / busy[name]:.2f}",
        )
    console.print(table)


def decode_alone(video: Path, count: int, side: int | None = None) -> None:
    """PyAV, with the threads of ours."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = min(DECODER_THREADS, os.cpu_count() or 1)
        for number, frame in enumerate(container.decode(stream)):
            frame.to_ndarray(format="rgb24", width=side, height=side)
            if number + 1 == count:
                break


def read_all(video: Path, count: int, size: tuple[int, int]) -> None:
    """From the file to arrays."""
    for _ in chosen(VideoFrames.of(video), count, size).blocks():
        pass


def into_store(video: Path, count: int, size: tuple[int, int], tier: str, folder: Path) -> None:
    """From the file to a committed episode."""
    with VideoFilesReader().open(video, ReadOptions()) as recording:
        episode = shortened(recording.read(0), count, size)
        spec = recording.spec
        image = replace(spec.observation[CAMERA], shape=(*size, 3))
        store = EpisodeStore.create(
            folder / "store.zarr",
            replace(spec, observation={CAMERA: image}),
            provenance=recording.provenance,
            overwrite=True,
            tiers={CAMERA: tier},
        )
        store.append(episode)


def shortened(episode: Episode, count: int, size: tuple[int, int]) -> Episode:
    """The first frames of an episode, in another size."""
    truncated = np.zeros(count - 1, bool)
    truncated[-1] = True
    return replace(
        episode,
        observation={CAMERA: chosen(episode.observation[CAMERA], count, size)},
        action=episode.action[: count - 1],
        reward=episode.reward[: count - 1],
        terminated=episode.terminated[: count - 1],
        truncated=truncated,
        extras={key: rows[:count] for key, rows in episode.extras.items()},
    )


def chosen(frames: Array | VideoFrames, count: int, size: tuple[int, int]) -> Array:
    """The first frames, in a size; those of the video's own size as they are."""
    some = frames[:count]
    return some if some.shape[1:3] == size else resize_frames(some, size)


def write_noise(path: Path, count: int) -> None:
    """Noise that moves, 640 x 480."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 480, 640, "yuv420p"
        for number in range(count):
            picture = np.roll(noise, 2 * number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
