"""Flow Q-learning (FQL), and on action chunks Q-chunking (QC, QC-FQL).

Park, Li, Levine. "Flow Q-Learning". ICML 2025, arXiv:2502.02538.
Li, Zhou, Levine. "Reinforcement Learning with Action Chunking". NeurIPS 2025, arXiv:2507.07969.

A flow-matching policy clones the recorded actions, with as many modes as they have. A second policy makes an action
from noise in one step: it is pulled towards the flow's action for the same noise and pushed up the critics, so that no
gradient goes through the flow's steps. The one-step policy acts.

Q-chunking is this on chunks of H actions (`replay.action_chunk`), which are played to their end: Q of a whole chunk is
backed up over its H steps at once. QC (`extraction` best_of_n) has no second policy: where an action is needed, to act
and in the target, the critics choose the best of N that the flow draws.

Differences from the authors' code (github seohongpark/fql 719d044): ReLU in place of GELU, as in every network of this
project, and other initial weights; each network takes its step before the next loss is computed, where theirs takes one
joint step; evaluation acts without noise, or of N from fixed noise, where theirs draws some. Q-chunking's code (github
ColinQiyangLi/qc 48283b4) differs in the same ways; it discounts a chunk that a time limit cut as a whole one, which
`critic_chunks` whole then leaves out there and here.

Letters: B batch, H steps of a chunk, E critics, N candidates, A action (of a whole chunk), F features.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from robot_rl.algorithms.agent import chosen_action, chunks, require_numbers
from robot_rl.checks import require_choice, require_range
from robot_rl.functional.bellman import td_target
from robot_rl.functional.chunk import RULES, chunk_weight
from robot_rl.functional.ensemble import reduce_heads
from robot_rl.functional.flow import candidate_noise, candidates, cloning_loss, integrate
from robot_rl.functional.polyak import polyak_update
from robot_rl.networks.build import critic_ensemble, initialization_of
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import INITIALIZATIONS
from robot_rl.networks.mlp import MLP
from robot_rl.networks.optimize import adam, descend, held
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics


@dataclass(kw_only=True)
class FQLConfig:
    """The authors' numbers but for `distillation_weight`, which they tune for each task, from 3 to 30,000."""

    actor_hidden: list[int] = field(default_factory=lambda: [512, 512, 512, 512])  # of both policies
    critic_hidden: list[int] = field(default_factory=lambda: [512, 512, 512, 512])
    actor_layer_norm: bool = False
    critic_layer_norm: bool = True
    critic_count: int = 2
    critic_head: CriticHeadConfig = field(default_factory=CriticHeadConfig)
    """What a critic's outputs mean: its value, or a distribution of returns (`docs/algorithms/heads.md`)."""
    initialization: str = "uniform"  # uniform | orthogonal | xavier_uniform
    hidden_gain: float = 1.0
    last_hidden_gain: float | None = None  # None is `hidden_gain`
    output_gain: float = 1.0

    extraction: str = "distilled"  # distilled: the one-step policy | best_of_n: of the flow's actions, by the critics
    candidates: int = 32  # N, of best_of_n; QC's, which also has 4 for single actions
    critic_chunks: str = "whole"
    """Chunks cut by the end of their episode: `whole`: only others teach the critics | `terminated`: those too that a
    termination cut | `all`."""
    distillation_weight: float = 10.0  # alpha: how strongly the one-step policy is held to the flow
    normalize_value: bool = False  # divide Q by the mean of |Q| in the batch
    target_reduction: str = "mean"  # over critics, in the target: mean | min
    flow_steps: int = 10  # of Euler's method
    target_rate: float = 0.005
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    gradient_clip: float | None = None  # global norm, for each network

    SWITCHABLE: ClassVar[frozenset[str]] = frozenset(
        {
            "candidates",
            "critic_chunks",
            "distillation_weight",
            "normalize_value",
            "target_reduction",
            "flow_steps",
            "target_rate",
        }
        | {"actor_learning_rate", "critic_learning_rate", "gradient_clip"}
    )

    def __post_init__(self) -> None:
        require_choice(self.initialization, INITIALIZATIONS, "fql initialization")
        require_choice(self.target_reduction, ("mean", "min"), "fql target_reduction")
        require_range(self.distillation_weight, 0, 1e8, "fql distillation_weight")
        require_range(self.target_rate, 0, 1, "fql target_rate")
        require_choice(self.extraction, ("distilled", "best_of_n"), "fql extraction")
        require_choice(self.critic_chunks, RULES, "fql critic_chunks")
        for name in ("critic_count", "flow_steps", "candidates"):
            require_range(getattr(self, name), 1, 10_000, f"fql {name}")
        require_numbers(self, "fql")


# Losses; the flow's is functional.flow.cloning_loss -------------------------------------------------------------------
def one_step_loss(q: Tensor, action: Tensor, flow_action: Tensor, *, weight: float, normalize: bool) -> Tensor:
    """weight * |mu(s, z) - flow(s, z)|^2 - Q(s, mu(s, z)): equation 8, the distance averaged over dimensions.

    Shapes: q (B,), actions (B, A) -> ().
    """
    scale = q.abs().mean().detach().clamp(min=1e-8) if normalize else 1.0
    return weight * (action - flow_action).square().mean() - (q / scale).mean()


def one_step(actor: MLP, features: Tensor, noise: Tensor) -> Tensor:
    """The one-step policy's action, not yet cut to [-1, 1]. Shapes: (B, F), (B, A) -> (B, A)."""
    action: Tensor = actor(torch.cat([features, noise], 1))
    return action


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class FQL:
    """Everything that a checkpoint holds."""

    config: FQLConfig
    action_size: int  # of a chunk
    encoder: FlatEncoder
    actor: MLP | None  # (features, noise) -> action; None chooses among the flow's actions
    flow: MLP  # (features, x_t, t) -> velocity
    critic: Ensemble
    target_critic: Ensemble
    optimizers: dict[str, Optimizer]  # actor, flow, critic
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Which steps of a chunk were recorded."""
        return frozenset({"valid"})

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """One gradient step each on the critics, the flow and the one-step policy, per chunk of rows."""
        parts = list(chunks(batch, critic_updates))
        features, next_features = self.encoder.both(batch)
        metrics: Metrics = {}
        for rows in parts:
            metrics = self._update_critic(batch, features[rows], next_features[rows], rows)
            metrics |= self._update_flow(batch, features[rows], rows)
            if self.actor is not None:
                metrics |= self._update_actor(self.actor, features[rows])
            self.updates += 1
        return metrics

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The one-step policy's action, for noise where it explores, else for none; or the best of N of the flow.

        Shapes: each (B, *) -> (B, A).
        """
        with torch.no_grad():
            features = self.encoder(observation)
            if self.actor is None:
                return self._best(features, self.generator if explore else None)
            noise = self._noise(features) if explore else features.new_zeros(len(features), self.action_size)
            return one_step(self.actor, features, noise).clamp(-1, 1)

    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Mean of the online critics. Shapes: each (B, *), (B, A) -> (B,)."""
        return self.critic.mean(self.encoder(observation), action)

    def _update_critic(self, batch: Batch, features: Tensor, next_features: Tensor, rows: slice) -> Metrics:
        config, head, discount = self.config, self.critic.head, batch.discount[rows]
        with torch.no_grad():
            if self.actor is None:
                next_action = self._best(next_features, self.generator)
            else:
                next_action = one_step(self.actor, next_features, self._noise(next_features)).clamp(-1, 1)
            next_raw = self.target_critic.raw(next_features, next_action)  # (E, B, Z)
            next_v = reduce_heads(head.q(next_raw), config.target_reduction)
            target = td_target(batch.reward[rows], discount, next_v)
            spread = head.spread(next_raw, discount, config.target_reduction)
        raw = self.critic.raw(features, batch.action[rows])  # (E, B, Z)
        weight = chunk_weight(self._valid(batch, rows), discount, config.critic_chunks)
        loss = head.error(raw, target, spread, weight).mean()
        self._descend("critic", loss, config.critic_learning_rate)
        polyak_update(self.target_critic, self.critic, config.target_rate)
        metrics = {"critic/td_loss": loss.detach(), "critic/q": head.q(raw.detach()).mean()}
        return metrics | {"critic/target": target.mean()} | head.metrics(target)

    def _update_flow(self, batch: Batch, features: Tensor, rows: slice) -> Metrics:
        loss = cloning_loss(self.flow, features, batch.action[rows], self._valid(batch, rows), self.generator)
        self._descend("flow", loss, self.config.actor_learning_rate)
        return {"actor/flow_loss": loss.detach()}

    def _update_actor(self, actor: MLP, features: Tensor) -> Metrics:
        config = self.config
        noise = self._noise(features)
        with torch.no_grad():
            flow_action = integrate(lambda x, t: self.flow(torch.cat([features, x, t], 1)), noise, config.flow_steps)
        action = one_step(actor, features, noise)
        with held(self.critic):
            q = self.critic(features, action.clamp(-1, 1)).mean(dim=0)
        loss = one_step_loss(
            q, action, flow_action, weight=config.distillation_weight, normalize=config.normalize_value
        )
        self._descend("actor", loss, config.actor_learning_rate)
        return {
            "actor/loss": loss.detach(),
            "actor/distance": (action.detach() - flow_action).square().mean(),
        }

    def _best(self, features: Tensor, generator: torch.Generator | None) -> Tensor:
        """Of N actions of the flow in each state, the one that the critics hold best. Shapes: (B, F) -> (B, A)."""
        config = self.config
        noise = candidate_noise(features, config.candidates, self.action_size, generator)
        action = candidates(self.flow, features, noise, config.flow_steps)  # (B, N, A)
        best = reduce_heads(self.critic(features, action), config.target_reduction).argmax(dim=1)  # (B,)
        return chosen_action(action, best)

    @staticmethod
    def _valid(batch: Batch, rows: slice) -> Tensor | None:
        return None if batch.valid is None else batch.valid[rows]

    def _noise(self, features: Tensor) -> Tensor:
        shape = (len(features), self.action_size)
        return torch.randn(shape, generator=self.generator, device=features.device, dtype=features.dtype)

    def _descend(self, name: str, loss: Tensor, rate: float) -> None:
        descend(self.optimizers[name], loss, learning_rate=rate, gradient_clip=self.config.gradient_clip)


def create(
    config: FQLConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> FQL:
    """Networks from the spec's shapes; the target starts as a copy and takes no gradient."""
    encoder = FlatEncoder(spec, statistics)
    (action_size,) = spec.action.shape

    def policy(name: str, inputs: int) -> MLP:
        return MLP(
            encoder.features + inputs,
            config.actor_hidden,
            action_size,
            layer_norm=config.actor_layer_norm,
            initialization=initialization_of(config),
            generator=seeds.torch(name),
        ).to(device)

    actor = policy("actor", action_size) if config.extraction == "distilled" else None
    flow = policy("flow", action_size + 1)
    critic = critic_ensemble(config, encoder.features, action_size, seeds, device, head=config.critic_head)
    return FQL(
        config=config,
        action_size=action_size,
        encoder=encoder.to(device),
        actor=actor,
        flow=flow,
        critic=critic,
        target_critic=deepcopy(critic).requires_grad_(False),
        optimizers=({} if actor is None else {"actor": adam(actor, config.actor_learning_rate)})
        | {
            "flow": adam(flow, config.actor_learning_rate),
            "critic": adam(critic, config.critic_learning_rate),
        },
        generator=seeds.torch("agent", device=device),
    )
