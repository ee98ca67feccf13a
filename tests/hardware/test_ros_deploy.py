"""`robot-rl deploy` on a simulated robot, in processes of their own: what it leaves behind, and every way to end it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from rosbags.highlevel import AnyReader

sys.path.insert(0, str(Path(__file__).parent))

from bench import STANDING_RAD_S, STOPPED, describe, messages
from robots import NEEDS_ROS, shared_memory
from test_bag_writer import KIND, TYPES, count

from robot_rl.algorithms import create
from robot_rl.algorithms.bc import BCConfig
from robot_rl.apps.export_policy import onnx_graph, with_facts
from robot_rl.hardware.bag_timing import latencies
from robot_rl.hardware.bag_writer import FILE
from robot_rl.hardware.commands import stop_time_s
from robot_rl.hardware.description import load
from robot_rl.hardware.observations import parts_of
from robot_rl.hardware.robot_spec import make_spec
from robot_rl.policy import graph_hash
from robot_rl.seeding import Seeds

pytestmark = NEEDS_ROS
CHUNK, SPEED_SCALE = 4, 0.1
TURNS = 0.5  # of the last joint, as a share of its bound
PATIENCE_S = 300.0  # on a busy machine
FAST_RAD_S = 0.1  # slower than it then turns
SLACK_S = 0.5  # of signals and messages on their way
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STATUS = "diagnostic_msgs/msg/DiagnosticStatus"
LONG = "environment.maximum_steps=100000"
ROBOT = {"mujoco_arm_node", "governor_node", "operator_node"}


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return describe(tmp_path_factory.mktemp("robot"), patience=2.0)


@pytest.fixture(scope="module")
def policy(description: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported; it turns the last joint, which moves the tool nowhere, at one speed."""
    robot = load(description)
    spec = make_spec(robot, parts_of(robot, None, 64), "velocity", SPEED_SCALE, "realtime")
    agent = create(BCConfig(actor_hidden=[16]), spec.chunked(CHUNK), Seeds(0), torch.device("cpu"), None)
    last = [layer for layer in agent.actor.modules() if isinstance(layer, torch.nn.Linear)][-1]
    joints = len(robot.joints)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.bias[joints - 1 : CHUNK * joints : joints] = TURNS
    graph = onnx_graph(agent, spec, CHUNK)
    facts = {"format": 1, "graph_bytes": len(graph), "graph_sha256": graph_hash(graph), "spec": spec.to_json()}
    path = tmp_path_factory.mktemp("policy") / "policy.onnx"
    path.write_bytes(with_facts(graph, facts | {"action_chunk": CHUNK, "chunk_ensemble": None}))
    return path


class Deployment:
    """The program, and what it leaves behind."""

    def __init__(self, policy: Path, description: Path, folder: Path, *words: str, terminal: bool = False) -> None:
        """Start it; with a terminal of its own, or with none."""
        self.out, self.robot = folder / "out", load(description)
        environment = ["environment=ros2", f"environment.robot={description}", "environment.simulated=true"]
        environment += [f"environment.speed_scale={SPEED_SCALE}", f"environment.patience_s={PATIENCE_S}"]
        command = [sys.executable, "-m", "robot_rl", "deploy", str(policy), f"output={self.out}", *environment, *words]
        self._log = folder / "log.txt"
        self._typed: int | None = None
        if terminal:
            self._typed, slave = os.openpty()
            self.process = subprocess.Popen(command, preexec_fn=lambda: os.login_tty(slave), pass_fds=[slave])
            os.close(slave)
            self._log.touch()
            Thread(target=self._read, args=[self._typed], daemon=True).start()
        else:
            with self._log.open("wb") as log:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        """All of it, whatever the width of the terminal and its colours."""
        return " ".join(ESCAPES.sub("", self._log.read_text(errors="replace")).split())

    def type(self, text: str) -> None:
        """At its terminal."""
        assert self._typed is not None
        os.write(self._typed, text.encode())

    def until(self, done: Callable[[], bool], *, runs: bool = True) -> None:
        """Wait; in vain where the program has ended."""
        began = time.monotonic()
        while not done():
            assert time.monotonic() - began < PATIENCE_S, self.said
            assert not runs or self.process.poll() is None, self.said
            time.sleep(0.1)

    def until_moving(self) -> None:
        """The robot is being driven."""
        self.until(lambda: driven(self.joints("rl/applied")))

    def ends(self, status: int) -> dict[str, Any]:
        """With that status; what `deployment.json` says then."""
        assert self.process.wait(PATIENCE_S) == status, self.said
        found: dict[str, Any] = json.loads((self.out / "deployment.json").read_text())
        return found

    def messages(self, topic: str) -> list[Any]:
        """Of the bag."""
        return [message for _, message in messages(self.out / "bag", f"/{self.robot.name}/{topic}")]

    def joints(self, topic: str) -> list[Any]:
        """JointStates of the bag."""
        return [TYPES.deserialize_cdr(message.data, KIND) for message in self.messages(topic)]

    def states(self) -> list[tuple[str, int]]:
        """Of the governor, and when it said so."""
        told = self.messages("rl/safety_state")
        return [(TYPES.deserialize_cdr(message.data, STATUS).message, message.publish_time) for message in told]

    def rested(self) -> bool:
        """It was driven, and the last that it was sent was the brake, to its end."""
        sent = self.joints("rl/applied")
        state, time_ns = self.states()[-1]
        braked = sent[-1].header.frame_id == "hold" and speed(sent[-1]) < FAST_RAD_S / 2
        quiet = state in STOPPED and time_ns > self.messages("rl/applied")[-1].publish_time
        return driven(sent) and braked and quiet

    def stands(self) -> bool:
        """As measured last."""
        return max(map(speed, self.joints("joint_states")[-5:])) < STANDING_RAD_S

    def nodes(self) -> dict[str, int]:
        """Processes that it started, by the name of their node."""
        found = {}
        for number in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            for word in Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0"):
                if word.startswith(b"robot_rl.hardware."):
                    found[word.decode().split(".")[-1]] = int(number)
        return found

    def gone(self, nodes: dict[str, int]) -> bool:
        """None of them runs."""
        return not any(Path(f"/proc/{number}").exists() for number in nodes.values())

    def close(self) -> None:
        """End it, and see that nothing of it stays."""
        left = self.nodes() if self.process.poll() is None else {}
        self.process.kill()
        self.process.wait(20)
        for number in left.values():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGCONT)  # one that a test has stopped could not end
        self.until(lambda: self.gone(left), runs=False)
        if self._typed is not None:
            os.close(self._typed)

    def _read(self, master: int) -> None:
        with self._log.open("ab", buffering=0) as log:
            while True:
                try:
                    read = os.read(master, 4096)
                except OSError:  # it has ended
                    return
                log.write(read)


def speed(message: Any) -> float:
    """Of the fastest joint, in rad/s."""
    return float(np.abs(message.velocity).max())


def driven(sent: list[Any]) -> bool:
    """By the policy."""
    return any(speed(message) > FAST_RAD_S and message.header.frame_id not in ("hold", "home") for message in sent)


@pytest.fixture
def deploy(policy: Path, description: Path, tmp_path: Path) -> Iterator[Callable[..., Deployment]]:
    """Starts one; nothing of it is left afterwards."""
    before = shared_memory()
    started: list[Deployment] = []

    def start(*words: str, terminal: bool = False) -> Deployment:
        started.append(Deployment(policy, description, tmp_path, *words, terminal=terminal))
        return started[-1]

    yield start
    for found in started:
        found.close()
    assert shared_memory() <= before


def test_episodes_leave_a_bag_and_a_timing_report(deploy: Any) -> None:
    deployment = deploy("episodes=2", "environment.maximum_steps=15")
    told = deployment.ends(0)
    assert [play["reason"] for play in told["episodes"]] == ["over", "over"], told
    assert (told["steps"], told["causes"], told["ended_by"]) == (30, [], None)
    out, robot = deployment.out, deployment.robot
    timing = json.loads((out / "timing.json").read_text())
    assert timing["inference"]["count"] > 5
    assert 0 < timing["sensor_to_command"]["p50_ms"] < 1000
    assert timing["sensor_to_command"]["max_ms"] >= timing["sensor_to_command"]["p99_9_ms"]
    assert (out / "timing.png").stat().st_size > 10_000
    with AnyReader([out / "bag"]) as reader:
        kinds = {connection.topic: connection.msgcount for connection in reader.connections}
    assert kinds[f"/{robot.name}/rl/action"] >= 28
    assert kinds[robot.joint_states.topic] > 100
    stages = latencies(out / "bag", robot)
    whole, first, second = (stages[key] for key in ("sensor_to_command", "sensor_to_action", "action_to_command"))
    assert len(whole) > 10
    assert first.min() > 0
    assert first.min() + second.min() <= whole.min()
    assert whole.max() <= first.max() + second.max()
    assert deployment.rested()
    assert deployment.states()[-1][0] == "disarmed"


def test_a_loop_that_hung_finds_the_robot_stopped_and_the_person_at_its_terminal_clears_it(deploy: Any) -> None:
    deployment = deploy(LONG, terminal=True)
    deployment.until_moving()
    began_ns = time.time_ns()
    deployment.process.send_signal(signal.SIGSTOP)
    deployment.until(lambda: deployment.states()[-1][0] == "fault")
    stopped_ns = next(time_ns for state, time_ns in deployment.states() if state == "fault")
    robot = deployment.robot
    declared_s = robot.watchdogs.heartbeat_stop_s + stop_time_s(robot.limits) + 2 * robot.control_period_s
    assert (stopped_ns - began_ns) / 1e9 < declared_s + SLACK_S
    assert deployment.rested()
    deployment.until(deployment.stands)
    moved = len(deployment.messages("rl/action"))
    deployment.process.send_signal(signal.SIGCONT)
    deployment.until(lambda: "type `clear` here; waiting 600 s" in deployment.said)
    deployment.type("home\n")
    deployment.until(lambda: "'home' means nothing here: `clear`, or Ctrl-C to end" in deployment.said)
    assert deployment.states()[-1][0] == "fault"
    deployment.type("clear\n")
    deployment.until(lambda: len(deployment.messages("rl/action")) > moved + 10)
    deployment.type("\x03")
    told = deployment.ends(0)
    assert told["ended_by"] == "Ctrl-C"
    assert [play["reason"] for play in told["episodes"]] == ["over", "stopped"]
    assert told["causes"][0].startswith("no heartbeat")
    assert told["counts"]["environment: stopped"] == 1
    assert deployment.rested()


@pytest.mark.slow
def test_without_a_terminal_nobody_can_clear_a_fault_so_it_ends_and_says_so(deploy: Any) -> None:
    deployment = deploy(LONG)
    deployment.until_moving()
    deployment.process.send_signal(signal.SIGSTOP)
    deployment.until(lambda: deployment.states()[-1][0] == "fault")
    deployment.process.send_signal(signal.SIGCONT)
    told = deployment.ends(2)
    assert told["ended_by"].startswith("the robot has stopped: no heartbeat")
    assert "`clear` has to be typed at the terminal of this program, which has none" in told["ended_by"]
    assert told["ended_by"] in deployment.said
    assert [play["reason"] for play in told["episodes"]] == ["over"]
    assert told["steps"] > 0


@pytest.mark.slow
def test_ctrl_c_while_the_robot_waits_for_a_person_reports_what_was_played(deploy: Any) -> None:
    deployment = deploy(LONG, terminal=True)
    deployment.until_moving()
    os.kill(deployment.nodes()["operator_node"], signal.SIGSTOP)  # no permit any more
    deployment.until(lambda: "type `clear` here" in deployment.said)
    deployment.type("\x03")
    told = deployment.ends(0)
    assert told["ended_by"] == "Ctrl-C"
    assert [play["reason"] for play in told["episodes"]] == ["over"]
    assert told["causes"][0].startswith("no permit of the operator")
    assert (deployment.out / "timing.json").exists()


@pytest.mark.slow
def test_a_dry_run_decides_and_commands_nothing(deploy: Any) -> None:
    deployment = deploy("dry_run=true", "max_seconds=2")
    told = deployment.ends(0)
    assert told["steps"] > 5
    assert told["ended_by"] == "max_seconds=2"
    assert len(deployment.messages("joint_states")) > 20
    for topic in ("rl/action", "rl/applied", "joint_position_controller/commands"):
        assert len(deployment.messages(topic)) == 0, topic


@pytest.mark.slow
def test_ctrl_c_ends_it_with_a_report_and_a_whole_bag(deploy: Any) -> None:
    deployment = deploy(LONG)
    deployment.until_moving()
    deployment.process.send_signal(signal.SIGINT)
    told = deployment.ends(0)
    assert told["ended_by"] == "Ctrl-C"
    assert [play["reason"] for play in told["episodes"]] == ["stopped"]
    assert deployment.rested()
    with AnyReader([deployment.out / "bag"]) as reader:
        assert sum(connection.msgcount for connection in reader.connections) == reader.message_count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (signal.SIGKILL, "the recorder died with status -9"),
        (signal.SIGSTOP, r"the recorder has written nothing for 1\d s"),  # 10 s, and what the step took
    ],
)
def test_a_recorder_that_dies_or_hangs_ends_the_run_and_says_so(deploy: Any, happens: int, said: str) -> None:
    deployment = deploy(LONG)
    deployment.until_moving()
    before = count(deployment.out / "bag" / FILE)
    os.kill(deployment.nodes()["recorder_node"], happens)
    told = deployment.ends(1)
    assert re.fullmatch(said, told["ended_by"])
    assert told["episodes"][0]["reason"] == "stopped"
    assert told["causes"] == []
    assert count(deployment.out / "bag" / FILE) >= before


@pytest.mark.slow
@pytest.mark.parametrize("node", ["governor_node", "mujoco_arm_node"])
def test_a_dead_governor_or_robot_ends_the_run_and_what_was_played_is_reported(deploy: Any, node: str) -> None:
    deployment = deploy(LONG)
    deployment.until_moving()
    os.kill(deployment.nodes()[node], signal.SIGKILL)
    told = deployment.ends(2)
    assert f"the process {node} of the simulated robot ended with status -9" in told["ended_by"]
    assert told["steps"] > 5
    assert told["episodes"][0]["reason"] == "over"
    why = "nothing from the governor" if node == "governor_node" else ("no new joint states", "no wrench")
    assert told["causes"][0].startswith(why)
    assert len(deployment.messages("rl/action")) > 5


@pytest.mark.slow
def test_a_simulated_robot_that_does_not_start_is_not_waited_for(deploy: Any) -> None:
    deployment = deploy("environment.simulation={physics_step_s: 0.003}")
    assert deployment.process.wait(PATIENCE_S / 3) == 2
    assert "does not divide control_period_s" in deployment.said
    assert "the process mujoco_arm_node of the simulated robot ended with status" in deployment.said


@pytest.mark.slow
def test_a_killed_loop_leaves_no_process_and_a_bag_that_says_how_the_robot_stopped(deploy: Any) -> None:
    deployment = deploy(LONG)
    deployment.until_moving()
    left = deployment.nodes()
    before = count(deployment.out / "bag" / FILE)
    deployment.process.kill()
    deployment.process.wait(10)
    deployment.until(lambda: deployment.gone(left), runs=False)
    assert set(left) == ROBOT | {"recorder_node"}
    assert count(deployment.out / "bag" / FILE) > before
    assert deployment.rested()
