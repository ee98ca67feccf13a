"""How fast batches come: ours against the bare `index_select`, TorchRL's replay storages and zarr-python's indexing.

    python benchmarks/sampling.py

All numbers of a table come from one run, one thread, the median of many batches; use the ratios. TorchRL is no
dependency: `pip install torchrl` adds its rows.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from rich.console import Console
from rich.table import Table

from robot_rl.datasets.reader import load_episodes
from robot_rl.datasets.store import EpisodeStore
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.prefetch import Prefetcher
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array, Episode

BATCH = 256
STATE, ACTION, SIDE = 32, 7, 128
CAMERAS = ("front", "wrist")
STEPS = 200  # of an episode


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500_000, help="low-dimensional transitions")
    parser.add_argument("--frames", type=int, default=4_000, help="transitions with two cameras")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=110)
    _print(console, f"256 transitions of {arguments.steps} x {STATE} numbers", low_dimensional(arguments.steps))
    with tempfile.TemporaryDirectory() as folder:
        rows = images(arguments.frames, Path(folder))
    _print(console, f"256 transitions of {arguments.frames} with two cameras of {SIDE} px, uint8", rows)


def low_dimensional(steps: int) -> dict[str, float]:
    """Milliseconds a batch, by name; the first is what the others are compared with."""
    spec, generator = _spec(cameras=False), np.random.default_rng(0)
    buffer = _buffer(spec, steps + steps // STEPS + 2)
    for _ in range(steps // STEPS):
        buffer.append(_episode(generator, cameras=False))
    random = torch.Generator().manual_seed(0)
    state, action = buffer._tensor("state"), buffer.action

    def bare() -> None:
        row = torch.randint(len(buffer), (BATCH,), generator=random)
        state.index_select(0, row)
        action.index_select(0, row)
        buffer.reward.index_select(0, row)
        buffer.terminated.index_select(0, row)
        state.index_select(0, row + 1)

    rows = {"bare index_select": _measure(bare), "robot_rl": _measure(lambda: buffer.sample(BATCH, random))}
    fields = {
        "state": state[:-1],
        "action": action[:-1],
        "reward": buffer.reward[:-1],
        "terminated": buffer.terminated[:-1],
        "next_state": state[1:],
    }
    return rows | _torchrl(fields)


def images(steps: int, folder: Path) -> dict[str, float]:
    """Milliseconds a batch, by name."""
    generator, random = np.random.default_rng(0), torch.Generator().manual_seed(0)
    spec = _spec(cameras=True)
    episodes = [_episode(generator, cameras=True) for _ in range(steps // STEPS)]
    for tier in ("raw", "jpeg"):
        tiers = dict.fromkeys(CAMERAS, tier)
        store = EpisodeStore.create(folder / f"{tier}.zarr", spec, provenance={}, tiers=tiers)
        store.extend(episodes)
        store.finish()
    buffers = {}
    for name, tier, mapped in (("memory", "raw", False), ("mapped, raw", "raw", True), ("mapped, JPEG", "jpeg", True)):
        loaded = load_episodes(folder / f"{tier}.zarr")
        buffers[name] = _buffer(spec, sum(len(episode) + 1 for episode in loaded), mapped=mapped)
        for episode in loaded:
            buffers[name].append(episode)
    pixels = [buffers["memory"]._tensor(camera) for camera in CAMERAS]

    def bare() -> list[torch.Tensor]:
        """Kept until all are there, as in a batch: memory that is given back in between would be used again."""
        row = torch.randint(len(buffers["memory"]), (BATCH,), generator=random)
        return [values.index_select(0, index) for values in pixels for index in (row, row + 1)]

    rows = {"bare index_select": _measure(bare, 20)}
    for name, buffer in buffers.items():
        rows[f"robot_rl, {name}"] = _measure(lambda buffer=buffer: buffer.sample(BATCH, random), 20)  # type: ignore[misc]  # bound now
    prefetcher = Prefetcher(
        lambda step, source: {"offline": buffers["mapped, raw"].draw(BATCH, source)},
        lambda drawn: buffers["mapped, raw"].gather(drawn["offline"]),
        random,
        count=1_000_000,
        workers=1,
    )
    with prefetcher:
        rows["robot_rl, mapped, raw, prefetched: waiting beside 100 ms of learning"] = _waiting(prefetcher)
    arrays = [zarr.open_array(folder / "raw.zarr" / "steps" / "observation" / camera, mode="r") for camera in CAMERAS]

    def with_zarr() -> list[Any]:
        row = torch.randint(len(buffers["memory"]), (BATCH,), generator=random).numpy()
        return [array.oindex[index] for array in arrays for index in (row, row + 1)]

    rows["zarr-python, the same store"] = _measure(with_zarr, 2)
    fields = {camera: values[:-1] for camera, values in zip(CAMERAS, pixels, strict=True)}
    fields |= {f"next_{camera}": values[1:] for camera, values in zip(CAMERAS, pixels, strict=True)}
    return rows | _torchrl(fields, 5)


def _torchrl(fields: dict[str, torch.Tensor], batches: int = 100) -> dict[str, float]:
    if importlib.util.find_spec("torchrl") is None:
        return {}
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, LazyTensorStorage, ReplayBuffer, TensorDictReplayBuffer

    rows, count = {}, len(next(iter(fields.values())))
    for name, storage in (("LazyTensorStorage", LazyTensorStorage), ("LazyMemmapStorage", LazyMemmapStorage)):
        for kind in (ReplayBuffer, TensorDictReplayBuffer):
            peer: Any = kind(storage=storage(count), batch_size=BATCH)
            peer.extend(TensorDict(dict(fields), batch_size=[count]))
            rows[f"TorchRL {kind.__name__}, {name}"] = _measure(peer.sample, batches)
            del peer
    return rows


def _measure(sample: Callable[[], object], batches: int = 300) -> float:
    for _ in range(3):
        sample()
    times = []
    for _ in range(batches):
        begin = time.perf_counter()
        sample()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def _waiting(prefetcher: Prefetcher) -> float:
    times = []
    for _ in range(10):
        time.sleep(0.1)
        begin = time.perf_counter()
        prefetcher.next()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def _spec(*, cameras: bool) -> Spec:
    pixels = {camera: ArraySpec(shape=(SIDE, SIDE, 3), dtype="uint8") for camera in CAMERAS} if cameras else {}
    bound = np.ones(ACTION)
    return Spec(
        observation={"state": ArraySpec(shape=(STATE,)), **pixels},
        action=ArraySpec(shape=(ACTION,), low=-bound, high=bound),
    )


def _episode(generator: np.random.Generator, *, cameras: bool) -> Episode:
    pixels = {camera: _pictures(generator) for camera in CAMERAS} if cameras else {}
    return Episode(
        observation={"state": generator.standard_normal((STEPS + 1, STATE), np.float32), **pixels},
        action=generator.uniform(-1, 1, (STEPS, ACTION)).astype(np.float32),
        reward=np.zeros(STEPS, np.float32),
        terminated=np.zeros(STEPS, bool),
        truncated=np.arange(STEPS) == STEPS - 1,
    )


def _pictures(generator: np.random.Generator) -> Array:
    """Blurred patches with a little noise, which JPEG packs about as well as pictures. Shapes: (T + 1, H, W, 3)."""
    patches = generator.integers(0, 240, (STEPS + 1, SIDE // 16, SIDE // 16, 3), dtype=np.uint8)
    large = patches.repeat(16, axis=1).repeat(16, axis=2)
    return large + generator.integers(0, 16, large.shape, dtype=np.uint8)


def _buffer(spec: Spec, capacity: int, *, mapped: bool = False) -> ReplayBuffer:
    return ReplayBuffer(
        spec,
        capacity=capacity,
        scale=ActionScale.from_spec(spec.action),
        reward=RewardTransform(scale=1.0, bias=0.0),
        discount=0.99,
        mapped=mapped,
    )


def _print(console: Console, title: str, rows: dict[str, float]) -> None:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("", "ms a batch", "x bare", "x ours (memory)"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    bare = rows["bare index_select"]
    ours = rows.get("robot_rl", rows.get("robot_rl, memory", bare))
    for name, value in rows.items():
        table.add_row(name, f"{value:.3f}", f"{value / bare:.2f}", f"{value / ours:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
