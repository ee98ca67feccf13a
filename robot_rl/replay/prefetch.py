"""The next batches are gathered by threads while the learner works on this one."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from robot_rl.types import Batch

Draw = Callable[[int, torch.Generator], dict[str, Tensor]]
"""(number of the batch, generator) -> rows of each source."""


class Prefetcher:
    """Gives the batches that drawing and gathering one after the other would give, whatever the number of threads.

    Rows are drawn in the order of use by the calling thread; only the gathering is done ahead. After every `next` the
    generator is in the state it would have without any prefetching, so a checkpoint may be written between any two.

    Args:
        draw: which rows make batch number k. What it depends on besides the generator must be known beforehand: the
            sources may not change until the prefetcher is closed.
        gather: rows to batch; runs in threads.
        generator: moves with the batches that were handed out.
        first: number of the first batch.
        count: batches in all; beyond them nothing is drawn.
        workers: threads; 0 gathers in the calling thread when a batch is asked for.
        depth: batches gathered ahead.
    """

    def __init__(
        self,
        draw: Draw,
        gather: Callable[[dict[str, Tensor]], Batch],
        generator: torch.Generator,
        *,
        first: int = 0,
        count: int,
        workers: int,
        depth: int = 4,
    ) -> None:
        self._draw, self._gather, self._generator = draw, gather, generator
        self._next, self._end = first, first + count
        self._depth = depth
        self._ahead = torch.Generator()
        self._ahead.set_state(generator.get_state())
        self._pending: deque[tuple[Future[Batch], Tensor]] = deque()
        self._pool = ThreadPoolExecutor(workers, "prefetch") if workers else None

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def next(self) -> Batch:
        """The next batch.

        Raises:
            StopIteration: all were handed out.
        """
        if self._pool is None:
            if self._next >= self._end:
                raise StopIteration
            self._next += 1
            return self._gather(self._draw(self._next - 1, self._generator))
        while len(self._pending) < self._depth and self._next < self._end:
            rows = self._draw(self._next, self._ahead)
            self._pending.append((self._pool.submit(self._gather, rows), self._ahead.get_state()))
            self._next += 1
        if not self._pending:
            raise StopIteration
        future, state = self._pending.popleft()
        self._generator.set_state(state)
        return future.result()

    def close(self) -> None:
        """Stop the threads; what was gathered ahead is forgotten, and the generator stays where it is."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
