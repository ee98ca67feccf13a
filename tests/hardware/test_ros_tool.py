"""Motions of the tool over real DDS: twists and poses in, poses out to a controller that takes nothing else."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from robots import NEEDS_ROS

from robot_rl.hardware import ros
from robot_rl.hardware.description import Robot, load
from robot_rl.hardware.domains import Domain

pytestmark = NEEDS_ROS
PATIENCE_S = 300.0


def described(folder: Path, mode: str) -> Path:
    """The Panda behind a Cartesian controller, without a wrench, at rates that a busy machine of two cores keeps."""
    data = yaml.safe_load((Path(__file__).parents[2] / "configs/robot/panda.yaml").read_text())
    data["wrench"], data["control_period_s"] = None, 0.02
    kind = {"tool_pose": "PoseStamped", "tool_twist": "TwistStamped"}[mode]
    data["command"] |= {"mode": mode, "type": f"geometry_msgs/msg/{kind}", "topic": "/controller/target"}
    data["command"] |= {"rate_hz": 50, "frame": data["frames"]["base"], "unit": "m, quaternion", "maximum_age_s": 0.5}
    data["topics"] = {"joint_states": data["topics"]["joint_states"] | {"rate_hz": 50, "maximum_age_s": 0.5}}
    data["watchdogs"] |= {"observation_stop_s": 2.0, "heartbeat_stop_s": 3.0, "permit_stop_s": 3.0, "frozen_s": 2.0}
    data["watchdogs"] |= {"command_hold_s": 1.0, "command_stop_s": 5.0, "answer_age_s": 2.0, "missed_deadlines": 100}
    data["watchdogs"] |= {"clock_jump_s": 2.0}
    path = folder / "panda.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(params=["tool_pose", "tool_twist"])
def connected(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Robot, Any]]:
    """A robot with such a controller, a governor, an operator, and an environment whose actions are twists."""
    path, domain = described(tmp_path, request.param), Domain()
    parent = ["--parent", str(os.getpid())]
    words = {"joint_robot": parent, "governor": parent, "operator": ["--permit", *parent]}
    nodes: list[subprocess.Popen[bytes]] = [
        ros.start(f"robot_rl.hardware.{name}_node", [str(path), *more], os.environ, domain_id=domain.number)
        for name, more in words.items()
    ]
    ros.adopt(os.environ, domain_id=domain.number)
    from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment

    settings = EnvironmentSettings(
        action="twist", observation=["joint_position"], maximum_steps=1000, patience_s=PATIENCE_S
    )
    try:
        with closing(RosEnvironment(load(path), settings, domain_id=domain.number)) as environment:
            yield load(path), environment
    finally:
        for node in nodes:
            node.kill()
            node.wait(10)
        domain.close()


def test_the_tool_goes_where_twists_and_poses_send_it(connected: tuple[Robot, Any]) -> None:
    from geometry_msgs.msg import PoseStamped, TwistStamped
    from sensor_msgs.msg import JointState

    from robot_rl.hardware.ros_io import profile, set_stamp

    robot, environment = connected
    tool, link = robot.tool_motion(), environment.link
    commands: list[Any] = []
    telemetry: list[Any] = []
    kind = PoseStamped if robot.mode == "tool_pose" else TwistStamped
    link._inbox.subscribe(kind, robot.command.topic, profile(), lambda message, _: commands.append(message))
    link._inbox.subscribe(JointState, "rl/telemetry", profile(reliable=False), lambda m, _: telemetry.append(m))

    def place(observed: Any) -> Any:
        return tool([float(q) for q in observed])[0]

    began = environment.reset(seed=0).observation["joint_position"]
    twist = np.array([0.02, 0.0, -0.02, 0.0, 0.0, 0.0])
    for _ in range(30):  # 1.5 s
        step = environment.step(twist)
    assert not step.last, link.causes
    moved = place(step.observation["joint_position"]) - place(began)
    assert np.allclose(step.action, twist, atol=2e-3)  # what was applied
    assert 0.02 < moved[0] < 0.06, moved
    assert -0.06 < moved[2] < -0.02, moved
    assert abs(moved[1]) < 0.005
    sent = commands[-1]
    assert sent.header.frame_id == robot.base_frame
    if robot.mode == "tool_pose":
        at = sent.pose.position
        assert math.dist((at.x, at.y, at.z), place(step.observation["joint_position"])) < 0.02
    assert any(m.header.frame_id == "governor" and m.name[0] == "governor_s" for m in telemetry)

    target = PoseStamped()
    target.header.frame_id = robot.base_frame
    goal = place(step.observation["joint_position"]) + np.array([0.0, 0.03, 0.02])
    turned = commands[-1].pose.orientation if robot.mode == "tool_pose" else None
    target.pose.position.x, target.pose.position.y, target.pose.position.z = map(float, goal)
    publisher = link._node.create_publisher(PoseStamped, "rl/action_pose", profile())
    heard = environment._observer.heard
    if turned is None:
        from robot_rl.hardware.kinematics import quaternion_of

        w, x, y, z = quaternion_of(tool([float(q) for q in step.observation["joint_position"]])[1])
    else:
        w, x, y, z = turned.w, turned.x, turned.y, turned.z
    turn = target.pose.orientation
    turn.w, turn.x, turn.y, turn.z = w, x, y, z
    environment._expect_no_step()
    for _ in range(60):
        set_stamp(target.header, heard["joint_states"].stamp_ns)
        publisher.publish(target)
        link.wait_until(link.now_ns() + 50_000_000)
    assert link.state == "active", link.causes
    # Twists are added up by the robot, which misses some on a busy machine; poses are not.
    assert math.dist(place(heard["joint_states"].message.position), goal) < (0.003 if turned is not None else 0.02)
