"""Denoising diffusion on actions: noise is added in T steps, and taken off again by a network that predicts it.

Ho, Jain, Abbeel. "Denoising Diffusion Probabilistic Models". NeurIPS 2020, arXiv:2006.11239 (DDPM), with the
variance-preserving schedule of Song et al. "Score-Based Generative Modeling through Stochastic Differential Equations".
ICLR 2021, arXiv:2011.13456, cut into steps as in Xiao, Kreis, Vahdat. "Tackling the Generative Learning Trilemma with
Denoising Diffusion GANs". ICLR 2022, arXiv:2112.07804.

Steps are counted k = 0, ..., T - 1, of which T - 1 leaves nearly nothing of the action.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

RATE_MINIMUM, RATE_MAXIMUM = 0.1, 10.0
"""Rates of noise at the start and the end of the schedule (IDQL's, arXiv:2304.10573; Song et al.: 0.1 and 20)."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""(x_k (B, A), k (1, 1)) -> noise in x_k (B, A)."""

Time = TypeVar("Time", float, Tensor)


def log_signal(time: Time) -> Time:
    """log abar at u = (k + 1) / T in [0, 1]: minus the integral of the rate, b_min u + (b_max - b_min) u^2 / 2.

    The public codes sum log alpha_k = -b_min / T - (b_max - b_min) (2 k + 1) / (2 T^2), which comes to the same.
    """
    return -time * (RATE_MINIMUM + 0.5 * (RATE_MAXIMUM - RATE_MINIMUM) * time)


def noised(action: Tensor, noise: Tensor, step: Tensor, steps: int) -> Tensor:
    """x_k = sqrt(abar_k) a + sqrt(1 - abar_k) noise: DDPM's equation 4. Shapes: (B, A), (B, A), (B, 1) -> (B, A)."""
    signal = log_signal((step + 1) / steps).exp()
    return signal.sqrt() * action + (1 - signal).sqrt() * noise


def denoise(predict: Predict, noise: Tensor) -> Tensor:
    """Actions from noise: DDPM's algorithm 2, with variance beta_k, cut to [-1, 1] after every step.

    x_{k-1} = (x_k - beta_k / sqrt(1 - abar_k) predict(x_k, k)) / sqrt(alpha_k) + sqrt(beta_k) z, with z = 0 in the last
    step, alpha_k = abar_k / abar_{k-1} and beta_k = 1 - alpha_k.

    Shapes: noise (T, B, A), first x_T and then the z of all steps but the last -> (B, A).
    """
    steps = len(noise)
    x = noise[0]
    for k in reversed(range(steps)):
        signal, before = (math.exp(log_signal(each / steps)) for each in (k + 1, k))
        alpha = signal / before
        predicted = predict(x, torch.full((1, 1), k, dtype=x.dtype, device=x.device))
        x = (x - (1 - alpha) / math.sqrt(1 - signal) * predicted) / math.sqrt(alpha)
        if k > 0:
            x = x + math.sqrt(1 - alpha) * noise[steps - k]
        x = x.clamp(-1, 1)
    return x
