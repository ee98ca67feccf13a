"""VIP: embeddings in which the distance to a goal is minus its value, by the dual of reaching goals.

Ma et al. "VIP: Towards Universal Visual Reward and Representation via Value-Implicit Pre-Training". ICLR 2023,
arXiv:2210.00030. Equation by equation, and what differs: docs/video/vip.md.

Letters: B spans, M = 4 B frames, D embedding.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from robot_rl.algorithms.video.settings import require_numbers
from robot_rl.checks import require_minimum, require_range
from robot_rl.functional.goal_value import distance_value, dual_value_loss, embedding_norms
from robot_rl.networks.optimize import Adam, descend
from robot_rl.networks.vision.encoder import ImageEncoder
from robot_rl.replay.footage import Footage
from robot_rl.replay.spans import Spans, draw_spans
from robot_rl.seeding import Seeds
from robot_rl.types import Metrics


@dataclass(kw_only=True)
class VIPConfig:
    """The published settings."""

    learning_rate: float = 1e-4  # 3e-4 suits small encoders and a few thousand steps
    discount: float = 0.98  # per step
    embedding: int = 1024  # D
    batch: int = 32  # B
    negatives: int = 3  # shuffles of the batch, whose pairs of frames come from other clips than the goal
    l1_weight: float = 0.001  # of the mean L1 norm of the embeddings
    l2_weight: float = 0.001  # of the mean L2 norm
    gradient_clip: float | None = None  # global norm

    def __post_init__(self) -> None:
        require_range(self.discount, 0.0, 0.999999, "vip discount")
        require_minimum(self.embedding, 1, "vip embedding")
        require_minimum(self.batch, 2, "vip batch")
        require_minimum(self.negatives, 0, "vip negatives")
        require_minimum(self.l1_weight, 0.0, "vip l1_weight")
        require_minimum(self.l2_weight, 0.0, "vip l2_weight")
        require_numbers(self, "vip")


@dataclass(kw_only=True, eq=False)
class VIP:
    """Everything that a checkpoint holds."""

    config: VIPConfig
    encoder: ImageEncoder
    projection: nn.Linear  # (D, F)
    optimizers: dict[str, Optimizer]  # encoder
    generator: torch.Generator
    updates: int = 0

    value_kind = "value"  # minus the distance of embeddings

    def draw(self, footage: Footage, generator: torch.Generator) -> Spans:
        """Which frames the next update needs."""
        return draw_spans(footage, self.config.batch, generator)

    def update(self, images: Tensor, rows: Spans) -> Metrics:
        """One gradient step. Shapes: images (M, H, W, C), uint8."""
        config = self.config
        embedding = self.projection(self.encoder(images))
        first, now, following, goal = (
            embedding.index_select(0, number) for number in (rows.first, rows.now, rows.following, rows.goal)
        )
        shuffled = None
        if config.negatives:
            order = torch.cat([self._shuffle(len(now)) for _ in range(config.negatives)])
            goals = goal.repeat(config.negatives, 1)
            shuffled = (distance_value(now[order], goals), distance_value(following[order], goals))
        loss, metrics = dual_value_loss(
            distance_value(first, goal),
            distance_value(now, goal),
            distance_value(following, goal),
            config.discount,
            shuffled,
        )
        l1, l2 = embedding_norms(embedding)
        metrics["embedding/l2"] = l2.detach()
        loss = loss + config.l1_weight * l1 + config.l2_weight * l2
        descend(
            self.optimizers["encoder"], loss, learning_rate=config.learning_rate, gradient_clip=config.gradient_clip
        )
        self.updates += 1
        return metrics

    def _shuffle(self, count: int) -> Tensor:
        return torch.randperm(count, generator=self.generator, device=self.generator.device)

    @torch.no_grad()
    def value(self, images: Tensor, goal: Tensor) -> Tensor:
        """-|phi(s) - phi(g)|. Shapes: (T, H, W, C), (1, H, W, C) or (T, H, W, C) -> (T,)."""
        return self.differentiable_value(images, goal)

    def differentiable_value(self, images: Tensor, goal: Tensor) -> Tensor:
        """As `value`, of images as bytes or as numbers from 0 to 255, with gradients."""
        return distance_value(self.projection(self.encoder(images)), self.projection(self.encoder(goal)))


def create(config: VIPConfig, encoder: ImageEncoder, texts: list[str], seeds: Seeds, device: torch.device) -> VIP:
    """A linear layer behind an encoder; `texts` are not used."""
    del texts
    projection = nn.Linear(encoder.features, config.embedding)
    nn.init.xavier_uniform_(projection.weight, generator=seeds.torch("projection"))
    nn.init.zeros_(projection.bias)
    encoder, projection = encoder.to(device), projection.to(device)
    parameters = [*(each for each in encoder.parameters() if each.requires_grad), *projection.parameters()]
    return VIP(
        config=config,
        encoder=encoder,
        projection=projection,
        optimizers={"encoder": Adam(parameters, lr=config.learning_rate, fused=True)},
        generator=seeds.torch("agent", device=device),
    )
