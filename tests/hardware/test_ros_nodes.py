"""The governor's node and a robot of joints, in processes of their own, over real DDS on this machine."""

import atexit
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from robots import NEEDS_ROS, ask, shared_memory

from robot_rl.hardware.description import COMMAND_TYPES, TOOL_MODES, load
from robot_rl.hardware.domains import Domain
from robot_rl.hardware.ros import environment, start

CLAIM = Domain()  # until this process ends
atexit.register(CLAIM.close)
DOMAIN = CLAIM.number
pytestmark = NEEDS_ROS


def start_node(name: str, description: Path) -> subprocess.Popen[bytes]:
    """One that ends with this process."""
    words = [str(description), "--parent", str(os.getpid())]
    return start(f"robot_rl.hardware.{name}_node", words, os.environ, domain_id=DOMAIN)


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Panda at rates that a busy machine of two cores keeps, and with the patience that it needs."""
    data = yaml.safe_load((Path(__file__).parents[2] / "configs/robot/panda.yaml").read_text())
    data["control_period_s"] = 0.02
    data["command"] |= {"rate_hz": 50, "maximum_age_s": 0.5}
    for key in ("joint_states", "wrench"):
        data["topics"][key] |= {"rate_hz": 50, "maximum_age_s": 0.3}
    data["topics"]["wrench"]["reliability"] = "reliable"
    data["watchdogs"] |= {
        "observation_stop_s": 1.0,
        "heartbeat_stop_s": 1.0,
        "permit_stop_s": 1.0,
        "command_hold_s": 0.5,
        "command_stop_s": 2.0,
        "answer_age_s": 1.0,
        "missed_deadlines": 25,
        "clock_jump_s": 1.0,
    }
    path = tmp_path_factory.mktemp("robot") / "panda.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


class Operator:
    """A policy and an operator in one process, in the test's own thread."""

    def __init__(self) -> None:
        os.environ.update(environment(os.environ, domain_id=DOMAIN))
        import rclpy
        from diagnostic_msgs.msg import DiagnosticStatus
        from sensor_msgs.msg import JointState
        from std_msgs.msg import Bool, Header
        from std_srvs.srv import Trigger

        from robot_rl.hardware.ros_io import profile

        self.rclpy, self.types = rclpy, (JointState, Bool, Header, Trigger)
        rclpy.init()
        self.node = rclpy.create_node("operator", namespace="/panda")
        self.clients: dict[str, Any] = {}
        self.states: list[Any] = []
        self.applied: list[Any] = []
        self.status: Any = None
        subscribe, publish = self.node.create_subscription, self.node.create_publisher
        subscribe(JointState, "/joint_states", self.states.append, profile())
        subscribe(JointState, "rl/applied", self.applied.append, profile(depth=10))
        subscribe(DiagnosticStatus, "rl/safety_state", lambda m: setattr(self, "status", m), profile(latched=True))
        self.action = publish(JointState, "rl/action", profile())
        self.heartbeat = publish(Header, "rl/heartbeat", profile(reliable=False))
        self.permit = publish(Bool, "rl/permit", profile())
        self.silent = False
        self.offset = 0.0
        self._spoken = 0.0

    def spin(self, done: Callable[[], bool], limit_s: float = 60.0) -> float:
        """Speak at 20 Hz until `done`."""
        joint_state, boolean, header, _ = self.types
        began = time.monotonic()
        while not done():
            assert time.monotonic() - began < limit_s, f"not within {limit_s} s; {self.status}"
            self.rclpy.spin_once(self.node, timeout_sec=0.02)
            if time.monotonic() - self._spoken > 0.05 and not self.silent:
                self._spoken = time.monotonic()
                self.heartbeat.publish(header())
                self.permit.publish(boolean(data=True))
                if self.states:
                    newest = self.states[-1]
                    target = [x + self.offset for x in HOME]
                    self.action.publish(joint_state(header=newest.header, name=newest.name, position=target))
        return time.monotonic() - began

    def call(self, service: str) -> tuple[bool, str]:
        if service not in self.clients:
            self.clients[service] = self.node.create_client(self.types[3], service)
        answer = ask(self.clients[service], self.types[3].Request(), self.spin)
        return answer.success, answer.message

    def state(self) -> str:
        return "" if self.status is None else str(self.status.message)

    def measured(self) -> float:
        return float(self.states[-1].position[0]) - HOME[0]


HOME = [0.0, -0.785398, 0.0, -2.356194, 0.0, 1.570796, 0.785398]


@pytest.fixture(scope="module")
def operator() -> Iterator[Operator]:
    found = Operator()
    yield found
    found.rclpy.shutdown()


@pytest.fixture
def nodes(description: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    shared = shared_memory()
    found = {name: start_node(name, description) for name in ("joint_robot", "governor")}
    yield found
    for process in found.values():
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(10)
    assert shared_memory() <= shared


def active(operator: Operator) -> None:
    operator.silent, operator.offset = False, 0.0
    operator.states.clear()
    operator.spin(lambda: len(operator.states) > 5)
    deadline = time.monotonic() + 60
    while (answer := operator.call("governor/arm")) != (True, "") and operator.state() not in ("arming", "active"):
        assert time.monotonic() < deadline, answer
    operator.spin(lambda: operator.state() == "active")


def test_a_policy_moves_the_robot_and_a_signal_ends_it_at_rest(
    operator: Operator, nodes: dict[str, subprocess.Popen[bytes]]
) -> None:
    active(operator)
    operator.offset = 0.08
    operator.spin(
        lambda: len(operator.states) > 5 and {x.position[0] - HOME[0] for x in operator.states[-5:]} == {0.08}
    )
    assert any(message.header.frame_id not in ("hold", "home") for message in operator.applied)
    nodes["governor"].send_signal(signal.SIGTERM)
    assert nodes["governor"].wait(10) == 0
    here = operator.measured()
    began = time.monotonic()
    operator.spin(lambda: time.monotonic() - began > 0.5)
    assert operator.measured() == here


def test_a_dead_policy_stops_the_robot_which_stays_stopped_until_it_is_cleared(
    operator: Operator, nodes: dict[str, subprocess.Popen[bytes]]
) -> None:
    active(operator)
    operator.silent = True
    took = operator.spin(lambda: operator.state() == "fault")
    assert took < 1.0 + 0.3 + 2.0  # the shortest silence, the brake, and a busy machine
    operator.silent = False
    success, message = operator.call("governor/arm")
    assert not success
    assert "fault" in message
    answer = operator.call("governor/clear")
    assert answer == (True, "") or "not in fault" in answer[1]  # the second time, where the first answer was lost
    operator.spin(lambda: operator.state() == "disarmed")
    active(operator)


def test_a_dead_robot_stops_the_governor(operator: Operator, nodes: dict[str, subprocess.Popen[bytes]]) -> None:
    active(operator)
    nodes["joint_robot"].kill()
    took = operator.spin(lambda: operator.state() == "fault")
    assert took < 1.0 + 0.3 + 2.0
    assert "no new joint states" in operator.status.values[0].value or "no wrench" in operator.status.values[0].value


def test_a_killed_governor_leaves_the_robot_standing_and_its_successor_disarmed(
    operator: Operator, nodes: dict[str, subprocess.Popen[bytes]], description: Path
) -> None:
    active(operator)
    operator.offset = 0.08
    operator.spin(lambda: operator.measured() > 0.01)
    nodes["governor"].kill()
    nodes["governor"].wait(10)
    operator.states.clear()
    operator.spin(lambda: len(operator.states) > 20)
    assert len({tuple(message.position) for message in operator.states[5:]}) == 1
    operator.status = None
    nodes["governor"] = start_node("governor", description)
    operator.spin(lambda: operator.state() == "disarmed")
    operator.applied.clear()
    operator.spin(lambda: len(operator.states) > 60)
    assert operator.applied == []


def test_a_governor_that_hung_stops_the_robot_when_it_goes_on(
    operator: Operator, nodes: dict[str, subprocess.Popen[bytes]]
) -> None:
    active(operator)
    nodes["governor"].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    operator.spin(lambda: time.monotonic() - began > 2.0)
    nodes["governor"].send_signal(signal.SIGCONT)
    assert operator.spin(lambda: operator.state() == "fault") < 2.0
    assert any("missed" in value.value for value in operator.status.values)


def test_two_processes_that_want_the_robot_are_refused_and_only_one_moves_it(
    operator: Operator, nodes: dict[str, subprocess.Popen[bytes]]
) -> None:
    active(operator)
    joint_state, _, header, _ = operator.types
    context = operator.rclpy.Context()
    operator.rclpy.init(context=context)
    other = operator.rclpy.create_node("other", namespace="/panda", context=context)
    action = other.create_publisher(joint_state, "rl/action", 1)
    heartbeat = other.create_publisher(header, "rl/heartbeat", 1)

    def refused() -> int:
        return sum(int(value.value) for value in operator.status.values if value.key == "authority")

    before = refused()

    def intrude() -> bool:
        heartbeat.publish(header())
        newest = operator.states[-1]
        target = [x + 0.5 for x in HOME]
        action.publish(joint_state(header=newest.header, name=newest.name, position=target))
        return refused() > before + 20

    operator.spin(intrude)
    assert operator.state() == "active"
    assert abs(operator.measured()) < 1e-6
    assert operator.call("governor/disarm") == (True, "")
    operator.spin(lambda: intrude() and operator.state() == "disarmed")
    for _ in range(5):
        intrude()
    success, message = operator.call("governor/arm")
    assert not success
    assert "2 processes send heartbeats" in message
    other.destroy_node()
    operator.rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(mode, kind) for mode, kinds in COMMAND_TYPES.items() if mode not in TOOL_MODES for kind in kinds],
)
def test_what_a_controller_is_sent_is_what_left(operator: Operator, description: Path, mode: str, kind: str) -> None:
    from rclpy.serialization import deserialize_message

    from robot_rl.hardware.cdr import JointWriter
    from robot_rl.hardware.ros_io import command_message, commanded, message_class

    robot = load(description)
    topic = replace(robot.command, type=kind)
    position, velocity = [0.1 * k for k in range(7)], [-0.2 * k for k in range(7)]
    message = command_message(topic, JointWriter(robot.names), position, velocity, mode, 0.005)
    if isinstance(message, bytes):
        message = deserialize_message(message, message_class(topic))
    assert isinstance(message, message_class(topic))
    assert commanded(message, robot.names, mode) == (position if mode == "joint_position" else velocity)
    if kind == "trajectory_msgs/msg/JointTrajectory":
        assert message.points[0].time_from_start.nanosec == 5_000_000


def test_a_robot_that_is_commanded_by_velocities_stops_when_they_end(
    operator: Operator, description: Path, tmp_path: Path
) -> None:
    data = yaml.safe_load(description.read_text())
    data["command"]["mode"] = "joint_velocity"
    path = tmp_path / "panda.yaml"
    path.write_text(yaml.safe_dump(data))
    nodes = [start_node(name, path) for name in ("joint_robot", "governor")]
    try:
        active(operator)
        operator.offset = 0.06
        operator.spin(lambda: operator.measured() > 0.03)
        nodes[1].kill()
        operator.spin(lambda: len({message.position[0] for message in operator.states[-20:]}) == 1)
        assert operator.measured() < 0.03 + 2.175 * (0.5 + 0.3)  # at full speed until the lease ends, on a busy machine
    finally:
        for process in nodes:
            process.kill()
            process.wait(10)
