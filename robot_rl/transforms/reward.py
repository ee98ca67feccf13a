"""The reward transform of a recipe: stored rewards stay raw, everything that trains sees scale * r + bias."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RewardTransform:
    """Applied once, where a replay buffer takes rewards in, so Monte-Carlo returns and targets cannot disagree."""

    scale: float = 1.0
    bias: float = 0.0

    def __call__(self, reward: Tensor) -> Tensor:
        """Shapes: (*) -> (*)."""
        return reward * self.scale + self.bias
