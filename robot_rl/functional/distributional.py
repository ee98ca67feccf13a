"""Critics that learn a distribution of returns, of which Q is the mean.

Farebrother et al. "Stop Regressing: Training Value Functions via Classification for Scalable Deep RL". ICML 2024,
arXiv:2403.03950 (HL-Gauss).
Bellemare, Dabney, Munos. "A Distributional Perspective on Reinforcement Learning". ICML 2017, arXiv:1707.06887 (C51).
Dabney et al. "Distributional Reinforcement Learning with Quantile Regression". AAAI 2018, arXiv:1710.10044 (QR-DQN).

Letters: B batch, E critics, K critics of the target, N actions, Z outputs of a critic, M atoms of a target, C 1 or E.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robot_rl.functional.ensemble import reduce_heads, reduction_weight
from robot_rl.functional.robust import huber


@dataclass(frozen=True, slots=True)
class Spread:
    """How returns lie around the TD target, their mean: target plus `deviation`, each with its `probability`."""

    deviation: Tensor  # (C, B, M)
    probability: Tensor  # (C, B, M)


def spread_around_mean(atoms: Tensor, probability: Tensor, discount: Tensor) -> Spread:
    """discount * (atom - mean): what is left of the returns at s' once their mean has gone into the TD target.

    0 after a termination, where the discount is 0. Shapes: atoms and probability (C, B, M), discount (B,).
    """
    mean = (probability * atoms).sum(dim=-1, keepdim=True)
    return Spread(discount.unsqueeze(-1) * (atoms - mean), probability)


def target_distribution(target: Tensor, spread: Spread | None) -> tuple[Tensor, Tensor]:
    """Atoms and probabilities of the returns around `target`; one atom, the target itself, where there is no spread.

    Shapes: target (B,) or (E, B) -> (C, B, M) twice.
    """
    atoms = torch.atleast_2d(target).unsqueeze(-1)  # (C, B, 1)
    if spread is None:
        return atoms, torch.ones_like(atoms)
    return atoms + spread.deviation, spread.probability


def reduce_distributions(distribution: Tensor, q: Tensor, reduction: str, best_of: str = "reduced") -> Tensor:
    """One distribution from those of K critics, whose mean is the reduced Q: the same weights as their means have.

    `min` is the distribution of the critic whose mean is least, `mean` and `weighted_min_pair` average what stands for
    a distribution: its probabilities (a mixture), or its quantiles. `own` leaves each critic its own. Of N actions the
    one of the highest reduced Q is taken, or with `best_of` "each" the one that each critic holds highest.

    Shapes: distribution (K, B, Z) and q (K, B), or (K, B, N, Z) and (K, B, N) -> (C, B, Z).
    """
    if q.shape != distribution.shape[:-1] or q.ndim not in (2, 3):
        raise ValueError(f"expected (K, B, Z) and (K, B), found {tuple(distribution.shape)} and {tuple(q.shape)}")
    if q.ndim == 3:
        best = q.argmax(dim=2, keepdim=True)  # (K, B, 1)
        if best_of == "reduced":
            best = reduce_heads(q, reduction).argmax(dim=1)[None, :, None].expand_as(best)
        distribution = distribution.take_along_dim(best.unsqueeze(3), dim=2)[:, :, 0]
        q = q.take_along_dim(best, dim=2)[:, :, 0]
    if reduction == "own":
        return distribution
    return (reduction_weight(q, reduction).unsqueeze(-1) * distribution).sum(dim=0, keepdim=True)


# Categories: HL-Gauss and C51 -----------------------------------------------------------------------------------------
def cross_entropy(logits: Tensor, probability: Tensor) -> Tensor:
    """-sum_z p_z log softmax(logits)_z. Shapes: (E, B, Z), (C, B, Z) -> (E, B)."""
    return -(probability * logits.log_softmax(dim=-1)).sum(dim=-1)


def bin_centers(minimum: float, maximum: float, bins: int, like: Tensor) -> Tensor:
    """Middles of equal bins that fill [minimum, maximum]. Shapes: -> (bins,), dtype and device of `like`."""
    half = (maximum - minimum) / (2 * bins)
    return torch.linspace(minimum + half, maximum - half, bins, dtype=like.dtype, device=like.device)


def gaussian_histogram(target: Tensor, minimum: float, maximum: float, bins: int, deviation: float) -> Tensor:
    """HL-Gauss: p_z = [F(edge_{z+1}) - F(edge_z)] / [F(maximum) - F(minimum)] with F of N(target, deviation^2).

    Equation 3.3, normalised as in listing 2. The target is cut to [minimum, maximum] first: far outside, every bin
    would be empty.
    Shapes: (*) -> (*, bins).
    """
    edges = torch.linspace(minimum, maximum, bins + 1, dtype=target.dtype, device=target.device)
    cut = target.clamp(minimum, maximum).unsqueeze(-1)
    cumulative = torch.erf((edges - cut) / (math.sqrt(2) * deviation))
    return cumulative.diff(dim=-1) / (cumulative[..., -1:] - cumulative[..., :1])


def project(atoms: Tensor, probability: Tensor, minimum: float, maximum: float, count: int) -> Tensor:
    """p_z = sum_m p_m [1 - |cut(atom_m) - z| / width]_0^1, on `count` atoms z from minimum to maximum.

    C51's projection, section 4 and algorithm 1 (equation 3.4 of HL-Gauss's paper, and of one atom its "two-hot" 3.2).
    Each atom, cut to the range, goes to its two neighbours by nearness, which keeps its mean. All pairs are formed: no
    index depends on the data, so that it compiles, and adds up in the same order on every device.
    Shapes: (*, M), (*, M) -> (*, count).
    """
    width = (maximum - minimum) / (count - 1)
    place = (atoms.clamp(minimum, maximum) - minimum) / width  # in atoms
    grid = torch.arange(count, dtype=atoms.dtype, device=atoms.device)
    share = (1 - (place.unsqueeze(-1) - grid).abs()).clamp(min=0)  # (*, M, count)
    return (probability.unsqueeze(-1) * share).sum(dim=-2)


# Quantiles ------------------------------------------------------------------------------------------------------------
def quantile_loss(quantiles: Tensor, atoms: Tensor, probability: Tensor, threshold: float) -> Tensor:
    """mean_z sum_m p_m |tau_z - 1[u < 0]| huber(u), u = atom_m - quantile_z, tau_z = (z + 1/2) / Z.

    QR-DQN's algorithm 1. `huber` is u^2 / (2 threshold) below the threshold, |u| - threshold / 2 above: Huber's over
    the threshold, which towards 0 gives the quantile loss itself. QR-DQN sums over z; the mean (as in TQC,
    arXiv:2005.04269) has the scale of an error of Q. Shapes: (E, B, Z), (C, B, M) twice -> (E, B).
    """
    count = quantiles.shape[-1]
    level = (torch.arange(count, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / count
    difference = atoms.unsqueeze(-2) - quantiles.unsqueeze(-1)  # (E, B, Z, M)
    slope = torch.where(difference < 0, 1 - level.unsqueeze(-1), level.unsqueeze(-1))
    each = (slope * huber(difference, threshold) * probability.unsqueeze(-2)).sum(dim=-1)
    return each.mean(dim=-1)
