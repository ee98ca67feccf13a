"""How long a store of 100 GB takes to open, and to give its first batch. Its files are sparse: they take no space.

python benchmarks/opening.py
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

from robot_rl.datasets.blocks import BlockArray
from robot_rl.datasets.store import EpisodeStore
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode

SIDE = 128
CAMERAS = ("front", "wrist")
EPISODES = 2000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=100.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.zarr"
        steps = write_sparse_store(path, arguments.gigabytes)
        opening_s, first_s, batch_s = measure(path)
    print(f"{arguments.gigabytes:g} GB, {EPISODES} episodes, {steps} steps, two cameras of {SIDE} px")
    print(f"opened in {opening_s:.3f} s; first 256 images {1e3 * first_s:.1f} ms, the next {1e3 * batch_s:.1f} ms")


def write_sparse_store(path: Path, gigabytes: float, episodes: int = EPISODES) -> int:
    """A store of such a size, of which only the tables hold numbers; returns its steps."""
    rows = int(gigabytes * 1e9 / (len(CAMERAS) * SIDE * SIDE * 3) / episodes)  # of an episode
    images = {key: ArraySpec(shape=(SIDE, SIDE, 3), dtype="uint8") for key in CAMERAS}
    spec = Spec(observation={"state": ArraySpec(shape=(32,)), **images}, action=ArraySpec(shape=(7,)))
    store = EpisodeStore.create(path, spec, provenance={})
    store.append(_episode(spec))
    group = zarr.open_group(path, mode="r+")
    for _, array in list(group["steps"].members(max_depth=None)):  # type: ignore[union-attr]  # a group, by the layout
        if isinstance(array, zarr.Array):
            array.resize((rows * episodes, *array.shape[1:]))
    for key in CAMERAS:
        blocks = BlockArray(path / "steps/observation" / key)
        for number in range(-(-blocks.rows // blocks.block_rows)):
            blocks.file(number).parent.mkdir(parents=True, exist_ok=True)
            with blocks.file(number).open("ab") as file:
                file.truncate(blocks.block_bytes)
    for name, values in (
        ("has_final_observation", np.ones(episodes, bool)),
        ("episode_ends", rows * np.arange(1, episodes + 1)),
    ):
        table: zarr.Array = group[f"meta/{name}"]  # type: ignore[assignment, type-arg]  # an array, by the layout
        table.resize((episodes,))
        table[:] = values
    record = store.records[0] | {"steps": rows - 1}
    (path / "episodes.jsonl").write_text("".join(f"{json.dumps(record | {'episode': n})}\n" for n in range(episodes)))
    return (rows - 1) * episodes


def measure(path: Path) -> tuple[float, float, float]:
    """Seconds to open, and to gather 256 images, twice."""
    started = time.perf_counter()
    store = EpisodeStore.open(path)
    columns = [store.column(key) for key in CAMERAS]
    opened = time.perf_counter()
    generator, times = np.random.default_rng(0), []
    for _ in range(2):
        rows = generator.integers(0, store.rows, 256)
        before = time.perf_counter()
        columns[0].gather(rows)
        times.append(time.perf_counter() - before)
    return opened - started, times[0], times[1]


def _episode(spec: Spec) -> Episode:
    return Episode(
        observation={key: np.zeros((2, *array.shape), array.dtype) for key, array in spec.observation.items()},
        action=np.zeros((1, *spec.action.shape), spec.action.dtype),
        reward=np.zeros(1),
        terminated=np.zeros(1, bool),
        truncated=np.ones(1, bool),
    )


if __name__ == "__main__":
    main()
