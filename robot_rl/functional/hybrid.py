"""Targets, rewards and gates of learners that learn from a robot and from a simulator of it at once.

Niu et al. "H2O+: An Improved Framework for Hybrid Offline-and-Online RL with Dynamics Gaps". ICRA 2025,
arXiv:2309.12716.
Xu et al. "Cross-Domain Policy Adaptation via Value-Guided Data Filtering". NeurIPS 2023, arXiv:2305.17625 (VGDF).
Eysenbach et al. "Off-Dynamics Reinforcement Learning". ICLR 2021, arXiv:2006.13916 (DARC).
Lyu et al. "Cross-Domain Policy Adaptation by Capturing Representation Mismatch". ICML 2024, arXiv:2405.15369 (PAR).

Letters: B batch, E critics, M members of a dynamics ensemble, Z latent.
"""

import math

import torch
from torch import Tensor

from robot_rl.functional.bellman import expectile
from robot_rl.functional.domains import mean_of
from robot_rl.functional.robust import huber


def blended_value(explored: Tensor, recorded: Tensor, blend: float) -> Tensor:
    """H2O+'s (1 - blend) * [what the policy finds at s'] + blend * V(s') of the robot's own actions. Shapes: (B,)."""
    return torch.lerp(explored, recorded, blend)


def real_value_loss(q_target: Tensor, v: Tensor, real: Tensor, upper_expectile: float) -> Tensor:
    """Mean over the robot's rows of |expectile - 1[u < 0]| u^2, u = Qbar(s, a) - V(s). Shapes: (B,) each -> ()."""
    return mean_of(expectile(q_target.detach() - v, upper_expectile), real)


def each_td_error(q: Tensor, target: Tensor, threshold: float | None) -> Tensor:
    """(Q_i - y)^2 of each row, or its Huber error with a threshold. Shapes: (E, B), (B,) -> (E, B)."""
    difference = q - target
    return difference.square() if threshold is None else huber(difference, threshold)


def corrected_reward(reward: Tensor, log_ratio: Tensor, real: Tensor, scale: float | Tensor) -> Tensor:
    """DARC's r + scale * log(P_real / P_sim) = r - scale * l on simulated rows. Shapes: (B,) each -> (B,)."""
    return torch.where(real, reward, reward - scale * log_ratio)


def mismatch_reward(reward: Tensor, predicted: Tensor, latent: Tensor, real: Tensor, scale: float | Tensor) -> Tensor:
    """PAR's r - scale * mean_z (z_predicted - z')^2 on simulated rows, predicted by a model of the robot.

    Shapes: (B,), (B, Z), (B, Z), (B,) bool -> (B,).
    """
    return torch.where(real, reward, reward - scale * (predicted - latent).square().mean(dim=1))


def value_likelihood(value: Tensor, predicted: Tensor) -> Tensor:
    """log N(value; mean_m, std_m) under the values that an ensemble of the robot's dynamics predicts (VGDF).

    The deviation is over M - 1 members, with 1e-8 added, as in VGDF's code. Shapes: (B,), (M, B) -> (B,).
    """
    deviation = predicted.std(dim=0) + 1e-8
    standardized = (value - predicted.mean(dim=0)) / deviation
    return -0.5 * standardized.square() - deviation.log() - 0.5 * math.log(2 * math.pi)


def top_share(score: Tensor, rows: Tensor, share: float) -> Tensor:
    """1 for the `share` of highest score among the rows that are true, rounded up; 0 for all others.

    Of equal scores at the border all pass. Shapes: (B,), (B,) bool -> (B,).
    """
    ordered = torch.where(rows, score, -torch.inf).sort(descending=True).values
    last = (torch.ceil(share * rows.sum() - 1e-6) - 1).clamp(0, len(score) - 1).to(torch.int64)
    return (rows & (score >= ordered.gather(0, last.unsqueeze(0)))).to(score.dtype)
