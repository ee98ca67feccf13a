"""From a map of features to a vector."""

import torch
from torch import Tensor, nn


def pooling(kind: str, shape: tuple[int, int, int], embeddings: int, generator: torch.Generator) -> "Pool":
    """`kind` is one of `VisionConfig.pooling`, `shape` that of the map, (C, h, w)."""
    match kind:
        case "average":
            return Average(shape)
        case "spatial_softmax":
            return SpatialSoftmax(shape)
        case "spatial_embeddings":
            return SpatialEmbeddings(shape, embeddings, generator)
        case _:
            return Flat(shape)


class Flat(nn.Module):
    """All of the map."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.features = shape[0] * shape[1] * shape[2]

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, h, w) -> (B, h * w * C): places first, as they lie in memory."""
        return x.permute(0, 2, 3, 1).flatten(1)


class Average(nn.Module):
    """The mean over places."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.features = shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, h, w) -> (B, C)."""
        return x.mean(dim=(2, 3))


class SpatialSoftmax(nn.Module):
    """Where each channel is: the mean place under softmax(x / temperature), of a learned temperature from 1.

    Finn et al. "Deep Spatial Autoencoders for Visuomotor Learning". ICRA 2016, arXiv:1509.06113.
    """

    place: Tensor

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        self.features = 2 * channels
        self.temperature = nn.Parameter(torch.ones(()))
        row, column = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        self.register_buffer("place", torch.stack([column.flatten(), row.flatten()], 1), persistent=False)  # (h w, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, h, w) -> (B, 2 C): column and row of each channel, from -1 to 1."""
        weight = (x.flatten(2) / self.temperature).softmax(dim=2)  # (B, C, h w)
        return (weight @ self.place).flatten(1)


class SpatialEmbeddings(nn.Module):
    """sum over places of x * w, for `embeddings` learned w of each channel (PTR's `SpatialLearnedEmbeddings`)."""

    def __init__(self, shape: tuple[int, int, int], embeddings: int, generator: torch.Generator) -> None:
        super().__init__()
        channels, height, width = shape
        self.features = channels * embeddings
        weight = torch.empty(channels, height * width, embeddings)
        nn.init.normal_(weight, 0.0, (height * width) ** -0.5, generator)
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, C, h, w) -> (B, C * embeddings)."""
        weighted: Tensor = torch.einsum("bcp,cpe->bce", x.flatten(2), self.weight)
        return weighted.flatten(1)


Pool = Flat | Average | SpatialSoftmax | SpatialEmbeddings
