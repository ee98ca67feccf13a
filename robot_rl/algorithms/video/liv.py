"""LIV: one space for frames and instructions, in which the cosine to a goal, seen or said, is its value.

Ma et al. "LIV: Language-Image Representations and Rewards for Robotic Control". ICML 2023, arXiv:2306.00958.
Equation by equation, and what differs: docs/video/liv.md. CLIP's text encoder is replaced by hashed words with two
layers behind.

Letters: B spans, M = 5 B frames, D embedding, N texts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from robot_rl.algorithms.video.settings import require_numbers
from robot_rl.checks import require_minimum, require_range
from robot_rl.errors import InputError
from robot_rl.functional.goal_value import contrastive_loss, cosine_value, dual_value_loss
from robot_rl.networks.optimize import Adam, descend
from robot_rl.networks.text import HASHED, hashed_texts
from robot_rl.networks.vision.encoder import ImageEncoder
from robot_rl.replay.footage import Footage
from robot_rl.replay.spans import Spans, draw_spans
from robot_rl.seeding import Seeds
from robot_rl.types import Metrics


@dataclass(kw_only=True)
class LIVConfig:
    """The published settings of pre-training, but for the batch, which was 512."""

    learning_rate: float = 1e-5  # 3e-4 suits small encoders and a few thousand steps
    weight_decay: float = 1e-3
    discount: float = 0.98  # per step
    embedding: int = 1024  # D
    text_hidden: int = 512  # units between the hashed text and its embedding
    batch: int = 32  # B
    negatives: int = 3  # shuffles of the batch, whose pairs of frames come from other clips than the goal
    ending: float = 0.95  # share of a video from which on a frame shows what its instruction says
    contrast_weight: float = 1.0  # of the InfoNCE of last frames and instructions
    image_weight: float = 1.0  # of the value whose goal is a frame
    text_weight: float = 1.0  # of the value whose goal is the instruction
    gradient_clip: float | None = None  # global norm

    def __post_init__(self) -> None:
        require_range(self.weight_decay, 0.0, 1.0, "liv weight_decay")
        require_range(self.discount, 0.0, 0.999999, "liv discount")
        require_minimum(self.embedding, 1, "liv embedding")
        require_minimum(self.text_hidden, 1, "liv text_hidden")
        require_minimum(self.batch, 2, "liv batch")
        require_minimum(self.negatives, 0, "liv negatives")
        require_range(self.ending, 0.0, 1.0, "liv ending")
        for name in ("contrast_weight", "image_weight", "text_weight"):
            require_minimum(getattr(self, name), 0.0, f"liv {name}")
        require_numbers(self, "liv")


@dataclass(kw_only=True, eq=False)
class LIV:
    """Everything that a checkpoint holds."""

    config: LIVConfig
    encoder: ImageEncoder
    projection: nn.Linear  # (D, F)
    text_encoder: nn.Sequential  # hashed text to D
    text_table: Tensor  # (N, HASHED), of the run's instructions; made anew from the texts
    optimizers: dict[str, Optimizer]  # encoder
    generator: torch.Generator
    updates: int = 0

    value_kind = "value"  # the cosine of embeddings over 1 - discount

    def draw(self, footage: Footage, generator: torch.Generator) -> Spans:
        """Which frames the next update needs."""
        return draw_spans(footage, self.config.batch, generator, ending=self.config.ending)

    def update(self, images: Tensor, rows: Spans) -> Metrics:
        """One gradient step. Clips without an instruction teach the value of image goals alone.

        Shapes: images (M, H, W, C), uint8.
        """
        config = self.config
        embedding = self.projection(self.encoder(images))
        first, now, following, goal, shown = (
            embedding.index_select(0, number)
            for number in (rows.first, rows.now, rows.following, rows.goal, rows.shown)
        )
        order = [self._shuffle(len(now)) for _ in range(config.negatives)]
        loss, metrics = self._dual(first, now, following, goal, order)
        loss = config.image_weight * loss
        told = rows.instruction >= 0
        if len(self.text_table):
            text = self.text_encoder(self.text_table.index_select(0, rows.instruction.clamp(min=0)))
            # How many clips say something is a shape, for which an accelerator has to be waited for.
            said = told.nonzero().flatten()
            if len(said) >= 2:
                parts = [each.index_select(0, said) for each in (first, now, following, text, shown)]
                number = rows.instruction.index_select(0, said)
                contrast = contrastive_loss(parts[4], parts[3], number[:, None] == number)
                orders = [self._shuffle(len(said)) for _ in range(config.negatives)]
                by_text, _ = self._dual(parts[0], parts[1], parts[2], parts[3], orders)
                loss = loss + config.contrast_weight * contrast + config.text_weight * by_text
                metrics |= {"text/contrast": contrast.detach(), "text/value_loss": by_text.detach()}
        descend(
            self.optimizers["encoder"], loss, learning_rate=config.learning_rate, gradient_clip=config.gradient_clip
        )
        self.updates += 1
        return metrics

    def _dual(
        self, first: Tensor, now: Tensor, following: Tensor, goal: Tensor, orders: Sequence[Tensor]
    ) -> tuple[Tensor, Metrics]:
        """VIP's loss on cosines. Shapes: (B, D) each, orders (B,) each."""
        discount = self.config.discount
        shuffled = None
        if orders:
            order, goals = torch.cat(list(orders)), goal.repeat(len(orders), 1)
            shuffled = (cosine_value(now[order], goals, discount), cosine_value(following[order], goals, discount))
        first_v, v, next_v = (cosine_value(each, goal, discount) for each in (first, now, following))
        return dual_value_loss(first_v, v, next_v, discount, shuffled)

    def _shuffle(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.generator, device=self.generator.device)

    @torch.no_grad()
    def value(self, images: Tensor, goal: Tensor) -> Tensor:
        """cos(s, g) / (1 - discount). Shapes: (T, H, W, C), (1, H, W, C) or (T, H, W, C) -> (T,)."""
        return self.differentiable_value(images, goal)

    def differentiable_value(self, images: Tensor, goal: Tensor) -> Tensor:
        """As `value`, of images as bytes or as numbers from 0 to 255, with gradients."""
        embedding, target = self.projection(self.encoder(images)), self.projection(self.encoder(goal))
        return cosine_value(embedding, target, self.config.discount)

    @torch.no_grad()
    def text_value(self, images: Tensor, text: str) -> Tensor:
        """The value of a goal in words. Shapes: (T, H, W, C) -> (T,).

        Raises:
            InputError: the text has no letters.
        """
        hashed = hashed_texts([text])
        if not bool(hashed.any()):
            raise InputError(f"the instruction {text!r} has no words: say what is to be done")
        goal = self.text_encoder(hashed.to(images.device))
        return cosine_value(self.projection(self.encoder(images)), goal, self.config.discount)


def create(config: LIVConfig, encoder: ImageEncoder, texts: list[str], seeds: Seeds, device: torch.device) -> LIV:
    """Layers behind an encoder and behind hashed texts, those of the run's instructions by number."""
    generator = seeds.torch("projection")
    projection = nn.Linear(encoder.features, config.embedding)
    first, second = nn.Linear(HASHED, config.text_hidden), nn.Linear(config.text_hidden, config.embedding)
    for layer in (projection, first, second):
        nn.init.xavier_uniform_(layer.weight, generator=generator)
        nn.init.zeros_(layer.bias)
    encoder, projection = encoder.to(device), projection.to(device)
    text_encoder = nn.Sequential(first, nn.ReLU(), second).to(device)
    modules = (encoder, projection, text_encoder)
    parameters = [each for module in modules for each in module.parameters() if each.requires_grad]
    optimizer = Adam(
        parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    return LIV(
        config=config,
        encoder=encoder,
        projection=projection,
        text_encoder=text_encoder,
        text_table=hashed_texts(texts).to(device),
        optimizers={"encoder": optimizer},
        generator=seeds.torch("agent", device=device),
    )
