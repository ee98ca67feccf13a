"""Policies: a diagonal Gaussian over actions, before any squashing, and a deterministic one."""

import torch
from torch import Tensor, nn

from robot_rl.networks.initialize import Initialization
from robot_rl.networks.mlp import MLP

LOG_STD_KINDS = ("state_dependent", "state_independent", "affine")


class GaussianActor(nn.Module):
    """Features to mean and log standard deviation; whether tanh squashes the sample is the algorithm's matter.

    `log_std_kind`: `state_dependent`, an output of the network; `affine`, the same times a learned scalar plus another,
    which start at 1 and -1 (Cal-QL's code); `state_independent`, one learned number per action dimension, from 0.
    """

    def __init__(
        self,
        features: int,
        action_size: int,
        hidden: list[int],
        *,
        layer_norm: bool,
        log_std_kind: str,
        log_std_range: tuple[float, float],
        initialization: Initialization,
        generator: torch.Generator,
        dropout: float = 0.0,
        bounded_mean: bool = False,
    ) -> None:
        super().__init__()
        self.log_std_kind, self.log_std_range, self.bounded_mean = log_std_kind, log_std_range, bounded_mean
        outputs = action_size if log_std_kind == "state_independent" else 2 * action_size
        self.network = MLP(
            features,
            hidden,
            outputs,
            layer_norm=layer_norm,
            initialization=initialization,
            generator=generator,
            dropout=dropout,
        )
        if log_std_kind == "state_independent":
            self.log_std = nn.Parameter(torch.zeros(action_size))
        elif log_std_kind == "affine":
            self.log_std_scale = nn.Parameter(torch.tensor(1.0))
            self.log_std_offset = nn.Parameter(torch.tensor(-1.0))

    def forward(self, features: Tensor, dropout_generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation. Shapes: (B, F) -> (B, A), (B, A)."""
        output = self.network(features, dropout_generator)
        if self.log_std_kind == "state_independent":
            mean, log_std = output, self.log_std.expand_as(output)
        else:
            mean, log_std = output.chunk(2, dim=-1)
        if self.log_std_kind == "affine":
            log_std = self.log_std_scale * log_std + self.log_std_offset
        if self.bounded_mean:
            mean = torch.tanh(mean)
        low, high = self.log_std_range
        return mean, log_std.clamp(low, high)


class DeterministicActor(nn.Module):
    """Features to an action in [-1, 1], by tanh."""

    def __init__(
        self,
        features: int,
        action_size: int,
        hidden: list[int],
        *,
        layer_norm: bool,
        initialization: Initialization,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.network = MLP(
            features, hidden, action_size, layer_norm=layer_norm, initialization=initialization, generator=generator
        )

    def forward(self, features: Tensor) -> Tensor:
        """Shapes: (B, F) -> (B, A)."""
        return torch.tanh(self.network(features))
