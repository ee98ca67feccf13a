"""Small changes that lower a value as far as they can."""

from collections.abc import Callable

import torch
from torch import Tensor


def lowest_within(
    value: Callable[[Tensor], Tensor], start: Tensor, *, bound: float, steps: int, step_size: float
) -> Tensor:
    """Descend `value` from `start` by steps along the sign of its gradient, inside [-bound, bound].

    The attack of RIQL's code (github YangRui2015/RIQL cc07d81, `attack.py`), which makes a new Adam for each of its
    steps: Adam's first step is as long as its rate in every coordinate, whatever the gradient's size.

    Args:
        value: of changes (N, *), a value for each row (N,), whose sum is descended.
        start: the changes to begin with (N, *).
        bound: of every coordinate.
        steps: how many.
        step_size: length of a step in every coordinate.

    Shapes: -> (N, *).
    """
    change = start.clamp(-bound, bound).detach()
    for _ in range(steps):
        change.requires_grad_()
        (slope,) = torch.autograd.grad(value(change).sum(), change)
        change = (change - step_size * slope.sign()).clamp(-bound, bound).detach()
    return change
