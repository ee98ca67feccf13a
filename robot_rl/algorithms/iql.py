"""Implicit Q-Learning (IQL), and its robust form for corrupted data (RIQL).

Kostrikov, Nair, Levine. "Offline Reinforcement Learning with Implicit Q-Learning". ICLR 2022, arXiv:2110.06169.
Yang et al. "Towards Robust Offline Reinforcement Learning under Diverse Data Corruption". ICLR 2024, arXiv:2310.12955.

V regresses to an upper expectile of Q, Q to r + discount * V(s'), and the policy clones recorded actions with weight
exp(inverse_temperature * (Q - V)). No action outside the data is ever judged, so the same update serves the offline and
the online phase.

Weights are clipped and the order is V, policy, Q, target, policy and Q seeing the new V, as in the authors' code
(github ikostrikov/implicit_q_learning 09d7002). Differences from it: an ensemble of E critics (theirs: 2); optional
LayerNorm and gradient clipping.

RIQL (`configs/algorithm/riql.yaml`) normalises observations, which the replay settings do, takes a quantile over
critics in place of their minimum, and counts large TD errors linearly. Its code (github YangRui2015/RIQL cc07d81) also
cuts targets, clones by squared error with a policy that has no deviation, and takes V before its step; each is a
setting. Differences from that code: TD losses are summed over critics, theirs averaged, which Adam undoes; all biases
start at 0 and all layers alike, theirs start the critics' biases at 0.1 and their last weights within 0.003; an
observation's deviation below 1e-6 counts as 1, theirs adds 1e-3 to each.

Letters: B batch, E critics, A action.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from robot_rl.algorithms.agent import chunks, require_numbers
from robot_rl.checks import require_choice, require_range
from robot_rl.errors import InputError
from robot_rl.functional import gaussian
from robot_rl.functional.bellman import td_target
from robot_rl.functional.implicit import value_loss
from robot_rl.functional.polyak import polyak_update
from robot_rl.functional.quantile import head_quantile
from robot_rl.functional.robust import bounded, huber_td_error
from robot_rl.functional.schedule import cosine_then_hold
from robot_rl.networks.actor import LOG_STD_KINDS, GaussianActor
from robot_rl.networks.build import critic_ensemble, gaussian_actor, value_network
from robot_rl.networks.critic_head import SCALAR, CriticHead, CriticHeadConfig
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import INITIALIZATIONS
from robot_rl.networks.mlp import MLP
from robot_rl.networks.optimize import adam, descend, descend_encoder, encoder_adam
from robot_rl.networks.seen import Seen
from robot_rl.networks.vision.observation import PixelEncoder, PixelsConfig, observation_encoder
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics


@dataclass(kw_only=True)
class IQLConfig:
    """Defaults are the authors' for MuJoCo, without their schedule; AntMaze: expectile 0.9, inverse_temperature 10."""

    pixels: PixelsConfig = field(default_factory=PixelsConfig)  # what is made of images, where there are any
    encoder_learning_rate: float = 3e-4  # of images; 0 freezes it
    actor_hidden: list[int] = field(default_factory=lambda: [256, 256])
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256])
    value_hidden: list[int] = field(default_factory=lambda: [256, 256])
    actor_layer_norm: bool = False
    critic_layer_norm: bool = False  # of Q and V
    critic_count: int = 2
    critic_head: CriticHeadConfig = field(default_factory=CriticHeadConfig)
    """What a critic's outputs mean: its value, or a distribution of returns (`docs/algorithms/heads.md`)."""
    actor_dropout: float = 0.0  # 0.1 for Kitchen and Adroit
    log_std: str = "state_independent"  # state_dependent | state_independent | affine
    log_std_minimum: float = -5.0
    log_std_maximum: float = 2.0
    bounded_mean: bool = True
    """The mean is tanh of the network's output, the Gaussian around it is not squashed; WSRL's IQL: False."""
    initialization: str = "orthogonal"  # orthogonal | xavier_uniform | uniform
    hidden_gain: float = 1.4142135623730951
    last_hidden_gain: float | None = None  # None is `hidden_gain`
    output_gain: float = 1.4142135623730951

    expectile: float = 0.7
    """In (0, 1): 0.5 makes V the mean of Q, towards 1 its maximum over the data."""
    critic_quantile: float | None = None
    """The quantile over target critics, alpha in RIQL, that V and the advantage see. None: the minimum, which is 0."""
    critic_huber: float | None = None
    """TD errors above it count linearly: RIQL's delta, which is 1 / sigma^2 in its code. None: all are squared."""
    target_minimum: float | None = None  # the TD target is cut to these
    target_maximum: float | None = None
    updated_value: bool = True
    """Policy and critics see V after its step; False: before it, as in the code of RIQL, and of CORL."""
    actor_loss: str = "likelihood"  # likelihood | squared_error: of the mean; the deviation is not trained then
    inverse_temperature: float = 3.0  # Kitchen and Adroit 0.5
    weight_maximum: float = 100.0  # the authors' code
    target_rate: float = 0.005
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    value_learning_rate: float = 3e-4
    actor_schedule_steps: int | None = None
    """Updates over which a cosine takes the actor's learning rate to 0, where it then stays. The authors use it offline
    over the whole run, and switch it off (None) for fine-tuning."""
    gradient_clip: float | None = None  # global norm, for each network

    SWITCHABLE: ClassVar[frozenset[str]] = frozenset(
        {"expectile", "inverse_temperature", "weight_maximum", "target_rate", "actor_learning_rate"}
        | {"critic_quantile", "critic_huber", "target_minimum", "target_maximum", "updated_value", "actor_loss"}
        | {"critic_learning_rate", "value_learning_rate", "actor_schedule_steps", "gradient_clip"}
        | {"encoder_learning_rate"}
    )

    def __post_init__(self) -> None:
        require_choice(self.log_std, LOG_STD_KINDS, "iql log_std")
        require_choice(self.initialization, INITIALIZATIONS, "iql initialization")
        require_range(self.expectile, 0.001, 0.999, "iql expectile")
        require_range(self.actor_dropout, 0, 0.99, "iql actor_dropout")
        require_range(self.target_rate, 0, 1, "iql target_rate")
        require_range(self.critic_count, 1, 10_000, "iql critic_count")
        require_range(self.inverse_temperature, 0, 1e8, "iql inverse_temperature")
        require_range(self.weight_maximum, 1e-8, float("inf"), "iql weight_maximum")
        require_choice(self.actor_loss, ("likelihood", "squared_error"), "iql actor_loss")
        if self.critic_quantile is not None:
            require_range(self.critic_quantile, 0, 1, "iql critic_quantile")
        if self.critic_huber is not None:
            require_range(self.critic_huber, 1e-6, 1e6, "iql critic_huber")
            if self.critic_head.kind != "scalar":
                raise InputError("iql critic_huber is an error of values: give null with another critic_head")
        if self.target_minimum is not None and self.target_maximum is not None:
            require_range(self.target_minimum, -float("inf"), self.target_maximum, "iql target_minimum")
        require_numbers(self, "iql")
        if self.actor_schedule_steps is not None:
            require_range(self.actor_schedule_steps, 1, 10**12, "iql actor_schedule_steps")


# Losses ---------------------------------------------------------------------------------------------------------------
# L_V is functional.implicit.value_loss.
def critic_loss(
    raw: Tensor,
    reward: Tensor,
    discount: Tensor,
    next_v: Tensor,
    *,
    head: CriticHead = SCALAR,
    huber: float | None = None,
    target_minimum: float | None = None,
    target_maximum: float | None = None,
) -> Tensor:
    """L_Q: mean of (y - Q_i)^2, summed over critics; RIQL: of huber(y - Q_i), with y cut to the bounds.

    Other heads than the scalar one have an error of their own. y = r + discount * V(s') takes no gradient.
    Shapes: (E, B, Z), (B,)... -> ().
    """
    target = bounded(td_target(reward, discount, next_v), target_minimum, target_maximum).detach()
    return (head.error(raw, target) if huber is None else huber_td_error(head.q(raw), target, huber)).sum()


def actor_loss(log_prob: Tensor, advantage: Tensor, inverse_temperature: float, weight_maximum: float) -> Tensor:
    """L_pi: -mean of min(exp(inverse_temperature * advantage), weight_maximum) * log pi(a|s).

    `advantage` takes no gradient. Shapes: (B,), (B,) -> ().
    """
    if log_prob.ndim != 1 or advantage.shape != log_prob.shape:
        raise ValueError(f"expected (B,) twice, found {tuple(log_prob.shape)} and {tuple(advantage.shape)}")
    weight = (inverse_temperature * advantage.detach()).exp().clamp(max=weight_maximum)
    return -(weight * log_prob).mean()


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class IQL:
    """Everything that a checkpoint holds."""

    config: IQLConfig
    encoder: FlatEncoder | PixelEncoder
    actor: GaussianActor
    critic: Ensemble
    target_critic: Ensemble
    value_network: MLP
    optimizers: dict[str, Optimizer]  # actor, critic, value_network, and of images encoder
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """One gradient step each on V, the policy and Q, then a Polyak step on the target, per chunk of rows."""
        parts = list(chunks(batch, critic_updates))
        metrics: Metrics = {}
        for rows, seen in zip(parts, self.encoder.views(batch, parts, self.generator), strict=True):
            metrics = self._step(seen, batch.action[rows], batch.reward[rows], batch.discount[rows])
        return metrics

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The mean of the policy, or a sample, cut to [-1, 1]. Shapes: each (B, *) -> (B, A)."""
        with torch.no_grad():
            mean, log_std = self.actor(self.encoder.for_actor(observation))
            action = gaussian.sample(mean, log_std, self.generator) if explore else mean
            return action.clamp(-1, 1)

    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Mean of the online critics. Shapes: each (B, *), (B, A) -> (B,)."""
        return self.critic.mean(self.encoder(observation), action)

    def _step(self, seen: Seen, recorded: Tensor, reward: Tensor, discount: Tensor) -> Metrics:
        config, clip = self.config, self.config.gradient_clip
        features, next_features, action = seen.critic, seen.each(seen.next_critic), seen.each(recorded)
        with torch.no_grad():
            q_target = self.target_critic(features, action)  # (E, B)
            level = config.critic_quantile
            q_target = q_target.amin(dim=0) if level is None else head_quantile(q_target, level)  # (B,)
        before = None if config.updated_value else self._values(features, next_features)

        v_loss = value_loss(q_target, self.value_network(features)[:, 0], config.expectile)
        rate = config.value_learning_rate
        descend(self.optimizers["value_network"], v_loss, learning_rate=rate, gradient_clip=clip)
        v, next_v = self._values(features, next_features) if before is None else before

        mean, log_std = self.actor(seen.actor, self.generator)
        log_prob, advantage = gaussian.log_prob(mean, log_std, recorded), seen.first(q_target - v)
        # The squared error is the likelihood of a Gaussian of variance 1/2, up to a constant.
        fit = log_prob if config.actor_loss == "likelihood" else -(mean - recorded).square().sum(dim=1)
        pi_loss = actor_loss(fit, advantage, config.inverse_temperature, config.weight_maximum)
        steps = config.actor_schedule_steps
        rate = config.actor_learning_rate * (1.0 if steps is None else cosine_then_hold(self.updates, steps))
        descend(self.optimizers["actor"], pi_loss, learning_rate=rate, gradient_clip=clip)

        head, raw = self.critic.head, self.critic.raw(features, action)  # (E, B, Z)
        q_loss = critic_loss(
            raw,
            seen.each(reward),
            seen.each(discount),
            next_v,
            head=head,
            huber=config.critic_huber,
            target_minimum=config.target_minimum,
            target_maximum=config.target_maximum,
        )
        rate = config.critic_learning_rate
        descend(self.optimizers["critic"], q_loss, learning_rate=rate, gradient_clip=clip)
        polyak_update(self.target_critic, self.critic, config.target_rate)
        descend_encoder(self.optimizers, [seen], learning_rate=config.encoder_learning_rate, gradient_clip=clip)
        self.updates += 1
        return {
            "value/loss": v_loss.detach(),
            "value/v": v.mean(),
            "critic/td_loss": q_loss.detach(),
            "critic/q": head.q(raw.detach()).mean(),
            "actor/loss": pi_loss.detach(),
            "actor/advantage": advantage.mean(),
            "actor/log_prob": log_prob.detach().mean(),
            **head.metrics(td_target(seen.each(reward), seen.each(discount), next_v)),
        } | seen.metrics

    @torch.no_grad()
    def _values(self, features: Tensor, next_features: Tensor) -> tuple[Tensor, Tensor]:
        """V of both. Shapes: (B, F) twice -> (B,) twice."""
        v, next_v = self.value_network(torch.cat([features, next_features]))[:, 0].chunk(2)
        return v, next_v


def create(
    config: IQLConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> IQL:
    """Networks from the spec's shapes; the target starts as a copy and takes no gradient."""
    encoder = observation_encoder(config.pixels, spec, statistics, seeds.torch("encoder")).to(device)
    (action_size,) = spec.action.shape
    actor = gaussian_actor(
        config,
        encoder.features,
        action_size,
        seeds,
        device,
        dropout=config.actor_dropout,
        bounded_mean=config.bounded_mean,
    )
    critic = critic_ensemble(config, encoder.features, action_size, seeds, device, head=config.critic_head)
    value = value_network(config, encoder.features, seeds, device)
    return IQL(
        config=config,
        encoder=encoder,
        actor=actor,
        critic=critic,
        target_critic=deepcopy(critic).requires_grad_(False),
        value_network=value,
        optimizers={
            "actor": adam(actor, config.actor_learning_rate),
            "critic": adam(critic, config.critic_learning_rate),
            "value_network": adam(value, config.value_learning_rate),
            **encoder_adam(encoder, config.encoder_learning_rate),
        },
        generator=seeds.torch("agent", device=device),
    )
