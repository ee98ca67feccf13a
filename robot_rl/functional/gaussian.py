"""Diagonal Gaussians on unbounded actions."""

import math

import torch
from torch import Tensor


def log_prob(mean: Tensor, log_std: Tensor, value: Tensor) -> Tensor:
    """log N(value; mean, exp(log_std)^2), summed over dimensions. Shapes: each (*, A) -> (*)."""
    standardized = (value - mean) * (-log_std).exp()
    return (-0.5 * standardized.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)


def sample(mean: Tensor, log_std: Tensor, generator: torch.Generator) -> Tensor:
    """mean + exp(log_std) * noise, differentiable in mean and log_std. Shapes: each (*, A) -> (*, A)."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + log_std.exp() * noise
