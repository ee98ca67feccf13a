"""Whole updates of the soft actor-critic agent against the formulas, written out once more in float64.

Nothing here is of the package but the agent: networks, distributions, losses, Adam and targets are their textbook
formulas on plain tensors, and the random numbers are those that the agent drew.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robot_rl.algorithms import SACConfig, sac
from robot_rl.algorithms.sac import SAC
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch

NETWORKS = ("actor", "critic", "target_critic", "temperature", "lagrange", "average_actor")
Weights = dict[str, dict[str, Tensor]]


class Draws(TorchFunctionMode):
    """Notes what `randn`, `rand` and `randint` give, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.randn, torch.rand, torch.randint):
            self.found.append((func.__name__, result.clone()))
        return result


@dataclass
class Reference:
    """The agent's weights in float64, and its update by the formulas."""

    config: SACConfig
    action_size: int
    weights: Weights
    moments: dict[str, tuple[int, dict[str, Tensor], dict[str, Tensor]]] = field(default_factory=dict)
    gradients: Weights = field(default_factory=dict)  # of the last step of each network
    draws: Iterator[tuple[str, Tensor]] = field(default_factory=lambda: iter([]))

    # Networks ---------------------------------------------------------------------------------------------------------
    def draw(self, kind: str, *shape: int) -> Tensor:
        found, value = next(self.draws)
        assert (found, tuple(value.shape)) == (kind, shape)
        return value if kind == "randint" else value.double()

    def dropped(self, x: Tensor, rate: float) -> Tensor:
        return x if rate == 0 else x * (self.draw("rand", *x.shape) >= rate) / (1 - rate)

    def policy(self, features: Tensor, dropout: float = 0.0, network: str = "actor") -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the deviation."""
        weights, x = self.weights[network], features
        layers = len(self.config.actor_hidden)
        for layer in range(layers):
            x = x @ weights[f"network.layers.{layer}.weight"].T + weights[f"network.layers.{layer}.bias"]
            x = self.dropped(x, dropout)
            if self.config.actor_layer_norm:
                x = normalized(x) * weights[f"network.norms.{layer}.weight"] + weights[f"network.norms.{layer}.bias"]
            x = x.clamp(min=0)
        x = x @ weights[f"network.layers.{layers}.weight"].T + weights[f"network.layers.{layers}.bias"]
        mean, log_std = x[:, : self.action_size], x[:, self.action_size :]
        match self.config.log_std:
            case "state_independent":
                log_std = weights["log_std"] + 0 * mean
            case "affine":
                log_std = weights["log_std_scale"] * log_std + weights["log_std_offset"]
        return mean, log_std.clamp(self.config.log_std_minimum, self.config.log_std_maximum)

    def q(self, weights: dict[str, Tensor], features: Tensor, action: Tensor, heads: Any, dropout: float) -> Tensor:
        """Critic by critic. Shapes: (B, F), (B, A) or (B, N, A) -> (K, B) or (K, B, N)."""
        if action.ndim == 3:
            features = features[:, None].expand(*action.shape[:2], -1)
        inputs = torch.cat([features, action], -1).reshape(-1, features.shape[-1] + self.action_size)
        values = []
        for head in heads:
            x = inputs
            layers = len(self.config.critic_hidden)
            for layer in range(layers):
                x = self.dropped(x @ weights[f"weights.{layer}"][head].T + weights[f"biases.{layer}"][head], dropout)
                if self.config.critic_layer_norm:
                    x = normalized(x) * weights[f"norm_scales.{layer}"][head] + weights[f"norm_offsets.{layer}"][head]
                x = x.clamp(min=0)
            x = x @ weights[f"weights.{layers}"][head].T + weights[f"biases.{layers}"][head]
            values.append(x.reshape(action.shape[:-1]))
        return torch.stack(values)

    def all_heads(self) -> list[int]:
        return list(range(self.config.critic_count))

    def heads(self, subset: int | None) -> list[int]:
        """As drawn: with replacement, or the first of a random order."""
        count = self.config.critic_count
        if subset is None:
            return self.all_heads()
        if self.config.subset_with_replacement:
            return [int(head) for head in self.draw("randint", subset)]
        keys = self.draw("rand", count).tolist()
        return sorted(range(count), key=lambda head: keys[head])[:subset]

    def scalar(self, name: str) -> Tensor:
        config, raw = self.config, self.weights[name]["raw"]
        kind = config.temperature_parameterization
        if name == "lagrange":
            kind = config.conservative_lagrange_parameterization
        return raw.exp() if kind == "exp" else (1 + raw.exp()).log()

    # Losses -----------------------------------------------------------------------------------------------------------
    def critic_update(self, batch: Batch, features: Tensor, next_features: Tensor) -> None:
        config, rows = self.config, len(batch)
        with torch.no_grad():
            next_mean, next_log_std = self.policy(next_features)
            several = max(config.max_target_backup, 1)
            noise = self.draw("randn", rows, several, self.action_size)
            next_action, next_log_prob = squashed(next_mean[:, None], next_log_std[:, None], noise)
            heads = self.heads(config.critic_subset)
            q = self.q(self.weights["target_critic"], next_features, next_action, heads, config.critic_dropout)
            if config.max_target_of == "each":
                value = reduced(q.max(dim=2).values, config.target_reduction)
            else:
                each = reduced(q, config.target_reduction)  # (B, N)
                best = each.argmax(dim=1)
                value = each[torch.arange(rows), best]
                if config.backup_entropy:
                    value = value - self.scalar("temperature") * next_log_prob[torch.arange(rows), best]
            target = batch.reward + batch.discount * value
            weight = torch.ones_like(target)
            if config.disagreement_temperature > 0:
                everyone = self.q(self.weights["target_critic"], next_features, next_action, self.all_heads(), 0.0)
                first = q[:, :, 0] if config.critic_subset is None else everyone[:, :, 0]
                deviation = ((first - first.mean(0)) ** 2).mean(0).sqrt()
                weight = 1 / (1 + (config.disagreement_temperature * deviation).exp()) + 0.5
        critic = self.weights["critic"]
        over_heads = torch.mean if config.critic_reduction == "mean" else torch.sum
        if config.conservative_weight == 0:
            q = self.q(critic, features, batch.action, self.all_heads(), config.critic_dropout)
            loss = over_heads((weight * (q - target) ** 2).mean(1))
        else:
            difference = self.conservative(batch, features, next_mean, next_log_std)  # (K,)
            q = self.q(critic, features, batch.action, self.all_heads(), 0.0)
            loss = over_heads((weight * (q - target) ** 2).mean(1))
            factor: Tensor | float = config.conservative_weight
            if config.conservative_lagrange_gap is not None:
                multiplier = self.scalar("lagrange").clamp(max=config.conservative_lagrange_maximum)
                excess = difference.detach() - config.conservative_lagrange_gap
                self.descend("lagrange", -(multiplier * config.conservative_weight * excess).mean(), "lagrange")
                factor = multiplier.detach() * config.conservative_weight
            loss = loss + factor * over_heads(difference)
        self.descend("critic", loss, "critic")
        for name, value in self.weights["critic"].items():
            follower = self.weights["target_critic"]
            follower[name] = (1 - config.target_rate) * follower[name] + config.target_rate * value.detach()

    def conservative(self, batch: Batch, features: Tensor, next_mean: Tensor, next_log_std: Tensor) -> Tensor:
        config, T = self.config, self.config.conservative_temperature
        shape = (len(batch), config.conservative_samples, self.action_size)
        with torch.no_grad():
            mean, log_std = self.policy(features)
            current, log_current = squashed(mean[:, None], log_std[:, None], self.draw("randn", *shape))
            following, log_next = squashed(next_mean[:, None], next_log_std[:, None], self.draw("randn", *shape))
            uniform = 2 * self.draw("rand", *shape) - 1
        heads = self.heads(config.conservative_subset)
        critic = self.weights["critic"]
        at_data = self.q(critic, features, batch.action, heads, 0.0)
        at_uniform, at_current, at_next = (
            self.q(critic, features, action, heads, 0.0) for action in (uniform, current, following)
        )
        if config.conservative_calibrated:
            assert batch.monte_carlo_return is not None
            floor = batch.monte_carlo_return[None, :, None]
            at_current, at_next = torch.maximum(at_current, floor), torch.maximum(at_next, floor)
        if config.conservative_importance_sampling:
            at_uniform = at_uniform - math.log(0.5**self.action_size)
            terms = [at_uniform, at_current - log_current, at_next - log_next]
        else:
            terms = [at_uniform, at_current, at_next, at_data[:, :, None]]
        total = torch.cat([(each / T).exp() for each in terms], dim=2)
        soft_maximum = T * total.sum(dim=2).log()
        if not config.conservative_importance_sampling and config.conservative_subtract_log_count:
            soft_maximum = soft_maximum - T * math.log(total.shape[2])
        difference = soft_maximum - at_data
        tuned = config.conservative_lagrange_gap is not None
        if not tuned or config.conservative_clip_with_lagrange:
            low, high = config.conservative_clip_minimum, config.conservative_clip_maximum
            difference = difference.clamp(-math.inf if low is None else low, math.inf if high is None else high)
        return difference.mean(1)

    def actor_update(
        self, features: Tensor, next_features: Tensor, recorded: Tensor, critic: dict[str, Tensor]
    ) -> None:
        config = self.config
        mean, log_std = self.policy(features, config.actor_dropout)
        action, log_prob = squashed(mean, log_std, self.draw("randn", *mean.shape))
        q = self.q(critic, features, action, self.all_heads(), config.critic_dropout)
        value = config.actor_value_weight * reduced(q, config.actor_reduction)
        loss = (self.scalar("temperature").detach() * log_prob - value).mean()
        if config.actor_behaviour_cloning_weight > 0:
            if config.actor_behaviour_cloning_loss == "likelihood":
                u = 0.5 * ((1 + recorded) / (1 - recorded)).log()
                cloning = -(normal(mean, log_std, u) - (1 - recorded**2).log().sum(-1)).mean()
            else:
                cloning = ((mean.tanh() - recorded) ** 2).sum(1).mean()
            loss = loss + config.actor_behaviour_cloning_weight * cloning
        if config.temperature_states == "next":
            with torch.no_grad():
                _, log_prob = squashed(*self.policy(next_features), self.draw("randn", *mean.shape))
        temperature = self.scalar("temperature")
        scale = temperature.log() if config.temperature_loss == "logarithm" else temperature
        entropy = -log_prob.detach().mean()
        self.descend("actor", loss, "actor")
        if config.actor_average_rate > 0:
            rate = config.actor_average_rate
            for name, weight in self.weights["actor"].items():
                old = self.weights["average_actor"][name]
                self.weights["average_actor"][name] = (1 - rate) * old + rate * weight.detach()
        wanted = config.target_entropy_per_dimension * self.action_size
        self.descend("temperature", scale * (entropy - wanted), "temperature")

    # Steps ------------------------------------------------------------------------------------------------------------
    def rate(self, name: str) -> float:
        config = self.config
        return {
            "actor": config.actor_learning_rate,
            "critic": config.critic_learning_rate,
            "temperature": config.temperature_learning_rate,
            "lagrange": config.conservative_lagrange_learning_rate,
        }[name]

    def descend(self, name: str, loss: Tensor | None, optimizer: str) -> None:
        """Adam: Kingma and Ba, algorithm 1. No loss is a gradient of 0."""
        weights = self.weights[name]
        if loss is None:
            gradients = {key: torch.zeros_like(value) for key, value in weights.items()}
        else:
            found = torch.autograd.grad(loss, list(weights.values()))
            gradients = dict(zip(weights, found, strict=True))
            clip = self.config.gradient_clip
            if clip is not None:
                norm = sum(float((each**2).sum()) for each in gradients.values()) ** 0.5
                gradients = {key: value * min(1.0, clip / (norm + 1e-6)) for key, value in gradients.items()}
        self.gradients[name] = gradients
        zeros = {key: torch.zeros_like(value) for key, value in weights.items()}
        step, first, second = self.moments.get(optimizer, (0, zeros, zeros))
        step += 1
        first = {key: 0.9 * first[key] + 0.1 * value for key, value in gradients.items()}
        second = {key: 0.999 * second[key] + 0.001 * value**2 for key, value in gradients.items()}
        self.moments[optimizer] = (step, first, second)
        for key, value in weights.items():
            mean, variance = first[key] / (1 - 0.9**step), second[key] / (1 - 0.999**step)
            moved = value.detach() - self.rate(name) * mean / (variance.sqrt() + 1e-8)
            weights[key] = moved.requires_grad_()

    def update(self, batch: Batch, critic_updates: int, draws: list[tuple[str, Tensor]]) -> None:
        self.draws = iter(draws)
        config, size = self.config, len(batch) // critic_updates
        features, following = flat(batch.observation), flat(batch.next_observation)
        carry_on = config.step_with_zero_gradients and critic_updates > 1
        for part in range(critic_updates):
            rows = slice(part * size, (part + 1) * size)
            critic = dict(self.weights["critic"])
            self.critic_update(cut(batch, rows), features[rows], following[rows])
            if carry_on:
                self.descend("actor", None, "actor")
                self.descend("temperature", None, "temperature")
        if config.actor_critics == "updated":
            critic = self.weights["critic"]
        chosen = rows if config.actor_batch == "last" else slice(None)
        self.actor_update(features[chosen], following[chosen], batch.action[chosen], critic)
        if carry_on:
            self.descend("critic", None, "critic")
        assert next(self.draws, None) is None, "the agent drew more than the formulas use"


def flat(observation: dict[str, Tensor]) -> Tensor:
    return torch.cat([observation["joints"], observation["object"]], dim=1).double()


def cut(batch: Batch, rows: slice) -> Batch:
    whole = {"observation": batch.observation, "next_observation": batch.next_observation}
    names = ("action", "reward", "discount", "monte_carlo_return")
    return Batch(**whole, **{name: getattr(batch, name)[rows].double() for name in names})


def normalized(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / (((x - mean) ** 2).mean(-1, keepdim=True) + 1e-6).sqrt()


def normal(mean: Tensor, log_std: Tensor, value: Tensor) -> Tensor:
    density = -0.5 * ((value - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    return density.sum(-1)


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """tanh(u) and log N(u) - sum log(1 - tanh(u)^2)."""
    u = mean + log_std.exp() * noise
    return u.tanh(), normal(mean, log_std, u) - (1 - u.tanh() ** 2).log().sum(-1)


def reduced(q: Tensor, reduction: str) -> Tensor:
    """Over critics; the weighted minimum pair is the mean over all pairs of their minimum."""
    if reduction == "weighted_min_pair":
        pairs = [torch.minimum(q[i], q[j]) for i in range(len(q)) for j in range(i)]
        return torch.stack(pairs).mean(0)
    return q.min(dim=0).values if reduction == "min" else q.mean(dim=0)


SMALL: dict[str, Any] = {"actor_hidden": [7, 6], "critic_hidden": [8, 5], "output_gain": 0.5}
SMALL |= {"log_std_minimum": -0.3, "log_std_maximum": 0.3}  # both are met
CALQL: dict[str, Any] = SMALL | {
    "conservative_weight": 5.0,
    "conservative_samples": 4,
    "conservative_calibrated": True,
    "backup_entropy": False,
    "log_std": "affine",
    "max_target_backup": 4,
    "critic_reduction": "sum",
    "temperature_parameterization": "exp",
    "temperature_loss": "logarithm",
    "actor_critics": "previous",
}
ENSEMBLE: dict[str, Any] = SMALL | {"critic_count": 5, "critic_subset": 2, "critic_layer_norm": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "sac": SMALL | {"critic_reduction": "sum", "temperature_parameterization": "exp"},
    "redq": SMALL
    | {
        "critic_count": 5,
        "critic_subset": 2,
        "critic_reduction": "sum",
        "actor_reduction": "mean",
        "actor_batch": "last",
        "actor_critics": "previous",
        "temperature_parameterization": "exp",
        "temperature_loss": "logarithm",
        "initialization": "xavier_uniform",
    },
    "rlpd": ENSEMBLE
    | {
        "backup_entropy": False,
        "actor_reduction": "mean",
        "actor_batch": "last",
        "target_entropy_per_dimension": -0.5,
        "gradient_clip": 0.3,
    },
    "droq": SMALL
    | {"critic_dropout": 0.2, "critic_layer_norm": True, "actor_reduction": "mean", "actor_batch": "last"},
    "cql": CALQL | {"conservative_calibrated": False},
    "cql_plain": CALQL | {"conservative_calibrated": False, "conservative_importance_sampling": False},
    "cql_own": CALQL
    | {
        "conservative_calibrated": False,
        "log_std": "state_dependent",
        "max_target_of": "each",
        "conservative_lagrange_gap": 0.4,
        "conservative_lagrange_initial": 1.0,
        "actor_value_weight": 0.0,
        "actor_behaviour_cloning_weight": 1.0,
        "actor_behaviour_cloning_loss": "likelihood",
    },
    "calql": CALQL | {"conservative_temperature": 1.3},
    "calql_lagrange": CALQL | {"conservative_lagrange_gap": 0.8, "conservative_lagrange_maximum": 2.0},
    "corl_clip": CALQL
    | {"conservative_clip_minimum": 3.8, "conservative_clip_maximum": 4.4, "conservative_lagrange_gap": 0.8},
    "wsrl": ENSEMBLE
    | {
        "conservative_weight": 1.0,
        "conservative_calibrated": True,
        "conservative_samples": 4,
        "conservative_importance_sampling": False,
        "conservative_subtract_log_count": True,
        "conservative_subset": 2,
        "conservative_clip_minimum": 0.0,
        "conservative_clip_with_lagrange": False,
        "conservative_lagrange_gap": 0.8,
        "conservative_lagrange_parameterization": "softplus",
        "subset_with_replacement": True,
        "actor_layer_norm": True,
        "log_std": "state_independent",
        "max_target_backup": 4,
        "backup_entropy": False,
        "temperature_states": "next",
        "step_with_zero_gradients": True,
    },
    "wsrl_online": ENSEMBLE
    | {"subset_with_replacement": True, "temperature_states": "next", "step_with_zero_gradients": True},
    "max_backup_with_entropy": SMALL | {"max_target_backup": 3},
    "enoto": SMALL | {"critic_count": 5, "target_reduction": "weighted_min_pair", "disagreement_temperature": 20.0},
    "enoto_of_a_subset": SMALL | {"critic_count": 5, "critic_subset": 3, "disagreement_temperature": 20.0},
    "mean_target_and_average": SMALL | {"target_reduction": "mean", "actor_average_rate": 0.1, "actor_dropout": 0.5},
    "cloning": SMALL | {"actor_behaviour_cloning_weight": 0.7},
}


def in_float64(spec: Spec, settings: dict[str, Any]) -> SAC:
    """An agent whose weights have moved away from where they started, so that no bias is 0."""
    agent = sac.create(SACConfig(**settings), spec, Seeds(3), torch.device("cpu"), None)
    generator = torch.Generator().manual_seed(0)
    for name in ("encoder", *NETWORKS):
        network: nn.Module = getattr(agent, name).double()
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data += 0.1 * noise
    return agent


def weights_of(agent: SAC) -> Weights:
    return {
        name: {key: each.detach().clone() for key, each in getattr(agent, name).named_parameters()} for name in NETWORKS
    }


@pytest.mark.parametrize("critic_updates", [1, 3])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_updates_equal_the_formulas(
    spec: Spec, make_batch: Callable[..., Batch], name: str, critic_updates: int
) -> None:
    agent = in_float64(spec, VARIANTS[name])
    weights = weights_of(agent)
    for network in ("actor", "critic", "temperature", "lagrange"):
        for value in weights[network].values():
            value.requires_grad_()
    reference = Reference(agent.config, agent.action_size, weights)
    for step in range(2):  # two, so that Adam's moments, the targets and the order count
        batch = double(make_batch(4 * critic_updates, step))
        with Draws() as draws:
            agent.update(batch, critic_updates=critic_updates)
        reference.update(batch, critic_updates, draws.found)
    for network, found in weights_of(agent).items():
        for key, value in found.items():
            expected = reference.weights[network][key].detach()
            torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9, msg=f"{network}.{key}")
    for network, gradients in reference.gradients.items():  # Adam's steps hardly tell how long they are
        for key, parameter in getattr(agent, network).named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-7, atol=1e-9, msg=f"{network}.{key}")


def double(batch: Batch) -> Batch:
    return cut(batch, slice(None))
