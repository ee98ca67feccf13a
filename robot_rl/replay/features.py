"""Features of a frozen encoder kept in replay in place of images: each image is encoded once."""

from collections.abc import Callable

import torch
from torch import Tensor

from robot_rl.replay.buffer import ReplayBuffer

ROWS = 64
"""Images that are encoded at once."""


def keep_features(buffer: ReplayBuffer, key: str, encode: Callable[[Tensor], Tensor], features: int) -> None:
    """From now on the buffer keeps, and gives, the features of an image observation; the images are dropped.

    Args:
        buffer: what it holds is encoded now, images on a disk too.
        key: of the images.
        encode: frozen; (N, H, W, C) uint8 -> (N, features).
        features: F.
    """

    def in_parts(images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([encode(part.to(buffer.device)) for part in images.split(ROWS)])

    kept = torch.zeros(buffer.capacity, features, device=buffer.device)
    for rows in buffer.held().to(buffer.device).split(ROWS):
        kept[rows] = in_parts(buffer.observation[key].index_select(0, rows))
    buffer.observation[key] = kept
    buffer.embed[key] = in_parts
