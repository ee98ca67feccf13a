"""Coarse-to-fine Q-network (CQN), and with action sequences CQN-AS.

Seo, Uruç, James. "Continuous Control with Coarse-to-fine Reinforcement Learning". CoRL 2024, arXiv:2407.07787.
Seo, Abbeel. "Reinforcement Learning with Action Sequence for Data-Efficient Robot Learning". arXiv:2411.12155, 2024.

There is no policy: each dimension of the action is cut into a few bins, the best is taken and cut into bins again. Each
level, step and dimension has a Q of its own, learned from itself alone: r + discount * Q'(s', a'), a' the best bins of
the online network, valued by the target network. With sequences (`replay.action_chunk`) the network values H actions
from s on, though the reward is that of one step, or of `replay.n_step` of them (`replay.n_step_counts` steps).

On recorded rows two terms make the recorded bin the best: a margin and, with distributions, stochastic dominance.

Formulas and numbers are those of the authors' code (github younggyoseo/CQN-AS 00b4886: `humanoid_src` for vectors,
`rlbench_src` for images and demonstrations); the papers could not be opened. Simplifications: observations are vectors,
without the images' encoder and the layer of 64 units behind proprioception in `rlbench_src`; the noise of exploration
is drawn with the decision, where theirs adds it to the step. Theirs plays the mean of what the last H decisions say of
a step, which is a setting of the run (`replay.chunk_ensemble`). Each level is a sequence of its own for the GRU; in
`rlbench_src` one of two ways through the network runs one sequence through all levels. Successful episodes of the robot
are not added to the recorded rows.

Letters: B batch, H steps of a chunk, L levels, D dimensions of a chunk, Z outputs of a bin, A action (of a whole
chunk), F features.
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
from robot_rl.functional.coarse_to_fine import encode, taken
from robot_rl.functional.distributional import cross_entropy, project
from robot_rl.functional.polyak import polyak_update
from robot_rl.networks.coarse_to_fine import CoarseToFineCritic
from robot_rl.networks.critic_head import C51Head, CriticHead, CriticHeadConfig, critic_head
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.initialize import Initialization
from robot_rl.networks.optimize import descend
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics

TIE = 1e-4
"""Bins whose Q differ by less are drawn from uniformly where it may be random: at the start, all are 0."""


@dataclass(kw_only=True)
class CQNConfig:
    """The authors' numbers for vectors (HumanoidBench) but for the target, which there is copied every 1000 updates."""

    critic_width: int = 1024  # of two layers and the GRU
    gru_layers: int = 1  # 0: none, as in CQN
    dueling: bool = False  # a network beside for what all bins have in common
    critic_head: CriticHeadConfig = field(default_factory=CriticHeadConfig)
    """What the outputs of a bin mean. RLBench: c51 with 51 atoms from -2 to 2."""
    levels: int = 3  # L
    bins: int = 5  # of each level: 5^3 = 125 values of each dimension

    padding: str = "learned"
    """Steps past the end of an episode, where the last action repeats: `learned` like others | `masked`, which leaves
    their values without a target though earlier ones learn from them."""
    critic_weight: float = 1.0  # of the TD loss; with demonstrations 0.1
    cloning_weight: float = 0.0  # of margin and dominance on recorded rows; with demonstrations 1
    cloning_margin: float = 0.01  # BiGym: 0.1
    acting_network: str = "online"  # online | target
    exploration_noise: float = 0.01  # deviation, of normalised actions
    target_rate: float = 0.02
    critic_learning_rate: float = 5e-5
    critic_weight_decay: float = 0.1  # AdamW's
    gradient_clip: float | None = None  # global norm

    SWITCHABLE: ClassVar[frozenset[str]] = frozenset(
        {"padding", "critic_weight", "cloning_weight", "cloning_margin", "acting_network", "exploration_noise"}
        | {"target_rate", "critic_learning_rate", "gradient_clip"}
    )

    def __post_init__(self) -> None:
        require_choice(self.padding, ("learned", "masked"), "cqn padding")
        require_choice(self.acting_network, ("online", "target"), "cqn acting_network")
        require_range(self.critic_width, 1, 100_000, "cqn critic_width")
        require_range(self.gru_layers, 0, 100, "cqn gru_layers")
        require_range(self.levels, 1, 100, "cqn levels")
        require_range(self.bins, 2, 10_000, "cqn bins")
        for name in ("critic_weight", "cloning_weight", "cloning_margin", "exploration_noise"):
            require_range(getattr(self, name), 0, 1e8, f"cqn {name}")
        require_range(self.target_rate, 0, 1, "cqn target_rate")
        require_range(self.critic_weight_decay, 0, 1, "cqn critic_weight_decay")
        require_numbers(self, "cqn")
        if self.bins**self.levels > 1 << 20:
            raise InputError(f"cqn bins={self.bins} to the power of levels={self.levels} are finer than float32 tells")


# Losses ---------------------------------------------------------------------------------------------------------------
def td_loss(
    raw: Tensor, next_raw: Tensor, reward: Tensor, discount: Tensor, head: CriticHead, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean over rows, levels and dimensions of the error of Q_ld(s, a) against r + discount * Q'_ld(s', a').

    Every level and dimension learns from itself alone. Also the targets, (B * L * D,).
    Shapes: raw and next_raw (B, L, D, Z), reward and discount (B,), weight (B, L, D) -> (), (B * L * D,).
    """

    def spread_out(each: Tensor) -> Tensor:
        return each[:, None, None].expand(raw.shape[:3]).flatten()

    following, spread_discount = next_raw.detach().flatten(0, 2), spread_out(discount)
    target = td_target(spread_out(reward), spread_discount, head.q(following))
    if isinstance(head, C51Head):
        wanted = project_rows(next_raw.detach().softmax(dim=-1).flatten(1, 2), reward, discount, head)
        error = cross_entropy(raw.flatten(1, 2), wanted)
        return (error if weight is None else weight.flatten(1) * error).mean(), target
    spread = head.spread(following[None], spread_discount, "mean")
    counts = None if weight is None else weight.flatten()
    return head.error(raw.flatten(0, 2)[None], target, spread, counts)[0], target


def project_rows(probability: Tensor, reward: Tensor, discount: Tensor, head: C51Head) -> Tensor:
    """C51's projection of N distributions in each row, which share its r + discount * z: where each atom goes to.

    Shapes: (B, N, Z), (B,), (B,) -> (B, N, Z).
    """
    atoms = torch.linspace(head.minimum, head.maximum, head.outputs, dtype=reward.dtype, device=reward.device)
    moved = (reward[:, None] + discount[:, None] * atoms).unsqueeze(2)  # (B, Z, 1)
    shares = project(moved, torch.ones_like(moved), head.minimum, head.maximum, head.outputs)  # (B, Z, Z)
    return torch.bmm(probability, shares)


def margin_loss(q: Tensor, q_taken: Tensor, margin: float) -> Tensor:
    """Mean over levels, dimensions and bins of max(margin - (Q(s, a) - Q(s, bin)), 0), also where the bin is a's.

    Shapes: (B, L, D, bins), (B, L, D) -> (B,).
    """
    return (margin - (q_taken.unsqueeze(3) - q)).clamp(min=0).mean(dim=(1, 2, 3))


def dominance_loss(probability: Tensor, probability_taken: Tensor) -> Tensor:
    """Mean over levels, dimensions and bins of sum_z max(F_a(z) - F_bin(z), 0), F cumulative.

    It is 0 where the returns of the recorded bin dominate those of every other stochastically, in first order.
    Shapes: (B, L, D, bins, Z), (B, L, D, Z) -> (B,).
    """
    difference = probability_taken.cumsum(dim=-1).unsqueeze(3) - probability.cumsum(dim=-1)
    return difference.clamp(min=0).sum(dim=-1).mean(dim=(1, 2, 3))


def mean_of_recorded(loss: Tensor, recorded: Tensor | None) -> Tensor:
    """Mean over the recorded rows, 0 without any. Shapes: (B,), (B,) bool -> ()."""
    if recorded is None:
        return loss.mean()
    return (loss * recorded).sum() / recorded.sum().clamp(min=1)


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class CQN:
    """Everything that a checkpoint holds."""

    config: CQNConfig
    encoder: FlatEncoder
    critic: CoarseToFineCritic
    target_critic: CoarseToFineCritic
    optimizers: dict[str, Optimizer]  # critic
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Which steps of a chunk were recorded, and, to clone, which rows are of a data set."""
        return frozenset({"valid", "recorded"} if self.config.cloning_weight > 0 else {"valid"})

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """One gradient step and a Polyak step of the target, per chunk of rows."""
        parts = list(chunks(batch, critic_updates))
        features, next_features = self.encoder.both(batch)
        metrics: Metrics = {}
        for rows in parts:
            metrics = self._update_critic(batch, features[rows], next_features[rows], rows)
            self.updates += 1
        return metrics

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The best bins, with noise where it explores. Shapes: each (B, *) -> (B, A)."""
        config = self.config
        network = self.target_critic if config.acting_network == "target" else self.critic
        with torch.no_grad():
            action = self._greedy(network, self.encoder(observation), self.generator if explore else None)
            if explore:
                noise = torch.randn(action.shape, generator=self.generator, device=action.device)
                action = (action + config.exploration_noise * noise).clamp(-1, 1)
            return action

    @torch.no_grad()
    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Mean over levels and dimensions of the online network. Shapes: each (B, *), (B, A) -> (B,)."""
        chosen, middle = encode(action, self.config.levels, self.config.bins)
        raw = taken(self.critic(self.encoder(observation), middle), chosen)
        return self.critic.head.q(raw).mean(dim=(1, 2))

    def _greedy(self, network: CoarseToFineCritic, features: Tensor, generator: torch.Generator | None) -> Tensor:
        """The middle of the best bin of the last level; ties by lot where there is a generator. Shapes: -> (B, A)."""
        config, size = self.config, self.critic.action_size
        low, width = features.new_full((len(features), size), -1.0), 2.0
        for level in range(config.levels):
            q = network.head.q(network(features, (low + width / 2)[:, None], level))[:, 0]  # (B, D, bins)
            best = q.argmax(dim=2)
            if generator is not None:
                drawn = torch.randint(config.bins, best.shape, generator=generator, device=best.device)
                best = torch.where(q.amax(dim=2) - q.amin(dim=2) < TIE, drawn, best)
            width /= config.bins
            low = low + best * width
        return low + width / 2

    def _update_critic(self, batch: Batch, features: Tensor, next_features: Tensor, rows: slice) -> Metrics:
        config, head = self.config, self.critic.head
        with torch.no_grad():
            next_action = self._greedy(self.critic, next_features, self.generator)
            next_chosen, next_middle = encode(next_action, config.levels, config.bins)
            next_raw = taken(self.target_critic(next_features, next_middle), next_chosen)  # (B, L, D, Z)
        chosen, middle = encode(batch.action[rows], config.levels, config.bins)
        every = self.critic(features, middle)  # (B, L, D, bins, Z)
        raw = taken(every, chosen)
        weight = None
        if batch.valid is not None and config.padding == "masked":
            steps = batch.valid[rows].repeat_interleave(chosen.shape[2] // batch.valid.shape[1], dim=1)  # (B, D)
            weight = steps[:, None].expand(chosen.shape).to(raw.dtype)
        error, target = td_loss(raw, next_raw, batch.reward[rows], batch.discount[rows], head, weight)
        loss, q = config.critic_weight * error, head.q(raw)
        metrics = {
            "critic/td_loss": error.detach(),
            "critic/q": q.detach().mean(),
            "critic/target": target.mean(),
        } | head.metrics(target)
        if config.cloning_weight > 0:
            recorded = None if batch.recorded is None else batch.recorded[rows]
            margin = mean_of_recorded(margin_loss(head.q(every), q, config.cloning_margin), recorded)
            loss = loss + config.cloning_weight * margin
            metrics["critic/margin_loss"] = margin.detach()
            if config.critic_head.kind in ("c51", "hl_gauss"):
                each = dominance_loss(every.softmax(dim=-1), raw.softmax(dim=-1))
                dominance = mean_of_recorded(each, recorded)
                loss = loss + config.cloning_weight * dominance
                metrics["critic/dominance_loss"] = dominance.detach()
        rate, clip = config.critic_learning_rate, config.gradient_clip
        descend(self.optimizers["critic"], loss, learning_rate=rate, gradient_clip=clip)
        polyak_update(self.target_critic, self.critic, config.target_rate)
        return metrics


def create(
    config: CQNConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> CQN:
    """Networks from the spec's shapes; the target starts as a copy and takes no gradient."""
    encoder = FlatEncoder(spec, statistics)
    critic = CoarseToFineCritic(
        encoder.features,
        spec.action.shape[0] // spec.action_chunk,
        spec.action_chunk,
        levels=config.levels,
        bins=config.bins,
        width=config.critic_width,
        gru_layers=config.gru_layers,
        dueling=config.dueling,
        head=critic_head(config.critic_head),
        initialization=Initialization(kind="orthogonal", hidden_gain=1.0),
        generator=seeds.torch("critic"),
    ).to(device)
    rate, decay = config.critic_learning_rate, config.critic_weight_decay
    return CQN(
        config=config,
        encoder=encoder.to(device),
        critic=critic,
        target_critic=deepcopy(critic).requires_grad_(False),
        optimizers={"critic": torch.optim.AdamW(critic.parameters(), lr=rate, weight_decay=decay, fused=True)},
        generator=seeds.torch("agent", device=device),
    )
