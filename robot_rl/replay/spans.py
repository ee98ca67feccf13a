"""Parts of videos as VIP and LIV learn from them: a first frame, a goal, and two neighbours in between.

As in the published samplers (facebookresearch/vip and penn-pal-lab/LIV, `data_loaders.py`): videos are drawn alike
however long, o_0 uniformly, the goal uniformly behind it, o_k uniformly from o_0 to before the goal. They leave out the
last but one frame as o_0; here it may be one, so that a video of two frames works.

Letters: B spans, M frames of the pool.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from robot_rl.replay.footage import Footage, on_device


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Which frames make a pool, each once, and what they are."""

    track: Tensor  # (M,), videos
    frame: Tensor  # (M,), frames of them
    first: Tensor  # (B,), numbers in the pool: o_0
    now: Tensor  # (B,), o_k
    following: Tensor  # (B,), o_k+1
    goal: Tensor  # (B,), g
    shown: Tensor  # (B,), a frame of the end, which shows what the instruction says
    instruction: Tensor  # (B,), -1 where there is none
    clips: int  # B: the frames of each lie together in the pool

    def to(self, device: torch.device) -> "Spans":
        """On a device."""
        return on_device(self, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """Single frames, uniformly from all."""

    track: Tensor  # (M,)
    frame: Tensor  # (M,)
    clips: int  # M

    def to(self, device: torch.device) -> "Frames":
        """On a device."""
        return on_device(self, device)


def draw_spans(footage: Footage, count: int, generator: torch.Generator, *, ending: float | None = None) -> Spans:
    """Parts of `count` videos. The generator is a CPU one, whatever the device.

    Args:
        footage: the videos.
        count: B.
        generator: of the draws.
        ending: where the end of a video begins, as a share of it: from there on a frame shows the instruction. None
            draws no such frame, and `shown` is the goal.
    """
    video = footage.draw(count, generator, by="videos")
    length = footage.lengths[video]
    first = _between(torch.zeros_like(length), length - 1, generator)
    goal = _between(first + 1, length, generator)
    now = _between(first, goal, generator)
    parts = [first, now, now + 1, goal]
    if ending is not None:
        begin = ((ending * length).long() - 1).clamp(min=0)
        parts.append(_between(begin, length, generator))
    numbers = torch.arange(count * len(parts)).reshape(count, len(parts)).T
    return Spans(
        track=video.repeat_interleave(len(parts)),
        frame=torch.stack(parts, 1).flatten(),
        first=numbers[0],
        now=numbers[1],
        following=numbers[2],
        goal=numbers[3],
        shown=numbers[-1],
        instruction=footage.instruction[video],
        clips=count,
    )


def draw_frames(footage: Footage, count: int, generator: torch.Generator) -> Frames:
    """Single frames. The generator is a CPU one, whatever the device."""
    track = footage.draw(count, generator, by="frames")
    frame = _between(torch.zeros_like(track), footage.lengths[track], generator)
    return Frames(track=track, frame=frame, clips=count)


def _between(low: Tensor, high: Tensor, generator: torch.Generator) -> Tensor:
    """A whole number in [low, high) for each. Shapes: (B,), (B,) -> (B,)."""
    draws = torch.rand(low.shape, generator=generator, dtype=torch.float64)
    return torch.minimum(low + (draws * (high - low)).long(), high - 1)
