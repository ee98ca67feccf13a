"""Target networks that follow slowly."""

import torch
from torch import nn


@torch.no_grad()
def polyak_update(target: nn.Module, source: nn.Module, rate: float) -> None:
    """target <- (1 - rate) * target + rate * source, for all parameters in one call."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)
