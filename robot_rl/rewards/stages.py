"""Progress by perceptual stages of a few demonstrations, on the features of an encoder; `functional/stages.py` has it.

Letters: T frames, F features, G stages, n chosen features.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robot_rl.checks import require_choice, require_minimum, require_range
from robot_rl.errors import InputError
from robot_rl.functional import stages as cut
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.encoder import ImageEncoder, in_parts
from robot_rl.rewards.judge import from_json, under
from robot_rl.rewards.settings import RewardForm, refuse_above, require_image_size
from robot_rl.types import Array


@dataclass(kw_only=True)
class StagesConfig:
    """`label=stages`: how far along the stages of the demonstrations is a frame?"""

    vision: VisionConfig = field(default_factory=VisionConfig)  # with `weights`, such as of pretrain-video
    image_size: list[int] = field(default_factory=lambda: [64, 64])  # [height, width]
    fit_images: str = "stretch"  # stretch | pad | crop: where the proportions are others
    stages: int = 4  # G
    minimum: int = 3  # frames of a stage in a demonstration
    demonstrations: str = "successful"  # successful | all: of which stages are made
    test_share: float = 0.2  # of the demonstrations, that only measure
    features: int = 32  # n of each stage; published: 32
    alpha: float = 5.0  # of the distance of means, against deviations; published: 5
    sharpness: float = 8.0  # of the choice between stages, in features that speak for themselves
    reward: RewardForm = field(default_factory=lambda: RewardForm(form="difference"))

    def __post_init__(self) -> None:
        require_image_size(self.image_size)
        require_choice(self.fit_images, ("stretch", "pad", "crop"), "label.fit_images")
        require_choice(self.demonstrations, ("successful", "all"), "label.demonstrations")
        require_minimum(self.stages, 2, "label.stages")
        require_minimum(self.minimum, 1, "label.minimum")
        require_range(self.test_share, 0.0, 0.9, "label.test_share")
        require_minimum(self.features, 1, "label.features")
        require_range(self.alpha, 0.0, 1e6, "label.alpha")
        require_range(self.sharpness, 1e-6, 1e6, "label.sharpness")
        refuse_above(self.reward)


@dataclass(kw_only=True, eq=False)
class Stages:
    """An encoder, and what its features look like in each stage."""

    config: StagesConfig
    encoder: ImageEncoder
    offset: Array  # (F,), mean of the features of all demonstrations
    deviation: Array  # (F,)
    chosen: Array  # (n,), numbers of features
    mean: Array  # (G, n), normalised
    spread: Array  # (G, n)

    kind = "stages"

    def features(self, images: Tensor) -> Array:
        """Shapes: (N, H, W, C), uint8 -> (N, F)."""
        return encoded(self.encoder, images)

    def distances(self, features: Array) -> Array:
        """How badly frames fit each stage. Shapes: (N, F) -> (N, G)."""
        chosen = ((features - self.offset) / self.deviation)[:, self.chosen]
        return cut.stage_distances(chosen, self.mean, self.spread)

    def score(self, images: Tensor) -> Array:
        """Progress from 0 to 1. Shapes: (N, H, W, C), uint8 -> (N,)."""
        return cut.progress(self.distances(self.features(images)), self.config.sharpness)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For `judge.save_judge`."""
        tensors = {f"encoder.{key}": value for key, value in self.encoder.state_dict().items()}
        for name in ("offset", "deviation", "chosen", "mean", "spread"):
            tensors[name] = torch.from_numpy(np.ascontiguousarray(getattr(self, name)))
        return tensors, {"kind": self.kind, "config": asdict(self.config)}

    @staticmethod
    def unpack(tensors: dict[str, Tensor], facts: dict[str, Any]) -> "Stages":
        """Undo `pack`."""
        config = from_json(StagesConfig, facts["config"])
        encoder = ImageEncoder(config.vision, (*config.image_size, 3), torch.Generator().manual_seed(0))
        encoder.load_state_dict(under(tensors, "encoder"))
        rest = {name: tensors[name].numpy() for name in ("offset", "deviation", "chosen", "mean", "spread")}
        return Stages(config=config, encoder=encoder, **rest)


@torch.no_grad()
def encoded(encoder: ImageEncoder, images: Tensor) -> Array:
    """Shapes: (N, H, W, C), uint8 -> (N, F), float64."""
    return in_parts(images, encoder, next(encoder.parameters()).device).double().numpy()


def fit(config: StagesConfig, encoder: ImageEncoder, demonstrations: Sequence[Array]) -> tuple[Stages, list[list[int]]]:
    """Stages from the features of demonstrations, and the first frames of the stages in each.

    Shapes: demonstrations (T, F) each.

    Raises:
        InputError: a demonstration is too short, or nothing varies.
    """
    for number, features in enumerate(demonstrations):
        if len(features) < config.stages * config.minimum:
            raise InputError(
                f"demonstration {number} has {len(features)} frames, and {config.stages} stages of {config.minimum} "
                "need more: lower label.stages or label.minimum"
            )
    every = np.concatenate(list(demonstrations))
    offset, deviation = every.mean(0), every.std(0)
    varies = deviation > cut.TINY
    if not varies.any():
        raise InputError("the encoder's features do not vary over the demonstrations: are they all one image?")
    deviation = np.where(varies, deviation, 1.0)
    normal = [(features - offset) / deviation for features in demonstrations]
    begins = [cut.segment(features[:, varies], config.stages, config.minimum) for features in normal]
    stage = np.concatenate([cut.stage_numbers(b, len(f)) for b, f in zip(begins, normal, strict=True)])
    joined = np.concatenate(normal)
    score = np.where(varies, cut.discriminative(joined, stage, config.stages, config.alpha), -np.inf)
    count = min(config.features, int(varies.sum()))
    chosen = np.unique(np.argsort(-score, axis=1, kind="stable")[:, :count])
    parts = [joined[stage == number][:, chosen] for number in range(config.stages)]
    fitted = Stages(
        config=config,
        encoder=encoder,
        offset=offset,
        deviation=deviation,
        chosen=chosen,
        mean=np.stack([part.mean(0) for part in parts]),
        spread=np.stack([np.maximum(part.std(0), cut.SMALLEST_DEVIATION) for part in parts]),
    )
    return fitted, begins
