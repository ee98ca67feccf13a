"""Several tasks in one scene, told apart by words alone: what a policy that follows instructions has to do.

The scene is robosuite's Lift, a cube on a table. Every task begins alike and sees the same numbers, so that nothing but
the instruction says what is wanted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robot_rl.environment import Environment, Wrapper
from robot_rl.errors import InputError
from robot_rl.sim.experts import STEP_M, LiftExpert
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Policy, TimeStep

HAND, CUBE, INSTRUCTION = "robot0_eef_pos", "object", "instruction"
NEAR_M = 0.02
RAISED_M = 0.04
PUSHED_M = 0.05
ABOVE_M = 0.12
BEHIND_M = 0.06
CLEAR_M = 0.08  # above the cube's middle, on the way behind it
LEFT = 1.0  # along y, as the robot sees it

Facts = Mapping[str, Array]


def hand_of(observation: Facts) -> Array:
    """Shapes: -> (3,), m, in the frame of the robot's base."""
    return observation[HAND].astype(np.float64)


def cube_of(observation: Facts) -> Array:
    """Its middle. Shapes: -> (3,), m."""
    return observation[CUBE][:3].astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class SceneTask:
    """What is asked for, when it is done, and who can do it."""

    text: str
    done: Callable[[Facts, Facts], bool]  # from the first observation of the episode and the one of now
    expert: Callable[[Spec], Policy]


# Experts --------------------------------------------------------------------------------------------------------------


@dataclass
class Follower:
    """Moves the hand to a point that follows from the observation, fingers as said."""

    spec: Spec
    target: Callable[[Facts], Array]  # (3,), m
    grip: float = -1.0  # robosuite closes with +1
    gain: float = 8.0

    def __post_init__(self) -> None:
        if self.spec.action_semantics not in ("osc_pose_delta", "osc_position_delta"):
            raise InputError("the experts of this scene need environment.controller=OSC_POSE or OSC_POSITION")

    def reset(self) -> None:
        """It has no memory."""

    def act(self, observation: Facts) -> Array:
        """One action in the units of the spec. Shapes: each (*) -> (A,)."""
        action = np.zeros(self.spec.action.shape[0])
        action[:3] = np.clip(self.gain * (self.target(observation) - hand_of(observation)) / STEP_M / 2, -1.0, 1.0)
        action[-1] = self.grip
        return action


def pusher(spec: Spec, direction: float) -> Policy:
    """Goes over and down behind the cube, and pushes it along y; begins again where it lost the cube."""

    def target(observation: Facts) -> Array:
        hand, cube = hand_of(observation), cube_of(observation)
        behind = cube - np.array([0.0, direction * BEHIND_M, 0.0])
        aligned = abs(hand[0] - cube[0]) < 0.015
        back = direction * (cube[1] - hand[1]) > 0.02
        low = hand[2] - cube[2] < 0.02
        if aligned and back and low:
            return np.array([cube[0], cube[1] + direction * BEHIND_M, cube[2]])
        over = float(np.linalg.norm(hand[:2] - behind[:2])) < 0.015
        return behind if over else np.array([behind[0], behind[1], cube[2] + CLEAR_M])

    return Follower(spec, target, grip=1.0)


def _above(observation: Facts) -> Array:
    point: Array = cube_of(observation) + np.array([0.0, 0.0, ABOVE_M])
    return point


def _pushed(first: Facts, now: Facts, direction: float) -> bool:
    moved = cube_of(now) - cube_of(first)
    return bool(direction * moved[1] > PUSHED_M and abs(moved[2]) < NEAR_M)


TASKS = (
    SceneTask(
        text="lift the cube",
        done=lambda first, now: bool(cube_of(now)[2] - cube_of(first)[2] > RAISED_M),
        expert=LiftExpert,
    ),
    SceneTask(
        text="touch the cube",
        done=lambda first, now: bool(np.linalg.norm(hand_of(now) - cube_of(now)) < NEAR_M),
        expert=lambda spec: Follower(spec, cube_of),
    ),
    SceneTask(
        text="hold the hand above the cube",
        done=lambda first, now: bool(np.linalg.norm(hand_of(now) - _above(now)) < NEAR_M),
        expert=lambda spec: Follower(spec, _above),
    ),
    SceneTask(
        text="push the cube to the left",
        done=lambda first, now: _pushed(first, now, LEFT),
        expert=lambda spec: pusher(spec, LEFT),
    ),
    SceneTask(
        text="push the cube to the right",
        done=lambda first, now: _pushed(first, now, -LEFT),
        expert=lambda spec: pusher(spec, -LEFT),
    ),
)


# The environment ------------------------------------------------------------------------------------------------------


class InstructedEnvironment(Wrapper):
    """An environment whose episodes are of one of several tasks; the reward is -1 until it is done, then 0.

    Shapes: `instruction` (D,).

    Args:
        inner: the scene; closed with this. It must not end by itself where its own task is done.
        tasks: of the scene.
        vector: from an instruction to numbers, all of one size.
    """

    def __init__(self, inner: Environment, tasks: Sequence[SceneTask], vector: Callable[[str], Array]) -> None:
        missing = [key for key in (HAND, CUBE) if key not in inner.spec.observation]
        if missing:
            raise InputError(f"the tasks of this scene need the observations {missing}: name them, or none at all")
        self.tasks = tasks
        self.number = 0  # of the task
        self._vectors = [np.asarray(vector(task.text), np.float32) for task in tasks]
        self._first: Facts | None = None
        shown = ArraySpec(shape=self._vectors[0].shape)
        metadata = {**inner.spec.metadata, "instructions": [task.text for task in tasks]}
        observation = {**inner.spec.observation, INSTRUCTION: shown}
        super().__init__(inner, replace(inner.spec, observation=observation, metadata=metadata))

    @property
    def task(self) -> SceneTask:
        """Of this episode."""
        return self.tasks[self.number]

    def assign(self, number: int) -> None:
        """The next episodes are of this task."""
        if not 0 <= number < len(self.tasks):
            raise InputError(f"task {number}: there are {len(self.tasks)}")
        self.number, self._first = number, None

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode of the task; the scene follows from the seed alone."""
        step = self._inner.reset(seed=seed)
        self._first = step.observation
        return self._show(replace(step, success=False))

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""
        if self._first is None:
            raise RuntimeError("step without an episode: call reset first")
        step = self._inner.step(action)
        success = self.task.done(self._first, step.observation)
        if success or step.last:
            self._first = None
        return self._show(
            replace(
                step,
                reward=0.0 if success else -1.0,
                success=success,
                terminated=success,
                truncated=step.truncated and not success,
            )
        )

    def _show(self, step: TimeStep) -> TimeStep:
        return replace(step, observation={**step.observation, INSTRUCTION: self._vectors[self.number].copy()})
