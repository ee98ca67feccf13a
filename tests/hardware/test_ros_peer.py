"""A participant that is not ours feeds joint states and reads commands: the wire is that of ROS 2, not our own."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from robots import NEEDS_ROS

from robot_rl.hardware import ros
from robot_rl.hardware.description import load
from robot_rl.hardware.domains import Domain

HAS_CYCLONE = importlib.util.find_spec("cyclonedds") is not None
pytestmark = [*NEEDS_ROS, pytest.mark.skipif(not HAS_CYCLONE, reason="the package cyclonedds is not installed")]
LOOPBACK = (
    '<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo" multicast="true"/></Interfaces></General>'
    '<Discovery><ParticipantIndex>auto</ParticipantIndex><Peers><Peer Address="localhost"/></Peers></Discovery>'
    "</Domain></CycloneDDS>"
)


@pytest.fixture
def description(tmp_path: Path) -> Path:
    """The Panda without a wrench, commanded by JointState, at rates that a busy machine of two cores keeps."""
    data = yaml.safe_load((Path(__file__).parents[2] / "configs/robot/sim_panda.yaml").read_text())
    kept = ("reliability", "durability", "depth", "unit", "frame", "rate_hz", "maximum_age_s")
    data["name"], data["wrench"], data["control_period_s"] = "foreign", None, 0.02
    data["command"] |= {"type": "sensor_msgs/msg/JointState", "rate_hz": 50, "topic": "/foreign/commands"}
    states = {key: data["topics"]["joint_states"][key] for key in kept} | {"rate_hz": 50, "maximum_age_s": 0.5}
    states |= {"type": "sensor_msgs/msg/JointState", "topic": "/foreign/joint_states"}
    data["topics"] = {"joint_states": states}
    data["watchdogs"] |= {"observation_stop_s": 2.0, "heartbeat_stop_s": 3.0, "permit_stop_s": 3.0, "frozen_s": 2.0}
    data["watchdogs"] |= {"command_hold_s": 1.0, "command_stop_s": 5.0, "answer_age_s": 2.0, "missed_deadlines": 100}
    path = tmp_path / "foreign.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture
def foreign(description: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The robot of Cyclone DDS, a governor and an operator."""
    robot, domain = load(description), Domain()
    environ = {**ros.without(os.environ), "ROS_DOMAIN_ID": str(domain.number), "CYCLONEDDS_URI": LOOPBACK}
    positions = ",".join(str(joint.start) for joint in robot.joints)
    words = [robot.joint_states.topic, robot.command.topic, ",".join(robot.names), positions]
    script = str(Path(__file__).with_name("cyclone_robot.py"))
    peer = subprocess.Popen([sys.executable, script, *words], env=environ, stdout=subprocess.PIPE, text=True)
    words = [str(description), "--parent", str(os.getpid())]
    nodes = [
        ros.start(f"robot_rl.hardware.{name}_node", [*words, *more], os.environ, domain_id=domain.number)
        for name, more in (("governor", []), ("operator", ["--permit"]))
    ]
    ros.adopt(os.environ, domain_id=domain.number)
    yield peer, domain.number
    for process in (peer, *nodes):
        process.kill()
        process.wait(10)
    assert peer.stdout is not None
    peer.stdout.close()
    domain.close()


def test_a_foreign_robot_is_driven(description: Path, foreign: tuple[subprocess.Popen[str], int]) -> None:
    from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment

    peer, domain_id = foreign
    settings = EnvironmentSettings(observation=["joint_position"], maximum_steps=40)
    environment = RosEnvironment(load(description), settings, domain_id=domain_id)
    try:
        step = environment.reset(seed=0)
        before = step.observation["joint_position"]
        while not step.last:
            step = environment.step(np.full(7, 0.05))
        moved = step.observation["joint_position"] - before
    finally:
        environment.close()
    peer.kill()
    assert peer.stdout is not None
    commanded = [float(line.split()[1]) for line in peer.stdout if line.startswith("commanded")]
    assert (moved > 0.02).all(), (moved, environment.link.causes)
    assert len(commanded) > 20
    assert commanded[-1] - commanded[0] > 0.02
