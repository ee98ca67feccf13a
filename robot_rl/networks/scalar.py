"""A learned positive number: an entropy temperature or a Lagrange multiplier."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Scalar(nn.Module):
    """exp(raw) or softplus(raw), whose derivative stays bounded, so that it leaves large values at a constant rate."""

    def __init__(self, initial: float, parameterization: str) -> None:
        """Start at `initial` > 0; `parameterization` is exp or softplus."""
        super().__init__()
        self.parameterization = parameterization
        raw = math.log(initial) if parameterization == "exp" else initial + math.log(-math.expm1(-initial))
        self.raw = nn.Parameter(torch.tensor(raw))

    def forward(self) -> Tensor:
        """Shapes: -> ()."""
        return self.raw.exp() if self.parameterization == "exp" else F.softplus(self.raw)
