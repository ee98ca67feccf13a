"""`robot-rl deploy` on a simulated robot, in processes of their own: what it leaves behind, and every way to end it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rosbags.highlevel import AnyReader

sys.path.insert(0, str(Path(__file__).parent))

from robots import NEEDS_ROS, shared_memory, simulated
from test_bag_writer import count

from robot_rl.algorithms import create
from robot_rl.algorithms.bc import BCConfig
from robot_rl.apps.export_policy import onnx_graph, with_facts
from robot_rl.hardware.bag_timing import latencies
from robot_rl.hardware.bag_writer import FILE
from robot_rl.hardware.description import load
from robot_rl.policy import graph_hash
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec

pytestmark = NEEDS_ROS
ROBOT = ["environment=ros2", "environment.robot=sim_panda", "environment.simulated=true"]
CHUNK = 4


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An untrained policy for the robot, exported."""
    from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment

    before = shared_memory()
    with simulated() as robot:
        settings = EnvironmentSettings(mode="lockstep")
        environment = RosEnvironment(load("sim_panda"), settings, domain_id=robot.domain_id)
        spec: Spec = environment.spec
        environment.close()
    agent = create(BCConfig(actor_hidden=[16]), spec.chunked(CHUNK), Seeds(0), torch.device("cpu"), None)
    graph = onnx_graph(agent, spec, CHUNK)
    facts = {"format": 1, "graph_bytes": len(graph), "graph_sha256": graph_hash(graph), "spec": spec.to_json()}
    path = tmp_path_factory.mktemp("policy") / "policy.onnx"
    path.write_bytes(with_facts(graph, facts | {"action_chunk": CHUNK, "chunk_ensemble": None}))
    yield path
    assert shared_memory() <= before


@pytest.fixture
def deploy(policy: Path, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "robot_rl", "deploy", str(policy), *ROBOT, f"output={tmp_path / 'out'}"]
        started.append(subprocess.Popen([*command, *words]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(20)


def facts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "deployment.json").read_text())
    return found


def topics(folder: Path) -> dict[str, int]:
    with AnyReader([folder]) as reader:
        return {connection.topic: connection.msgcount for connection in reader.connections}


def until(done: Callable[[], bool], limit_s: float = 90.0) -> None:
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < limit_s
        time.sleep(0.05)


def children(process: subprocess.Popen[bytes]) -> dict[str, int]:
    """Processes that it started, by the name of their node."""
    found = {}
    for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        for word in words:
            if word.startswith(b"robot_rl.hardware."):
                found[word.decode().split(".")[-1]] = int(number)
    return found


def moving(folder: Path) -> Callable[[], bool]:
    """The bag holds more than a few hundred messages, so the robot is being driven."""
    return lambda: (folder / "bag" / FILE).exists() and count(folder / "bag" / FILE) > 1500


def test_episodes_leave_a_bag_and_a_timing_report(deploy: Any, tmp_path: Path) -> None:
    assert deploy("episodes=2", "environment.maximum_steps=20").wait(120) == 0
    out = tmp_path / "out"
    told = facts(out)
    assert [play["reason"] for play in told["episodes"]] == ["over", "over"]
    assert told["steps"] == 40
    timing = json.loads((out / "timing.json").read_text())
    assert timing["inference"]["count"] > 5
    assert 0 < timing["sensor_to_command"]["p50_ms"] < 1000
    assert timing["sensor_to_command"]["max_ms"] >= timing["sensor_to_command"]["p99_9_ms"]
    assert (out / "timing.png").stat().st_size > 10_000
    kinds = topics(out / "bag")
    assert kinds["/sim_panda/rl/action"] >= 38
    assert kinds["/sim_panda/joint_states"] > 100
    stages = latencies(out / "bag", load("sim_panda"))
    both = np.median(stages["sensor_to_action"]) + np.median(stages["action_to_command"])
    assert both == pytest.approx(np.median(stages["sensor_to_command"]), rel=0.5)


def test_a_dry_run_decides_and_commands_nothing(deploy: Any, tmp_path: Path) -> None:
    assert deploy("dry_run=true", "max_seconds=3").wait(120) == 0
    told = facts(tmp_path / "out")
    assert told["steps"] > 5
    assert told["ended_by"] == "max_seconds=3"
    kinds = topics(tmp_path / "out" / "bag")
    assert kinds["/sim_panda/rl/action"] == kinds["/sim_panda/rl/applied"] == 0
    assert kinds["/sim_panda/joint_position_controller/commands"] == 0


def test_ctrl_c_ends_it_with_a_report_and_a_whole_bag(deploy: Any, tmp_path: Path) -> None:
    process = deploy("environment.maximum_steps=5000")
    until(moving(tmp_path / "out"))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert facts(tmp_path / "out")["ended_by"] == "Ctrl-C"
    assert topics(tmp_path / "out" / "bag")["/sim_panda/rl/action"] > 3


def test_a_dead_recorder_ends_the_run_and_says_so(deploy: Any, tmp_path: Path) -> None:
    process = deploy("environment.maximum_steps=5000")
    until(moving(tmp_path / "out"))
    os.kill(children(process)["recorder_node"], signal.SIGKILL)
    assert process.wait(60) == 1
    told = facts(tmp_path / "out")
    assert "the recorder died with status -9" in told["ended_by"]
    assert told["episodes"][0]["reason"] == "stopped"
    assert count(tmp_path / "out" / "bag" / FILE) > 1500


def test_a_killed_policy_leaves_no_process_and_a_bag_that_says_how_the_robot_stopped(
    deploy: Any, tmp_path: Path
) -> None:
    process = deploy("environment.maximum_steps=5000")
    until(moving(tmp_path / "out"))
    left = children(process)
    process.kill()
    process.wait(10)
    until(lambda: not any(Path(f"/proc/{number}").exists() for number in left.values()), 30)
    with AnyReader([tmp_path / "out" / "bag"]) as reader:
        chosen = [c for c in reader.connections if c.topic == "/sim_panda/rl/applied"]
        last = list(reader.messages(chosen))[-1]
        assert np.abs(reader.deserialize(last[2], last[0].msgtype).velocity).max() < 1e-6
    assert set(left) == {"mujoco_arm_node", "governor_node", "operator_node", "recorder_node"}


def test_a_hanging_policy_is_stopped_by_the_governor(deploy: Any, tmp_path: Path) -> None:
    process = deploy("environment.maximum_steps=5000")
    until(moving(tmp_path / "out"))
    process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    until(lambda: "fault" in states(tmp_path / "out" / "bag"), 20)
    assert time.monotonic() - began < 1.0 + 0.5 + 5.0  # heartbeat_stop_s, the brake, and a busy machine
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    assert process.wait(90) == 0


def states(folder: Path) -> set[str]:
    """The states of the governor that a bag that is still written holds."""
    content = (folder / FILE).read_bytes()
    return {state for state in ("fault", "active") if f"\0{state}\0".encode() in content}
