"""How a robot gets from the end of one episode to the beginning of the next, always through the governor."""

import time
from collections.abc import Callable

from robot_rl.errors import InputError
from robot_rl.hardware.connection import Connection
from robot_rl.hardware.person import Person
from robot_rl.hardware.states import State
from robot_rl.hardware.watch import nanoseconds

QUIET_S, HOME_S, ARM_S = 20.0, 300.0, 10.0  # of the robot's time, at most
RESETS = ("home", "service", "person")


def quiet(link: Connection, person: Person) -> None:
    """Disarm. A fault is left by a person alone, who is told and waited for.

    Raises:
        InputError: nobody came, or nobody can.
    """
    link.trigger("governor/disarm")
    _until(link, lambda: link.state in (State.DISARMED.value, State.FAULT.value), QUIET_S, "come to rest")
    if link.state != State.FAULT.value:
        return
    why = f"the robot has stopped: {', '.join(link.causes)}"
    if link.in_lockstep:
        raise InputError(f"{why}. In lockstep nobody is there to clear it")

    def clear() -> None:
        done, refusal = link.trigger("governor/clear")
        if not done:
            person.tell(f"not cleared: {refusal}")

    def cleared() -> bool:
        return link.state == State.DISARMED.value

    _for_person(link, person, f"{why}. Look at it", "clear", clear, cleared, f"{why}, and nobody cleared it")


def bring_back(link: Connection, how: str, seed: int, person: Person) -> None:
    """Put robot and scene where an episode begins.

    Args:
        link: to governor and robot.
        how: `home`: the robot goes to its home pose; `service`: it is asked by `robot/reset`, after its parameter
            `reset.seed`; `person`: the robot goes home, and a person says when the scene is ready.
        seed: of the episode.
        person: is asked.

    Raises:
        InputError: it did not get there, or nobody came.
    """
    if how == "service":
        link.set_parameters("arm", {"reset.seed": seed})
        done, message = link.trigger("robot/reset")
        if not done:
            raise InputError(f"/{link.robot.name}/robot/reset refuses: {message}")
        return
    _retry(link, "governor/home", ARM_S)
    _until(link, lambda: link.state in (State.DISARMED.value, State.FAULT.value), HOME_S, "get home")
    if link.state == State.FAULT.value:
        raise InputError(f"the robot did not get home: {', '.join(link.causes)}")
    if how == "person":
        link.ready = False

        def ready() -> None:
            link.ready = True

        otherwise = "nobody said that the scene is ready"
        _for_person(link, person, "put the scene back", "ready", ready, lambda: link.ready, otherwise)


def arm(link: Connection) -> None:
    """Arm; the governor then waits for the first command.

    Raises:
        InputError: it refuses; with its reasons.
    """
    _retry(link, "governor/arm", ARM_S)


def _retry(link: Connection, service: str, patience_s: float) -> None:
    """Until it succeeds: heartbeats and permits may be on their way, and the robot may still settle."""
    began = link.now_ns()
    while True:
        done, message = link.trigger(service)
        if done:
            return
        if link.now_ns() - began > nanoseconds(patience_s):
            raise InputError(f"/{link.robot.name}/{service} refuses: {message}")
        _pass(link)


def _until(link: Connection, done: Callable[[], bool], patience_s: float, what: str) -> None:
    _pass(link)
    began = link.now_ns()  # which in lockstep is not known before the first answer
    while not done():
        if link.now_ns() - began > nanoseconds(patience_s):
            state = link.state or "mute"
            raise InputError(f"the robot did not {what} within {patience_s:g} s; its governor is {state}")
        _pass(link)


def _for_person(
    link: Connection,
    person: Person,
    task: str,
    word: str,
    obey: Callable[[], None],
    done: Callable[[], bool],
    otherwise: str,
) -> None:
    """Tell him the task, and wait until he says the word: to the operator's terminal, or to ours, where we obey it."""
    terminal = person.terminal
    if terminal is not None:
        terminal.take()  # what was typed before he was asked
        if not terminal.attended:
            raise InputError(
                f"{otherwise}: the robot is simulated, so `{word}` has to be typed at the terminal of this program, "
                "which has none, or runs in its background: start it in the foreground of one"
            )
    where = "in the operator's terminal" if terminal is None else "here"
    person.tell(f"{task}, then type `{word}` {where}; waiting {person.patience_s:g} s")
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > person.patience_s:
            raise InputError(f"{otherwise} within {person.patience_s:g} s")
        if terminal is not None and terminal.ended:
            raise InputError(f"{otherwise}: the terminal was closed")
        for line in () if terminal is None else terminal.take():
            if line == word:
                obey()
            else:
                person.tell(f"'{line}' means nothing here: `{word}`, or Ctrl-C to end")
        _pass(link)


def _pass(link: Connection) -> None:
    """A control period of the policy."""
    link.wait_until(link.now_ns() + nanoseconds(1 / link.robot.controller_rate_hz))
