"""Advantage-weighted actor-critic (AWAC).

Nair, Gupta, Dalal, Levine. "AWAC: Accelerating Online Reinforcement Learning with Offline Datasets". arXiv:2006.09359.

The critics judge what the policy does, as in SAC without entropy; the policy clones recorded actions with weight
exp(advantage / temperature). The same update serves the offline and the online phase.

Where the two public versions disagree (github rail-berkeley/rlkit, `examples/awac/hand/awac1.py`; corl-team/CORL
eeeeef2) there are settings: `weight_normalization`, `weight_maximum`, `advantage_maximum`, `value_action` and
`bounded_mean`. The actor clones against the critics just updated, as in CORL; rlkit takes all losses before any step.
Samples are cut to the bounds, as in CORL. `docs/algorithms/awac.md` has the rest.

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
from robot_rl.functional import gaussian
from robot_rl.functional.bellman import td_target
from robot_rl.functional.polyak import polyak_update
from robot_rl.networks.actor import LOG_STD_KINDS, GaussianActor
from robot_rl.networks.build import critic_ensemble, gaussian_actor
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import INITIALIZATIONS
from robot_rl.networks.optimize import adam, descend
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics


@dataclass(kw_only=True)
class AWACConfig:
    """CORL's numbers; those of rlkit for Adroit are in `configs/algorithm/awac.yaml`."""

    actor_hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    actor_layer_norm: bool = False
    critic_layer_norm: bool = False
    critic_count: int = 2
    critic_head: CriticHeadConfig = field(default_factory=CriticHeadConfig)
    """What a critic's outputs mean: its value, or a distribution of returns (`docs/algorithms/heads.md`)."""
    log_std: str = "state_independent"  # state_independent | state_dependent | affine
    log_std_minimum: float = -20.0
    log_std_maximum: float = 2.0
    bounded_mean: bool = False  # by tanh, as in rlkit; CORL: False
    initialization: str = "uniform"  # uniform | orthogonal | xavier_uniform
    hidden_gain: float = 1.0
    last_hidden_gain: float | None = None  # None is `hidden_gain`
    output_gain: float = 1.0

    temperature: float = 1.0  # lambda: the advantage is divided by it
    weight_normalization: str = "none"
    """`none`: exp(A / lambda), at most `weight_maximum` (CORL); `softmax`: over the batch, times its size (rlkit)."""
    weight_maximum: float = 100.0
    advantage_maximum: float | None = None  # the advantage is cut to it: rlkit's `clip_score`, 0.5 for Adroit
    value_action: str = "sample"
    """The action whose Q is V(s), the minimum over critics: a `sample` of the policy (CORL), its `mode` (rlkit)."""
    target_rate: float = 0.005
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    gradient_clip: float | None = None  # global norm, for each network

    SWITCHABLE: ClassVar[frozenset[str]] = frozenset(
        {"temperature", "weight_normalization", "weight_maximum", "advantage_maximum", "value_action"}
        | {"target_rate", "actor_learning_rate", "critic_learning_rate", "gradient_clip"}
    )

    def __post_init__(self) -> None:
        require_choice(self.log_std, LOG_STD_KINDS, "awac log_std")
        require_choice(self.initialization, INITIALIZATIONS, "awac initialization")
        require_choice(self.weight_normalization, ("none", "softmax"), "awac weight_normalization")
        require_choice(self.value_action, ("sample", "mode"), "awac value_action")
        require_range(self.temperature, 1e-8, 1e8, "awac temperature")
        require_range(self.weight_maximum, 1e-8, float("inf"), "awac weight_maximum")
        if self.advantage_maximum is not None:
            require_range(self.advantage_maximum, -1e8, 1e8, "awac advantage_maximum")
        require_range(self.target_rate, 0, 1, "awac target_rate")
        require_range(self.critic_count, 1, 10_000, "awac critic_count")
        require_numbers(self, "awac")


# Losses ---------------------------------------------------------------------------------------------------------------
def advantage_weight(
    advantage: Tensor,
    temperature: float,
    *,
    normalization: str,
    maximum: float,
    advantage_maximum: float | None = None,
) -> Tensor:
    """exp(A / temperature), cut at `maximum`, or its softmax over the batch times the batch's size. Shapes: (B,).

    Before, A is cut at `advantage_maximum`.
    """
    if advantage_maximum is not None:
        advantage = advantage.clamp(max=advantage_maximum)
    scaled = advantage / temperature
    if normalization == "softmax":
        return scaled.softmax(dim=0) * len(advantage)
    return scaled.exp().clamp(max=maximum)


def actor_loss(log_prob: Tensor, weight: Tensor) -> Tensor:
    """-mean of weight * log pi(a|s): equation 13. `weight` takes no gradient. Shapes: (B,), (B,) -> ()."""
    if log_prob.ndim != 1 or log_prob.shape != weight.shape:
        raise ValueError(f"expected (B,) twice, found {tuple(log_prob.shape)} and {tuple(weight.shape)}")
    return -(weight.detach() * log_prob).mean()


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class AWAC:
    """Everything that a checkpoint holds."""

    config: AWACConfig
    encoder: FlatEncoder
    actor: GaussianActor
    critic: Ensemble
    target_critic: Ensemble
    optimizers: dict[str, Optimizer]  # actor, critic
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """One gradient step each on the critics and the policy, per chunk of rows."""
        parts = list(chunks(batch, critic_updates))
        features, next_features = self.encoder.both(batch)
        metrics: Metrics = {}
        for rows in parts:
            metrics = self._update_critic(batch, features[rows], next_features[rows], rows)
            metrics |= self._update_actor(features[rows], batch.action[rows])
            self.updates += 1
        return metrics

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The mean of the policy, or a sample, cut to [-1, 1]. Shapes: each (B, *) -> (B, A)."""
        with torch.no_grad():
            features = self.encoder(observation)
            return self._sample(features) if explore else self.actor(features)[0].clamp(-1, 1)

    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Mean of the online critics. Shapes: each (B, *), (B, A) -> (B,)."""
        return self.critic.mean(self.encoder(observation), action)

    def _update_critic(self, batch: Batch, features: Tensor, next_features: Tensor, rows: slice) -> Metrics:
        config, head, discount = self.config, self.critic.head, batch.discount[rows]
        with torch.no_grad():
            next_raw = self.target_critic.raw(next_features, self._sample(next_features))  # (E, B, Z)
            target = td_target(batch.reward[rows], discount, head.q(next_raw).amin(dim=0))
            spread = head.spread(next_raw, discount, "min")
        raw = self.critic.raw(features, batch.action[rows])  # (E, B, Z)
        loss = head.error(raw, target, spread).sum()
        self._descend("critic", loss, config.critic_learning_rate)
        polyak_update(self.target_critic, self.critic, config.target_rate)
        metrics = {"critic/td_loss": loss.detach(), "critic/q": head.q(raw.detach()).mean()}
        return metrics | {"critic/target": target.mean()} | head.metrics(target)

    def _update_actor(self, features: Tensor, recorded: Tensor) -> Metrics:
        config = self.config
        with torch.no_grad():
            mode = config.value_action == "mode"
            own = self.actor(features)[0].clamp(-1, 1) if mode else self._sample(features)
            v = self.critic(features, own).amin(dim=0)
            advantage = self.critic(features, recorded).amin(dim=0) - v  # (B,)
            weight = advantage_weight(
                advantage,
                config.temperature,
                normalization=config.weight_normalization,
                maximum=config.weight_maximum,
                advantage_maximum=config.advantage_maximum,
            )
        mean, log_std = self.actor(features)
        log_prob = gaussian.log_prob(mean, log_std, recorded)
        loss = actor_loss(log_prob, weight)
        self._descend("actor", loss, config.actor_learning_rate)
        return {
            "actor/loss": loss.detach(),
            "actor/advantage": advantage.mean(),
            "actor/weight": weight.mean(),
            "actor/log_prob": log_prob.detach().mean(),
        }

    def _sample(self, features: Tensor) -> Tensor:
        mean, log_std = self.actor(features)
        return gaussian.sample(mean, log_std, self.generator).clamp(-1, 1)

    def _descend(self, name: str, loss: Tensor, rate: float) -> None:
        descend(self.optimizers[name], loss, learning_rate=rate, gradient_clip=self.config.gradient_clip)


def create(
    config: AWACConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> AWAC:
    """Networks from the spec's shapes; the target starts as a copy and takes no gradient."""
    encoder = FlatEncoder(spec, statistics)
    (action_size,) = spec.action.shape
    actor = gaussian_actor(config, encoder.features, action_size, seeds, device, bounded_mean=config.bounded_mean)
    critic = critic_ensemble(config, encoder.features, action_size, seeds, device, head=config.critic_head)
    return AWAC(
        config=config,
        encoder=encoder.to(device),
        actor=actor,
        critic=critic,
        target_critic=deepcopy(critic).requires_grad_(False),
        optimizers={
            "actor": adam(actor, config.actor_learning_rate),
            "critic": adam(critic, config.critic_learning_rate),
        },
        generator=seeds.torch("agent", device=device),
    )
