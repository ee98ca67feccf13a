"""Means over the rows of one domain, the robot or its simulator, in a batch that holds both in any order.

Rows are chosen by masks, not by indices: shapes stay, and nothing waits for the device. What a mask leaves out has no
gradient.

Letters: B batch, E critics.
"""

from torch import Tensor


def mean_of(value: Tensor, rows: Tensor) -> Tensor:
    """Mean over the rows that are true, 0 where none is. Shapes: (*, B), (B,) bool -> (*)."""
    if value.shape[-1:] != rows.shape:
        raise ValueError(f"value {tuple(value.shape)} must be (*, B) with rows (B,), which is {tuple(rows.shape)}")
    return (value * rows).sum(dim=-1) / rows.sum().clamp(min=1)


def domain_error(error: Tensor, real: Tensor, weight: Tensor, real_weight: float) -> Tensor:
    """real_weight * mean_real e + mean_sim weight * e: H2O's Bellman error, and with other weights that of all others.

    Both means are over all rows of their domain, so a gate that lets a quarter pass counts a quarter.
    Shapes: error (E, B), real (B,) bool, weight (B,) -> (E,).
    """
    if error.ndim != 2 or real.shape != error.shape[1:] or weight.shape != real.shape:
        found = [tuple(each.shape) for each in (error, real, weight)]
        raise ValueError(f"error must be (E, B), real and weight (B,), but are {found}")
    return real_weight * mean_of(error, real) + mean_of(weight * error, ~real)
