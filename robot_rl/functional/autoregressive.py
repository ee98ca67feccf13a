"""Q of one action dimension after another, each a choice among bins that sees the choices before it.

Chebotar et al. "Q-Transformer: Scalable Offline Reinforcement Learning via Autoregressive Q-Functions". CoRL 2023,
arXiv:2309.10150, section 4. Letters: B batch, D dimensions (of a chunk: H * A), Z bins.
"""

import torch
from torch import Tensor


def dimension_targets(q: Tensor, reward: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    """y_i = max_b Q(s, a_1..i, b) for i < D; y_D = r + discount * max_b Q(s', b) (equation 1).

    Shapes: q (B, D, Z), of the recorded action, whose dimension i sees those before it; reward and discount (B,);
    next_q (B, Z), of the first dimension in s' -> (B, D).
    """
    last = reward + discount * next_q.amax(dim=1)
    return torch.cat([q[:, 1:].amax(dim=2), last[:, None]], dim=1)


def recorded_bin(q: Tensor, chosen: Tensor) -> Tensor:
    """Q of the recorded bins. Shapes: (B, D, Z), (B, D) of indices -> (B, D)."""
    return q.take_along_dim(chosen.unsqueeze(2), dim=2).squeeze(2)


def dimension_loss(q: Tensor, target: Tensor) -> Tensor:
    """1/2 mean (Q_i(s, a) - y_i)^2 over rows and dimensions. Shapes: (B, D) twice -> ()."""
    return 0.5 * (q - target).square().mean()


def unseen_loss(q: Tensor, chosen: Tensor, lowest: float) -> Tensor:
    """1/2 mean (Q_i(s, b) - lowest)^2 over rows, dimensions and the bins b that were not recorded (section 4.2).

    Shapes: (B, D, Z), (B, D) of indices -> ().
    """
    squared = (q - lowest).square().scatter(2, chosen.unsqueeze(2), 0.0)
    return 0.5 * squared.sum(dim=2).mean() / (q.shape[2] - 1)
