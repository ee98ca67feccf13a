"""The one exit to the robot: every command passes `Safety`, which returns what was sent and why it was changed."""

import math
from collections.abc import Sequence
from operator import mul
from typing import NamedTuple

from robot_rl.errors import InputError
from robot_rl.hardware.description import Robot
from robot_rl.hardware.kinematics import Workspace
from robot_rl.hardware.limiter import LIMIT_NAMES, Limiter, Limits

NOT_FINITE, SHAPE, WORKSPACE, STOPPED, FAST_TOOL = (1 << bit for bit in range(len(LIMIT_NAMES), len(LIMIT_NAMES) + 5))
"""Why the whole arm brakes instead of doing what it was told, as bits beside those of `limiter`."""
ASKED = len(LIMIT_NAMES) + 5
"""From this bit on stand those of `inverse`: why the joints were asked for something else than the tool was."""
REASON_NAMES = (
    *(*LIMIT_NAMES, "NaN or infinity", "wrong number of joints", "workspace", "stop", "tool too fast"),
    *("speed of the tool", "acceleration of the tool", "singular direction", "speed of a joint for the tool"),
)
TOOL_SPEED_SLACK = 1.02  # what is asked for is a velocity at the beginning of a period, and arms turn


def reason_names(reasons: int) -> list[str]:
    """The names of the bits that are set."""
    return [name for bit, name in enumerate(REASON_NAMES) if reasons >> bit & 1]


class Sent(NamedTuple):
    """What left for the robot, and why it is not what was asked for."""

    position: list[float]  # (J,), at the end of the coming control period
    velocity: list[float]  # (J,), with which it gets there
    changes: list[int]  # (J,), bits: the limits that changed each joint
    reasons: int  # bits: all of `changes`, and what made the whole arm brake

    @property
    def unchanged(self) -> bool:
        """The robot is sent what was asked for."""
        return not self.reasons


class Safety:
    """Limits of joints and workspace, one call a control period; the state is that of the last command sent.

    A position or velocity outside the limits is replaced by the nearest that they allow. A command that is no number
    for each joint, or that takes the tool out of its box or to where it could not stop inside it, is answered by
    braking; the stop has then been found safe one period before. So a target outside the box is not approached.
    """

    def __init__(self, limits: Limits, workspace: Workspace | None, period_s: float) -> None:
        """Call `start` before the first command. `workspace` None: the tool may go where the joints allow."""
        self._limiter = Limiter(limits, period_s)
        self._workspace = workspace
        self._joints = len(limits.names)
        self._nothing = [0] * self._joints
        self._judged: list[float] = []
        self._outside = False

    @staticmethod
    def of(robot: Robot, *, speed_scale: float = 1.0) -> "Safety":
        """The limits of a description, at `speed_scale` times the speed."""
        workspace = Workspace(robot.tool_point(), robot.workspace.low_m, robot.workspace.high_m)
        return Safety(robot.limits.scaled(speed_scale), workspace, robot.control_period_s)

    def start(self, position: Sequence[float]) -> None:
        """Begin at rest at `position`. Shapes: (J,).

        Raises:
            InputError: the joints or the tool are outside their limits; names which, and where they are.
        """
        self._limiter.start(position)
        if self._workspace is not None and self._workspace.margin_m(position) < 0:
            at = [round(x, 4) for x in self._workspace.tool(position)]
            raise InputError(f"the tool is at {at} m, outside the workspace: move it inside by hand first")

    @property
    def position(self) -> list[float]:
        """The last position sent. Shapes: (J,)."""
        return list(self._limiter.position)

    @property
    def velocity(self) -> list[float]:
        """With which it gets there. Shapes: (J,)."""
        return list(self._limiter.sent_velocity)

    @property
    def at_rest(self) -> bool:
        """The last command ended all motion."""
        return self._limiter.at_rest

    def send_position(self, target: Sequence[float]) -> Sent:
        """Towards these positions. Shapes: (J,)."""
        return self._send(target, velocity=False)

    def send_velocity(self, target: Sequence[float]) -> Sent:
        """With these velocities. Shapes: (J,)."""
        return self._send(target, velocity=True)

    def send_for_tool(self, target: Sequence[float], speed_m_s: float, asked: int = 0) -> Sent:
        """With these velocities; where limits of the joints would make the tool faster than that, the arm brakes.

        Args:
            target: as `Inverse` found it. Shapes: (J,).
            speed_m_s: of the tool.
            asked: bits of `inverse` that say why the target is not what the tool was told.
        """
        sent = self._send(target, velocity=True, tool_speed_m_s=speed_m_s)
        return sent if not asked else sent._replace(reasons=sent.reasons | asked << ASKED)

    def send_stop(self, reason: int = STOPPED) -> Sent:
        """Brake as hard as the limits allow, and stay."""
        limiter = self._limiter
        limiter.propose_stop()
        limiter.accept()
        return Sent(list(limiter.position), list(limiter.sent_velocity), self._nothing, reason)

    def _send(self, target: Sequence[float], *, velocity: bool, tool_speed_m_s: float = math.inf) -> Sent:
        if len(target) != self._joints:
            return self.send_stop(SHAPE)
        if not math.isfinite(sum(target)) and not all(map(math.isfinite, target)):
            return self.send_stop(NOT_FINITE)
        limiter = self._limiter
        changes = limiter.propose_velocity(target) if velocity else limiter.propose_position(target)
        reasons = 0
        for change in changes:
            reasons |= change
        space = self._workspace
        if space is not None and (
            (reasons and not velocity and self._is_outside(target, space)) or not self._stays_inside(space)
        ):
            return self.send_stop(reasons | WORKSPACE)
        if reasons and space is not None and tool_speed_m_s < math.inf:
            way = math.dist(space.tool(limiter.position), space.tool(limiter.next_position))
            if way > tool_speed_m_s * limiter.period_s * TOOL_SPEED_SLACK:
                return self.send_stop(reasons | FAST_TOOL)
        limiter.accept()
        return Sent(list(limiter.position), list(limiter.sent_velocity), changes, reasons)

    def _is_outside(self, target: Sequence[float], workspace: Workspace) -> bool:
        """The tool would be outside its box at this target; a target that is repeated is not computed again."""
        if target != self._judged:
            self._judged = list(target)
            self._outside = workspace.margin_m(target) < 0
        return self._outside

    def _stays_inside(self, workspace: Workspace) -> bool:
        """The tool stays in its box up to the proposal and in the stop after it."""
        limiter = self._limiter
        margin = workspace.margin_m(limiter.next_position)
        if margin < 0:
            return False
        reach = workspace.tool.reach
        if margin >= sum(map(mul, reach, limiter.next_stop_bound())):
            return True
        path = limiter.next_stop()
        if path is None:
            return False

        def at(time_s: float) -> Sequence[float]:
            position: Sequence[float] = path.at_time(time_s)[0]
            return position

        def detours() -> list[float]:
            ends = zip(path.position_extrema, limiter.next_position, at(path.duration), strict=True)
            return [2 * (extremes.max - extremes.min - abs(b - a)) for extremes, a, b in ends]

        return workspace.contains_path(
            at,
            path.duration,
            limiter.limits.acceleration,
            start=(limiter.next_position, margin),
            detours=detours,
        )
