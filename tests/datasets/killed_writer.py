"""Appends to a store until it is killed: for each number on the standard input, a child writes for so many seconds.

Prints how many episodes the child had reported as committed. A negative number kills it after so many seconds of its
life, which may be before it has opened the store; it then may have reported nothing, which is printed as -1.

The parent never touches zarr, so that forking is safe and the imports are paid once.
"""

import os
import signal
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from robot_rl.datasets.frames import as_array
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.video import VideoFrames, VideoIndex, video_index
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode

TIERS = {"pixels": "raw", "front": "jpeg", "film": "video"}
BLOCK_BYTES = 16_384  # so that episodes cross the edges of blocks
FILMS = 3


def make_spec(images: bool = False) -> Spec:
    """Low-dimensional, two kinds of array; with an image of each tier."""
    shapes = {"pixels": (8, 8, 1), "front": (16, 16, 3), "film": (16, 16, 3)} if images else {}
    return Spec(
        observation={"state": ArraySpec(shape=(3,), dtype="float64")}
        | {key: ArraySpec(shape=shape, dtype="uint8") for key, shape in shapes.items()},
        action=ArraySpec(shape=(2,)),
    )


def make_written_episode(seed: int, films: list[VideoIndex] | None = None) -> Episode:
    """The episode at index `seed` of the store."""
    rng = np.random.default_rng(seed)
    steps = 5 + seed % 50
    truncated = np.zeros(steps, bool)
    truncated[-1] = True
    episode = Episode(
        observation={"state": rng.normal(size=(steps + 1, 3))},
        action=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        reward=rng.normal(size=steps),
        terminated=np.zeros(steps, bool),
        truncated=truncated,
        metadata={"seed": seed},
    )
    if films is not None:
        film = films[seed % len(films)]
        episode.observation["pixels"] = rng.integers(0, 255, (steps + 1, 8, 8, 1)).astype(np.uint8)
        episode.observation["front"] = rng.integers(0, 255, (steps + 1, 16, 16, 3)).astype(np.uint8)
        episode.observation["film"] = as_array(VideoFrames(film, np.arange(steps + 1) % len(film)))
    return episode


def write_films(folder: Path) -> None:
    """Small videos for the tier that keeps them."""
    for number in range(FILMS):
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=20)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
            for time_ in range(20 + number):
                image = np.full((16, 16, 3), 40 + 10 * time_ + number, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = time_, Fraction(1, 20)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


def films_in(folder: Path) -> list[VideoIndex]:
    """What `write_films` wrote."""
    return [video_index(folder / f"{number}.mp4") for number in range(FILMS)]


def write(path: Path, report: int) -> None:
    """Append until killed."""
    store = EpisodeStore.append_to(path)
    os.write(report, f"{len(store)}\n".encode())
    films = films_in(path.parent) if store.tiers else None
    while True:
        store.append(make_written_episode(len(store), films))
        os.write(report, f"{len(store)}\n".encode())


def main() -> None:
    """A child for each line of the standard input: the store, and for how long."""
    for line in sys.stdin:
        name, seconds = line.rsplit(maxsplit=1)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            write(Path(name), write_end)
        os.close(write_end)
        with os.fdopen(read_end) as reports:
            first = reports.readline() if float(seconds) > 0 else "-1"
            time.sleep(abs(float(seconds)))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            print([first, *reports.read().split()][-1].strip(), flush=True)


if __name__ == "__main__":
    main()
