"""ResNet-18, 34 and 50 with GroupNorm, so that nothing depends on the rest of a batch, and FiLM behind each block.

He et al. "Deep Residual Learning". CVPR 2016, arXiv:1512.03385 (v1: the activation follows the sum); Wu and He "Group
Normalization". ECCV 2018, arXiv:1803.08494. Form and numbers of V-GPS (arXiv:2410.13816): 4 groups, epsilon 1e-5, silu,
no bias in convolutions, FiLM behind every block.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.networks.vision.layers import FiLM, convolution

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4  # of a bottleneck block's output


class Block(nn.Module):
    """Two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1, beside a shortcut that is projected where the shape changes."""

    def __init__(
        self, inputs: int, width: int, stride: int, *, bottleneck: bool, groups: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.outputs = width * EXPANSION if bottleneck else width
        if bottleneck:
            sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, self.outputs, 1, 1)]
        else:
            sizes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        self.convolutions = nn.ModuleList(
            convolution(a, b, kernel, generator, stride=step, padding=kernel // 2, bias=False)
            for a, b, kernel, step in sizes
        )
        self.norms = nn.ModuleList(nn.GroupNorm(groups, b) for _, b, _, _ in sizes)
        self.projection: nn.Module | None = None
        if stride != 1 or inputs != self.outputs:
            self.projection = nn.Sequential(
                convolution(inputs, self.outputs, 1, generator, stride=stride, bias=False),
                nn.GroupNorm(groups, self.outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, H, W) -> (B, C', H / stride, W / stride)."""
        shortcut = x if self.projection is None else self.projection(x)
        last = len(self.convolutions) - 1
        for index, (layer, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = norm(layer(x))
            if index < last:
                x = F.silu(x)
        return F.silu(x + shortcut)


class ResNet(nn.Module):
    """A 7 x 7 convolution of stride 2, a maximum of stride 2, and four stages; the map has 1/32 of the side."""

    def __init__(self, kind: str, inputs: int, condition_size: int, groups: int, generator: torch.Generator) -> None:
        super().__init__()
        self.stem = convolution(inputs, WIDTHS[0], 7, generator, stride=2, padding=3, bias=False)
        self.norm = nn.GroupNorm(groups, WIDTHS[0])
        self.blocks, self.films = nn.ModuleList(), nn.ModuleList()
        inputs = WIDTHS[0]
        for stage, (width, count) in enumerate(zip(WIDTHS, BLOCKS[kind], strict=True)):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                bottleneck = kind == "resnet50"
                block = Block(inputs, width, stride, bottleneck=bottleneck, groups=groups, generator=generator)
                self.blocks.append(block)
                inputs = block.outputs
                if condition_size:
                    self.films.append(FiLM(condition_size, inputs))

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Shapes: (B, C, H, W), (B, condition_size) -> (B, C', H / 32, W / 32)."""
        x = F.max_pool2d(F.silu(self.norm(self.stem(x))), 3, 2, 1)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if self.films:
                x = self.films[index](x, condition)
        return x
