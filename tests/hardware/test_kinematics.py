"""Forward kinematics against MuJoCo and the makers' tables; a stop that is called safe stays in the box."""

import math
from pathlib import Path

import mujoco
import numpy as np
import pytest
import robosuite
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.errors import InputError
from robot_rl.hardware.description import load
from robot_rl.hardware.kinematics import (
    Chain,
    Link,
    ToolPoint,
    Workspace,
    frames,
    rotation_axis,
    rotation_rpy,
    transform,
)
from robot_rl.types import Array

ROBOTS = Path(robosuite.__file__).parent / "models" / "assets" / "robots"
PLANAR = Chain(
    links=(
        Link(joint="shoulder", prismatic=False, xyz_m=(0, 0, 0), rpy_rad=(0, 0, 0), axis=(0, 0, 2)),
        Link(joint="elbow", prismatic=False, xyz_m=(1, 0, 0), rpy_rad=(0, 0, 0), axis=(0, 0, -1)),
        Link(joint="slide", prismatic=True, xyz_m=(0, 0, 0), rpy_rad=(0, 0, 0), axis=(1, 0, 0)),
    ),
    tool_xyz_m=(0.5, 0, 0),
    tool_rpy_rad=(0, 0, 0),
)


def rpy(rotation: Array) -> tuple[float, float, float]:
    level = math.hypot(rotation[0, 0], rotation[1, 0])
    pitch = math.atan2(-rotation[2, 0], level)
    if level < 1e-6:  # straight up: only the difference of roll and yaw is defined
        return math.atan2(-rotation[1, 2], rotation[1, 1]), pitch, 0.0
    return math.atan2(rotation[2, 1], rotation[2, 2]), pitch, math.atan2(rotation[1, 0], rotation[0, 0])


def model_of(robot: str) -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_path(str(ROBOTS / robot / "robot.xml"))


def chain_of(model: mujoco.MjModel, body: str) -> tuple[Chain, list[str]]:
    """The chain of hinges from the base to `body` of a MuJoCo model whose joints sit in the origins of their bodies."""
    links, pending = [], np.eye(4)
    bodies = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, body)]
    while model.body_parentid[bodies[0]]:
        bodies.insert(0, int(model.body_parentid[bodies[0]]))
    for number in bodies:
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, model.body_quat[number])
        pending = pending @ transform(rotation.reshape(3, 3), model.body_pos[number])
        if model.body_jntnum[number]:
            joint = model.body_jntadr[number]
            assert not model.jnt_pos[joint].any()
            x, y, z = pending[:3, 3].tolist()
            axis = model.jnt_axis[joint].tolist()
            links.append(
                Link(
                    joint=model.joint(joint).name,
                    prismatic=False,
                    xyz_m=(x, y, z),
                    rpy_rad=rpy(pending[:3, :3]),
                    axis=(axis[0], axis[1], axis[2]),
                )
            )
            pending = np.eye(4)
    x, y, z = pending[:3, 3].tolist()
    chain = Chain(links=tuple(links), tool_xyz_m=(x, y, z), tool_rpy_rad=rpy(pending[:3, :3]))
    return chain, [link.joint for link in links]


@pytest.mark.parametrize("robot", ["panda", "ur5e", "sawyer", "iiwa", "jaco", "kinova3", "xarm7"])
def test_any_serial_arm_of_robosuite_comes_out_as_in_mujoco(robot: str) -> None:
    model = model_of(robot)
    chain, names = chain_of(model, "right_hand")
    data, tool = mujoco.MjData(model), ToolPoint(chain, names, [0.0] * len(names))
    generator = np.random.default_rng(0)
    for _ in range(20):
        q = generator.uniform(-2, 2, len(names))
        for name, value in zip(names, q, strict=True):
            data.qpos[model.joint(name).qposadr[0]] = value
        mujoco.mj_kinematics(model, data)
        found = frames(chain, q.tolist())[-1]
        np.testing.assert_allclose(found[:3, 3], data.body("right_hand").xpos, atol=1e-7)
        np.testing.assert_allclose(found[:3, :3], data.body("right_hand").xmat.reshape(3, 3), atol=1e-7)
        np.testing.assert_allclose(tool(q.tolist()), found[:3, 3], atol=1e-13)


def test_our_panda_is_mujocos_panda() -> None:
    robot, model = load("panda"), model_of("panda")
    data = mujoco.MjData(model)
    generator = np.random.default_rng(1)
    for _ in range(50):
        q = generator.uniform([j.low for j in robot.joints], [j.high for j in robot.joints])
        data.qpos[:7] = q
        mujoco.mj_kinematics(model, data)
        last = frames(robot.chain, q.tolist())[-2]
        np.testing.assert_allclose(last[:3, 3], data.body("link7").xpos, atol=1e-5)  # its quaternions have six digits
        np.testing.assert_allclose(last[:3, :3], data.body("link7").xmat.reshape(3, 3), atol=1e-5)


def test_our_ur5e_is_the_makers_table() -> None:
    # Denavit-Hartenberg parameters that Universal Robots publishes for the UR5e: a, d in m and alpha in rad.
    table = [
        (0.0, 0.1625, math.pi / 2),
        (-0.425, 0.0, 0.0),
        (-0.3922, 0.0, 0.0),
        (0.0, 0.1333, math.pi / 2),
        (0.0, 0.0997, -math.pi / 2),
        (0.0, 0.0996, 0.0),
    ]
    robot = load("ur5e")
    generator = np.random.default_rng(2)
    for _ in range(50):
        q = generator.uniform(-math.pi, math.pi, 6)
        pose = np.eye(4)
        for angle, (a, d, alpha) in zip(q, table, strict=True):
            turn = transform(rotation_axis(np.array([0, 0, 1.0]), angle), [0, 0, d])
            pose = pose @ turn @ transform(rotation_axis(np.array([1.0, 0, 0]), alpha), [a, 0, 0])
        np.testing.assert_allclose(frames(robot.chain, q.tolist())[-1], pose, atol=1e-12)


def test_a_planar_arm_on_paper() -> None:
    # shoulder at 90 degrees: the elbow is at (0, 1); its axis points down, so 90 degrees turn it back to along x;
    # slid by 0.25 the tool is 0.75 further.
    tool = ToolPoint(PLANAR, ["slide", "gripper", "elbow", "shoulder"], [0.5, 9.0, 9.0, 9.0])
    np.testing.assert_allclose(tool([0.25, 7.0, math.pi / 2, math.pi / 2]), [0.75, 1.0, 0.0], atol=1e-12)
    # reach: slide 1; elbow 0.5 of tool + 0.5 of slide; shoulder one more
    assert tool.reach == [1.0, 0.0, 1.0, 2.0]


def test_a_joint_of_the_chain_that_is_not_described_is_refused() -> None:
    with pytest.raises(InputError, match="elbow"):
        ToolPoint(PLANAR, ["slide", "shoulder"], [0.5, 0.0])


def test_rpy_turns_about_fixed_axes() -> None:
    # roll 90: y to z; then yaw 90: x to y. So z, which roll takes to -y, ends at x.
    np.testing.assert_allclose(rotation_rpy(math.pi / 2, 0, math.pi / 2) @ [0, 0, 1], [1, 0, 0], atol=1e-12)


JOINTS = st.lists(st.floats(-1, 1), min_size=3, max_size=3)


@given(start=JOINTS, end=JOINTS, low=st.floats(-1.5, 1.0), high=st.floats(1.0, 2.0))
def test_a_path_that_is_called_safe_stays_in_the_box(
    start: list[float], end: list[float], low: float, high: float
) -> None:
    tool = ToolPoint(PLANAR, ["shoulder", "elbow", "slide"], [0, 0, 1.0])
    space = Workspace(tool, [low, -0.6, -1], [high, 0.8, 1])

    def at(t: float) -> list[float]:
        return [a + (b - a) * t**2 for a, b in zip(start, end, strict=True)]

    if space.contains_path(at, 1.0, [2 * abs(b - a) for a, b in zip(start, end, strict=True)]):
        assert min(space.margin_m(at(t)) for t in np.linspace(0, 1, 200)) >= 0


def test_a_path_well_inside_is_called_safe_and_one_that_leaves_is_not() -> None:
    tool = ToolPoint(PLANAR, ["shoulder", "elbow", "slide"], [0, 0, 1.0])
    space = Workspace(tool, [-2, -2, -1], [2, 2, 1])

    def sweep(end: float) -> bool:
        return space.contains_path(lambda t: [end * t, 0.0, 0.0], 1.0, [0.0] * 3)

    assert sweep(1.0)
    space = Workspace(tool, [-2, -0.1, -1], [2, 1.4, 1])
    assert sweep(math.pi / 4)  # the tip, 1.5 long, is at 1.06
    assert not sweep(math.pi / 2)  # and at 1.5
    assert not sweep(math.pi)  # in the box at both ends, but not between them
