"""Small real implementations of the contracts, for tests that need no simulator."""

from collections.abc import Mapping

import numpy as np

from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, TimeStep

SPEED_LIMIT_RAD_S = 2.0
PERIOD_S = 0.05
REACH_RAD = SPEED_LIMIT_RAD_S * PERIOD_S  # farthest move in one step
TOLERANCE_RAD = 0.05
PICTURE_PIXELS = 32


class OneJointEnvironment:
    """One joint that follows its speed command exactly and has to reach a target angle.

    The state is (angle, target) in rad, both drawn from [-1, 1]. The reward is minus the distance after the step, so
    the optimum is known: full speed to the target, then stand still (`OneJointExpert`, `optimal_return`). Success is a
    distance of at most 0.05 rad.

    Args:
        maximum_steps: steps of an episode; 20 reach any target.
        terminate_on_success: end the episode with the first successful step.
        success_reward: [reward without success, reward with success] in place of minus the distance.
    """

    def __init__(
        self,
        *,
        maximum_steps: int = 20,
        terminate_on_success: bool = False,
        success_reward: tuple[float, float] | None = None,
    ) -> None:
        self._maximum_steps = maximum_steps
        self._terminate_on_success = terminate_on_success
        self._success_reward = success_reward
        self._angle = self._target = 0.0
        self._steps = 0
        self._running = False
        limit = np.full(1, SPEED_LIMIT_RAD_S)
        self._spec = Spec(
            observation={"state": ArraySpec(shape=(2,), names=("angle", "target"), unit="rad")},
            action=ArraySpec(shape=(1,), low=-limit, high=limit, names=("speed",), unit="rad/s"),
            control_period_s=PERIOD_S,
            action_semantics="joint_velocity",
            metadata={"simulator": "fake", "task": "one_joint"},
        )

    @property
    def spec(self) -> Spec:
        """Shapes, bounds, units; never changes."""
        return self._spec

    @property
    def maximum_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return self._maximum_steps

    def _observe(self) -> dict[str, Array]:
        return {"state": np.array((self._angle, self._target), np.float32)}

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode; angle and target follow from the seed."""
        self._angle, self._target = np.random.default_rng(seed).uniform(-1.0, 1.0, 2).tolist()
        self._steps, self._running = 0, True
        return TimeStep(observation=self._observe())

    def step(self, action: Array) -> TimeStep:
        """Turn for one control period. Shapes: (1,)."""
        if not self._running:
            raise RuntimeError("step without an episode: the last one is over or none has begun; call reset first")
        array = np.asarray(action, np.float64)
        self._spec.action.check(array, "action")
        speed = min(max(float(array[0]), -SPEED_LIMIT_RAD_S), SPEED_LIMIT_RAD_S)
        self._angle += speed * PERIOD_S
        self._steps += 1
        distance = abs(self._angle - self._target)
        success = distance <= TOLERANCE_RAD
        terminated = success and self._terminate_on_success
        truncated = self._steps >= self._maximum_steps
        self._running = not (terminated or truncated)
        return TimeStep(
            observation=self._observe(),
            reward=-distance if self._success_reward is None else self._success_reward[int(success)],
            terminated=terminated,
            truncated=truncated,
            success=success,
            action=np.array((speed,)),
        )

    def render(self) -> Array:
        """The joint as a white line and the target as a red one. Shapes: (32, 32, 3), uint8."""
        picture = np.zeros((PICTURE_PIXELS, PICTURE_PIXELS, 3), np.uint8)
        for angle, colour in ((self._target, (255, 0, 0)), (self._angle, (255, 255, 255))):
            for radius in np.linspace(0.0, PICTURE_PIXELS / 2 - 1, PICTURE_PIXELS):
                row = int(PICTURE_PIXELS / 2 - radius * np.cos(angle))
                column = int(PICTURE_PIXELS / 2 + radius * np.sin(angle))
                picture[row, column] = colour
        return picture

    def close(self) -> None:
        """Nothing to free."""


class OneJointExpert:
    """The optimal policy of `OneJointEnvironment`."""

    def reset(self) -> None:
        """It has no memory."""

    def act(self, observation: Mapping[str, Array]) -> Array:
        """Full speed towards the target, and exactly onto it. Shapes: (2,) -> (1,)."""
        angle, target = observation["state"].astype(np.float64)
        return np.array((np.clip((target - angle) / PERIOD_S, -SPEED_LIMIT_RAD_S, SPEED_LIMIT_RAD_S),))


def optimal_return(distance_rad: float, steps: int) -> float:
    """Return of `OneJointExpert` over `steps` steps from a distance: minus the sum of max(0, distance - k * reach)."""
    return -sum(max(0.0, distance_rad - k * REACH_RAD) for k in range(1, steps + 1))
