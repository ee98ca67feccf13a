"""Pre-training on video: draw clips, gather their frames, update, and write down where it is."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from robot_rl import checkpoint
from robot_rl.algorithms.video import Objective
from robot_rl.clock import Clock
from robot_rl.errors import InputError
from robot_rl.networks.vision.augmentation import AugmentationConfig, augmented
from robot_rl.networks.vision.weights import save_weights
from robot_rl.recorder import Progress, Recorder
from robot_rl.replay.footage import Footage
from robot_rl.types import Metrics

ENCODER = "encoder.safetensors"


class Display(Protocol):
    """Shows a person where it is."""

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        """So many updates are done; the newest numbers."""


@dataclass(kw_only=True)
class VideoRun:
    """Everything that moves while it goes on; `save` and `restore` are exact inverses."""

    folder: Path
    origin: dict[str, Any]  # JSON: configuration and sources; goes into the checkpoint as it is
    objective: Objective
    footage: Footage
    augmentation: AugmentationConfig
    device: torch.device
    generator: torch.Generator  # draws clips, on the host
    changes: torch.Generator  # of the augmentation, on the device
    recorder: Recorder
    display: Display
    clock: Clock
    steps: int
    log_every: int
    checkpoint_every_s: float
    stop_requested: Callable[[], bool] = lambda: False
    progress: Progress = field(default_factory=lambda: Progress(phase="video", phase_begun=True))

    def run(self) -> bool:
        """Learn to the end, or until a stop is requested; either way it is saved. True where it is finished."""
        tick = saved_ns = self.clock.now_ns()
        logged_s = self.progress.elapsed_s
        logged = self.progress.updates
        metrics: Metrics = {}
        while self.progress.updates < self.steps and not self.stop_requested():
            metrics = self.update()
            now = self.clock.now_ns()
            self.progress.elapsed_s += (now - tick) / 1e9
            tick = now
            if self.progress.updates % self.log_every == 0 or self.progress.updates == self.steps:
                rate = (self.progress.updates - logged) / max(self.progress.elapsed_s - logged_s, 1e-9)
                logged, logged_s = self.progress.updates, self.progress.elapsed_s
                self.log(metrics, rate)
            if now - saved_ns >= self.checkpoint_every_s * 1e9:
                self.save()
                tick = saved_ns = self.clock.now_ns()
        self.save()
        return self.progress.updates >= self.steps

    def update(self) -> Metrics:
        """One update on new clips. Frames stay bytes until they are on the device."""
        rows = self.objective.draw(self.footage, self.generator)
        images = self.on_device(self.footage.gather(rows.track, rows.frame))
        clips = images.unflatten(0, (rows.clips, -1))
        images = augmented(clips, self.augmentation, self.changes).flatten(0, 1)
        metrics = self.objective.update(images, rows.to(self.device))
        self.progress.updates += 1
        self.progress.phase_step += 1
        return metrics

    def on_device(self, images: Tensor) -> Tensor:
        """Bytes, from pinned memory where the device is an accelerator."""
        if self.device.type == "cpu":
            return images
        return images.pin_memory().to(self.device, non_blocking=True)

    def log(self, metrics: Metrics, rate: float) -> None:
        """One line of metrics.

        Raises:
            InputError: one is not a number.
        """
        numbers = {name: float(value) for name, value in metrics.items()}
        self.recorder.event("train", self.progress, {**numbers, "updates_per_s": rate})
        self.display.advance(self.progress.updates, {**numbers, "updates_per_s": rate})
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise InputError(
                    f"{name} is {value} after {self.progress.updates} updates: the training diverged. Begin again with "
                    "a lower objective.learning_rate, or with objective.gradient_clip=10"
                )

    def save(self) -> None:
        """A checkpoint, and the encoder by itself.

        Raises:
            InputError: the disk is full.
        """
        tensors, numbers = checkpoint.pack_agent(self.objective)
        tensors["run.generator"] = self.generator.get_state()
        tensors["run.changes"] = self.changes.get_state()
        state = {
            **self.origin,
            "numbers": numbers,
            "progress": asdict(self.progress),
            "metrics_bytes": self.recorder.sync(),
        }
        checkpoint.save(self.folder / "checkpoints", self.progress.updates, tensors, state)
        save_weights(
            self.objective.encoder,
            self.folder / ENCODER,
            objective=type(self.objective).__name__.lower(),
            updates=str(self.progress.updates),
        )

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `save` wrote.

        Raises:
            InputError: another objective or another encoder.
        """
        checkpoint.unpack_agent(self.objective, tensors, state["numbers"])
        self.generator.set_state(tensors["run.generator"].cpu())
        self.changes.set_state(tensors["run.changes"].cpu())
        self.progress = Progress(**state["progress"])
