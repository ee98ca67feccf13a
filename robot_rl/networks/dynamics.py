"""Models of what follows a state and an action.

Letters: B batch, M members, K draws, F features, A action, D what is predicted, Z latent.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.functional.domains import mean_of
from robot_rl.networks.initialize import Initialization
from robot_rl.networks.mlp import MLP

LOG_STD = (-5.0, 1.0)
"""Range of the log deviation, in deviations of what is predicted."""


class GaussianDynamics(nn.Module):
    """Several networks, each a Gaussian over what follows: of the robot, or of the simulator.

    Args:
        features: F.
        action_size: A.
        outputs: D, normalised numbers that are predicted, such as the change of the state and the reward.
        hidden: widths of each member.
        count: M.
        initialization: of the weights.
        generator: of the initial weights, which is all that makes members differ.
    """

    def __init__(
        self,
        features: int,
        action_size: int,
        outputs: int,
        hidden: list[int],
        *,
        count: int,
        initialization: Initialization,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        inputs = features + action_size
        self.members = nn.ModuleList(
            MLP(inputs, hidden, 2 * outputs, layer_norm=False, initialization=initialization, generator=generator)
            for _ in range(count)
        )

    def forward(self, features: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log deviation. Shapes: (B, F), (B, A) -> (M, B, D) twice."""
        inputs = torch.cat([features, action], dim=1)
        mean, raw = torch.stack([member(inputs) for member in self.members]).chunk(2, dim=2)
        low, high = LOG_STD
        below = high - F.softplus(high - raw)
        return mean, low + F.softplus(below - low)

    def loss(self, features: Tensor, action: Tensor, outcome: Tensor, rows: Tensor) -> Tensor:
        """Negative log density over the rows that are true, mean over members and dimensions, but for a constant.

        Shapes: (B, F), (B, A), (B, D), (B,) bool -> ().
        """
        mean, log_std = self(features, action)
        each = 0.5 * ((outcome - mean) * (-log_std).exp()).square() + log_std
        return mean_of(each.mean(dim=2), rows).mean()

    def draws(self, features: Tensor, action: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Draws of the first member. Shapes: (B, F), (B, A) -> (B, K, D)."""
        mean, log_std = (each[0].unsqueeze(1) for each in self(features, action))
        shape = (len(features), count, mean.shape[2])
        noise = torch.randn(shape, generator=generator, device=mean.device, dtype=mean.dtype)
        drawn: Tensor = mean + log_std.exp() * noise
        return drawn

    def one_each(self, features: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        """A draw of each member. Shapes: (B, F), (B, A) -> (M, B, D)."""
        mean, log_std = self(features, action)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        drawn: Tensor = mean + log_std.exp() * noise
        return drawn


class LatentDynamics(nn.Module):
    """A state's representation, of mean size 1, and a prediction of the next one (PAR).

    Args:
        features: F.
        action_size: A.
        latent: Z.
        hidden: widths of both networks.
        initialization: of the weights.
        generator: of the initial weights.
    """

    def __init__(
        self,
        features: int,
        action_size: int,
        latent: int,
        hidden: list[int],
        *,
        initialization: Initialization,
        generator: torch.Generator,
    ) -> None:
        super().__init__()

        def network(inputs: int) -> MLP:
            return MLP(inputs, hidden, latent, layer_norm=False, initialization=initialization, generator=generator)

        self.state = network(features)
        self.prediction = network(latent + action_size)

    def encode(self, features: Tensor) -> Tensor:
        """z = f(s) / mean_z |f(s)|, which keeps it from shrinking to nothing. Shapes: (B, F) -> (B, Z)."""
        raw: Tensor = self.state(features)
        return raw / raw.abs().mean(dim=1, keepdim=True).clamp(min=1e-8)

    def predict(self, latent: Tensor, action: Tensor) -> Tensor:
        """The next state's. Shapes: (B, Z), (B, A) -> (B, Z)."""
        predicted: Tensor = self.prediction(torch.cat([latent, action], dim=1))
        return predicted

    def loss(self, features: Tensor, action: Tensor, next_features: Tensor, rows: Tensor) -> Tensor:
        """mean (predicted - stop(z'))^2 over the rows that are true. Shapes: (B, F), (B, A), (B, F), (B,) -> ()."""
        with torch.no_grad():
            wanted = self.encode(next_features)
        predicted = self.predict(self.encode(features), action)
        return mean_of((predicted - wanted).square().mean(dim=1), rows)
