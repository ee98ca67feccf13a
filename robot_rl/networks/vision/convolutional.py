"""Small trunks: convolutions in a row, and IMPALA's three residual stages."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.layers import ChannelNorm, FiLM, activate, convolution


class Convolutions(nn.Module):
    """Convolution, LayerNorm, FiLM, activation, in this order; norm and FiLM only where they are asked for.

    DrQ's (Kostrikov et al. ICLR 2021, arXiv:2004.13649) with the defaults of `VisionConfig`; with strides of 2 and
    padding the one that two cores train fastest.
    """

    def __init__(self, config: VisionConfig, inputs: int, condition_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.activation = config.activation
        self.convolutions = nn.ModuleList()
        for outputs, kernel, stride in zip(config.channels, config.kernels, config.strides, strict=True):
            padding = kernel // 2 if config.padding else 0
            self.convolutions.append(
                convolution(inputs, outputs, kernel, generator, stride=stride, padding=padding, draw="orthogonal")
            )
            inputs = outputs
        self.norms = nn.ModuleList(ChannelNorm(each) for each in config.channels if config.layer_norm)
        self.films = nn.ModuleList(FiLM(condition_size, each) for each in config.channels if condition_size)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Shapes: (B, C, H, W), or frames apart (B, C / K, K, H, W), (B, condition_size) -> (B, C', h, w)."""
        for index, layer in enumerate(self.convolutions):
            x = over_frames(layer, x) if x.ndim == 5 else layer(x)
            if self.norms:
                x = self.norms[index](x)
            if self.films:
                x = self.films[index](x, condition)
            x = activate(x, self.activation)
        return x


def over_frames(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution over K frames as channels, as one over K frames deep, which does not need them side by side.

    Shapes: (B, C, K, H, W) for a convolution of K * C channels -> (B, C', h, w).
    """
    assert isinstance(layer, nn.Conv2d)
    weight = layer.weight.unflatten(1, (x.shape[2], x.shape[1])).transpose(1, 2)  # (C', C, K, k, k)
    height, width = cast(tuple[int, int], layer.stride)
    vertical, horizontal = cast(tuple[int, int], layer.padding)
    return F.conv3d(x, weight, layer.bias, (1, height, width), (0, vertical, horizontal))[:, :, 0]


class Impala(nn.Module):
    """Three stages of convolution, maximum over 3 x 3 with stride 2, and two residual blocks (15 convolutions).

    Espeholt et al. "IMPALA". ICML 2018, arXiv:1802.01561, section 5.3; FiLM behind each stage where it is asked for.
    """

    def __init__(self, config: VisionConfig, inputs: int, condition_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for outputs in config.channels:
            convolutions = [convolution(inputs, outputs, 3, generator, padding=1)]
            convolutions += [convolution(outputs, outputs, 3, generator, padding=1) for _ in range(4)]
            self.stages.append(nn.ModuleList(convolutions))
            inputs = outputs
        self.films = nn.ModuleList(FiLM(condition_size, each) for each in config.channels if condition_size)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Shapes: (B, C, H, W), (B, condition_size) -> (B, C', ceil(H / 8), ceil(W / 8)) with three stages."""
        for index, stage in enumerate(self.stages):
            first, *blocks = cast(nn.ModuleList, stage)
            x = F.max_pool2d(first(x), 3, 2, 1)
            for a, b in zip(blocks[::2], blocks[1::2], strict=True):
                x = x + b(F.relu(a(F.relu(x))))
            if self.films:
                x = self.films[index](x, condition)
        return F.relu(x)
