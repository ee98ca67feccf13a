"""Scripted experts: closed-loop policies that generate demonstrations.

They see what a learned policy sees, the observation, and nothing else of the simulator. Their success over 50 seeds,
with the command that measured it, is in docs/environments.md.
"""

from collections.abc import Mapping

import numpy as np

from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Policy

STEP_M = 0.05
"""Displacement that a Cartesian action of 1 asks for, in robosuite's OSC controllers and in Fetch."""


def need_keys(spec: Spec, keys: tuple[str, ...], expert: str) -> None:
    """Refuse an environment whose observation lacks what an expert looks at.

    Raises:
        InputError: names the missing keys.
    """
    missing = [key for key in keys if key not in spec.observation]
    if missing:
        raise InputError(f"the {expert} expert needs the observations {missing}: leave environment.observation unset")


class NoisyPolicy:
    """Gaussian noise on the normalised actions of a policy, for demonstrations that differ.

    Args:
        policy: chooses the actions.
        action: bounds of the action.
        deviation: of the noise, in half ranges of the action.
        generator: the only source of randomness.
    """

    def __init__(self, policy: Policy, action: ArraySpec, deviation: float, generator: np.random.Generator) -> None:
        if action.low is None or action.high is None:
            raise InputError("noise on actions needs bounds in the action spec")
        self._policy, self._deviation, self._generator = policy, deviation, generator
        self._low, self._high = action.low, action.high

    def reset(self) -> None:
        """Forget the episode so far."""
        self._policy.reset()

    def act(self, observation: Mapping[str, Array]) -> Array:
        """One action in the units of the spec. Shapes: each (*) -> (A,)."""
        noise = self._generator.normal(0.0, self._deviation, self._low.shape) * 0.5 * (self._high - self._low)
        return np.asarray(np.clip(self._policy.act(observation) + noise, self._low, self._high))


class LiftExpert:
    """Lifts the cube of robosuite's Lift: hover, descend, close, lift.

    Works with the position part of OSC_POSE (rotation stays 0) and with OSC_POSITION; the open gripper is wider than
    the cube's diagonal, so the cube turns into the fingers as they close. A cube that slips is approached again.
    """

    hover_m = 0.06
    aligned_m = 0.012  # horizontal error at which the descent begins
    depth_m = 0.008  # vertical error at which the fingers close
    grasp_steps = 5
    gain = 8.0

    def __init__(self, spec: Spec) -> None:
        need_keys(spec, ("robot0_eef_pos", "object"), "Lift")
        if spec.action_semantics not in ("osc_pose_delta", "osc_position_delta"):
            raise InputError("the Lift expert needs environment.controller=OSC_POSE or OSC_POSITION")
        self._size = spec.action.shape[0]
        self._closing = 0

    @property
    def carries(self) -> bool:
        """The fingers have closed about the cube."""
        return self._closing > self.grasp_steps

    def reset(self) -> None:
        """Forget the episode so far."""
        self._closing = 0

    def act(self, observation: Mapping[str, Array]) -> Array:
        """One action in the units of the spec. Shapes: each (*) -> (A,)."""
        hand = observation["robot0_eef_pos"].astype(np.float64)
        cube = observation["object"][:3].astype(np.float64)
        error = cube - hand
        distance = float(np.linalg.norm(error[:2]))
        if self._closing > 0 and (distance > 3 * self.aligned_m or abs(error[2]) > 4 * self.depth_m):
            self._closing = 0  # it slipped out
        if self._closing > 0:
            self._closing += 1
            target = hand + np.array([0.0, 0.0, STEP_M if self._closing > self.grasp_steps else 0.0])
        elif distance > self.aligned_m and error[2] < -2 * self.depth_m:
            target = cube + np.array([0.0, 0.0, self.hover_m])
        elif distance > 2 * self.aligned_m:
            target = hand + np.array([0.0, 0.0, self.hover_m])  # beside the cube: up, before moving over it
        elif abs(error[2]) > self.depth_m:
            target = cube
        else:
            self._closing = 1
            target = cube
        action = np.zeros(self._size)
        action[:3] = np.clip(self.gain * (target - hand) / STEP_M / 2, -1.0, 1.0)
        action[-1] = 1.0 if self._closing > 0 else -1.0  # robosuite closes with +1
        return action


class StackExpert:
    """Puts the small cube of robosuite's Stack on the large one: lift as in Lift, carry over, lower, let go, rise.

    As `LiftExpert` for controllers and spec. A cube that slips out on the way is grasped again.
    """

    clear_m = 0.10  # of the small cube's middle above the large one's, on the way
    over_m = 0.012  # horizontal error at which it is lowered
    resting_m = 0.047  # between the middles of cubes of 4 and 5 cm that lie on one another, and a little
    gain = 8.0

    def __init__(self, spec: Spec) -> None:
        self._lift = LiftExpert(spec)
        self._size = spec.action.shape[0]
        self._released = 0

    def reset(self) -> None:
        """Forget the episode so far."""
        self._lift.reset()
        self._released = 0

    def act(self, observation: Mapping[str, Array]) -> Array:
        """One action in the units of the spec. Shapes: each (*) -> (A,)."""
        state = observation["object"].astype(np.float64)
        small, large = state[:3], state[7:10]
        over = large - small
        if self._released > 0:
            self._released += 1
            rise = np.array([0.0, 0.0, STEP_M if self._released > 3 else 0.0])
            return self._towards(rise, closed=False)
        action = self._lift.act(observation)
        if not self._lift.carries:
            return action
        distance = float(np.linalg.norm(over[:2]))
        if distance < self.over_m and -over[2] < self.resting_m:
            self._released = 1
            return self._towards(np.zeros(3), closed=False)
        height = over[2] + (self.clear_m if distance > self.over_m else self.resting_m - 0.005)
        # Up before it goes over, so that it does not push the large cube away.
        sideways = over[:2] if -over[2] > self.clear_m / 2 else np.zeros(2)
        return self._towards(np.array([*sideways, height]), closed=True)

    def _towards(self, movement: Array, *, closed: bool) -> Array:
        action = np.zeros(self._size)
        action[:3] = np.clip(self.gain * movement / STEP_M / 2, -1.0, 1.0)
        action[-1] = 1.0 if closed else -1.0
        return action


class FetchPickAndPlaceExpert:
    """Carries the block of FetchPickAndPlace to its goal: hover, descend, close, carry, hold."""

    hover_m = 0.08
    aligned_m = 0.02  # horizontal error at which the descent begins
    depth_m = 0.015  # vertical error at which the fingers close
    slipped_m = 0.05
    grasp_steps = 4
    gain = 10.0

    def __init__(self, spec: Spec) -> None:
        need_keys(spec, ("observation", "desired_goal"), "FetchPickAndPlace")
        self._closing = 0

    def reset(self) -> None:
        """Forget the episode so far."""
        self._closing = 0

    def act(self, observation: Mapping[str, Array]) -> Array:
        """One action in the units of the spec. Shapes: each (*) -> (A,)."""
        state = observation["observation"].astype(np.float64)
        hand, block = state[:3], state[3:6]
        error = block - hand
        distance = float(np.linalg.norm(error[:2]))
        if self._closing > 0 and float(np.linalg.norm(error)) > self.slipped_m:
            self._closing = 0  # it slipped out
        if self._closing > 0:
            self._closing += 1
            carry = observation["desired_goal"].astype(np.float64) - block
            target = hand + (carry if self._closing > self.grasp_steps else 0.0)
        elif distance > self.aligned_m:
            target = block + np.array([0.0, 0.0, self.hover_m])
        elif abs(error[2]) > self.depth_m:
            target = block
        else:
            self._closing = 1
            target = block
        movement = np.clip(self.gain * (target - hand), -1.0, 1.0)
        return np.array([*movement, -1.0 if self._closing > 0 else 1.0])  # Fetch closes with -1
