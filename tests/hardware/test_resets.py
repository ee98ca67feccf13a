"""What only a person decides is asked of him where he is: in the operator's terminal, or in ours."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from robot_rl.errors import InputError
from robot_rl.hardware.description import load
from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment
from robot_rl.hardware.person import Person, Terminal
from robot_rl.hardware.resets import bring_back, quiet

CAUSE = "no heartbeat of the policy"


@dataclass
class FaultyRobot:
    """A `Connection` to a governor in fault, whose time goes on when it is waited for."""

    state: str = "fault"
    in_lockstep: bool = False
    ready: bool = False
    causes: list[str] = field(default_factory=lambda: [CAUSE])
    asked: list[str] = field(default_factory=list)
    waits: Callable[[], object] = lambda: None
    refuses: bool = False  # to clear
    robot: Any = field(default_factory=lambda: load("sim_panda"))
    _time_ns: int = 0

    def listen(self, sensor: str, topic: Any) -> None:
        pass

    def close(self) -> None:
        self.asked.append("close")

    def now_ns(self) -> int:
        return self._time_ns

    def wait_until(self, time_ns: int) -> None:
        self._time_ns = time_ns
        self.waits()

    def trigger(self, service: str, patience_s: float | None = None) -> tuple[bool, str]:
        self.asked.append(service)
        if service == "governor/clear":
            if self.refuses:
                self.refuses = False
                return False, "the permit is missing"
            self.state, self.causes = "disarmed", []
        return True, ""


class Typed(Terminal):
    """A terminal at which these lines come, one at a time."""

    def __init__(self, *lines: str, attended: bool = True, ends: bool = False) -> None:
        self.lines, self._attended, self._ends = list(lines), attended, ends

    @property
    def ended(self) -> bool:
        return self._ends and not self.lines

    @property
    def attended(self) -> bool:
        return self._attended

    def take(self) -> list[str]:
        return [self.lines.pop(0)] if self.lines else []


def test_a_fault_of_a_simulated_robot_is_cleared_at_our_terminal() -> None:
    link, told = FaultyRobot(refuses=True), list[str]()
    terminal = Typed("clear", "home", "clear", "clear")  # the first was typed before he was asked
    quiet(link, Person(patience_s=5.0, tell=told.append, terminal=terminal))
    assert link.asked == ["governor/disarm", "governor/clear", "governor/clear"]
    assert told == [
        f"the robot has stopped: {CAUSE}. Look at it, then type `clear` here; waiting 5 s",
        "'home' means nothing here: `clear`, or Ctrl-C to end",
        "not cleared: the permit is missing",
    ]


def test_a_fault_of_a_simulated_robot_whose_program_has_no_terminal_ends_it_at_once() -> None:
    link, told = FaultyRobot(), list[str]()
    with pytest.raises(InputError, match=f"{CAUSE}, and nobody cleared it: .*has none, or runs in its background"):
        quiet(link, Person(patience_s=600.0, tell=told.append, terminal=Typed("clear", "clear", attended=False)))
    assert (link.asked, told) == (["governor/disarm"], [])


def test_a_terminal_that_is_closed_while_it_is_waited_for_ends_it() -> None:
    link, told = FaultyRobot(), list[str]()
    with pytest.raises(InputError, match="and nobody cleared it: the terminal was closed"):
        quiet(link, Person(patience_s=600.0, tell=told.append, terminal=Typed("", "", ends=True)))
    assert link.asked == ["governor/disarm"]


def test_a_fault_of_a_robot_is_never_cleared_by_this_program() -> None:
    link, told = FaultyRobot(), list[str]()
    with pytest.raises(InputError, match=r"and nobody cleared it within 0.2 s"):
        quiet(link, Person(patience_s=0.2, tell=told.append))
    assert link.asked == ["governor/disarm"]
    assert told == [
        f"the robot has stopped: {CAUSE}. Look at it, then type `clear` in the operator's terminal; waiting 0.2 s"
    ]


def test_the_scene_of_a_simulated_robot_is_ready_when_our_terminal_says_so() -> None:
    link, told = FaultyRobot(state="disarmed", ready=True), list[str]()
    terminal = Typed("ready", "clear", "ready")
    bring_back(link, "person", 0, Person(patience_s=5.0, tell=told.append, terminal=terminal))
    assert link.asked == ["governor/home"]
    assert told == [
        "put the scene back, then type `ready` here; waiting 5 s",
        "'clear' means nothing here: `ready`, or Ctrl-C to end",
    ]
    assert terminal.lines == []
    link = FaultyRobot(state="disarmed")
    with pytest.raises(InputError, match=r"nobody said that the scene is ready: .*`ready` has to be typed"):
        bring_back(link, "person", 0, Person(patience_s=5.0, tell=told.append, terminal=Typed(attended=False)))


def test_nobody_leaves_while_the_robot_brakes_not_even_after_an_episode_that_is_over() -> None:
    link = FaultyRobot(state="stopping")

    def brakes() -> None:
        link.asked.append("waits")
        if len(link.asked) == 3:
            link.state = "disarmed"

    link.waits = brakes
    RosEnvironment(link.robot, EnvironmentSettings(), domain_id=0, connect=lambda _: link).close()
    assert link.asked == ["waits", "waits", "waits", "close"]


WHO = """
import os, sys
from robot_rl.hardware.person import Terminal
terminal = Terminal()
print(terminal.attended, flush=True)
if terminal.attended:
    while not (lines := terminal.take()):
        pass
    print(lines, flush=True)
    number = os.fork()
    if number == 0:
        os.setpgid(0, 0)  # as a job in the background
        print(terminal.attended, terminal.take(), flush=True)
        os._exit(0)
    os.waitpid(number, 0)
"""


def test_a_terminal_is_attended_in_its_foreground_alone() -> None:
    for stdin in (subprocess.DEVNULL, subprocess.PIPE):
        words = [sys.executable, "-c", WHO]
        assert subprocess.run(words, stdin=stdin, capture_output=True, check=True, timeout=60).stdout == b"False\n"
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WHO], preexec_fn=lambda: os.login_tty(slave), pass_fds=[slave], stdout=slave
    )
    os.close(slave)
    os.write(master, b"clear\n")
    said = b""
    while not said.endswith(b"[]\r\n"):
        said += os.read(master, 1024)
    assert process.wait(60) == 0
    os.close(master)
    assert said.split(b"\r\n")[-4:-1] == [b"True", b"['clear']", b"False []"]


def test_a_closed_standard_input_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert not Terminal().attended
    assert Terminal().take() == []
