"""A residual network that predicts the noise in an action.

The network of Hansen-Estruch et al. "IDQL: Implicit Q-Learning as an Actor-Critic Method with Diffusion Policies".
arXiv:2304.10573: learned Fourier features of the step, then blocks of dropout, LayerNorm, a linear layer to four times
the width, an activation and a linear layer back, each added to its input.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.networks.initialize import Initialization
from robot_rl.networks.layers import LAYER_NORM_EPSILON

ACTIVATIONS = ("mish", "swish")
FREQUENCY_DEVIATION = 0.2  # of the Fourier features at the start, the authors'


class Denoiser(nn.Module):
    """(features, noised action, step) -> noise."""

    def __init__(
        self,
        features: int,
        action_size: int,
        *,
        width: int,
        blocks: int,
        time_features: int,
        time_width: int,
        activation: str,
        layer_norm: bool,
        dropout: float,
        initialization: Initialization,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.activation = F.mish if activation == "mish" else F.silu
        frequencies = torch.randn(time_features // 2, generator=generator)
        self.frequencies = nn.Parameter(FREQUENCY_DEVIATION * frequencies)

        def linear(inputs: int, outputs: int, place: str = "hidden") -> nn.Linear:
            layer = nn.Linear(inputs, outputs)
            initialization.draw(layer.weight, place, generator)
            nn.init.zeros_(layer.bias)
            return layer

        self.time_layers = nn.ModuleList([linear(time_features, time_width), linear(time_width, time_width)])
        self.first = linear(action_size + features + time_width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width, LAYER_NORM_EPSILON) for _ in range(blocks if layer_norm else 0))
        self.wide = nn.ModuleList(linear(width, 4 * width) for _ in range(blocks))
        self.narrow = nn.ModuleList(linear(4 * width, width) for _ in range(blocks))
        self.last = linear(width, action_size, "output")
        self.dropout = dropout

    def forward(
        self, features: Tensor, action: Tensor, step: Tensor, dropout_generator: torch.Generator | None = None
    ) -> Tensor:
        """Units are dropped only where a generator is given.

        Shapes: features (B, F), action (B, A), step (B, 1) or (1, 1) for all -> (B, A).
        """
        angle = 2 * math.pi * step * self.frequencies
        time = self.time_layers[0](torch.cat([angle.cos(), angle.sin()], dim=1))
        time = self.time_layers[1](self.activation(time)).expand(len(action), -1)
        x = self.first(torch.cat([action, features, time], dim=1))
        for index, (wide, narrow) in enumerate(zip(self.wide, self.narrow, strict=True)):
            inner = x
            if self.dropout > 0 and dropout_generator is not None:
                draw = torch.rand(x.shape, generator=dropout_generator, device=x.device)
                inner = x * (draw >= self.dropout) / (1 - self.dropout)
            if len(self.norms):
                inner = self.norms[index](inner)
            x = x + narrow(self.activation(wide(inner)))
        noise: Tensor = self.last(self.activation(x))
        return noise
