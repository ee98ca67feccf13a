"""The last frames of an episode, as a policy from stacked frames sees them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from robot_rl.types import Array


@dataclass(kw_only=True)
class FrameHistory:
    """Keeps the last K frames of each image of a running episode.

    Args:
        keys: of the images.
        count: K; 1 keeps nothing.
    """

    keys: tuple[str, ...]
    count: int = 1
    _frames: dict[str, list[Array]] = field(init=False, default_factory=dict)  # the newest last
    _newest: Mapping[str, Array] | None = field(init=False, default=None)

    def reset(self) -> None:
        """A new episode begins."""
        self._frames, self._newest = {}, None

    def see(self, observation: Mapping[str, Array]) -> None:
        """The observation of this step, once."""
        if self.count == 1 or observation is self._newest:
            return
        self._newest = observation
        for key in self.keys:
            self._frames[key] = [*self._frames.get(key, []), np.array(observation[key])][-self.count :]

    def stacked(self, observation: Mapping[str, Array]) -> Mapping[str, Array]:
        """The observation with K frames of each image, the first repeated where the episode has just begun.

        One that was not seen yet counts as the newest, and is not kept. Shapes: images (H, W, C) -> (K, H, W, C).
        """
        if self.count == 1:
            return observation
        shown = dict(observation)
        for key in self.keys:
            frames = self._frames.get(key, [])
            frames = frames if observation is self._newest else [*frames, observation[key]]
            frames = frames[-self.count :]
            shown[key] = np.stack([*[frames[0]] * (self.count - len(frames)), *frames])
        return shown
