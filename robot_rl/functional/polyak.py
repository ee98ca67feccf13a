"""Target networks that follow slowly."""

import torch
from torch import nn

from robot_rl.networks.parameters import parameters_of


@torch.no_grad()
def polyak_update(target: nn.Module, source: nn.Module, rate: float) -> None:
    """target <- (1 - rate) * target + rate * source, for all parameters in one call."""
    torch._foreach_lerp_(parameters_of(target), parameters_of(source), rate)
