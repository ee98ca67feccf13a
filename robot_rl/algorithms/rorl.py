"""Soft actor-critic on the minimum of many critics, with terms that make it robust: SAC-N, EDAC, RORL, RO2O.

An et al. "Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble". NeurIPS 2021,
arXiv:2110.01548 (SAC-N, EDAC).
Yang et al. "RORL: Robust Offline Reinforcement Learning via Conservative Smoothing". NeurIPS 2022, arXiv:2206.02829.
Wen et al. "Towards Robust Offline-to-Online Reinforcement Learning via Uncertainty and Smoothness". JAIR 2024,
arXiv:2309.16973 (RO2O).

All of them are this agent under different settings (`configs/algorithm/`). RO2O's released online scripts compute its
terms and do not add them: online it is SAC with ten critics, which is what its recipe says.

Differences from the public code, beside those that are settings below: states are perturbed after normalisation, where
a radius means the same in every channel, and each state by draws of its own (RORL and RO2O draw once for a batch); the
order of updates is critics, actor, temperature, as everywhere here (EDAC takes the reverse order).

Letters: B batch, E critics, N perturbed states, A action, F features.
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
from robot_rl.functional import tanh_gaussian
from robot_rl.functional.bellman import td_target
from robot_rl.functional.entropy import actor_loss, temperature_loss
from robot_rl.functional.polyak import polyak_update
from robot_rl.functional.schedule import linear_then_hold
from robot_rl.functional.smoothing import (
    critic_smoothness,
    gradient_diversity,
    lower_bound,
    perturbed,
    policy_smoothness,
    uncertainty_penalty,
)
from robot_rl.networks.actor import LOG_STD_KINDS, GaussianActor
from robot_rl.networks.build import critic_ensemble, gaussian_actor
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import INITIALIZATIONS
from robot_rl.networks.optimize import adam, descend, held
from robot_rl.networks.scalar import Scalar
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics


@dataclass(kw_only=True)
class RORLConfig:
    """SAC-N with ten critics; recipes are in `configs/algorithm/`. Phases change what is `SWITCHABLE`."""

    # Networks
    actor_hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    actor_layer_norm: bool = False
    critic_layer_norm: bool = False
    critic_count: int = 10
    critic_head: CriticHeadConfig = field(default_factory=CriticHeadConfig)
    """What a critic's outputs mean: its value, or a distribution of returns (`docs/algorithms/heads.md`)."""
    log_std: str = "state_dependent"  # state_dependent | state_independent | affine
    log_std_minimum: float = -5.0
    log_std_maximum: float = 2.0
    initialization: str = "uniform"  # uniform | orthogonal | xavier_uniform
    hidden_gain: float = 1.0
    last_hidden_gain: float | None = None  # None is `hidden_gain`
    output_gain: float = 1.0

    # Critic
    critic_learning_rate: float = 3e-4
    target_rate: float = 0.005
    target_critics: str = "min"
    """`min`: all critics learn from the minimum over the targets; `own`: each from its own target (RO2O on AntMaze)."""
    backup_entropy: bool = True
    diversity_weight: float = 0.0  # EDAC's eta
    smoothness_weight: float = 0.0  # RORL, RO2O: 1e-4
    smoothness_radius: float = 0.01  # of perturbed states, in deviations of a channel
    smoothness_asymmetry: float = 0.2  # tau: what underestimation counts, overestimation 1 minus it
    uncertainty_weight: float = 0.0  # beta_ood: RORL 0.1 to 0.5
    uncertainty_radius: float = 0.01
    uncertainty_strength: float = 1.0  # kappa, at the first update
    uncertainty_strength_minimum: float = 0.1  # where its decay ends
    uncertainty_decay: float = 5e-7  # by how much it falls at each update
    perturbations: int = 20  # N, states drawn around each state

    # Actor and temperature
    actor_learning_rate: float = 3e-4
    actor_reduction: str = "min"  # over critics, in the actor's loss: min | lower_bound (one of RO2O's two on AntMaze)
    actor_lower_bound: float = 4.0  # deviations over critics below their mean, with it
    actor_smoothness_weight: float = 0.0  # beta_pi: RORL 0.1 to 1.0
    actor_smoothness_radius: float = 0.01
    actor_behaviour_cloning_weight: float = 0.0
    """RO2O's beta_bc on AntMaze: of the squared distance of the policy's sample to the recorded action, averaged over
    dimensions."""
    target_entropy_per_dimension: float = -1.0
    initial_temperature: float = 1.0
    temperature_learning_rate: float = 3e-4  # 0 keeps the temperature
    gradient_clip: float | None = None  # global norm, for each network

    SWITCHABLE: ClassVar[frozenset[str]] = frozenset(
        {"critic_learning_rate", "target_rate", "target_critics", "backup_entropy", "diversity_weight"}
        | {"smoothness_weight", "smoothness_radius", "smoothness_asymmetry", "uncertainty_weight", "perturbations"}
        | {"uncertainty_radius", "uncertainty_strength", "uncertainty_strength_minimum", "uncertainty_decay"}
        | {"actor_learning_rate", "actor_smoothness_weight", "actor_smoothness_radius", "gradient_clip"}
        | {"actor_reduction", "actor_lower_bound"}
        | {"actor_behaviour_cloning_weight", "target_entropy_per_dimension", "temperature_learning_rate"}
    )

    def __post_init__(self) -> None:
        require_choice(self.log_std, LOG_STD_KINDS, "rorl log_std")
        require_choice(self.initialization, INITIALIZATIONS, "rorl initialization")
        require_choice(self.target_critics, ("min", "own"), "rorl target_critics")
        require_choice(self.actor_reduction, ("min", "lower_bound"), "rorl actor_reduction")
        require_range(self.critic_count, 2, 10_000, "rorl critic_count")
        require_range(self.perturbations, 1, 10_000, "rorl perturbations")
        for name in ("diversity_weight", "smoothness_weight", "smoothness_radius", "uncertainty_weight"):
            require_range(getattr(self, name), 0, 1e8, f"rorl {name}")
        for name in ("uncertainty_radius", "uncertainty_strength", "uncertainty_strength_minimum", "uncertainty_decay"):
            require_range(getattr(self, name), 0, 1e8, f"rorl {name}")
        for name in ("actor_smoothness_weight", "actor_smoothness_radius", "actor_behaviour_cloning_weight"):
            require_range(getattr(self, name), 0, 1e8, f"rorl {name}")
        require_range(self.actor_lower_bound, 0, 1e8, "rorl actor_lower_bound")
        require_range(self.smoothness_asymmetry, 0, 1, "rorl smoothness_asymmetry")
        require_range(self.target_rate, 0, 1, "rorl target_rate")
        require_range(self.initial_temperature, 1e-8, 1e8, "rorl initial_temperature")
        require_range(self.target_entropy_per_dimension, -1e3, 1e3, "rorl target_entropy_per_dimension")
        require_numbers(self, "rorl")


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class RORL:
    """Everything that a checkpoint holds."""

    config: RORLConfig
    action_size: int
    encoder: FlatEncoder
    actor: GaussianActor
    critic: Ensemble
    target_critic: Ensemble
    temperature: Scalar
    optimizers: dict[str, Optimizer]  # actor, critic, temperature
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """Critics and targets once per chunk of rows, then actor and temperature once."""
        parts = list(chunks(batch, critic_updates))
        features, next_features = self.encoder.both(batch)
        metrics: Metrics = {}
        for rows in parts:
            metrics |= self._update_critic(batch, features[rows], next_features[rows], rows)
            self.updates += 1
        return metrics | self._update_actor(features, batch.action)

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The mode of the policy, or a sample. Shapes: each (B, *) -> (B, A)."""
        with torch.no_grad():
            mean, log_std = self.actor(self.encoder(observation))
            return tanh_gaussian.sample(mean, log_std, self.generator)[0] if explore else tanh_gaussian.mode(mean)

    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Mean of the online critics. Shapes: each (B, *), (B, A) -> (B,)."""
        return self.critic.mean(self.encoder(observation), action)

    def _update_critic(self, batch: Batch, features: Tensor, next_features: Tensor, rows: slice) -> Metrics:
        config, head = self.config, self.critic.head
        action, reward, discount = batch.action[rows], batch.reward[rows], batch.discount[rows]
        with torch.no_grad():
            next_mean, next_log_std = self.actor(next_features)
            next_action, log_prob = tanh_gaussian.sample(next_mean, next_log_std, self.generator)
            next_raw = self.target_critic.raw(next_features, next_action)  # (E, B, Z)
            next_v = head.q(next_raw)
            if config.target_critics == "min":
                next_v = next_v.amin(dim=0, keepdim=True)  # (1, B)
            if config.backup_entropy:
                next_v = next_v - self.temperature() * log_prob
            target = torch.stack([td_target(reward, discount, each) for each in next_v]).expand(len(next_raw), -1)
            spread = head.spread(next_raw, discount, config.target_critics)
        if config.diversity_weight > 0:
            action = action.clone().requires_grad_()
            raw = self.critic.apart(features, action)  # (E, B, Z)
        else:
            raw = self.critic.raw(features, action)
        q = head.q(raw)
        loss = head.error(raw, target, spread).sum()
        metrics = {
            "critic/td_loss": loss.detach(),
            "critic/q": q.detach().mean(),
            "critic/q_spread": q.detach().std(dim=0, correction=0).mean(),
            "critic/target": target.mean(),
        } | head.metrics(target)
        if config.diversity_weight > 0:
            gradients = [torch.autograd.grad(each.sum(), action, create_graph=True)[0] for each in q]
            diversity = gradient_diversity(torch.stack(gradients))
            loss, metrics["critic/diversity"] = loss + config.diversity_weight * diversity, diversity.detach()
        if config.smoothness_weight > 0:
            near = self._near(features, config.smoothness_radius)  # (B * N, F)
            around = self.critic(near, action.repeat_interleave(config.perturbations, dim=0))
            smoothness = critic_smoothness(around.unflatten(1, (len(action), -1)), q, config.smoothness_asymmetry)
            loss, metrics["critic/smoothness"] = loss + config.smoothness_weight * smoothness, smoothness.detach()
        if config.uncertainty_weight > 0:
            near = self._near(features, config.uncertainty_radius)
            with torch.no_grad():
                near_mean, near_log_std = self.actor(near)
                elsewhere, _ = tanh_gaussian.sample(near_mean, near_log_std, self.generator)
            uncertainty = uncertainty_penalty(self.critic(near, elsewhere), self._strength)
            loss, metrics["critic/uncertainty"] = loss + config.uncertainty_weight * uncertainty, uncertainty.detach()
        self._descend("critic", loss, config.critic_learning_rate)
        polyak_update(self.target_critic, self.critic, config.target_rate)
        return metrics

    def _update_actor(self, features: Tensor, recorded: Tensor) -> Metrics:
        config = self.config
        mean, log_std = self.actor(features)
        action, log_prob = tanh_gaussian.sample(mean, log_std, self.generator)
        with held(self.critic):
            q = self.critic(features, action)  # (E, B)
        if config.actor_reduction == "lower_bound":
            q = lower_bound(q, config.actor_lower_bound).unsqueeze(0)
        loss = actor_loss(q, log_prob, self.temperature().detach(), reduction="min")
        metrics = {"actor/loss": loss.detach(), "actor/entropy": -log_prob.detach().mean()}
        if config.actor_smoothness_weight > 0:
            around = self.actor(self._near(features, config.actor_smoothness_radius))
            near_mean, near_log_std = (each.unflatten(0, (len(features), -1)) for each in around)  # (B, N, A)
            smoothness = policy_smoothness(mean, log_std, near_mean, near_log_std)
            loss, metrics["actor/smoothness"] = loss + config.actor_smoothness_weight * smoothness, smoothness.detach()
        if config.actor_behaviour_cloning_weight > 0:
            cloning = (action - recorded).square().mean()
            loss, metrics["actor/cloning"] = loss + config.actor_behaviour_cloning_weight * cloning, cloning.detach()
        self._descend("actor", loss, config.actor_learning_rate)
        temperature = self.temperature()
        wanted = config.target_entropy_per_dimension * self.action_size
        change = temperature_loss(temperature, log_prob, wanted, factor="logarithm")  # as all four public codes
        self._descend("temperature", change, config.temperature_learning_rate)
        return metrics | {"actor/temperature": temperature.detach()}

    @property
    def _strength(self) -> float | Tensor:
        """What the critics' disagreement counts, linearly falling."""
        strength, slope = self.config.uncertainty_strength, self.config.uncertainty_decay
        falling: float | Tensor = linear_then_hold(
            self.updates, strength, slope, self.config.uncertainty_strength_minimum
        )
        return falling

    def _near(self, features: Tensor, radius: float) -> Tensor:
        return perturbed(features, radius, self.config.perturbations, self.generator).flatten(0, 1)

    def _descend(self, name: str, loss: Tensor, rate: float) -> None:
        descend(self.optimizers[name], loss, learning_rate=rate, gradient_clip=self.config.gradient_clip)


def create(
    config: RORLConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> RORL:
    """Networks from the spec's shapes; the target starts as a copy and takes no gradient."""
    encoder = FlatEncoder(spec, statistics)
    (action_size,) = spec.action.shape
    actor = gaussian_actor(config, encoder.features, action_size, seeds, device)
    critic = critic_ensemble(config, encoder.features, action_size, seeds, device, head=config.critic_head)
    temperature = Scalar(config.initial_temperature, "exp").to(device)
    return RORL(
        config=config,
        action_size=action_size,
        encoder=encoder.to(device),
        actor=actor,
        critic=critic,
        target_critic=deepcopy(critic).requires_grad_(False),
        temperature=temperature,
        optimizers={
            "actor": adam(actor, config.actor_learning_rate),
            "critic": adam(critic, config.critic_learning_rate),
            "temperature": adam(temperature, config.temperature_learning_rate),
        },
        generator=seeds.torch("agent", device=device),
    )
