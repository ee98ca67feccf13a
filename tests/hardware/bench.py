"""A simulated robot, a governor, an operator and a policy, each in a process of its own, and what becomes of them.

The test itself commands nothing: it listens, asks for what a person asks for, and breaks things.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import yaml
from mcap.exceptions import EndOfFile
from mcap.records import Channel, Message
from mcap.stream_reader import StreamReader
from robots import ask

from robot_rl.hardware import ros
from robot_rl.hardware.bag_writer import FILE
from robot_rl.hardware.commands import stop_time_s
from robot_rl.hardware.description import load
from robot_rl.hardware.domains import Domain
from robot_rl.hardware.faults import Faults

PATIENCE_S = 300.0  # on a busy machine
TURN_NS, KEPT = 10_000_000, 10_000
BEAT_NS = 50_000_000  # of `policy_process.py`
STOOD = 20  # joint states in a row
STANDING_RAD_S = 0.02  # rad/s: slower is standing
SOURCE = {"policy": str(Path(__file__).with_name("policy_process.py"))}
STOPPED = ("fault", "disarmed")


def describe(folder: Path, patience: float = 1.0) -> Path:
    """The simulated Panda at rates that a busy machine of two cores keeps, and with the patience that it needs.

    Args:
        folder: for the file.
        patience: with 1, a silence of 0.2 s is not missed, and one of 2 s is. All times grow with it.
    """
    data = yaml.safe_load((Path(__file__).parents[2] / "configs/robot/sim_panda.yaml").read_text())
    data |= {"control_period_s": 0.02, "controller_rate_hz": 10}
    data["home"]["speed_scale"] = 0.1
    data["joints"][0]["home_rad"] = 0.09  # so that homing takes a while
    data["command"] |= {"rate_hz": 50, "maximum_age_s": 0.5 * patience}
    topics = data["topics"]
    topics.pop("cameras")
    sensors = [topics[key] for key in ("joint_states", "wrench", "tool_pose", "outcome")]
    for topic in (*sensors, *topics["points"].values()):
        topic |= {"rate_hz": 50, "maximum_age_s": 0.5 * patience}
    silences = (
        "observation_stop_s",
        "heartbeat_stop_s",
        "permit_stop_s",
        "frozen_s",
        "clock_jump_s",
        "takeover_stop_s",
    )
    dogs = data["watchdogs"]
    dogs |= dict.fromkeys((*silences, "answer_age_s"), 1.0 * patience)
    dogs |= {
        "command_hold_s": 0.5 * patience,
        "command_stop_s": 1.5 * patience,
        "missed_deadlines": round(50 * patience),
    }
    path = folder / "bench_panda.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def messages(folder: Path, *topics: str) -> list[tuple[str, Message]]:
    """What a bag, which may still be written, holds of some topics, in the order in which it was sent."""
    names: dict[int, str] = {}
    found: list[tuple[str, Message]] = []
    if not (folder / FILE).exists():
        return found
    with (folder / FILE).open("rb") as file:
        records = iter(StreamReader(file).records)
        while True:
            try:
                record = next(records)
            except (StopIteration, EndOfFile):
                return sorted(found, key=lambda entry: entry[1].publish_time)
            if isinstance(record, Channel):
                names[record.id] = record.topic
            elif isinstance(record, Message) and names[record.channel_id] in topics:
                found.append((names[record.channel_id], record))


@dataclass(frozen=True)
class Change:
    """A state of the governor, and when it said so on this machine's wall clock."""

    state: str
    causes: tuple[str, ...]
    time_ns: int


class Bench:
    """All of it, in a ROS domain of its own. Start it in a `with`."""

    def __init__(self, path: Path) -> None:
        """Start everything."""
        self.path, self.robot = path, load(path)
        self._domain = Domain()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.said: list[str] = []  # by the operator's terminal
        self.changes: list[Change] = []
        self.states: deque[Any] = deque(maxlen=100)  # joint states
        self.applied: list[Any] = []
        self.heard: dict[str, deque[int]] = {name: deque(maxlen=KEPT) for name in ("governor", "policy", "robot")}
        """When those said what they say in each of their periods, by their own stamps."""
        self.revoked_ns: int | None = None  # when the operator's terminal took the permit away last
        self._obeyed: SimpleQueue[int] = SimpleQueue()  # when the policy began to do what it was told
        self.device: list[float] | None = None  # the person's velocities, while he holds the button
        self._spoken_s = 0.0
        try:
            for name in ("mujoco_arm", "governor", "operator", "policy"):
                self.start(name)
            self._join()
            self.type("permit")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def domain_id(self) -> int:
        """Of ROS."""
        return self._domain.number

    @property
    def brake_s(self) -> float:
        """From the beginning of a stop to rest, as declared."""
        return stop_time_s(self.robot.limits) + 2 * self.robot.control_period_s

    def start(self, name: str) -> None:
        """A process, or its successor."""
        environ = {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "egl", **os.environ}
        parent = str(os.getpid())
        if name in ("mujoco_arm", "governor"):
            words, piped = ["-m", f"robot_rl.hardware.{name}_node", str(self.path), "--parent", parent], False
        elif name == "operator":  # a person's, so it reads
            words, piped = ["-m", "robot_rl.hardware.operator_node", str(self.path)], True
        else:
            words, piped = [SOURCE[name], str(self.path), parent], True
        self.processes[name] = subprocess.Popen(
            [sys.executable, *words],
            env=ros.environment(environ, domain_id=self.domain_id),
            stdin=subprocess.PIPE if piped else None,
            stdout=subprocess.PIPE if piped else None,
        )
        take = {"operator": self.said.append, "policy": lambda line: self._obeyed.put(int(line))}.get(name)
        if take is not None:
            Thread(target=read, args=[self.processes[name].stdout, take], daemon=True).start()

    def end(self, name: str) -> None:
        """A process, at once."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(10)
        if process.stdin is not None:
            with suppress(BrokenPipeError):  # it had ended by itself, with something still to read
                process.stdin.close()

    def signal(self, name: str, number: int) -> None:
        """To a process."""
        self.processes[name].send_signal(number)

    def type(self, line: str) -> None:
        """In the operator's terminal."""
        self._write("operator", line)

    def does(self, what: str) -> int:
        """What the policy does from now on. Returns when it began to, in nanoseconds of the wall clock."""
        self._write("policy", what)
        self.spin(lambda: not self._obeyed.empty())
        return self._obeyed.get()

    # What happens

    @property
    def state(self) -> str:
        """Of the governor; empty before it was heard."""
        return self.changes[-1].state if self.changes else ""

    def spin(self, done: Callable[[], bool], limit_s: float = PATIENCE_S) -> None:
        """Hear and speak until `done`."""
        began = time.monotonic()
        while not done():
            assert time.monotonic() - began < limit_s, f"not within {limit_s:g} s: {self.changes[-3:]} {self.said[-5:]}"
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended with status {process.poll()}"
            if time.monotonic() - self._spoken_s > 0.05:
                self._spoken_s = time.monotonic()
                if self.device is not None:
                    self._joy.publish(self._types.Joy(axes=self.device, buttons=[1]))
            self._inbox.wait(TURN_NS)
            self._take()

    def spin_for(self, seconds: float) -> None:
        """Hear and speak so long."""
        began = time.monotonic()
        self.spin(lambda: time.monotonic() - began > seconds)

    def call(self, service: str) -> tuple[bool, str]:
        """Of the governor; asked again where the answer is lost."""
        answer = self._call(f"governor/{service}", self._types.Trigger, self._types.Trigger.Request())
        return answer.success, answer.message

    def set_faults(self, **values: Any) -> None:
        """Of the arm; those that are not named are none."""
        changed = {
            f"fault.{name}": "" if value == () else value
            for name, value in (
                {name: getattr(Faults(), name) for name in Faults.__dataclass_fields__} | values
            ).items()
        }
        parameters = [self._types.Parameter(name, value=value).to_parameter_msg() for name, value in changed.items()]
        request = self._types.SetParameters.Request(parameters=parameters)
        answer = self._call("arm/set_parameters", self._types.SetParameters, request)
        assert all(result.successful for result in answer.results), answer

    def activate(self) -> None:
        """Until the robot follows the policy, and moves; whatever it takes."""
        began, said = time.monotonic(), [""]
        while True:
            assert time.monotonic() - began < PATIENCE_S, said[-5:]
            if self.state == "fault":
                self.type("clear")
                self.spin(lambda: self.state != "fault")
            elif self.state == "disarmed" and said[-1].count("ask for `home`"):
                self.call("home")
                self.spin_for(0.2)
                self.spin(lambda: self.state in STOPPED)
                said.append("")
            elif self.state == "disarmed":
                said.append(self.call("arm")[1])
                self.spin_for(0.1)
            elif self.state == "active":
                self.spin(lambda: self.state != "active" or self.speed() > 2 * STANDING_RAD_S)
                if self.state == "active":
                    return
            else:
                self.spin_for(0.05)

    def speed(self) -> float:
        """Of the fastest joint, as measured last, in rad/s."""
        return max(map(abs, self.states[-1].velocity)) if self.states else 0.0

    def stands(self) -> int:
        """Until the robot stands, and has for a while. Returns the stamp of when it was first measured to stand."""
        self.hear(STOOD)
        self.spin(lambda: all(map(stood, list(self.states)[-STOOD:])))
        standing = list(self.states)
        while stood(standing[-1]) and len(standing) > 1 and stood(standing[-2]):
            standing.pop()
        return stamp_ns(standing[-1])

    def hear(self, count: int) -> None:
        """Nothing but new joint states, so many."""
        self.states.clear()
        self.spin(lambda: len(self.states) >= count)

    def late_s(self, since_ns: int, until_ns: int, *names: str) -> float:
        """By how much the governor, the robot or the policy ran late between two times: so busy was the machine."""
        robot = self.robot
        periods_ns = {
            "governor": robot.control_period_s * 1e9,
            "robot": 1e9 / robot.joint_states.rate_hz,
            "policy": BEAT_NS,
        }
        return sum(behind_s(self.heard[name], since_ns, until_ns, periods_ns[name]) for name in names)

    def close(self) -> None:
        """End everything; nothing is left behind."""
        for name in list(self.processes):
            self.processes[name].send_signal(signal.SIGCONT)
            self.end(name)
        if hasattr(self, "_context") and self._context.ok():
            self._calls.destroy_node()
            self._node.destroy_node()
            self._rclpy.shutdown(context=self._context)
        self._domain.close()

    # ------------------------------------------------------------------------------------------------------------------
    def _join(self) -> None:
        """Become a participant that only listens."""
        ros.adopt(os.environ, domain_id=self.domain_id)
        from types import SimpleNamespace

        import rclpy
        from diagnostic_msgs.msg import DiagnosticStatus
        from rcl_interfaces.srv import SetParameters
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.parameter import Parameter
        from sensor_msgs.msg import JointState, Joy
        from std_msgs.msg import Bool, Header
        from std_srvs.srv import Trigger

        from robot_rl.hardware.ros_io import Inbox, causes_of, profile

        self._rclpy, self._context = rclpy, Context()
        self._types = SimpleNamespace(
            Trigger=Trigger,
            Joy=Joy,
            Parameter=Parameter,
            SetParameters=SetParameters,
            Status=DiagnosticStatus,
            Beat=Header,
            Permit=Bool,
            causes_of=causes_of,
        )
        rclpy.init(context=self._context, domain_id=self.domain_id)
        namespace = f"/{self.robot.name}"
        self._node, self._calls = (
            rclpy.create_node(name, namespace=namespace, context=self._context, enable_rosout=False)
            for name in ("bench", "bench_calls")
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._calls)
        self._clients: dict[str, Any] = {}
        self._inbox = Inbox(self._node)
        self._inbox.subscribe(JointState, self.robot.joint_states.topic, profile(depth=20), self._measured)
        self._inbox.subscribe(JointState, "rl/applied", profile(depth=50), lambda m, _: self.applied.append(m))
        subscribe = self._node.create_subscription
        self._status = subscribe(DiagnosticStatus, "rl/safety_state", lambda _: None, profile(latched=True, depth=20))
        beats = profile(reliable=False, depth=200)
        self._beats = {
            "governor": subscribe(Header, "rl/heartbeat/governor", lambda _: None, beats),
            "policy": subscribe(Header, "rl/heartbeat", lambda _: None, beats),
        }
        self._permits = subscribe(Bool, "rl/permit", lambda _: None, profile(depth=20))
        self._joy = self._node.create_publisher(Joy, "rl/takeover", profile(reliable=False))

    def _take(self) -> None:
        while (taken := self._status.handle.take_message(self._types.Status, False)) is not None:
            message, info = taken
            causes = self._types.causes_of(message)
            if not self.changes or (message.message, causes) != (self.changes[-1].state, self.changes[-1].causes):
                self.changes.append(Change(message.message, causes, info["source_timestamp"]))
        for name, subscription in self._beats.items():
            while (taken := subscription.handle.take_message(self._types.Beat, False)) is not None:
                self.heard[name].append(taken[1]["source_timestamp"])
        while (taken := self._permits.handle.take_message(self._types.Permit, False)) is not None:
            if not taken[0].data:
                self.revoked_ns = taken[1]["source_timestamp"]

    def _measured(self, message: Any, _: str) -> None:
        self.states.append(message)
        self.heard["robot"].append(stamp_ns(message))

    def _call(self, service: str, kind: Any, request: Any) -> Any:
        if service not in self._clients:
            self._clients[service] = self._calls.create_client(kind, service)
        return ask(self._clients[service], request, self.spin, serve=lambda: self._executor.spin_once(timeout_sec=0))

    def _write(self, name: str, line: str) -> None:
        stream = self.processes[name].stdin
        assert stream is not None
        stream.write(f"{line}\n".encode())
        stream.flush()


def read(stream: Any, take: Callable[[str], object]) -> None:
    """What a process says, a line at a time, until it ends."""
    with stream:
        for line in stream:
            take(line.decode().strip())


def stamp_ns(message: Any) -> int:
    """Of its header."""
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def stood(message: Any) -> bool:
    """When these joint states were measured."""
    return bool(max(map(abs, message.velocity)) < STANDING_RAD_S)


def behind_s(times_ns: Sequence[int], since_ns: int, until_ns: int, period_ns: float) -> float:
    """By how much a process that does something every period did it late."""
    times = [since_ns, *(time_ns for time_ns in times_ns if since_ns < time_ns < until_ns), until_ns]
    return sum(max(b - a - 1.5 * period_ns, 0) for a, b in pairwise(times)) / 1e9
