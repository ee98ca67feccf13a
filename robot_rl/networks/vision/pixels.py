"""From bytes to what a first convolution takes. All of it is on the device: memory and transfers are in bytes."""

import torch
from torch import Tensor
from torch.nn import functional as F

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def folded(images: Tensor) -> Tensor:
    """K frames become channels, the oldest first. Shapes: (B, H, W, C) or (B, K, H, W, C) -> (B, C or K * C, H, W).

    The result lies in memory channels last, as convolutions like it.
    """
    if images.ndim == 5:
        images = torch.cat(images.unbind(1), dim=3)  # three times as fast on a CPU as moving the axis
    return images.permute(0, 3, 1, 2)


def scaled(images: Tensor, kind: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bytes to numbers, see `VisionConfig.pixels`. Shapes: (B, C, H, W) -> the same."""
    x = images.to(dtype, copy=True)  # so that what follows may happen in place
    match kind:
        case "unit":
            return x.mul_(1 / 255)
        case "signed":
            return x.mul_(1 / 127.5).sub_(1.0)
        case "imagenet":
            repeats = x.shape[1] // 3
            mean = torch.tensor(IMAGENET_MEAN * repeats, dtype=dtype, device=x.device).view(1, -1, 1, 1)
            deviation = torch.tensor(IMAGENET_DEVIATION * repeats, dtype=dtype, device=x.device).view(1, -1, 1, 1)
            return x.mul_(1 / 255).sub_(mean).div_(deviation)
        case _:
            return x.mul_(1 / 255).sub_(0.5)


def resized(x: Tensor, side: int | None) -> Tensor:
    """Bilinear, smoothed where it shrinks. Shapes: (B, C, H, W) -> (B, C, side, side)."""
    if side is None or x.shape[2:] == (side, side):
        return x
    smaller = side < min(x.shape[2:])
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False, antialias=smaller)


def with_coordinates(x: Tensor) -> Tensor:
    """Column and row, from -1 to 1, as further channels (Liu et al. "CoordConv". NeurIPS 2018, arXiv:1807.03247).

    Shapes: (B, C, H, W) -> (B, C + 2, H, W).
    """
    height, width = x.shape[2:]
    column = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device).expand(height, width)
    row = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device)[:, None].expand(height, width)
    both = torch.stack([column, row]).expand(len(x), 2, height, width)
    return torch.cat([x, both], dim=1).contiguous(memory_format=torch.channels_last)
