"""Consistency policies: one step from noise to an action, trained by denoising and by a critic.

Chen et al. "ConRFT: A Reinforced Fine-tuning Method for VLA Models via Consistency Policy". RSS 2025, arXiv:2502.05450:
weight_cloning * reconstruction - weight_value * mean_i Q_i(s, pi(s)), on features of a backbone that stays as it is.
Song et al. "Consistency Models". ICML 2023, arXiv:2303.01469, appendix C (the scalings). Karras et al. "Elucidating the
Design Space of Diffusion-Based Generative Models". NeurIPS 2022, arXiv:2206.00364, equation 5 (the levels).
Numbers are those of ConRFT's public code (cccedric/conrft, 3bacb6f).

Letters: B batch, A action, L levels of noise, E critics.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]
"""(x scaled (B, A), time (B,)) -> (B, A)."""


@dataclass(frozen=True, kw_only=True)
class NoiseScale:
    """Levels of noise: from `minimum` to `maximum`, evenly in sigma^(1 / rho)."""

    levels: int = 40
    minimum: float = 0.002
    maximum: float = 80.0
    rho: float = 7.0
    data: float = 0.5  # deviation of actions in [-1, 1]

    def sigmas(self, like: Tensor) -> Tensor:
        """From the largest down. Shapes: -> (L,), dtype and device of `like`."""
        place = torch.arange(self.levels, dtype=like.dtype, device=like.device) / max(self.levels - 1, 1)
        low, high = self.minimum ** (1 / self.rho), self.maximum ** (1 / self.rho)
        levels: Tensor = (high + place * (low - high)) ** self.rho
        return levels


def scalings(sigma: Tensor, scale: NoiseScale) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in: at the smallest noise the function is the identity. Shapes: (B,) -> (B,) thrice."""
    variance = scale.data**2
    above = sigma - scale.minimum
    skip = variance / (above.square() + variance)
    out = above * scale.data / (sigma.square() + variance).sqrt()
    return skip, out, (sigma.square() + variance).rsqrt()


def denoised(network: Network, noisy: Tensor, sigma: Tensor, scale: NoiseScale) -> Tensor:
    """f(x, sigma) = c_skip x + c_out F(c_in x, 250 log sigma). Shapes: (B, A), (B,) -> (B, A)."""
    skip, out, inside = (each.unsqueeze(1) for each in scalings(sigma, scale))
    time = 250.0 * sigma.clamp(min=1e-44).log()
    return skip * noisy + out * network(inside * noisy, time)


def one_step(network: Network, noise: Tensor, scale: NoiseScale) -> Tensor:
    """An action from noise of deviation 1, in [-1, 1]. Shapes: (B, A) -> (B, A)."""
    sigma = torch.full((len(noise),), scale.maximum, dtype=noise.dtype, device=noise.device)
    return denoised(network, scale.maximum * noise, sigma, scale).clamp(-1.0, 1.0)


def reconstruction_loss(found: Tensor, action: Tensor, sigma: Tensor, scale: NoiseScale) -> Tensor:
    """mean_b (1 / sigma^2 + 1 / sigma_data^2) * mean_a (f(a + sigma noise, sigma) - a)^2.

    Shapes: (B, A), (B, A), (B,) -> ().
    """
    weight = sigma.square().reciprocal() + 1 / scale.data**2
    return (weight * (found - action).square().mean(dim=1)).mean()


def tuning_loss(reconstruction: Tensor, q: Tensor, cloning_weight: float, value_weight: float) -> Tensor:
    """cloning_weight * reconstruction - value_weight * mean Q (ConRFT, section IV). Shapes: (), (E, B) -> ()."""
    return cloning_weight * reconstruction - value_weight * q.mean()
