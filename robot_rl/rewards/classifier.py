"""Success classifiers on single frames: fitted on some episodes, calibrated on others, and measured on yet others.

As in Singh et al. "End-to-End Robotic Reinforcement Learning without Reward Engineering". RSS 2019, arXiv:1904.07854,
and HIL-SERL (Luo et al. arXiv:2410.21845), whose classifiers have neither a held-out set nor a chosen error rate. A
false success is what reinforcement learning finds and keeps, so the threshold is chosen by the rate of those.

Letters: B batch, N frames.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from robot_rl.checks import require_choice, require_minimum, require_range
from robot_rl.errors import InputError
from robot_rl.functional import reliability
from robot_rl.functional.shaping import rolling_minimum
from robot_rl.networks.image_score import ImageScore, build_scores, empty_scores
from robot_rl.networks.optimize import Adam, descend
from robot_rl.networks.vision.augmentation import AugmentationConfig, augmented
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.encoder import in_parts
from robot_rl.rewards.judge import from_json, under
from robot_rl.rewards.settings import FitConfig, RewardForm, require_image_size
from robot_rl.seeding import Seeds
from robot_rl.types import Array, Metrics

Images = Callable[[Array], Tensor]
"""Numbers of frames (B,) to images (B, H, W, C), uint8, in the memory of the host."""
Advance = Callable[[int, Metrics], None]
LEARN, CALIBRATE, TEST = "learn", "calibrate", "test"


@dataclass(kw_only=True)
class ClassifierConfig:
    """`label=classifier`: does a frame show success?"""

    frames: str | None = None
    """A CSV file `episode,first,last,success` (observations first to last, both counted; success 0 or 1) in place of
    the success that the store recorded; frames that no line names are not learned from."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    image_size: list[int] = field(default_factory=lambda: [64, 64])  # [height, width]
    fit_images: str = "stretch"  # stretch | pad | crop: where the proportions are others
    hidden: list[int] = field(default_factory=lambda: [256])
    frozen: bool = False  # the encoder of `vision.weights` does not learn
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    balanced: bool = True
    """As many successes as other frames in a batch; the logit is put right by the share of successes afterwards."""
    calibrate_share: float = 0.2  # of the episodes: calibration and threshold
    test_share: float = 0.2  # of the episodes: nothing but measured
    calibration: str = "temperature"  # temperature | isotonic | none
    false_positive_rate: float = 0.01
    """Wanted share of what is no success that the threshold lets through."""
    rate_of: str = "episodes"
    """What the rate counts: `episodes`, in which a frame before the success is taken for it, or `frames`."""
    hold: int = 1  # frames in a row that must be above the threshold
    success: bool = True  # the success of every step is written by the threshold
    reward: RewardForm = field(default_factory=lambda: RewardForm(form="above"))

    def __post_init__(self) -> None:
        require_image_size(self.image_size)
        require_choice(self.fit_images, ("stretch", "pad", "crop"), "label.fit_images")
        require_choice(self.calibration, ("temperature", "isotonic", "none"), "label.calibration")
        require_choice(self.rate_of, ("episodes", "frames"), "label.rate_of")
        for name in ("calibrate_share", "test_share"):
            require_range(getattr(self, name), 0.01, 0.9, f"label.{name}")
        if self.calibrate_share + self.test_share > 0.95:
            raise InputError("label.calibrate_share and label.test_share leave nothing to learn from: lower them")
        require_range(self.false_positive_rate, 0.0, 1.0, "label.false_positive_rate")
        require_minimum(self.hold, 1, "label.hold")
        if self.reward.normalize != "none":
            raise InputError("label.reward.normalize is for scores of no unit: probabilities stay what they are")
        if self.frozen and self.vision.weights is None:
            raise InputError("label.frozen=true keeps a random encoder: name its weights, label.vision.weights=FILE")


@dataclass(kw_only=True, eq=False)
class SuccessClassifier:
    """A network, what makes its number a probability, and from where on that is a success."""

    config: ClassifierConfig
    network: ImageScore
    shift: float  # added to the network's logit: what balanced batches hide of the share of successes
    temperature: float = 1.0
    knots: tuple[Array, Array] | None = None  # isotonic: logits and probabilities, (K,) each
    threshold: float = 0.5

    kind = "classifier"

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Before calibration. Shapes: (N, H, W, C), uint8 -> (N,)."""
        return in_parts(images, self.network, next(self.network.parameters()).device).double() + self.shift

    def probability(self, logit: Array) -> Array:
        """Calibrated. Shapes: (N,) -> (N,)."""
        if self.knots is not None:
            return reliability.between_knots(logit, *self.knots)
        return reliability.sigmoid(np.asarray(logit) / self.temperature)

    def score(self, images: Tensor) -> Array:
        """Probability of success. Shapes: (N, H, W, C), uint8 -> (N,)."""
        return self.probability(self.logits(images).numpy())

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For `judge.save_judge`."""
        tensors = {f"network.{key}": value for key, value in self.network.state_dict().items()}
        if self.knots is not None:
            tensors |= {f"knots.{i}": torch.from_numpy(np.ascontiguousarray(each)) for i, each in enumerate(self.knots)}
        facts = {"shift": self.shift, "temperature": self.temperature, "threshold": self.threshold}
        return tensors, {"kind": self.kind, "config": asdict(self.config), **facts}

    @staticmethod
    def unpack(tensors: dict[str, Tensor], facts: dict[str, Any]) -> "SuccessClassifier":
        """Undo `pack`."""
        config = from_json(ClassifierConfig, facts["config"])
        (network,) = empty_scores(config.vision, (*config.image_size, 3), config.hidden, 1)
        network.load_state_dict(under(tensors, "network"))
        knots = (tensors["knots.0"].numpy(), tensors["knots.1"].numpy()) if "knots.0" in tensors else None
        return SuccessClassifier(
            config=config,
            network=network,
            shift=facts["shift"],
            temperature=facts["temperature"],
            knots=knots,
            threshold=facts["threshold"],
        )


def fit(
    config: ClassifierConfig,
    images: Images,
    frames: Array,
    labels: Array,
    seeds: Seeds,
    device: torch.device,
    advance: Advance,
) -> SuccessClassifier:
    """Learn from labelled frames by logistic regression.

    Args:
        config: of the classifier.
        images: of frames.
        frames: numbers of those that are learned from.
        labels: whether they show success.
        seeds: of weights, batches and augmentation.
        device: where it learns.
        advance: takes the number of steps done, and the newest metrics.

    Shapes: frames (N,), labels (N,) bool.

    Raises:
        InputError: one of the classes has no frame.
    """
    positive, negative = frames[labels], frames[~labels]
    if len(positive) == 0 or len(negative) == 0:
        raise InputError(
            f"the episodes to learn from have {len(positive)} frames of success and {len(negative)} without: both are "
            "needed"
        )
    (network,) = build_scores(
        config.vision,
        (*config.image_size, 3),
        config.hidden,
        count=1,
        frozen=config.frozen,
        generator=seeds.torch("network"),
    )
    network = network.to(device)
    learning = [each for each in network.parameters() if each.requires_grad]
    optimizer = Adam(learning, lr=config.fit.learning_rate, weight_decay=config.fit.weight_decay, fused=True)
    changes = seeds.torch("augmentation", device=device)
    for step, (numbers, target) in enumerate(_batches(config, frames, labels, seeds.numpy("batches")), start=1):
        batch = augmented(images(numbers).to(device), config.augmentation, changes)
        logit = network(batch)
        wanted = torch.from_numpy(target).to(logit)
        loss = F.binary_cross_entropy_with_logits(logit, wanted)
        descend(optimizer, loss, learning_rate=config.fit.learning_rate, gradient_clip=config.fit.gradient_clip)
        right = ((logit.detach() > 0) == (wanted > 0.5)).float().mean()
        advance(step, {"classifier/loss": loss.detach(), "classifier/accuracy": right})
    network.eval()
    prior = len(positive) / len(frames)
    shift = math.log(prior / (1 - prior)) if config.balanced else 0.0
    return SuccessClassifier(config=config, network=network, shift=shift)


def _batches(
    config: ClassifierConfig, frames: Array, labels: Array, generator: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    positive, negative = frames[labels], frames[~labels]
    half = config.fit.batch // 2
    for _ in range(config.fit.steps):
        if config.balanced:
            numbers = np.concatenate(
                [generator.choice(positive, half), generator.choice(negative, config.fit.batch - half)]
            )
            yield numbers, np.arange(len(numbers)) < half
        else:
            chosen = generator.integers(len(frames), size=config.fit.batch)
            yield frames[chosen], labels[chosen]


def calibrate(classifier: SuccessClassifier, logits: Array, labels: Array) -> None:
    """Set temperature or knots from frames that were not learned from. Shapes: (N,), (N,) bool."""
    match classifier.config.calibration:
        case "temperature":
            classifier.temperature = reliability.temperature_of(logits, labels)
        case "isotonic":
            classifier.knots = reliability.isotonic(logits, labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """An episode of frames with their probability."""

    episode: int
    probability: Array  # (T + 1,)
    label: Array  # (T + 1,), 1 success, 0 none, -1 not known


def held_scores(judged: Judged, hold: int) -> Array:
    """What is held against the threshold: the lowest of the last `hold` probabilities. Shapes: -> (T + 1,)."""
    return rolling_minimum(judged.probability, hold)


def negative_scores(judged: list[Judged], config: ClassifierConfig) -> Array:
    """What must stay below the threshold: of each episode the highest before its first success, or of each frame."""
    found: list[float] = []
    for each in judged:
        score = held_scores(each, config.hold)
        if config.rate_of == "frames":
            found += score[each.label == 0].tolist()
            continue
        before = _before_success(each)
        if before.any():
            found.append(float(score[before].max()))
    return np.asarray(found)


def _before_success(judged: Judged) -> Array:
    """Frames without success up to the first with it. Shapes: -> (T + 1,), bool."""
    before: Array = (np.cumsum(judged.label == 1) == 0) & (judged.label == 0)
    return before


def choose_threshold(classifier: SuccessClassifier, judged: list[Judged]) -> reliability.Threshold:
    """The lowest threshold with the wanted rate on these episodes; it is set, too.

    Raises:
        InputError: they have no frame without success.
    """
    negative = negative_scores(judged, classifier.config)
    if len(negative) == 0:
        raise InputError("no frame without success is held out: label.calibrate_share has to be larger")
    found = reliability.threshold_for_rate(negative, classifier.config.false_positive_rate)
    classifier.threshold = found.value
    return found


def measures(classifier: SuccessClassifier, logits: Array, judged: list[Judged]) -> dict[str, Any]:
    """What it is worth on episodes that neither learning nor calibration saw.

    Args:
        classifier: with its threshold.
        logits: of all their frames, uncalibrated, in order.
        judged: the episodes.

    Shapes: logits (N,).
    """
    labels = np.concatenate([each.label for each in judged])
    probability = np.concatenate([each.probability for each in judged])
    known = labels >= 0
    truth, said, plain = labels[known] == 1, probability[known], reliability.sigmoid(logits[known])
    above = [held_scores(each, classifier.config.hold) >= classifier.threshold for each in judged]
    passed = np.concatenate(above)[known]
    wrong_episodes = right_episodes = negatives = positives = 0
    delays: list[int] = []
    for each, hits in zip(judged, above, strict=True):
        before = _before_success(each)
        if before.any():
            negatives += 1
            wrong_episodes += bool(hits[before].any())
        if (each.label == 1).any():
            positives += 1
            found = np.flatnonzero(hits & (each.label == 1))
            right_episodes += len(found) > 0
            delays += [int(found[0] - np.flatnonzero(each.label == 1)[0])] if len(found) else []
    return {
        "test_episodes": len(judged),
        "test_frames": int(known.sum()),
        "test_successes": int(truth.sum()),
        "area_under_curve": _or_none(reliability.area_under_curve(said, truth)),
        "calibration_error": reliability.expected_calibration_error(said, truth),
        "calibration_error_before": reliability.expected_calibration_error(plain, truth),
        "brier": reliability.brier_score(said, truth),
        "false_positive_rate_frames": _share(passed[~truth]),
        "true_positive_rate_frames": _share(passed[truth]),
        "false_positive_episodes": wrong_episodes,
        "negative_episodes": negatives,
        "false_positive_episodes_upper": reliability.rate_upper(wrong_episodes, negatives) if negatives else None,
        "found_episodes": right_episodes,
        "positive_episodes": positives,
        "delay_steps": float(np.mean(delays)) if delays else None,
    }


def _share(hits: Array) -> float | None:
    return float(hits.mean()) if len(hits) else None


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
