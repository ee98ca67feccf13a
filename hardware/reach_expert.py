"""A scripted policy for the task of the simulated arm: the tool goes straight to the target."""

from collections.abc import Mapping

import numpy as np

from robot_rl.errors import InputError
from robot_rl.hardware.description import Robot
from robot_rl.spec import Spec
from robot_rl.types import Array

GAIN_PER_S = 3.0  # speed of the tool, by its distance from the target
STEP_RAD = 1e-5  # of the difference quotient


class ReachExpert:
    """Velocities of the joints by the pseudo-inverse of the tool's Jacobian, scaled down together at their bounds."""

    def __init__(self, robot: Robot, spec: Spec) -> None:
        """Sees the joints and the target.

        Raises:
            InputError: it does not, or actions are no velocities.
        """
        needed = {"joint_position", "target"}
        if not needed <= set(spec.observation) or spec.action_semantics != "joint_velocity":
            raise InputError(
                f"the scripted policy that reaches for the target needs the observations {sorted(needed)} and "
                "environment.action=velocity"
            )
        self._tool, self._high = robot.tool_point(), np.asarray(spec.action.high)

    def reset(self) -> None:
        """It remembers nothing."""

    def act(self, observation: Mapping[str, Array]) -> Array:
        """One action in the units of the spec. Shapes: each (*) -> (J,)."""
        joints = observation["joint_position"].astype(np.float64)
        tool = np.array(self._tool(joints.tolist()))
        moved = np.array([self._tool((joints + step).tolist()) for step in STEP_RAD * np.eye(len(joints))])
        jacobian = (moved - tool).T / STEP_RAD  # (3, J)
        velocity = np.linalg.pinv(jacobian) @ (GAIN_PER_S * (observation["target"] - tool))
        scaled: Array = velocity / max(1.0, float(np.abs(velocity / self._high).max()))
        return scaled
