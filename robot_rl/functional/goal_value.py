"""Values that are distances of embeddings, learned by the dual of goal-reaching: VIP, and LIV with goals in words.

Ma et al. "VIP: Towards Universal Visual Reward and Representation via Value-Implicit Pre-Training". ICLR 2023,
arXiv:2210.00030. Ma et al. "LIV: Language-Image Representations and Rewards for Robotic Control". ICML 2023,
arXiv:2306.00958. The papers could not be opened here; what is said of the published code is of facebookresearch/vip at
0b6c9df and penn-pal-lab/LIV at a7c2243.

Letters: B clips, N shuffled clips, D embedding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from robot_rl.types import Metrics

TINY = 1e-8
"""Inside the logarithm, as in the published code."""
STEP_REWARD = -1.0
"""r(s; g) away from the goal. The published samplers never draw s = g, so that it is the only one."""


def distance_value(embedding: Tensor, goal: Tensor) -> Tensor:
    """VIP: V(s; g) = -|phi(s) - phi(g)|_2. Shapes: (..., D), (..., D) -> (...)."""
    distance: Tensor = torch.linalg.vector_norm(embedding - goal, dim=-1)
    return -distance


def cosine_value(embedding: Tensor, goal: Tensor, discount: float) -> Tensor:
    """LIV: V(s; g) = cos(phi(s), phi(g)) / (1 - discount). Shapes: (..., D), (..., D) -> (...)."""
    return F.cosine_similarity(embedding, goal, dim=-1) / (1.0 - discount)


def dual_value_loss(
    v_first: Tensor, v: Tensor, next_v: Tensor, discount: float, shuffled: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Metrics]:
    """(1 - discount) mean[-V(o_0; g)] + log mean exp(-(r + discount V(o_k+1; g) - V(o_k; g))), r = -1.

    The second term comes once more for pairs (o_k, o_k+1) of other clips than the goal's, where they are given.

    Args:
        v_first: V(o_0; g).
        v: V(o_k; g), of a frame between o_0 and g.
        next_v: V(o_k+1; g).
        discount: per step.
        shuffled: V(o_k; g) and V(o_k+1; g) with frames of other clips.

    Shapes: v_first, v, next_v (B,), shuffled (N,) each -> ().
    """
    if not v_first.shape == v.shape == next_v.shape or v.ndim != 1:
        raise ValueError(f"expected (B,) thrice, found {[tuple(each.shape) for each in (v_first, v, next_v)]}")
    attract = (1.0 - discount) * -v_first.mean()
    repel = _log_mean_exp(v, next_v, discount)
    loss = attract + repel
    if shuffled is not None:
        loss = loss + _log_mean_exp(*shuffled, discount)
    return loss, {"value/loss": loss.detach(), "value/first": v_first.detach().mean(), "value/repel": repel.detach()}


def _log_mean_exp(v: Tensor, next_v: Tensor, discount: float) -> Tensor:
    """log(tiny + mean exp(-(r + discount V' - V))). The published code sums exponentials as they are; so the largest
    one is taken out here, which keeps the number and does not overflow."""
    exponent = -(STEP_REWARD + discount * next_v - v)
    largest = exponent.detach().amax().clamp(min=0.0)
    return largest + torch.log(TINY * torch.exp(-largest) + torch.exp(exponent - largest).mean())


def embedding_norms(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Mean L1 and L2 norms, by which VIP holds embeddings small. Shapes: (M, D) -> (), ()."""
    return embedding.abs().sum(-1).mean(), torch.linalg.vector_norm(embedding, dim=-1).mean()


def contrastive_loss(image: Tensor, text: Tensor, same_text: Tensor | None = None) -> Tensor:
    """InfoNCE between last frames and what they show, both ways, on cosines without a temperature.

    Args:
        image: embeddings of the last frames.
        text: embeddings of their instructions.
        same_text: (B, B) bool, clips with the same instruction: all of them are right answers, each with an equal share
            of the target. None takes only the diagonal, as published, where every narration is its own.

    Shapes: (B, D), (B, D) -> ().
    """
    if image.shape != text.shape or image.ndim != 2:
        raise ValueError(f"expected (B, D) twice, found {tuple(image.shape)} and {tuple(text.shape)}")
    logits = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    right = torch.eye(len(image), device=image.device, dtype=torch.bool) if same_text is None else same_text
    target = right.to(logits) / right.sum(1, keepdim=True)
    by_image = -(target * logits.log_softmax(1)).sum(1).mean()
    by_text = -(target * logits.T.log_softmax(1)).sum(1).mean()
    return 0.5 * (by_image + by_text)
