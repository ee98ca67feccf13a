"""From the features of an image back to its patches."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.networks.vision.layers import convolution


class PatchDecoder(nn.Module):
    """A linear layer to a small map with a place for each patch, a 3 x 3 and a 1 x 1 convolution to its pixels.

    Args:
        features: F, of the encoder.
        rows: of patches.
        columns: of patches.
        outputs: numbers of a patch, p * p * C.
        width: channels of the map.
        generator: of the weights.
    """

    def __init__(
        self, features: int, rows: int, columns: int, outputs: int, *, width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.spread = nn.Linear(features, width * rows * columns)
        nn.init.xavier_uniform_(self.spread.weight, generator=generator)
        nn.init.zeros_(self.spread.bias)
        self.mix = convolution(width, 4 * width, 3, generator, padding=1)
        self.paint = convolution(4 * width, outputs, 1, generator)

    def forward(self, features: Tensor) -> Tensor:
        """Shapes: (M, F) -> (M, P, p * p * C)."""
        x = F.relu(self.spread(features)).unflatten(1, (-1, self.rows, self.columns))
        painted: Tensor = self.paint(F.relu(self.mix(x)))
        return painted.flatten(2).mT
