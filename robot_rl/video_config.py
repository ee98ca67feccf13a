"""Configuration of `robot-rl pretrain-video`; `robot_rl/config.py` registers it."""

from dataclasses import dataclass, field
from typing import Any

from robot_rl.checks import require_choice, require_minimum, require_range
from robot_rl.errors import InputError
from robot_rl.networks.vision.augmentation import AugmentationConfig
from robot_rl.networks.vision.config import VisionConfig


@dataclass(kw_only=True)
class FootageConfig:
    """Videos from one place."""

    path: str = ""  # a store, or whatever `robot-rl ingest` reads: videos, a folder of them, LeRobot, bags, RLDS, ...
    format: str | None = None  # of a recording; None finds the reader by content
    cameras: list[str] = field(default_factory=list)  # images; none given takes all
    share: float | None = None  # of what is drawn, in any unit; None: by what it has, then no source may have one
    piece_s: float | None = None  # longer videos are cut into pieces of about so many seconds, each a video of its own
    language: str | None = None  # the instruction of videos that have none
    maximum_episodes: int | None = None

    def __post_init__(self) -> None:
        if self.piece_s is not None:
            require_range(self.piece_s, 1e-3, 1e6, "sources piece_s")
        if self.share is not None:
            require_range(self.share, 0.0, 1e6, "sources share")
        if self.maximum_episodes is not None:
            require_minimum(self.maximum_episodes, 1, "sources maximum_episodes")


@dataclass(kw_only=True)
class PretrainVideoConfig:
    """`robot-rl pretrain-video`: an encoder of images learns from videos without actions."""

    path: str = ""  # videos, in place of `sources` where there is one place only
    sources: dict[str, FootageConfig] = field(default_factory=dict)
    name: str = "video"
    output: str = "runs/${name}/seed_${seed}"
    footage: str = "runs/footage"  # folder of what was converted to `image_size`; runs share it
    seed: int = 0
    resume: bool = False
    device: str = "cpu"
    threads: int = 1  # torch threads
    objective: Any = None
    vision: VisionConfig = field(default_factory=VisionConfig)
    augmentation: AugmentationConfig = field(default_factory=lambda: AugmentationConfig(shift=0))
    """The frames of a clip change alike. Off: a value that may not see where the image was cut learns slower."""
    image_size: list[int] = field(default_factory=lambda: [64, 64])  # [height, width]
    fit: str = "stretch"  # stretch | pad | crop: where the proportions of a video are others
    frame_period_s: float | None = 0.1  # from a frame to the next; None takes every frame
    steps: int = 2500  # updates
    held_out: float = 0.1  # share of the videos of each source that only measure, at least one of two; 0 takes none
    log_every: int = 50  # updates between two lines of metrics
    checkpoint_every_s: float = 60.0
    measured_videos: int = 16  # of each source, of those held out, at most
    probe_frames: int = 1500  # of each source to fit a probe on; 0 fits none

    def __post_init__(self) -> None:
        if len(self.image_size) != 2 or min(self.image_size) < 8:
            raise InputError(f"image_size={self.image_size}: give [height, width] in pixels, 8 at least")
        require_choice(self.fit, ("stretch", "pad", "crop"), "fit")
        if self.frame_period_s is not None:
            require_range(self.frame_period_s, 1e-4, 1e4, "frame_period_s")
        require_minimum(self.threads, 1, "threads")
        require_minimum(self.steps, 0, "steps")
        require_range(self.held_out, 0.0, 0.9, "held_out")
        require_minimum(self.log_every, 1, "log_every")
        require_minimum(self.checkpoint_every_s, 0.0, "checkpoint_every_s")
        require_minimum(self.measured_videos, 1, "measured_videos")
        require_minimum(self.probe_frames, 0, "probe_frames")
        shares = [name for name, source in self.sources.items() if source.share is not None]
        if shares and len(shares) < len(self.sources):
            without = sorted(set(self.sources) - set(shares))
            raise InputError(f"sources {shares} have a share, {without} have none: give one to all or to none")
