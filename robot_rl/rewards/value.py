"""Rewards from a value that was learned on video: how near is a frame to a goal, seen or said?

VIP and LIV as their papers use them (arXiv:2210.00030, arXiv:2306.00958), ICVF's V(s, g, g) as ViVa does
(arXiv:2503.18210).

Letters: N frames, G goals.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from robot_rl.algorithms.video import OBJECTIVE_CONFIGS, Objective, create_objective
from robot_rl.algorithms.video.liv import LIV
from robot_rl.errors import InputError
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.encoder import ImageEncoder, in_parts
from robot_rl.rewards.judge import from_json, under
from robot_rl.rewards.settings import GoalConfig, RewardForm, refuse_above
from robot_rl.seeding import Seeds
from robot_rl.types import Array


@dataclass(kw_only=True)
class ValueConfig:
    """`label=goal`, `language` or `viva`: the value of a goal under an objective of `robot-rl pretrain-video`."""

    run: str = ""  # folder of a run of pretrain-video, or one of its checkpoints
    goal: GoalConfig = field(default_factory=GoalConfig)
    reward: RewardForm = field(default_factory=lambda: RewardForm(form="difference"))

    def __post_init__(self) -> None:
        refuse_above(self.reward)


@dataclass(kw_only=True, eq=False)
class GoalValue:
    """An objective that has learned, and what its images were."""

    objective: Objective
    name: str  # of the objective
    vision: VisionConfig
    image_size: list[int]
    fit_images: str
    config: ValueConfig
    goal: Tensor | str | None = None  # (G, H, W, C), uint8, or words; None where every episode has its own

    kind = "value"

    def value(self, images: Tensor, goal: Tensor | str) -> Array:
        """Mean over goals. Shapes: (N, H, W, C), (G, H, W, C) -> (N,)."""
        device = next(self.objective.encoder.parameters()).device
        objective = self.objective
        if not isinstance(goal, str):
            goals = goal.to(device)
            value = in_parts(
                images, lambda part: torch.stack([objective.value(part, one[None]) for one in goals]).mean(0), device
            )
        elif isinstance(objective, LIV):
            words, liv = goal, objective
            value = in_parts(images, lambda part: liv.text_value(part, words), device)
        else:
            raise InputError(f"{self.name} knows no words: only liv does")
        return value.double().numpy()

    def score(self, images: Tensor) -> Array:
        """Value of the goal that is kept. Shapes: (N, H, W, C), uint8 -> (N,)."""
        if self.goal is None:
            raise InputError("every episode had its own goal, so there is none for others: label with one goal")
        return self.value(images, self.goal)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For `judge.save_judge`."""
        tensors = {
            f"{item.name}.{key}": value
            for item in fields(self.objective)  # type: ignore[arg-type]  # every objective is a dataclass
            if isinstance(module := getattr(self.objective, item.name), nn.Module)
            for key, value in module.state_dict().items()
        }
        if isinstance(self.goal, Tensor):
            tensors["goal"] = self.goal
        return tensors, {
            "kind": self.kind,
            "objective": self.name,
            "objective_config": asdict(self.objective.config),
            "vision": asdict(self.vision),
            "image_size": self.image_size,
            "fit_images": self.fit_images,
            "config": asdict(self.config),
            "words": self.goal if isinstance(self.goal, str) else None,
        }

    @staticmethod
    def unpack(tensors: dict[str, Tensor], facts: dict[str, Any]) -> "GoalValue":
        """Undo `pack`."""
        config: Any = from_json(OBJECTIVE_CONFIGS[facts["objective"]], facts["objective_config"])
        vision = from_json(VisionConfig, facts["vision"])
        objective = empty_objective(config, vision, facts["image_size"], torch.device("cpu"))
        for item in fields(objective):  # type: ignore[arg-type]  # every objective is a dataclass
            module = getattr(objective, item.name)
            if isinstance(module, nn.Module):
                module.load_state_dict(under(tensors, item.name))
        return GoalValue(
            objective=objective,
            name=facts["objective"],
            vision=vision,
            image_size=facts["image_size"],
            fit_images=facts["fit_images"],
            config=from_json(ValueConfig, facts["config"]),
            goal=tensors.get("goal", facts["words"]),
        )


def empty_objective(config: Any, vision: VisionConfig, image_size: list[int], device: torch.device) -> Objective:
    """An objective of a form, to be filled with what was learned; the file that its encoder began with is not read."""
    encoder = ImageEncoder(vision, (*image_size, 3), torch.Generator().manual_seed(0))
    return create_objective(config, encoder, [], Seeds(0), device)
