"""Learning from a robot's data and an imperfect simulator at once: H2O, H2O+, VGDF, DARC, PAR, importance-weighted SAC.

Niu et al. "When to Trust Your Simulator: Dynamics-Aware Hybrid Offline-and-Online Reinforcement Learning". NeurIPS
2022, arXiv:2206.13464 (H2O).
Niu et al. "H2O+: An Improved Framework for Hybrid Offline-and-Online RL with Dynamics Gaps". ICRA 2025,
arXiv:2309.12716.
Xu et al. "Cross-Domain Policy Adaptation via Value-Guided Data Filtering". NeurIPS 2023, arXiv:2305.17625 (VGDF).
Eysenbach et al. "Off-Dynamics Reinforcement Learning". ICLR 2021, arXiv:2006.13916 (DARC).
Lyu et al. "Cross-Domain Policy Adaptation by Capturing Representation Mismatch". ICML 2024, arXiv:2405.15369 (PAR).

All of them are this agent under different settings (`configs/algorithm/`): soft actor-critic on batches of both domains
(`Batch.real`), where models of their difference, the judges, change what a simulated row counts, is worth, or adds to a
penalty. What judges say counts only after `judges.warm_up` updates, and what classifiers say only while they are
calibrated on held out rows; until then simulated rows count like the robot's.

Differences from the public code: `docs/algorithms/`, a page for each recipe.

Letters: B batch, E critics, M members of a dynamics ensemble, K next states, N actions, A action, F features.
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
from robot_rl.functional.domains import domain_error, mean_of
from robot_rl.functional.dynamics_ratio import (
    dynamics_gap,
    effective_share,
    gap_penalty,
    importance_weight,
    saturated_share,
)
from robot_rl.functional.entropy import temperature_loss
from robot_rl.functional.hybrid import (
    blended_value,
    corrected_reward,
    each_td_error,
    mismatch_reward,
    real_value_loss,
    top_share,
    value_likelihood,
)
from robot_rl.functional.polyak import polyak_update
from robot_rl.functional.quantile import head_quantile
from robot_rl.functional.schedule import between
from robot_rl.networks.actor import LOG_STD_KINDS, GaussianActor
from robot_rl.networks.build import critic_ensemble, gaussian_actor, value_network
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import INITIALIZATIONS
from robot_rl.networks.judges import Judges, JudgesConfig, Transitions
from robot_rl.networks.mlp import MLP
from robot_rl.networks.optimize import adam, descend, held
from robot_rl.networks.scalar import Scalar
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics


@dataclass(kw_only=True)
class HybridConfig:
    """A plain mixture of both domains; recipes are in `configs/algorithm/`. Phases change what is `SWITCHABLE`."""

    # Networks
    actor_hidden: list[int] = field(default_factory=lambda: [256, 256])
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256])
    value_hidden: list[int] = field(default_factory=lambda: [256, 256])
    actor_layer_norm: bool = False
    critic_layer_norm: bool = False
    critic_count: int = 2
    log_std: str = "state_dependent"  # state_dependent | state_independent | affine
    log_std_minimum: float = -20.0
    log_std_maximum: float = 2.0
    initialization: str = "orthogonal"  # orthogonal | uniform | xavier_uniform
    hidden_gain: float = 1.4142135623730951
    last_hidden_gain: float | None = None
    output_gain: float = 0.01

    # Critic, actor, temperature: as in SAC
    critic_learning_rate: float = 3e-4
    target_rate: float = 0.005
    backup_entropy: bool = True
    critic_quantile: float = 0.0  # over the critics, in targets and for the actor; 0 is the minimum
    critic_huber: float | None = None  # threshold of a Huber loss; None: squared error
    actor_learning_rate: float = 3e-4
    target_entropy_per_dimension: float = -1.0
    initial_temperature: float = 1.0
    temperature_learning_rate: float = 3e-4
    gradient_clip: float | None = None
    exploration_candidates: int = 1  # of so many samples the one of the largest maximum over critics (VGDF's optimism)

    # What is learned from whom
    learn_from: str = "both"  # both | simulator: the robot's rows then only teach the judges (DARC, SAC-IW)
    value_blend: float = 0.0  # H2O+'s lambda, share of V(s') of the robot's own actions in the target
    value_expectile: float | None = None  # of that V; None: there is none
    value_learning_rate: float = 3e-4

    # What judges of the simulator change, and who they are
    judges: JudgesConfig = field(default_factory=JudgesConfig)
    judges_count: bool = True  # false: they learn, and change nothing
    importance_weights: bool = False  # simulated rows count P_real / P_sim in the critics' error
    weight_minimum: float = 1e-5
    weight_maximum: float = 1.0
    penalty_weight: float = 0.0  # H2O's beta
    penalty_limit: float = 1000.0
    gap_minimum: float = 1e-3  # of u: what is below is no gap, and still counts in the sum
    gap_maximum: float = 10.0
    reward_correction: float = 0.0  # DARC: of log(P_real / P_sim), added to simulated rewards
    mismatch_weight: float = 0.0  # PAR: of the latent model's squared error, taken off simulated rewards
    accepted_share: float = 1.0  # VGDF: of simulated rows, by how likely their value is on the robot

    FIXED: ClassVar[frozenset[str]] = frozenset(
        {"actor_hidden", "critic_hidden", "value_hidden", "actor_layer_norm", "critic_layer_norm", "critic_count"}
        | {"log_std", "log_std_minimum", "log_std_maximum", "initialization", "hidden_gain", "last_hidden_gain"}
        | {"output_gain", "initial_temperature", "value_expectile", "judges"}
    )
    SWITCHABLE: ClassVar[frozenset[str]]  # all others; below

    def __post_init__(self) -> None:
        require_choice(self.log_std, LOG_STD_KINDS, "hybrid log_std")
        require_choice(self.initialization, INITIALIZATIONS, "hybrid initialization")
        require_choice(self.learn_from, ("both", "simulator"), "hybrid learn_from")
        classified = self.importance_weights or self.penalty_weight > 0 or self.reward_correction != 0
        for needed, model, what in (
            (classified, "classifiers", "importance_weights, penalty_weight and reward_correction need"),
            (self.accepted_share < 1, "dynamics", "accepted_share below 1 needs"),
            (self.mismatch_weight > 0, "latent", "mismatch_weight needs"),
        ):
            if needed and model not in self.judges.models:
                raise InputError(f"hybrid {what} a judge: add '{model}' to algorithm.judges.models")
        if self.value_blend > 0 and self.value_expectile is None:
            raise InputError("hybrid value_blend is of a value of states: set algorithm.value_expectile, such as 0.5")
        if self.value_expectile is not None:
            require_range(self.value_expectile, 0.001, 0.999, "hybrid value_expectile")
        for name in ("value_blend", "critic_quantile", "target_rate", "accepted_share"):
            require_range(getattr(self, name), 0, 1, f"hybrid {name}")
        if self.critic_huber is not None:
            require_range(self.critic_huber, 1e-6, 1e8, "hybrid critic_huber")
        for name in ("penalty_weight", "mismatch_weight"):
            require_range(getattr(self, name), 0, 1e8, f"hybrid {name}")
        for name in ("critic_count", "exploration_candidates"):
            require_range(getattr(self, name), 1, 10_000, f"hybrid {name}")
        for name in ("initial_temperature", "penalty_limit"):
            require_range(getattr(self, name), 1e-8, 1e8, f"hybrid {name}")
        require_range(self.weight_minimum, 0, self.weight_maximum, "hybrid weight_minimum")
        require_range(self.gap_minimum, 1e-30, self.gap_maximum, "hybrid gap_minimum")
        require_range(self.reward_correction, -1e8, 1e8, "hybrid reward_correction")
        require_range(self.target_entropy_per_dimension, -1e3, 1e3, "hybrid target_entropy_per_dimension")
        require_numbers(self, "hybrid")


HybridConfig.SWITCHABLE = frozenset(item.name for item in fields(HybridConfig)) - HybridConfig.FIXED


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class Hybrid:
    """Everything that a checkpoint holds."""

    config: HybridConfig
    action_size: int
    encoder: FlatEncoder
    actor: GaussianActor
    critic: Ensemble
    target_critic: Ensemble
    temperature: Scalar
    value_network: MLP | None
    judges: Judges | None
    optimizers: dict[str, Optimizer]  # actor, critic, temperature, and those of the networks that are there
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Whose each row is."""
        return frozenset({"real"})

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """Judges, value, critics and targets once per chunk of rows, then actor and temperature once."""
        if batch.real is None or batch.held_out is None:
            raise InputError("a hybrid learner needs to know which rows are the robot's: Batch.real and held_out")
        parts = list(chunks(batch, critic_updates))
        features, next_features = self.encoder.both(batch)
        metrics: Metrics = {}
        for part in parts:
            rows = Transitions(
                features=features[part],
                action=batch.action[part],
                reward=batch.reward[part],
                discount=batch.discount[part],
                next_features=next_features[part],
                real=batch.real[part],
                held_out=batch.held_out[part],
            )
            metrics |= self._update_critic(rows)
            self.updates += 1
        return metrics | self._update_actor(features, batch.real)

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The mode of the policy, or a sample. Shapes: each (B, *) -> (B, A)."""
        with torch.no_grad():
            features = self.encoder(observation)
            mean, log_std = self.actor(features)
            if not explore:
                return tanh_gaussian.mode(mean)
            count = self.config.exploration_candidates
            if count == 1:
                return tanh_gaussian.sample(mean, log_std, self.generator)[0]
            shape = (len(mean), count, self.action_size)
            several, spread = mean.unsqueeze(1).expand(shape), log_std.unsqueeze(1).expand(shape)
            candidates, _ = tanh_gaussian.sample(several, spread, self.generator)  # (B, N, A)
            best = self.critic(features, candidates).amax(dim=0).argmax(dim=1)
            return chosen_action(candidates, best)

    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Mean of the online critics. Shapes: each (B, *), (B, A) -> (B,)."""
        return self.critic.mean(self.encoder(observation), action)

    # Judges -----------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def _judged(self, judges: Judges, rows: Transitions) -> tuple[Tensor, Tensor, Tensor, Metrics]:
        """Reward, weight and gap of each row; gaps are 0 where they do not count. Shapes: -> (B,) three times."""
        config, simulated, one = self.config, ~rows.real, torch.ones_like(rows.reward)
        reward, weight, gap = rows.reward, one, torch.zeros_like(one)
        warmed = between(self.updates, 0.0, 1.0, judges.config.warm_up - 1.0, 1.0)
        warm = one.amax() * warmed * float(config.judges_count)
        trust = warm * judges.calibrated
        metrics: Metrics = {"gap/trust": warm if judges.classifiers is None else trust}
        if judges.classifiers is not None:
            log_ratio = judges.log_ratio(rows)
            ratio = importance_weight(log_ratio, config.weight_minimum, config.weight_maximum)
            if config.importance_weights:
                weight = torch.lerp(one, ratio, trust)
            if config.penalty_weight > 0:
                several = judges.log_ratios(rows, log_ratio, self.generator)  # (B, K)
                gap = trust * dynamics_gap(several, config.gap_minimum, config.gap_maximum)
                metrics["gap/none"] = mean_of((several.mean(dim=1) <= config.gap_minimum).to(gap.dtype), simulated)
            if config.reward_correction != 0:
                reward = corrected_reward(reward, log_ratio, rows.real, trust * config.reward_correction)
            metrics |= {
                "gap/log_ratio": mean_of(log_ratio, simulated),
                "gap/log_ratio_size": mean_of(log_ratio.abs(), simulated),
                "gap/effective_share": effective_share(ratio, simulated),
                "gap/saturated": saturated_share(log_ratio, judges.classifiers.bound, simulated),
            }
        if config.mismatch_weight > 0:
            before, scale = reward, warm * config.mismatch_weight
            reward = mismatch_reward(reward, *judges.mismatch(rows), rows.real, scale)
            metrics["gap/mismatch"] = mean_of(before - reward, simulated)
        if config.accepted_share < 1:
            accepted = top_share(self._likelihood(judges, rows), simulated, config.accepted_share)
            weight = weight * torch.lerp(one, accepted, warm)
        return reward, weight, gap, metrics | {"gap/weight": mean_of(weight, simulated)}

    def _likelihood(self, judges: Judges, rows: Transitions) -> Tensor:
        """How likely the value of what the simulator did is, if the robot did it (VGDF). Shapes: -> (B,)."""
        states, rewards = judges.expected(rows, self.generator)  # (M, B, F), (M, B)
        reached = torch.cat([states.flatten(0, 1), rows.next_features])
        following, _ = self._sampled(reached)
        value = self._reduced(self.target_critic(reached, following)).unflatten(0, (-1, len(rows.reward)))
        return value_likelihood(rows.reward + rows.discount * value[-1], rewards + rows.discount * value[:-1])

    # Critics and actor ------------------------------------------------------------------------------------------------
    def _update_critic(self, rows: Transitions) -> Metrics:
        config, metrics = self.config, dict[str, Tensor]()
        reward, weight, gap = rows.reward, torch.ones_like(rows.reward), torch.zeros_like(rows.reward)
        if self.judges is not None:
            judges_loss, metrics = self.judges.loss(rows, self.generator)
            self._descend("judges", judges_loss, self.judges.config.learning_rate)
            reward, weight, gap, judged = self._judged(self.judges, rows)
            metrics |= judged
        if self.value_network is not None and config.value_expectile is not None:
            with torch.no_grad():
                recorded = self._reduced(self.target_critic(rows.features, rows.action))
            v = self.value_network(rows.features)[:, 0]
            value_loss = real_value_loss(recorded, v, rows.real, config.value_expectile)
            self._descend("value_network", value_loss, config.value_learning_rate)
            metrics["value/loss"] = value_loss.detach()
        with torch.no_grad():
            action, log_prob = self._sampled(rows.next_features)
            next_v = self._reduced(self.target_critic(rows.next_features, action))
            if config.backup_entropy:
                next_v = next_v - self.temperature() * log_prob
            if self.value_network is not None and config.value_blend > 0:
                next_v = blended_value(next_v, self.value_network(rows.next_features)[:, 0], config.value_blend)
            target = td_target(reward, rows.discount, next_v)
        q = self.critic(rows.features, rows.action)  # (E, B)
        error = each_td_error(q, target, config.critic_huber)
        each = domain_error(error, rows.real, weight, 1.0 if config.learn_from == "both" else 0.0)
        loss = each.sum()
        metrics |= {"critic/td_loss": loss.detach(), "critic/q": q.detach().mean(), "critic/target": target.mean()}
        if config.penalty_weight > 0:
            # Where the judges do not count all gaps are 0, and so is what they ask for.
            counted = (gap.amax() > 0).to(gap.dtype)
            penalty = counted * gap_penalty(q, gap.clamp(min=config.gap_minimum), rows.real, config.penalty_limit).sum()
            loss, metrics["critic/penalty"] = loss + config.penalty_weight * penalty, penalty.detach()
        self._descend("critic", loss, config.critic_learning_rate)
        polyak_update(self.target_critic, self.critic, config.target_rate)
        return metrics

    def _update_actor(self, features: Tensor, real: Tensor) -> Metrics:
        config = self.config
        counted = torch.ones_like(real) if config.learn_from == "both" else ~real
        action, log_prob = self._sampled(features)
        with held(self.critic):
            q = self._reduced(self.critic(features, action))
        loss = mean_of(self.temperature().detach() * log_prob - q, counted)
        self._descend("actor", loss, config.actor_learning_rate)
        temperature, wanted = self.temperature(), config.target_entropy_per_dimension * self.action_size
        entropy = -mean_of(log_prob.detach(), counted)
        change = temperature_loss(temperature, -entropy.unsqueeze(0), wanted)
        self._descend("temperature", change, config.temperature_learning_rate)
        return {
            "actor/loss": loss.detach(),
            "actor/entropy": entropy,
            "actor/temperature": temperature.detach(),
        }

    def _sampled(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """An action of the policy in each state, and its log density. Shapes: (B, F) -> (B, A), (B,)."""
        mean, log_std = self.actor(features)
        return tanh_gaussian.sample(mean, log_std, self.generator)

    def _reduced(self, q: Tensor) -> Tensor:
        """One value from those of the critics. Shapes: (E, B) -> (B,)."""
        return q.amin(dim=0) if self.config.critic_quantile == 0 else head_quantile(q, self.config.critic_quantile)

    def _descend(self, name: str, loss: Tensor, rate: float) -> None:
        descend(self.optimizers[name], loss, learning_rate=rate, gradient_clip=self.config.gradient_clip)


def create(
    config: HybridConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> Hybrid:
    """Networks from the spec's shapes; the target starts as a copy and takes no gradient."""
    encoder = FlatEncoder(spec, statistics)
    (action_size,) = spec.action.shape
    features = encoder.features
    actor = gaussian_actor(config, features, action_size, seeds, device)
    critic = critic_ensemble(config, features, action_size, seeds, device)
    temperature = Scalar(config.initial_temperature, "exp").to(device)
    optimizers = {
        "actor": adam(actor, config.actor_learning_rate),
        "critic": adam(critic, config.critic_learning_rate),
        "temperature": adam(temperature, config.temperature_learning_rate),
    }
    value, judges = None, None
    if config.value_expectile is not None:
        value = value_network(config, features, seeds, device)
        optimizers["value_network"] = adam(value, config.value_learning_rate)
    if config.judges.models:
        judges = Judges(config.judges, features, action_size, seeds).to(device)
        optimizers["judges"] = adam(judges, config.judges.learning_rate)
    return Hybrid(
        config=config,
        action_size=action_size,
        encoder=encoder.to(device),
        actor=actor,
        critic=critic,
        target_critic=deepcopy(critic).requires_grad_(False),
        temperature=temperature,
        value_network=value,
        judges=judges,
        optimizers=optimizers,
        generator=seeds.torch("agent", device=device),
    )
