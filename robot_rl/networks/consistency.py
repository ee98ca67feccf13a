"""The head of a consistency policy, on features that somebody else made."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from robot_rl.functional.consistency import NoiseScale, denoised, one_step

TIME_SIZE = 16
HIDDEN = (256, 256)


class ConsistencyHead(nn.Module):
    """Features, noisy actions and time to actions: layers of LayerNorm and tanh; time by sines and a small MLP.

    The numbers of ConRFT's public code: two layers of 256, time in 16 numbers. The last layer begins at 0, so that the
    first actions are the scaled noise.
    """

    def __init__(
        self, features: int, action_size: int, generator: torch.Generator, *, hidden: tuple[int, ...] = HIDDEN
    ) -> None:
        super().__init__()
        self.features, self.action_size = features, action_size
        self.time_in, self.time_out = nn.Linear(TIME_SIZE, 2 * TIME_SIZE), nn.Linear(2 * TIME_SIZE, TIME_SIZE)
        widths = [features + action_size + TIME_SIZE, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in hidden)
        self.out = nn.Linear(widths[-1], action_size)
        for layer in (self.time_in, self.time_out, *self.layers):
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """Shapes: (B, F), (B, A), (B,) -> (B, A)."""
        half = TIME_SIZE // 2
        rates = torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=time.dtype, device=time.device) / (half - 1))
        angles = time.unsqueeze(1) * rates
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        x = torch.cat([features, noisy, self.time_out(nn.functional.silu(self.time_in(waves)))], dim=1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.tanh(norm(layer(x)))
        found: Tensor = self.out(x)
        return found

    def reconstructed(
        self, features: Tensor, action: Tensor, scale: NoiseScale, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Actions from themselves with noise, of a level that is drawn for each row; and that level, sigma.

        Shapes: (B, F), (B, A) -> (B, A), (B,).
        """
        sigmas = scale.sigmas(action)
        level = torch.randint(len(sigmas), (len(action),), generator=generator, device=action.device)
        noise = torch.randn(action.shape, generator=generator, device=action.device, dtype=action.dtype)
        sigma = sigmas[level]
        noisy = action + sigma[:, None] * noise
        return denoised(lambda x, time: self(features, x, time), noisy, sigma, scale), sigma

    def from_noise(self, features: Tensor, noise: Tensor, scale: NoiseScale) -> Tensor:
        """Actions in one step from noise of deviation 1. Shapes: (B, F), (B, A) -> (B, A)."""
        return one_step(lambda x, time: self(features, x, time), noise, scale)
