"""A multilayer perceptron: linear, dropout, LayerNorm, ReLU, in this order, and a linear output."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from robot_rl.networks.initialize import Initialization, places
from robot_rl.networks.layers import LAYER_NORM_EPSILON, Keep, Layers, differentiable, draw_keep, on_cpu
from robot_rl.networks.parameters import parameters_of


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
        self.hidden = hidden
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
        keep: Keep = None
        if self.dropout > 0 and dropout_generator is not None:
            keep = draw_keep(len(x), self.hidden, self.dropout, dropout_generator)
        parameters, norms = parameters_of(self.layers), parameters_of(self.norms)  # weight, bias, weight, bias, ...
        layers = Layers(parameters[::2], parameters[1::2], norms[::2], norms[1::2])
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return differentiable(x, None, layers, keep)
        return on_cpu(x, None, layers, [keep], stacked=False)
