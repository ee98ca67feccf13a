"""Networks from the settings that every algorithm has, under the names they have in all of them."""

from typing import Protocol

import torch

from robot_rl.networks.actor import GaussianActor
from robot_rl.networks.critic_head import SCALAR, CriticHeadConfig, critic_head
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import Initialization
from robot_rl.networks.mlp import MLP
from robot_rl.seeding import Seeds


class InitializationSettings(Protocol):
    """How weights start."""

    initialization: str
    hidden_gain: float
    last_hidden_gain: float | None
    output_gain: float


class ActorSettings(InitializationSettings, Protocol):
    """A Gaussian policy."""

    actor_hidden: list[int]
    actor_layer_norm: bool
    log_std: str
    log_std_minimum: float
    log_std_maximum: float


class CriticSettings(InitializationSettings, Protocol):
    """An ensemble of critics."""

    critic_hidden: list[int]
    critic_layer_norm: bool
    critic_count: int


class ValueSettings(InitializationSettings, Protocol):
    """A value of states beside the critics."""

    value_hidden: list[int]
    critic_layer_norm: bool


def initialization_of(config: InitializationSettings) -> Initialization:
    """How the weights of all networks start."""
    return Initialization(
        kind=config.initialization,
        hidden_gain=config.hidden_gain,
        last_hidden_gain=config.last_hidden_gain,
        output_gain=config.output_gain,
    )


def gaussian_actor(
    config: ActorSettings,
    features: int,
    action_size: int,
    seeds: Seeds,
    device: torch.device,
    *,
    dropout: float = 0.0,
    bounded_mean: bool = False,
) -> GaussianActor:
    """The policy, drawn from the seed `actor`."""
    return GaussianActor(
        features,
        action_size,
        config.actor_hidden,
        layer_norm=config.actor_layer_norm,
        dropout=dropout,
        log_std_kind=config.log_std,
        log_std_range=(config.log_std_minimum, config.log_std_maximum),
        bounded_mean=bounded_mean,
        initialization=initialization_of(config),
        generator=seeds.torch("actor"),
    ).to(device)


def critic_ensemble(
    config: CriticSettings,
    features: int,
    action_size: int,
    seeds: Seeds,
    device: torch.device,
    *,
    dropout: float = 0.0,
    head: CriticHeadConfig | None = None,
) -> Ensemble:
    """The critics, drawn from the seed `critic`; None is one output, their value."""
    return Ensemble(
        features,
        action_size,
        config.critic_hidden,
        count=config.critic_count,
        layer_norm=config.critic_layer_norm,
        dropout=dropout,
        head=SCALAR if head is None else critic_head(head),
        initialization=initialization_of(config),
        generator=seeds.torch("critic"),
    ).to(device)


def value_network(config: ValueSettings, features: int, seeds: Seeds, device: torch.device, *, outputs: int = 1) -> MLP:
    """The value of states, or the logits of its distribution, drawn from the seed `value_network`."""
    return MLP(
        features,
        config.value_hidden,
        outputs,
        layer_norm=config.critic_layer_norm,
        initialization=initialization_of(config),
        generator=seeds.torch("value_network"),
    ).to(device)
