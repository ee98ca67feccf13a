"""Twin delayed deterministic policy gradients, with the terms that keep it near recorded actions.

Fujimoto, van Hoof, Meger. "Addressing Function Approximation Error in Actor-Critic Methods". ICML 2018,
arXiv:1802.09477 (TD3).
Fujimoto, Gu. "A Minimalist Approach to Offline Reinforcement Learning". NeurIPS 2021, arXiv:2106.06860 (TD3+BC).
Tarasov et al. "Revisiting the Minimalist Approach to Offline Reinforcement Learning". NeurIPS 2023, arXiv:2305.09836
(ReBRAC).
Kim et al. "Penalizing Infeasible Actions and Reward Scaling in Reinforcement Learning with Offline Data". ICML 2025,
arXiv:2507.08761 (PARS).

All of them are this agent under different settings (`configs/algorithm/`). The reward scale of PARS is
`replay.reward_scale`, the normalised states of TD3+BC are `normalize_observations`.

Differences from the public code, beside those that are settings below: critics are drawn and initialised here as for
every other agent of this project (biases start at 0; ReBRAC's hidden ones at 0.1, its outputs within 0.003); LayerNorm
comes before the ReLU (ReBRAC's in CORL eeeeef2 behind it); a transition whose next action is
not recorded, the last before a time limit, has no critic penalty, where ReBRAC's code takes one of the next episode.

Letters: B batch, E critics, K critics drawn at random, A action, F features.
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
from robot_rl.functional.bellman import td_target
from robot_rl.functional.ensemble import random_heads, reduce_heads
from robot_rl.functional.polyak import polyak_update
from robot_rl.functional.schedule import between, is_due
from robot_rl.networks.actor import DeterministicActor
from robot_rl.networks.build import critic_ensemble, initialization_of
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import INITIALIZATIONS
from robot_rl.networks.optimize import adam, descend, held
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics


@dataclass(kw_only=True)
class TD3Config:
    """TD3 with the authors' numbers; recipes are in `configs/algorithm/`. Phases change what is `SWITCHABLE`."""

    # Networks
    actor_hidden: list[int] = field(default_factory=lambda: [256, 256])
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256])
    actor_layer_norm: bool = False
    critic_layer_norm: bool = False  # ReBRAC, PARS: True
    initialization: str = "uniform"  # uniform (PyTorch's own) | orthogonal | xavier_uniform
    hidden_gain: float = 1.0
    last_hidden_gain: float | None = None  # None is `hidden_gain`
    output_gain: float = 1.0

    # Critic
    critic_count: int = 2
    critic_head: CriticHeadConfig = field(default_factory=CriticHeadConfig)
    """What a critic's outputs mean: its value, or a distribution of returns (`docs/algorithms/heads.md`)."""
    critic_subset: int | None = None  # critics drawn for the minimum in the target; None takes all
    critic_reduction: str = "sum"  # over critics, of the loss: sum | mean
    critic_learning_rate: float = 3e-4
    target_rate: float = 0.005
    target_updates: str = "actor"  # targets follow after each update of the actor (TD3, ReBRAC) | critic
    target_noise: float = 0.2  # deviation of the noise on the target policy's action
    target_noise_limit: float = 0.5
    critic_cloning_weight: float = 0.0
    """ReBRAC's beta_2: the value of the next action falls by this times its squared distance to the recorded one."""
    calibrated: bool = False  # no target below the Monte-Carlo return, an option of CORL's fine-tuning of ReBRAC
    infeasible_weight: float = 0.0  # PARS' alpha: pulls Q of actions far outside the bounds to `infeasible_value`
    infeasible_distance: float = 100.0  # such actions have components of magnitude in [this, twice this]
    infeasible_value: float = 0.0  # PARS' q_min: below every return

    # Actor
    actor_every: int = 2  # updates of the critic for one of the actor
    actor_learning_rate: float = 3e-4
    actor_reduction: str = "first"  # over critics, in the actor's loss: first (TD3) | min (ReBRAC, PARS) | mean
    actor_subset: int | None = None  # critics drawn for it; None takes all
    actor_value_weight: float = 1.0  # TD3+BC's alpha: 2.5
    actor_normalize_value: bool = False  # divide Q by the mean of |Q| in the batch
    actor_cloning_weight: float = 0.0  # TD3+BC 1, ReBRAC's beta_1, PARS' beta
    actor_cloning_reduction: str = "sum"  # over the dimensions of the action: mean (TD3+BC) | sum (ReBRAC)
    actor_cloning_final: float | None = None
    """Where `actor_cloning_weight` goes linearly, over `actor_cloning_decay_updates` from the run's update
    `actor_cloning_decay_start` on, and stays. None: nowhere. CORL's fine-tuning of ReBRAC: half of it."""
    actor_cloning_decay_start: int = 0
    actor_cloning_decay_updates: int = 1
    exploration_noise: float = 0.1  # deviation of the noise on exploring actions
    gradient_clip: float | None = None  # global norm, for each network

    SWITCHABLE: ClassVar[frozenset[str]] = frozenset(
        {"critic_subset", "critic_reduction", "critic_learning_rate", "target_rate", "target_updates", "target_noise"}
        | {"target_noise_limit", "critic_cloning_weight", "infeasible_weight", "infeasible_distance"}
        | {"infeasible_value", "actor_every", "actor_learning_rate", "actor_reduction", "actor_subset"}
        | {"actor_value_weight", "actor_normalize_value", "actor_cloning_weight", "actor_cloning_reduction"}
        | {"actor_cloning_final", "actor_cloning_decay_start", "actor_cloning_decay_updates", "calibrated"}
        | {"exploration_noise", "gradient_clip"}
    )

    def __post_init__(self) -> None:
        require_choice(self.initialization, INITIALIZATIONS, "td3 initialization")
        require_choice(self.critic_reduction, ("sum", "mean"), "td3 critic_reduction")
        require_choice(self.target_updates, ("actor", "critic"), "td3 target_updates")
        require_choice(self.actor_reduction, ("first", "min", "mean"), "td3 actor_reduction")
        require_choice(self.actor_cloning_reduction, ("mean", "sum"), "td3 actor_cloning_reduction")
        for name in ("critic_count", "actor_every"):
            require_range(getattr(self, name), 1, 10_000, f"td3 {name}")
        for name in ("critic_subset", "actor_subset"):
            if getattr(self, name) is not None:
                require_range(getattr(self, name), 1, self.critic_count, f"td3 {name}")
        for name in ("target_noise", "target_noise_limit", "critic_cloning_weight", "infeasible_weight"):
            require_range(getattr(self, name), 0, 1e8, f"td3 {name}")
        for name in ("actor_value_weight", "actor_cloning_weight", "exploration_noise"):
            require_range(getattr(self, name), 0, 1e8, f"td3 {name}")
        if self.actor_cloning_final is not None:
            require_range(self.actor_cloning_final, 0, 1e8, "td3 actor_cloning_final")
        require_range(self.actor_cloning_decay_start, 0, 10**12, "td3 actor_cloning_decay_start")
        require_range(self.actor_cloning_decay_updates, 1, 10**12, "td3 actor_cloning_decay_updates")
        require_range(self.infeasible_distance, 1.0, 1e8, "td3 infeasible_distance")
        if self.infeasible_weight > 0 and not self.critic_head.holds(self.infeasible_value):
            raise InputError(f"td3 infeasible_value={self.infeasible_value} must lie in the range of critic_head")
        require_range(self.target_rate, 0, 1, "td3 target_rate")
        require_numbers(self, "td3")


# Losses ---------------------------------------------------------------------------------------------------------------
def smoothed(action: Tensor, noise: Tensor, limit: float) -> Tensor:
    """clip(a + clip(noise, -limit, limit), -1, 1): target policy smoothing, TD3's equation 14. Shapes: (B, A) each."""
    return (action + noise.clamp(-limit, limit)).clamp(-1, 1)


def cloning_distance(action: Tensor, recorded: Tensor, *, reduction: str) -> Tensor:
    """Squared distance to the recorded action, summed or averaged over dimensions. Shapes: (B, A) each -> (B,)."""
    squared = (action - recorded).square()
    return squared.sum(dim=1) if reduction == "sum" else squared.mean(dim=1)


def actor_loss(
    q: Tensor, cloning: Tensor, *, value_weight: float, cloning_weight: float | Tensor, normalize: bool
) -> Tensor:
    """mean(cloning_weight * cloning - lambda * Q), lambda = value_weight, over mean |Q| if normalised.

    TD3+BC's equations 3 and 5. Shapes: (B,), (B,) -> ().
    """
    scale = q.abs().mean().detach().clamp(min=1e-8) if normalize else 1.0
    return (cloning_weight * cloning - value_weight * q / scale).mean()


def infeasible_actions(uniform: Tensor, distance: float) -> Tensor:
    """c sign(u) (1 + |u|) for u uniform in [-1, 1]: components of magnitude in [c, 2 c]. Shapes: (B, A) -> (B, A)."""
    sign = torch.where(uniform < 0, -1.0, 1.0)
    return distance * sign * (1 + uniform.abs())


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class TD3:
    """Everything that a checkpoint holds."""

    config: TD3Config
    encoder: FlatEncoder
    actor: DeterministicActor
    target_actor: DeterministicActor
    critic: Ensemble
    target_critic: Ensemble
    optimizers: dict[str, Optimizer]  # actor, critic
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """The recorded next action, for ReBRAC's critic penalty; the Monte-Carlo return, to calibrate."""
        cloning, calibrated = self.config.critic_cloning_weight > 0, self.config.calibrated
        return frozenset({"next_action"} if cloning else ()) | frozenset({"monte_carlo_return"} if calibrated else ())

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """The critics once per chunk of rows; the actor, on the same rows, after every `actor_every` of them."""
        if "next_action" in self.needs and batch.next_action is None:
            raise InputError(
                "critic_cloning_weight needs the recorded next actions, and this batch has none: set "
                "algorithm.critic_cloning_weight=0.0 in phases whose sources cannot give them"
            )
        if "monte_carlo_return" in self.needs and batch.monte_carlo_return is None:
            raise InputError(
                "calibrated needs Monte-Carlo returns, and this batch has none: set algorithm.calibrated=false in "
                "phases whose sources cannot give them"
            )
        parts = list(chunks(batch, critic_updates))
        features, next_features = self.encoder.both(batch)
        metrics: Metrics = {}
        for rows in parts:
            metrics |= self._update_critic(batch, features, next_features, rows)
            self.updates += 1
            due = is_due(self.updates, self.config.actor_every)
            if due:
                metrics |= self._update_actor(features[rows], batch.action[rows])
            if due or self.config.target_updates == "critic":
                polyak_update(self.target_critic, self.critic, self.config.target_rate)
                polyak_update(self.target_actor, self.actor, self.config.target_rate)
        return metrics

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The policy's action, with noise where it explores. Shapes: each (B, *) -> (B, A)."""
        with torch.no_grad():
            action: Tensor = self.actor(self.encoder(observation))
            if explore:
                action = (action + self.config.exploration_noise * self._noise(action)).clamp(-1, 1)
            return action

    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Mean of the online critics. Shapes: each (B, *), (B, A) -> (B,)."""
        return self.critic.mean(self.encoder(observation), action)

    def _update_critic(self, batch: Batch, features: Tensor, next_features: Tensor, rows: slice) -> Metrics:
        config, head = self.config, self.critic.head
        features, next_features, action = features[rows], next_features[rows], batch.action[rows]
        reward, discount = batch.reward[rows], batch.discount[rows]
        metrics: Metrics = {}
        with torch.no_grad():
            next_action = self.target_actor(next_features)  # (B, A)
            noise = config.target_noise * self._noise(next_action)
            next_action = smoothed(next_action, noise, config.target_noise_limit)
            heads = self._heads(config.critic_subset)
            next_raw = self.target_critic.raw(next_features, next_action, heads)  # (K, B, Z)
            next_v = head.q(next_raw).amin(dim=0)
            if batch.next_action is not None and config.critic_cloning_weight > 0:
                distance = cloning_distance(next_action, batch.next_action[rows], reduction="sum")
                if batch.has_next_action is not None:
                    distance = torch.where(batch.has_next_action[rows], distance, 0.0)
                next_v = next_v - config.critic_cloning_weight * distance
                metrics["critic/cloning"] = distance.mean()
            target = td_target(reward, discount, next_v)
            if config.calibrated and batch.monte_carlo_return is not None:
                target = torch.maximum(target, batch.monte_carlo_return[rows])
            spread = head.spread(next_raw, discount, "min")
        raw = self.critic.raw(features, action)  # (E, B, Z)
        errors = head.error(raw, target, spread)  # (E,)
        if config.infeasible_weight > 0:
            uniform = torch.rand(action.shape, generator=self.generator, device=action.device) * 2 - 1
            outside = self.critic.raw(features, infeasible_actions(uniform, config.infeasible_distance))  # (E, B, Z)
            penalty = head.error(outside, torch.full_like(target, config.infeasible_value))  # (E,)
            errors = errors + config.infeasible_weight * penalty
            metrics["critic/infeasible"] = head.q(outside.detach()).mean()
        loss = errors.mean() if config.critic_reduction == "mean" else errors.sum()
        self._descend("critic", loss, config.critic_learning_rate)
        q = head.q(raw.detach())  # (E, B)
        metrics |= head.metrics(target)
        return metrics | {
            "critic/td_loss": loss.detach(),
            "critic/q": q.mean(),
            "critic/q_spread": q.std(dim=0, correction=0).mean(),
            "critic/target": target.mean(),
        }

    def _update_actor(self, features: Tensor, recorded: Tensor) -> Metrics:
        config = self.config
        action = self.actor(features)  # (B, A)
        first = config.actor_reduction == "first"
        heads = self._first if first else self._heads(config.actor_subset)
        with held(self.critic):
            q = reduce_heads(self.critic(features, action, heads), "mean" if first else config.actor_reduction)
        cloning = cloning_distance(action, recorded, reduction=config.actor_cloning_reduction)
        loss = actor_loss(
            q,
            cloning,
            value_weight=config.actor_value_weight,
            cloning_weight=self._cloning_weight,
            normalize=config.actor_normalize_value,
        )
        self._descend("actor", loss, config.actor_learning_rate)
        return {"actor/loss": loss.detach(), "actor/cloning": cloning.detach().mean(), "actor/q": q.detach().mean()}

    @property
    def _cloning_weight(self) -> float | Tensor:
        config = self.config
        if config.actor_cloning_final is None:
            return config.actor_cloning_weight
        ends = config.actor_cloning_weight, config.actor_cloning_final
        steps = config.actor_cloning_decay_start, config.actor_cloning_decay_updates
        weight: float | Tensor = between(self.updates, *ends, *steps)
        return weight

    def _noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)

    def _heads(self, subset: int | None) -> Tensor | None:
        if subset is None:
            return None
        return random_heads(self.critic.count, subset, with_replacement=False, generator=self.generator)

    def _descend(self, name: str, loss: Tensor, rate: float) -> None:
        descend(self.optimizers[name], loss, learning_rate=rate, gradient_clip=self.config.gradient_clip)

    @property
    def _first(self) -> Tensor:
        return torch.zeros(1, dtype=torch.int64, device=self.generator.device)


def create(
    config: TD3Config,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> TD3:
    """Networks from the spec's shapes; the targets start as copies and take no gradient."""
    encoder = FlatEncoder(spec, statistics)
    (action_size,) = spec.action.shape
    actor = DeterministicActor(
        encoder.features,
        action_size,
        config.actor_hidden,
        layer_norm=config.actor_layer_norm,
        initialization=initialization_of(config),
        generator=seeds.torch("actor"),
    ).to(device)
    critic = critic_ensemble(config, encoder.features, action_size, seeds, device, head=config.critic_head)
    return TD3(
        config=config,
        encoder=encoder.to(device),
        actor=actor,
        target_actor=deepcopy(actor).requires_grad_(False),
        critic=critic,
        target_critic=deepcopy(critic).requires_grad_(False),
        optimizers={
            "actor": adam(actor, config.actor_learning_rate),
            "critic": adam(critic, config.critic_learning_rate),
        },
        generator=seeds.torch("agent", device=device),
    )
