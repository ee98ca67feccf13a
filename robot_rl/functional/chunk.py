"""What of an action chunk counts where the end of its episode cut it.

Li, Zhou, Levine. "Reinforcement Learning with Action Chunking". NeurIPS 2025, arXiv:2507.07969 (Q-chunking).

Letters: B batch, H steps of a chunk, A action; `valid` is that of `Batch`, None where nothing was cut.
"""

from torch import Tensor

from robot_rl.errors import nearest

RULES = ("whole", "terminated", "all")


def chunk_weight(valid: Tensor | None, discount: Tensor, rule: str) -> Tensor | None:
    """Which rows teach a critic: 1 or 0 for each, None where all do.

    `whole`: those whose H steps were all recorded (Q-chunking). `terminated`: those that a termination cut too, whose
    remaining actions would have changed nothing. `all`: those that a time limit cut too, as if the repeated last action
    had led to where the episode stopped. Shapes: (B, H), (B,) -> (B,).
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule}: {nearest(rule, RULES)}")
    if valid is None or rule == "all":
        return None
    counts = valid[:, -1]
    if rule == "terminated":
        counts = counts | (discount == 0)
    return counts.to(discount.dtype)


def recorded(error: Tensor, valid: Tensor | None) -> Tensor:
    """0 in place of the errors of steps that were not recorded. Shapes: (B, H * A), (B, H) -> (B, H * A)."""
    if valid is None:
        return error
    masked: Tensor = error.unflatten(1, (valid.shape[1], -1)) * valid.unsqueeze(2)
    return masked.flatten(1)
