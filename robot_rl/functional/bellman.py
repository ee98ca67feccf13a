"""Targets of value learning."""

import torch
from torch import Tensor


def td_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """reward + discount * V(s'). `discount` is 0 after a termination and discount**n elsewhere. Shapes: (B,) each."""
    if not reward.shape == discount.shape == next_value.shape or reward.ndim != 1:
        shapes = [tuple(each.shape) for each in (reward, discount, next_value)]
        raise ValueError(f"reward, discount and next_value must be (B,), but are {shapes}")
    return reward + discount * next_value


def squared_td_error(q: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over the batch of w (Q_i - y)^2, for each critic; its own y_i where the targets are (E, B).

    Shapes: q (E, B), target (B,) or (E, B), weight (B,) -> (E,).
    """
    if q.ndim != 2 or target.shape not in (q.shape[1:], q.shape):
        found = f"{tuple(q.shape)} and {tuple(target.shape)}"
        raise ValueError(f"q must be (E, B) and target (B,) or (E, B), but are {found}")
    squared = (q - target).square()
    return (squared if weight is None else weight * squared).mean(dim=1)


def expectile(difference: Tensor, expectile: float) -> Tensor:
    """|expectile - 1[d < 0]| * d^2, element by element.

    Kostrikov et al. "Offline Reinforcement Learning with Implicit Q-Learning". ICLR 2022, arXiv:2110.06169.
    """
    return torch.where(difference < 0, 1 - expectile, expectile) * difference.square()


def monte_carlo_return(reward: Tensor, terminated_at_end: bool, discount: float, tail_value: float) -> Tensor:
    """Return-to-go of one episode: G_t = r_t + discount * G_{t+1}, with G_T = 0 after a termination.

    An episode that was only cut off goes on in truth: `tail_value` stands for what would have followed its last step.
    0 is optimistic where rewards are negative; r_last / (1 - discount) says that the last reward repeats for ever
    (Cal-QL's rule for failed episodes); a bootstrap V(s_T) is the third choice.

    Shapes: (T,) -> (T,), of the dtype of `reward`; summed in float64.
    """
    if reward.ndim != 1:
        raise ValueError(f"reward must be (T,), but is {tuple(reward.shape)}")
    following = 0.0 if terminated_at_end else tail_value
    returns = []
    for value in reversed(reward.tolist()):
        following = value + discount * following
        returns.append(following)
    return torch.tensor(returns[::-1], dtype=torch.float64).to(reward)
