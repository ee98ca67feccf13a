"""The best of several candidates, cloned back into a policy where it is better than what the policy does anyway.

Bai et al. "Digi-Q: Learning Q-Value Functions for Training Device-Control Agents". 2025, arXiv:2502.15760, section 4.3
(the abstract and the public code were read, not every equation): of N candidates the one of highest Q is cloned, if its
advantage is above a threshold.

Letters: B states, K cached candidates of which 0 is the recorded action, N of them drawn, E critics, A action.
"""

import torch
from torch import Tensor

REFERENCES = ("policy", "recorded")


def drawn_candidates(states: int, cached: int, drawn: int, generator: torch.Generator) -> Tensor:
    """N different candidates of K in each state; the first is candidate 0. Shapes: -> (B, N), int64."""
    if not 1 <= drawn <= cached:
        raise ValueError(f"{drawn} of {cached} candidates cannot be drawn")
    others = torch.rand(states, cached - 1, generator=generator, device=generator.device).argsort(dim=1) + 1
    zeros = others.new_zeros(states, 1)
    return torch.cat([zeros, others[:, : drawn - 1]], dim=1)


def best_of(q: Tensor, reference: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Which candidate has the highest Q, its advantage Q - V, and whether that is above the threshold.

    A candidate whose Q is not finite is never the best; where none is finite, nothing is cloned.
    Shapes: q (B, N), reference (B,) -> index (B,) int64, advantage (B,), cloned (B,) bool.
    """
    known = torch.where(q.isfinite(), q, -torch.inf)
    best, index = known.max(dim=1)
    advantage = best - reference
    return index, advantage, best.isfinite() & reference.isfinite() & (advantage > threshold)


def reference_value(q: Tensor, kind: str) -> Tensor:
    """V of the states: `policy`, the mean Q of the policy's own candidates; `recorded`, that of the recorded action.

    Shapes: (B, K) -> (B,).
    """
    if kind == "recorded" or q.shape[1] == 1:
        return q[:, 0]
    return q[:, 1:].mean(dim=1)
