"""A store of 100 GB opens at once. Its files are sparse, so that it takes no space."""

import runpy
from pathlib import Path

import numpy as np

from robot_rl.datasets.store import EpisodeStore

OPENING = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "opening.py"))


def test_a_store_of_100_gigabytes_opens_in_under_a_second(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    steps = OPENING["write_sparse_store"](path, 100.0)
    assert min(OPENING["measure"](path)[0] for _ in range(3)) < 1.0
    store = EpisodeStore.open(path)
    assert (len(store), store.steps) == (2000, steps)
    assert store.rows * 2 * 128 * 128 * 3 > 99e9
    episode = store.episode(1999)
    assert not np.asarray(episode.observation["front"][-1]).any()
