"""What the outputs of a critic mean: a value, or a distribution of returns whose mean is Q.

A head turns outputs into Q, which is all that policies, conservative terms and advantages see, and measures outputs
against a TD target. The target is a number everywhere; what a head adds to it is the `Spread` of the returns around
that number, so that whatever an algorithm does to its target (entropy, penalties, bounds, a minimum over critics) moves
the distribution without the head knowing of it.

Letters: B batch, E critics, K critics of the target, N actions, Z outputs of a critic.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from robot_rl.checks import require_choice, require_range
from robot_rl.errors import InputError
from robot_rl.functional.bellman import squared_td_error
from robot_rl.functional.distributional import (
    Spread,
    bin_centers,
    cross_entropy,
    gaussian_histogram,
    project,
    quantile_loss,
    reduce_distributions,
    spread_around_mean,
    target_distribution,
)
from robot_rl.types import Metrics

KINDS = ("scalar", "hl_gauss", "c51", "quantile")
BOUNDED = ("hl_gauss", "c51")


@dataclass(kw_only=True)
class CriticHeadConfig:
    """Values of the critics as numbers; or as distributions, whose range is in units of the scaled reward's return."""

    kind: str = "scalar"  # scalar | hl_gauss | c51 | quantile
    minimum: float | None = None  # lowest return; hl_gauss and c51 need it, the others have no range
    maximum: float | None = None  # highest return
    atoms: int = 51
    """Z, outputs of each critic but a scalar one: bins, atoms or quantiles. C51: 51, QR-DQN: 200, TQC: 25."""
    deviation: float = 0.75  # of the Gaussian of hl_gauss, in bins
    huber: float = 1.0  # quantile errors above it count linearly; near 0 it is the plain quantile loss

    def holds(self, value: float) -> bool:
        """Whether critics with this head can learn a value."""
        low = -math.inf if self.minimum is None else self.minimum
        return low <= value <= (math.inf if self.maximum is None else self.maximum)

    def __post_init__(self) -> None:
        require_choice(self.kind, KINDS, "critic_head.kind")
        require_range(self.atoms, 2, 10_000, "critic_head.atoms")
        require_range(self.deviation, 0.01, 1e3, "critic_head.deviation")
        require_range(self.huber, 1e-6, 1e6, "critic_head.huber")
        for name in ("minimum", "maximum"):
            value = getattr(self, name)
            if self.kind not in BOUNDED and value is not None:
                raise InputError(
                    f"critic_head.{name}={value} bounds {' and '.join(BOUNDED)}: with {self.kind} give null"
                )
            if self.kind in BOUNDED and value is None:
                raise InputError(
                    f"critic_head.kind={self.kind} needs critic_head.{name}, the {name} of the discounted return: "
                    "rewards between a and b give [a / (1 - discount), b / (1 - discount)]"
                )
            if value is not None:
                require_range(value, -1e8, 1e8, f"critic_head.{name}")
        if self.minimum is not None and self.maximum is not None and self.minimum >= self.maximum:
            raise InputError(f"critic_head.minimum={self.minimum} must be below critic_head.maximum={self.maximum}")


class CriticHead(Protocol):
    """Outputs of critics and what they mean."""

    @property
    def outputs(self) -> int:
        """Z, the width of a critic's last layer."""

    def q(self, raw: Tensor) -> Tensor:
        """The mean of the returns. Shapes: (*, Z) -> (*)."""

    def spread(self, next_raw: Tensor, discount: Tensor, reduction: str, best_of: str = "reduced") -> Spread | None:
        """Returns around their mean at s', discounted: one of K distributions, by the weights of `reduction`.

        Of N actions that of the highest reduced Q counts, or each critic's own (`best_of` "each"). None where a head
        learns from the target alone. Shapes: (K, B, Z) or (K, B, N, Z), (B,) -> (C, B, M).
        """

    def error(self, raw: Tensor, target: Tensor, spread: Spread | None = None, weight: Tensor | None = None) -> Tensor:
        """The loss of each critic against a target, without gradient, averaged over rows by `weight`.

        Without a spread the target is all that is known of the returns. Shapes: raw (E, B, Z), target (B,) or (E, B),
        weight (B,) -> (E,).
        """

    def metrics(self, target: Tensor) -> Metrics:
        """What to watch: the share of targets that the range cuts, where there is a range."""


@dataclass(frozen=True, slots=True)
class ScalarHead:
    """One output, which is Q, and its squared error."""

    outputs: int = 1

    def q(self, raw: Tensor) -> Tensor:
        """The output. Shapes: (*, 1) -> (*)."""
        return raw.squeeze(-1)  # whose gradient is a view, where that of an index is a copy

    def spread(self, next_raw: Tensor, discount: Tensor, reduction: str, best_of: str = "reduced") -> Spread | None:
        """None: a mean needs the mean only."""
        return None

    def error(self, raw: Tensor, target: Tensor, spread: Spread | None = None, weight: Tensor | None = None) -> Tensor:
        """Mean over the batch of w (Q_i - y)^2. Shapes: (E, B, 1), (B,) or (E, B) -> (E,)."""
        return squared_td_error(self.q(raw), target, weight)

    def metrics(self, target: Tensor) -> Metrics:
        """Nothing."""
        return {}


@dataclass(frozen=True, slots=True)
class HLGaussHead:
    """A histogram of returns, trained by cross-entropy towards a Gaussian around the target."""

    minimum: float
    maximum: float
    outputs: int
    deviation: float  # in bins

    def q(self, raw: Tensor) -> Tensor:
        """sum_z softmax(raw)_z center_z. Shapes: (*, Z) -> (*)."""
        return raw.softmax(dim=-1) @ bin_centers(self.minimum, self.maximum, self.outputs, raw)

    def spread(self, next_raw: Tensor, discount: Tensor, reduction: str, best_of: str = "reduced") -> Spread | None:
        """None: the Gaussian's deviation is fixed, whatever the returns do."""
        return None

    def error(self, raw: Tensor, target: Tensor, spread: Spread | None = None, weight: Tensor | None = None) -> Tensor:
        """Cross-entropy against the histogram of N(target, deviation^2). Shapes: (E, B, Z), (B,) or (E, B) -> (E,)."""
        _check(raw, target)
        deviation = self.deviation * (self.maximum - self.minimum) / self.outputs
        wanted = gaussian_histogram(target, self.minimum, self.maximum, self.outputs, deviation)
        return _mean(cross_entropy(raw, wanted), weight)

    def metrics(self, target: Tensor) -> Metrics:
        """Share of targets outside the range."""
        return target_outside(target, self.minimum, self.maximum)


@dataclass(frozen=True, slots=True)
class C51Head:
    """Probabilities of fixed returns, trained by cross-entropy towards the projected distribution of the target."""

    minimum: float
    maximum: float
    outputs: int

    def q(self, raw: Tensor) -> Tensor:
        """sum_z softmax(raw)_z atom_z. Shapes: (*, Z) -> (*)."""
        return raw.softmax(dim=-1) @ self._support(raw)

    def spread(self, next_raw: Tensor, discount: Tensor, reduction: str, best_of: str = "reduced") -> Spread | None:
        """The atoms under the reduced probabilities. Shapes: (K, B, Z) or (K, B, N, Z), (B,) -> (C, B, Z)."""
        probability = reduce_distributions(next_raw.softmax(dim=-1), self.q(next_raw), reduction, best_of)
        return spread_around_mean(self._support(next_raw).expand_as(probability), probability, discount)

    def error(self, raw: Tensor, target: Tensor, spread: Spread | None = None, weight: Tensor | None = None) -> Tensor:
        """Cross-entropy against the projected target. Shapes: (E, B, Z), (B,) or (E, B) -> (E,)."""
        _check(raw, target)
        wanted = project(*target_distribution(target, spread), self.minimum, self.maximum, self.outputs)
        return _mean(cross_entropy(raw, wanted), weight)

    def metrics(self, target: Tensor) -> Metrics:
        """Share of targets whose mean is outside the range."""
        return target_outside(target, self.minimum, self.maximum)

    def _support(self, like: Tensor) -> Tensor:
        return torch.linspace(self.minimum, self.maximum, self.outputs, dtype=like.dtype, device=like.device)


@dataclass(frozen=True, slots=True)
class QuantileHead:
    """Quantiles of the return at the levels (z + 1/2) / Z, trained by quantile regression; no range is needed."""

    outputs: int
    huber: float

    def q(self, raw: Tensor) -> Tensor:
        """The mean of the quantiles. Shapes: (*, Z) -> (*)."""
        return raw.mean(dim=-1)

    def spread(self, next_raw: Tensor, discount: Tensor, reduction: str, best_of: str = "reduced") -> Spread | None:
        """The reduced quantiles, all as likely. Shapes: (K, B, Z) or (K, B, N, Z), (B,) -> (C, B, Z)."""
        quantiles = reduce_distributions(next_raw, self.q(next_raw), reduction, best_of)
        return spread_around_mean(quantiles, torch.full_like(quantiles, 1 / self.outputs), discount)

    def error(self, raw: Tensor, target: Tensor, spread: Spread | None = None, weight: Tensor | None = None) -> Tensor:
        """Quantile Huber loss against the target's atoms. Shapes: (E, B, Z), (B,) or (E, B) -> (E,)."""
        _check(raw, target)
        return _mean(quantile_loss(raw, *target_distribution(target, spread), self.huber), weight)

    def metrics(self, target: Tensor) -> Metrics:
        """Nothing."""
        return {}


SCALAR = ScalarHead()


def critic_head(config: CriticHeadConfig) -> CriticHead:
    """The head that a configuration asks for."""
    low, high = config.minimum, config.maximum
    match config.kind:
        case "scalar":
            return SCALAR
        case "quantile":
            return QuantileHead(config.atoms, config.huber)
        case "c51" if low is not None and high is not None:
            return C51Head(low, high, config.atoms)
        case "hl_gauss" if low is not None and high is not None:
            return HLGaussHead(low, high, config.atoms, config.deviation)
    raise ValueError(f"no head is configured by {config}")


def target_outside(target: Tensor, minimum: float, maximum: float) -> Metrics:
    """The share of targets that a range cuts."""
    outside = (target < minimum) | (target > maximum)
    return {"critic/target_outside": outside.to(target.dtype).mean()}


def _check(raw: Tensor, target: Tensor) -> None:
    if raw.ndim != 3 or target.shape not in (raw.shape[1:2], raw.shape[:2]):
        found = f"{tuple(raw.shape)} and {tuple(target.shape)}"
        raise ValueError(f"outputs must be (E, B, Z) and target (B,) or (E, B), but are {found}")


def _mean(error: Tensor, weight: Tensor | None) -> Tensor:
    return (error if weight is None else weight * error).mean(dim=1)
