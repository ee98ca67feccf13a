"""Values of the best recorded actions, without a policy.

Kostrikov, Nair, Levine. "Offline Reinforcement Learning with Implicit Q-Learning". ICLR 2022, arXiv:2110.06169.
"""

from torch import Tensor

from robot_rl.functional.bellman import expectile


def value_loss(q_target: Tensor, v: Tensor, upper_expectile: float) -> Tensor:
    """L_V: mean of |expectile - 1[u < 0]| u^2 with u = Qbar(s, a) - V(s). Shapes: (B,), (B,) -> ()."""
    if v.ndim != 1 or q_target.shape != v.shape:
        raise ValueError(f"expected (B,) twice, found {tuple(q_target.shape)} and {tuple(v.shape)}")
    return expectile(q_target.detach() - v, upper_expectile).mean()
