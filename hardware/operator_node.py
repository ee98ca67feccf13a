"""The operator's terminal: the permit without which nothing moves, and what only a person may ask for.

    python -m robot_rl.hardware.operator_node ROBOT [--permit] [--parent PID]

Publishes the permit on `/NAME/rl/permit` ten times a second, from the first `permit` that is typed, or from the start
with `--permit`; from `stop` on that it is taken away, and that once more when this program ends. Says what state the
governor is in whenever that changes. With `--parent`, for simulated robots, it reads and says nothing, and ends when
that process, which has started it, does. What can be typed, each with the Enter key:

    permit   let the robot move          stop    brake, and stay stopped      (an empty line, too)
    clear    leave the fault             home    go slowly to the home pose
    ready    the scene has been put back, the next episode may begin
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from threading import Event
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from robot_rl.hardware.description import load
from robot_rl.hardware.person import Lines
from robot_rl.hardware.ros_io import causes_of, profile

PERIOD_S = 0.1
ASK_AGAIN_S, ANSWER_S = 2.0, 10.0
Seen = tuple[str, tuple[str, ...]]  # state of the governor, and its causes


class Request:
    """One call of a service, until it is answered.

    An answer can be lost, so it is asked for again; but only while the governor still is as it was when the person
    asked: a `clear` must not reach a fault that came afterwards.
    """

    def __init__(self, name: str, client: Any, seen: Seen | None, now_s: float) -> None:
        """Ask with the first `answer`. Times are of a monotonic clock."""
        self._name, self._client, self._seen = name, client, seen
        self._futures: list[Any] = []
        self._began_s = now_s
        self._asked_s: float | None = None

    def answer(self, seen: Seen | None, now_s: float) -> str | None:
        """What to tell the person, who then is not waiting any more; None: wait."""
        for future in self._futures:
            if future.done():
                answer = future.result()
                return f"{self._name}: {'done' if answer.success else answer.message}"
        if now_s - self._began_s > ANSWER_S:
            self.forget()
            return f"{self._name}: no answer; is the governor running?"
        due = self._asked_s is None or (seen == self._seen and now_s - self._asked_s > ASK_AGAIN_S)
        if due and self._client.service_is_ready():
            self._futures.append(self._client.call_async(Trigger.Request()))
            self._asked_s = now_s
        return None

    def forget(self) -> None:
        """Wait for no answer any more."""
        for future in self._futures:
            self._client.remove_pending_request(future)


class Operator:
    """The node, and what the person has asked for."""

    def __init__(self, robot: str, *, permitted: bool, tells: bool) -> None:
        """rclpy must be initialised.

        Args:
            robot: name of the robot, whose topics are below it.
            permitted: from the start.
            tells: writes to the standard output.
        """
        self.node = rclpy.create_node("operator", namespace=f"/{robot}")
        self._permit = self.node.create_publisher(Bool, "rl/permit", profile())
        self._ready = self.node.create_publisher(Bool, "rl/ready", profile())
        self.node.create_subscription(DiagnosticStatus, "rl/safety_state", self._heard, profile(latched=True))
        self._clients = {name: self.node.create_client(Trigger, f"governor/{name}") for name in ("clear", "home")}
        self._requests: dict[str, Request] = {}
        self._permitted: bool | None = True if permitted else None  # None: nothing was said yet
        self._seen: Seen | None = None
        self._tells = tells

    def turn(self) -> None:
        """A period: say again what holds, and hear answers."""
        if self._permitted is not None:
            self._permit.publish(Bool(data=self._permitted))
        rclpy.spin_once(self.node, timeout_sec=PERIOD_S)
        for name, request in list(self._requests.items()):
            if (answer := request.answer(self._seen, time.monotonic())) is not None:
                self.tell(answer)
                del self._requests[name]

    def obey(self, line: str) -> None:
        """Do what was typed."""
        match line:
            case "permit":
                self._permitted = True
            case "stop" | "":
                self.stop()
            case "ready":
                self._ready.publish(Bool(data=True))
            case "clear" | "home" as name:
                if (before := self._requests.pop(name, None)) is not None:
                    before.forget()
                self._requests[name] = Request(name, self._clients[name], self._seen, time.monotonic())
            case other:
                self.tell(f"'{other}' means nothing here: permit, stop, clear, home or ready")

    def stop(self) -> None:
        """Take the permit away, if it was given, and what was asked for with it."""
        for request in self._requests.values():
            request.forget()
        self._requests.clear()
        self._permitted = False
        self._permit.publish(Bool(data=False))

    def tell(self, text: str) -> None:
        """To the person."""
        if self._tells:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def _heard(self, message: Any) -> None:
        causes = causes_of(message)
        if (message.message, causes) != self._seen:
            self._seen = message.message, causes
            self.tell(f"governor: {message.message}" + (f", because {'; '.join(causes)}" if causes else ""))


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM, SIGINT or the end of the input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("robot")
    parser.add_argument("--permit", action="store_true")
    parser.add_argument("--parent", type=int)
    given = parser.parse_args(arguments)
    robot = load(given.robot)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    alone = given.parent is None
    operator = Operator(robot.name, permitted=given.permit, tells=alone)
    lines = Lines(sys.stdin.fileno()) if alone else None
    while not stop.is_set() and given.parent in (None, os.getppid()):
        operator.turn()
        if lines is None:
            continue
        for line in lines.take():
            operator.obey(line)
        if lines.ended:
            break
    operator.stop()
    operator.node.destroy_node()
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
