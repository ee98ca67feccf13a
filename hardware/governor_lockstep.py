"""The governor's loop in lockstep (`hardware/lockstep.py`): its clock is the arm's, and moves when it is asked to."""

import os
import time
from typing import Any, Protocol

from std_msgs.msg import Header

from robot_rl.clock import FakeClock
from robot_rl.hardware import lockstep
from robot_rl.hardware.commands import Output
from robot_rl.hardware.description import Robot
from robot_rl.hardware.governor import Governor
from robot_rl.hardware.ros_io import Inbox, profile, set_stamp, stamp_ns
from robot_rl.hardware.watch import nanoseconds


class Shell(Protocol):
    """What the loop needs of the governor's node."""

    governor: Governor
    robot: Robot
    node: Any
    inbox: Inbox
    closing: bool
    applied: list[Any]
    last_ns: dict[str, int]
    action_number: str

    def cycle(self, now_ns: int) -> Output:
        """Answer services, let the governor decide, publish."""

    def answer_services(self) -> None:
        """Do what was asked for."""

    def publish_applied(self) -> None:
        """Once more."""


def run_lockstep(shell: Shell, clock: FakeClock, *, parent: int | None) -> None:
    """Until `closing`, or without the process that started it."""
    loop = _Loop(shell, clock, parent)
    while not loop.ended():
        shell.inbox.wait(lockstep.POLL_NS)
        shell.answer_services()
        loop.serve()


class _Loop:
    def __init__(self, shell: Shell, clock: FakeClock, parent: int | None) -> None:
        self._shell, self._clock, self._parent = shell, clock, parent
        self._period_ns = nanoseconds(shell.robot.control_period_s)
        self._asked: Any = None
        self._stepped_ns = 0
        self._sent: dict[str, int] = {}  # stamp of the last message of each sensor, as the arm says
        quality = profile(depth=lockstep.DEPTH)
        shell.inbox.subscribe(Header, lockstep.ADVANCE, quality, self._advance)
        shell.inbox.subscribe(Header, lockstep.STEPPED, quality, self._stepped)
        self._physics = shell.node.create_publisher(Header, lockstep.PHYSICS, quality)
        self._advanced = shell.node.create_publisher(Header, lockstep.ADVANCED, quality)

    def ended(self) -> bool:
        """Nobody needs us any more."""
        return self._shell.closing or self._parent not in (None, os.getppid())

    def serve(self) -> None:
        """Do what was asked for, if everything for it has come."""
        if self._asked is None:
            return
        until = stamp_ns(self._asked)
        number = lockstep.unpack(self._asked.frame_id, lockstep.ADVANCE)["action"]
        if number is not None and str(number) != self._shell.action_number:
            return  # it is on its way
        if self._clock.time_ns == 0 and not self._ask_arm(0, moves=False):
            return
        if until > self._clock.time_ns:
            self._shell.applied.clear()
            while self._clock.time_ns < until:
                now = self._clock.time_ns
                output = self._shell.cycle(now)
                if not self._ask_arm(now + self._period_ns, moves=output.sent is not None):
                    return
        elif self._ask_arm(0, moves=False):  # once more, to somebody who has not heard it
            self._shell.publish_applied()
        else:
            return
        governor = self._shell.governor
        facts = {"state": governor.state.value, "causes": governor.causes, "applied": len(self._shell.applied)}
        answer = Header(frame_id=lockstep.pack(**facts))
        set_stamp(answer, self._clock.time_ns)
        self._advanced.publish(answer)
        self._asked = None

    def _ask_arm(self, until_ns: int, *, moves: bool) -> bool:
        """Let the arm's time go on, and wait for all that it sent; false when we are to end."""
        self._stepped_ns = 0
        request = Header(frame_id=lockstep.pack(command=moves))
        set_stamp(request, until_ns)
        self._clock.time_ns = max(self._clock.time_ns, until_ns)  # what comes from now on comes then
        asked_ns: int | None = None
        while not self._arrived(until_ns):
            if self.ended():
                return False
            now = time.monotonic_ns()
            if asked_ns is None or now - asked_ns > nanoseconds(lockstep.ASK_AGAIN_S):
                self._physics.publish(request)
                asked_ns = now
            self._shell.inbox.wait(lockstep.POLL_NS)
        self._clock.time_ns = self._stepped_ns
        return True

    def _arrived(self, until_ns: int) -> bool:
        last = self._shell.last_ns
        heard = ("joint_states",) if self._shell.robot.wrench_topic is None else ("joint_states", "wrench")
        return self._stepped_ns >= max(until_ns, 1) and all(
            last.get(sensor) == self._sent[sensor] for sensor in heard if sensor in self._sent
        )

    def _advance(self, message: Any, _: str) -> None:
        self._asked = message

    def _stepped(self, message: Any, _: str) -> None:
        self._stepped_ns = stamp_ns(message)
        self._sent = lockstep.unpack(message.frame_id, lockstep.STEPPED)["sent"]
