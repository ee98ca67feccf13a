"""The conservative term of CQL, and its calibrated form of Cal-QL.

Kumar et al. "Conservative Q-Learning for Offline Reinforcement Learning". NeurIPS 2020, arXiv:2006.04779.
Nakamoto et al. "Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online Fine-Tuning". NeurIPS 2023,
arXiv:2303.05479.
"""

import math

import torch
from torch import Tensor


def conservative_difference(
    q_data: Tensor,
    q_random: Tensor,
    q_current: Tensor,
    q_next: Tensor,
    *,
    log_prob_current: Tensor,
    log_prob_next: Tensor,
    action_size: int,
    temperature: float,
    importance_sampling: bool,
    subtract_log_count: bool,
    lower_bound: Tensor | None,
) -> Tensor:
    """Soft maximum of Q over actions, minus Q of the recorded action: CQL(H), estimated from samples.

    With importance sampling, over 3 N samples a of density p(a), `uniform` being log p = log(0.5^A):

        T logsumexp([Q(s, a) - log p(a)] / T) - Q(s, a_data)

    without it, over 3 N + 1 actions, the recorded one among them, and no density; `subtract_log_count` then takes off
    T log(3 N + 1), as WSRL's code does. The actions of `q_next` come from the policy at s', but are judged at s.

    Calibration (Cal-QL): `lower_bound`, a Monte-Carlo return, replaces smaller values of Q at the policy's
    actions, current and next, never at the uniform ones. None is plain CQL.

    Shapes: q_data (E, B); q_random, q_current, q_next (E, B, N); log probabilities (B, N); lower_bound (B,) -> (E, B).
    """
    E, B, N = q_random.shape
    expected = [(q_data, (E, B)), (q_current, (E, B, N)), (q_next, (E, B, N))]
    expected += [(log_prob_current, (B, N)), (log_prob_next, (B, N))]
    expected += [] if lower_bound is None else [(lower_bound, (B,))]
    for tensor, shape in expected:
        if tensor.shape != shape:
            raise ValueError(f"found shape {tuple(tensor.shape)} where q_random {(E, B, N)} asks for {shape}")
    if lower_bound is not None:
        floor = lower_bound[:, None]  # (B, 1), over N
        q_current, q_next = torch.maximum(q_current, floor), torch.maximum(q_next, floor)
    if importance_sampling:
        uniform = action_size * math.log(0.5)
        terms = torch.cat([q_random - uniform, q_next - log_prob_next, q_current - log_prob_current], dim=2)
        soft_maximum = temperature * torch.logsumexp(terms / temperature, dim=2)
    else:
        terms = torch.cat([q_random, q_data.unsqueeze(2), q_next, q_current], dim=2)  # (E, B, 3 N + 1)
        soft_maximum = temperature * torch.logsumexp(terms / temperature, dim=2)
        if subtract_log_count:
            soft_maximum = soft_maximum - temperature * math.log(3 * N + 1)
    return soft_maximum - q_data


def lagrange_loss(multiplier: Tensor, weight: float, difference: Tensor, gap: float) -> Tensor:
    """-mean_i multiplier * weight * (difference_i - gap): the multiplier grows while the difference exceeds the gap.

    As in Cal-QL's code; CQL's own does not multiply the gap by the weight. `difference` takes no gradient.
    Shapes: (), (E,) -> ().
    """
    return -(multiplier * weight * (difference.detach() - gap)).mean()
