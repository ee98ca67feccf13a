"""What each kind of label is made of, from a store's frames to a judge of them: value, stages, classifier."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from robot_rl import checkpoint
from robot_rl.algorithms.video import OBJECTIVE_CONFIGS
from robot_rl.algorithms.video.liv import LIV
from robot_rl.apps.label_frames import StoreFrames, labels_of_file, recorded_labels, successes
from robot_rl.apps.pretrain_measures import number_or_none
from robot_rl.datasets.frames import decode_image, resize
from robot_rl.errors import InputError, nearest
from robot_rl.functional.reliability import area_under_curve, bins_of, sigmoid
from robot_rl.functional.stages import segment, stage_numbers
from robot_rl.functional.video_scores import mean_of_numbers, value_order_correlation
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.encoder import build_encoder
from robot_rl.networks.vision.weights import probed
from robot_rl.rewards import Judge, classifier, stages
from robot_rl.rewards.classifier import CALIBRATE, LEARN, TEST, ClassifierConfig, Judged
from robot_rl.rewards.settings import GoalConfig
from robot_rl.rewards.split import split_episodes
from robot_rl.rewards.stages import StagesConfig
from robot_rl.rewards.value import GoalValue, ValueConfig, empty_objective
from robot_rl.seeding import Seeds
from robot_rl.types import Array, Metrics

Advance = Callable[[int, Metrics], None]
Score = Callable[[int], Array]
"""Number of an episode to the scores of its observations (T + 1,)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A judge, and what is to be said of it."""

    judge: Judge
    score: Score
    provenance: dict[str, Any]  # JSON: where it comes from
    measures: dict[str, Any]  # JSON: what it is worth
    plots: dict[str, Any] = field(default_factory=dict)  # arrays and texts that the page draws
    threshold: float | None = None  # from where on an observation counts as success
    hold: int = 1


# Values ---------------------------------------------------------------------------------------------------------------


def load_value(config: ValueConfig, device: torch.device) -> tuple[GoalValue, dict[str, Any]]:
    """The objective of a run of pretrain-video, without a goal yet, and what identifies it.

    Raises:
        InputError: there is no run, it cannot be read, or it learned no value.
    """
    if not config.run:
        raise InputError("label.run is missing: a run of `robot-rl pretrain-video` with VIP, LIV or ICVF")
    folder = Path(config.run).expanduser()
    inside = checkpoint.checkpoints(folder / "checkpoints")
    if not (folder / checkpoint.STATE).is_file() and not inside:
        near = sorted(str(path.parent) for path in Path("runs").glob("*/*/encoder.safetensors"))
        raise InputError(f"label.run={folder} holds no checkpoint. Runs on video here: {', '.join(near) or 'none'}")
    found = folder if (folder / checkpoint.STATE).is_file() else inside[-1]
    tensors, state = checkpoint.load(found)
    try:
        plain = dict(state["config"])
        values = dict(plain["objective"])
        name = values.pop("kind")
        if name == "mae":
            raise InputError(f"label.run={found} is of mae, which learns no value: take vip, liv or icvf")
        objective_config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(OBJECTIVE_CONFIGS[name]), values))
        vision: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(VisionConfig), plain["vision"]))
        size, fit = [int(side) for side in plain["image_size"]], str(plain["fit"])
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{found} is no checkpoint of `robot-rl pretrain-video` that is read here: {error}") from error
    objective = empty_objective(objective_config, vision, size, device)
    checkpoint.unpack_agent(objective, tensors, state["numbers"])
    mean, deviation = probed(objective.encoder)
    fingerprint = {
        "checkpoint": str(found),
        "sha256": state["sha256"],
        "objective": name,
        "updates": objective.updates,
        "probe": [mean, deviation],
    }
    judge = GoalValue(
        objective=objective, name=name, vision=vision, image_size=size, fit_images=fit, config=config, goal=None
    )
    return judge, fingerprint


def fit_value(config: ValueConfig, frames: StoreFrames, device: torch.device) -> Fitted:
    """The value of the goal that is set.

    Raises:
        InputError: no goal, or one that is not there.
    """
    judge, fingerprint = load_value(config, device)
    goals, about = _goals(config.goal, judge, frames)
    if not callable(goals):
        judge.goal = goals

    def score(episode: int) -> Array:
        goal = goals(episode) if callable(goals) else goals
        size, fit = judge.image_size, judge.fit_images
        return frames.scores(episode, size, fit, lambda images: judge.value(images, goal))

    return Fitted(judge=judge, score=score, provenance={**fingerprint, "goal": about}, measures={})


def _goals(
    config: GoalConfig, judge: GoalValue, frames: StoreFrames
) -> tuple[Tensor | str | Callable[[int], Tensor | str], dict[str, Any]]:
    """One goal, or one for each episode; and what it is, as JSON."""
    size = (judge.image_size[0], judge.image_size[1])
    if config.image is not None:
        path = Path(config.image).expanduser()
        if not path.is_file():
            raise InputError(f"label.goal.image={path} is not there")
        data = path.read_bytes()
        image = decode_image(data, f"label.goal.image={path}")
        if image.shape[2] != 3:
            raise InputError(f"label.goal.image={path} has no colours: give a picture in colour")
        shown = torch.from_numpy(resize(image, size, judge.fit_images).copy())[None]
        return shown, {"image": str(path), "sha256": hashlib.sha256(data).hexdigest()}
    if config.episodes:
        rows = [_goal_row(frames, episode, config.frame) for episode in config.episodes]
        shown = torch.from_numpy(frames.pixels(np.asarray(rows), size, judge.fit_images))
        digests = [frames.store.digests[episode] for episode in config.episodes]
        return shown, {"episodes": list(config.episodes), "frame": config.frame, "sha256": digests}
    if config.text is not None or config.recorded:
        if not isinstance(judge.objective, LIV):
            raise InputError(f"label.goal in words needs an objective that knows words, liv; this is {judge.name}")
        if config.text is not None:
            return config.text, {"text": config.text}
        texts = [str(frames.store.metadata(index).get("language", "")) for index in range(len(frames.store))]
        without = [index for index, text in enumerate(texts) if not text.strip()]
        if without:
            raise InputError(
                f"episode {without[0]} of {frames.store.path} has no instruction ({len(without)} have none): say it "
                "with `robot-rl edit relabel STORE language=...`, or for all with label.goal.text"
            )
        return texts.__getitem__, {"recorded": sorted(set(texts))}
    if config.own_end:

        def own(episode: int) -> Tensor:
            return torch.from_numpy(frames.pixels(frames.recorded_rows(episode)[-1:], size, judge.fit_images))

        return own, {"own_end": True}
    raise InputError(
        "what is the goal? label.goal.image=FILE, label.goal.episodes=[0,3] (their last frames), label.goal.text=... "
        "or label.goal.recorded=true (LIV), or label.goal.own_end=true"
    )


def _goal_row(frames: StoreFrames, episode: int, frame: int) -> int:
    if not 0 <= episode < len(frames.store):
        raise InputError(f"label.goal.episodes names {episode}: there are 0 to {len(frames.store) - 1}")
    rows = frames.recorded_rows(episode)
    if not -len(rows) <= frame < len(rows):
        raise InputError(f"label.goal.frame={frame}: episode {episode} has {len(rows)} frames")
    return int(rows[frame])


# Stages ---------------------------------------------------------------------------------------------------------------


def fit_stages(config: StagesConfig, frames: StoreFrames, seeds: Seeds, device: torch.device) -> Fitted:
    """Stages of some demonstrations, measured on others.

    Raises:
        InputError: no encoder, or no demonstrations.
    """
    if config.vision.weights is None:
        raise InputError(
            "label.vision.weights is missing: an encoder, such as encoder.safetensors of `robot-rl pretrain-video`"
        )
    shape = (*config.image_size, 3)
    encoder, fingerprint = build_encoder(config.vision, shape, seeds.torch("encoder"))
    encoder = encoder.to(device).requires_grad_(False)
    known = successes(frames.store)
    if config.demonstrations == "successful":
        chosen = [index for index, success in enumerate(known) if success]
        if not chosen:
            raise InputError(
                f"{frames.store.path} has no successful episode: label.demonstrations=all takes every one for one"
            )
    else:
        chosen = list(range(len(known)))
    order = seeds.numpy("split").permutation(len(chosen)).tolist()
    count = min(len(chosen) - 1, round(config.test_share * len(chosen)))
    tested = sorted(chosen[place] for place in order[:count])
    learned = sorted(chosen[place] for place in order[count:])
    gather = frames.gatherer(config.image_size, config.fit_images)

    def features(episode: int) -> Array:
        return stages.encoded(encoder, gather(frames.recorded_rows(episode)))

    fitted, begins = stages.fit(config, encoder, [features(episode) for episode in learned])
    placed = [_stage_agreement(fitted, features(episode)) for episode in tested]
    measures = {
        "demonstrations": len(learned),
        "tested": len(tested),
        "features": len(fitted.chosen),
        "stage_agreement": number_or_none(mean_of_numbers(placed)),
        "first_frames": {str(episode): begin for episode, begin in zip(learned, begins, strict=True)},
    }
    return Fitted(
        judge=fitted,
        score=lambda episode: frames.scores(episode, config.image_size, config.fit_images, fitted.score),
        provenance={"encoder": None if fingerprint is None else asdict(fingerprint)},
        measures=measures,
        plots={"begins": dict(zip(learned, begins, strict=True))},
    )


def _stage_agreement(fitted: stages.Stages, features: Array) -> float:
    """Share of the frames whose likeliest stage is the one that the cut of the video itself gives."""
    config = fitted.config
    if len(features) < config.stages * config.minimum:
        return float("nan")
    normal = (features - fitted.offset) / fitted.deviation
    own = stage_numbers(segment(normal, config.stages, config.minimum), len(features))
    return float((fitted.distances(features).argmin(1) == own).mean())


# Success --------------------------------------------------------------------------------------------------------------


def fit_classifier(
    config: ClassifierConfig, frames: StoreFrames, seeds: Seeds, device: torch.device, advance: Advance
) -> Fitted:
    """Learn on some episodes, calibrate and choose the threshold on others, measure on yet others.

    Raises:
        InputError: too few episodes, or labels that are none.
    """
    labels = recorded_labels(frames) if config.frames is None else labels_of_file(Path(config.frames), frames)
    labelled = [index for index, label in enumerate(labels) if (label >= 0).any()]
    parts = split_episodes(
        [frames.store.digests[index] for index in labelled],
        [bool((labels[index] == 1).any()) for index in labelled],
        {
            LEARN: 1 - config.calibrate_share - config.test_share,
            CALIBRATE: config.calibrate_share,
            TEST: config.test_share,
        },
        seeds.numpy("split"),
    )
    members = {name: [labelled[place] for place in places] for name, places in parts.items()}
    gather = frames.gatherer(config.image_size, config.fit_images)
    rows = np.concatenate([frames.rows(index) for index in members[LEARN]])
    known = np.concatenate([labels[index] for index in members[LEARN]])
    fitted = classifier.fit(
        config, gather, rows[known >= 0], known[known >= 0] == 1, Seeds(seeds.integer("fit")), device, advance
    )

    @functools.cache  # what is held out is judged here, and every episode afterwards
    def logits(episode: int) -> Array:
        return frames.scores(
            episode, config.image_size, config.fit_images, lambda images: np.asarray(fitted.logits(images).numpy())
        )

    raw = {name: [logits(index) for index in members[name]] for name in (CALIBRATE, TEST)}
    held = np.concatenate(raw[CALIBRATE])
    truth = np.concatenate([labels[index] for index in members[CALIBRATE]])
    classifier.calibrate(fitted, held[truth >= 0], truth[truth >= 0] == 1)
    judged = {
        name: [
            Judged(episode=index, probability=fitted.probability(logits(index)), label=labels[index])
            for index in members[name]
        ]
        for name in raw
    }
    chosen = classifier.choose_threshold(fitted, judged[CALIBRATE])
    tested = np.concatenate(raw[TEST])
    measures = classifier.measures(fitted, tested, judged[TEST])
    measures |= {
        "threshold": fitted.threshold,
        "temperature": fitted.temperature,
        "calibrated_on": {
            "false_positives": chosen.false_positives,
            "negatives": chosen.negatives,
            "rate_upper": chosen.upper,
        },
        "parts": members,
        "failing_episodes_learned": sum(not (labels[index] == 1).any() for index in members[LEARN]),
    }
    return Fitted(
        judge=fitted,
        score=lambda episode: fitted.probability(logits(episode)),
        provenance={"labels": "recorded success" if config.frames is None else _file_facts(Path(config.frames))},
        measures=measures,
        plots=_classifier_plots(fitted, judged[TEST], tested),
        threshold=fitted.threshold,
        hold=config.hold,
    )


def _file_facts(path: Path) -> dict[str, str]:
    return {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _classifier_plots(fitted: classifier.SuccessClassifier, judged: Sequence[Judged], logits: Array) -> dict[str, Any]:
    label = np.concatenate([each.label for each in judged])
    probability = np.concatenate([each.probability for each in judged])
    episode = np.concatenate([np.full(len(each.label), each.episode) for each in judged])
    frame = np.concatenate([np.arange(len(each.label)) for each in judged])
    known = label >= 0
    truth = label[known] == 1
    plain = sigmoid(logits[known])
    worst = np.flatnonzero(label == 0)
    worst = worst[np.argsort(-probability[worst], kind="stable")[:6]]
    missed = np.flatnonzero(label == 1)
    missed = missed[np.argsort(probability[missed], kind="stable")[:6]]
    return {
        "bins": bins_of(probability[known], truth),
        "bins_before": bins_of(plain, truth),
        "truth": truth,
        "probability": probability[known],
        "worst": [(int(episode[place]), int(frame[place]), float(probability[place])) for place in worst],
        "missed": [(int(episode[place]), int(frame[place]), float(probability[place])) for place in missed],
        "threshold": fitted.threshold,
    }


# What all have --------------------------------------------------------------------------------------------------------


def score_measures(scores: Sequence[Array], known: Sequence[bool | None]) -> dict[str, Any]:
    """How scores rise along episodes, and whether their last one tells successes from failures.

    Shapes: scores (T + 1,) each.
    """
    pairs = list(zip(scores, known, strict=True))
    rising = [value_order_correlation(score) for score, success in pairs if success is not False]
    judged = [(score[-1], success) for score, success in pairs if success is not None]
    area = float("nan")
    if judged:
        area = area_under_curve(np.asarray([s for s, _ in judged]), np.asarray([bool(k) for _, k in judged]))
    every = np.concatenate(list(scores))
    return {
        "episodes": len(scores),
        "frames": len(every),
        "value_order_correlation": number_or_none(mean_of_numbers(rising)),
        "last_frame_area_under_curve": number_or_none(area),
        "mean": float(every.mean()),
        "deviation": float(every.std()),
        "minimum": float(every.min()),
        "maximum": float(every.max()),
    }


def require_finite(scores: Sequence[Array], what: str) -> None:
    """Refuse to write what is no number.

    Raises:
        InputError: names the episode.
    """
    for index, score in enumerate(scores):
        if not np.isfinite(score).all():
            raise InputError(f"the {what} of episode {index} is not a number: nothing was written")


def kind_of(config: Any, kinds: Mapping[str, type]) -> str:
    """The name under which a configuration is registered."""
    found = next((name for name, node in kinds.items() if type(config) is node), None)
    if found is None:
        raise InputError(f"no kind of label is chosen: add label=NAME. {nearest('', ['goal', *kinds])}")
    return found
