"""A game of two: one wants a high value, the other a low one, and both pay for being predictable.

Reddi et al. "Robust Adversarial Reinforcement Learning via Bounded Rationality Curricula". ICLR 2024, arXiv:2311.01642
(QARL): the solution of the entropy-regularised game is a quantal response equilibrium, in which a high temperature is a
player that hardly looks at values.
"""

from torch import Tensor


def game_value(
    value: Tensor, log_prob: Tensor, temperature: Tensor, other_log_prob: Tensor, rival: float | Tensor
) -> Tensor:
    """V = Q(s, a, f) - temperature * log pi(a|s) + rival * log mu(f|s), a of the one, f of the other.

    Entropies count for the player who has them, so the other's counts against the value.
    Shapes: each (B,), temperature () -> (B,).
    """
    return value - temperature * log_prob + rival * other_log_prob


def rival_loss(q: Tensor, log_prob: Tensor, temperature: float | Tensor) -> Tensor:
    """Mean of temperature * log mu(f|s) + max_i Q_i(s, a, f): the rival lowers the highest of the critics.

    That is the mirror of the protagonist, who raises the lowest: neither trusts a critic that only it would like.
    Shapes: q (E, B), log_prob (B,) -> ().
    """
    if q.shape[1:] != log_prob.shape:
        raise ValueError(f"q {tuple(q.shape)} must be (E, B) with log_prob (B,), which is {tuple(log_prob.shape)}")
    return (temperature * log_prob + q.amax(dim=0)).mean()
