"""Where the tool is: forward kinematics of a serial chain, and a box that it must not leave.

A chain is written as in URDF: for each joint the fixed transform from the frame of the joint before (x, y, z, then
roll, pitch, yaw about fixed axes), and the axis about which, or along which, the joint moves.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, sin
from operator import mul, sub

import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import InputError

Array = NDArray[np.float64]  # not that of robot_rl.types, which would bring torch into the governor's process

EVALUATIONS = 2
"""Poses between its ends looked at to certify a stop; where they do not suffice, the motion is refused. More
of them cost time near a face, and hardly let an arm reach more (docs/results.md)."""

ROUNDING_M = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A joint and the fixed transform before it."""

    joint: str
    prismatic: bool
    xyz_m: tuple[float, float, float]
    rpy_rad: tuple[float, float, float]
    axis: tuple[float, float, float]  # need not have length one


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Links from the base outwards, then the tool in the frame of the last one."""

    links: tuple[Link, ...]
    tool_xyz_m: tuple[float, float, float]
    tool_rpy_rad: tuple[float, float, float]


def rotation_rpy(roll: float, pitch: float, yaw: float) -> Array:
    """Rz(yaw) Ry(pitch) Rx(roll), which is URDF's. Shapes: -> (3, 3)."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(x), math.sin(x)) for x in (roll, pitch, yaw))
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def rotation_axis(axis: Array, angle_rad: float) -> Array:
    """Rotation about a unit axis (Rodrigues). Shapes: (3,) -> (3, 3)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation: Array = np.eye(3) + math.sin(angle_rad) * cross + (1 - math.cos(angle_rad)) * cross @ cross
    return rotation


def transform(rotation: Array, translation: Sequence[float] | Array) -> Array:
    """Homogeneous. Shapes: (3, 3), (3,) -> (4, 4)."""
    found = np.eye(4)
    found[:3, :3] = rotation
    found[:3, 3] = translation
    return found


def frames(chain: Chain, position: Sequence[float]) -> Array:
    """Every joint's frame, then the tool's, in the base frame. Shapes: (L,) -> (L + 1, 4, 4), L the links."""
    found = []
    pose = np.eye(4)
    for link, q in zip(chain.links, position, strict=True):
        axis = np.asarray(link.axis) / np.linalg.norm(link.axis)
        moved = transform(np.eye(3), axis * q) if link.prismatic else transform(rotation_axis(axis, q), np.zeros(3))
        pose = pose @ transform(rotation_rpy(*link.rpy_rad), link.xyz_m) @ moved
        found.append(pose)
    found.append(pose @ transform(rotation_rpy(*chain.tool_rpy_rad), chain.tool_xyz_m))
    return np.stack(found)


class ToolPoint:
    """The position of the tool alone, as quickly as plain Python can: about a quarter of a microsecond a joint.

    The fixed rotation before a joint is one about z, one about x, and one about z. Those about z are added to the
    angles of the joints on either side, so that a link turns a point twice and moves it once.
    """

    def __init__(self, chain: Chain, names: Sequence[str], travel_m: Sequence[float]) -> None:
        """For joint vectors in the order of `names`.

        Args:
            chain: whose joints are all in `names`, which may hold others too.
            names: of the J joints.
            travel_m: furthest that each prismatic joint goes from zero; not read for the others. Shapes: (J,).

        Raises:
            InputError: a joint of the chain is not in `names`.
        """
        order = {name: index for index, name in enumerate(names)}
        missing = [link.joint for link in chain.links if link.joint not in order]
        if missing:
            raise InputError(f"kinematics moves joints that are not described: {missing}")
        fixed, tool = _about_z(chain)
        self._tool: tuple[float, ...] = tuple(tool[:3, 3].tolist())
        self._links: list[tuple[int, bool, float, float, float, float, float, float]] = []  # from the tool inwards
        offset = 0.0
        for link, pose in zip(chain.links[::-1], fixed[::-1], strict=True):
            before, tilt, after = _about_z_x_z(pose[:3, :3])
            x, y, z = (rotation_axis(np.array([0.0, 0.0, 1.0]), -before) @ pose[:3, 3]).tolist()
            index, turned = order[link.joint], offset + after
            self._links.append((index, link.prismatic, turned, math.cos(tilt), math.sin(tilt), x, y, z))
            offset = before
        self._base = math.cos(offset), math.sin(offset)
        self.reach = [0.0] * len(names)
        """The furthest the tool moves for a move of one rad, or m, of each joint, in m. Shapes: (J,)."""
        distance = math.hypot(*self._tool)
        for link, pose in zip(chain.links[::-1], fixed[::-1], strict=True):
            index = order[link.joint]
            self.reach[index] = 1.0 if link.prismatic else distance
            distance += math.hypot(*pose[:3, 3]) + (abs(travel_m[index]) if link.prismatic else 0.0)

    def __call__(self, position: Sequence[float]) -> tuple[float, float, float]:
        """The tool in the base frame, in m. Shapes: (J,) -> (3,)."""
        x, y, z = self._tool
        for index, prismatic, angle, cosine, sine, tx, ty, tz in self._links:
            if prismatic:
                z += position[index]
            else:
                angle += position[index]
            c, s = cos(angle), sin(angle)
            x, y = c * x - s * y + tx, s * x + c * y
            y, z = cosine * y - sine * z + ty, sine * y + cosine * z + tz
        c, s = self._base
        return c * x - s * y, s * x + c * y, z


class ToolFrame:
    """Where the tool is, how it is turned, and how both follow from the joints' velocities."""

    def __init__(self, chain: Chain, names: Sequence[str]) -> None:
        """For joint vectors in the order of `names`, which holds all joints of the chain."""
        fixed, tool = _about_z(chain)
        self._joints = len(names)
        self._links = [
            (list(names).index(link.joint), link.prismatic, *pose[:3, :3].ravel().tolist(), *pose[:3, 3].tolist())
            for link, pose in zip(chain.links, fixed, strict=True)
        ]
        self._tool = tool

    def __call__(self, position: Sequence[float]) -> tuple[Array, Array, Array]:
        """The tool's point in m, its rotation, and the Jacobian of its twist, all in the base frame.

        Shapes: (J,) -> (3,), (3, 3), (6, J): the point's velocity, then the turning. Joints that do not move the tool
        have columns of zeros.
        """
        a, b, c, d, e, f, g, h, i = 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0  # the rotation so far, row by row
        x = y = z = 0.0
        moved = []
        for index, prismatic, xx, xy, xz, yx, yy, yz, zx, zy, zz, tx, ty, tz in self._links:
            x, y, z = x + a * tx + b * ty + c * tz, y + d * tx + e * ty + f * tz, z + g * tx + h * ty + i * tz
            a, b, c = a * xx + b * yx + c * zx, a * xy + b * yy + c * zy, a * xz + b * yz + c * zz
            d, e, f = d * xx + e * yx + f * zx, d * xy + e * yy + f * zy, d * xz + e * yz + f * zz
            g, h, i = g * xx + h * yx + i * zx, g * xy + h * yy + i * zy, g * xz + h * yz + i * zz
            q = position[index]
            if prismatic:
                x, y, z = x + c * q, y + f * q, z + i * q
            else:
                cosine, sine = math.cos(q), math.sin(q)
                a, b = cosine * a + sine * b, cosine * b - sine * a
                d, e = cosine * d + sine * e, cosine * e - sine * d
                g, h = cosine * g + sine * h, cosine * h - sine * g
            moved.append((index, prismatic, x, y, z, c, f, i))
        turned = np.array([[a, b, c], [d, e, f], [g, h, i]])
        point = turned @ self._tool[:3, 3] + (x, y, z)
        px, py, pz = point.tolist()
        columns = [(0.0,) * 6] * self._joints
        for index, prismatic, x, y, z, u, v, w in moved:
            rx, ry, rz = px - x, py - y, pz - z
            columns[index] = (
                (u, v, w, 0.0, 0.0, 0.0) if prismatic else (v * rz - w * ry, w * rx - u * rz, u * ry - v * rx, u, v, w)
            )
        return point, turned @ self._tool[:3, :3], np.array(columns).T


def quaternion_of(rotation: Array) -> tuple[float, float, float, float]:
    """w x y z with w >= 0. Shapes: (3, 3) -> (4,)."""
    squares = [1 + rotation[0, 0] * a + rotation[1, 1] * b + rotation[2, 2] * c for a, b, c in _SIGNS]
    best = int(np.argmax(squares))
    root = math.sqrt(squares[best])
    r = rotation
    x, y, z = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    xy, xz, yz = r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1]
    square = root * root
    rows = ((square, x, y, z), (x, square, xy, xz), (y, xy, square, yz), (z, xz, yz, square))
    sign = -1.0 if rows[best][0] < 0 else 1.0
    w, x, y, z = (float(sign * value / (2 * root)) for value in rows[best])
    return w, x, y, z


_SIGNS = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))


def rotation_of(quaternion: Sequence[float]) -> Array:
    """Of a quaternion w x y z of any length but zero. Shapes: (4,) -> (3, 3)."""
    w, x, y, z = np.asarray(quaternion, np.float64) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rotation_vector(rotation: Array) -> Array:
    """Axis times angle in [0, pi]. Shapes: (3, 3) -> (3,)."""
    w, *rest = quaternion_of(rotation)
    axis: Array = np.array(rest, np.float64)
    sine = float(np.linalg.norm(axis))
    return 2 * axis if sine < 1e-12 else axis * (2 * math.atan2(sine, w) / sine)


def way_to(pose: Sequence[float], point: Array, turned: Array) -> tuple[Array, Array]:
    """From where the tool is, as `ToolFrame` says, to a pose: the way in m, and axis times angle of the turn.

    Shapes: (7,) x y z and a quaternion w x y z, (3,), (3, 3) -> (3,), (3,), in the base frame.
    """
    return np.asarray(pose[:3], np.float64) - point, rotation_vector(rotation_of(pose[3:]) @ turned.T)


def _about_z(chain: Chain) -> tuple[list[Array], Array]:
    """The fixed transforms, with frames turned so that every joint moves about, or along, its z axis; and the tool."""
    fixed, turned = [], np.eye(4)
    for link in chain.links:
        to_axis = transform(_turn_z_to(np.asarray(link.axis, np.float64)), np.zeros(3))
        fixed.append(turned @ transform(rotation_rpy(*link.rpy_rad), link.xyz_m) @ to_axis)
        turned = to_axis.T
    return fixed, turned @ transform(rotation_rpy(*chain.tool_rpy_rad), chain.tool_xyz_m)


def _about_z_x_z(rotation: Array) -> tuple[float, float, float]:
    """Angles a, b, c of Rz(a) Rx(b) Rz(c), which is the rotation. Shapes: (3, 3) -> (,)."""
    side = math.hypot(rotation[0, 2], rotation[1, 2])
    a = math.atan2(rotation[0, 2], -rotation[1, 2]) if side > 1e-12 else 0.0
    b = math.atan2(side, rotation[2, 2])
    x, y = rotation[0, 0], rotation[1, 0]  # the third turn is what the other two leave, which holds for small b too
    turned = -math.sin(a) * x + math.cos(a) * y
    c = math.atan2(
        math.cos(b) * turned + math.sin(b) * rotation[2, 0],
        math.cos(a) * x + math.sin(a) * y,
    )
    return a, b, c


def _turn_z_to(axis: Array) -> Array:
    """A rotation that takes the z axis to `axis`. Shapes: (3,) -> (3, 3)."""
    x, y, z = axis / np.linalg.norm(axis)
    side = math.hypot(x, y)
    if side < 1e-12:
        return np.diag([1.0, 1.0, 1.0]) if z > 0 else np.diag([1.0, -1.0, -1.0])
    return rotation_axis(np.array([-y, x, 0.0]) / side, math.atan2(side, z))


class Workspace:
    """A box that the tool must not leave, on its way and in the stop after it."""

    def __init__(self, tool: ToolPoint, low_m: Sequence[float], high_m: Sequence[float]) -> None:
        """In the base frame. Shapes: (3,), (3,)."""
        self.tool = tool
        self._low = tuple(x + ROUNDING_M for x in low_m)
        self._high = tuple(x - ROUNDING_M for x in high_m)
        self._roots = [math.sqrt(r) for r in tool.reach]

    def margin_m(self, position: Sequence[float]) -> float:
        """How far the tool is from the nearest face, negative outside. Shapes: (J,)."""
        x, y, z = self.tool(position)
        x0, y0, z0 = self._low
        x1, y1, z1 = self._high
        return min(x - x0, y - y0, z - z0, x1 - x, y1 - y, z1 - z)

    def contains_path(
        self,
        at: Callable[[float], Sequence[float]],
        duration_s: float,
        acceleration: Sequence[float],
        *,
        start: tuple[Sequence[float], float] | None = None,
        detours: Callable[[], Sequence[float]] = tuple,
    ) -> bool:
        """Whether the tool certainly stays in the box on a path, by bisection.

        On a part of the path that takes t seconds and moves the joints by d, with reaches r, one of two is enough:

        - The tool goes no further than L = sum r |d|, so it is within L / 2 of the nearer end: the distances of the two
          ends from the faces add up to L.
        - The box is convex, so the straight line between the ends stays inside. The tool is never further from it than
          (sum r a t^2 + (sum sqrt(r) |d|)^2) / 8, the first from joints of acceleration a that do not move evenly, the
          second from the curvature of their arcs: both ends are that far from the faces.

        Args:
            at: the joints at a time of the path. Shapes: -> (J,).
            duration_s: of the path.
            acceleration: of each joint at most. Shapes: (J,).
            start: the joints at its start and their `margin_m`, where they are known.
            detours: says how much further each joint goes, back and forth, than from the path's start to its end; by
                default no joint turns back. Shapes: -> (J,).

        Returns:
            False where the tool leaves the box, or where `EVALUATIONS` poses do not suffice to rule it out.
        """
        q1 = at(duration_s)
        m1 = self.margin_m(q1)
        if m1 < 0:
            return False
        if start is None:
            q0 = at(0.0)
            m0 = self.margin_m(q0)
        else:
            q0, m0 = start
        reach, roots = self.tool.reach, self._roots
        detour: float | None = None
        uneven = sum(map(mul, reach, acceleration)) / 8
        parts, left = [(0.0, q0, m0, duration_s, q1, m1)], EVALUATIONS
        while parts:
            doubtful = []
            for part in parts:
                t0, q0, m0, t1, q1, m1 = part
                if m0 < 0 or m1 < 0:
                    return False
                ways = list(map(abs, map(sub, q1, q0)))
                spare = m0 + m1 - sum(map(mul, reach, ways))
                if spare >= 0:
                    if detour is None:
                        detour = sum(map(mul, reach, detours()))
                    if spare >= detour:
                        continue
                spare = min(m0, m1) - uneven * (t1 - t0) ** 2
                if spare < 0 or spare < sum(map(mul, roots, ways)) ** 2 / 8:
                    doubtful.append(part)
            left -= len(doubtful)
            if left < 0:
                return False
            parts = []
            for t0, q0, m0, t1, q1, m1 in doubtful:
                t = (t0 + t1) / 2
                q = at(t)
                m = self.margin_m(q)
                parts += [(t0, q0, m0, t, q, m), (t, q, m, t1, q1, m1)]
        return True
