"""Rewards from comparisons: the model of Bradley and Terry.

Bradley, Terry "Rank Analysis of Incomplete Block Designs". Biometrika 1952. Christiano et al. "Deep Reinforcement
Learning from Human Preferences". NeurIPS 2017, arXiv:1706.03741, equation 1. With single images and a vision-language
model that compares: Wang et al. "RL-VLM-F: Reinforcement Learning from Vision Language Foundation Model Feedback". ICML
2024, arXiv:2402.03681.

Letters: E members, B pairs.
"""

from torch import Tensor
from torch.nn import functional as F

from robot_rl.types import Metrics


def preference_loss(first: Tensor, second: Tensor, preferred: Tensor) -> tuple[Tensor, Metrics]:
    """-mean[y log sigmoid(r_2 - r_1) + (1 - y) log sigmoid(r_1 - r_2)], summed over members.

    Args:
        first: rewards of the first images.
        second: rewards of the second images.
        preferred: y, 1 where the second is better, 0 where the first is; 0.5 where they are equally good.

    Shapes: (E, B), (E, B), (B,) -> ().
    """
    if first.shape != second.shape or first.ndim != 2 or preferred.shape != first.shape[1:]:
        shapes = [tuple(each.shape) for each in (first, second, preferred)]
        raise ValueError(f"expected (E, B), (E, B), (B,), found {shapes}")
    target = preferred.to(first).expand_as(first)
    each = F.binary_cross_entropy_with_logits(second - first, target, reduction="none").mean(1)
    right = preference_accuracy(first.detach(), second.detach(), preferred)
    return each.sum(), {"preference/loss": each.detach().mean(), "preference/accuracy": right}


def preference_accuracy(first: Tensor, second: Tensor, preferred: Tensor) -> Tensor:
    """Share of the pairs that the members' mean orders as preferred; y = 0.5 does not count. NaN without pairs.

    Shapes: (E, B), (E, B), (B,) -> ().
    """
    margin = (second - first).mean(0)
    counted = preferred != 0.5
    right = ((margin > 0) == (preferred > 0.5)) & (margin != 0) & counted
    return right.sum() / counted.sum()
