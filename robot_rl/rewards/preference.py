"""Rewards from comparisons of frames by a vision-language model: RL-VLM-F, offline.

Wang et al. "RL-VLM-F: Reinforcement Learning from Vision Language Foundation Model Feedback". ICML 2024,
arXiv:2402.03681, and its offline variant: pairs of single images, two questions for each, a Bradley-Terry ensemble on
the answers, and every transition relabelled with its mean. Facts of the published code are of yufeiwang63/RL-VLM-F at
febe2f2.

Letters: E members, B pairs, N frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robot_rl.checks import require_choice, require_minimum, require_range
from robot_rl.errors import InputError
from robot_rl.functional.preference import preference_accuracy, preference_loss
from robot_rl.networks.image_score import build_scores, empty_scores
from robot_rl.networks.optimize import Adam, descend
from robot_rl.networks.vision.augmentation import AugmentationConfig, augmented
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.encoder import in_parts
from robot_rl.rewards.endpoint import EndpointConfig
from robot_rl.rewards.judge import from_json
from robot_rl.rewards.settings import FitConfig, RewardForm, refuse_above, require_image_size
from robot_rl.seeding import Seeds
from robot_rl.types import Array, Metrics

EQUAL = 0.5


@dataclass(kw_only=True)
class PreferenceConfig:
    """`label=preference`: which of two frames is nearer the goal, says a vision-language model."""

    goal: str = ""  # in words that follow "The goal is", such as "to lift the red cube"
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    pairs: int = 500
    both_orders: bool = False
    """Every pair is asked twice, the second time with the images exchanged, and counts where both answers agree."""
    ties: str = "drop"  # drop | equal: what an answer of no difference is worth
    asked_size: list[int] | None = None  # [height, width] of what is sent; None sends images as they are
    held_out: float = 0.2
    """Of the episodes and of the pairs: they are asked about, but only measure; no episode is on both sides."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    image_size: list[int] = field(default_factory=lambda: [64, 64])  # [height, width] that the reward sees
    fit_images: str = "stretch"  # stretch | pad | crop: where the proportions are others
    hidden: list[int] = field(default_factory=lambda: [256])
    frozen: bool = False  # the encoder of `vision.weights` does not learn
    members: int = 3  # E
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    reward: RewardForm = field(default_factory=lambda: RewardForm(form="reached", normalize="percentiles"))

    def __post_init__(self) -> None:
        require_minimum(self.pairs, 2, "label.pairs")
        require_choice(self.ties, ("drop", "equal"), "label.ties")
        if self.asked_size is not None:
            require_image_size(self.asked_size)
        require_range(self.held_out, 0.01, 0.9, "label.held_out")
        require_image_size(self.image_size)
        require_choice(self.fit_images, ("stretch", "pad", "crop"), "label.fit_images")
        require_minimum(self.members, 1, "label.members")
        if self.frozen and self.vision.weights is None:
            raise InputError("label.frozen=true keeps a random encoder: name its weights, label.vision.weights=FILE")
        refuse_above(self.reward)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two frames of a store, by their numbers."""

    first: int
    second: int
    held_out: bool


def draw_pairs(
    learning: Array, held_out: Array, count: int, held_share: float, generator: np.random.Generator
) -> list[Pair]:
    """Pairs of different frames, both of them learned from or both held out; none comes twice in either order.

    The first so many of a longer list are those of a shorter one, so that more can be bought later.

    Args:
        learning: numbers of frames.
        held_out: numbers of frames of other episodes.
        count: of the pairs, about `held_share` of which are held out.
        held_share: from 0 to 1.
        generator: of what is drawn.

    Raises:
        InputError: there are not as many pairs.
    """
    found: list[Pair] = []
    seen: set[tuple[int, int]] = set()
    for _ in range(100 * count):
        if len(found) == count:
            return found
        apart = bool(generator.random() < held_share)
        frames = held_out if apart else learning
        first, second = (int(frames[place]) for place in generator.integers(len(frames), size=2))
        key = (min(first, second), max(first, second))
        if first != second and key not in seen:
            seen.add(key)
            found.append(Pair(first=first, second=second, held_out=apart))
    if len(found) == count:
        return found
    raise InputError(f"{len(learning)} and {len(held_out)} frames have too few pairs for label.pairs={count}: lower it")


def agreed(answer: int | None, exchanged: int | None) -> int | None:
    """The answer where both orders agree; no difference where they do not; None where one could not be read.

    Args:
        answer: 0 where the first is better, 1 where the second is, -1 where neither.
        exchanged: the same of the exchanged images.
    """
    if answer is None or exchanged is None:
        return None
    turned = exchanged if exchanged == -1 else 1 - exchanged
    return answer if answer == turned else -1


@dataclass(kw_only=True, eq=False)
class PreferenceReward:
    """The ensemble."""

    config: PreferenceConfig
    members: nn.ModuleList

    kind = "preference"

    @torch.no_grad()
    def each(self, images: Tensor) -> Tensor:
        """Of every member. Shapes: (N, H, W, C), uint8 -> (E, N)."""
        device = next(self.members.parameters()).device
        return in_parts(images, lambda part: torch.stack([m(part) for m in self.members]), device, dim=1)

    def score(self, images: Tensor) -> Array:
        """The mean of the members. Shapes: (N, H, W, C), uint8 -> (N,)."""
        return self.each(images).double().mean(0).numpy()

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For `judge.save_judge`."""
        return dict(self.members.state_dict()), {"kind": self.kind, "config": asdict(self.config)}

    @staticmethod
    def unpack(tensors: dict[str, Tensor], facts: dict[str, Any]) -> "PreferenceReward":
        """Undo `pack`."""
        config = from_json(PreferenceConfig, facts["config"])
        members = nn.ModuleList(
            empty_scores(config.vision, (*config.image_size, 3), config.hidden, config.members)
        ).requires_grad_(False)
        members.load_state_dict(tensors)
        return PreferenceReward(config=config, members=members)


def preferred(answers: Sequence[int], ties: str) -> Array:
    """y of `preference_loss`, NaN for pairs that are dropped. Shapes: (N,) of -1, 0, 1 -> (N,)."""
    tie = EQUAL if ties == "equal" else np.nan
    return np.asarray([tie if answer == -1 else float(answer) for answer in answers])


def fit(
    config: PreferenceConfig,
    images: Callable[[Array], Tensor],
    pairs: Array,
    target: Array,
    seeds: Seeds,
    device: torch.device,
    advance: Callable[[int, Metrics], None],
) -> PreferenceReward:
    """Fit the ensemble; every member draws batches and changes of images of its own.

    Args:
        config: of the ensemble.
        images: numbers of frames (B,) to (B, H, W, C), uint8.
        pairs: numbers of frames.
        target: y, see `preference_loss`.
        seeds: of weights, batches and augmentation.
        device: where it learns.
        advance: takes the number of steps done, and the newest metrics.

    Shapes: pairs (N, 2), target (N,).
    """
    built = build_scores(
        config.vision,
        (*config.image_size, 3),
        config.hidden,
        count=config.members,
        frozen=config.frozen,
        generator=seeds.torch("network"),
    )
    members = nn.ModuleList(built).to(device)
    learning = [each for each in members.parameters() if each.requires_grad]
    optimizer = Adam(learning, lr=config.fit.learning_rate, weight_decay=config.fit.weight_decay, fused=True)
    changes, draws = seeds.torch("augmentation", device=device), seeds.numpy("batches")
    size = min(config.fit.batch, len(pairs))
    for step in range(1, config.fit.steps + 1):
        chosen = np.stack([draws.choice(len(pairs), size, replace=False) for _ in members])  # (E, B)
        rewards = []
        for member, rows in zip(members, chosen, strict=True):
            both = images(pairs[rows].reshape(-1)).to(device)  # (2 B, H, W, C)
            rewards.append(member(augmented(both, config.augmentation, changes)).reshape(-1, 2))
        each = [
            preference_loss(r[None, :, 0], r[None, :, 1], torch.from_numpy(target[rows]).to(r))
            for r, rows in zip(rewards, chosen, strict=True)
        ]
        loss = torch.stack([one for one, _ in each]).sum()
        descend(optimizer, loss, learning_rate=config.fit.learning_rate, gradient_clip=config.fit.gradient_clip)
        advance(step, {name: torch.stack([metrics[name] for _, metrics in each]).mean() for name in each[0][1]})
    return PreferenceReward(config=config, members=members.eval())


def accuracy(reward: PreferenceReward, images: Callable[[Array], Tensor], pairs: Array, target: Array) -> float:
    """Share of the pairs that the ensemble orders as preferred; NaN without pairs. Shapes: (N, 2), (N,) -> ()."""
    if len(pairs) == 0:
        return float("nan")
    first, second = (reward.each(images(pairs[:, side])) for side in (0, 1))
    return float(preference_accuracy(first, second, torch.from_numpy(target)))
