"""Q-Transformer: Q of one action dimension after another, learned offline from returns and by dynamic programming.

Chebotar et al. "Q-Transformer: Scalable Offline Reinforcement Learning via Autoregressive Q-Functions". CoRL 2023,
arXiv:2309.10150.

There is no policy. Each dimension of the action is cut into bins; a causal transformer says what each bin of a
dimension is worth, given the state and the bins of the dimensions before. A dimension learns the best of the next one;
the last learns r + discount * max Q of the first one in s' (equation 1), or after several steps (`replay.n_step`). No
target lies below the return that was really had. Bins that were not recorded are drawn to the lowest return there is, 0
with the paper's rewards.

The paper could not be opened: equation and section numbers are those that a re-implementation names (lucidrains'
q-transformer 01e4ab3), whose numbers are the defaults where it has them; it was read for the architecture, not run. Its
regression of the last dimension on raw logits, and its bound on them, were not taken over. Differences: observations
are vectors of one step, with or without an instruction among them, in place of images of several steps that an
EfficientNet with FiLM reads; Q goes through a sigmoid between two settings, for rewards other than the paper's 0 and 1;
the state is one token. With `replay.action_chunk` the dimensions are those of all steps of a chunk.

Letters: B batch, D dimensions of a chunk, Z bins, A action (of a whole chunk), F features.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from robot_rl.algorithms.agent import chunks, require_numbers
from robot_rl.checks import require_range
from robot_rl.errors import InputError
from robot_rl.functional.autoregressive import dimension_loss, dimension_targets, recorded_bin, unseen_loss
from robot_rl.functional.coarse_to_fine import decode, encode
from robot_rl.functional.polyak import polyak_update
from robot_rl.networks.autoregressive import AutoregressiveCritic
from robot_rl.networks.critic_head import target_outside
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.optimize import adam, descend
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics


@dataclass(kw_only=True)
class QTransformerConfig:
    """Bins, range and weights as published, a network for two CPU cores."""

    bins: int = 256  # Z, of each dimension
    critic_width: int = 64
    critic_blocks: int = 2  # layers of attention
    attention_heads: int = 4
    value_minimum: float = 0.0
    """Lowest return, to which unrecorded bins are drawn; rewards of -1 a step: -1 / (1 - discount)."""
    value_maximum: float = 1.0  # highest return; of rewards of -1 a step: 0

    conservative_weight: float = 1.0  # of the term that draws unrecorded bins to `value_minimum`
    return_bound: bool = True  # targets are at least the return that was had
    exploration_noise: float = 0.01  # deviation, of normalised actions; ours
    target_rate: float = 0.005
    critic_learning_rate: float = 3e-4
    gradient_clip: float | None = 0.5  # global norm

    SWITCHABLE: ClassVar[frozenset[str]] = frozenset(
        {"conservative_weight", "return_bound", "exploration_noise", "target_rate", "critic_learning_rate"}
        | {"gradient_clip"}
    )

    def __post_init__(self) -> None:
        require_range(self.bins, 2, 10_000, "qtransformer bins")
        require_range(self.critic_width, 1, 100_000, "qtransformer critic_width")
        require_range(self.critic_blocks, 1, 100, "qtransformer critic_blocks")
        require_range(self.attention_heads, 1, 1000, "qtransformer attention_heads")
        require_range(self.value_minimum, -1e8, 1e8, "qtransformer value_minimum")
        require_range(self.value_maximum, -1e8, 1e8, "qtransformer value_maximum")
        require_range(self.conservative_weight, 0, 1e8, "qtransformer conservative_weight")
        require_range(self.exploration_noise, 0, 2, "qtransformer exploration_noise")
        require_range(self.target_rate, 0, 1, "qtransformer target_rate")
        require_numbers(self, "qtransformer")
        if self.value_minimum >= self.value_maximum:
            raise InputError(
                f"qtransformer value_minimum={self.value_minimum} must be below value_maximum={self.value_maximum}: "
                "give the lowest and the highest discounted return of the rewards"
            )
        if self.critic_width % self.attention_heads:
            raise InputError(
                f"qtransformer critic_width={self.critic_width} must be a multiple of "
                f"attention_heads={self.attention_heads}"
            )


# Losses ---------------------------------------------------------------------------------------------------------------
def critic_loss(
    q: Tensor, chosen: Tensor, target: Tensor, *, lowest: float, conservative_weight: float
) -> tuple[Tensor, Metrics]:
    """1/2 (Q(s, a) - y)^2, and `conservative_weight` times 1/2 (Q(s, b) - lowest)^2 of the other bins b (section 4.2).

    Shapes: q (B, D, Z), chosen (B, D) of the recorded bins, target (B, D) -> ().
    """
    recorded = recorded_bin(q, chosen)
    error, unseen = dimension_loss(recorded, target), unseen_loss(q, chosen, lowest)
    metrics = {
        "critic/td_loss": error.detach(),
        "critic/conservative_loss": unseen.detach(),
        "critic/q": recorded.detach()[:, -1].mean(),  # of whole actions
        "critic/target": target[:, -1].mean(),
    }
    return error + conservative_weight * unseen, metrics


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class QTransformer:
    """Everything that a checkpoint holds."""

    config: QTransformerConfig
    encoder: FlatEncoder
    critic: AutoregressiveCritic
    target_critic: AutoregressiveCritic
    optimizers: dict[str, Optimizer]  # critic
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Returns, where they bound the targets."""
        return frozenset({"monte_carlo_return"} if self.config.return_bound else ())

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """One gradient step and a Polyak step of the target, per chunk of rows."""
        parts = list(chunks(batch, critic_updates))
        if self.config.return_bound and batch.monte_carlo_return is None:
            raise InputError("return_bound needs monte_carlo_return in the batch: sample with it, or set it to false")
        features, next_features = self.encoder.both(batch)
        metrics: Metrics = {}
        for rows in parts:
            metrics = self._update_critic(batch, features, next_features, rows)
            self.updates += 1
        return metrics

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The middles of the best bins, with noise where it explores. Shapes: each (B, *) -> (B, A)."""
        with torch.no_grad():
            action = decode(self.critic.best(self.encoder(observation))[:, None], self.config.bins)
            if explore:
                noise = torch.randn(action.shape, generator=self.generator, device=action.device)
                action = (action + self.config.exploration_noise * noise).clamp(-1, 1)
            return action

    @torch.no_grad()
    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Of the bins that the action lies in, by the online network. Shapes: each (B, *), (B, A) -> (B,)."""
        return self.critic.of_action(self.encoder(observation), self.bins_of(action))

    @torch.no_grad()
    def target_value(self, features: Tensor, action: Tensor) -> Tensor:
        """As `value`, by the target network, of features. Shapes: (B, F) or (1, F), (B, A) -> (B,)."""
        return self.target_critic.of_action(features, self.bins_of(action))

    def bins_of(self, action: Tensor) -> Tensor:
        """In which bin each dimension lies. Shapes: (B, A) in [-1, 1] -> (B, D) int64."""
        return encode(action, 1, self.config.bins)[0][:, 0]

    def _update_critic(self, batch: Batch, features: Tensor, next_features: Tensor, rows: slice) -> Metrics:
        """From some rows of a batch and of the features of all."""
        config, critic, watched = self.config, self.critic, dict[str, Tensor]()
        features, chosen = features[rows], self.bins_of(batch.action[rows])
        with torch.no_grad():
            following = self.target_critic(features, chosen[:, :-1])
            first = self.target_critic(next_features[rows], chosen[:, :0])[:, 0]  # (B, Z)
            target = dimension_targets(following, batch.reward[rows], batch.discount[rows], first)
            if config.return_bound and batch.monte_carlo_return is not None:
                had = batch.monte_carlo_return[rows, None]
                watched["critic/bound_by_return"] = (had > target).to(target.dtype).mean()
                target = torch.maximum(target, had)
            watched |= target_outside(target, critic.lowest, critic.highest)
            target = target.clamp(critic.lowest, critic.highest)
        q = critic(features, chosen[:, :-1])
        loss, metrics = critic_loss(
            q, chosen, target, lowest=critic.lowest, conservative_weight=config.conservative_weight
        )
        rate, clip = config.critic_learning_rate, config.gradient_clip
        descend(self.optimizers["critic"], loss, learning_rate=rate, gradient_clip=clip)
        polyak_update(self.target_critic, critic, config.target_rate)
        return metrics | watched


def create(
    config: QTransformerConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> QTransformer:
    """Networks from the spec's shapes; the target starts as a copy and takes no gradient."""
    encoder = FlatEncoder(spec, statistics)
    critic = AutoregressiveCritic(
        encoder.features,
        spec.action.shape[0],
        bins=config.bins,
        width=config.critic_width,
        blocks=config.critic_blocks,
        heads=config.attention_heads,
        lowest=config.value_minimum,
        highest=config.value_maximum,
        generator=seeds.torch("critic"),
    ).to(device)
    return QTransformer(
        config=config,
        encoder=encoder.to(device),
        critic=critic,
        target_critic=deepcopy(critic).requires_grad_(False),
        optimizers={"critic": adam(critic, config.critic_learning_rate)},
        generator=seeds.torch("agent", device=device),
    )
