"""Ways of dying, on real processes over real DDS: each ends in its declared state within its declared time.

What needs neither a kill nor a real clock is in `test_governor_faults.py`, in fake time; of cameras, of dead joints and
of lost messages in `test_ros_environment.py`, in lockstep.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from adversary import excess, tool_points
from bench import PATIENCE_S, STOPPED, Bench, describe, messages
from robots import NEEDS_ROS, shared_memory
from test_bag_writer import KIND, TYPES, count

from robot_rl.errors import InputError
from robot_rl.hardware import ros
from robot_rl.hardware.bag_writer import FILE, METADATA
from robot_rl.hardware.description import Robot
from robot_rl.hardware.domains import Domain

pytestmark = [*NEEDS_ROS, pytest.mark.slow]  # minutes of waiting for watchdogs
TRIES = 4  # of a case, where the machine was so busy that the robot stopped for another reason
SLACK_S = 0.25  # of signals and messages on their way, beyond what those were late whose own stamps say so
RESTED_S = 0.5  # for the springs of the arm to come to rest
BEYOND = ("far positions", "fast velocities")
STATUS = "diagnostic_msgs/msg/DiagnosticStatus"


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return describe(tmp_path_factory.mktemp("robot"))


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all that the tests of this file do."""
    return tmp_path_factory.mktemp("recorded") / "bag"


@pytest.fixture(scope="module")
def bench(description: Path, bag: Path) -> Iterator[Bench]:
    """One for all, recorded; what a test breaks it puts back."""
    before = shared_memory()
    with Bench(description) as found:
        recorder = record(found, bag)
        yield found
        recorder.send_signal(signal.SIGTERM)
        assert recorder.wait(30) == 0
    assert shared_memory() <= before


def record(bench: Bench, folder: Path) -> subprocess.Popen[bytes]:
    """Begin a bag."""
    words = [str(bench.path), "--output", str(folder), "--parent", str(os.getpid())]
    recorder = ros.start("robot_rl.hardware.recorder_node", words, os.environ, domain_id=bench.domain_id)
    bench.spin(lambda: (folder / METADATA).exists())
    return recorder


# What breaks, and what puts it back -----------------------------------------------------------------------------------
Act = Callable[[Bench], int | None]
"""Does something; returns when it began, in nanoseconds of the wall clock, or None: when it was done."""


def nothing(_: Bench) -> None:
    """It is as it was."""


def kill(name: str) -> Act:
    return lambda bench: bench.end(name)


def again(name: str) -> Act:
    def act(bench: Bench) -> None:
        bench.start(name)
        if name == "operator":
            bench.type("permit")

    return act


def hang(name: str) -> Act:
    return lambda bench: bench.signal(name, signal.SIGSTOP)


def wake(name: str) -> Act:
    return lambda bench: bench.signal(name, signal.SIGCONT)


def types(line: str) -> Act:
    return lambda bench: bench.type(line)


def revokes(bench: Bench) -> int:
    """From when the operator's terminal says so: that it is typed is not yet known to anybody."""
    bench.revoked_ns = None
    bench.type("stop")
    bench.spin(lambda: bench.revoked_ns is not None)
    assert bench.revoked_ns is not None
    return bench.revoked_ns


def calls(service: str) -> Act:
    def act(bench: Bench) -> None:
        assert bench.call(service) == (True, "")

    return act


def does(what: str) -> Act:
    return lambda bench: bench.does(what)


def arm_has(**faults: Any) -> Act:
    return lambda bench: bench.set_faults(**faults)


@dataclass(frozen=True)
class Case:
    """A way of dying that stops the robot, latched.

    Args:
        name: of it.
        breaks: does it.
        cause: what the governor says first, as a regular expression.
        dog: which watchdog has to notice, by its name in the description; empty where it is noticed at once.
        mends: puts everything back.
        lasts_s: for how long at least; it is not mended before the robot has stopped.
        extra_s: until it can be noticed at all.
        by: whose messages it is that break it, where it still speaks at its rate.
    """

    name: str
    breaks: Act
    cause: str
    dog: str
    mends: Act
    lasts_s: float = 0.0
    extra_s: float = 0.0
    by: tuple[str, ...] = ()


FLOOD_S = 0.5  # of it
POLICY = ("policy",)
INVALID_S = 3 / 10  # three commands of a policy of 10 Hz
NOBODY = r"no new joint states|no wrench"
SWING = does("swing")
HEALTHY = arm_has()
CASES = [
    Case("the policy is killed", kill("policy"), "no heartbeat", "heartbeat_stop_s", again("policy")),
    Case("the policy hangs for 2 s", hang("policy"), "no heartbeat", "heartbeat_stop_s", wake("policy"), lasts_s=2.0),
    Case("the policy hangs for good", hang("policy"), "no heartbeat", "heartbeat_stop_s", wake("policy")),
    Case(
        "the policy commands nothing for 2 s",
        does("no commands"),
        "no command of",
        "command_stop_s",
        SWING,
        lasts_s=2.0,
    ),
    Case("the policy commands nothing any more", does("no commands"), "no command of", "command_stop_s", SWING),
    Case("the policy commands without a heartbeat", does("no heartbeat"), "no heartbeat", "heartbeat_stop_s", SWING),
    Case("the policy sends NaN", does("nan"), "invalid commands.*NaN", "", SWING, extra_s=INVALID_S, by=POLICY),
    Case(
        "the policy sends infinity",
        does("infinity"),
        "invalid commands.*infinity",
        "",
        SWING,
        extra_s=INVALID_S,
        by=POLICY,
    ),
    Case(
        "the policy commands other joints",
        does("other joints"),
        "invalid commands.*elbow",
        "",
        SWING,
        extra_s=INVALID_S,
        by=POLICY,
    ),
    Case(
        "the policy answers what is old",
        does("old answers"),
        "invalid commands.* old",
        "",
        SWING,
        extra_s=INVALID_S,
        by=POLICY,
    ),
    Case(
        "the policy answers what never was",
        does("unknown answers"),
        "did not arrive",
        "",
        SWING,
        extra_s=INVALID_S,
        by=POLICY,
    ),
    Case("the policy floods", does("flood"), "floods", "", SWING, extra_s=FLOOD_S, by=POLICY),
    Case("the robot is killed", kill("mujoco_arm"), NOBODY, "observation_stop_s", again("mujoco_arm")),
    Case("the robot hangs for 2 s", hang("mujoco_arm"), NOBODY, "observation_stop_s", wake("mujoco_arm"), lasts_s=2.0),
    Case("the robot hangs for good", hang("mujoco_arm"), NOBODY, "observation_stop_s", wake("mujoco_arm")),
    Case("the robot is mute", arm_has(silent=True), NOBODY, "observation_stop_s", HEALTHY),
    Case(
        "the joint states repeat", arm_has(stuck="joint_states"), "have not changed", "frozen_s", HEALTHY, extra_s=0.3
    ),
    Case("the robot's clock jumps ahead", arm_has(clock_jump_s=3600.0), "jumped ahead", "", HEALTHY),
    Case(
        "the robot's clock is set back",
        arm_has(clock_jump_s=-3600.0),
        "set back|did not arrive|" + NOBODY,
        "observation_stop_s",
        HEALTHY,
    ),
    Case("the operator is killed", kill("operator"), "no permit", "permit_stop_s", again("operator")),
    Case("the operator hangs for 2 s", hang("operator"), "no permit", "permit_stop_s", wake("operator"), lasts_s=2.0),
    Case("the operator types stop", revokes, "took the permit away", "", types("permit")),
    Case("the operator calls stop", calls("stop"), "pressed stop", "", nothing),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_stops_the_robot_as_declared(bench: Bench, case: Case) -> None:
    for _ in range(TRIES):
        bench.activate()
        before = len(bench.changes)
        began = case.breaks(bench)
        began_ns = time.time_ns() if began is None else began
        try:
            bench.spin(lambda: bench.state == "fault")
            stopped = bench.changes[-1]
            bench.spin_for(case.lasts_s - (time.time_ns() - began_ns) / 1e9)
        finally:
            case.mends(bench)
        if re.search(case.cause, stopped.causes[0]):
            break
    silence_s = getattr(bench.robot.watchdogs, case.dog) if case.dog else 0.0
    assert re.search(case.cause, stopped.causes[0]), stopped
    late_s = bench.late_s(began_ns, stopped.time_ns, "governor", *case.by)
    took_s = (stopped.time_ns - began_ns) / 1e9
    assert took_s <= silence_s + case.extra_s + bench.brake_s + late_s + SLACK_S, (bench.changes[before:], late_s)
    bench.stands()
    bench.applied.clear()
    bench.spin_for(0.3)
    assert bench.state == "fault"  # it does not come back by itself
    assert bench.applied == []


@pytest.mark.parametrize("name", ["policy", "mujoco_arm", "governor", "operator"])
def test_a_hang_of_200_ms_changes_nothing(bench: Bench, name: str) -> None:
    for _ in range(TRIES):
        bench.activate()
        before = len(bench.changes)
        bench.signal(name, signal.SIGSTOP)
        time.sleep(0.2)
        bench.signal(name, signal.SIGCONT)
        bench.applied.clear()
        bench.spin_for(1.2)
        if len(bench.changes) == before:
            break
    assert [change.state for change in bench.changes[before:]] == []
    assert any(message.header.frame_id not in ("hold", "home") for message in bench.applied)


@pytest.mark.parametrize("ends", ["is killed", "hangs for 2 s", "hangs for good"])
def test_without_its_governor_the_robot_holds_by_itself(bench: Bench, ends: str) -> None:
    bench.activate()
    if ends == "is killed":
        bench.end("governor")
    else:
        bench.signal("governor", signal.SIGSTOP)
    began_ns = time.time_ns()
    stood_ns = bench.stands()
    late_s = bench.late_s(began_ns, stood_ns, "robot")
    assert (stood_ns - began_ns) / 1e9 <= bench.robot.command.maximum_age_s + RESTED_S + late_s + SLACK_S
    if ends == "hangs for 2 s":
        bench.spin_for(2.0 - (time.time_ns() - began_ns) / 1e9)
        bench.signal("governor", signal.SIGCONT)
        bench.spin(lambda: bench.state == "fault")
        assert any("missed" in cause or "no " in cause for cause in bench.changes[-1].causes)
        return
    if ends == "hangs for good":
        bench.end("governor")
    bench.changes.clear()
    bench.start("governor")
    bench.spin(lambda: bench.state == "disarmed")  # its successor waits to be asked
    bench.applied.clear()
    bench.spin_for(0.3)
    assert bench.applied == []


@pytest.mark.parametrize("state", ["disarmed", "homing", "arming", "active", "takeover", "fault", "stopping"])
def test_the_operators_stop_works_in_every_state(bench: Bench, state: str) -> None:
    for _ in range(TRIES):
        bench.activate()
        match state:
            case "takeover":
                bench.device = [0.05] * len(bench.robot.joints)
                bench.spin(lambda: bench.state != "active")
            case "disarmed" | "homing" | "arming" | "stopping":
                bench.does("no commands" if state == "arming" else "swing")
                bench.call("disarm")
                if state != "stopping":
                    bench.spin(lambda: bench.state in STOPPED)
                if state in ("homing", "arming"):
                    bench.stands()  # or it refuses
                    bench.call("home" if state == "homing" else "arm")
            case "fault":
                bench.call("stop")
                bench.spin(lambda: bench.state == "fault")
        here, before = bench.state, len(bench.changes)
        bench.call("stop")
        bench.spin(lambda: bench.state == "fault")
        bench.device = None
        bench.does("swing")
        seen = [here, *(change.state for change in bench.changes[before:])]
        if state in seen:
            break
    assert state in seen
    assert "the operator pressed stop" in bench.changes[-1].causes
    bench.stands()


def test_the_robot_goes_on_without_its_recorder_and_what_was_recorded_stays(bench: Bench, tmp_path: Path) -> None:
    recorder = record(bench, tmp_path / "bag")
    file = tmp_path / "bag" / FILE
    try:
        bench.activate()
        recorder.send_signal(signal.SIGSTOP)
        bench.spin_for(0.1)
        held = count(file)
        bench.applied.clear()
        bench.spin_for(2.0)
        assert count(file) == held
        assert bench.applied
        recorder.send_signal(signal.SIGCONT)
        bench.spin(lambda: count(file) > held + 50)
        recorder.kill()
        recorder.wait(10)
        held = count(file)
        bench.spin_for(0.5)
        assert count(file) == held > 100
    finally:
        recorder.kill()
        recorder.wait(10)


@pytest.mark.parametrize("what", BEYOND)
def test_commands_outside_every_limit_are_followed_no_further_than_the_limits_allow(bench: Bench, what: str) -> None:
    """How far that is, the last test of this file says of all that was sent."""
    start = [joint.start for joint in bench.robot.joints]

    def went() -> bool:
        """Further than the policy does when nothing is wrong."""
        return any(abs(q - x) > 0.15 for m in bench.applied for q, x in zip(m.position, start, strict=True))

    for _ in range(TRIES):
        bench.activate()
        bench.applied.clear()
        bench.does(what)
        try:
            bench.spin(lambda: went() or bench.state in STOPPED, 30.0)
        finally:
            bench.does("swing")
        if went():
            return
    raise AssertionError(bench.changes[-4:])


def test_the_terminal_does_what_is_typed_together_and_says_what_becomes_of_it(bench: Bench) -> None:
    bench.activate()
    bench.call("disarm")
    bench.spin(lambda: bench.state in STOPPED)
    bench.said.clear()
    bench.type("stop\nclear\nhome\nhoem")
    bench.spin(lambda: len([line for line in bench.said if line.startswith(("clear:", "home:", "'hoem'"))]) == 3)
    assert "'hoem' means nothing here: permit, stop, clear, home or ready" in bench.said
    assert any(re.match("home: .*no permit of the operator", line) for line in bench.said)
    assert any(re.match("clear: (done|the governor is disarmed, not in fault)", line) for line in bench.said)
    bench.type("permit")
    for _ in range(TRIES):
        if bench.state == "fault":  # on a busy machine
            bench.type("clear")
            bench.spin(lambda: bench.state != "fault")
        bench.said.clear()
        bench.type("home")
        bench.spin(lambda: any(line.startswith("home:") for line in bench.said))
        bench.spin(lambda: bench.state in STOPPED)
        if "home: done" in bench.said:
            break
    assert "home: done" in bench.said
    bench.spin(lambda: "governor: homing" in bench.said)


def test_a_person_puts_the_scene_back_and_says_so(bench: Bench) -> None:
    bench.end("policy")
    try:
        error = ""
        while "scene" not in error:  # before that, a fault may have to be cleared
            with pytest.raises(InputError, match="nobody") as raised:
                reset_by_person(bench, answers=False, patience_s=0.5)
            error = str(raised.value)
        assert error == "nobody said that the scene is ready within 0.5 s"
        for tries in range(1, TRIES + 1):
            try:
                said, state = reset_by_person(bench, answers=True, patience_s=60.0)
            except InputError:  # on a busy machine the robot may stop on its way
                assert tries < TRIES, bench.changes[-3:]
            else:
                break
        assert said == "put the scene back, then type `ready` in the operator's terminal; waiting 60 s"
        assert state in ("arming", "active")
    finally:
        bench.start("policy")


def reset_by_person(bench: Bench, *, answers: bool, patience_s: float) -> tuple[str, str]:
    """What the person was told last, and the state of the governor afterwards."""
    from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment

    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        if "`clear`" in text:
            bench.type("clear")
        elif "`ready`" in text and answers:
            bench.type("ready")

    settings = EnvironmentSettings(reset="person", patience_s=120.0, person_patience_s=patience_s)
    with closing(RosEnvironment(bench.robot, settings, domain_id=bench.domain_id, tell=tell)) as environment:
        environment.reset(seed=0)
        return told[-1], environment.link.state


@pytest.mark.parametrize("node", ["governor", "operator", "joint_robot", "mujoco_arm", "recorder"])
def test_a_node_whose_parent_died_before_it_looked_ends(node: str, description: Path, tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-S", "-c", ""])
    parent.wait()
    words = [str(description), "--parent", str(parent.pid)]
    words += ["--output", str(tmp_path / "bag")] if node == "recorder" else []
    with closing(Domain()) as domain:
        process = ros.start(f"robot_rl.hardware.{node}_node", words, os.environ, domain_id=domain.number)
        try:
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            process.wait(10)


def test_everything_that_was_sent_kept_the_limits(bench: Bench, bag: Path) -> None:
    """All of this file, kills and hangs included: what was recorded is there, and nothing in it went too far."""
    robot = bench.robot
    found = runs(bag, robot)
    assert sum(map(len, found)) > 1000
    worst = dict.fromkeys(("position", "velocity", "acceleration", "jerk"), -1.0)
    for positions in found:
        if len(positions) > 3:
            for key, value in excess(positions, robot.limits, robot.control_period_s).items():
                worst[key] = max(worst[key], value)
        tool = tool_points(robot.chain, robot.names, positions)
        assert (tool >= robot.workspace.low_m).all()
        assert (tool <= robot.workspace.high_m).all()
    assert max(worst.values()) < 1e-6, worst
    assert worst["velocity"] > -0.5, "it never moved fast enough to say so"


def runs(folder: Path, robot: Robot) -> list[np.ndarray]:
    """The positions that were sent between two rests, (T, J), with the rest itself; apart where a message is lost."""
    found: list[list[Any]] = []
    rested, number = True, -1
    for topic, message in messages(folder, f"/{robot.name}/rl/applied", f"/{robot.name}/rl/safety_state"):
        if topic.endswith("safety_state"):
            rested = rested or TYPES.deserialize_cdr(message.data, STATUS).message in STOPPED
            continue
        sent = TYPES.deserialize_cdr(message.data, KIND)
        if rested:
            found.append([sent.position - sent.velocity * robot.control_period_s] * 3)
        elif message.sequence != number + 1:
            found.append([])
        found[-1].append(sent.position)
        rested, number = False, message.sequence
    return [np.stack(rows) for rows in found]
