"""Intention-conditioned values V(s, s+, z), learned from video: does doing what z wants lead to s+?

Ghosh, Bhateja, Levine. "Reinforcement Learning from Passive Data via Latent Intentions". ICML 2023, arXiv:2304.04782.
The paper could not be opened here; what is said of the published code is of dibyaghosh/icvf_release at 73ded29.

Letters: E members of the ensemble, K tuples (s, s', s+, z).
"""

import torch
from torch import Tensor

from robot_rl.functional.bellman import expectile
from robot_rl.types import Metrics


def multilinear_value(
    phi: Tensor, psi: Tensor, intent: Tensor, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]
) -> Tensor:
    """phi(s)^T T(z) psi(s+) with T(z) = diag(T_z) A^T B diag(T_z): <A (T_z * phi) + a, B (T_z * psi) + b>.

    A d x d matrix for every z would be an output of d^2 numbers; A and B are shared by all z.

    Args:
        phi: of the state.
        psi: of the outcome s+.
        intent: T_z, of psi(z).
        left: A and a.
        right: B and b.

    Shapes: phi, psi, intent (E, K, d); A, B (E, d, d) from the second index to the first; a, b (E, d) -> (E, K).
    """
    if not phi.shape == psi.shape == intent.shape or phi.ndim != 3:
        shapes = [tuple(each.shape) for each in (phi, psi, intent)]
        raise ValueError(f"phi, psi and intent must be (E, K, d), but are {shapes}")
    from_state = torch.baddbmm(left[1][:, None], intent * phi, left[0].mT)
    to_outcome = torch.baddbmm(right[1][:, None], intent * psi, right[0].mT)
    return (from_state * to_outcome).sum(-1)


def backup(next_v: Tensor, at_goal: Tensor, discount: float) -> Tensor:
    """r + discount (1 - 1[s = g]) Vbar(s', ...) with r = 1[s = g] - 1: 0 at the goal, where it ends, and -1 before.

    Shapes: next_v (E, K) or (K,), at_goal (K,) bool -> as next_v.
    """
    if at_goal.ndim != 1 or next_v.shape[-1:] != at_goal.shape:
        raise ValueError(f"at_goal must be (K,) for next_v {tuple(next_v.shape)}, but is {tuple(at_goal.shape)}")
    return torch.where(at_goal, 0.0, discount * next_v - 1.0)


def intent_advantage(
    next_v_intent: Tensor, v_intent: Tensor, at_intent: Tensor, discount: float, *, reduction: str = "min"
) -> Tensor:
    """A(s, s', z) = r(s, z) + discount Vbar(s', z, z) - Vbar(s, z, z): is the step s -> s' one that z would take?

    Args:
        next_v_intent: Vbar(s', z, z) of the target network.
        v_intent: Vbar(s, z, z) of the target network.
        at_intent: the state is the intent.
        discount: per step.
        reduction: of the ensemble in the next value, `min` or `mean`; in the present value it is always the mean.

    Shapes: (E, K), (E, K), (K,) -> (K,).
    """
    if next_v_intent.shape != v_intent.shape or v_intent.ndim != 2:
        raise ValueError(f"expected (E, K) twice, found {tuple(next_v_intent.shape)} and {tuple(v_intent.shape)}")
    following = next_v_intent.amin(0) if reduction == "min" else next_v_intent.mean(0)
    return backup(following, at_intent, discount) - v_intent.mean(0)


def value_loss(
    v: Tensor, next_v: Tensor, at_goal: Tensor, advantage: Tensor, discount: float, upper_expectile: float
) -> tuple[Tensor, Metrics]:
    """Sum over the ensemble of the mean of |alpha - 1[A < 0]| (y_i - V_i(s, s+, z))^2, y_i = r + discount Vbar_i(s').

    The advantage of the intent decides the weight of another residual, that of the outcome. Each member has its own
    target.

    Shapes: v, next_v (E, K), at_goal (K,) bool, advantage (K,) -> ().
    """
    if v.shape != next_v.shape or v.ndim != 2 or advantage.shape != v.shape[1:]:
        shapes = [tuple(each.shape) for each in (v, next_v, advantage)]
        raise ValueError(f"v and next_v must be (E, K) and advantage (K,), but are {shapes}")
    target = backup(next_v, at_goal, discount).detach()
    # expectile() weighs by the sign of its argument; here the advantage gives the sign, the residual the size.
    weight = expectile(torch.where(advantage < 0, -1.0, 1.0).to(v), upper_expectile).detach()
    loss = (weight * (target - v).square()).mean(1).sum()
    metrics = {
        "value/loss": loss.detach(),
        "value/v": v.detach().mean(),
        "value/advantage": advantage.detach().mean(),
        "value/accepted": (advantage >= 0).float().mean(),
    }
    return loss, metrics
