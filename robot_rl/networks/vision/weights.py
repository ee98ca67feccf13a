"""Weights of encoders in safetensors files: written, read and recognised, and never downloaded."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from robot_rl.errors import InputError

if TYPE_CHECKING:
    from robot_rl.networks.vision.encoder import ImageEncoder

TOLERANCE = 1e-3
"""By how much the probe's features may differ, in deviations, between machines."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What was loaded: the file, and what the encoder makes of the probe image."""

    path: str
    sha256: str  # of the file
    parts: tuple[str, ...]  # trunk, and pool where the file's fits
    mean: float  # of the features of the probe
    deviation: float


def probe(shape: tuple[int, ...]) -> Tensor:
    """A fixed image of two ramps and a chessboard; earlier frames are darker. Shapes: -> (1, *shape), uint8."""
    *frames, height, width, channels = shape
    row, column = torch.arange(height)[:, None], torch.arange(width)[None]
    board = ((row // 4 + column // 4) % 2) * 255
    planes = [row * 255 // max(height - 1, 1) + 0 * column, column * 255 // max(width - 1, 1) + 0 * row, board]
    image = torch.stack([planes[index % 3] for index in range(channels)], dim=-1)
    if frames:
        image = torch.stack([image * (index + 1) // frames[0] for index in range(frames[0])])
    return image[None].to(torch.uint8)


@torch.no_grad()
def probed(encoder: "ImageEncoder") -> tuple[float, float]:
    """Mean and deviation of the features of the probe, under a condition of zeros."""
    device = next(encoder.parameters()).device
    condition = torch.zeros(1, encoder.condition_size, device=device) if encoder.condition_size else None
    features = encoder(probe(encoder.shape).to(device), condition).double()
    return float(features.mean()), float(features.std())


def save_weights(encoder: "ImageEncoder", path: str | Path, **metadata: str) -> None:
    """Write an encoder with its settings and its probe; further `metadata`, such as how it was trained, is kept.

    Raises:
        InputError: the file cannot be written.
    """
    mean, deviation = probed(encoder)
    own = {
        "config": json.dumps(asdict(encoder.config), sort_keys=True),
        "shape": json.dumps(encoder.shape),
        "probe": json.dumps([mean, deviation]),
    }
    target = Path(path).expanduser()
    partial = target.with_name(f".{target.name}.partial")
    tensors = {key: value.detach().cpu().contiguous() for key, value in encoder.state_dict().items()}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, {**metadata, **own})
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        raise InputError(f"cannot write the encoder to {target}: {error}") from error


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        InputError: it is not there, or of another kind.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise InputError(
            f"the encoder's weights {source} are not there: nothing is downloaded, so put the file there, or leave "
            "vision.weights out to begin at random"
        )
    try:
        with safe_open(source, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{source} is no safetensors file ({error}): convert weights of another format with safetensors.torch"
        ) from error


def load_weights(encoder: "ImageEncoder", path: str | Path) -> Fingerprint:
    """Fill an encoder from a file that `save_weights` wrote; a transformer was filled when it was made.

    The trunk has to fit. The pool is taken where it fits too, and otherwise begins at random: `Fingerprint.parts`.

    Raises:
        InputError: another trunk, or features of the probe other than when it was written, such as by another
            `pixels`, `resize` or frame order.
    """
    source = Path(path).expanduser()
    tensors, metadata = read_tensors(source)
    parts: tuple[str, ...] = ("trunk",)
    if encoder.config.kind != "vit":
        trunk = {key: value for key, value in tensors.items() if key.startswith("trunk.")}
        own = {key: value for key, value in encoder.state_dict().items() if key.startswith("trunk.")}
        wrong = [key for key in own if key not in trunk or trunk[key].shape != own[key].shape]
        wrong += [key for key in trunk if key not in own]
        if wrong:
            raise InputError(
                f"{source} holds another trunk than vision kind={encoder.config.kind}: '{wrong[0]}' and "
                f"{len(wrong) - 1} more differ. It was written with {metadata.get('config', 'unknown settings')} for "
                f"images {metadata.get('shape', 'of unknown shape')}, and these are {list(encoder.shape)}"
            )
        pool = {key: value for key, value in tensors.items() if key.startswith("pool.")}
        mine = {key: value for key, value in encoder.state_dict().items() if key.startswith("pool.")}
        fits = set(pool) == set(mine) and all(pool[key].shape == mine[key].shape for key in mine)
        encoder.load_state_dict({**encoder.state_dict(), **trunk, **(pool if fits else {})})
        if fits:
            parts = ("trunk", "pool")
        _require_same_probe(encoder, source, metadata)
    mean, deviation = probed(encoder)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Fingerprint(path=str(source), sha256=digest, parts=parts, mean=mean, deviation=deviation)


def _require_same_probe(encoder: "ImageEncoder", source: Path, metadata: dict[str, str]) -> None:
    """Where image shape and pooling are those of the file, its features must be too."""
    if "probe" not in metadata or json.loads(metadata["shape"]) != list(encoder.shape):
        return
    config = json.loads(metadata["config"])
    if any(config.get(name) != getattr(encoder.config, name) for name in ("pooling", "frames")):
        return
    mean, deviation = json.loads(metadata["probe"])
    found = probed(encoder)
    if abs(found[0] - mean) > TOLERANCE * deviation or abs(found[1] - deviation) > TOLERANCE * deviation:
        raise InputError(
            f"{source}: the encoder makes other features of the same image (mean {found[0]:.4g}, deviation "
            f"{found[1]:.4g}) than when it was written ({mean:.4g}, {deviation:.4g}). It was written with "
            f"{metadata['config']}: set vision pixels, resize, activation and coordinates to that"
        )
