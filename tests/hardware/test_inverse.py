"""The tool does what it is told where nothing is in the way; elsewhere no limit of joints or workspace is exceeded."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from adversary import excess, tool_points

from robot_rl.hardware.description import Robot, load
from robot_rl.hardware.inverse import SINGULAR, TOOL_SPEED
from robot_rl.hardware.kinematics import frames, quaternion_of, rotation_axis, rotation_of, rotation_vector
from robot_rl.hardware.safety import ASKED, FAST_TOOL, STOPPED, TOOL_SPEED_SLACK, WORKSPACE, Safety
from robot_rl.types import Array

PANDA = load("panda")
ANGLES = st.lists(st.floats(-3, 3), min_size=3, max_size=3)


class Arm:
    """An arm that does what the exit sends, and is asked for motions of its tool."""

    def __init__(self, robot: Robot) -> None:
        self.robot, self.safety, self.tool = robot, Safety.of(robot), robot.tool_motion()
        inverse, limits = robot.inverse(), robot.cartesian
        assert inverse is not None
        assert limits is not None
        self.inverse, self.limits = inverse, limits
        self.safety.start([joint.home for joint in robot.joints])
        self.sent, self.reasons = [self.safety.position] * 3, [0] * 3

    def ask(self, of: str, values: list[float]) -> int:
        solve = self.inverse.twist if of == "twist" else self.inverse.pose
        wanted, asked = solve(values, self.safety.position, self.safety.velocity)
        sent = self.safety.send_for_tool(wanted, self.limits.speed_m_s, asked)
        self.sent.append(sent.position)
        self.reasons.append(sent.reasons)
        return sent.reasons

    def twist(self) -> Array:
        found: Array = self.tool(self.safety.position)[2] @ np.array(self.safety.velocity)
        return found


@pytest.mark.parametrize("name", ["panda", "ur5e", "so101"])
def test_pose_and_jacobian_are_those_of_the_chain_and_of_its_differences(name: str) -> None:
    robot, generator = load(name), np.random.default_rng(0)
    tool, names = robot.tool_motion(), robot.names
    for _ in range(20):
        q = generator.uniform(robot.limits.low, robot.limits.high)
        point, turned, jacobian = tool(q.tolist())
        pose = frames(robot.chain, [q[names.index(link.joint)] for link in robot.chain.links])[-1]
        assert np.allclose(np.column_stack([turned, point]), pose[:3], atol=1e-12)
        for column, step in zip(jacobian.T, 1e-6 * np.eye(len(q)), strict=True):
            moved, turned_on, _ = tool((q + step).tolist())
            assert np.allclose((moved - point) / 1e-6, column[:3], atol=1e-5)
            assert np.allclose(rotation_vector(turned_on @ turned.T) / 1e-6, column[3:], atol=1e-5)


@given(ANGLES)
def test_rotations_change_form_and_come_back(vector: list[float]) -> None:
    angle = float(np.linalg.norm(vector))
    turned = np.eye(3) if angle == 0 else rotation_axis(np.array(vector) / angle, angle)
    assert np.allclose(rotation_of(quaternion_of(turned)), turned, atol=1e-12)
    again = rotation_vector(turned)
    length = float(np.linalg.norm(again))
    assert length <= math.pi + 1e-9
    if length > 1e-9:
        assert np.allclose(rotation_axis(again / length, length), turned, atol=1e-9)


def test_a_twist_within_the_limits_is_the_twist_of_the_tool_to_rounding() -> None:
    arm = Arm(PANDA)
    wanted = [0.05, -0.03, 0.02, 0.1, 0.0, -0.1]
    for _ in range(100):
        arm.ask("twist", wanted)
    before = np.array(arm.safety.position)
    jacobian = arm.tool(before.tolist())[2]
    assert arm.ask("twist", wanted) == 0
    assert np.allclose(jacobian @ np.array(arm.safety.velocity), wanted, atol=1e-9)


def test_a_pose_is_reached_at_the_speed_that_is_allowed_and_then_held_unchanged() -> None:
    arm = Arm(PANDA)
    point, turned, _ = arm.tool(arm.safety.position)
    turn = rotation_axis(np.array([0.0, 0.0, 1.0]), 0.5)
    pose = [*(point + np.array([0.1, 0.1, -0.1])), *quaternion_of(turn @ turned)]
    reasons = [arm.ask("pose", pose) for _ in range(400)]
    assert max(arm.inverse.away(pose, arm.safety.position)) < 1e-9
    assert reasons[20] >> ASKED & TOOL_SPEED
    assert reasons[-1] == 0
    way = np.linalg.norm(np.diff(tool_points(PANDA.chain, PANDA.names, np.array(arm.sent)), axis=0), axis=1)
    assert way.max() / PANDA.control_period_s == pytest.approx(arm.limits.speed_m_s, rel=0.2)
    assert way.max() / PANDA.control_period_s <= arm.limits.speed_m_s * TOOL_SPEED_SLACK


def test_a_direction_that_the_arm_cannot_go_fades_out_and_is_told() -> None:
    arm = Arm(load("so101"))  # five joints
    found = [arm.ask("twist", [0, 0, 0, 0, 0, 0.3]) >> ASKED & SINGULAR for _ in range(20)]
    assert all(found)
    assert np.abs(arm.twist()).max() <= 0.31
    stretched = [0.0, 0.5, 0.0, -0.0699, 0.0, 1.6, 0.8]
    wanted, _ = Arm(PANDA).inverse.twist([0, 0, 0, 0, 0, 1.0], stretched, [0.0] * 7)
    assert np.isfinite(wanted).all()
    assert (np.abs(wanted) <= np.array(PANDA.limits.velocity) * (1 + 1e-9)).all()


@pytest.mark.parametrize("name", ["panda", "ur5e", "so101"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_no_limit_is_exceeded_whatever_the_tool_is_told(name: str, seed: int) -> None:
    generator, arm = np.random.default_rng(seed), Arm(load(name))
    robot, h = arm.robot, arm.robot.control_period_s
    for _ in range(20):
        kind, scale = int(generator.integers(5)), 10.0 ** generator.uniform(-3, 1)
        twist = (generator.normal(size=6) * scale).tolist()
        pose = [*(np.array(arm.tool(arm.safety.position)[0]) + generator.normal(size=3) * scale)]
        pose += generator.normal(size=4).tolist()
        for step in range(10):
            if kind == 0:
                arm.sent.append(arm.safety.send_stop().position)
                arm.reasons.append(STOPPED)
            elif kind == 1:
                arm.ask("pose", pose)
            elif kind == 2:
                arm.ask("twist", [x * (-1) ** step for x in twist])
            else:
                arm.ask("twist", twist)
    sent = np.array(arm.sent)
    worst = excess(sent, robot.limits, h)
    assert worst["position"] <= 0
    assert max(worst["velocity"], worst["acceleration"], worst["jerk"]) < 1e-6
    tool = tool_points(robot.chain, robot.names, sent)
    assert (tool >= robot.workspace.low_m).all()
    assert (tool <= robot.workspace.high_m).all()
    speed = np.linalg.norm(np.diff(tool, axis=0), axis=1) / h
    braking = np.array(arm.reasons[1:]) & (STOPPED | WORKSPACE | FAST_TOOL) != 0
    assert (speed[~braking] <= arm.limits.speed_m_s * TOOL_SPEED_SLACK).all()
