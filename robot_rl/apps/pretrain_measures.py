"""What an encoder learned from video, measured on videos that it did not see.

Value curves and their order (VOC), what a linear map reads from the features (probes), and which pixels move the value
(saliency). Beside each number stands that of the same networks before they learned, because distances of random
features order many videos already.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from robot_rl.algorithms.video import Objective
from robot_rl.apps.pretrain_footage import Source, Video
from robot_rl.functional.video_scores import mean_of_numbers, ridge_scores, value_order_correlation
from robot_rl.networks.vision.encoder import ImageEncoder, in_parts
from robot_rl.seeding import Seeds
from robot_rl.types import Array

PROBED_CHANNELS = 64  # of one observation, at most
SALIENT_VIDEOS = 3
SALIENT_FRAMES = 4
NOISY_COPIES = 8
NOISE = 0.08  # deviation, of the range of a byte
BLUR = 5  # pixels, odd
STRIP = 6  # frames of a video that are shown


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """The value of the frames of a video that was held out, for its own last frame."""

    source: str
    title: str
    times_s: Array  # (T,)
    values: Array  # (T,)
    voc: float
    voc_before: float  # of the same networks before they learned
    strip: Array  # (STRIP, H, W, 3), uint8


@dataclass(frozen=True, kw_only=True)
class Probe:
    """How much of the variance of an observation a linear map reads from the features, on videos that were held out."""

    source: str
    key: str
    score: float  # R^2, the mean of the channels that vary
    before: float
    channels: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Saliency:
    """Frames of a video, and how much each pixel moves the value."""

    source: str
    title: str
    frames: Array  # (SALIENT_FRAMES, H, W, 3), uint8
    weight: Array  # (SALIENT_FRAMES, H, W), 0 to 1


@dataclass(frozen=True, kw_only=True)
class Measures:
    """All of it."""

    curves: Sequence[Curve]
    probes: Sequence[Probe]
    saliencies: Sequence[Saliency]
    seconds: float

    def to_json(self, value_kind: str) -> dict[str, Any]:
        """The numbers, by source."""
        sources: dict[str, Any] = {}
        for name in dict.fromkeys(curve.source for curve in self.curves):
            curves = [curve for curve in self.curves if curve.source == name]
            sources[name] = {
                "videos": len(curves),
                "voc": number_or_none(mean_of_numbers([curve.voc for curve in curves])),
                "voc_before": number_or_none(mean_of_numbers([curve.voc_before for curve in curves])),
                "voc_each": [number_or_none(curve.voc) for curve in curves],
                "probes": {},
            }
        for probe in self.probes:
            numbers = {"r2": number_or_none(probe.score), "r2_before": number_or_none(probe.before)}
            sources.setdefault(probe.source, {"probes": {}})["probes"][probe.key] = numbers
        return {"value_kind": value_kind, "sources": sources, "measuring_s": self.seconds}


def number_or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def measure(
    objective: Objective,
    before: Objective,
    sources: Sequence[Source],
    *,
    videos: int,
    probe_frames: int,
    seed: int,
    device: torch.device,
    say: Callable[[str], None],
) -> Measures:
    """Measure on what was held out.

    Args:
        objective: that learned.
        before: the same before it learned.
        sources: with their videos.
        videos: of each source, at most.
        probe_frames: of each source to fit probes on; 0 fits none.
        seed: of what is chosen.
        device: where the networks are.
        say: takes a line for a person.
    """
    began = time.monotonic()
    curves: list[Curve] = []
    saliencies: list[Saliency] = []
    probes: list[Probe] = []
    for source in sources:
        chosen = _chosen(source.held_out, videos, seed)
        if not chosen:
            say(
                f"Source {source.name}: no video was held out, so nothing is measured on it; a single long one is cut "
                f"with sources.{source.name}.piece_s=SECONDS"
            )
            continue
        curves += [_curve(objective, before, source, video, device) for video in chosen]
        saliencies += [_saliency(objective, source, video, seed, device) for video in chosen[:SALIENT_VIDEOS]]
        if probe_frames:
            probes += _probes(objective.encoder, before.encoder, source, probe_frames, seed, device)
    return Measures(curves=curves, probes=probes, saliencies=saliencies, seconds=time.monotonic() - began)


def _chosen(videos: Sequence[Video], count: int, seed: int) -> list[Video]:
    if len(videos) <= count:
        return list(videos)
    order = Seeds(seed).numpy("measured").permutation(len(videos))[:count]
    return [videos[number] for number in sorted(order.tolist())]


def _images(video: Video, frames: Array) -> Tensor:
    """Shapes: (K,) -> (K, H, W, 3), uint8, in the memory of the host."""
    return torch.from_numpy(video.track.column.gather(video.track.rows[frames]))


def _title(video: Video) -> str:
    return f"episode {video.episode}, {video.camera}" + (f", from row {video.first}" if video.first else "")


def _values(objective: Objective, images: Tensor, device: torch.device) -> Array:
    """For the last frame as goal. Shapes: (T, H, W, 3) -> (T,)."""
    goal = images[-1:].to(device)
    return in_parts(images, lambda part: objective.value(part, goal), device).double().numpy()


def _curve(objective: Objective, before: Objective, source: Source, video: Video, device: torch.device) -> Curve:
    length = len(video.track)
    images = _images(video, np.arange(length))
    values = _values(objective, images, device)
    period_s = source.facts["frame_period_s"]
    return Curve(
        source=source.name,
        title=_title(video),
        times_s=np.arange(length) * (1.0 if period_s is None else period_s),
        values=values,
        voc=value_order_correlation(values),
        voc_before=value_order_correlation(_values(before, images, device)),
        strip=images[np.linspace(0, length - 1, STRIP).round().astype(int)].numpy(),
    )


def _saliency(objective: Objective, source: Source, video: Video, seed: int, device: torch.device) -> Saliency:
    """The slope of the value by each pixel: over colours, noisy copies (SmoothGrad, arXiv:1706.03825) and neighbours.

    Convolutions with strides look at some pixels more often than at those beside them: without the neighbours a picture
    shows their grid.
    """
    length = len(video.track)
    shown = np.linspace(0, length - 2, SALIENT_FRAMES).round().astype(int) if length > 1 else np.zeros(1, int)
    frames, goal = _images(video, shown), _images(video, np.asarray([length - 1])).to(device)
    generator = Seeds(seed).torch("saliency", device=device)
    total = torch.zeros(frames.shape[:3], device=device)
    exact = frames.to(device).float()
    for _ in range(NOISY_COPIES):
        noise = torch.randn(exact.shape, generator=generator, device=device) * (255 * NOISE)
        pixels = (exact + noise).requires_grad_()
        value = objective.differentiable_value(pixels, goal).sum()
        (slope,) = torch.autograd.grad(value, pixels)
        total += slope.abs().sum(-1)
    total = avg_pool2d(total[:, None], BLUR, 1, BLUR // 2, count_include_pad=False)[:, 0]
    peak = total.flatten(1).quantile(0.995, dim=1).clamp(min=1e-12)[:, None, None]
    return Saliency(
        source=source.name,
        title=_title(video),
        frames=frames.numpy(),
        weight=(total / peak).clamp(max=1.0).cpu().numpy(),
    )


# Probes ---------------------------------------------------------------------------------------------------------------


def _probes(
    encoder: ImageEncoder, before: ImageEncoder, source: Source, count: int, seed: int, device: torch.device
) -> list[Probe]:
    """One for each observation of numbers that the source recorded beside its images."""
    keys = [
        key
        for key, array in source.store.spec.observation.items()
        if not array.is_image and len(array.shape) <= 1 and int(np.prod(array.shape)) <= PROBED_CHANNELS
    ]
    if not keys or not source.fitting:
        return []
    generator = Seeds(seed).numpy("probes", source.name)
    fit_images, fit_targets = _rows(source, source.fitting, keys, count, generator)
    held_images, held_targets = _rows(source, source.held_out, keys, max(2, count // 2), generator)
    widths = [fit_targets[key].shape[1] for key in keys]
    fit, held = (np.concatenate([targets[key] for key in keys], 1) for targets in (fit_targets, held_targets))
    scores = []
    for each in (encoder, before):
        found = ridge_scores(_features(each, fit_images, device), fit, _features(each, held_images, device), held)
        scores.append(dict(zip(keys, np.split(found, np.cumsum(widths)[:-1]), strict=True)))
    probes = []
    for key in keys:
        after, earlier = scores[0][key], scores[1][key]
        varying = int(np.isfinite(after).sum())
        if varying:
            mean, mean_before = mean_of_numbers(after.tolist()), mean_of_numbers(earlier.tolist())
            probes.append(Probe(source=source.name, key=key, score=mean, before=mean_before, channels=varying))
    return probes


def _rows(
    source: Source, videos: Sequence[Video], keys: Sequence[str], count: int, generator: np.random.Generator
) -> tuple[Tensor, dict[str, Array]]:
    """Frames of the videos, in their order, at most so many, with what was recorded beside them."""
    places = [(number, frame) for number, video in enumerate(videos) for frame in range(len(video.track))]
    if len(places) > count:
        places = [places[index] for index in sorted(generator.choice(len(places), count, replace=False).tolist())]
    images: list[Tensor] = []
    targets: dict[str, list[Array]] = {key: [] for key in keys}
    for number in sorted({number for number, _ in places}):
        video = videos[number]
        frames = np.asarray([frame for owner, frame in places if owner == number])
        images.append(_images(video, frames))
        episode = next(source.store.episodes([video.episode], keys=list(keys)))
        rows = video.first + frames * video.step
        for key in keys:
            targets[key].append(np.asarray(episode.observation[key])[rows].reshape(len(rows), -1).astype(np.float64))
    return torch.cat(images), {key: np.concatenate(parts) for key, parts in targets.items()}


@torch.no_grad()
def _features(encoder: ImageEncoder, images: Tensor, device: torch.device) -> Array:
    """Shapes: (N, H, W, 3) -> (N, F), float64."""
    return in_parts(images, encoder, device).double().numpy()
