"""Objectives of video pre-training: one file each, the same few methods, no inheritance."""

from typing import Any, Protocol

import torch
from torch import Tensor

from robot_rl.algorithms.video import icvf, liv, mae, vip
from robot_rl.algorithms.video.icvf import ICVFConfig
from robot_rl.algorithms.video.liv import LIVConfig
from robot_rl.algorithms.video.mae import MAEConfig
from robot_rl.algorithms.video.vip import VIPConfig
from robot_rl.networks.vision.encoder import ImageEncoder
from robot_rl.replay.footage import Footage
from robot_rl.seeding import Seeds
from robot_rl.types import Metrics

OBJECTIVE_CONFIGS: dict[str, type] = {"icvf": ICVFConfig, "vip": VIPConfig, "liv": LIVConfig, "mae": MAEConfig}


class Objective(Protocol):
    """The state of an objective; a dataclass, and all its fields go into a checkpoint."""

    config: Any
    encoder: ImageEncoder
    value_kind: str
    """`value`: what `value` gives was learned to be one; `distance`: it is minus a distance of features."""
    generator: torch.Generator
    updates: int

    def draw(self, footage: Footage, generator: torch.Generator) -> Any:
        """Which frames the next update needs: `track` and `frame` (M,), and what they are to one another."""

    def update(self, images: Tensor, rows: Any) -> Metrics:
        """One gradient step on these frames. Shapes: (M, H, W, C), uint8."""

    def value(self, images: Tensor, goal: Tensor) -> Tensor:
        """How near the goal frames are. Shapes: (T, H, W, C), (1, H, W, C) or (T, H, W, C) -> (T,)."""

    def differentiable_value(self, images: Tensor, goal: Tensor) -> Tensor:
        """As `value`, of images as bytes or as numbers from 0 to 255, with gradients."""


def create_objective(
    config: Any, encoder: ImageEncoder, texts: list[str], seeds: Seeds, device: torch.device
) -> Objective:
    """An objective about an encoder, whose weights it trains.

    Args:
        config: one of `OBJECTIVE_CONFIGS`.
        encoder: of single frames (H, W, C).
        texts: the instructions by number.
        seeds: of the heads.
        device: where it learns.
    """
    match config:
        case ICVFConfig():
            return icvf.create(config, encoder, texts, seeds, device)
        case VIPConfig():
            return vip.create(config, encoder, texts, seeds, device)
        case LIVConfig():
            return liv.create(config, encoder, texts, seeds, device)
        case MAEConfig():
            return mae.create(config, encoder, texts, seeds, device)
    raise TypeError(f"{type(config).__name__} is no configuration of an objective")
