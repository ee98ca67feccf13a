"""How a robot gets from the end of one episode to the beginning of the next, always through the governor."""

import time
from collections.abc import Callable

from robot_rl.errors import InputError
from robot_rl.hardware.connection import Connection
from robot_rl.hardware.states import State
from robot_rl.hardware.watch import nanoseconds

QUIET_S, HOME_S, ARM_S = 20.0, 300.0, 10.0  # of the robot's time, at most
RESETS = ("home", "service", "person")


def quiet(link: Connection, person_patience_s: float, tell: Callable[[str], None]) -> None:
    """Disarm. A fault is left by a person alone, who is told and waited for.

    Raises:
        InputError: nobody came.
    """
    link.trigger("governor/disarm")
    _until(link, lambda: link.state in (State.DISARMED.value, State.FAULT.value), QUIET_S, "come to rest")
    if link.state != State.FAULT.value:
        return
    why = f"the robot has stopped: {', '.join(link.causes)}"
    if link.in_lockstep:
        raise InputError(f"{why}. In lockstep nobody is there to clear it")
    tell(f"{why}. Look at it, then `clear` it in the operator's terminal; waiting {person_patience_s:g} s")
    _for_person(link, lambda: link.state == State.DISARMED.value, person_patience_s, f"{why}, and nobody cleared it")


def bring_back(link: Connection, how: str, seed: int, person_patience_s: float, tell: Callable[[str], None]) -> None:
    """Put robot and scene where an episode begins.

    Args:
        link: to governor and robot.
        how: `home`: the robot goes to its home pose; `service`: it is asked by `robot/reset`, after its parameter
            `reset.seed`; `person`: the robot goes home, and a person says when the scene is ready.
        seed: of the episode.
        person_patience_s: how long a person is waited for.
        tell: says to a person what he has to do.

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
        tell(f"put the scene back, then type `ready` in the operator's terminal; waiting {person_patience_s:g} s")
        _for_person(link, lambda: link.ready, person_patience_s, "nobody said that the scene is ready")


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


def _for_person(link: Connection, done: Callable[[], bool], patience_s: float, otherwise: str) -> None:
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > patience_s:
            raise InputError(f"{otherwise} within {patience_s:g} s")
        _pass(link)


def _pass(link: Connection) -> None:
    """A control period of the policy."""
    link.wait_until(link.now_ns() + nanoseconds(1 / link.robot.controller_rate_hz))
