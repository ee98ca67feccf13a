"""What steering finds, put back into a policy: the best of N is cloned, or a consistency head is tuned by the critic.

Best of N: Bai et al. "Digi-Q". 2025, arXiv:2502.15760. Candidates are cached with their values once; each step draws
some of them, and clones the best where its advantage is above a threshold.
Differences: for devices with actions in [-1, 1] instead of text; Q is the smallest of the critics, not the largest, as
the largest of many candidates is chosen already; where a critic has no V, the policy's candidates say what it is worth.

Consistency: Chen et al. "ConRFT". RSS 2025, arXiv:2502.05450; the head is trained, the backbone is not.

Letters: S cached states, K candidates, B batch, A action, E critics, F features.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Adam

from robot_rl.algorithms.agent import Agent
from robot_rl.algorithms.bc import BC
from robot_rl.errors import InputError
from robot_rl.functional.consistency import NoiseScale, reconstruction_loss, tuning_loss
from robot_rl.functional.distillation import best_of, drawn_candidates, reference_value
from robot_rl.functional.ensemble import reduce_heads
from robot_rl.networks.consistency import ConsistencyHead
from robot_rl.steering.agents import FEATURES, WithTargets, behaviour, features_of, is_stochastic, of_features
from robot_rl.types import Batch, Metrics


def values_of(critic: Agent, features: Tensor, action: Tensor) -> Tensor:
    """Of every target critic. Shapes: (B, F), (B, K, A), in [-1, 1] -> (E, B, K).

    Raises:
        InputError: the algorithm has no such critics.
    """
    if not isinstance(critic, WithTargets):
        raise InputError(f"{type(critic).__name__} has no target critics to distill by: use a run of iql or sac")
    found: Tensor = critic.target_critic(features, action)
    return found


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Cached candidates of S states; candidate 0 is the recorded action, the others are samples of the policy."""

    observation: Mapping[str, Tensor]  # each (S, *)
    actions: Tensor  # (S, K, A), in [-1, 1]
    q: Tensor  # (S, K)

    def __len__(self) -> int:
        return len(self.q)


def propose_candidates(
    policy: Agent, critic: Agent, batches: Iterator[Batch], count: int, reduction: str, generator: torch.Generator
) -> Candidates:
    """Candidates and their values for the states of some batches; nothing learns here.

    Args:
        policy: samples.
        critic: judges; of the same observations and actions as the policy.
        batches: of recorded transitions.
        count: K, with the recorded action.
        reduction: one value from those of E critics.
        generator: of the samples.

    Raises:
        InputError: a policy that does not sample, a critic that has no values, or no batches.
    """
    if count > 1 and not is_stochastic(policy):
        raise InputError(f"{type(policy).__name__} always does the same: it has no candidates to choose from")
    sampler = of_features(behaviour(policy), generator)
    observations, actions, values = [], [], []
    with torch.no_grad():
        for batch in batches:
            parts = [batch.action[:, None]]
            if count > 1:
                seen = features_of(policy, batch.observation, critic=True, actor=True)
                rows = {name: value.repeat_interleave(count - 1, dim=0) for name, value in seen.items()}
                parts.append(sampler.act(rows, explore=True).unflatten(0, (len(batch), count - 1)))
            several = torch.cat(parts, dim=1)
            features = features_of(critic, batch.observation, critic=True, actor=False)[FEATURES]
            values.append(reduce_heads(values_of(critic, features, several), reduction))
            observations.append(batch.observation)
            actions.append(several)
    if not actions:
        raise InputError("there are no states to distill on")
    return Candidates(
        observation={key: torch.cat([each[key] for each in observations]) for key in observations[0]},
        actions=torch.cat(actions),
        q=torch.cat(values),
    )


@dataclass(kw_only=True)
class BestOfN:
    """Clones the best of some cached candidates into a behaviour-cloning agent.

    Args:
        student: learns by its own loss.
        candidates: see above.
        drawn: N of K candidates in each step.
        threshold: of the advantage, in units of the return.
        reference: what the best has to beat: `policy` or `recorded`.
        generator: of states and candidates.
    """

    student: BC
    candidates: Candidates
    drawn: int
    threshold: float
    reference: str
    generator: torch.Generator
    cloned: int = field(init=False, default=0)  # rows so far
    seen: int = field(init=False, default=0)

    def step(self, rows: int) -> Metrics:
        """One update on those of `rows` states where the best is good enough; without one nothing changes."""
        cached = self.candidates
        place = torch.randint(len(cached), (rows,), generator=self.generator, device=self.generator.device)
        chosen = drawn_candidates(rows, cached.q.shape[1], self.drawn, self.generator)  # (B, N)
        q = cached.q[place]
        index, advantage, kept = best_of(q.gather(1, chosen), reference_value(q, self.reference), self.threshold)
        candidate = chosen.gather(1, index[:, None])[:, 0]
        self.seen, self.cloned = self.seen + rows, self.cloned + int(kept.sum())
        metrics: Metrics = {"distill/advantage": advantage.mean(), "distill/cloned": kept.float().mean()}
        if not bool(kept.any()):
            return metrics
        place, candidate = place[kept], candidate[kept]
        observation = {key: value[place] for key, value in cached.observation.items()}
        zeros = torch.zeros(len(place), device=cached.q.device)
        batch = Batch(
            observation=observation,
            action=cached.actions[place, candidate],
            reward=zeros,
            discount=zeros,
            next_observation=observation,
        )
        return metrics | self.student.update(batch)


# Consistency ----------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class ConsistencyTuner:
    """Tunes a consistency head on the features of a backbone that is never touched.

    Args:
        head: on the backbone's features.
        critic: judges the head's actions in its own features; None tunes by cloning alone.
        cloning_weight: ConRFT has 1.0 offline and 0.1 online.
        value_weight: ConRFT has 0.0 or 0.1 offline and 1.0 online.
        generator: of noise and its levels.
    """

    head: ConsistencyHead
    generator: torch.Generator
    critic: Agent | None = None
    cloning_weight: float = 1.0
    value_weight: float = 0.1
    learning_rate: float = 3e-4
    scale: NoiseScale = field(default_factory=NoiseScale)
    optimizer: Adam = field(init=False)

    def __post_init__(self) -> None:
        if self.value_weight > 0 and self.critic is None:
            raise InputError(f"value_weight={self.value_weight} needs a critic: name one, or set it to 0")
        self.optimizer = Adam(self.head.parameters(), lr=self.learning_rate)

    def update(self, features: Tensor, action: Tensor, critic_features: Tensor | None = None) -> Metrics:
        """One gradient step. Shapes: (B, F) of the backbone, (B, A) in [-1, 1], (B, F) of the critic."""
        given = features.detach()
        found, sigma = self.head.reconstructed(given, action, self.scale, self.generator)
        cloning = reconstruction_loss(found, action, sigma, self.scale)
        q = torch.zeros(1, 1, dtype=action.dtype, device=action.device)
        if self.critic is not None and self.value_weight > 0:
            if critic_features is None:
                raise ValueError("the critic's own features are needed")
            own = self.sample(given, with_gradient=True)
            q = values_of(self.critic, critic_features.detach(), own[:, None])[:, :, 0]
        loss = tuning_loss(cloning, q, self.cloning_weight, self.value_weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(self.head.parameters()))
        self.optimizer.step()
        return {"actor/loss": loss.detach(), "actor/cloning": cloning.detach(), "actor/q": q.detach().mean()}

    def sample(self, features: Tensor, *, with_gradient: bool = False) -> Tensor:
        """One action in each state. Shapes: (B, F) -> (B, A)."""
        noise = torch.randn(
            len(features), self.head.action_size, generator=self.generator, device=features.device, dtype=features.dtype
        )
        with torch.set_grad_enabled(with_gradient):
            return self.head.from_noise(features, noise, self.scale)
