"""Errors that a few corrupted targets do not rule.

Huber. "Robust Estimation of a Location Parameter". Annals of Mathematical Statistics 35, 1964.
"""

import torch
from torch import Tensor


def huber(difference: Tensor, threshold: float) -> Tensor:
    """d^2 / (2 threshold) where |d| < threshold, |d| - threshold / 2 elsewhere, element by element.

    Its slope is at most 1, whatever the threshold, as RIQL scales it; Huber's own is `threshold` times as large.
    """
    size = difference.abs()
    return torch.where(size < threshold, size.square() / (2 * threshold), size - threshold / 2)


def huber_td_error(q: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Mean over the batch of huber(Q_i - y), for each critic. Shapes: q (E, B), target (B,) -> (E,)."""
    if q.ndim != 2 or target.shape != q.shape[1:]:
        raise ValueError(f"q must be (E, B) and target (B,), but are {tuple(q.shape)} and {tuple(target.shape)}")
    return huber(q - target, threshold).mean(dim=1)


def bounded(target: Tensor, minimum: float | None, maximum: float | None) -> Tensor:
    """`target` cut to [minimum, maximum]; None is no bound on that side. Shapes: (*) -> (*)."""
    if minimum is None and maximum is None:
        return target
    return target.clamp(min=minimum, max=maximum)
