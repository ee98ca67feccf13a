"""One number for an image: what success classifiers and rewards from preferences are made of."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robot_rl.networks.initialize import Initialization
from robot_rl.networks.mlp import MLP
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.encoder import ImageEncoder, build_encoder


class ImageScore(nn.Module):
    """An encoder and a multilayer perceptron behind it.

    Args:
        encoder: of images (H, W, C).
        hidden: of the perceptron.
        frozen: the encoder does not learn.
        generator: of the perceptron's weights.
    """

    def __init__(
        self, encoder: ImageEncoder, hidden: Sequence[int], *, frozen: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.encoder, self.frozen = encoder, frozen
        self.head = MLP(
            encoder.features,
            list(hidden),
            1,
            layer_norm=True,
            initialization=Initialization(),
            generator=generator,
        )
        if frozen:
            encoder.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Shapes: (B, H, W, C), uint8 -> (B,)."""
        features = self.encoder(images)
        score: Tensor = self.head(features.detach() if self.frozen else features)
        return score[:, 0]


def build_scores(
    config: VisionConfig,
    shape: Sequence[int],
    hidden: Sequence[int],
    *,
    count: int,
    frozen: bool,
    generator: torch.Generator,
) -> list[ImageScore]:
    """Independent networks of one form, which differ in what they begin with.

    Raises:
        InputError: see `build_encoder`.
    """
    members = []
    for _ in range(count):
        encoder, _ = build_encoder(config, shape, generator)
        members.append(ImageScore(encoder, hidden, frozen=frozen, generator=generator))
    return members


def empty_scores(config: VisionConfig, shape: Sequence[int], hidden: Sequence[int], count: int) -> list[ImageScore]:
    """The same networks without the file that they began with, to be filled with what was saved."""
    generator = torch.Generator().manual_seed(0)
    return [
        ImageScore(ImageEncoder(config, shape, generator), hidden, frozen=True, generator=generator)
        for _ in range(count)
    ]
