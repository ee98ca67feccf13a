"""Actions between the units of a spec and the [-1, 1] that algorithms see."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec
from robot_rl.types import Array

EDGE = 1.0 - 1e-5
"""Largest magnitude of a normalised data action: tanh reaches 1 nowhere, so its log-probability there is infinite."""


@dataclass(frozen=True, eq=False)
class ActionScale:
    """The affine map between [low, high] and [-1, 1], and back."""

    low: Array  # (A,)
    high: Array  # (A,)

    @staticmethod
    def from_spec(action: ArraySpec) -> "ActionScale":
        """The map of an action spec.

        Raises:
            InputError: the spec has no finite bounds, or a dimension has no width.
        """
        if action.low is None or action.high is None:
            raise InputError("the action spec has no bounds: declare low and high, or a policy cannot be scaled to it")
        low, high = np.asarray(action.low, np.float64), np.asarray(action.high, np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (high > low).all()):
            raise InputError(f"action bounds must be finite with low < high, got low={low} high={high}")
        return ActionScale(low, high)

    def normalize(self, action: Array) -> Array:
        """Units to [-1, 1], float32, clipped to +-EDGE. Shapes: (*, A) -> (*, A)."""
        scaled = 2.0 * (np.asarray(action, np.float64) - self.low) / (self.high - self.low) - 1.0
        clipped: Array = np.clip(scaled, -EDGE, EDGE).astype(np.float32)
        return clipped

    def unnormalize(self, action: Array | Tensor) -> Array:
        """[-1, 1] to units, float64. Shapes: (*, A) -> (*, A)."""
        array = action.detach().cpu().numpy() if isinstance(action, torch.Tensor) else action
        scaled = self.low + (np.clip(np.asarray(array, np.float64), -1.0, 1.0) + 1.0) * 0.5 * (self.high - self.low)
        return np.asarray(scaled)
