"""Shapes, bounds, units and frames of observations and actions, checked where data enters."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from robot_rl.errors import InputError
from robot_rl.types import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySpec:
    """One array: its shape without batch or time, and what its numbers mean."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: Array | None = None  # (*shape), inclusive; None is unbounded
    high: Array | None = None  # (*shape), inclusive
    names: tuple[str, ...] | None = None  # one per channel of the last axis
    unit: str | None = None  # SI, or "1" for a pure number; None is not declared
    frame: str | None = None

    @property
    def is_image(self) -> bool:
        """Rows are images: (H, W, 3) RGB or (H, W, 1), uint8."""
        return self.dtype == "uint8" and len(self.shape) == 3 and self.shape[2] in (1, 3) and min(self.shape) > 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` undoes it."""
        return {
            "shape": list(self.shape),
            "dtype": self.dtype,
            "low": None if self.low is None else np.asarray(self.low, np.float64).tolist(),
            "high": None if self.high is None else np.asarray(self.high, np.float64).tolist(),
            "names": None if self.names is None else list(self.names),
            "unit": self.unit,
            "frame": self.frame,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "ArraySpec":
        """Undo `to_json`."""
        return ArraySpec(
            shape=tuple(data["shape"]),
            dtype=data["dtype"],
            low=None if data["low"] is None else np.asarray(data["low"], np.float64),
            high=None if data["high"] is None else np.asarray(data["high"], np.float64),
            names=None if data["names"] is None else tuple(data["names"]),
            unit=data["unit"],
            frame=data["frame"],
        )

    def check(self, array: Array, name: str) -> None:
        """Refuse a wrong shape or a value that is not a number.

        Raises:
            InputError: names the array, what was found and what was wanted.
        """
        if tuple(array.shape) != self.shape:
            raise InputError(f"{name} has shape {tuple(array.shape)}, expected {self.shape}")
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise InputError(f"{name} holds NaN or infinity at {np.argwhere(~np.isfinite(array))[0].tolist()}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Spec:
    """What an environment, a store or a policy sees and does.

    The keys of `observation` are fixed and their order is the order in which networks concatenate them.
    """

    observation: dict[str, ArraySpec]
    action: ArraySpec
    control_period_s: float | None = None  # None where a data set does not say
    action_semantics: str | None = None  # such as "joint_position_target", "osc_pose_delta"; None is not declared
    metadata: dict[str, Any] = field(default_factory=dict)
    action_chunk: int = 1  # H: `action` is that many actions one behind the other, as an agent of chunks decides them

    def chunked(self, steps: int) -> "Spec":
        """The same with actions of `steps` steps: (A,) becomes (steps * A,); 1 changes nothing."""
        if steps == 1:
            return self
        if self.action_chunk != 1:
            raise ValueError("the actions are chunks already")
        action = self.action
        names = None if action.names is None else tuple(f"{n}[{h}]" for h in range(steps) for n in action.names)
        low, high = (None if bound is None else np.tile(bound, steps) for bound in (action.low, action.high))
        chunk = replace(action, shape=(steps * action.shape[0],), low=low, high=high, names=names)
        return replace(self, action=chunk, action_chunk=steps)

    def stacked(self, frames: int) -> "Spec":
        """The same with the last K frames of each image: (H, W, C) becomes (K, H, W, C); 1 changes nothing."""
        if frames == 1:
            return self
        shown = {
            key: replace(array, shape=(frames, *array.shape)) if array.is_image else array
            for key, array in self.observation.items()
        }
        return replace(self, observation=shown)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` undoes it."""
        data = {
            "observation": {key: spec.to_json() for key, spec in self.observation.items()},
            "action": self.action.to_json(),
            "control_period_s": self.control_period_s,
            "action_semantics": self.action_semantics,
            "metadata": self.metadata,
        }
        return data if self.action_chunk == 1 else {**data, "action_chunk": self.action_chunk}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Spec":
        """Undo `to_json`."""
        return Spec(
            observation={key: ArraySpec.from_json(value) for key, value in data["observation"].items()},
            action=ArraySpec.from_json(data["action"]),
            control_period_s=data["control_period_s"],
            action_semantics=data["action_semantics"],
            metadata=dict(data["metadata"]),
            action_chunk=data.get("action_chunk", 1),
        )

    def check_observation(self, observation: Mapping[str, Array], place: str) -> None:
        """Refuse missing or unknown keys, wrong shapes, and values that are not numbers.

        Raises:
            InputError: names `place` and the key.
        """
        if set(observation) != set(self.observation):
            missing, unknown = set(self.observation) - set(observation), set(observation) - set(self.observation)
            raise InputError(f"{place}: observation keys differ: missing {sorted(missing)}, unknown {sorted(unknown)}")
        for key, spec in self.observation.items():
            spec.check(observation[key], f"{place}: observation '{key}'")
