"""From the values of several critics to one."""

import torch
from torch import Tensor

REDUCTIONS = ("min", "mean", "weighted_min_pair")


def random_heads(count: int, subset: int, *, with_replacement: bool, generator: torch.Generator) -> Tensor:
    """Indices of `subset` of `count` critics (REDQ's algorithm 1: without replacement). Shapes: -> (subset,)."""
    if with_replacement:
        return torch.randint(count, (subset,), generator=generator, device=generator.device)
    return torch.rand(count, generator=generator, device=generator.device).argsort()[:subset]


def reduce_heads(q: Tensor, reduction: str) -> Tensor:
    """One value from those of E critics.

    `min` and `mean`; `weighted_min_pair` is ENOTO's (Zhao et al., arXiv:2306.06871) expectation of the minimum of a
    random pair. In ascending order the k-th of E values is the smaller one in E - k of the E (E - 1) / 2 pairs, so it
    is sum_k w_k Q_(k) with w_k = 2 (E - k) / (E (E - 1)), and nothing is drawn. Of one critic it is that one.

    Shapes: (E, *) -> (*).
    """
    match reduction:
        case "min":
            return q.amin(dim=0)
        case "mean":
            return q.mean(dim=0)
        case "weighted_min_pair":
            if len(q) == 1:
                return q[0]
            reduced: Tensor = torch.tensordot(pair_weight(q), q.sort(dim=0).values, dims=1)
            return reduced
    raise ValueError(f"reduction={reduction} is none of {REDUCTIONS}")


def pair_weight(q: Tensor) -> Tensor:
    """w_k of the k-th smallest of E values in `weighted_min_pair`. Shapes: (E, *) -> (E,)."""
    count = len(q)
    rank = torch.arange(1, count + 1, device=q.device, dtype=q.dtype)
    return 2 * (count - rank) / (count * (count - 1))


def reduction_weight(q: Tensor, reduction: str) -> Tensor:
    """What each critic counts in `reduce_heads(q, reduction)`: sum_i weight_i q_i. Shapes: (E, *) -> (E, *)."""
    count = len(q)
    if reduction == "mean" or count == 1:
        return torch.full_like(q, 1 / count)
    match reduction:
        case "min":
            by_rank = (torch.arange(count, device=q.device) == 0).to(q.dtype)
        case "weighted_min_pair":
            by_rank = pair_weight(q)
        case _:
            raise ValueError(f"reduction={reduction} is none of {REDUCTIONS}")
    by_rank = by_rank.view(count, *[1] * (q.ndim - 1)).expand_as(q)
    return torch.zeros_like(q).scatter(0, q.argsort(dim=0), by_rank)


def disagreement_weight(q: Tensor, temperature: float) -> Tensor:
    """sigmoid(-temperature * std_i Q_i) + 0.5: SUNRISE's equation 5, in [0.5, 1]. Shapes: (E, B) -> (B,)."""
    return torch.sigmoid(-temperature * q.std(dim=0, correction=0)) + 0.5


def upper_bound(q: Tensor, bonus: float) -> Tensor:
    """Mean plus `bonus` times deviation over critics: SUNRISE's equation 6. Shapes: (E, *) -> (*)."""
    return q.mean(dim=0) + bonus * q.std(dim=0, correction=0)
