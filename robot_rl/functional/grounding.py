"""From the value of a critic to the probability that a task succeeds, and how far that can be believed.

Ahn et al. "Do As I Can, Not As I Say: Grounding Language in Robotic Affordances" (SayCan). CoRL 2022, arXiv:2204.01691:
what a robot says of a skill is p(skill | instruction) of a language model times the probability that it can.

With a reward of -1 a step and 0 at the goal the value counts discounted steps: V = -(1 - discount^n) / (1 - discount),
so that discount^n, the discounted chance to arrive, is 1 + (1 - discount) V. That is no probability yet: it is
calibrated on episodes that the critic did not learn from, by Platt's logistic curve.

Platt "Probabilistic Outputs for Support Vector Machines". 1999. Guo et al. "On Calibration of Modern Neural Networks".
ICML 2017, arXiv:1706.04599 (calibration error).
Letters: B states, N bins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NEWTON_STEPS = 100
RIDGE = 1e-6  # of the curve's slope, so that classes which part completely still have one


def steps_to_success(value: Tensor, discount: float) -> Tensor:
    """n of V = -(1 - discount^n) / (1 - discount); V is cut to (-1 / (1 - discount), 0]. Shapes: (B,) -> (B,)."""
    return arrival(value, discount).log() / torch.log(torch.as_tensor(discount, dtype=value.dtype))


def arrival(value: Tensor, discount: float) -> Tensor:
    """discount^n = 1 + (1 - discount) V, above 0 and at most 1. Shapes: (B,) -> (B,)."""
    tiny = torch.finfo(value.dtype).eps
    return (1 + (1 - discount) * value).clamp(tiny, 1.0)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """p = 1 / (1 + exp(-(slope * x + offset))), x = log(a / (1 - a)) of the arrival a."""

    slope: float
    offset: float
    discount: float

    def probability(self, value: Tensor) -> Tensor:
        """Of success. Shapes: (B,) -> (B,)."""
        return torch.sigmoid(self.slope * log_odds(arrival(value, self.discount)) + self.offset)


def log_odds(probability: Tensor) -> Tensor:
    """log(p / (1 - p)), finite: p is cut to [1e-4, 1 - 1e-4]. Shapes: (B,) -> (B,)."""
    cut = probability.clamp(1e-4, 1 - 1e-4)
    return cut.log() - (-cut).log1p()


def calibrate(value: Tensor, success: Tensor, discount: float) -> Calibration:
    """The curve that is most likely, given which of B episodes succeeded; the slope is never negative.

    Minimises -sum [y log p + (1 - y) log(1 - p)] + ridge * slope^2, y of Platt's targets (n1 + 1) / (n1 + 2) and
    1 / (n0 + 2), by Newton's method in float64. Shapes: (B,), (B,) bool.

    Raises:
        ValueError: no successes, no failures, or shapes that differ.
    """
    if value.shape != success.shape or value.ndim != 1:
        raise ValueError(f"values {tuple(value.shape)} and successes {tuple(success.shape)} must be (B,)")
    succeeded, failed = int(success.sum()), int((~success).sum())
    if succeeded == 0 or failed == 0:
        raise ValueError(f"{succeeded} successes and {failed} failures: a curve needs both")
    x = log_odds(arrival(value.double(), discount))
    target = torch.where(success, (succeeded + 1) / (succeeded + 2), 1 / (failed + 2)).double()
    weight = torch.zeros(2, dtype=torch.float64)
    inputs = torch.stack([x, torch.ones_like(x)], dim=1)  # (B, 2)
    penalty = torch.diag(torch.tensor([2 * RIDGE, 0.0], dtype=torch.float64))
    loss = _platt_loss(weight, inputs, target)
    for _ in range(NEWTON_STEPS):
        p = torch.sigmoid(inputs @ weight)
        gradient = inputs.T @ (p - target) + penalty @ weight
        curvature = inputs.T @ (inputs * (p * (1 - p))[:, None]) + penalty
        step = torch.linalg.solve(curvature + 1e-12 * torch.eye(2, dtype=torch.float64), gradient)
        size = 1.0
        while size > 1e-8 and _platt_loss(weight - size * step, inputs, target) > loss:
            size /= 2
        weight = weight - size * step
        new = _platt_loss(weight, inputs, target)
        if loss - new < 1e-13 * max(1.0, abs(loss)):
            break
        loss = new
    if weight[0] < 0:  # a critic that has it backwards says nothing: everybody's probability is the same
        rate = float(target.mean())
        return Calibration(slope=0.0, offset=float(torch.logit(torch.tensor(rate))), discount=discount)
    return Calibration(slope=float(weight[0]), offset=float(weight[1]), discount=discount)


def _platt_loss(weight: Tensor, inputs: Tensor, target: Tensor) -> float:
    logit = inputs @ weight
    loss = torch.nn.functional.softplus(logit) - target * logit
    return float(loss.sum() + RIDGE * weight[0].square())


def calibration_error(probability: Tensor, success: Tensor, bins: int = 10) -> Tensor:
    """sum_n (rows in bin n / B) * |mean probability - share of successes|, equal bins of probability.

    Shapes: (B,), (B,) bool -> ().
    """
    place = (probability * bins).long().clamp(0, bins - 1)
    count = torch.zeros(bins, dtype=probability.dtype).index_add(0, place, torch.ones_like(probability))
    gap = torch.zeros(bins, dtype=probability.dtype).index_add(0, place, probability - success.to(probability.dtype))
    return gap.abs().sum() / count.sum()


def grounded(skill: Tensor, success: Tensor) -> Tensor:
    """p(skill | instruction) * p(success | state, skill), normalised over skills. Shapes: (S,), (S,) -> (S,)."""
    score = skill * success
    return score / score.sum().clamp(min=torch.finfo(score.dtype).tiny)
