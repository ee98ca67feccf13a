"""What every simulator adapter does the same way: count steps, end the episode, declare success."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec
from robot_rl.types import Array, TimeStep


@dataclass(kw_only=True)
class EpisodeRules:
    """When an episode ends and what its rewards are; the same for every simulator.

    The time limit is counted here, never by the simulator, so that a success on the last step is still a termination.
    """

    maximum_steps: int
    terminate_on_success: bool = False
    success_reward: Sequence[float] | None = None  # [reward without success, reward with success]
    steps: int = 0
    running: bool = False

    def __post_init__(self) -> None:
        if self.maximum_steps < 1:
            raise InputError(f"environment maximum_steps={self.maximum_steps} must be at least 1")
        if self.success_reward is not None and len(self.success_reward) != 2:
            raise InputError(
                f"environment success_reward={list(self.success_reward)} needs two numbers: "
                "[reward without success, reward with success]"
            )

    def need_declared_success(self, place: str) -> None:
        """Refuse settings that speak of success in an environment that declares none.

        Raises:
            InputError: names `place`.
        """
        if self.terminate_on_success or self.success_reward is not None:
            raise InputError(
                f"{place} declares no success, so terminate_on_success and success_reward have nothing to go by: "
                "name where success is declared, or remove them"
            )

    def begin(self, observation: Mapping[str, Array]) -> TimeStep:
        """The first time step of an episode."""
        self.steps = 0
        self.running = True
        return TimeStep(observation=dict(observation))

    def need_running(self) -> None:
        """Refuse a step before a reset or after the last step.

        Raises:
            RuntimeError: the caller has to reset first.
        """
        if not self.running:
            raise RuntimeError("step without an episode: the last one is over or none has begun; call reset first")

    def finish_step(
        self,
        *,
        observation: Mapping[str, Array],
        reward: float,
        terminated: bool,
        truncated: bool,
        success: bool | None,
        action: Array,
    ) -> TimeStep:
        """The time step after an action, by the rules of this episode."""
        self.steps += 1
        if success is not None:
            if self.success_reward is not None:
                reward = self.success_reward[int(success)]
            terminated = terminated or (self.terminate_on_success and success)
        truncated = truncated or self.steps >= self.maximum_steps
        self.running = not (terminated or truncated)
        return TimeStep(
            observation=dict(observation),
            reward=float(reward),
            terminated=bool(terminated),
            truncated=bool(truncated),
            success=success,
            action=action,
        )


def clip_action(action: Array, spec: ArraySpec) -> Array:
    """The action that is applied: a float64 copy inside the bounds. Shapes: (A,) -> (A,).

    Raises:
        InputError: a wrong shape, or a value that is not a number.
    """
    applied = np.array(action, np.float64)
    spec.check(applied, "action")
    return np.clip(applied, spec.low, spec.high)


def float32(array: Array) -> Array:
    """A float32 copy that the caller owns; a scalar becomes one channel."""
    return np.array(array, np.float32).reshape(np.shape(array) if np.ndim(array) else (1,))


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package, for the metadata of a spec; a task of one's own may have none."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package.replace("_", "-"))
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
