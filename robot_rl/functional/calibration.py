"""Whether a classifier's probabilities can be believed, from histograms over transitions that it never learned from.

Guo et al. "On Calibration of Modern Neural Networks". ICML 2017, arXiv:1706.04599 (expected calibration error).

A histogram can be kept on the device and grown batch by batch, where the numbers themselves cannot. The two classes
count alike, whatever their numbers.

Letters: B batch, N bins of the probability of class 1.
"""

import torch
from torch import Tensor


def binned(probability: Tensor, rows: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Number of the rows in each of `bins` equal bins, and the sum of their probabilities.

    Shapes: (B,), (B,) bool -> (N,), (N,).
    """
    place = (probability * bins).floor().clamp(0, bins - 1)
    inside = (place.unsqueeze(1) == torch.arange(bins, device=place.device)) & rows.unsqueeze(1)  # (B, N)
    counted = inside.to(probability.dtype)
    return counted.sum(dim=0), (counted * probability.unsqueeze(1)).sum(dim=0)


def area_under_curve(negative: Tensor, positive: Tensor) -> Tensor:
    """Probability that a member of class 1 gets the higher number than one of class 0, a tie counting half.

    1/2 says that the classes cannot be told apart. Shapes: counts (N,), (N,) -> ().
    """
    below = negative.cumsum(dim=0) - negative
    pairs = (positive * (below + 0.5 * negative)).sum()
    return torch.where(
        (negative.sum() > 0) & (positive.sum() > 0), pairs / (negative.sum() * positive.sum()).clamp(min=1e-12), 0.5
    )


def calibration_error(count: Tensor, confidence: Tensor) -> Tensor:
    """Sum over bins of |mean probability - share of class 1|, by the bins' share of the rows.

    Shapes: count and summed probability of classes 0 and 1, (2, N) twice -> ().
    """
    total = count.sum(dim=1, keepdim=True).clamp(min=1e-12)
    said = (confidence / total).sum(dim=0) / 2
    true = (count / total)[1] / 2
    return (said - true).abs().sum()
