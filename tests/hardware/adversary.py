"""Command sequences that try to get a robot past its limits, and what was violated by the positions that were sent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from robot_rl.hardware.kinematics import Chain, rotation_axis, rotation_rpy, transform
from robot_rl.hardware.limiter import Limits
from robot_rl.types import Array

KINDS = 12


@dataclass(frozen=True)
class Command:
    velocity: bool
    target: list[float]


def sequence(
    generator: np.random.Generator,
    limits: Limits,
    period_s: float,
    position: Callable[[], list[float]],
    home: list[float],
    length: int,
) -> Iterator[Command | None]:
    """`length` commands of one random kind; None is a stop. `position()` is the last one sent."""
    low, high = np.clip(limits.low, -10, None), np.clip(limits.high, None, 10)
    velocity, acceleration, jerk = (np.asarray(x) for x in (limits.velocity, limits.acceleration, limits.jerk))
    joints, h = len(low), period_s
    kind = int(generator.integers(KINDS))
    goal = generator.uniform(low, high)
    push = generator.uniform(-1.5, 1.5, joints) * velocity
    sign = np.sign(push)
    last_v, last_a = np.zeros(joints), np.zeros(joints)
    before = np.asarray(position())
    for step in range(length):
        now = np.asarray(position())
        v = (now - before) / h
        last_a, last_v, before = (v - last_v) / h, v, now
        match kind:
            case 0:  # anywhere, far outside too
                yield Command(False, generator.uniform(low - 1, high + 1, joints).tolist())
            case 1:  # a step inside
                yield Command(False, goal.tolist())
            case 2:  # home
                yield Command(False, list(home))
            case 3:  # bang-bang between the ends
                yield Command(False, np.where(sign * (-1) ** step > 0, high, low).tolist())
            case 4:  # full speed one way
                yield Command(True, push.tolist())
            case 5:  # velocities that turn around
                yield Command(True, (push * (-1) ** step).tolist())
            case 6:  # noise as small as what passes
                yield Command(False, (now + generator.normal(0, 1, joints) * jerk * h**3).tolist())
            case 7:  # what just passes, always towards one end
                a = np.clip(last_a + sign * jerk * h * generator.uniform(0.5, 1), -acceleration, acceleration)
                yield Command(False, (now + np.clip(last_v + a * h, -velocity, velocity) * h).tolist())
            case 8:  # what just passes, either way
                a = np.clip(
                    last_a + generator.choice([-1, 0, 1], joints) * jerk * h * (1 - 1e-9), -acceleration, acceleration
                )
                yield Command(False, (now + np.clip(last_v + a * h, -velocity, velocity) * h).tolist())
            case 9:  # no numbers, wrong numbers of joints
                broken = generator.uniform(low, high)
                broken[generator.integers(joints)] = generator.choice([np.nan, np.inf, -np.inf, 1e308, 1e-308])
                yield Command(bool(generator.integers(2)), broken.tolist()[: joints - int(generator.integers(2))])
            case 10:
                yield None
            case _:  # at once everything
                which = generator.integers(3)
                yield None if which == 2 else Command(bool(which), (generator.uniform(-1, 1, joints) * 3).tolist())


def excess(sent: Array, limits: Limits, period_s: float) -> dict[str, float]:
    """By how much the worst of the positions sent exceeds each limit, as a fraction of it. Shapes: (T, J).

    Zero limits are exceeded by any motion at all, and count as infinitely.
    """
    found = {"position": float(max((sent - limits.high).max(), (np.asarray(limits.low) - sent).max()))}
    difference = sent
    for key in ("velocity", "acceleration", "jerk"):
        difference = np.diff(difference, axis=0) / period_s
        worst, limit = np.abs(difference).max(0), np.asarray(getattr(limits, key))
        frozen = np.where(worst > 0, np.inf, -1.0)
        found[key] = float(np.where(limit > 0, worst / np.where(limit > 0, limit, 1) - 1, frozen).max())
    return found


def tool_points(chain: Chain, names: tuple[str, ...], sent: Array) -> Array:
    """The tool, computed once more with matrices, for revolute chains. Shapes: (T, J) -> (T, 3)."""
    pose = np.tile(np.eye(4), (len(sent), 1, 1))
    for link in chain.links:
        q = sent[:, names.index(link.joint)]
        axis = np.asarray(link.axis) / np.linalg.norm(link.axis)
        quarter, outer = rotation_axis(axis, np.pi / 2), np.outer(axis, axis)
        cross, flat = (quarter - quarter.T) / 2, np.eye(3) - outer
        turn = np.tile(np.eye(4), (len(sent), 1, 1))
        turn[:, :3, :3] = outer + np.cos(q)[:, None, None] * flat + np.sin(q)[:, None, None] * cross
        pose = pose @ transform(rotation_rpy(*link.rpy_rad), link.xyz_m) @ turn
    found: Array = (pose @ np.array([*chain.tool_xyz_m, 1.0]))[:, :3]
    return found
