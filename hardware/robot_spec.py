"""What a policy sees of a robot and does with it, as a `Spec`."""

import numpy as np

from robot_rl.errors import InputError
from robot_rl.hardware.description import Robot
from robot_rl.hardware.inverse import TWIST_NAMES
from robot_rl.hardware.observations import Part
from robot_rl.spec import ArraySpec, Spec

SEMANTICS = {
    "velocity": "joint_velocity",
    "delta": "joint_position_delta",
    "position": "joint_position_target",
    "twist": "tool_twist_target",
}
"""Of the kinds of action."""


def make_spec(robot: Robot, parts: dict[str, Part], action: str, speed_scale: float, mode: str) -> Spec:
    """The spec of an environment.

    Args:
        robot: the description.
        parts: of the observation.
        action: what an action is, a key of `SEMANTICS`.
        speed_scale: bounds of `velocity` and `delta`, as a share of the joints' largest velocities, and of `twist`, as
            one of the tool's.
        mode: `realtime` or `lockstep`, for the metadata.

    Raises:
        InputError: a joint that cannot move, so that its action has no bounds; or a description that takes no twists.
    """
    names, unit = robot.names, robot.joint_states.unit
    low, high = (np.array([getattr(joint, side) for joint in robot.joints]) for side in ("low", "high"))
    if action == "twist":
        if robot.cartesian is None:
            raise InputError(
                f"environment.action=twist: {robot.file} has no limits for the tool: write its section `cartesian`"
            )
        names, unit = TWIST_NAMES, "m/s, rad/s"
        high = speed_scale * np.repeat([robot.cartesian.speed_m_s, robot.cartesian.turn_rad_s], 3)
        low = -high
    elif action != "position":
        reach = speed_scale * np.array([joint.velocity for joint in robot.joints])
        reach = reach / robot.controller_rate_hz if action == "delta" else reach
        low, high = -reach, reach
        unit = {"rad": "rad/s", "m": "m/s"}.get(unit, unit) if action == "velocity" else unit
    if not (low < high).all():
        joint = robot.names[int(np.argmin(high - low))]
        raise InputError(f"{robot.file}: joint '{joint}' cannot move, so it has no bounds for an action")
    return Spec(
        observation={key: part.spec for key, part in parts.items()},
        action=ArraySpec(shape=low.shape, low=low, high=high, names=names, unit=unit),
        control_period_s=1 / robot.controller_rate_hz,
        action_semantics=SEMANTICS[action],
        metadata={"robot": robot.name, "simulator": "ros2", "mode": mode},
    )
