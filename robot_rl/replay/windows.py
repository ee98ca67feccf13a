"""Rows of consecutive steps of one episode."""

import torch
from torch import Tensor


def window(has_next: Tensor, start: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The rows of `length` steps from `start` on, and which of them the episode has; past its end the last repeats.

    Args:
        has_next: a step starts in this row of a ring; never in the row of a final observation.
        start: rows in which a step starts.
        length: H.

    Shapes: has_next (N,), start (B,), int64 -> (B, H), (B, H) bool.
    """
    row, rows, valid = start, [start], [torch.ones_like(start, dtype=torch.bool)]
    for _ in range(length - 1):
        following = (row + 1) % len(has_next)
        goes_on = valid[-1] & has_next.index_select(0, following)
        row = torch.where(goes_on, following, row)
        rows.append(row)
        valid.append(goes_on)
    return torch.stack(rows, 1), torch.stack(valid, 1)


def earlier(row: Tensor, known: Tensor, count: int, capacity: int) -> Tensor:
    """The rows of the last `count` observations, oldest first; what is not known is filled with the first there is.

    Args:
        row: of the newest observation, in a ring.
        known: how many observations of the same episode are there before it.
        count: K.
        capacity: rows of the ring.

    Shapes: (B,), (B,), int64 -> (B, K).
    """
    back = torch.arange(count - 1, -1, -1, device=row.device)  # (K,)
    return (row[:, None] - torch.minimum(back[None], known[:, None])) % capacity


def select(values: Tensor, rows: Tensor) -> Tensor:
    """`index_select`, several times faster than indexing. Shapes: (N, *), (B, H) -> (B, H, *)."""
    selected: Tensor = values.index_select(0, rows.flatten()).unflatten(0, rows.shape)
    return selected
