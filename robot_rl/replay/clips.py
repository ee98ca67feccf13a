"""Tuples (s, s', s+, z) from clips whose frames are encoded once: a tuple is four numbers of frames in the pool.

A clip is a run of consecutive frames, in which the steps s -> s' are, and a few later frames of the same video, among
which the goals are. The mixture of goals is ICVF's (`replay/goals.py::GoalMixture`): a later frame of the video, the
present one, or one of another clip of the pool.

What is exact and what is not, against drawing each tuple by itself from all frames:

- s is uniform over the steps of all videos (of the shares): a run begins at any place from which it has a step
  in the video, and hangs over its ends, where its frames are not used. A pool with fewer steps uses each more often.
- A future goal is uniform over the frames after s: those that were drawn lie uniformly behind the beginning of the run,
  so that the ones behind s lie uniformly there. Only where none lies behind s, it is a later frame of the run.
- A random goal comes from another clip of the same pool, where the published code takes any frame of the data.

Letters: C clips, L frames of a run, G later frames, M = C (L + G) frames of the pool, K tuples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from robot_rl.checks import require_minimum
from robot_rl.replay.footage import Footage, on_device
from robot_rl.replay.goals import GoalMixture


@dataclass(kw_only=True)
class ClipShape:
    """What a pool of clips has."""

    clips: int = 16
    run: int = 5  # consecutive frames of a clip
    goals: int = 3  # later frames of a clip
    tuples: int = 384  # of the pool

    def __post_init__(self) -> None:
        require_minimum(self.clips, 2, "clips.clips")  # random goals are those of another
        require_minimum(self.run, 2, "clips.run")
        require_minimum(self.goals, 1, "clips.goals")
        require_minimum(self.tuples, 1, "clips.tuples")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuples:
    """Which frames make a pool, and which of them a tuple takes. Goals are equal by frame, not by pixels."""

    track: Tensor  # (M,), videos
    frame: Tensor  # (M,), frames of them
    observation: Tensor  # (K,), numbers in the pool
    next_observation: Tensor  # (K,)
    goal: Tensor  # (K,), s+
    intent: Tensor  # (K,), z
    at_goal: Tensor  # (K,), bool: s is s+
    at_intent: Tensor  # (K,), bool: s is z
    clips: int  # C: the frames of each lie together in the pool

    def to(self, device: torch.device) -> "Tuples":
        """On a device."""
        return on_device(self, device)


def draw_tuples(footage: Footage, shape: ClipShape, mixture: GoalMixture, generator: torch.Generator) -> Tuples:
    """A pool of clips and its tuples. The generator is a CPU one, whatever the device."""
    video = footage.draw(shape.clips, generator, by="runs", run=shape.run)  # (C,)
    length = footage.lengths[video]
    start = _uniform(length + shape.run - 3, generator) - (shape.run - 2)  # -(L - 2) to T - 2: at least one step
    run = start[:, None] + torch.arange(shape.run)  # (C, L); outside of [0, T) where it hangs over an end
    exists = (run >= 0) & (run < length[:, None])
    later = _later(start.clamp(min=0), length, shape, mixture, generator)
    pool = torch.cat([torch.minimum(run.clamp(min=0), length[:, None] - 1), later], 1)  # (C, L + G)
    frame, track = pool.flatten(), video.repeat_interleave(pool.shape[1])

    anchor = _anchors(exists, shape.tuples, generator)  # (K, 2): clip, place in the run
    clip, place = anchor.unbind(1)
    intent = _goals(clip, place, run, later, exists, mixture, generator)
    other = _goals(clip, place, run, later, exists, mixture, generator)
    same = torch.rand(shape.tuples, generator=generator) < mixture.same
    goal = torch.where(same, intent, other)
    width = pool.shape[1]
    observation = clip * width + place

    def at(number: Tensor) -> Tensor:
        return (track[number] == track[observation]) & (frame[number] == frame[observation])

    return Tuples(
        track=track,
        frame=frame,
        observation=observation,
        next_observation=observation + 1,
        goal=goal,
        intent=intent,
        at_goal=at(goal),
        at_intent=at(intent),
        clips=shape.clips,
    )


def _later(start: Tensor, length: Tensor, shape: ClipShape, mixture: GoalMixture, generator: torch.Generator) -> Tensor:
    """G frames of each clip, uniform behind the first frame of its run. Shapes: (C,), (C,) -> (C, G)."""
    reach = length - 1 - start
    if mixture.maximum_distance is not None:  # as far as from the last step of the run
        reach = reach.clamp(max=mixture.maximum_distance + shape.run - 2)
    draws = torch.rand(len(start), shape.goals, generator=generator)
    return start[:, None] + torch.minimum(1 + (draws * reach[:, None]).long(), reach[:, None])


def _anchors(exists: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Steps of the pool, each as often as the others up to one. Shapes: (C, L) bool -> (K, 2) of clip and place."""
    steps = (exists[:, :-1] & exists[:, 1:]).nonzero()
    rounds = -(-count // len(steps))
    order = torch.cat([torch.randperm(len(steps), generator=generator) for _ in range(rounds)])
    return steps[order[:count]]


def _goals(
    clip: Tensor,
    place: Tensor,
    run: Tensor,
    later: Tensor,
    exists: Tensor,
    mixture: GoalMixture,
    generator: torch.Generator,
) -> Tensor:
    """A goal for each step, as a number in the pool. Shapes: clip, place (K,), run, exists (C, L), later (C, G)."""
    clips, length = run.shape
    width = length + later.shape[1]
    now = run[clip, place]
    # of the same video: one of the drawn frames behind s, else one of the run behind s
    candidates = torch.cat([run, later], 1)[clip]  # (K, L + G)
    behind = torch.cat([exists[clip], torch.ones_like(later[clip], dtype=torch.bool)], 1) & (candidates > now[:, None])
    if mixture.maximum_distance is not None:
        behind &= candidates <= now[:, None] + mixture.maximum_distance
    drawn = behind.clone()
    drawn[:, :length] = False
    behind = torch.where(drawn.any(1, keepdim=True), drawn, behind)
    future = clip * width + _choose(behind, generator)
    # any frame of the run of another clip
    another = (clip + 1 + _uniform(torch.full_like(clip, clips - 1), generator)) % clips
    anywhere = another * width + _choose(exists[another], generator)
    kind = torch.rand(len(clip), generator=generator)
    goal = torch.where(kind < mixture.future, future, anywhere)
    return torch.where(kind >= 1.0 - mixture.current, clip * width + place, goal)


def _choose(allowed: Tensor, generator: torch.Generator) -> Tensor:
    """One allowed place of each row, all alike. Shapes: (K, N) bool -> (K,)."""
    return (torch.rand(allowed.shape, generator=generator) + 1.0).mul(allowed).argmax(1)


def _uniform(count: Tensor, generator: torch.Generator) -> Tensor:
    """A whole number in [0, count) for each. Shapes: (C,) -> (C,)."""
    draws = torch.rand(count.shape, generator=generator, dtype=torch.float64)
    return torch.minimum((draws * count).long(), count - 1)
