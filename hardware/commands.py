"""What goes into the governor and what comes out of it."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from robot_rl.hardware.limiter import Limits
from robot_rl.hardware.safety import Sent
from robot_rl.hardware.states import State
from robot_rl.hardware.watch import SECOND_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Positions or velocities of the joints, in rad or m, of one step or of H steps ahead; or a motion of the tool.

    What it is of stands in `names`: the joints, `inverse.TWIST_NAMES` or `inverse.POSE_NAMES`.
    """

    source: str  # who sends it, as the transport knows it
    stamp_ns: int  # of the joint states that it answers, on the robot's clock
    names: Sequence[str]  # in any order
    values: Sequence[Sequence[float]]  # (H, J)
    offsets_s: Sequence[float] = (0.0,)  # (H,), when each holds, from the arrival of the joint states it answers
    velocity: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What to publish after a tick."""

    state: State
    causes: tuple[str, ...]  # why it stops, or has
    sent: Sent | None  # None: publish no command
    source: str | None  # who chose it: the controller's name, "person", "home", "hold"; None without a command
    answers_ns: int | None  # stamp of the joint states that the followed command answers
    intervened: bool  # a person chose
    missed: int  # control periods so far in which no tick came


@dataclass(slots=True)
class Target:
    """A command that is followed, in the order of the robot's joints, or of the names of a twist or a pose."""

    of: str  # joints | twist | pose
    values: list[list[float]]  # (H, J)
    times_ns: list[int]  # (H,)
    velocity: bool
    stamp_ns: int
    received_ns: int

    def silence_s(self, now_ns: int) -> float:
        """Since it came, or since its last step."""
        return (now_ns - max(self.received_ns, self.times_ns[-1])) / SECOND_NS

    def at(self, time_ns: int) -> list[float]:
        """Positions between steps are interpolated; a velocity holds until the next step. What is past is dropped."""
        index = bisect_right(self.times_ns, time_ns)
        if index == 0:
            return self.values[0]
        if index == len(self.values) or self.velocity:
            return self.values[index - 1]
        before, after = self.times_ns[index - 1], self.times_ns[index]
        share = (time_ns - before) / (after - before)
        return [a + share * (b - a) for a, b in zip(self.values[index - 1], self.values[index], strict=True)]


def stop_time_s(limits: Limits) -> float:
    """From any state to rest within the limits, at most."""
    longest = 0.0
    for v, a, j in zip(limits.velocity, limits.acceleration, limits.jerk, strict=True):
        if min(v, a, j) > 0:
            longest = max(longest, a / j + v / a + a / j)  # the acceleration to zero, then the brake from full speed
    return longest
