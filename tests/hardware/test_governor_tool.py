"""Motions of the tool as commands, in fake time: they are followed within the limits, or refused with a reason."""

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig

from robot_rl.hardware.commands import Command
from robot_rl.hardware.description import load
from robot_rl.hardware.inverse import POSE_NAMES, TWIST_NAMES
from robot_rl.hardware.kinematics import quaternion_of
from robot_rl.hardware.states import State


def tool_command(rig: Rig, names: tuple[str, ...], values: list[float], **changes: Any) -> str | None:
    return rig.governor.on_command(
        Command(source="policy", stamp_ns=rig.stamp_ns, names=names, values=[values], **changes), rig.now
    )


def test_a_twist_of_the_tool_is_followed_and_the_limits_hold() -> None:
    rig = Rig().armed()
    tool = rig.robot.tool_motion()
    rig.silent.add("policy")
    twist = [0.05, 0.0, 0.02, 0.0, 0.0, 0.0]
    for _ in range(20):
        assert tool_command(rig, TWIST_NAMES, twist, velocity=True) is None
        rig.run(0.05)
    sent = rig.outputs[-1].sent
    assert sent is not None
    assert np.allclose(tool(sent.position)[2] @ sent.velocity, twist, atol=1e-3)
    assert rig.state is State.ACTIVE
    rig.assert_within_limits()


def test_a_pose_of_the_tool_is_reached() -> None:
    rig = Rig().armed()
    tool, rig.silent = rig.robot.tool_motion(), {"policy"}
    point, turned, _ = tool(rig.measured)
    pose = [*(point + np.array([0.03, -0.04, 0.02])), *quaternion_of(turned)]
    for _ in range(40):
        assert tool_command(rig, POSE_NAMES, pose) is None
        rig.run(0.05)
    assert np.allclose(tool(rig.measured)[0], pose[:3], atol=1e-6)
    rig.assert_within_limits()


def test_motions_of_the_tool_that_cannot_be_meant_are_refused_with_the_reason() -> None:
    rig = Rig().armed()
    point, turned, _ = rig.robot.tool_motion()(rig.measured)
    pose = [*point, *quaternion_of(turned)]
    for names, values, changes, reason in (
        (POSE_NAMES, [*pose[:3], 2.0, 0.0, 0.0, 0.0], {}, "length 2"),
        (POSE_NAMES, pose, {"velocity": True}, "no velocity"),
        (TWIST_NAMES, [0.0] * 6, {}, "is a velocity"),
        (TWIST_NAMES, [0.0, 0.0, math.nan, 0.0, 0.0, 0.0], {"velocity": True}, "NaN"),
        (TWIST_NAMES[:5], [0.0] * 5, {"velocity": True}, "it names"),
        (tuple(f"{name} in 'camera'" for name in TWIST_NAMES), [0.0] * 6, {"velocity": True}, "in 'camera'"),
    ):
        rig.governor._invalid = 0
        refusal = tool_command(rig, names, values, **changes)
        assert refusal is not None
        assert reason in refusal
    without = Rig(robot=replace(load("panda"), cartesian=None)).armed()
    refusal = tool_command(without, TWIST_NAMES, [0.0] * 6, velocity=True)
    assert refusal is not None
    assert "write its section `cartesian`" in refusal


def test_a_first_pose_far_from_the_tool_is_refused() -> None:
    rig = Rig(silent={"policy"})
    rig.run(0.2)
    assert rig.governor.claim("policy", rig.now) is None
    assert rig.governor.arm(rig.now) is None
    rig.run(0.1)
    point, turned, _ = rig.robot.tool_motion()(rig.measured)
    refusal = tool_command(rig, POSE_NAMES, [*(point + np.array([0.0, 0.2, 0.0])), *quaternion_of(turned)])
    assert refusal is not None
    assert "too far for a first command" in refusal
    assert tool_command(rig, POSE_NAMES, [*point, *quaternion_of(turned)]) is None
    assert rig.state is State.ACTIVE
