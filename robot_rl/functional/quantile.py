"""Quantiles over the critics of an ensemble."""

import math

from torch import Tensor


def head_quantile(q: Tensor, level: float) -> Tensor:
    """The `level`-quantile of the values of E critics: 0 the minimum, 0.5 the median, 1 the maximum.

    Linear between the two nearest of the sorted values, which have the levels 0, 1 / (E - 1), ..., 1; so in the code of
    Yang et al. "Towards Robust Offline Reinforcement Learning under Diverse Data Corruption". ICLR 2024,
    arXiv:2310.12955 (RIQL). torch.quantile gives the same, but limits the size and on a CPU asks for a value.

    Shapes: (E, *) -> (*).
    """
    if not 0 <= level <= 1:
        raise ValueError(f"level={level} must lie in [0, 1]")
    place = level * (len(q) - 1)
    low, high = math.floor(place), math.ceil(place)
    ordered = q.sort(dim=0).values
    return ordered[low].lerp(ordered[high], place - low)
