"""What changes over the course of a run: numbers and turns that follow from the count of updates.

An update that is recorded once and replayed many times (`loops/execution.py`) would keep for ever what these were at
the time. So a count that is being recorded, a `RecordedCount`, notes who asked it what, and refuses everything else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NoReturn

import torch
from torch import Tensor


@dataclass(kw_only=True)
class CountLog:
    """What was asked about the count in the course of one or more updates, in order.

    `rewind` before the same updates are run again: they then meet the same tensors in the same order.
    """

    device: torch.device
    numbers: list[tuple[Callable[..., Any], int, tuple[Any, ...]]] = field(default_factory=list)
    """Function, offset of the count from that at the beginning, further arguments."""
    tensors: list[Tensor] = field(default_factory=list)  # of the numbers, each ()
    turns: dict[tuple[int, int], bool] = field(default_factory=dict)  # (offset, every) -> whether it was due
    _next: int = 0

    def rewind(self) -> None:
        """Begin again with the first number."""
        self._next = 0

    def number(self, function: Callable[..., Any], count: int, offset: int, arguments: tuple[Any, ...]) -> Tensor:
        """The tensor that stands for function(count, *arguments), a scheduled one."""
        if self._next == len(self.numbers):
            self.numbers.append((function, offset, arguments))
            self.tensors.append(torch.tensor(function(count, *arguments), device=self.device))
        if self.numbers[self._next] != (function, offset, arguments):
            raise RuntimeError(f"{function.__name__} was asked for in another order than when it was recorded")
        self._next += 1
        return self.tensors[self._next - 1]

    def refill(self, count: int) -> None:
        """Give the tensors the values that belong to an update which begins at `count`.

        Where that is itself being recorded, as for a compiled update in a CUDA graph, they come from its tensors.
        """
        for tensor, (function, offset, arguments) in zip(self.tensors, self.numbers, strict=True):
            tensor.fill_(function(count + offset, *arguments))

    def fits(self, count: int) -> bool:
        """Whether all turns are at `count` as they were recorded."""
        return all(is_due(count + offset, every) == due for (offset, every), due in self.turns.items())


class RecordedCount(int):
    """A count of updates while they are recorded."""

    log: CountLog
    offset: int

    @classmethod
    def begin(cls, count: int, log: CountLog, offset: int = 0) -> "RecordedCount":
        """The count at the beginning of what is recorded, or `offset` updates later, when it is `count`."""
        recorded = cls(count.value if isinstance(count, RecordedCount) else count)
        recorded.log, recorded.offset = log, offset
        return recorded

    @property
    def value(self) -> int:
        """The plain number."""
        return int.__add__(self, 0)

    def __add__(self, other: int) -> "RecordedCount":
        return RecordedCount.begin(int.__add__(self, other), self.log, self.offset + other)

    def _refuse(self, *arguments: object) -> NoReturn:
        raise RuntimeError(
            "an update computes with the count of updates, which would be the same number in every replay: do it in a "
            "`scheduled` function, or by `is_due` (functional/schedule.py)"
        )

    __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __floordiv__ = __mod__ = __pow__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __bool__ = __float__ = __int__ = __index__ = _refuse
    __radd__ = __neg__ = __abs__ = _refuse
    __hash__ = int.__hash__


def scheduled(function: Callable[..., float]) -> Callable[..., Any]:
    """Make `function(updates, *further)` a number that may be asked for in an update, also while that is recorded.

    It is then a tensor of shape (), otherwise a float.
    """

    @wraps(function)
    def ask(updates: int, *arguments: Any) -> float | Tensor:
        if isinstance(updates, RecordedCount):
            return updates.log.number(ask, updates.value, updates.offset, arguments)
        return function(updates, *arguments)

    return ask


def is_due(updates: int, every: int) -> bool:
    """Whether something that happens every so many updates happens after this one."""
    if isinstance(updates, RecordedCount):
        due = updates.value % every == 0
        updates.log.turns[updates.offset, every] = due
        return due
    return updates % every == 0


@scheduled
def cosine_then_hold(updates: int, steps: int) -> float:
    """0.5 (1 + cos(pi * updates / steps)), and 0 for ever after `steps`; torch's cosine would climb again."""
    return 0.5 * (1 + math.cos(math.pi * min(updates / steps, 1.0)))


@scheduled
def linear_then_hold(updates: int, start: float, slope: float, minimum: float) -> float:
    """start - slope * updates, but never below `minimum`, or below `start` where that is smaller."""
    return max(start - slope * updates, min(start, minimum))


@scheduled
def between(updates: int, first: float, last: float, start: float, steps: float) -> float:
    """`first` until `start`, then linearly to `last` over `steps`, where it stays."""
    return first + min(max((updates - start) / steps, 0.0), 1.0) * (last - first)
