"""Flow matching on actions: a velocity field that carries noise to recorded actions.

Lipman et al. "Flow Matching for Generative Modeling". ICLR 2023, arXiv:2210.02747; the straight paths of Liu et al.
"Flow Straight and Fast". ICLR 2023, arXiv:2209.03003.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from robot_rl.functional.chunk import recorded

EVALUATION_SEED = 0
"""Of the noise from which an agent that does not explore draws the actions among which it chooses."""

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


def flow_loss(velocity: Tensor, wanted: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean over rows and dimensions of |v(s, x_t, t) - (x_1 - x_0)|^2: FQL's equation 7 (arXiv:2502.02538).

    Of action chunks, steps that were not recorded count as 0 in the mean, as in Q-chunking's code.
    Shapes: (B, A) each, valid (B, H) -> ().
    """
    return recorded((velocity - wanted).square(), valid).mean()


def cloning_loss(
    network: Callable[[Tensor], Tensor],
    features: Tensor,
    action: Tensor,
    valid: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """`flow_loss` at times and from noise that are drawn, of a network of (features, x_t, t).

    Shapes: (B, F), (B, A), (B, H) -> ().
    """
    time = torch.rand(len(action), 1, generator=generator, device=action.device)
    noise = torch.randn(action.shape, generator=generator, device=action.device, dtype=features.dtype)
    x, wanted = straight_path(noise, action, time)
    return flow_loss(network(torch.cat([features, x, time], 1)), wanted, valid)


def candidates(network: Callable[[Tensor], Tensor], features: Tensor, noise: Tensor, steps: int) -> Tensor:
    """N actions in each state, of a network of (features, x_t, t). Shapes: (B, F), (B, N, A) -> (B, N, A)."""
    repeated = features.repeat_interleave(noise.shape[1], dim=0)  # (B * N, F)
    action = integrate(lambda x, time: network(torch.cat([repeated, x, time], 1)), noise.flatten(0, 1), steps)
    return action.view_as(noise)


def candidate_noise(like: Tensor, count: int, size: int, generator: torch.Generator | None) -> Tensor:
    """Noise for N actions in each state: of the generator, or, without one, the same for every state and call.

    Shapes: like (B, F) -> (B, N, A).
    """
    rows, device = len(like), like.device
    if generator is not None:
        return torch.randn((rows, count, size), generator=generator, device=device, dtype=like.dtype)
    fixed = torch.Generator(device).manual_seed(EVALUATION_SEED)
    return torch.randn((1, count, size), generator=fixed, device=device, dtype=like.dtype).expand(rows, -1, -1)
