"""Rewards that are made of frames: by a value learned on video, a classifier, a model that compares, or stages."""

from typing import Any, Protocol

from torch import Tensor

from robot_rl.rewards.classifier import ClassifierConfig
from robot_rl.rewards.preference import PreferenceConfig
from robot_rl.rewards.stages import StagesConfig
from robot_rl.rewards.value import ValueConfig
from robot_rl.types import Array

LABEL_CONFIGS: dict[str, type] = {
    "value": ValueConfig,
    "classifier": ClassifierConfig,
    "preference": PreferenceConfig,
    "stages": StagesConfig,
}


class Judge(Protocol):
    """What gives every frame a number."""

    config: Any
    kind: str

    def score(self, images: Tensor) -> Array:
        """Shapes: (N, H, W, C), uint8 -> (N,), float64."""

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON, for `judge.save_judge`."""
