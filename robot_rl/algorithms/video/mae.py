"""Masked auto-encoding of single frames: the control that knows nothing of time.

He et al. "Masked Autoencoders Are Scalable Vision Learners". CVPR 2022, arXiv:2111.06377. The published encoder is a
transformer that never sees the hidden patches; here any encoder of images sees them painted over. Equation by equation,
and what differs: docs/video/mae.md.

Letters: M frames, P patches of a frame, F features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from robot_rl.algorithms.video.settings import require_numbers
from robot_rl.checks import require_minimum, require_range
from robot_rl.functional.goal_value import distance_value
from robot_rl.functional.masked import hide, patches, random_mask, reconstruction_loss
from robot_rl.networks.optimize import Adam, descend
from robot_rl.networks.patch_decoder import PatchDecoder
from robot_rl.networks.vision.encoder import ImageEncoder
from robot_rl.networks.vision.pixels import folded, scaled
from robot_rl.replay.footage import Footage
from robot_rl.replay.spans import Frames, draw_frames
from robot_rl.seeding import Seeds
from robot_rl.types import Metrics

HIDDEN_BYTE = 128
"""What a hidden patch looks like: grey, which is the middle of every scaling of bytes."""


@dataclass(kw_only=True)
class MAEConfig:
    """Sizes for frames of 64 to 128 pixels; the learning rate is that of small encoders and a few thousand steps."""

    learning_rate: float = 3e-4  # published: 1.5e-4 for each 256 frames of a batch, with warm-up, of transformers
    hidden_share: float = 0.75  # of the patches; convolutions do well with 0.6
    patch: int = 8  # pixels; published: 16 of 224
    normalize_patches: bool = True  # predict each patch less its mean and over its deviation
    decoder_width: int = 32
    batch: int = 128  # M
    gradient_clip: float | None = None  # global norm

    def __post_init__(self) -> None:
        require_range(self.hidden_share, 0.0, 1.0, "mae hidden_share")
        require_minimum(self.patch, 1, "mae patch")
        require_minimum(self.decoder_width, 1, "mae decoder_width")
        require_minimum(self.batch, 1, "mae batch")
        require_numbers(self, "mae")


@dataclass(kw_only=True, eq=False)
class MAE:
    """Everything that a checkpoint holds."""

    config: MAEConfig
    encoder: ImageEncoder
    decoder: PatchDecoder
    optimizers: dict[str, Optimizer]  # encoder
    generator: torch.Generator
    updates: int = 0

    value_kind = "distance"  # of features: no value is learned

    def draw(self, footage: Footage, generator: torch.Generator) -> Frames:
        """Which frames the next update needs."""
        return draw_frames(footage, self.config.batch, generator)

    def update(self, images: Tensor, rows: Frames) -> Metrics:
        """One gradient step. Shapes: images (M, H, W, C), uint8."""
        del rows
        config = self.config
        hidden, painted = self.paint(images, self.generator)
        pixels = scaled(folded(images), "centered")
        loss = reconstruction_loss(painted, pixels, hidden, config.patch, normalize=config.normalize_patches)
        descend(
            self.optimizers["encoder"], loss, learning_rate=config.learning_rate, gradient_clip=config.gradient_clip
        )
        self.updates += 1
        return {"reconstruction/loss": loss.detach()}

    def paint(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Hide patches and paint all. Shapes: (M, H, W, C) uint8 -> (M, P) bool, (M, P, p * p * C)."""
        side = self.config.patch
        bytes_first = folded(images)
        count = (images.shape[1] // side) * (images.shape[2] // side)
        hidden = random_mask(len(images), count, self.config.hidden_share, generator).to(images.device)
        shown = hide(bytes_first, hidden, side, fill=HIDDEN_BYTE).permute(0, 2, 3, 1)
        painted: Tensor = self.decoder(self.encoder(shown))
        return hidden, painted

    @torch.no_grad()
    def value(self, images: Tensor, goal: Tensor) -> Tensor:
        """-|f(s) - f(g)| of features. Shapes: (T, H, W, C), (1, H, W, C) or (T, H, W, C) -> (T,)."""
        return self.differentiable_value(images, goal)

    def differentiable_value(self, images: Tensor, goal: Tensor) -> Tensor:
        """As `value`, of images as bytes or as numbers from 0 to 255, with gradients."""
        return distance_value(self.encoder(images), self.encoder(goal))


def create(config: MAEConfig, encoder: ImageEncoder, texts: list[str], seeds: Seeds, device: torch.device) -> MAE:
    """A decoder behind an encoder; `texts` are not used.

    Raises:
        InputError: patches that do not divide the images.
    """
    del texts
    height, width, channels = encoder.shape
    patches(torch.zeros(1, channels, height, width), config.patch)
    encoder = encoder.to(device)
    decoder = PatchDecoder(
        encoder.features,
        height // config.patch,
        width // config.patch,
        config.patch**2 * channels,
        width=config.decoder_width,
        generator=seeds.torch("decoder"),
    ).to(device)
    parameters = [*(each for each in encoder.parameters() if each.requires_grad), *decoder.parameters()]
    return MAE(
        config=config,
        encoder=encoder,
        decoder=decoder,
        optimizers={"encoder": Adam(parameters, lr=config.learning_rate, fused=True)},
        generator=seeds.torch("agent", device=device),
    )
