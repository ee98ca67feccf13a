"""Detached value learning with action sequences (DEAS).

Kim, Lee, Seo, Lee, Zhu. "DEAS: DEtached value learning with Action Sequence for Scalable Offline RL". ICLR 2026,
arXiv:2510.07730.

An action is an option: a chunk of H recorded steps (`replay.action_chunk`). V learns an upper expectile of Q and Q
learns from V, from recorded chunks only; no policy is asked, so it cannot pull the values of long actions up. Both are
distributions. A flow clones the chunks, and to act the critics choose the best of N that it draws.

Rewards inside a chunk may have a discount of their own: `replay.chunk_discount` is gamma_1, `replay.discount` gamma_2.

The paper could be read in its abstract and in third-party notes; formulas and numbers are those of the authors' code
for robot policies (github csmile-1006/DEAS-Isaac-GR00T 1bfc846). Differences from it: observations are vectors, encoded
by nothing; the policy is a flow of this size in place of a vision-language-action model; V is a plain network, theirs
residual; ReLU in place of GELU; targets are cut to the range of the distribution, beyond which theirs divides 0 by 0;
a termination anywhere in the chunk ends it, theirs the product of all flags; Adam. The notes say that V's target is a
Gaussian around Q, the code takes the distribution of the critic that is least: `value_target`.

Letters: B batch, H steps of a chunk, E critics, Z bins, N candidates, A action (of a whole chunk), F features.
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
from robot_rl.errors import InputError
from robot_rl.functional.bellman import td_target
from robot_rl.functional.chunk import RULES, chunk_weight
from robot_rl.functional.distributional import cross_entropy, reduce_distributions
from robot_rl.functional.ensemble import reduce_heads
from robot_rl.functional.flow import candidate_noise, candidates, cloning_loss
from robot_rl.functional.polyak import polyak_update
from robot_rl.networks.build import critic_ensemble, initialization_of, value_network
from robot_rl.networks.critic_head import CriticHead, CriticHeadConfig
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import INITIALIZATIONS
from robot_rl.networks.mlp import MLP
from robot_rl.networks.optimize import adam, descend
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics


@dataclass(kw_only=True)
class DEASConfig:
    """The authors' numbers but for the head: a histogram's range depends on the rewards, so the recipe sets it."""

    actor_hidden: list[int] = field(default_factory=lambda: [512, 512, 512, 512])  # of the flow
    critic_hidden: list[int] = field(default_factory=lambda: [512, 512, 512, 512])
    value_hidden: list[int] = field(default_factory=lambda: [256, 256, 256, 256])
    actor_layer_norm: bool = False
    critic_layer_norm: bool = True  # of Q and V
    critic_count: int = 2
    critic_head: CriticHeadConfig = field(default_factory=CriticHeadConfig)
    """Of Q and V: hl_gauss with 101 bins; a scalar one is IQL's. Range: -1 / (1 - discount) to 0 for rewards of -1 a
    step, 0 to 1 for a reward of 1 at the end."""
    initialization: str = "uniform"  # uniform | orthogonal | xavier_uniform
    hidden_gain: float = 1.0
    last_hidden_gain: float | None = None  # None is `hidden_gain`
    output_gain: float = 1.0

    expectile: float = 0.9
    """In (0, 1): 0.5 makes V the mean of Q, towards 1 its maximum over the data. Their RoboCasa runs: 0.7."""
    value_target: str = "mean"  # mean: around the least Q, as for Q itself | distribution: of the critic that is least
    target_reduction: str = "min"  # over critics, for V and to choose: min | mean
    critic_chunks: str = "all"
    """Chunks cut by the end of their episode: `all` teach Q and V | `terminated`: none cut by a time limit |
    `whole`: none."""
    candidates: int = 10  # N
    temperature: float = 0.0  # exploring draws candidates by softmax(Q / temperature); 0 takes the best
    flow_steps: int = 10  # of Euler's method
    target_rate: float = 0.005
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    value_learning_rate: float = 3e-4
    gradient_clip: float | None = None  # global norm, for each network

    SWITCHABLE: ClassVar[frozenset[str]] = frozenset(
        {"expectile", "value_target", "target_reduction", "critic_chunks", "candidates", "temperature", "flow_steps"}
        | {"target_rate", "actor_learning_rate", "critic_learning_rate", "value_learning_rate", "gradient_clip"}
    )

    def __post_init__(self) -> None:
        require_choice(self.initialization, INITIALIZATIONS, "deas initialization")
        require_choice(self.value_target, ("distribution", "mean"), "deas value_target")
        require_choice(self.target_reduction, ("min", "mean"), "deas target_reduction")
        require_choice(self.critic_chunks, RULES, "deas critic_chunks")
        require_range(self.expectile, 0.001, 0.999, "deas expectile")
        require_range(self.temperature, 0, 1e8, "deas temperature")
        require_range(self.target_rate, 0, 1, "deas target_rate")
        for name in ("critic_count", "candidates", "flow_steps"):
            require_range(getattr(self, name), 1, 10_000, f"deas {name}")
        if self.value_target == "distribution" and self.critic_head.kind not in ("hl_gauss", "c51"):
            raise InputError(
                f"deas value_target=distribution needs bins, but critic_head.kind is {self.critic_head.kind}: set "
                "value_target=mean"
            )
        require_numbers(self, "deas")


# Losses; that of Q is the critic head's, that of the flow is functional.flow.cloning_loss -----------------------------
def expectile_weight(q: Tensor, v: Tensor, expectile: float) -> Tensor:
    """|expectile - 1[q < v]|: how much a chunk counts for V. Shapes: (B,), (B,) -> (B,)."""
    return torch.where(q < v, 1 - expectile, expectile)


def value_loss(
    v_raw: Tensor,
    q_raw: Tensor,
    *,
    head: CriticHead,
    expectile: float,
    reduction: str,
    target: str,
    weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """L_V = mean of w |expectile - 1[q < v]| error(V, Q), q reduced over target critics, and v.

    The error is the cross-entropy against the distribution of the reduced critic (`distribution`), or the head's own
    against q (`mean`), for a scalar head the squared error of IQL. `q_raw` takes no gradient.
    Shapes: v_raw (B, Z), q_raw (E, B, Z), weight (B,) -> (), (B,).
    """
    q_each = head.q(q_raw.detach())  # (E, B)
    q, v = reduce_heads(q_each, reduction), head.q(v_raw)
    share = expectile_weight(q, v.detach(), expectile)
    share = share if weight is None else weight * share
    if target == "distribution":
        wanted = reduce_distributions(q_raw.detach().softmax(dim=-1), q_each, reduction)  # (1, B, Z)
        loss = (share * cross_entropy(v_raw[None], wanted)[0]).mean()
    else:
        loss = head.error(v_raw[None], q, weight=share)[0]
    return loss, v.detach()


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class DEAS:
    """Everything that a checkpoint holds."""

    config: DEASConfig
    action_size: int  # of a chunk
    encoder: FlatEncoder
    flow: MLP  # (features, x_t, t) -> velocity
    critic: Ensemble
    target_critic: Ensemble
    value_network: MLP  # features -> Z
    optimizers: dict[str, Optimizer]  # flow, critic, value_network
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Which steps of a chunk were recorded."""
        return frozenset({"valid"})

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """One gradient step each on V, Q and the flow, per chunk of rows."""
        parts = list(chunks(batch, critic_updates))
        features, next_features = self.encoder.both(batch)
        metrics: Metrics = {}
        for rows in parts:
            metrics = self._update_values(batch, features[rows], next_features[rows], rows)
            metrics |= self._update_flow(batch, features[rows], rows)
            self.updates += 1
        return metrics

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The best of N chunks of the flow, from fixed noise where it does not explore. Shapes: (B, *) -> (B, A)."""
        config = self.config
        with torch.no_grad():
            features = self.encoder(observation)
            noise = candidate_noise(features, config.candidates, self.action_size, self.generator if explore else None)
            action = candidates(self.flow, features, noise, config.flow_steps)  # (B, N, A)
            q = reduce_heads(self.critic(features, action), config.target_reduction)  # (B, N)
            if explore and config.temperature > 0:
                share = (q / config.temperature).softmax(dim=1)
                chosen = torch.multinomial(share, 1, generator=self.generator)[:, 0]
            else:
                chosen = q.argmax(dim=1)
            return chosen_action(action, chosen)

    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Mean of the online critics. Shapes: each (B, *), (B, A) -> (B,)."""
        return self.critic.mean(self.encoder(observation), action)

    def _update_values(self, batch: Batch, features: Tensor, next_features: Tensor, rows: slice) -> Metrics:
        config, head, action = self.config, self.critic.head, batch.action[rows]
        reward, discount = batch.reward[rows], batch.discount[rows]
        valid = None if batch.valid is None else batch.valid[rows]
        weight = chunk_weight(valid, discount, config.critic_chunks)
        with torch.no_grad():
            q_raw = self.target_critic.raw(features, action)  # (E, B, Z)
            target = td_target(reward, discount, head.q(self.value_network(next_features)))  # by V before its step
        v_loss, v = value_loss(
            self.value_network(features),
            q_raw,
            head=head,
            expectile=config.expectile,
            reduction=config.target_reduction,
            target=config.value_target,
            weight=weight,
        )
        self._descend("value_network", v_loss, config.value_learning_rate)

        raw = self.critic.raw(features, action)  # (E, B, Z)
        q_loss = head.error(raw, target, weight=weight).mean()
        self._descend("critic", q_loss, config.critic_learning_rate)
        polyak_update(self.target_critic, self.critic, config.target_rate)
        return head.metrics(target) | {
            "value/loss": v_loss.detach(),
            "value/v": v.mean(),
            "critic/td_loss": q_loss.detach(),
            "critic/q": head.q(raw.detach()).mean(),
            "critic/target": target.mean(),
        }

    def _update_flow(self, batch: Batch, features: Tensor, rows: slice) -> Metrics:
        valid = None if batch.valid is None else batch.valid[rows]
        loss = cloning_loss(self.flow, features, batch.action[rows], valid, self.generator)
        self._descend("flow", loss, self.config.actor_learning_rate)
        return {"actor/flow_loss": loss.detach()}

    def _descend(self, name: str, loss: Tensor, rate: float) -> None:
        descend(self.optimizers[name], loss, learning_rate=rate, gradient_clip=self.config.gradient_clip)


def create(
    config: DEASConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> DEAS:
    """Networks from the spec's shapes; the target starts as a copy and takes no gradient."""
    encoder = FlatEncoder(spec, statistics)
    (action_size,) = spec.action.shape
    critic = critic_ensemble(config, encoder.features, action_size, seeds, device, head=config.critic_head)
    flow = MLP(
        encoder.features + action_size + 1,
        config.actor_hidden,
        action_size,
        layer_norm=config.actor_layer_norm,
        initialization=initialization_of(config),
        generator=seeds.torch("flow"),
    ).to(device)
    value = value_network(config, encoder.features, seeds, device, outputs=critic.head.outputs)
    return DEAS(
        config=config,
        action_size=action_size,
        encoder=encoder.to(device),
        flow=flow,
        critic=critic,
        target_critic=deepcopy(critic).requires_grad_(False),
        value_network=value,
        optimizers={
            "flow": adam(flow, config.actor_learning_rate),
            "critic": adam(critic, config.critic_learning_rate),
            "value_network": adam(value, config.value_learning_rate),
        },
        generator=seeds.torch("agent", device=device),
    )
