"""Losses on features that need no reward: which belongs to which, and what follows.

van den Oord et al. "Representation Learning with Contrastive Predictive Coding". arXiv:1807.03748 (InfoNCE).
Laskin et al. "CURL". ICML 2020, arXiv:2004.04136: two views of one image belong together.
Zheng et al. "TACO: Temporal Latent Action-Driven Contrastive Loss". NeurIPS 2023, arXiv:2306.13229: a state with an
action belongs to what follows.
Schwarzer et al. "Data-Efficient Reinforcement Learning with Self-Predictive Representations" (SPR). ICLR 2021,
arXiv:2007.05929: what follows is predicted.

Pure functions of tensors. Shapes: B batch, D features.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(query: Tensor, key: Tensor) -> Tensor:
    """Mean over i of -log( exp(q_i . k_i) / sum_j exp(q_i . k_j) ): each query finds its key among those of the batch.

    Shapes: (B, D), (B, D) -> ().
    """
    if query.ndim != 2 or query.shape != key.shape:
        raise ValueError(f"query and key are {tuple(query.shape)} and {tuple(key.shape)}: expected (B, D) twice")
    logits = query @ key.T  # (B, B)
    return (logits.logsumexp(dim=1) - logits.diagonal()).mean()


def found_share(query: Tensor, key: Tensor) -> Tensor:
    """Share of the queries whose own key fits best; chance is 1 / B. Shapes: (B, D), (B, D) -> ()."""
    best = (query @ key.T).argmax(dim=1)
    return (best == torch.arange(len(query), device=query.device)).to(query.dtype).mean()


def consistency_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of 2 - 2 cos(prediction, target); the target takes no gradient. Shapes: (B, D), (B, D) -> ()."""
    if prediction.shape != target.shape:
        raise ValueError(f"prediction is {tuple(prediction.shape)}, target {tuple(target.shape)}: expected the same")
    return (2 - 2 * F.cosine_similarity(prediction, target.detach(), dim=1)).mean()
