"""What an update sees of a batch: features for critics and policies, and how gradients get back to an encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robot_rl.types import Metrics


@dataclass(slots=True, kw_only=True)
class Seen:
    """Features of a part of a batch.

    Where an encoder learns, `critic` and `actor` are leaves of their own: every loss leaves its gradient in them, and
    one backward pass through the encoder, in `networks.optimize.descend_encoder`, takes them all along.
    """

    critic: Tensor  # (R * B, F), what critics and values see; R is `repeats`
    next_critic: Tensor  # (B, F), no gradient
    actor: Tensor  # (B, F), what the policy sees
    next_actor: Tensor  # (B, F), no gradient
    repeats: int = 1  # 2 where critics also see strongly changed images (SVEA), behind the others
    outputs: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # what the encoder gave, and its leaf
    auxiliary: Tensor | None = None  # a further loss of the encoder, ()
    metrics: Metrics = field(default_factory=dict)

    def each(self, values: Tensor) -> Tensor:
        """One for each row of `critic`. Shapes: (B, *) -> (R * B, *)."""
        return values if self.repeats == 1 else torch.cat([values] * self.repeats)

    def first(self, values: Tensor) -> Tensor:
        """Of the images that are not strongly changed. Shapes: (R * B, *) -> (B, *)."""
        return values if self.repeats == 1 else values[: len(values) // self.repeats]


def together(parts: Sequence[Tensor]) -> Tensor:
    """One part, or all of them one behind the other. Shapes: each (B, F) -> (n * B, F)."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
