"""Continuous actions as choices among a few bins, each of which is cut into bins again.

Seo, Uruç, James. "Continuous Control with Coarse-to-fine Reinforcement Learning". CoRL 2024, arXiv:2407.07787 (CQN).

With n bins, level l cuts an interval of width 2 / n^l, the one chosen before, into n; L levels tell n^L values apart
with n * L numbers. Letters: B batch, D dimensions (of a chunk: H * A), L levels, Z outputs for each bin.
"""

import torch
from torch import Tensor


def encode(action: Tensor, levels: int, bins: int) -> tuple[Tensor, Tensor]:
    """The bin of each level in which an action lies, and the middle of the interval that the level cuts.

    Shapes: (B, D) in [-1, 1] -> (B, L, D) int64, (B, L, D).
    """
    low, width = torch.full_like(action, -1.0), 2.0
    chosen, middle = [], []
    for _ in range(levels):
        middle.append(low + width / 2)
        width /= bins
        chosen.append(((action - low) / width).floor().clamp(0, bins - 1))
        low = low + chosen[-1] * width
    return torch.stack(chosen, 1).long(), torch.stack(middle, 1)


def decode(chosen: Tensor, bins: int) -> Tensor:
    """The middle of the last bin: `encode` of it gives the same bins. Shapes: (B, L, D) -> (B, D)."""
    levels = chosen.shape[1]
    widths = 2.0 / bins ** torch.arange(1, levels + 1, device=chosen.device)  # (L,)
    return (chosen * widths[:, None]).sum(dim=1) - 1.0 + widths[-1] / 2


def taken(raw: Tensor, chosen: Tensor) -> Tensor:
    """The outputs of the chosen bins. Shapes: (B, L, D, bins, Z), (B, L, D) -> (B, L, D, Z)."""
    return raw.take_along_dim(chosen[..., None, None], dim=3)[:, :, :, 0]
