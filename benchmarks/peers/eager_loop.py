"""The straightforward eager loop: modules of `nn.Linear`, one critic after the other, Adam parameter by parameter."""

import math
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from itertools import pairwise

import torch
from protocol import ACTION, BATCH, CRITICS, DISCOUNT, HIDDEN, OBSERVATION, TARGET_RATE, columns, serve
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

N = 10  # actions from each source of the conservative term


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Linear and ReLU."""
    widths = [inputs, *HIDDEN]
    layers = [each for a, b in pairwise(widths) for each in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def adam(parameters: Iterable[Tensor]) -> torch.optim.Adam:
    """The plain loop over parameters."""
    return torch.optim.Adam(parameters, lr=3e-4, foreach=False)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def follow(target: nn.Module, source: nn.Module) -> None:
    """Polyak."""
    with torch.no_grad():
        for a, b in zip(target.parameters(), source.parameters(), strict=True):
            a.mul_(1 - TARGET_RATE).add_(TARGET_RATE * b)


class Loop:
    """Data, actor and critics of all cases."""

    def __init__(self, case: str) -> None:
        data = {name: torch.from_numpy(values) for name, values in columns().items()}
        self.observation, self.action, self.reward = data["observation"], data["action"], data["reward"]
        self.discount = DISCOUNT * (1 - data["terminated"])
        self.case, self.count = case, 0
        self.actor = network(OBSERVATION, ACTION if case in ("td3_bc", "iql") else 2 * ACTION)
        self.critics = nn.ModuleList(network(OBSERVATION + ACTION, 1) for _ in range(CRITICS.get(case, 2)))
        self.targets = deepcopy(self.critics).requires_grad_(False)
        self.actor_optimizer, self.critic_optimizer = adam(self.actor.parameters()), adam(self.critics.parameters())

    def sample(self) -> tuple[Tensor, ...]:
        """A batch."""
        rows = torch.randint(len(self.reward) - 1, (BATCH,))
        reward, discount = self.reward[rows], self.discount[rows]
        return self.observation[rows], self.action[rows], reward, discount, self.observation[rows + 1]

    @staticmethod
    def judge(critics: Iterable[nn.Module], observation: Tensor, action: Tensor) -> Tensor:
        """Q of each critic. Shapes: (B, O), (B, A) -> (E, B)."""
        return torch.stack([critic(torch.cat([observation, action], dim=-1))[..., 0] for critic in critics])


class SoftActorCritic(Loop):
    """SAC; REDQ with a subset in the target; CQL and Cal-QL with the conservative term."""

    def __init__(self, case: str) -> None:
        super().__init__(case)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.log_multiplier = nn.Parameter(torch.zeros(()))
        self.temperature_optimizer, self.multiplier_optimizer = (
            adam([self.log_temperature]),
            adam([self.log_multiplier]),
        )

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Action and log density."""
        mean, log_std = self.actor(observation).chunk(2, dim=-1)
        normal = Normal(mean, log_std.clamp(-20, 2).exp())
        u = normal.rsample()
        return u.tanh(), (normal.log_prob(u) - 2 * (math.log(2) - u - F.softplus(-2 * u))).sum(-1)

    def update(self) -> None:
        """Critics, actor, temperature, targets."""
        observation, action, reward, discount, following = self.sample()
        with torch.no_grad():
            if self.case.startswith("calql"):  # the best of several
                several = following.repeat_interleave(N, dim=0)
                value = self.judge(self.targets, several, self.act(several)[0]).amin(0).view(-1, N).amax(1)
            else:
                next_action, log_prob = self.act(following)
                targets: Sequence[nn.Module] = list(self.targets)
                if self.case == "redq":
                    targets = [targets[index] for index in torch.randperm(len(targets))[:2].tolist()]
                value = self.judge(targets, following, next_action).amin(0) - self.log_temperature.exp() * log_prob
            goal = reward + discount * value
        q = self.judge(self.critics, observation, action)
        loss = (q - goal).square().mean(1).sum()
        if self.case in ("cql", "calql", "calql_10"):
            loss = loss + self.conservative(observation, following, q)
        descend(self.critic_optimizer, loss)
        sampled, log_prob = self.act(observation)
        q = self.judge(self.critics, observation, sampled)
        q = q.mean(0) if self.case == "redq" else q.amin(0)
        descend(self.actor_optimizer, (self.log_temperature.exp().detach() * log_prob - q).mean())
        descend(self.temperature_optimizer, -(self.log_temperature.exp() * (log_prob.detach() - ACTION)).mean())
        follow(self.targets, self.critics)

    def conservative(self, observation: Tensor, following: Tensor, q: Tensor) -> Tensor:
        """With importance sampling, a tuned multiplier and, for Cal-QL, a floor."""
        several = observation.repeat_interleave(N, dim=0)
        with torch.no_grad():
            current, current_log_prob = self.act(several)
            after, after_log_prob = self.act(following.repeat_interleave(N, dim=0))
        uniform = torch.rand_like(current) * 2 - 1
        terms = []
        for actions, log_prob in ((uniform, None), (current, current_log_prob), (after, after_log_prob)):
            judged = self.judge(self.critics, several, actions).view(len(q), -1, N)
            if self.case.startswith("calql") and log_prob is not None:
                judged = judged.clamp(min=-1000.0)  # stands for the Monte-Carlo return
            terms.append(judged - (ACTION * math.log(0.5) if log_prob is None else log_prob.view(-1, N)))
        difference = (torch.cat(terms, dim=2).logsumexp(2) - q).mean(1)
        gap = 5.0 * (difference - 10.0)
        descend(self.multiplier_optimizer, -(self.log_multiplier.exp() * gap.detach()).mean())
        return (self.log_multiplier.exp().detach() * gap).sum()


class ImplicitQLearning(Loop):
    """IQL."""

    def __init__(self, case: str) -> None:
        super().__init__(case)
        self.value, self.log_std = network(OBSERVATION, 1), nn.Parameter(torch.zeros(ACTION))
        self.value_optimizer = adam(self.value.parameters())
        self.actor_optimizer = adam([*self.actor.parameters(), self.log_std])

    def update(self) -> None:
        """Value, actor, critics, targets."""
        observation, action, reward, discount, following = self.sample()
        with torch.no_grad():
            q = self.judge(self.targets, observation, action).amin(0)
        difference = q - self.value(observation)[:, 0]
        descend(self.value_optimizer, (torch.where(difference < 0, 0.3, 0.7) * difference.square()).mean())
        with torch.no_grad():
            weight = (3.0 * (q - self.value(observation)[:, 0])).exp().clamp(max=100.0)
            goal = reward + discount * self.value(following)[:, 0]
        normal = Normal(self.actor(observation).tanh(), self.log_std.clamp(-5, 2).exp())
        descend(self.actor_optimizer, -(weight * normal.log_prob(action).sum(-1)).mean())
        descend(self.critic_optimizer, (self.judge(self.critics, observation, action) - goal).square().mean(1).sum())
        follow(self.targets, self.critics)


class TD3BehaviourCloning(Loop):
    """TD3+BC."""

    def __init__(self, case: str) -> None:
        super().__init__(case)
        self.target_actor = deepcopy(self.actor).requires_grad_(False)

    def update(self) -> None:
        """Critics; actor and targets every second time."""
        self.count += 1
        observation, action, reward, discount, following = self.sample()
        with torch.no_grad():
            noise = (0.2 * torch.randn_like(action)).clamp(-0.5, 0.5)
            next_action = (self.target_actor(following).tanh() + noise).clamp(-1, 1)
            goal = reward + discount * self.judge(self.targets, following, next_action).amin(0)
        descend(self.critic_optimizer, (self.judge(self.critics, observation, action) - goal).square().mean(1).sum())
        if self.count % 2 == 0:
            own = self.actor(observation).tanh()
            q = self.judge(self.critics[:1], observation, own)[0]
            descend(self.actor_optimizer, -2.5 * q.mean() / q.abs().mean().detach() + F.mse_loss(own, action))
            follow(self.targets, self.critics)
            follow(self.target_actor, self.actor)


def build(case: str) -> Callable[[], object]:
    """The update of one case."""
    if case in ("bc", "awac"):
        raise LookupError(f"no plain loop of {case}")
    kind = {"iql": ImplicitQLearning, "td3_bc": TD3BehaviourCloning}.get(case, SoftActorCritic)
    return kind(case).update


if __name__ == "__main__":
    serve(build)
