"""Behaviour cloning: the policy imitates recorded actions.

Pomerleau. "ALVINN: An Autonomous Land Vehicle in a Neural Network". NIPS 1988.

The policy is SAC's, a tanh Gaussian, so that a cloned policy can begin an online phase; or a consistency head, one step
from noise to an action, which a critic can tune afterwards (`robot-rl distill method=consistency`): Chen et al.
"ConRFT: A Reinforced Fine-tuning Method for VLA Models via Consistency Policy". RSS 2025, arXiv:2502.05450, without
its critics. Its mode is ours: the action that no noise becomes.

Letters: B batch, A action.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from robot_rl.algorithms.agent import chunks, require_numbers
from robot_rl.checks import require_choice, require_range
from robot_rl.errors import InputError
from robot_rl.functional import tanh_gaussian
from robot_rl.functional.consistency import NoiseScale, reconstruction_loss
from robot_rl.networks.actor import LOG_STD_KINDS, GaussianActor
from robot_rl.networks.build import gaussian_actor
from robot_rl.networks.consistency import ConsistencyHead
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.initialize import INITIALIZATIONS
from robot_rl.networks.optimize import adam, descend, descend_encoder, encoder_adam
from robot_rl.networks.vision.observation import PixelEncoder, PixelsConfig, observation_encoder
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics

SCALE = NoiseScale()
"""ConRFT's levels of noise, of consistency heads."""


@dataclass(kw_only=True)
class BCConfig:
    """Two layers of 256 units; `loss` may change between phases, the networks not."""

    pixels: PixelsConfig = field(default_factory=lambda: PixelsConfig(actor="nothing", learns_from="actor"))
    """What is made of images, where there are any; without critics they learn from the policy alone."""
    encoder_learning_rate: float = 3e-4  # of images; 0 freezes it
    policy: str = "gaussian"
    """gaussian | consistency, which learns by denoising: its layers have LayerNorm and tanh, and no `loss`, log_std_*,
    dropout or gains."""
    actor_hidden: list[int] = field(default_factory=lambda: [256, 256])
    actor_layer_norm: bool = False
    actor_dropout: float = 0.0
    log_std: str = "state_dependent"  # state_dependent | state_independent | affine
    log_std_minimum: float = -5.0  # above SAC's: a likelihood has no bound where recorded actions repeat
    log_std_maximum: float = 2.0
    initialization: str = "orthogonal"  # orthogonal | xavier_uniform | uniform
    hidden_gain: float = 1.4142135623730951
    last_hidden_gain: float | None = None  # None is `hidden_gain`
    output_gain: float = 0.01
    loss: str = "likelihood"  # likelihood: -log pi(a|s) | squared_error: of the mode; the deviation is not trained then
    actor_learning_rate: float = 3e-4
    gradient_clip: float | None = None  # global norm

    SWITCHABLE: ClassVar[frozenset[str]] = frozenset(
        {"loss", "actor_learning_rate", "encoder_learning_rate", "gradient_clip"}
    )

    def __post_init__(self) -> None:
        require_choice(self.policy, ("gaussian", "consistency"), "bc policy")
        require_choice(self.loss, ("likelihood", "squared_error"), "bc loss")
        require_choice(self.log_std, LOG_STD_KINDS, "bc log_std")
        require_choice(self.initialization, INITIALIZATIONS, "bc initialization")
        require_range(self.actor_dropout, 0, 0.99, "bc actor_dropout")
        if self.pixels.learns_from == "values":
            raise InputError("bc has no values: pixels.learns_from=actor, or images are never learned from")
        require_numbers(self, "bc")


# Losses ---------------------------------------------------------------------------------------------------------------
def likelihood_loss(log_prob: Tensor) -> Tensor:
    """-log pi(a|s), averaged over the batch. Shapes: (B,) -> ()."""
    return -log_prob.mean()


def squared_error_loss(mode: Tensor, action: Tensor) -> Tensor:
    """|mode - a|^2, summed over dimensions and averaged over the batch. Shapes: (B, A), (B, A) -> ()."""
    if mode.shape != action.shape:
        raise ValueError(f"mode {tuple(mode.shape)} and action {tuple(action.shape)} must have the same shape (B, A)")
    return (mode - action).square().sum(dim=1).mean()


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class BC:
    """Everything that a checkpoint holds."""

    config: BCConfig
    encoder: FlatEncoder | PixelEncoder
    actor: GaussianActor | ConsistencyHead
    optimizers: dict[str, Optimizer]  # actor, and of images encoder
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """One gradient step per chunk of rows."""
        metrics: Metrics = {}
        parts = list(chunks(batch, critic_updates))
        for rows, seen in zip(parts, self.encoder.views(batch, parts, self.generator, following=False), strict=True):
            loss, mode = self._loss(seen.actor, batch.action[rows])
            rate, clip = self.config.actor_learning_rate, self.config.gradient_clip
            descend(self.optimizers["actor"], loss, learning_rate=rate, gradient_clip=clip)
            descend_encoder(
                self.optimizers, [seen], learning_rate=self.config.encoder_learning_rate, gradient_clip=clip
            )
            self.updates += 1
            error = (mode.detach() - batch.action[rows]).abs().mean()
            metrics = {"actor/loss": loss.detach(), "actor/absolute_error": error} | seen.metrics
        return metrics

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The mode of the policy, or a sample. Shapes: each (B, *) -> (B, A)."""
        with torch.no_grad():
            features = self.encoder.for_actor(observation)
            if isinstance(self.actor, ConsistencyHead):
                return self._from_noise(self.actor, features, explore=explore)
            mean, log_std = self.actor(features)
            return tanh_gaussian.sample(mean, log_std, self.generator)[0] if explore else tanh_gaussian.mode(mean)

    def _loss(self, features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Also the mode. Shapes: (B, F), (B, A) -> (), (B, A)."""
        actor = self.actor
        if isinstance(actor, ConsistencyHead):
            found, sigma = actor.reconstructed(features, action, SCALE, self.generator)
            with torch.no_grad():
                mode = self._from_noise(actor, features, explore=False)
            return reconstruction_loss(found, action, sigma, SCALE), mode
        mean, log_std = actor(features, self.generator)
        mode = tanh_gaussian.mode(mean)
        if self.config.loss == "likelihood":
            return likelihood_loss(tanh_gaussian.log_prob(mean, log_std, action)), mode
        return squared_error_loss(mode, action), mode

    def _from_noise(self, head: ConsistencyHead, features: Tensor, *, explore: bool) -> Tensor:
        """One step from noise, or from none. Shapes: (B, F) -> (B, A)."""
        noise = torch.zeros(len(features), head.action_size, device=features.device)
        if explore:
            noise = torch.randn(noise.shape, generator=self.generator, device=features.device)
        return head.from_noise(features, noise, SCALE)

    def value(self, observation: dict[str, Tensor], action: Tensor) -> None:
        """There is no critic."""
        return None


def create(
    config: BCConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> BC:
    """The policy network from the spec's shapes."""
    encoder = observation_encoder(config.pixels, spec, statistics, seeds.torch("encoder")).to(device)
    (action_size,) = spec.action.shape
    actor: GaussianActor | ConsistencyHead
    if config.policy == "consistency":
        hidden = tuple(config.actor_hidden)
        actor = ConsistencyHead(encoder.features, action_size, seeds.torch("actor"), hidden=hidden).to(device)
    else:
        actor = gaussian_actor(config, encoder.features, action_size, seeds, device, dropout=config.actor_dropout)
    return BC(
        config=config,
        encoder=encoder,
        actor=actor,
        optimizers={
            "actor": adam(actor, config.actor_learning_rate),
            **encoder_adam(encoder, config.encoder_learning_rate),
        },
        generator=seeds.torch("agent", device=device),
    )
