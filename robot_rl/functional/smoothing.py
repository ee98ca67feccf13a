"""Terms that keep critics and policies smooth around recorded states, and critics apart from one another.

Yang et al. "RORL: Robust Offline Reinforcement Learning via Conservative Smoothing". NeurIPS 2022, arXiv:2206.02829.
An et al. "Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble". NeurIPS 2021,
arXiv:2110.01548 (EDAC).

Letters: B batch, E critics, N perturbed states of each state, A action.
"""

import torch
from torch import Tensor


def critic_smoothness(near: Tensor, q: Tensor, asymmetry: float) -> Tensor:
    """RORL's L_smooth: max_n mean_i [(1 - asymmetry) max(D, 0)^2 + asymmetry max(-D, 0)^2].

    D = Q_i(s_n, a) - Q_i(s, a).

    Overestimation around a recorded state counts more where asymmetry is below one half. The maximum is over perturbed
    states of the mean over critics, and the mean over rows, as RO2O's code takes them.
    Shapes: near (E, B, N), q (E, B) -> ().
    """
    if near.shape[:2] != q.shape:
        raise ValueError(f"near {tuple(near.shape)} must be (E, B, N) with q (E, B), which is {tuple(q.shape)}")
    difference = near - q.unsqueeze(2)
    each = (1 - asymmetry) * difference.clamp(min=0).square() + asymmetry * difference.clamp(max=0).square()
    return each.mean(dim=0).amax(dim=1).mean()


def uncertainty_penalty(q: Tensor, strength: float | Tensor) -> Tensor:
    """RORL's L_ood: mean (stop(Q_i - strength * std_i Q) - Q_i)^2, of actions that were not recorded.

    The pseudo-target lies below by the critics' disagreement, a deviation over E - 1 as in RORL's and RO2O's code.
    Shapes: (E, *) -> ().
    """
    target = (q - strength * q.std(dim=0)).detach()
    return (target - q).square().mean()


def lower_bound(q: Tensor, deviations: float) -> Tensor:
    """Mean minus `deviations` times the deviation (over E - 1) of critics: RO2O's second actor.

    Shapes: (E, *) -> (*).
    """
    return q.mean(dim=0) - deviations * q.std(dim=0)


def policy_smoothness(mean: Tensor, log_std: Tensor, near_mean: Tensor, near_log_std: Tensor) -> Tensor:
    """RORL's L_policy: mean_s max_n of the symmetric divergence KL(p||q) + KL(q||p) of the Gaussians before tanh.

    Shapes: (B, A) twice, (B, N, A) twice -> ().
    """
    mean, log_std = mean.unsqueeze(1), log_std.unsqueeze(1)
    squared = (mean - near_mean).square()
    variance, near_variance = (2 * log_std).exp(), (2 * near_log_std).exp()
    # The logarithms of the two directions cancel.
    divergence = (variance + squared) / near_variance + (near_variance + squared) / variance - 2
    furthest: Tensor = (0.5 * divergence).sum(dim=2).amax(dim=1)
    return furthest.mean()


def gradient_diversity(gradient: Tensor) -> Tensor:
    """EDAC's equation 4: the mean over rows of sum_{i != j} <g_i, g_j> / (E - 1), g_i the unit gradients dQ_i/da.

    Low where the critics disagree about which way is up. Shapes: (E, B, A) -> ().
    """
    count = len(gradient)
    if count < 2:
        raise ValueError("diversity needs at least two critics")
    unit = gradient / (gradient.norm(dim=2, keepdim=True) + 1e-10)
    # sum_{i != j} <g_i, g_j> = |sum_i g_i|^2 - sum_i |g_i|^2
    products: Tensor = unit.sum(dim=0).square().sum(dim=1) - unit.square().sum(dim=(0, 2))  # (B,)
    return products.mean() / (count - 1)


def perturbed(features: Tensor, radius: float, count: int, generator: torch.Generator) -> Tensor:
    """States with uniform noise of at most `radius` in every channel. Shapes: (B, F) -> (B, N, F)."""
    shape = (features.shape[0], count, features.shape[1])
    noise = torch.rand(shape, generator=generator, device=features.device, dtype=features.dtype) * 2 - 1
    return features.unsqueeze(1) + radius * noise
