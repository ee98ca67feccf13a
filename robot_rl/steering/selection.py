"""Which candidate is executed: pure functions of values, and the selectors that a configuration names.

Nakamoto et al. "Steering Your Generalists: Improving Robotic Foundation Models via Value Guidance". CoRL 2024,
arXiv:2410.13816 (V-GPS: `argmax` and `softmax`).
Hansen-Estruch et al. "IDQL: Implicit Q-Learning as an Actor-Critic Method with Diffusion Policies". arXiv:2304.10573
(`advantage`).

`margin` and `uncertainty` are ours: the first leaves the policy alone where the critic sees no clear gain, the second
prefers candidates on which the critics agree.

Letters: K candidates, of which row 0 is the un-steered action; E critics. A candidate that must not be chosen has value
-inf; row 0 never has.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robot_rl.checks import require_choice, require_range
from robot_rl.functional.ensemble import REDUCTIONS, reduce_heads

SELECTORS = ("margin", "argmax", "softmax", "uncertainty", "advantage")


# Shares -------------------------------------------------------------------------------------------------------------


def argmax_share(value: Tensor) -> Tensor:
    """1 for the best candidate, the first among equals. Shapes: (K,) -> (K,)."""
    return torch.zeros_like(value).scatter(0, value.argmax()[None], 1.0)


def softmax_share(value: Tensor, temperature: float) -> Tensor:
    """exp(value / temperature) normalised (V-GPS, section 3.2); temperature 0 is argmax. Shapes: (K,) -> (K,)."""
    return argmax_share(value) if temperature == 0 else (value / temperature).softmax(dim=0)


def margin_share(value: Tensor, margin: float) -> Tensor:
    """1 for the best candidate where it is more than `margin` better than row 0, else for row 0. Shapes: as above."""
    better = torch.where(value - value[0] > margin, value, -torch.inf)
    return argmax_share(torch.cat([value[:1], better[1:]]))


def uncertainty_value(mean: Tensor, deviation: Tensor, penalty: float) -> Tensor:
    """mean - penalty * deviation over critics. Shapes: (K,), (K,) -> (K,)."""
    return mean - penalty * deviation


def advantage_share(value: Tensor, expectile: float) -> Tensor:
    """|expectile - 1[A < 0]| normalised, with A = Q - V (IDQL, section 4).

    V is the `expectile` of the candidates themselves: that v with sum_i |expectile - 1[q_i < v]| (q_i - v) = 0.
    Shapes: (K,) -> (K,).
    """
    allowed = value.isfinite()
    v = expectile_of(value[allowed], expectile)
    weight = torch.where(value >= v, expectile, 1 - expectile) * allowed
    return weight / weight.sum()


def expectile_of(value: Tensor, expectile: float) -> Tensor:
    """The expectile of a few numbers, exactly: among sorted ones it is where the weighted residuals cancel.

    With the k smallest below v: v = ((1 - expectile) * sum_below + expectile * sum_above) / (weights); the right k is
    the one whose v lies between its neighbours. Shapes: (K,) -> ().
    """
    ordered = value.double().sort().values
    below = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])[:-1]
    count = torch.arange(len(ordered), device=value.device, dtype=ordered.dtype)
    low, high = (1 - expectile) * below, expectile * (ordered.sum() - below)
    each = (low + high) / ((1 - expectile) * count + expectile * (len(ordered) - count))
    outside = torch.maximum(each - ordered, torch.cat([ordered[:1], ordered[:-1]]) - each)
    return each[outside.argmin()].to(value.dtype)


def effective_count(share: Tensor) -> Tensor:
    """exp(entropy): among how many candidates a draw really chooses. Shapes: (K,) -> ()."""
    count: Tensor = torch.special.entr(share).sum().exp()
    return count


# Selectors ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was chosen, and from what."""

    index: int
    share: Tensor  # (K,), probability of each
    value: Tensor  # (K,), as it was compared; -inf: must not be chosen


class Selector(Protocol):
    """Chooses one of K candidates."""

    def select(self, values: Tensor, allowed: Tensor, generator: torch.Generator) -> Selection:
        """Shapes: (E, K) values of each critic; (K,) bool, true in row 0."""


@dataclass(frozen=True, kw_only=True)
class ValueSelector:
    """The selectors of `SELECTORS`.

    Args:
        rule: `margin`: the best, if it beats row 0 by more than `margin`. `argmax`: the best. `softmax`: drawn by
            exp(value / temperature). `uncertainty`: the best of mean - penalty * deviation over critics, if it beats
            row 0 by more than `margin`. `advantage`: drawn by IDQL's weights.
        reduction: one value from those of E critics, unless the rule is `uncertainty`.
    """

    rule: str = "margin"
    reduction: str = "min"
    margin: float = 0.0
    temperature: float = 1.0
    penalty: float = 1.0
    expectile: float = 0.9

    def __post_init__(self) -> None:
        require_choice(self.rule, SELECTORS, "selector rule")
        require_choice(self.reduction, REDUCTIONS, "selector reduction")
        for name in ("margin", "temperature", "penalty"):
            require_range(vars(self)[name], 0, 1e8, f"selector {name}")
        require_range(self.expectile, 1e-6, 1 - 1e-6, "selector expectile")

    def select(self, values: Tensor, allowed: Tensor, generator: torch.Generator) -> Selection:
        """Shapes: (E, K), (K,) bool, true in row 0."""
        if values.ndim != 2 or allowed.shape != values.shape[1:]:
            raise ValueError(f"expected (E, K) and (K,), found {tuple(values.shape)} and {tuple(allowed.shape)}")
        if self.rule == "uncertainty":
            value = uncertainty_value(values.mean(dim=0), values.std(dim=0, correction=0), self.penalty)
        else:
            value = reduce_heads(values, self.reduction)
        value = torch.where(allowed, value, -torch.inf)
        match self.rule:
            case "argmax":
                share = argmax_share(value)
            case "softmax":
                share = softmax_share(value, self.temperature)
            case "advantage":
                share = advantage_share(value, self.expectile)
            case _:
                share = margin_share(value, self.margin)
        drawn = self.rule in ("softmax", "advantage")
        index = torch.multinomial(share, 1, generator=generator)[0] if drawn else share.argmax()
        return Selection(index=int(index), share=share, value=value)
