"""Soft actor-critic with critic ensembles and an optional conservative term.

Haarnoja et al. "Soft Actor-Critic Algorithms and Applications". arXiv:1812.05905 (SAC, tuned temperature).
Chen et al. "Randomized Ensembled Double Q-Learning". ICLR 2021, arXiv:2101.05982 (REDQ).
Ball et al. "Efficient Online Reinforcement Learning with Offline Data". ICML 2023, arXiv:2302.02948 (RLPD).
Kumar et al. "Conservative Q-Learning for Offline Reinforcement Learning". NeurIPS 2020, arXiv:2006.04779 (CQL).
Nakamoto et al. "Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online Fine-Tuning". NeurIPS 2023,
arXiv:2303.05479 (Cal-QL).
Zhou et al. "Efficient Online Reinforcement Learning Fine-Tuning Need Not Retain Offline Data". ICLR 2025,
arXiv:2412.07762 (WSRL).
Hiraoka et al. "Dropout Q-Functions for Doubly Efficient Reinforcement Learning". ICLR 2022, arXiv:2110.02034 (DroQ).
Yarats et al. "Image Augmentation Is All You Need". ICLR 2021, arXiv:2004.13649 (DrQ: images, `docs/pixels.md`).
Zhao et al. "ENOTO: Improving Offline-to-Online Reinforcement Learning with Q-Ensembles". IJCAI 2024, arXiv:2306.06871,
with the weights and the exploration of Lee et al. "SUNRISE". ICML 2021, arXiv:2007.04938.

All of them are this agent under different settings (`configs/algorithm/`), which is what makes the step from an offline
to an online phase a change of settings: WSRL drops the conservative term and keeps everything else.

Differences from the papers' public code, beside those that are settings below (commits in `docs/algorithms/`):
- critics share no weight; WSRL's ten share their output layer;
- with several critic updates the conservative multiplier moves at each of them, in WSRL once, with the actor.

Letters: B batch, E critics, K critics drawn at random, N sampled actions, A action, F features.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import functional_call
from torch.optim import Optimizer

from robot_rl.algorithms.agent import chosen_action, chunks, require_numbers
from robot_rl.checks import require_choice, require_range
from robot_rl.errors import InputError
from robot_rl.functional import tanh_gaussian
from robot_rl.functional.bellman import td_target
from robot_rl.functional.conservative import conservative_difference, lagrange_loss
from robot_rl.functional.ensemble import REDUCTIONS, disagreement_weight, random_heads, upper_bound
from robot_rl.functional.entropy import actor_loss, soft_value, temperature_loss
from robot_rl.functional.polyak import polyak_update
from robot_rl.networks.actor import LOG_STD_KINDS, GaussianActor
from robot_rl.networks.build import critic_ensemble, gaussian_actor
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import INITIALIZATIONS
from robot_rl.networks.optimize import adam, descend, descend_encoder, encoder_adam, held, step_with_zero_gradient
from robot_rl.networks.scalar import Scalar
from robot_rl.networks.seen import Seen, together
from robot_rl.networks.vision.observation import PixelEncoder, PixelsConfig, observation_encoder
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics


@dataclass(kw_only=True)
class SACConfig:
    """Two critics, no conservative term; recipes are in `configs/algorithm/`. Phases change what is `SWITCHABLE`."""

    # Networks
    pixels: PixelsConfig = field(default_factory=PixelsConfig)  # what is made of images, where there are any
    encoder_learning_rate: float = 3e-4  # of images; 0 freezes it
    actor_hidden: list[int] = field(default_factory=lambda: [256, 256])
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256])
    actor_layer_norm: bool = False
    critic_layer_norm: bool = False
    actor_dropout: float = 0.0  # in the actor's own updates; what keeps a cloning term from overfitting small data
    log_std: str = "state_dependent"  # state_dependent | state_independent | affine (Cal-QL)
    log_std_minimum: float = -20.0
    log_std_maximum: float = 2.0
    initialization: str = "orthogonal"  # orthogonal | uniform | xavier_uniform (RLPD and REDQ, with all gains 1)
    hidden_gain: float = 1.4142135623730951
    last_hidden_gain: float | None = None
    """None is `hidden_gain`; WSRL's small final gain, 0.01 (not for Kitchen), lands here, not on the output."""
    output_gain: float = 0.01  # Cal-QL; WSRL and CORL have sqrt(2)

    # Critic
    critic_count: int = 2
    critic_head: CriticHeadConfig = field(default_factory=CriticHeadConfig)
    """What a critic's outputs mean: its value, or a distribution of returns (`docs/algorithms/heads.md`)."""
    critic_subset: int | None = None
    """Critics drawn for the minimum in the target (REDQ's M); None takes all."""
    subset_with_replacement: bool = False
    """WSRL's code draws with replacement, so that a subset of 2 is one critic in a tenth of its updates."""
    target_reduction: str = "min"
    """Over the critics drawn, in the target: `min`, `mean`, or `weighted_min_pair`, the expected minimum of a random
    pair (ENOTO)."""
    critic_dropout: float = 0.0  # in every loss, but not in the conservative term (DroQ 0.01, with LayerNorm)
    disagreement_temperature: float = 0.0
    """0 is off; else a row's error counts sigmoid(-temperature * deviation of the target over critics) + 0.5 times
    (SUNRISE, ENOTO)."""
    critic_reduction: str = "mean"  # over critics, of the loss: mean (WSRL, RLPD) | sum (REDQ, CQL, Cal-QL)
    critic_learning_rate: float = 3e-4
    target_rate: float = 0.005
    backup_entropy: bool = True  # False in CQL, Cal-QL, WSRL, and RLPD on sparse rewards
    max_target_backup: int = 0
    """Actions drawn at s', of which the best enters the target; 0 is the usual single one. Cal-QL: 10."""
    max_target_of: str = "reduced"
    """The best of the critics' minimum (`reduced`: Cal-QL, WSRL, CORL), or of `each` critic before it (CQL's own)."""

    # Actor and temperature
    actor_reduction: str = "min"  # over critics, in the actor's loss: min | mean (RLPD, REDQ)
    actor_batch: str = "all"
    """Rows of the actor's update when there are several critic updates: `all` (WSRL) or the `last` batch (RLPD)."""
    actor_critics: str = "updated"
    """Which critics the actor sees: `updated` ones (RLPD; WSRL with several critic updates), or the `previous`, those
    before their last step: all gradients are then of one moment (CQL, Cal-QL, CORL, REDQ; WSRL with one update)."""
    actor_learning_rate: float = 3e-4
    actor_value_weight: float = 1.0  # of Q in the actor's loss; CQL's own code begins with 0, and cloning by likelihood
    actor_behaviour_cloning_weight: float = 0.0  # times the loss below, on the actions of the batch
    actor_behaviour_cloning_loss: str = "squared_error"  # of the mode | likelihood: -log pi(a|s), as behaviour cloning
    actor_average_rate: float = 0.0
    """Polyak rate of an average of the actor's weights, per actor update, whose mode is what is evaluated and deployed;
    0 evaluates the newest weights. None of the public codes has it: it keeps the last swing out of the last policy."""
    exploration_candidates: int = 1
    """Exploring actions are sampled; of several, the one of the largest mean plus `exploration_bonus` times deviation
    of Q over the critics is taken (SUNRISE's upper confidence bound, ENOTO)."""
    exploration_bonus: float = 1.0
    target_entropy_per_dimension: float = -1.0  # RLPD -0.5
    initial_temperature: float = 1.0
    temperature_parameterization: str = "softplus"  # softplus (WSRL) | exp (all others)
    temperature_learning_rate: float = 3e-4  # 0 keeps the temperature
    temperature_states: str = "current"  # where its loss measures entropy: current | next (WSRL's code)
    temperature_loss: str = "temperature"  # its factor: temperature (SAC, RLPD, WSRL) | logarithm (CQL, Cal-QL, REDQ)
    step_with_zero_gradients: bool = False
    """Where several critic updates share one of the actor, networks that an update leaves out still take an Adam step
    with gradient 0, as in WSRL's masked updates: of 4 to 1, momentum carries the actor sqrt(5) times as far."""
    gradient_clip: float | None = None  # global norm, for each network

    # Conservative term (CQL, Cal-QL)
    conservative_weight: float = 0.0  # 0 is off
    conservative_calibrated: bool = False  # Cal-QL: no push below the Monte-Carlo return
    conservative_samples: int = 10  # N: actions from each of uniform, policy at s, policy at s'
    conservative_importance_sampling: bool = True
    conservative_subtract_log_count: bool = False  # WSRL's code, where there is no importance sampling
    conservative_temperature: float = 1.0
    conservative_subset: int | None = None  # critics drawn for the term; None is all; WSRL's code: 2 of 10
    conservative_clip_minimum: float | None = None  # of each difference; CORL -200
    conservative_clip_maximum: float | None = None
    conservative_clip_with_lagrange: bool = True  # False in WSRL's code: the clip acts under a fixed weight only
    conservative_lagrange_gap: float | None = None  # None fixes the weight; a number tunes a further multiplier
    conservative_lagrange_parameterization: str = "exp"  # exp (Cal-QL, CORL) | softplus (WSRL)
    conservative_lagrange_initial: float = 2.718281828459045
    """Cal-QL e, times its weight 5: starts at 13.6; WSRL 1, times weight 1."""
    conservative_lagrange_maximum: float = 1e6
    conservative_lagrange_learning_rate: float = 3e-4

    FIXED: ClassVar[frozenset[str]] = frozenset(
        {"pixels", "actor_hidden", "critic_hidden", "actor_layer_norm", "critic_layer_norm", "log_std"}
        | {"log_std_minimum"}
        | {"actor_dropout", "critic_dropout"}
        | {"log_std_maximum", "initialization", "hidden_gain", "last_hidden_gain", "output_gain", "critic_count"}
        | {"critic_head"}
        | {"initial_temperature", "temperature_parameterization", "actor_average_rate"}
        | {"conservative_lagrange_initial", "conservative_lagrange_parameterization"}
    )
    SWITCHABLE: ClassVar[frozenset[str]]  # all others; below

    def __post_init__(self) -> None:
        require_choice(self.log_std, LOG_STD_KINDS, "sac log_std")
        require_choice(self.initialization, INITIALIZATIONS, "sac initialization")
        require_choice(self.critic_reduction, ("mean", "sum"), "sac critic_reduction")
        require_choice(self.target_reduction, REDUCTIONS, "sac target_reduction")
        require_choice(self.actor_reduction, ("min", "mean"), "sac actor_reduction")
        cloning = ("squared_error", "likelihood")
        require_choice(self.actor_behaviour_cloning_loss, cloning, "sac actor_behaviour_cloning_loss")
        require_choice(self.actor_batch, ("all", "last"), "sac actor_batch")
        require_choice(self.temperature_states, ("current", "next"), "sac temperature_states")
        require_choice(self.temperature_loss, ("temperature", "logarithm"), "sac temperature_loss")
        require_choice(self.actor_critics, ("updated", "previous"), "sac actor_critics")
        require_choice(self.max_target_of, ("reduced", "each"), "sac max_target_of")
        if self.max_target_of == "each" and self.backup_entropy:
            raise InputError("sac max_target_of=each chooses several actions, of no one entropy: backup_entropy=false")
        for name in ("temperature_parameterization", "conservative_lagrange_parameterization"):
            require_choice(getattr(self, name), ("softplus", "exp"), f"sac {name}")
        for name in ("critic_subset", "conservative_subset"):
            if getattr(self, name) is not None:
                require_range(getattr(self, name), 1, self.critic_count, f"sac {name}")
        positive = ("initial_temperature", "conservative_temperature", "conservative_lagrange_initial")
        for name in (*positive, "conservative_lagrange_maximum"):
            require_range(getattr(self, name), 1e-8, 1e8, f"sac {name}")
        for name in ("critic_count", "conservative_samples", "exploration_candidates"):
            require_range(getattr(self, name), 1, 10_000, f"sac {name}")
        weights = ("conservative_weight", "actor_value_weight", "actor_behaviour_cloning_weight")
        for name in (*weights, "max_target_backup"):
            require_range(getattr(self, name), 0, 1e8, f"sac {name}")
        require_range(self.target_rate, 0, 1, "sac target_rate")
        require_range(self.actor_dropout, 0, 0.99, "sac actor_dropout")
        require_range(self.critic_dropout, 0, 0.99, "sac critic_dropout")
        for name in ("disagreement_temperature", "exploration_bonus"):
            require_range(getattr(self, name), 0, 1e8, f"sac {name}")
        require_range(self.actor_average_rate, 0, 1, "sac actor_average_rate")
        require_range(self.target_entropy_per_dimension, -1e3, 1e3, "sac target_entropy_per_dimension")
        low, high = self.conservative_clip_minimum, self.conservative_clip_maximum
        if low is not None and high is not None:
            require_range(low, float("-inf"), high, "sac conservative_clip_minimum")
        require_numbers(self, "sac")


SACConfig.SWITCHABLE = frozenset(item.name for item in fields(SACConfig)) - SACConfig.FIXED


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class SAC:
    """Everything that a checkpoint holds."""

    config: SACConfig
    action_size: int
    encoder: FlatEncoder | PixelEncoder
    actor: GaussianActor
    average_actor: GaussianActor
    critic: Ensemble
    target_critic: Ensemble
    temperature: Scalar
    lagrange: Scalar
    optimizers: dict[str, Optimizer]  # actor, critic, temperature, lagrange, and of images encoder
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Monte-Carlo returns, while the calibrated term is on."""
        calibrates = self.config.conservative_calibrated and self.config.conservative_weight > 0
        return frozenset({"monte_carlo_return"} if calibrates else ())

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """Critics and targets once per chunk of rows, then actor and temperature once."""
        if self.needs and batch.monte_carlo_return is None:
            raise InputError(
                "conservative_calibrated=true needs Monte-Carlo returns, and this batch has none: "
                "set algorithm.conservative_calibrated=false in phases whose sources cannot give them"
            )
        parts = list(chunks(batch, critic_updates))
        carry_on = self.config.step_with_zero_gradients and len(parts) > 1
        metrics: Metrics = {}
        previous: dict[str, Tensor] | None = None
        views: list[Seen] = []
        for rows, seen in zip(parts, self.encoder.views(batch, parts, self.generator), strict=True):
            if self.config.actor_critics == "previous" and rows is parts[-1]:
                previous = {name: each.detach().clone() for name, each in self.critic.named_parameters()}
            metrics |= self._update_critic(batch, seen, rows)
            self.updates += 1
            views.append(seen)
            if rows is not parts[-1]:
                self._descend_encoder([seen])
            if carry_on:
                self._carry_on("actor", "temperature")
        acted = views[-1:] if self.config.actor_batch == "last" else views
        recorded = batch.action[parts[-1]] if self.config.actor_batch == "last" else batch.action
        metrics |= self._update_actor(acted, recorded, previous)
        self._descend_encoder(views)  # of the last part all gradients at once, of those before what the actor left
        if carry_on:
            self._carry_on("critic")
        return metrics | views[-1].metrics

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The mode of the policy, or a sample. Shapes: each (B, *) -> (B, A)."""
        with torch.no_grad():
            actor = self.average_actor if self.config.actor_average_rate > 0 and not explore else self.actor
            mean, log_std = actor(self.encoder.for_actor(observation))
            if not explore:
                return tanh_gaussian.mode(mean)
            if self.config.exploration_candidates == 1:
                return tanh_gaussian.sample(mean, log_std, self.generator)[0]
            candidates, _ = self._several(mean, log_std, self.config.exploration_candidates)  # (B, N, A)
            judged = self.critic(self.encoder(observation), candidates)
            best = upper_bound(judged, self.config.exploration_bonus).argmax(dim=1)  # (B,)
            return chosen_action(candidates, best)

    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Mean of the online critics. Shapes: each (B, *), (B, A) -> (B,)."""
        return self.critic.mean(self.encoder(observation), action)

    def _update_critic(self, batch: Batch, seen: Seen, rows: slice) -> Metrics:
        config, head = self.config, self.critic.head
        features, next_features, action = seen.critic, seen.each(seen.next_critic), seen.each(batch.action[rows])
        reward, discount = seen.each(batch.reward[rows]), seen.each(batch.discount[rows])
        with torch.no_grad():
            next_mean, next_log_std = self.actor(seen.each(seen.next_actor))  # (B, A) each
            next_action, next_log_prob = self._several(next_mean, next_log_std, max(config.max_target_backup, 1))
            heads = self._heads(config.critic_subset)
            next_raw = self.target_critic.raw(next_features, next_action, heads, self._dropout)  # (K, B, N, Z)
            next_q = head.q(next_raw)
            next_v = soft_value(
                next_q,
                next_log_prob,
                self.temperature(),
                reduction=config.target_reduction,
                backup_entropy=config.backup_entropy,
                best_of=config.max_target_of,
            )
            target = td_target(reward, discount, next_v)
            spread = head.spread(next_raw, discount, config.target_reduction, config.max_target_of)
        metrics: Metrics = {}
        if config.conservative_weight == 0:
            raw = self.critic.raw(features, action, None, self._dropout)  # (E, B, Z)
            conservative = raw.new_zeros(())
        else:
            floor = seen.each(batch.monte_carlo_return[rows]) if batch.monte_carlo_return is not None else None
            acted = seen.each(seen.actor.detach())
            raw, difference = self._conservative(features, acted, action, next_mean, next_log_std, floor)
            conservative, metrics = self._weighted(difference)
        weight = None
        if config.disagreement_temperature > 0:
            with torch.no_grad():
                each = next_q if heads is None else self.target_critic(next_features, next_action)
                weight = disagreement_weight(each[:, :, 0], config.disagreement_temperature)  # (B,)
                metrics["critic/disagreement_weight"] = weight.mean()
        errors = head.error(raw, target, spread, weight)  # (E,)
        td_loss = errors.mean() if config.critic_reduction == "mean" else errors.sum()
        self._descend("critic", td_loss + conservative)
        polyak_update(self.target_critic, self.critic, config.target_rate)
        q = head.q(raw.detach())  # (E, B)
        metrics |= head.metrics(target)
        return metrics | {
            "critic/td_loss": td_loss.detach(),
            "critic/q": q.mean(),
            "critic/q_spread": q.std(dim=0, correction=0).mean(),
            "critic/target": target.mean(),
        }

    def _conservative(
        self,
        features: Tensor,
        acted: Tensor,
        action: Tensor,
        next_mean: Tensor,
        next_log_std: Tensor,
        floor: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Outputs for the recorded actions, (E, B, Z), and the conservative difference, (E or K, B)."""
        config, N, head = self.config, self.config.conservative_samples, self.critic.head
        with torch.no_grad():
            mean, log_std = self.actor(acted)  # (B, A) each
            current, current_log_prob = self._several(mean, log_std, N)  # (B, N, A), (B, N)
            following, next_log_prob = self._several(next_mean, next_log_std, N)  # drawn at s', judged at s
            uniform = torch.rand(current.shape, generator=self.generator, device=current.device) * 2 - 1
        actions = torch.cat([action.unsqueeze(1), uniform, current, following], dim=1)  # (B, 1 + 3 N, A)
        heads = self._heads(config.conservative_subset)
        if heads is None:
            outputs = self.critic.raw(features, actions)  # (E, B, 1 + 3 N, Z), one call
            raw, judged = outputs[:, :, 0], head.q(outputs)
            q_data, judged = judged[:, :, 0], judged[:, :, 1:]
        else:
            raw = self.critic.raw(features, action)  # (E, B, Z)
            q_data, judged = head.q(raw).index_select(0, heads), self.critic(features, actions[:, 1:], heads)
        q_random, q_current, q_next = judged.split(N, dim=2)
        return raw, conservative_difference(
            q_data,
            q_random,
            q_current,
            q_next,
            log_prob_current=current_log_prob,
            log_prob_next=next_log_prob,
            action_size=self.action_size,
            temperature=config.conservative_temperature,
            importance_sampling=config.conservative_importance_sampling,
            subtract_log_count=config.conservative_subtract_log_count,
            lower_bound=floor if config.conservative_calibrated else None,
        )

    def _weighted(self, difference: Tensor) -> tuple[Tensor, Metrics]:
        """The conservative loss from its differences, (E, B) -> (), and a step of the multiplier where it is tuned."""
        config, gap = self.config, self.config.conservative_lagrange_gap
        low, high = config.conservative_clip_minimum, config.conservative_clip_maximum
        if (low is not None or high is not None) and (gap is None or config.conservative_clip_with_lagrange):
            difference = difference.clamp(low, high)
        difference = difference.mean(dim=1)  # (E,)
        metrics = {"critic/conservative_difference": difference.detach().mean()}
        penalty = difference.mean() if config.critic_reduction == "mean" else difference.sum()
        if gap is None:
            return config.conservative_weight * penalty, metrics
        multiplier = self.lagrange().clamp(max=config.conservative_lagrange_maximum)
        metrics["critic/lagrange"] = multiplier.detach()
        self._descend("lagrange", lagrange_loss(multiplier, config.conservative_weight, difference, gap))
        return multiplier.detach() * config.conservative_weight * penalty, metrics  # the gap has no gradient here

    def _update_actor(self, views: list[Seen], recorded: Tensor, previous: dict[str, Tensor] | None) -> Metrics:
        """One step of actor and temperature, both from the present policy; `previous` are weights of the critics."""
        config = self.config
        features = together([each.first(each.critic.detach()) for each in views])
        mean, log_std = self.actor(together([each.actor for each in views]), self.generator)
        action, log_prob = tanh_gaussian.sample(mean, log_std, self.generator)
        judge = (features, action, None, self._dropout)
        with held(self.critic):
            q = self.critic(*judge) if previous is None else functional_call(self.critic, previous, judge)  # (E, B)
        q = config.actor_value_weight * q
        loss = actor_loss(q, log_prob, self.temperature().detach(), reduction=config.actor_reduction)
        metrics = {"actor/loss": loss.detach(), "actor/entropy": -log_prob.detach().mean()}
        if config.actor_behaviour_cloning_weight > 0:
            if config.actor_behaviour_cloning_loss == "likelihood":
                cloning = -tanh_gaussian.log_prob(mean, log_std, recorded).mean()
            else:
                cloning = (tanh_gaussian.mode(mean) - recorded).square().sum(dim=1).mean()
            loss = loss + config.actor_behaviour_cloning_weight * cloning
            metrics["actor/cloning"] = cloning.detach()
        if config.temperature_states == "next":
            with torch.no_grad():
                next_mean, next_log_std = self.actor(together([each.next_actor for each in views]))
                _, log_prob = tanh_gaussian.sample(next_mean, next_log_std, self.generator)
        self._descend("actor", loss)
        if config.actor_average_rate > 0:
            polyak_update(self.average_actor, self.actor, config.actor_average_rate)
        temperature = self.temperature()
        target_entropy = config.target_entropy_per_dimension * self.action_size
        change = temperature_loss(temperature, log_prob, target_entropy, factor=config.temperature_loss)
        self._descend("temperature", change)
        return metrics | {"actor/temperature": temperature.detach()}

    def _several(self, mean: Tensor, log_std: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """`count` samples in each state. Shapes: (B, A), (B, A) -> (B, N, A), (B, N)."""
        shape = (mean.shape[0], count, mean.shape[1])
        return tanh_gaussian.sample(mean[:, None].expand(shape), log_std[:, None].expand(shape), self.generator)

    @property
    def _dropout(self) -> torch.Generator | None:
        return self.generator if self.config.critic_dropout > 0 else None

    def _heads(self, subset: int | None) -> Tensor | None:
        if subset is None:
            return None
        replacement = self.config.subset_with_replacement
        return random_heads(self.critic.count, subset, with_replacement=replacement, generator=self.generator)

    def _learning_rate(self, name: str) -> float:
        config = self.config
        return {
            "actor": config.actor_learning_rate,
            "critic": config.critic_learning_rate,
            "temperature": config.temperature_learning_rate,
            "lagrange": config.conservative_lagrange_learning_rate,
        }[name]

    def _descend(self, name: str, loss: Tensor) -> None:
        rate, clip = self._learning_rate(name), self.config.gradient_clip
        descend(self.optimizers[name], loss, learning_rate=rate, gradient_clip=clip)

    def _descend_encoder(self, views: list[Seen]) -> None:
        rate, clip = self.config.encoder_learning_rate, self.config.gradient_clip
        descend_encoder(self.optimizers, views, learning_rate=rate, gradient_clip=clip)

    def _carry_on(self, *names: str) -> None:
        for name in names:
            step_with_zero_gradient(self.optimizers[name], learning_rate=self._learning_rate(name))


def create(
    config: SACConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> SAC:
    """Networks from the spec's shapes; the target starts as a copy and takes no gradient."""
    encoder = observation_encoder(config.pixels, spec, statistics, seeds.torch("encoder")).to(device)
    (action_size,) = spec.action.shape
    actor = gaussian_actor(config, encoder.features, action_size, seeds, device, dropout=config.actor_dropout)
    critic = critic_ensemble(
        config,
        encoder.features,
        action_size,
        seeds,
        device,
        dropout=config.critic_dropout,
        head=config.critic_head,
    )
    temperature = Scalar(config.initial_temperature, config.temperature_parameterization).to(device)
    lagrange = Scalar(config.conservative_lagrange_initial, config.conservative_lagrange_parameterization).to(device)
    return SAC(
        config=config,
        action_size=action_size,
        encoder=encoder,
        actor=actor,
        average_actor=deepcopy(actor).requires_grad_(False),
        critic=critic,
        target_critic=deepcopy(critic).requires_grad_(False),
        temperature=temperature,
        lagrange=lagrange,
        optimizers={
            "actor": adam(actor, config.actor_learning_rate),
            "critic": adam(critic, config.critic_learning_rate),
            "temperature": adam(temperature, config.temperature_learning_rate),
            "lagrange": adam(lagrange, config.conservative_lagrange_learning_rate),
            **encoder_adam(encoder, config.encoder_learning_rate),
        },
        generator=seeds.torch("agent", device=device),
    )
