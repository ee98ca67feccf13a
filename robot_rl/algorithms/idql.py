"""Implicit Diffusion Q-Learning (IDQL).

Hansen-Estruch, Kostrikov, Janner, Kuba, Levine. "IDQL: Implicit Q-Learning as an Actor-Critic Method with Diffusion
Policies". arXiv:2304.10573, 2023.

V and Q learn as in IQL, from recorded actions only. A diffusion model clones the recorded actions, with as many modes
as they have, and knows nothing of value. To act, N actions are drawn from it, and the critics choose: the best one, or,
to explore, one at random with the weights that make the actor which V implicitly evaluates.

Acting without exploring is deterministic: the candidates come from noise of a fixed seed, the same for every state, and
the agent's generator is not touched. So the policy is a function of the state alone, whatever else is in the batch; the
authors draw anew each time.

Formulas and numbers were read in the authors' code (github philippe-eecs/IDQL 7582571), which has two versions of the
agent: `ddpm_iql`, whose network is the default here, and `ddpm_iql_simple` (`activation` swish, `time_features` 128,
`time_width` 256, and a LayerNorm on V's input, in whose place observations are normalised here). Differences from both:
weights of the blocks start as the others do, theirs by LeCun's rule; each update takes one batch for actor and critics,
theirs 512 rows for the actor and in fine-tuning 256 for the critics; V and Q step before the actor, which uses neither;
the sampler's temperature is 1 and its last step is not repeated, as in all their runs. They fine-tune the critics alone
(`train_actor` False), on half recorded rows, and explore with the best action (`exploration` best).

Letters: B batch, E critics, N candidates, A action, F features, T steps of diffusion.
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
from robot_rl.functional.diffusion import denoise, noised
from robot_rl.functional.implicit import value_loss
from robot_rl.functional.polyak import polyak_update
from robot_rl.functional.schedule import cosine_then_hold
from robot_rl.networks.build import critic_ensemble, initialization_of, value_network
from robot_rl.networks.critic_head import SCALAR, CriticHead, CriticHeadConfig
from robot_rl.networks.denoiser import ACTIVATIONS, Denoiser
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import INITIALIZATIONS
from robot_rl.networks.mlp import MLP
from robot_rl.networks.optimize import adam, descend
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch, Metrics

EVALUATION_SEED = 0
"""Of the noise from which the candidates come where the agent does not explore."""


@dataclass(kw_only=True)
class IDQLConfig:
    """The authors' numbers for MuJoCo, without their schedule; AntMaze: expectile 0.9."""

    actor_width: int = 256  # of the residual stream; the blocks are four times as wide inside
    actor_blocks: int = 3
    actor_layer_norm: bool = True
    actor_dropout: float = 0.1
    activation: str = "mish"  # mish | swish, of the actor
    time_features: int = 64  # sines and cosines of the step of diffusion
    time_width: int = 128
    critic_hidden: list[int] = field(default_factory=lambda: [256, 256])
    value_hidden: list[int] = field(default_factory=lambda: [256, 256])
    critic_layer_norm: bool = False  # of Q and V
    critic_count: int = 2
    critic_head: CriticHeadConfig = field(default_factory=CriticHeadConfig)
    """What a critic's outputs mean: its value, or a distribution of returns (`docs/algorithms/heads.md`)."""
    initialization: str = "xavier_uniform"  # xavier_uniform | orthogonal | uniform
    hidden_gain: float = 1.0
    last_hidden_gain: float | None = None  # None is `hidden_gain`; the actor has no such layer
    output_gain: float = 1.0

    diffusion_steps: int = 5
    """T. Even an exact model blurs with few: of two narrow modes at -0.7 and 0.7 a fifth of the samples lie between."""
    candidates: int = 64  # N; evaluated with 16, 64 and 256, and with 128 after fine-tuning
    exploration: str = "weighted"  # weighted: by |expectile - 1[Q < V]| | best: of new candidates
    expectile: float = 0.7
    """In (0, 1): 0.5 makes V the mean of Q, towards 1 its maximum over the data."""
    target_rate: float = 0.005
    actor_average_rate: float = 0.001
    """Polyak rate of the average of the actor that acts; 0 lets the actor itself act."""
    train_actor: bool = True
    actor_learning_rate: float = 3e-4
    actor_weight_decay: float = 1e-4  # AdamW's
    critic_learning_rate: float = 3e-4
    value_learning_rate: float = 3e-4
    actor_schedule_steps: int | None = None
    """Updates over which a cosine takes the actor's learning rate to 0, where it then stays; theirs: the whole run."""
    gradient_clip: float | None = None  # global norm, for each network

    SWITCHABLE: ClassVar[frozenset[str]] = frozenset(
        {"candidates", "exploration", "expectile", "target_rate", "actor_average_rate", "train_actor"}
        | {"actor_learning_rate", "critic_learning_rate", "value_learning_rate", "actor_schedule_steps"}
        | {"gradient_clip"}
    )

    def __post_init__(self) -> None:
        require_choice(self.activation, ACTIVATIONS, "idql activation")
        require_choice(self.initialization, INITIALIZATIONS, "idql initialization")
        require_choice(self.exploration, ("weighted", "best"), "idql exploration")
        for name in ("actor_width", "actor_blocks", "time_width", "critic_count", "diffusion_steps", "candidates"):
            require_range(getattr(self, name), 1, 100_000, f"idql {name}")
        require_range(self.time_features, 2, 100_000, "idql time_features")
        require_range(self.actor_dropout, 0, 0.99, "idql actor_dropout")
        require_range(self.expectile, 0.001, 0.999, "idql expectile")
        require_range(self.target_rate, 0, 1, "idql target_rate")
        require_range(self.actor_average_rate, 0, 1, "idql actor_average_rate")
        require_range(self.actor_weight_decay, 0, 1, "idql actor_weight_decay")
        if self.actor_schedule_steps is not None:
            require_range(self.actor_schedule_steps, 1, 10**12, "idql actor_schedule_steps")
        require_numbers(self, "idql")


# Losses; L_V is functional.implicit.value_loss ------------------------------------------------------------------------
def critic_loss(raw: Tensor, reward: Tensor, discount: Tensor, next_v: Tensor, *, head: CriticHead = SCALAR) -> Tensor:
    """L_Q: (r + discount * V(s') - Q_i)^2, averaged over rows and critics, or another error of their outputs.

    Shapes: (E, B, Z), (B,)... -> ().
    """
    return head.error(raw, td_target(reward, discount, next_v).detach()).mean()


def noise_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """DDPM's equation 14: |noise - predicted|^2, summed over dimensions, averaged over rows.

    Shapes: (B, A), (B, A) -> ().
    """
    if predicted.ndim != 2 or predicted.shape != noise.shape:
        raise ValueError(f"expected (B, A) twice, found {tuple(predicted.shape)} and {tuple(noise.shape)}")
    return (noise - predicted).square().sum(dim=1).mean()


def candidate_weight(q: Tensor, v: Tensor, expectile: float) -> Tensor:
    """|L'(u)| / (2 |u|) = |expectile - 1[u < 0]| with u = Q(s, a_n) - V(s): the implicit actor over its prior.

    Shapes: q (B, N), v (B,) -> (B, N).
    """
    return torch.where(q < v[:, None], 1 - expectile, expectile)


# Agent ----------------------------------------------------------------------------------------------------------------
@dataclass(kw_only=True, eq=False)
class IDQL:
    """Everything that a checkpoint holds."""

    config: IDQLConfig
    action_size: int
    encoder: FlatEncoder
    actor: Denoiser
    average_actor: Denoiser
    critic: Ensemble
    target_critic: Ensemble
    value_network: MLP
    optimizers: dict[str, Optimizer]  # actor, critic, value_network
    generator: torch.Generator
    updates: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """One gradient step each on V, Q and the diffusion model, per chunk of rows."""
        parts = list(chunks(batch, critic_updates))
        features, next_features = self.encoder.both(batch)
        metrics: Metrics = {}
        for rows in parts:
            metrics = self._update_critic(batch, features[rows], next_features[rows], rows)
            if self.config.train_actor:
                metrics |= self._update_actor(features[rows], batch.action[rows])
            self.updates += 1
        return metrics

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """The best of N candidates, or one of N drawn by weight to explore. Shapes: each (B, *) -> (B, A)."""
        with torch.no_grad():
            features = self.encoder(observation)
            candidates = self._candidates(features, explore)  # (B, N, A)
            q = self.target_critic(features, candidates).amin(dim=0)  # (B, N)
            if explore and self.config.exploration == "weighted":
                weight = candidate_weight(q, self.value_network(features)[:, 0], self.config.expectile)
                chosen = torch.multinomial(weight, 1, generator=self.generator)[:, 0]
            else:
                chosen = q.argmax(dim=1)
            return chosen_action(candidates, chosen)

    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Mean of the online critics. Shapes: each (B, *), (B, A) -> (B,)."""
        return self.critic.mean(self.encoder(observation), action)

    def _candidates(self, features: Tensor, explore: bool) -> Tensor:
        """Actions of the diffusion model. Shapes: (B, F) -> (B, N, A)."""
        config, rows, device = self.config, len(features), features.device
        own = self.generator if explore else torch.Generator(device).manual_seed(EVALUATION_SEED)
        shape = (config.diffusion_steps, rows if explore else 1, config.candidates, self.action_size)
        noise = torch.randn(shape, generator=own, device=device).expand(-1, rows, -1, -1)
        actor = self.average_actor if config.actor_average_rate > 0 else self.actor
        repeated = features.repeat_interleave(config.candidates, dim=0)  # (B * N, F)
        action = denoise(lambda x, step: actor(repeated, x, step), noise.flatten(1, 2))
        return action.view(rows, config.candidates, self.action_size)

    def _update_critic(self, batch: Batch, features: Tensor, next_features: Tensor, rows: slice) -> Metrics:
        config, action = self.config, batch.action[rows]
        with torch.no_grad():
            q_target = self.target_critic(features, action).amin(dim=0)  # (B,)
        v = self.value_network(features)[:, 0]
        v_loss = value_loss(q_target, v, config.expectile)
        self._descend("value_network", v_loss, config.value_learning_rate)

        with torch.no_grad():
            next_v = self.value_network(next_features)[:, 0]  # by the V just updated
        head, raw = self.critic.head, self.critic.raw(features, action)  # (E, B, Z)
        q_loss = critic_loss(raw, batch.reward[rows], batch.discount[rows], next_v, head=head)
        self._descend("critic", q_loss, config.critic_learning_rate)
        polyak_update(self.target_critic, self.critic, config.target_rate)
        return {
            "value/loss": v_loss.detach(),
            "value/v": v.detach().mean(),
            "critic/td_loss": q_loss.detach(),
            "critic/q": head.q(raw.detach()).mean(),
        } | head.metrics(td_target(batch.reward[rows], batch.discount[rows], next_v))

    def _update_actor(self, features: Tensor, action: Tensor) -> Metrics:
        config, device = self.config, features.device
        step = torch.randint(config.diffusion_steps, (len(action), 1), generator=self.generator, device=device)
        noise = torch.randn(action.shape, generator=self.generator, device=device)
        x = noised(action, noise, step, config.diffusion_steps)
        loss = noise_loss(self.actor(features, x, step, self.generator), noise)
        steps = config.actor_schedule_steps
        share = 1.0 if steps is None else cosine_then_hold(self.updates, steps)
        self._descend("actor", loss, config.actor_learning_rate * share)
        if config.actor_average_rate > 0:
            polyak_update(self.average_actor, self.actor, config.actor_average_rate)
        return {"actor/loss": loss.detach()}

    def _descend(self, name: str, loss: Tensor, rate: float) -> None:
        descend(self.optimizers[name], loss, learning_rate=rate, gradient_clip=self.config.gradient_clip)


def create(
    config: IDQLConfig,
    spec: Spec,
    seeds: Seeds,
    device: torch.device,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
) -> IDQL:
    """Networks from the spec's shapes; the target and the average start as copies and take no gradient."""
    encoder = FlatEncoder(spec, statistics)
    (action_size,) = spec.action.shape
    actor = Denoiser(
        encoder.features,
        action_size,
        width=config.actor_width,
        blocks=config.actor_blocks,
        time_features=config.time_features,
        time_width=config.time_width,
        activation=config.activation,
        layer_norm=config.actor_layer_norm,
        dropout=config.actor_dropout,
        initialization=initialization_of(config),
        generator=seeds.torch("actor"),
    ).to(device)
    critic = critic_ensemble(config, encoder.features, action_size, seeds, device, head=config.critic_head)
    value = value_network(config, encoder.features, seeds, device)
    rate, decay = config.actor_learning_rate, config.actor_weight_decay
    return IDQL(
        config=config,
        action_size=action_size,
        encoder=encoder.to(device),
        actor=actor,
        average_actor=deepcopy(actor).requires_grad_(False),
        critic=critic,
        target_critic=deepcopy(critic).requires_grad_(False),
        value_network=value,
        optimizers={
            "actor": torch.optim.AdamW(actor.parameters(), lr=rate, weight_decay=decay, fused=True),
            "critic": adam(critic, config.critic_learning_rate),
            "value_network": adam(value, config.value_learning_rate),
        },
        generator=seeds.torch("agent", device=device),
    )
