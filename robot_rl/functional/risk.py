"""Values of whoever fears the worse part of what may come.

Rockafellar, Uryasev. "Optimization of Conditional Value-at-Risk". Journal of Risk 2, 2000.
"""

import torch
from torch import Tensor


def conditional_value_at_risk(quantiles: Tensor, level: float) -> Tensor:
    """Mean of the worst share `level` of the returns: sum_z w_z theta_(z) over quantiles in ascending order.

    Each of Z quantiles stands for 1 / Z of the returns, so w_z = cut(level * Z - z, 0, 1) / (level * Z), z from 0:
    whole quantiles, and a part of the last one. Level 1 is the mean; towards 0 it is the least quantile.
    Shapes: (*, Z) -> (*).
    """
    if not 0 < level <= 1:
        raise ValueError(f"level={level} must lie in (0, 1]")
    if level == 1:
        return quantiles.mean(dim=-1)
    count = quantiles.shape[-1]
    share = max(level * count, 1.0)
    place = torch.arange(count, dtype=quantiles.dtype, device=quantiles.device)
    weight = (share - place).clamp(0.0, 1.0) / share
    return quantiles.sort(dim=-1).values @ weight
