"""How weights start, spelled out for every place in a network."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

INITIALIZATIONS = ("orthogonal", "xavier_uniform", "uniform")


@dataclass(frozen=True, kw_only=True)
class Initialization:
    """Kind of draw and gain per layer; biases start at 0.

    Public code differs here (`docs/algorithms.md`): a small gain meant for the output can land on the last hidden
    layer, where a LayerNorm behind it undoes its forward effect but not its effect on Adam's relative step.
    """

    kind: str = "orthogonal"  # orthogonal | xavier_uniform | uniform: within gain / sqrt(inputs), PyTorch's own
    hidden_gain: float = math.sqrt(2)
    last_hidden_gain: float | None = None  # None is hidden_gain
    output_gain: float = 0.01

    def draw(self, weight: Tensor, place: str, generator: torch.Generator) -> None:
        """Fill `weight` in place; `place` is hidden, last_hidden or output. Shapes: weight (out, in)."""
        last = self.hidden_gain if self.last_hidden_gain is None else self.last_hidden_gain
        gain = {"hidden": self.hidden_gain, "last_hidden": last, "output": self.output_gain}[place]
        if self.kind == "orthogonal":
            nn.init.orthogonal_(weight, gain, generator)
        elif self.kind == "xavier_uniform":
            nn.init.xavier_uniform_(weight, gain, generator)
        else:
            bound = gain / math.sqrt(weight.shape[-1])
            nn.init.uniform_(weight, -bound, bound, generator)


def places(hidden_layers: int) -> list[str]:
    """The place of each layer of a network with `hidden_layers` hidden layers, the output last."""
    return ["hidden"] * (hidden_layers - 1) + ["last_hidden"] * min(hidden_layers, 1) + ["output"]
