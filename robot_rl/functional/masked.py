"""Masked auto-encoding: paint what was hidden.

He et al. "Masked Autoencoders Are Scalable Vision Learners". CVPR 2022, arXiv:2111.06377. The paper could not be opened
here; what is said of the published code is of facebookresearch/mae (models_mae.py).

Letters: M images, H and W pixels, C colours, P patches of an image, p pixels of a patch's side.
"""

import torch
from torch import Tensor

from robot_rl.errors import InputError

VARIANCE_FLOOR = 1e-6
"""Added to the variance of a patch, as in the published code."""


def patches(images: Tensor, side: int) -> Tensor:
    """Images cut into squares, row by row. Shapes: (M, C, H, W) -> (M, P, p * p * C).

    Raises:
        InputError: the side does not divide the image.
    """
    count, colours, height, width = images.shape
    if height % side or width % side:
        raise InputError(f"patches of {side} pixels do not divide images of {height} x {width}: choose another patch")
    cut = images.reshape(count, colours, height // side, side, width // side, side)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, side * side * colours)


def random_mask(count: int, patch_count: int, share: float, generator: torch.Generator) -> Tensor:
    """Which patches are hidden: the same number in every image, at least one, never all. Shapes: -> (M, P), bool."""
    hidden = min(max(patch_count - int(patch_count * (1.0 - share)), 1), patch_count - 1)
    order = torch.rand(count, patch_count, generator=generator, device=generator.device).argsort(1)
    return order < hidden


def hide(images: Tensor, hidden: Tensor, side: int, fill: float = 0.0) -> Tensor:
    """Images with the hidden patches in one colour. Shapes: (M, C, H, W), (M, P) bool -> (M, C, H, W)."""
    rows, columns = images.shape[2] // side, images.shape[3] // side
    mask = hidden.reshape(len(images), 1, rows, columns)
    mask = mask.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return images.masked_fill(mask, fill)


def reconstruction_loss(prediction: Tensor, images: Tensor, hidden: Tensor, side: int, *, normalize: bool) -> Tensor:
    """Mean squared error of the hidden patches only.

    Args:
        prediction: what was painted, in patches.
        images: what was there.
        hidden: the patches that count.
        side: of a patch, in pixels.
        normalize: each patch's pixels are predicted less their mean and over their (unbiased) deviation.

    Shapes: (M, P, p * p * C), (M, C, H, W), (M, P) bool -> ().
    """
    target = patches(images, side)
    if prediction.shape != target.shape or hidden.shape != target.shape[:2]:
        found = [tuple(each.shape) for each in (prediction, target, hidden)]
        raise ValueError(f"prediction, patches and hidden have shapes {found}")
    if normalize:
        mean, variance = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
        target = (target - mean) / (variance + VARIANCE_FLOOR).sqrt()
    error = (prediction - target).square().mean(-1)
    return (error * hidden).sum() / hidden.sum()
