"""Prefetching changes when a batch is gathered, never which batch it is."""

import threading

import numpy as np
import pytest
import torch

from robot_rl.errors import InputError
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.columns import MappedColumn
from robot_rl.replay.prefetch import Prefetcher
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Batch, Episode

SPEC = Spec(
    observation={"image": ArraySpec(shape=(4, 5, 3), dtype="uint8"), "state": ArraySpec(shape=(2,))},
    action=ArraySpec(shape=(1,), low=np.array([-1.0]), high=np.array([1.0])),
)


class Images:
    """A `RowSource` in memory, and the array of an episode that points into it."""

    def __init__(self, count: int) -> None:
        self.images = np.random.default_rng(0).integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]

    def episode(self, start: int, stop: int) -> "Stored":
        return Stored(self, np.arange(start, stop))


class Stored:
    def __init__(self, column: Images, store_rows: np.ndarray) -> None:
        self.column, self.store_rows = column, store_rows

    def __len__(self) -> int:
        return len(self.store_rows)

    def __getitem__(self, index: slice) -> "Stored":
        return Stored(self.column, self.store_rows[index])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.column.images[self.store_rows]


def filled(images: Images, *, mapped: bool) -> ReplayBuffer:
    buffer = ReplayBuffer(
        SPEC,
        capacity=40,
        scale=ActionScale.from_spec(SPEC.action),
        reward=RewardTransform(scale=1.0, bias=0.0),
        discount=0.9,
        mapped=mapped,
    )
    for start, stop in ((12, 20), (0, 12), (20, 40)):  # not in the order of the store
        steps = stop - start - 1
        buffer.append(
            Episode(
                observation={"image": images.episode(start, stop), "state": np.ones((steps + 1, 2), np.float32)},
                action=np.zeros((steps, 1)),
                reward=np.arange(steps, dtype=np.float64),
                terminated=np.zeros(steps, bool),
                truncated=np.arange(steps) == steps - 1,
            )
        )
    return buffer


def equal(first: Batch, second: Batch) -> bool:
    return (
        all(torch.equal(first.observation[key], second.observation[key]) for key in first.observation)
        and all(torch.equal(first.next_observation[key], second.next_observation[key]) for key in first.observation)
        and torch.equal(first.reward, second.reward)
    )


def prefetcher(buffer: ReplayBuffer, generator: torch.Generator, workers: int, count: int = 20) -> Prefetcher:
    return Prefetcher(
        lambda step, source: {"offline": buffer.draw(4 + step % 3, source)},
        lambda drawn: buffer.gather(drawn["offline"]),
        generator,
        count=count,
        workers=workers,
    )


def test_images_in_a_store_and_in_memory_give_the_same_batches() -> None:
    images = Images(40)
    mapped, memory = filled(images, mapped=True), filled(images, mapped=False)
    assert isinstance(mapped.observation["image"], MappedColumn)
    rows = mapped.draw(64, torch.Generator().manual_seed(0))
    assert equal(mapped.gather(rows), memory.gather(rows))
    assert mapped.gather(rows).observation["image"].dtype == torch.uint8


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_batches_and_the_generator_are_the_same_for_any_number_of_threads(workers: int) -> None:
    buffer = filled(Images(40), mapped=True)
    alone, threaded = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    with prefetcher(buffer, alone, 0) as first, prefetcher(buffer, threaded, workers) as second:
        for _ in range(20):
            assert equal(first.next(), second.next())
            assert torch.equal(alone.get_state(), threaded.get_state())
        for source in (first, second):
            with pytest.raises(StopIteration):
                source.next()


def test_stopping_between_two_batches_and_going_on_gives_the_same_batches() -> None:
    buffer = filled(Images(40), mapped=True)
    generator, other = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    with prefetcher(buffer, other, 0) as source:
        wanted = [source.next() for _ in range(8)]
    with prefetcher(buffer, generator, 3) as source:
        found = [source.next() for _ in range(5)]
    state = generator.get_state()
    resumed = torch.Generator()
    resumed.set_state(state)
    source = Prefetcher(
        lambda step, random: {"offline": buffer.draw(4 + step % 3, random)},
        lambda drawn: buffer.gather(drawn["offline"]),
        resumed,
        first=5,
        count=3,
        workers=2,
    )
    with source:
        found += [source.next() for _ in range(3)]
    assert all(equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_batches_are_gathered_while_the_learner_works() -> None:
    buffer, gathered = filled(Images(40), mapped=True), threading.Semaphore(0)

    def gather(drawn: dict[str, torch.Tensor]) -> Batch:
        gathered.release()
        return buffer.gather(drawn["offline"])

    source = Prefetcher(
        lambda step, random: {"offline": buffer.draw(4, random)},
        gather,
        torch.Generator().manual_seed(0),
        count=20,
        workers=1,
        depth=3,
    )
    with source:
        source.next()
        for _ in range(3):  # the one handed out, and two more without being asked
            assert gathered.acquire(timeout=30)


def test_an_error_while_gathering_reaches_the_learner() -> None:
    def broken(drawn: dict[str, torch.Tensor]) -> Batch:
        raise InputError("image 3 is damaged")

    source = Prefetcher(lambda step, random: {}, broken, torch.Generator().manual_seed(0), count=5, workers=1, depth=2)
    with source, pytest.raises(InputError, match="image 3"):
        source.next()


def test_images_of_two_stores_in_one_buffer_are_refused() -> None:
    column = MappedColumn(SPEC.observation["image"], 10, torch.device("cpu"))
    column.write(np.arange(3), Images(5).episode(0, 3), "image")
    with pytest.raises(InputError, match="images=memory"):
        column.write(np.arange(3, 6), Images(5).episode(0, 3), "image")
    with pytest.raises(InputError, match="images=memory"):
        column.write(np.arange(3, 6), np.zeros((3, 4, 5, 3), np.uint8), "image")
