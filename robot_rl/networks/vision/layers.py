"""What the trunks have in common: convolutions that start from a generator, norms over channels, FiLM."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def activate(x: Tensor, kind: str) -> Tensor:
    """relu, silu or gelu, in place where nobody needs what was there before: the output of a convolution or a norm."""
    match kind:
        case "silu":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)
        case _:
            return F.relu(x, inplace=True)


def convolution(
    inputs: int, outputs: int, kernel: int, generator: torch.Generator, *, stride: int = 1, padding: int = 0,
    bias: bool = True, draw: str = "kaiming",
) -> nn.Conv2d:  # fmt: skip
    """A convolution drawn from the generator: `orthogonal` with gain sqrt(2) (DrQ), or `kaiming` normal; bias 0."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias)
    if draw == "orthogonal":
        nn.init.orthogonal_(layer.weight, math.sqrt(2), generator)
    else:
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu", generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel. Shapes: (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """The channels lie last in memory anyway."""
        normalized: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normalized


class FiLM(nn.Module):
    """y = x * (1 + W1 c) + W2 c for each channel; both begin at 0, so that nothing is conditioned at first.

    Perez et al. "FiLM: Visual Reasoning with a General Conditioning Layer". AAAI 2018, arXiv:1709.07871.
    """

    def __init__(self, condition_size: int, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Linear(condition_size, channels), nn.Linear(condition_size, channels)
        for layer in (self.scale, self.shift):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Shapes: (B, C, H, W), (B, condition_size) -> (B, C, H, W)."""
        scale, shift = self.scale(condition)[:, :, None, None], self.shift(condition)[:, :, None, None]
        conditioned: Tensor = x * (1 + scale) + shift
        return conditioned
