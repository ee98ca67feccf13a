"""What a simulated arm says, and when: the sensors of a description and the times at which each is measured."""

from robot_rl.hardware.description import Robot, Topic
from robot_rl.hardware.watch import SECOND_NS


def outlets(robot: Robot) -> dict[str, Topic]:
    """Everything but cameras that the robot of a description says, by the name of the sensor."""
    found = {
        "joint_states": robot.joint_states,
        "wrench": robot.wrench_topic,
        "tool_pose": robot.tool_pose,
        "outcome": robot.outcome,
        **{f"points.{name}": topic for name, topic in robot.points.items()},
    }
    return {name: topic for name, topic in found.items() if topic is not None}


class Due:
    """Measures each sensor at the rate of its topic, counted from when it was first asked for."""

    def __init__(self) -> None:
        """All are due."""
        self._next_ns: dict[str, int] = {}

    def clear(self) -> None:
        """All are due, and their times count from the next measurement on."""
        self._next_ns.clear()

    def now(self, name: str, topic: Topic, now_ns: int) -> bool:
        """Whether to measure now; if so, the next time is a period later."""
        period = round(SECOND_NS / topic.rate_hz)
        due = self._next_ns.get(name, now_ns)
        if now_ns < due:
            return False
        self._next_ns[name] = due + period if now_ns < due + period else now_ns + period
        return True
