"""Flow matching on actions: a velocity field that carries noise to recorded actions.

Lipman et al. "Flow Matching for Generative Modeling". ICLR 2023, arXiv:2210.02747; the straight paths of Liu et al.
"Flow Straight and Fast". ICLR 2023, arXiv:2209.03003.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, A), t (B, 1)) -> velocity (B, A)."""


def straight_path(noise: Tensor, action: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """The point (1 - t) x_0 + t x_1 and the velocity x_1 - x_0 there. Shapes: (B, A), (B, A), (B, 1) -> (B, A) each."""
    return (1 - time) * noise + time * action, action - noise


def integrate(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Euler's method from time 0 to 1, cut to [-1, 1] at the end. Shapes: (B, A) -> (B, A)."""
    x = noise
    for step in range(steps):
        time = torch.full_like(noise[:, :1], step / steps)
        x = x + velocity(x, time) / steps
    return x.clamp(-1, 1)
