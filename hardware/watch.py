"""Who has spoken, when, and whether it can be believed. Times are integer nanoseconds of one monotonic clock."""

import math
from collections import OrderedDict, deque
from collections.abc import Sequence

from robot_rl.hardware.description import Robot

SECOND_NS = 1_000_000_000


def nanoseconds(seconds: float) -> int:
    """Rounded."""
    return round(seconds * SECOND_NS)


class Lease:
    """Something that has to be renewed. Both sides of a heartbeat use it: the governor, and the robot's own side."""

    def __init__(self, timeout_s: float) -> None:
        """Expired until the first `renew`."""
        self._timeout_ns = nanoseconds(timeout_s)
        self._last_ns: int | None = None

    def renew(self, now_ns: int) -> None:
        """Heard from."""
        self._last_ns = now_ns

    def drop(self) -> None:
        """As if it had never been heard from."""
        self._last_ns = None

    def silence_s(self, now_ns: int) -> float:
        """Since the last `renew`; infinite before the first."""
        return math.inf if self._last_ns is None else (now_ns - self._last_ns) / SECOND_NS

    def expired(self, now_ns: int) -> bool:
        """The silence is longer than the timeout."""
        return self._last_ns is None or now_ns - self._last_ns > self._timeout_ns


class Flood:
    """Notices arrivals that come faster than a rate for half a second."""

    def __init__(self, rate_hz: float) -> None:
        """More than `rate_hz` a second are too many."""
        self._arrivals: deque[int] = deque(maxlen=max(math.ceil(rate_hz / 2), 2) + 1)

    def too_many(self, now_ns: int) -> bool:
        """Count one arrival."""
        arrivals = self._arrivals
        arrivals.append(now_ns)
        return len(arrivals) == arrivals.maxlen and now_ns - arrivals[0] < SECOND_NS // 2


class JointStates:
    """The measured joints: the newest, how old it is, and when each of the last ones came.

    The stamps are of the robot's clock, which is never subtracted from ours: what counts is when a message with a newer
    stamp than all before arrived. Only when nothing newer came for `observation_stop_s` may the stamps begin anew.
    """

    KEPT = 4096

    def __init__(self, robot: Robot) -> None:
        """Nothing heard yet."""
        self._robot = robot
        self._lease = Lease(robot.joint_states.maximum_age_s)
        self._received: OrderedDict[int, int] = OrderedDict()  # by stamp
        self._stamp_ns: int | None = None
        self._received_ns = 0
        self.position: list[float] = []  # (J,), empty before the first
        self.velocity: list[float] = []  # (J,)
        self._changed_ns = 0
        self.ignored = 0  # not newer, incomplete, or no numbers

    def take(
        self,
        names: Sequence[str],
        position: Sequence[float],
        velocity: Sequence[float],
        effort: Sequence[float],
        stamp_ns: int,
        now_ns: int,
    ) -> str | None:
        """Take in a message, in any order of joints, with others among them; velocity and effort may be empty.

        Returns:
            Why the robot has to stop, or None. What cannot be used is counted and ignored: silence then stops it.
        """
        robot = self._robot
        order = {name: index for index, name in enumerate(names)}
        count = len(names)
        if (
            len(order) != count
            or len(position) != count
            or len(velocity) not in (0, count)
            or len(effort) not in (0, count)
            or any(name not in order for name in robot.names)
        ):
            self.ignored += 1
            return None
        rows = [order[name] for name in robot.names]
        q = [float(position[row]) for row in rows]
        v = [float(velocity[row]) for row in rows] if len(velocity) else []
        if not all(map(math.isfinite, q)) or not all(map(math.isfinite, v)):
            self.ignored += 1
            return None
        cause: str | None = None
        if self._stamp_ns is not None:
            gone_ns, here_ns = stamp_ns - self._stamp_ns, now_ns - self._received_ns
            set_back = gone_ns < 0 and here_ns > nanoseconds(robot.watchdogs.observation_stop_s)
            if gone_ns <= 0 and not set_back:
                self.ignored += 1  # frozen, repeated, or out of order
                return None
            if set_back:
                cause = f"the clock of the joint states was set back by {-gone_ns / SECOND_NS:.3f} s"
                self._received.clear()
            elif gone_ns - here_ns > nanoseconds(robot.watchdogs.clock_jump_s):
                cause = f"the clock of the joint states jumped ahead by {(gone_ns - here_ns) / SECOND_NS:.3f} s"
            elif not v:
                v = [(b - a) * SECOND_NS / gone_ns for a, b in zip(self.position, q, strict=True)]
        if q != self.position:
            self._changed_ns = now_ns
        self.position, self.velocity = q, v or [0.0] * len(q)
        self._stamp_ns, self._received_ns = stamp_ns, now_ns
        self._received[stamp_ns] = now_ns
        if len(self._received) > self.KEPT:
            self._received.popitem(last=False)
        self._lease.renew(now_ns)
        for joint, row in zip(robot.joints, rows, strict=True):
            if len(effort) and not abs(effort[row]) <= joint.effort and cause is None:
                cause = f"{joint.name} measures an effort of {effort[row]:.4g}, beyond {joint.effort:g}"
        return cause

    def received_ns(self, stamp_ns: int) -> int | None:
        """When the message with this stamp arrived; None if none did lately."""
        return self._received.get(stamp_ns)

    def stale(self, now_ns: int) -> bool:
        """There is none that is young enough."""
        return self._lease.expired(now_ns)

    def silence_s(self, now_ns: int) -> float:
        """Since the newest."""
        return self._lease.silence_s(now_ns)

    def unchanged_s(self, now_ns: int) -> float:
        """How long the positions have been the same to the last bit."""
        return (now_ns - self._changed_ns) / SECOND_NS
