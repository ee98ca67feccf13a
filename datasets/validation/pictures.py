"""Images: frames that do not change while the robot moves, blank ones, cameras without a picture, videos of other
lengths. A sample of consecutive frames is looked at, never all of them.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np

from robot_rl.datasets.frames import lazy
from robot_rl.datasets.schema import Finding
from robot_rl.datasets.validation.facts import error, images, information, listed, state_rows, vectors, warning
from robot_rl.datasets.video import VideoFrames
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

BLOCK = 128  # consecutive frames of one episode
BLOCKS = 32  # of one camera that are looked at
EPISODES = 24
"""At most, that they are taken from: first the beginning of each, where the robot starts to move, then other parts."""
SIDE = 32  # pixels: what frames are reduced to
BLANK_RANGE = 6.0  # grey levels between the darkest and the brightest pixel of a reduced frame without a picture
DARK = 6.0  # grey level of the mean below which a frame is black
MOVING = 0.2  # of the median speed of the state, above which it moves
FROZEN_RUN = 10  # identical frames in a row while the state moves
REPEATED_SHARE = 0.2  # of the frames while the state moves


@dataclass
class Clip:
    """Consecutive rows of one episode: how the image and the state changed from one to the next."""

    episode: int
    start: int
    motion: Array  # (N - 1,), root mean square difference of the reduced frames, grey levels
    identical: Array  # (N - 1,), bool, every pixel
    states: Array  # (N, C), the vectors of the observation; C is 0 where there are none


@dataclass
class CameraFacts:
    """One camera."""

    key: str
    clips: list[Clip] = field(default_factory=list)
    frames: int = 0
    blank: int = 0
    black: int = 0
    blank_episodes: list[int] = field(default_factory=list)
    undecodable: dict[int, str] = field(default_factory=dict)  # episode -> why
    videos: dict[str, tuple[int, set[int]]] = field(default_factory=dict)  # file -> its frames, those that are used


class PictureFacts:
    """Collects what the checks of this file, and the offset between images and state, need.

    Args:
        spec: of the store.
        store: its path, for remedies.
        count: of episodes; up to `EPISODES` of them, evenly spread, are looked at.
    """

    def __init__(self, spec: Spec, store: str, count: int) -> None:
        self.store = store
        self.keys = vectors(spec)
        self.cameras = {key: CameraFacts(key) for key in images(spec)}
        self.chosen = sorted(set(np.linspace(0, max(count - 1, 0), min(count, EPISODES)).astype(int).tolist()))

    def add(self, index: int, episode: Episode) -> None:
        """One episode of the store; frames are decoded only where it is one of the chosen."""
        for key, facts in self.cameras.items():
            rows = episode.observation[key]
            _count_video(facts, rows)
            if index not in self.chosen:
                continue
            states = state_rows(episode, self.keys)
            length = len(episode) + (1 if episode.has_final_observation else 0)
            more = self.chosen.index(index) < BLOCKS % len(self.chosen)
            for start in _starts(length, BLOCKS // len(self.chosen) + (1 if more else 0)):
                stop = min(start + BLOCK, length)
                try:
                    frames = np.asarray(rows[start:stop])
                except InputError as damage:
                    facts.undecodable[index] = str(damage)
                    continue
                _look(facts, index, start, frames, states[start:stop])

    def findings(self) -> list[Finding]:
        """All checks of this file."""
        checks = (undecodable, no_picture, blank_frames, frozen, video_frames)
        return [finding for facts in self.cameras.values() for check in checks for finding in check(facts)]


def no_picture(facts: CameraFacts) -> list[Finding]:
    """A camera that shows nothing anywhere."""
    if facts.frames == 0 or facts.blank < facts.frames:
        return []
    colour = "black" if facts.black == facts.frames else "of one colour"
    text = f"the camera has no picture: all of the {facts.frames} frames that were looked at are {colour}"
    return [warning(f"observation '{facts.key}'", text, f"leave it out: ingest again with 'exclude=[{facts.key}]'")]


def blank_frames(facts: CameraFacts) -> list[Finding]:
    """Some frames show nothing."""
    if facts.blank in (0, facts.frames):
        return []
    text = (
        f"{facts.blank} of {facts.frames} frames that were looked at show nothing, {facts.black} of them are black; in "
        f"episodes {listed(facts.blank_episodes)}"
    )
    return [
        warning(f"observation '{facts.key}'", text, "look at these episodes; a camera that drops out hides the task")
    ]


def frozen(facts: CameraFacts) -> list[Finding]:
    """Frames that stay the same, pixel by pixel, while the state moves."""
    if facts.blank == facts.frames:
        return []
    place = f"observation '{facts.key}'"
    moving = [(clip, moves) for clip, moves in zip(facts.clips, moves_of(facts.clips), strict=True)]
    pairs = sum(int(moves.sum()) for _, moves in moving)
    still = sum(int((clip.identical & moves).sum()) for clip, moves in moving)
    runs = [(*longest_run(clip.identical & moves), clip) for clip, moves in moving]
    length, begin, clip = max(runs, key=lambda run: run[0], default=(0, 0, None))
    if length >= FROZEN_RUN and clip is not None:
        text = (
            f"the picture stands still for {length} steps while the state moves, from step {clip.start + begin} of "
            f"episode {clip.episode}; {still / pairs:.0%} of the {pairs} steps that were looked at"
        )
        bad = sorted({clip.episode for run, _, clip in runs if run >= FROZEN_RUN})
        remedy = f"the camera hung, or does not see the robot: look at episodes {listed(bad)} and leave them out"
        return [warning(place, text, remedy)]
    if pairs and still / pairs >= REPEATED_SHARE:
        text = f"{still / pairs:.0%} of the pictures repeat the one before while the state moves"
        remedy = "the camera is slower than the control: ingest with a stride, so that each step has a new picture"
        return [information(place, text, remedy)]
    return []


def undecodable(facts: CameraFacts) -> list[Finding]:
    """Frames that are damaged, though the store is as it was written."""
    if not facts.undecodable:
        return []
    episode, why = next(iter(facts.undecodable.items()))
    text = f"frames of episodes {listed(facts.undecodable)} cannot be decoded; of episode {episode}: {why}"
    return [
        error(f"observation '{facts.key}'", text, "they came damaged: leave these episodes out, or record them again")
    ]


def video_frames(facts: CameraFacts) -> list[Finding]:
    """Frames of the videos against the rows that show them."""
    unused = {name: total - len(used) for name, (total, used) in facts.videos.items() if len(used) < total}
    if not unused:
        return []
    name, frames = max(unused.items(), key=lambda item: item[1])
    text = f"{sum(unused.values())} frames of {len(unused)} videos belong to no row, most in {name} ({frames})"
    remedy = "expected where episodes or steps were left out; else rows and video disagree"
    return [information(f"observation '{facts.key}'", text, remedy)]


def moves_of(clips: list[Clip]) -> list[Array]:
    """Whether the state moves from each row to the next. All False where there is no state. Shapes: each (N - 1,)."""
    speeds = speeds_of(clips)
    moving = np.concatenate(speeds) if speeds else np.empty(0)
    usual = float(np.median(moving[moving > 0])) if (moving > 0).any() else np.inf
    return [speed > MOVING * usual for speed in speeds]


def speeds_of(clips: list[Clip]) -> list[Array]:
    """Distance of the state from each row to the next, each channel over its deviation. Shapes: each (N - 1,)."""
    if not clips or clips[0].states.shape[1] == 0:
        return [np.zeros(len(clip.motion)) for clip in clips]
    deviation = np.concatenate([clip.states for clip in clips]).std(axis=0)
    scale = np.where(deviation > 0, deviation, np.inf)
    return [np.sqrt(np.square(np.diff(clip.states, axis=0) / scale).mean(axis=1)) for clip in clips]


def longest_run(flags: Array) -> tuple[int, int]:
    """Length and start of the longest run of True. Shapes: (N,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    if len(edges) == 0:
        return 0, 0
    starts, stops = edges[::2], edges[1::2]
    longest = int((stops - starts).argmax())
    return int(stops[longest] - starts[longest]), int(starts[longest])


def reduced(frame: Array) -> Array:
    """A grey image of `SIDE` x `SIDE`, by area. Shapes: (H, W, C), uint8 -> (SIDE, SIDE), float32."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.shape[2] == 3 else np.ascontiguousarray(frame[:, :, 0])
    return np.asarray(cv2.resize(grey.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA))


def _starts(length: int, blocks: int) -> list[int]:
    """First rows of up to so many blocks that do not overlap: the beginning, then evenly to the end."""
    fitting = max(1, min(blocks, length // BLOCK))
    return [int(start) for start in np.linspace(0, max(length - BLOCK, 0), fitting)]


def _look(facts: CameraFacts, episode: int, start: int, frames: Array, states: Array) -> None:
    small = np.stack([reduced(frame) for frame in frames])
    blank = small.max(axis=(1, 2)) - small.min(axis=(1, 2)) < BLANK_RANGE
    facts.frames += len(frames)
    facts.blank += int(blank.sum())
    facts.black += int((blank & (small.mean(axis=(1, 2)) < DARK)).sum())
    if blank.any():
        facts.blank_episodes.append(episode)
    motion = np.sqrt(np.square(np.diff(small, axis=0)).mean(axis=(1, 2)))
    identical = np.asarray([np.array_equal(a, b) for a, b in pairwise(frames)], bool)
    facts.clips.append(Clip(episode, start, motion, identical, states))


def _count_video(facts: CameraFacts, rows: Array) -> None:
    frames = lazy(rows)
    if isinstance(frames, VideoFrames):
        _, used = facts.videos.setdefault(frames.index.path.name, (len(frames.index), set()))
        used.update(frames.numbers.tolist())
