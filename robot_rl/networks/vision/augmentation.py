"""Images changed at random, on the device, so that features do not hang on them.

Every function takes bytes and gives bytes, (B, H, W, C) or (B, K, H, W, C); the K frames of a row change alike. Draws
come from the generator that is handed in, in shapes that depend on the batch's alone.

Yarats et al. "Image Augmentation Is All You Need" (DrQ). ICLR 2021, arXiv:2004.13649, and "Mastering Visual Continuous
Control" (DrQ-v2). ICLR 2022, arXiv:2107.09645: shifts of 4 pixels of 84. Hansen et al. "Stabilizing Deep Q-Learning
with ConvNets and Vision Transformers under Data Augmentation" (SVEA). NeurIPS 2021, arXiv:2107.00644: the strong ones.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robot_rl.checks import require_choice, require_range

GREY = (0.299, 0.587, 0.114)
YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))


@dataclass(kw_only=True)
class AugmentationConfig:
    """What happens to images in training, to those of now and of next alike, each with draws of its own."""

    shift: int = 4
    """Pixels: the image moves by up to so many in both directions, and its edge is repeated; 0 is off."""
    crop: float = 1.0  # smallest share of the area that is cut out and scaled up again; 1 is off; V-GPS 0.8
    crop_ratio: float = 1.0  # largest ratio of width to height of what is cut out; V-GPS 1.1
    brightness: float = 0.0  # up to so much is added, of a range of 1; V-GPS 0.1
    contrast: float = 0.0  # distance to the mean times 1 - this to 1 + this; V-GPS 0.1
    saturation: float = 0.0  # distance to grey, likewise; V-GPS 0.1
    hue: float = 0.0  # turn of the colour circle, up to this share of it; V-GPS 0.05
    strong: str = "none"
    """SVEA: critics learn from each image twice, once more changed strongly, towards targets of images that are not:
    `convolution`, a random 3 x 3 one over the colours; `none` is off."""

    def __post_init__(self) -> None:
        require_range(self.shift, 0, 64, "augmentation shift")
        require_range(self.crop, 0.01, 1.0, "augmentation crop")
        require_range(self.crop_ratio, 1.0, 4.0, "augmentation crop_ratio")
        require_range(self.hue, 0.0, 0.5, "augmentation hue")
        for name in ("brightness", "contrast", "saturation"):
            require_range(getattr(self, name), 0.0, 1.0, f"augmentation {name}")
        require_choice(self.strong, ("none", "convolution"), "augmentation strong")

    @property
    def colours(self) -> bool:
        """Some colour changes."""
        return max(self.brightness, self.contrast, self.saturation, self.hue) > 0


def augmented(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """The usual change: shift, crop, colours. Shapes: (B, *) -> the same."""
    rows = len(images)
    if config.shift > 0:
        size = (rows, 2)
        offset = torch.randint(0, 2 * config.shift + 1, size, generator=generator, device=images.device)
        images = shifted(images, offset, config.shift)
    if config.crop < 1.0:
        draw = torch.rand((rows, 4), generator=generator, device=images.device)
        images = cropped(images, crop_boxes(draw, config.crop, config.crop_ratio))
    if config.colours:
        draw = torch.rand((rows, 4), generator=generator, device=images.device) * 2 - 1
        images = coloured(images, draw, config)
    return images


def strongly_augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """SVEA's random convolution of each image. Shapes: (B, *) of RGB -> the same."""
    kernel = torch.randn((len(images), 3, 3, 3, 3), generator=generator, device=images.device)
    return convolved(images, kernel)


def shifted(images: Tensor, offset: Tensor, most: int) -> Tensor:
    """Moved by `most` - offset pixels down and right; the edge is repeated.

    Every line of the result is one piece of memory of a padded line, which is 30 times faster on a CPU than indexing.

    Shapes: (B, H, W, C) or (B, K, H, W, C), (B, 2) int64 in [0, 2 most], of row and column -> as `images`.
    """
    height, width, channels = images.shape[-3:]
    frames = images.reshape(-1, height, width, channels)  # (M, H, W, C)
    count = len(frames)
    offset = offset.repeat_interleave(count // len(images), dim=0)
    left, right = frames[:, :, :1], frames[:, :, -1:]
    edge = (count, height, most, channels)
    padded = torch.cat([left.expand(edge), frames, right.expand(edge)], dim=2)
    step = width + 2 * most
    places = torch.arange(height, device=images.device)
    row = (places + offset[:, :1] - most).clamp(0, height - 1)  # (M, H)
    line = (torch.arange(count, device=images.device)[:, None] * height + row) * step + offset[:, 1:]
    starts = count * height * step - width + 1
    windows = padded.as_strided((starts, width * channels), (channels, 1))
    return windows.index_select(0, line.flatten()).view(images.shape)


def crop_boxes(draw: Tensor, smallest: float, ratio: float) -> Tensor:
    """Boxes of random area and form that lie in the image. Shapes: (B, 4) in [0, 1) -> (B, 4): see `cropped`."""
    area = smallest + (1 - smallest) * draw[:, 0]
    form = torch.exp((2 * draw[:, 1] - 1) * math.log(ratio))
    width, height = (area * form).sqrt().clamp(max=1.0), (area / form).sqrt().clamp(max=1.0)
    column, row = (1 - width) * (2 * draw[:, 2] - 1), (1 - height) * (2 * draw[:, 3] - 1)
    return torch.stack([width, height, column, row], dim=1)


def cropped(images: Tensor, box: Tensor) -> Tensor:
    """A box of each image, scaled up to all of it, bilinearly.

    Shapes: (B, *), (B, 4) of width and height as shares and the middle's column and row from -1 to 1 -> as `images`.
    """
    x = _planes(images)  # (B, C', H, W)
    zero = torch.zeros_like(box[:, 0])
    first, second = torch.stack([box[:, 0], zero, box[:, 2]], 1), torch.stack([zero, box[:, 1], box[:, 3]], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(x.shape), align_corners=False)
    return _bytes(F.grid_sample(x, grid, padding_mode="border", align_corners=False), images)


def coloured(images: Tensor, draw: Tensor, config: AugmentationConfig) -> Tensor:
    """Brightness, contrast, saturation, hue, in this order. Shapes: (B, *) of RGB, (B, 4) in [-1, 1) -> as `images`."""
    x = _planes(images).unflatten(1, (-1, 3)) / 255.0  # (B, K, 3, H, W)
    amount = draw.to(x.dtype)[:, :, None, None, None, None].unbind(1)  # (B, 1, 1, 1, 1) each
    x = x + config.brightness * amount[0]
    mean = x.mean(dim=(1, 2, 3, 4), keepdim=True)
    x = mean + (1 + config.contrast * amount[1]) * (x - mean)
    grey = (x * _column(GREY, x)).sum(dim=2, keepdim=True)
    x = grey + (1 + config.saturation * amount[2]) * (x - grey)
    if config.hue > 0:
        x = _turned(x, config.hue * amount[3])
    return _bytes((x * 255.0).flatten(1, 2), images)


def convolved(images: Tensor, kernel: Tensor) -> Tensor:
    """A convolution of each image over its colours, through a sigmoid. Shapes: (B, *) of RGB, (B, 3, 3, 3, 3)."""
    x = _planes(images).unflatten(1, (-1, 3)) / 255.0  # (B, K, 3, H, W)
    rows, frames, _, height, width = x.shape
    x = F.pad(x.transpose(0, 1).reshape(frames, rows * 3, height, width), (1, 1, 1, 1), mode="replicate")
    y = torch.sigmoid(F.conv2d(x, kernel.to(x.dtype).flatten(0, 1), groups=rows))
    y = y.unflatten(1, (rows, 3)).transpose(0, 1)  # (B, K, 3, H, W)
    return _bytes((y * 255.0).flatten(1, 2), images)


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Hue turned by a share of the circle, in YIQ. Shapes: (B, K, 3, H, W), (B, 1, 1, 1, 1)."""
    basis = torch.tensor(YIQ, dtype=x.dtype, device=x.device)
    y, i, q = torch.einsum("dc,bkchw->bkdhw", basis, x).unbind(2)
    angle = 2 * math.pi * turn[:, :, 0]
    cosine, sine = angle.cos(), angle.sin()
    turned = torch.stack([y, cosine * i - sine * q, sine * i + cosine * q], dim=2)
    rgb: Tensor = torch.einsum("cd,bkdhw->bkchw", torch.linalg.inv(basis), turned)
    return rgb


def _planes(images: Tensor) -> Tensor:
    """Float planes, the frames of a row one behind the other. Shapes: -> (B, K * C, H, W)."""
    if images.ndim == 5:
        return images.permute(0, 1, 4, 2, 3).flatten(1, 2).float()
    return images.permute(0, 3, 1, 2).float()


def _bytes(x: Tensor, like: Tensor) -> Tensor:
    """Undo `_planes`, rounded and cut to [0, 255]."""
    x = x.round().clamp(0, 255).to(torch.uint8)
    if like.ndim == 5:
        frames: Tensor = x.unflatten(1, (like.shape[1], -1))
        return frames.permute(0, 1, 3, 4, 2).contiguous()
    return x.permute(0, 2, 3, 1).contiguous()


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, 1, 3, 1, 1)
