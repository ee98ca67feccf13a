"""A multilayer perceptron: linear, dropout, LayerNorm, ReLU, in this order, and a linear output."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.networks.initialize import Initialization, places

LAYER_NORM_EPSILON = 1e-6
"""Flax's, in whose code the reference results were made."""


class MLP(nn.Module):
    """(B, inputs) -> (B, outputs)."""

    def __init__(
        self,
        inputs: int,
        hidden: list[int],
        outputs: int,
        *,
        layer_norm: bool,
        initialization: Initialization,
        generator: torch.Generator,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(width, LAYER_NORM_EPSILON) for width in hidden if layer_norm)
        self.dropout = dropout
        for layer, place in zip(self.layers, places(len(hidden)), strict=True):
            assert isinstance(layer, nn.Linear)
            initialization.draw(layer.weight, place, generator)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, dropout_generator: torch.Generator | None = None) -> Tensor:
        """Shapes: (B, inputs) -> (B, outputs). Units are dropped only where a generator is given."""
        for index, layer in enumerate(self.layers[:-1]):
            x = layer(x)
            if self.dropout > 0 and dropout_generator is not None:
                draw = torch.rand(x.shape, generator=dropout_generator, device=x.device)
                x = x * (draw >= self.dropout) / (1 - self.dropout)
            if len(self.norms):
                x = self.norms[index](x)
            x = F.relu(x, inplace=not self.dropout)
        output: Tensor = self.layers[-1](x)
        return output
