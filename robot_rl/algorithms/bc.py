"""Behaviour cloning: the policy imitates recorded actions.

Pomerleau. "ALVINN: An Autonomous Land Vehicle in a Neural Network". NIPS 1988.

The policy is SAC's, a tanh Gaussian, so that a cloned policy can begin an online phase.

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
from robot_rl.networks.actor import LOG_STD_KINDS, GaussianActor
from robot_rl.networks.build import gaussian_actor
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.initialize import INITIALIZATIONS
from robot_rl.networks.optimize import adam, descend, descend_encoder, encoder_adam
from robot_rl.networks.vision.observation import PixelEncoder, PixelsConfig, observation_encoder
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics


@dataclass(kw_only=True)
class BCConfig:
    """Two layers of 256 units; `loss` may change between phases, the networks not."""

    pixels: PixelsConfig = field(default_factory=lambda: PixelsConfig(actor="nothing", learns_from="actor"))
    """What is made of images, where there are any; without critics they learn from the policy alone."""
    encoder_learning_rate: float = 3e-4  # of images; 0 freezes it
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
    actor: GaussianActor
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
            mean, log_std = self.actor(seen.actor, self.generator)
            action = batch.action[rows]
            if self.config.loss == "likelihood":
                loss = likelihood_loss(tanh_gaussian.log_prob(mean, log_std, action))
            else:
                loss = squared_error_loss(tanh_gaussian.mode(mean), action)
            rate, clip = self.config.actor_learning_rate, self.config.gradient_clip
            descend(self.optimizers["actor"], loss, learning_rate=rate, gradient_clip=clip)
            descend_encoder(
                self.optimizers, [seen], learning_rate=self.config.encoder_learning_rate, gradient_clip=clip
            )
            self.updates += 1
            error = (tanh_gaussian.mode(mean.detach()) - action).abs().mean()
            metrics = {"actor/loss": loss.detach(), "actor/absolute_error": error} | seen.metrics
        return metrics

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The mode of the policy, or a sample. Shapes: each (B, *) -> (B, A)."""
        with torch.no_grad():
            mean, log_std = self.actor(self.encoder.for_actor(observation))
            return tanh_gaussian.sample(mean, log_std, self.generator)[0] if explore else tanh_gaussian.mode(mean)

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
