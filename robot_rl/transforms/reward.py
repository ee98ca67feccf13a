"""The reward of a recipe: stored rewards stay raw, everything that trains sees what this makes of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array


@dataclass(frozen=True, kw_only=True)
class RewardTransform:
    """Applied once, where a replay buffer takes rewards in, so Monte-Carlo returns and targets cannot disagree.

    With `observation`, a channel of the observation that follows a step takes the place of its reward: progress that
    the robot measures itself, labelled alike in recorded and in running episodes.
    """

    scale: float = 1.0
    bias: float = 0.0
    observation: str | None = None  # key; None keeps the recorded reward
    index: int = 0  # channel of that observation

    def check(self, spec: Spec) -> None:
        """Refuse an observation or a channel that the spec does not have.

        Raises:
            InputError: names the setting.
        """
        if self.observation is None:
            return
        if self.observation not in spec.observation:
            known = ", ".join(spec.observation)
            raise InputError(f"replay.reward_observation={self.observation} is no observation. Choices: {known}")
        size = int(np.prod(spec.observation[self.observation].shape))
        if not 0 <= self.index < size:
            raise InputError(f"replay.reward_index={self.index}: observation '{self.observation}' has {size} channels")

    def __call__(self, reward: Array, following: Mapping[str, Array]) -> Array:
        """scale * r + bias. Shapes: (T,), each (T, *) -> (T,), float32."""
        if self.observation is not None:
            reward = following[self.observation].reshape(len(reward), -1)[:, self.index]
        transformed: Array = (np.asarray(reward, np.float32) * self.scale + self.bias).astype(np.float32)
        return transformed
