"""ICVF: values of what would happen under every intention that video shows, learned without actions or rewards.

Ghosh, Bhateja, Levine. "Reinforcement Learning from Passive Data via Latent Intentions". ICML 2023, arXiv:2304.04782.
It is the first phase of V-PTR, which carries on the encoder alone: Bhateja et al. "Robotic Offline RL from Internet
Videos via Value-Function Pre-Training". ICRA 2024, arXiv:2309.13041. Equation by equation, and what differs:
docs/video/icvf.md.

Letters: E members, M frames of the pool, K tuples, F features.
"""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from robot_rl.algorithms.video.settings import require_numbers
from robot_rl.checks import require_choice, require_minimum, require_range
from robot_rl.functional import intentional
from robot_rl.functional.masked import patches, reconstruction_loss
from robot_rl.functional.polyak import polyak_update
from robot_rl.networks.intentional import IntentionalValue
from robot_rl.networks.optimize import Adam, descend
from robot_rl.networks.patch_decoder import PatchDecoder
from robot_rl.networks.vision.encoder import ImageEncoder
from robot_rl.networks.vision.pixels import folded, scaled
from robot_rl.replay.clips import ClipShape, Tuples, draw_tuples
from robot_rl.replay.footage import Footage
from robot_rl.replay.goals import GoalMixture
from robot_rl.seeding import Seeds
from robot_rl.types import Metrics

DECODER_WIDTH = 32


@dataclass(kw_only=True)
class ICVFConfig:
    """The published settings; pools instead of single tuples, see `clips`."""

    learning_rate: float = 5e-5  # published for images; 3e-4 suits small encoders and a few thousand steps
    adam_epsilon: float = 3.125e-4
    discount: float = 0.99  # per step
    expectile: float = 0.9  # alpha
    target_rate: float = 0.005
    hidden: list[int] = field(default_factory=lambda: [256, 256])  # of phi, psi and T; the last is d
    layer_norm: bool = False  # GELU and LayerNorm in place of ReLU
    members: int = 2  # E
    advantage_reduction: str = "min"  # min | mean: of the members in the next value of the advantage
    use_intent: bool = True
    """False: the ablation `no_intent`, one intention for all and every advantage 0."""
    reconstruction_weight: float = 0.0
    """Of painting the frames from their features: not in the paper, for context that never changes within a video."""
    reconstruction_patch: int = 8  # pixels
    gradient_clip: float | None = None  # global norm
    clips: ClipShape = field(default_factory=ClipShape)
    goals: GoalMixture = field(default_factory=GoalMixture)

    def __post_init__(self) -> None:
        require_range(self.discount, 0.0, 0.999999, "icvf discount")
        require_range(self.expectile, 0.5, 0.999, "icvf expectile")
        require_range(self.target_rate, 0.0, 1.0, "icvf target_rate")
        require_minimum(self.members, 1, "icvf members")
        require_choice(self.advantage_reduction, ("min", "mean"), "icvf advantage_reduction")
        require_minimum(self.reconstruction_weight, 0.0, "icvf reconstruction_weight")
        require_minimum(self.reconstruction_patch, 1, "icvf reconstruction_patch")
        require_numbers(self, "icvf")


@dataclass(kw_only=True, eq=False)
class ICVF:
    """Everything that a checkpoint holds."""

    config: ICVFConfig
    encoder: ImageEncoder
    target_encoder: ImageEncoder
    head: IntentionalValue
    target_head: IntentionalValue
    decoder: PatchDecoder | None  # where frames are painted too
    optimizers: dict[str, Optimizer]  # value
    generator: torch.Generator
    updates: int = 0

    value_kind = "value"  # V(s, g, g) of the goal g

    def draw(self, footage: Footage, generator: torch.Generator) -> Tuples:
        """Which frames the next update needs."""
        return draw_tuples(footage, self.config.clips, self.config.goals, generator)

    def update(self, images: Tensor, rows: Tuples) -> Metrics:
        """One gradient step; every frame goes through the encoder once, and once through the target encoder.

        Shapes: images (M, H, W, C), uint8.
        """
        config = self.config
        with torch.no_grad():
            parts = self._without_intent(self.target_head.parts(self.target_encoder(images)))
            following = self.target_head.value(parts, rows.next_observation, rows.goal, rows.intent)
            v_intent = self.target_head.value(parts, rows.observation, rows.intent, rows.intent)
            next_v_intent = self.target_head.value(parts, rows.next_observation, rows.intent, rows.intent)
            advantage = intentional.intent_advantage(
                next_v_intent, v_intent, rows.at_intent, config.discount, reduction=config.advantage_reduction
            )
            if not config.use_intent:
                advantage = torch.zeros_like(advantage)
        features = self.encoder(images)
        v = self.head.value(self._without_intent(self.head.parts(features)), rows.observation, rows.goal, rows.intent)
        loss, metrics = intentional.value_loss(v, following, rows.at_goal, advantage, config.discount, config.expectile)
        if self.decoder is not None:
            pixels = scaled(folded(images), "centered")
            painted = _painting_error(self.decoder(features), pixels, config.reconstruction_patch)
            loss = loss + config.reconstruction_weight * painted
            metrics["reconstruction/loss"] = painted.detach()
        descend(self.optimizers["value"], loss, learning_rate=config.learning_rate, gradient_clip=config.gradient_clip)
        polyak_update(self.target_encoder, self.encoder, config.target_rate)
        polyak_update(self.target_head, self.head, config.target_rate)
        self.updates += 1
        return metrics

    @torch.no_grad()
    def value(self, images: Tensor, goal: Tensor) -> Tensor:
        """V(s, g, g), the mean of the members. Shapes: (T, H, W, C), (1, H, W, C) or (T, H, W, C) -> (T,)."""
        return self.differentiable_value(images, goal)

    def differentiable_value(self, images: Tensor, goal: Tensor) -> Tensor:
        """As `value`, of images as bytes or as numbers from 0 to 255, with gradients."""
        phi = self.head.phi(self.encoder(images))
        _, psi, transform = self._without_intent(self.head.parts(self.encoder(goal)))
        return self.head.combine(phi, psi.expand_as(phi), transform.expand_as(phi)).mean(0)

    def _without_intent(self, parts: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """T(z) of 1 in place of every intent, where intents are not used."""
        return parts if self.config.use_intent else (parts[0], parts[1], torch.ones_like(parts[2]))


def _painting_error(painted: Tensor, pixels: Tensor, side: int) -> Tensor:
    every = torch.ones(painted.shape[:2], dtype=torch.bool, device=pixels.device)
    return reconstruction_loss(painted, pixels, every, side, normalize=False)


def _decoder(config: ICVFConfig, encoder: ImageEncoder, seeds: Seeds) -> PatchDecoder:
    height, width, channels = encoder.shape
    side = config.reconstruction_patch
    outputs = patches(torch.zeros(1, channels, height, width), side).shape[2]
    return PatchDecoder(
        encoder.features,
        height // side,
        width // side,
        outputs,
        width=DECODER_WIDTH,
        generator=seeds.torch("decoder"),
    )


def create(config: ICVFConfig, encoder: ImageEncoder, texts: list[str], seeds: Seeds, device: torch.device) -> ICVF:
    """Heads behind an encoder; `texts` are not used."""
    del texts
    encoder = encoder.to(device)
    head = IntentionalValue(
        encoder.features,
        config.hidden,
        count=config.members,
        layer_norm=config.layer_norm,
        generator=seeds.torch("head"),
    ).to(device)
    decoder = None if config.reconstruction_weight == 0 else _decoder(config, encoder, seeds).to(device)
    modules = [encoder, head, *([] if decoder is None else [decoder])]
    parameters = [each for module in modules for each in module.parameters() if each.requires_grad]
    optimizer = Adam(parameters, lr=config.learning_rate, eps=config.adam_epsilon, fused=True)
    return ICVF(
        config=config,
        encoder=encoder,
        target_encoder=copy.deepcopy(encoder).requires_grad_(False),
        head=head,
        target_head=copy.deepcopy(head).requires_grad_(False),
        decoder=decoder,
        optimizers={"value": optimizer},
        generator=seeds.torch("agent", device=device),
    )
