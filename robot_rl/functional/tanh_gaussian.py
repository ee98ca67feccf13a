"""Actions a = tanh(u) in (-1, 1) with u Gaussian.

Haarnoja et al. "Soft Actor-Critic: Off-Policy Maximum Entropy Deep Reinforcement Learning with a Stochastic Actor".
ICML 2018, arXiv:1801.01290, appendix C: log p(a) = log N(u) - sum_i log(1 - tanh(u_i)^2).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robot_rl.functional import gaussian
from robot_rl.transforms.action import EDGE


def sample(mean: Tensor, log_std: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """An action and its log density, both differentiable in mean and log_std. Shapes: each (*, A) -> (*, A), (*).

    As `log_prob`, of u = mean + exp(log_std) * noise: the noise is the standardized u, so that the mean drops out.
    """
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        apply: Callable[..., tuple[Tensor, Tensor]] = _Sample.apply
        return apply(mean, log_std, noise)
    return _sample(mean, log_std.exp(), log_std, noise)


def _sample(mean: Tensor, deviation: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    u = torch.addcmul(mean, deviation, noise)
    negative = -2 * u
    # Minus the log density, but for its constant: noise^2 / 2 + log_std - 2 u - 2 softplus(-2 u).
    each = torch.add(negative, F.softplus(negative), alpha=-2) + torch.add(log_std, noise.square(), alpha=0.5)
    constant = mean.shape[-1] * (0.5 * math.log(2 * math.pi) + 2 * math.log(2))
    return torch.tanh(u), -constant - each.sum(dim=-1)


class _Sample(torch.autograd.Function):
    """`_sample` as one node of the graph: d log p / du = 2 tanh(u), du = d mean + deviation noise d log_std."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        deviation = log_std.exp()
        action, log_prob = _sample(mean, deviation, log_std, noise)
        ctx.save_for_backward(action, deviation, noise)
        return action, log_prob

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_action: Tensor, by_log_prob: Tensor) -> tuple[Tensor, Tensor, None]:
        action, deviation, noise = ctx.saved_tensors
        by_density = by_log_prob.unsqueeze(-1)
        by_u = torch.addcmul(by_action * (1 - action.square()), action, by_density, value=2)
        return by_u, by_u * deviation * noise - by_density, None


def log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
    """Log density of given actions in [-1, 1], finite at the edge. Shapes: each (*, A) -> (*)."""
    u = torch.atanh(action.clamp(-EDGE, EDGE))
    return gaussian.log_prob(mean, log_std, u) - _log_jacobian(u)


def mode(mean: Tensor) -> Tensor:
    """tanh of the Gaussian's mean, the usual deterministic action. Shapes: (*, A) -> (*, A)."""
    return torch.tanh(mean)


def _log_jacobian(u: Tensor) -> Tensor:
    """sum log(1 - tanh(u)^2) = sum 2 (log 2 - u - softplus(-2u)), which does not cancel at large |u|."""
    return (2 * (math.log(2) - u - F.softplus(-2 * u))).sum(dim=-1)
