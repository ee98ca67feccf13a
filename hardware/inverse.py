"""From the motion of the tool to that of the joints: what a person or a policy asks of the tool, one period at a time.

The joints' velocities are the least squares solution of J q' = v with J the Jacobian of the tool, by its singular
values: a direction whose singular value s lies below `damping` d is answered by s / d^2 instead of 1 / s, so it fades
out where the arm cannot go that way, and everything else is exact (damped least squares with d^2 - s^2 for each
direction; Nakamura and Hanafusa, "Inverse Kinematic Solutions With Singularity Robustness", 1986, damp all directions
alike). What comes out is a command for the joints as any other: it passes the limits of `safety.py`.

Nothing is remembered: each period begins at what was sent last, so a joint that was limited, or a stop, leaves nothing
behind that would have to be undone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robot_rl.hardware.kinematics import Array, ToolFrame, way_to

TWIST_NAMES = ("vx", "vy", "vz", "wx", "wy", "wz")
"""Velocity of the tool's point in m/s, then of its turning in rad/s, both along the axes of the base frame."""
POSE_NAMES = ("x", "y", "z", "qw", "qx", "qy", "qz")
"""The tool in the base frame: m, then a quaternion."""

TOOL_SPEED, TOOL_ACCELERATION, SINGULAR, JOINT_SPEED = (1 << bit for bit in range(4))
"""Why the tool does not do what it was told, as bits."""
EXACT = 1e-9  # of what was asked, that rounding may change


@dataclass(frozen=True, slots=True, kw_only=True)
class Cartesian:
    """Limits of what is asked of the tool."""

    speed_m_s: float
    acceleration_m_s2: float
    turn_rad_s: float
    turn_acceleration_rad_s2: float
    damping: float  # singular value of the Jacobian, in m and rad, below which a direction fades out
    first_command_m: float  # how far from where the tool is the first pose may be
    first_command_rad: float


class Inverse:
    """What the joints have to do so that the tool does what it is told."""

    def __init__(self, frame: ToolFrame, limits: Cartesian, velocity: Sequence[float], period_s: float) -> None:
        """Of an arm.

        Args:
            frame: of the tool.
            limits: of what is asked of it.
            velocity: largest of each joint. Shapes: (J,).
            period_s: of control.
        """
        self._frame, self._limits, self._period_s = frame, limits, period_s
        self._velocity = np.asarray(velocity, np.float64)

    def twist(
        self, wanted: Sequence[float], position: Sequence[float], velocity: Sequence[float]
    ) -> tuple[list[float], int]:
        """Velocities of the joints for a twist of the tool.

        Args:
            wanted: TWIST_NAMES. Shapes: (6,).
            position: of the joints, as last sent. Shapes: (J,).
            velocity: of the joints, as last sent. Shapes: (J,).

        Returns:
            Shapes: (J,); and bits that say why the tool does something else, 0 where it does that.
        """
        _, _, jacobian = self._frame(position)
        return self._solve(np.asarray(wanted, np.float64), jacobian, velocity)

    def pose(
        self, wanted: Sequence[float], position: Sequence[float], velocity: Sequence[float]
    ) -> tuple[list[float], int]:
        """Velocities of the joints that bring the tool to a pose, POSE_NAMES, and to rest there; as `twist`."""
        point, turned, jacobian = self._frame(position)
        limits, h = self._limits, self._period_s
        way, turn = way_to(wanted, point, turned)
        speed = _approach(float(np.linalg.norm(way)), limits.acceleration_m_s2, limits.speed_m_s, h)
        rate = _approach(float(np.linalg.norm(turn)), limits.turn_acceleration_rad_s2, limits.turn_rad_s, h)
        found, reasons = self._solve(np.concatenate([way * speed, turn * rate]), jacobian, velocity)
        slower = speed * h < 1 - EXACT or rate * h < 1 - EXACT
        return found, reasons | (TOOL_SPEED if slower else 0)

    def away(self, wanted: Sequence[float], position: Sequence[float]) -> tuple[float, float]:
        """How far a pose is from where the tool is, in m and rad."""
        point, turned, _ = self._frame(position)
        way, turn = way_to(wanted, point, turned)
        return float(np.linalg.norm(way)), float(np.linalg.norm(turn))

    def _solve(self, wanted: Array, jacobian: Array, velocity: Sequence[float]) -> tuple[list[float], int]:
        limits, h = self._limits, self._period_s
        now = jacobian @ np.asarray(velocity, np.float64)
        reasons, asked = 0, wanted.copy()
        for part, speed, acceleration in (
            (slice(0, 3), limits.speed_m_s, limits.acceleration_m_s2),
            (slice(3, 6), limits.turn_rad_s, limits.turn_acceleration_rad_s2),
        ):
            reasons |= TOOL_SPEED * _shorten(asked[part], speed)
            change = asked[part] - now[part]
            if _shorten(change, acceleration * h):
                asked[part] = now[part] + change
                reasons |= TOOL_ACCELERATION
        left, values, right = np.linalg.svd(jacobian, full_matrices=False)
        damped = values < limits.damping
        gains = np.where(damped, values / limits.damping**2, 1 / np.maximum(values, limits.damping))
        along = left.T @ asked
        found = right.T @ (gains * along)
        missed = asked - jacobian @ found
        if np.linalg.norm(missed) > EXACT * (1 + np.linalg.norm(asked)):
            reasons |= SINGULAR
        faster = float(np.max(np.abs(found) / np.maximum(self._velocity, 1e-12), initial=0.0))
        if faster > 1:
            found = found / faster  # the same way, slower
            reasons |= JOINT_SPEED
        solved: list[float] = found.tolist()
        return solved, reasons


def _shorten(vector: Array, length: float) -> bool:
    """Scale the vector, in place, to that length where it is longer; whether it was."""
    found = float(np.linalg.norm(vector))
    if found <= length * (1 + EXACT):
        return False
    vector *= length / found
    return True


def _approach(distance: float, acceleration: float, speed: float, period_s: float) -> float:
    """The share of a distance that is gone in a second: there in a period, or as fast as can still be braked."""
    if distance == 0:
        return 1 / period_s
    return min(1 / period_s, math.sqrt(acceleration * distance) / distance, speed / distance)
