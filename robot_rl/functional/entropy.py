"""The losses of maximum-entropy reinforcement learning.

Haarnoja et al. "Soft Actor-Critic Algorithms and Applications". arXiv:1812.05905.
"""

from torch import Tensor

from robot_rl.functional.ensemble import reduce_heads


def soft_value(
    q: Tensor, log_prob: Tensor, temperature: Tensor, *, reduction: str, backup_entropy: bool, best_of: str = "reduced"
) -> Tensor:
    """V(s') = max_n R_i Q_i(s', a'_n), minus temperature * log pi(a'_n*|s') if the entropy is backed up.

    R is the reduction over critics, the minimum in most algorithms. One action gives SAC's soft value; several the "max
    target backup": of the reduced value, as in Cal-QL's code, or with `best_of` "each" R_i max_n Q_i(s', a'_n), as in
    CQL's own, where critics choose different actions and there is no entropy to back up. (WSRL would subtract it before
    the maximum, but never backs it up.)
    Shapes: q (K, B, N), log_prob (B, N), temperature () -> (B,).
    """
    if q.shape[1:] != log_prob.shape:
        raise ValueError(f"q {tuple(q.shape)} must be (K, B, N) with log_prob (B, N), which is {tuple(log_prob.shape)}")
    if best_of == "each":
        if backup_entropy:
            raise ValueError("critics that choose an action each have no one entropy to back up")
        return reduce_heads(q.amax(dim=2), reduction)
    best, index = reduce_heads(q, reduction).max(dim=1)
    if backup_entropy:
        best = best - temperature * log_prob.gather(1, index[:, None])[:, 0]
    return best


def actor_loss(q: Tensor, log_prob: Tensor, temperature: Tensor, *, reduction: str) -> Tensor:
    """Mean of temperature * log pi(a|s) - Q(s, a), SAC's section 4.2, with Q reduced over critics.

    Shapes: q (E, B), log_prob (B,), temperature () -> ().
    """
    if q.shape[1:] != log_prob.shape:
        raise ValueError(f"q {tuple(q.shape)} must be (E, B) with log_prob (B,), which is {tuple(log_prob.shape)}")
    return (temperature * log_prob - reduce_heads(q, reduction)).mean()


def temperature_loss(
    temperature: Tensor, log_prob: Tensor, target_entropy: float, *, factor: str = "temperature"
) -> Tensor:
    """temperature * (entropy - target), SAC's section 5; no gradient to `log_prob`.

    `factor` "logarithm" puts log(temperature) in its place, as CQL, Cal-QL, CORL and REDQ do: the same sign, and
    another length, of which Adam sees only how it changes.
    Shapes: (), (B,) -> ().
    """
    scale = temperature.log() if factor == "logarithm" else temperature
    return scale * (-log_prob.detach().mean() - target_entropy)
