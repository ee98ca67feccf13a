"""How much likelier a transition is in the simulator than on the robot, from classifiers of where transitions are from.

Eysenbach et al. "Off-Dynamics Reinforcement Learning: Training for Transfer with Domain Classifiers". ICLR 2021,
arXiv:2006.13916 (DARC).
Niu et al. "When to Trust Your Simulator: Dynamics-Aware Hybrid Offline-and-Online Reinforcement Learning". NeurIPS
2022, arXiv:2206.13464 (H2O).

A classifier of (s, a, s') and one of (s, a) give by Bayes' rule, as log-odds of "simulated",

    l = log P_sim(s'|s, a) - log P_real(s'|s, a) = logit_sas - logit_sa,

positive where the simulator makes a transition likelier than the robot does. Everything here goes by this sign.

Letters: B batch, K next states of one state and action, F features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from robot_rl.functional.domains import mean_of

SATURATED = 0.95
"""Share of the bound from which a log-ratio counts as saturated."""


def soft_bound(raw: Tensor, bound: float) -> Tensor:
    """bound * tanh(raw / bound): slope 1 at 0, within (-bound, bound). Shapes: (*) -> (*)."""
    return bound * torch.tanh(raw / bound)


def classifier_loss(logit: Tensor, real: Tensor, counted: Tensor, smoothing: float) -> Tensor:
    """Mean over simulated rows of -log sigmoid(logit), plus mean over real rows of -log sigmoid(-logit).

    Both domains count alike, whatever their numbers of rows. With smoothing e the labels are 1 - e and e, which bounds
    what log-odds are worth learning: |logit| <= log((1 - e) / e). Shapes: (B,), (B,) bool, (B,) bool -> ().
    """
    label = torch.where(real, smoothing, 1.0 - smoothing).to(logit.dtype)
    each = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    return mean_of(each, real & counted) + mean_of(each, ~real & counted)


def importance_weight(log_ratio: Tensor, minimum: float, maximum: float) -> Tensor:
    """P_real / P_sim = exp(-l), cut to [minimum, maximum]: large where the robot would do what the simulator did.

    Shapes: (*) -> (*).
    """
    return (-log_ratio).exp().clamp(minimum, maximum)


def dynamics_gap(log_ratio: Tensor, minimum: float, maximum: float) -> Tensor:
    """u(s, a) = mean_k l(s, a, s'_k), an estimate of KL(P_sim || P_real), cut to [minimum, maximum] with minimum > 0.

    What s'_k are makes the estimator: the one that followed, it with Gaussian noise (H2O's), or draws of the
    simulator's dynamics, whose mean alone is the divergence. Shapes: (B, K) -> (B,).
    """
    return log_ratio.mean(dim=1).clamp(minimum, maximum)


def changes_around(change: Tensor, deviation: float, count: int, generator: torch.Generator) -> Tensor:
    """H2O's next states: the one that followed plus noise, in deviations of a channel. Shapes: (B, F) -> (B, K, F)."""
    shape = (change.shape[0], count, change.shape[1])
    noise = torch.randn(shape, generator=generator, device=change.device, dtype=change.dtype)
    return change.unsqueeze(1) + deviation * noise


def gap_penalty(q: Tensor, gap: Tensor, real: Tensor, limit: float) -> Tensor:
    """H2O's inner maximum: log sum_sim omega exp Q - mean_real Q, cut to [-limit, limit]; omega = u / sum_sim u.

    Pushes Q down where it is high and the simulator is wrong, and up on the robot's own transitions. 0 where a domain
    has no row. The sum is over the simulated rows at hand, so the size of a batch moves it by its logarithm.
    Shapes: q (E, B), gap (B,), real (B,) bool -> (E,).
    """
    if q.ndim != 2 or gap.shape != q.shape[1:] or real.shape != gap.shape:
        found = [tuple(each.shape) for each in (q, gap, real)]
        raise ValueError(f"q must be (E, B), gap and real (B,), but are {found}")
    simulated = ~real
    share = gap / (gap * simulated).sum().clamp(min=torch.finfo(gap.dtype).tiny)
    # A large negative number, not -inf: where no row is simulated its gradient is 0, not NaN.
    logits = torch.where(simulated, q + share.log(), -1e30)
    both = (real.any() & simulated.any()).to(q.dtype)
    return both * (logits.logsumexp(dim=1) - mean_of(q, real)).clamp(-limit, limit)


# How good it is -------------------------------------------------------------------------------------------------------
def effective_share(weight: Tensor, rows: Tensor) -> Tensor:
    """(sum w)^2 / (n sum w^2) over the rows that are true: 1 for equal weights, 1 / n for one that rules.

    Shapes: (B,), (B,) bool -> ().
    """
    kept = weight * rows
    square = kept.square().sum().clamp(min=torch.finfo(kept.dtype).tiny)
    return kept.sum().square() / (rows.sum().clamp(min=1) * square)


def saturated_share(log_ratio: Tensor, bound: float, rows: Tensor) -> Tensor:
    """Share of the rows whose log-ratio is at its bound, where it says no more than "far".

    Shapes: (B,), (B,) bool -> ().
    """
    return mean_of((log_ratio.abs() > SATURATED * bound).to(log_ratio.dtype), rows)
