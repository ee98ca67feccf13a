"""What an environment asks of the way to its robot: over ROS 2 (`Link`), or to an arm in this process (`Direct`)."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from robot_rl.hardware.description import Robot, Topic

TELEMETRY = ("observation_age_s", "decision_s", "missed", "waited")
"""Of the environment: the age of the oldest part, the time from the observation to the action, periods missed so far,
and how often a part was too old so far."""
Heard = Callable[[str, Any, int, int], None]  # sensor, message, its stamp, when it came


class Connection(Protocol):
    """To one governor and one robot; everything happens in the thread that calls."""

    robot: Robot
    in_lockstep: bool
    applied: list[Any]
    """Messages of what the governor sent, since `clear_applied`."""
    state: str
    """Of the governor."""
    causes: list[str]
    ready: bool
    """A person has said so, since it was set to False."""

    def listen(self, sensor: str, topic: Topic) -> None:
        """Hear a sensor from now on."""

    def now_ns(self) -> int:
        """Of the clock by which ages are told."""

    def act(self, values: Sequence[float], *, of: str, velocity: bool, answers_ns: int) -> None:
        """Send positions or velocities of the `joints`, or a `twist`, answering joint states of that stamp."""

    def watch(self, sensor: str, until_ns: int) -> None:
        """In real time: hear what a sensor says until it has said something, with no sleep in between."""

    def wait_until(self, time_ns: int) -> None:
        """Let time go by, and hear what comes."""

    def look(self, camera: str) -> None:
        """Lockstep: have a camera drawn as the scene is now."""

    def tell(self, numbers: Sequence[float], answers_ns: int) -> None:
        """In real time: publish TELEMETRY of the step whose observation has that stamp."""

    def clear_applied(self) -> None:
        """Forget what was applied so far."""

    def trigger(self, service: str, patience_s: float | None = None) -> tuple[bool, str]:
        """Ask for something: whether it succeeded, and the message."""

    def set_parameters(self, node: str, values: dict[str, Any]) -> None:
        """Set parameters of a node."""

    def close(self) -> None:
        """Let go; twice is allowed."""
