"""Soft actor-critic against an adversary of bounded rationality, or wary of the worse part of its returns.

Reddi et al. "Robust Adversarial Reinforcement Learning via Bounded Rationality Curricula". ICLR 2024, arXiv:2311.01642
(QARL): the last actions of the environment are forces that an adversary chooses; its temperature falls from random to
rational.
Dabney et al. "Distributional Reinforcement Learning with Quantile Regression". AAAI 2018, arXiv:1710.10044, with CVaR
in the actor as in Shi et al. "Robust Quadrupedal Locomotion via Risk-Averse Policy Learning". ICRA 2024 (risk).
Haarnoja et al. "Soft Actor-Critic Algorithms and Applications". arXiv:1812.05905 (both off).

Differences from the papers:
- QARL's players have critics of their own; the game is one of zero sum, so here they share them, seen from two sides.
- QARL's automatic curricula are not here: the temperature falls on a straight line (its linear curriculum).
- The adversary's temperature is given, not tuned; the protagonist's is tuned as in SAC.
- Risk is of the return alone, not of the entropy that SAC adds to it.

Letters: B batch, E critics, N candidates, Z quantiles, A action of the protagonist, F forces of the adversary.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from robot_rl.algorithms.agent import chosen_action, chunks, require_numbers
from robot_rl.checks import require_choice, require_range
from robot_rl.errors import InputError
from robot_rl.functional import tanh_gaussian
from robot_rl.functional.bellman import td_target
from robot_rl.functional.entropy import actor_loss, temperature_loss
from robot_rl.functional.game import game_value, rival_loss
from robot_rl.functional.polyak import polyak_update
from robot_rl.functional.risk import conditional_value_at_risk
from robot_rl.functional.schedule import between
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

CANDIDATES = 0
"""Seed of the candidates' noise: who does not explore does the same in the same state."""


@dataclass(kw_only=True)
class RobustSACConfig:
    """SAC as in `sac.yaml`; recipes with an adversary and with risk are in `configs/algorithm/`."""

    actor_hidden: list[int] = field(default_factory=lambda: [256, 256])
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256])
    actor_layer_norm: bool = False
    critic_layer_norm: bool = False
    log_std: str = "state_dependent"  # state_dependent | state_independent | affine
    log_std_minimum: float = -20.0
    log_std_maximum: float = 2.0
    initialization: str = "orthogonal"  # orthogonal | uniform | xavier_uniform
    hidden_gain: float = 1.4142135623730951
    last_hidden_gain: float | None = None  # None is `hidden_gain`
    output_gain: float = 0.01
    critic_count: int = 2
    critic_head: CriticHeadConfig = field(default_factory=CriticHeadConfig)  # quantile where risk is judged
    critic_learning_rate: float = 3e-4
    target_rate: float = 0.005
    actor_learning_rate: float = 3e-4
    target_entropy_per_dimension: float = -1.0  # of the protagonist
    initial_temperature: float = 1.0
    temperature_learning_rate: float = 3e-4
    gradient_clip: float | None = None  # global norm, for each network

    # Risk
    risk_level: float = 1.0
    """Share of the returns, the worst, whose mean policies go by (CVaR); 1 is the mean of all. Below 1 it needs
    critic_head.kind=quantile. It may be changed at any time, also when a policy is evaluated."""
    risk_candidates: int = 1
    """Where nothing is explored: of so many, the mode and samples, the one of the highest CVaR; 1 is the mode."""

    # Adversary
    adversary_size: int = 0
    """F, so many of the last actions are forces of an adversary (`environment.adversary`); 0: there is none."""
    adversary_temperature: float = 1.0  # at the beginning: a high one pushes at random
    adversary_temperature_end: float = 0.01  # a low one pushes where it hurts
    adversary_curriculum: int = 100_000  # critic updates from the one to the other
    adversary_learning_rate: float = 3e-4

    FIXED: ClassVar[frozenset[str]] = frozenset(
        {"actor_hidden", "critic_hidden", "actor_layer_norm", "critic_layer_norm", "log_std", "log_std_minimum"}
        | {"log_std_maximum", "initialization", "hidden_gain", "last_hidden_gain", "output_gain", "critic_count"}
        | {"critic_head", "initial_temperature", "adversary_size"}
    )
    SWITCHABLE: ClassVar[frozenset[str]]  # all others; below

    def __post_init__(self) -> None:
        require_choice(self.log_std, LOG_STD_KINDS, "robust_sac log_std")
        require_choice(self.initialization, INITIALIZATIONS, "robust_sac initialization")
        require_range(self.critic_count, 1, 10_000, "robust_sac critic_count")
        require_range(self.risk_candidates, 1, 10_000, "robust_sac risk_candidates")
        require_range(self.risk_level, 1e-3, 1.0, "robust_sac risk_level")
        require_range(self.target_rate, 0, 1, "robust_sac target_rate")
        require_range(self.initial_temperature, 1e-8, 1e8, "robust_sac initial_temperature")
        require_range(self.target_entropy_per_dimension, -1e3, 1e3, "robust_sac target_entropy_per_dimension")
        require_range(self.adversary_size, 0, 1000, "robust_sac adversary_size")
        for name in ("adversary_temperature", "adversary_temperature_end"):
            require_range(getattr(self, name), 0, 1e8, f"robust_sac {name}")
        require_range(self.adversary_curriculum, 1, 1_000_000_000, "robust_sac adversary_curriculum")
        if self.risk_level < 1 and self.critic_head.kind != "quantile":
            raise InputError(
                f"robust_sac risk_level={self.risk_level} asks for the worse part of the returns, of which critics "
                f"with critic_head.kind={self.critic_head.kind} say nothing: set critic_head.kind=quantile, or "
                "risk_level=1"
            )
        require_numbers(self, "robust_sac")


RobustSACConfig.SWITCHABLE = frozenset(item.name for item in fields(RobustSACConfig)) - RobustSACConfig.FIXED


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class RobustSAC:
    """Everything that a checkpoint holds."""

    config: RobustSACConfig
    action_size: int  # of the protagonist
    encoder: FlatEncoder
    actor: GaussianActor
    adversary: GaussianActor | None
    critic: Ensemble
    target_critic: Ensemble
    temperature: Scalar
    optimizers: dict[str, Optimizer]  # actor, critic, temperature, and adversary where there is one
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Nothing but transitions."""
        return frozenset()

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """Critics and targets once per chunk of rows, then both players and the temperature once."""
        parts = list(chunks(batch, critic_updates))
        features, next_features = self.encoder.both(batch)
        metrics: Metrics = {}
        for rows in parts:
            metrics |= self._update_critic(batch, features[rows], next_features[rows], rows)
        return metrics | self._update_players(features)

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """Both players' samples to explore; else the protagonist's choice, and no force.

        Shapes: each (B, *) -> (B, A + F).
        """
        with torch.no_grad():
            features = self.encoder(observation)
            if explore:
                return torch.cat(self._play(features)[:2], dim=1)
            mean, log_std = self.actor(features)
            chosen = tanh_gaussian.mode(mean)
            if self.config.risk_candidates > 1:
                shape = (len(mean), self.config.risk_candidates - 1, self.action_size)
                noise = torch.Generator(device=mean.device).manual_seed(CANDIDATES)  # the same for every state
                drawn, _ = tanh_gaussian.sample(mean[:, None].expand(shape), log_std[:, None].expand(shape), noise)
                candidates = torch.cat([chosen[:, None], drawn], dim=1)  # (B, N, A)
                judged = self._judged(self.critic.raw(features, self._without_force(candidates)))  # (E, B, N)
                chosen = chosen_action(candidates, judged.amin(dim=0).argmax(dim=1))
            return self._without_force(chosen)

    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Mean of the online critics. Shapes: each (B, *), (B, A + F) -> (B,)."""
        return self.critic.mean(self.encoder(observation), action)

    def _without_force(self, action: Tensor) -> Tensor:
        """Shapes: (*, A) -> (*, A + F)."""
        return torch.cat([action, action.new_zeros(*action.shape[:-1], self.config.adversary_size)], dim=-1)

    def _judged(self, raw: Tensor) -> Tensor:
        """What policies go by: the mean of the returns, or of the worse part of them. Shapes: (*, Z) -> (*)."""
        if self.config.risk_level == 1:
            return self.critic.head.q(raw)
        return conditional_value_at_risk(raw, self.config.risk_level)

    def _rival_temperature(self) -> float | Tensor:
        config = self.config
        temperature: float | Tensor = between(
            self.updates, config.adversary_temperature, config.adversary_temperature_end, 0, config.adversary_curriculum
        )
        return temperature

    def _play(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Both players' samples, and their log probabilities. Shapes: -> (B, A), (B, F), (B,), (B,)."""
        mean, log_std = self.actor(features)
        action, log_prob = tanh_gaussian.sample(mean, log_std, self.generator)
        if self.adversary is None:
            return action, action.new_zeros(len(action), 0), log_prob, None
        mean, log_std = self.adversary(features)
        force, rival_log_prob = tanh_gaussian.sample(mean, log_std, self.generator)
        return action, force, log_prob, rival_log_prob

    def _update_critic(self, batch: Batch, features: Tensor, next_features: Tensor, rows: slice) -> Metrics:
        config, head = self.config, self.critic.head
        with torch.no_grad():
            own, force, log_prob, rival_log_prob = self._play(next_features)
            next_raw = self.target_critic.raw(next_features, torch.cat([own, force], dim=1))  # (E, B, Z)
            next_q = head.q(next_raw).amin(dim=0)
            if rival_log_prob is None:
                next_v = next_q - self.temperature() * log_prob
            else:
                rival = self._rival_temperature()
                next_v = game_value(next_q, log_prob, self.temperature(), rival_log_prob, rival)
            target = td_target(batch.reward[rows], batch.discount[rows], next_v)
            spread = head.spread(next_raw, batch.discount[rows], "min")
        raw = self.critic.raw(features, batch.action[rows])
        loss = head.error(raw, target, spread).sum()
        descend(
            self.optimizers["critic"],
            loss,
            learning_rate=config.critic_learning_rate,
            gradient_clip=config.gradient_clip,
        )
        polyak_update(self.target_critic, self.critic, config.target_rate)
        self.updates += 1
        q = head.q(raw.detach())
        metrics = {"critic/td_loss": loss.detach(), "critic/q": q.mean(), "critic/target": target.mean()}
        return metrics | head.metrics(target)

    def _update_players(self, features: Tensor) -> Metrics:
        """One step of the protagonist, its temperature, and the adversary, each against the other as it was."""
        config, clip = self.config, self.config.gradient_clip
        own, force, log_prob, rival_log_prob = self._play(features)
        with held(self.critic):
            judged = self._judged(self.critic.raw(features, torch.cat([own, force.detach()], dim=1)))
            loss = actor_loss(judged, log_prob, self.temperature().detach(), reduction="min")
            metrics = {"actor/loss": loss.detach(), "actor/entropy": -log_prob.detach().mean()}
            if rival_log_prob is not None:
                q = self.critic(features, torch.cat([own.detach(), force], dim=1))
                against = rival_loss(q, rival_log_prob, self._rival_temperature())
                metrics["adversary/loss"] = against.detach()
                metrics["adversary/entropy"] = -rival_log_prob.detach().mean()
                metrics["adversary/force"] = force.detach().square().mean().sqrt()
                rate = config.adversary_learning_rate
                descend(self.optimizers["adversary"], against, learning_rate=rate, gradient_clip=clip)
            descend(self.optimizers["actor"], loss, learning_rate=config.actor_learning_rate, gradient_clip=clip)
        temperature = self.temperature()
        change = temperature_loss(temperature, log_prob, config.target_entropy_per_dimension * self.action_size)
        rate = config.temperature_learning_rate
        descend(self.optimizers["temperature"], change, learning_rate=rate, gradient_clip=clip)
        return metrics | {"actor/temperature": temperature.detach()}


def create(
    config: RobustSACConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> RobustSAC:
    """Networks from the spec's shapes; the target starts as a copy and takes no gradient.

    Raises:
        InputError: the environment's actions leave none for the protagonist, or come in chunks.
    """
    (size,) = spec.action.shape
    own = size - config.adversary_size
    if own < 1 or (config.adversary_size > 0 and spec.action_chunk > 1):
        raise InputError(
            f"algorithm.adversary_size={config.adversary_size}, but an action has {size} numbers in chunks of "
            f"{spec.action_chunk}: it is the number of forces of environment.adversary, 3 for each of its bodies, and "
            "actions come singly"
        )
    encoder = FlatEncoder(spec, statistics)
    actor = gaussian_actor(config, encoder.features, own, seeds, device)
    critic = critic_ensemble(config, encoder.features, size, seeds, device, head=config.critic_head)
    temperature = Scalar(config.initial_temperature, "exp").to(device)
    adversary, optimizers = None, {}
    if config.adversary_size > 0:
        adversary = gaussian_actor(
            config, encoder.features, config.adversary_size, Seeds(seeds.integer("adversary")), device
        )
        optimizers["adversary"] = adam(adversary, config.adversary_learning_rate)
    return RobustSAC(
        config=config,
        action_size=own,
        encoder=encoder.to(device),
        actor=actor,
        adversary=adversary,
        critic=critic,
        target_critic=deepcopy(critic).requires_grad_(False),
        temperature=temperature,
        optimizers={
            "actor": adam(actor, config.actor_learning_rate),
            "critic": adam(critic, config.critic_learning_rate),
            "temperature": adam(temperature, config.temperature_learning_rate),
            **optimizers,
        },
        generator=seeds.torch("agent", device=device),
    )
