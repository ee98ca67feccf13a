"""Position, velocity, acceleration and jerk limits of a stream of positions, one call a control period.

What a robot is sent is a sequence of positions p[k], one a period h. Its limits are those of the backward differences

    v[k] = (p[k] - p[k-1]) / h        a[k] = (v[k] - v[k-1]) / h        j[k] = (a[k] - a[k-1]) / h

which is how libfranka judges commands too. A target passes unchanged if these stay inside the limits and the robot can
still stop inside them afterwards; otherwise Ruckig (Berscheid and Kröger, "Jerk-limited Real-time Trajectory Generation
with Arbitrary Target States", RSS 2021, arXiv 2105.04830) takes the joint to the nearest allowed target.

Why no limit can be exceeded. The limiter keeps, for each joint, the end (p, v, a) of a curve in continuous time that
runs through the last three positions within the limits, and from which the joint can be brought to rest within them.
There are two ways to go on, and both keep this:

- A target passes: the curve is the parabola through the last three positions (no jerk), so it ends in
  (p, v + a h / 2, a). The target passes only if the time-optimal stop from there stays inside the limits. A joint that
  was limited before must also be able to stay with the target afterwards, at the speed with which the target moves;
  else it would hit a resting target in passing, and hunt around it for ever.
- Ruckig goes on along a curve that ends at rest inside the limits, and the position one period later is sent.

The differences of positions on a curve are averages of the curve's derivatives, so they stay inside the same limits.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import ne

from ruckig import ControlInterface, InputParameter, Ruckig, RuckigError, Synchronization, Trajectory

from robot_rl.errors import InputError

ROUNDING = 1 + 1e-9  # a difference may reach its limit, and its sums are rounded

POSITION, VELOCITY, ACCELERATION, JERK, STOPPING_DISTANCE, LOCKED, PLANNER = (1 << bit for bit in range(7))
"""Why a joint does not go where it was told, as bits. PLANNER: Ruckig reported an error, so the joint brakes."""
LIMIT_NAMES = ("position", "velocity", "acceleration", "jerk", "stopping distance", "locked joint", "planner error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of J joints, in rad or m and seconds. A joint with a limit of zero is held where it is.

    Raises:
        InputError: lengths differ, a limit is negative or not a number, low above high.
    """

    names: tuple[str, ...]
    low: tuple[float, ...]  # (J,), -inf is unlimited
    high: tuple[float, ...]  # (J,)
    velocity: tuple[float, ...]  # (J,)
    acceleration: tuple[float, ...]  # (J,)
    jerk: tuple[float, ...]  # (J,)

    def __post_init__(self) -> None:
        for key in ("low", "high", "velocity", "acceleration", "jerk"):
            values = getattr(self, key)
            if len(values) != len(self.names):
                raise InputError(f"{key} has {len(values)} limits for {len(self.names)} joints")
            for name, value in zip(self.names, values, strict=True):
                bounded = key not in ("low", "high")
                if math.isnan(value) or (bounded and not 0 <= value < math.inf):
                    raise InputError(f"{name}: {key} limit {value} is no finite number of at least 0")
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if low > high:
                raise InputError(f"{name}: the lowest position {low} lies above the highest {high}")

    def scaled(self, velocity: float) -> "Limits":
        """The same with `velocity` times the speed, in (0, 1]: slower, but it stops as quickly."""
        if not 0 < velocity <= 1:
            raise InputError(f"a speed scale of {velocity} does not lie in (0, 1]")
        return Limits(
            names=self.names,
            low=self.low,
            high=self.high,
            velocity=tuple(x * velocity for x in self.velocity),
            acceleration=self.acceleration,
            jerk=self.jerk,
        )


def _stop_profile(velocity: float, acceleration: float, maximum: float, jerk: float) -> tuple[float, ...]:
    """The time-optimal stop as (sign, t1, t2, t3): jerk -J for t1, none for t2, +J for t3, all times the sign.

    The sign is the direction in which the joint would go on if its acceleration were brought to zero at once. The
    acceleration falls to -b with b = min(A, sqrt(J v + a^2 / 2)).
    """
    sign = 1.0 if velocity + acceleration * abs(acceleration) / (2 * jerk) >= 0 else -1.0
    v, a = sign * velocity, sign * acceleration
    peak = math.sqrt(max(jerk * v + a * a / 2, 0.0))
    hold = 0.0
    if peak > maximum:
        peak = maximum
        hold = max((v + (a * a - 2 * peak * peak) / (2 * jerk)) / peak, 0.0)
    return sign, max((a + peak) / jerk, 0.0), hold, peak / jerk


def stop_state(
    velocity: float, acceleration: float, maximum: float, jerk: float, time_s: float = math.inf
) -> tuple[float, float, float]:
    """Where the time-optimal stop (to v = 0 and a = 0) is after `time_s`.

    Args:
        velocity: v now.
        acceleration: a now.
        maximum: limit of the acceleration, above 0.
        jerk: limit of the jerk, above 0.
        time_s: seconds from now; by default the end.

    Returns:
        The distance gone, the velocity, and the acceleration.
    """
    sign, *times = _stop_profile(velocity, acceleration, maximum, jerk)
    p, v, a = 0.0, sign * velocity, sign * acceleration
    left = time_s
    for j, duration in zip((-jerk, 0.0, jerk), times, strict=True):
        t = min(duration, left)
        p += (v + (a / 2 + j * t / 6) * t) * t
        v += (a + j * t / 2) * t
        a += j * t
        left -= t
    if left > 0:
        v = a = 0.0
    return sign * p, sign * v, sign * a


def stop_reach(velocity: float, acceleration: float, maximum: float, jerk: float) -> tuple[float, float]:
    """How far below and above its position a joint gets in the time-optimal stop. Arguments as in `stop_state`.

    Returns:
        Two distances, lowest <= 0 <= highest, relative to the position.
    """
    sign, first, hold, last = _stop_profile(velocity, acceleration, maximum, jerk)
    v, a, peak = sign * velocity, sign * acceleration, jerk * last
    v1 = v + (a - jerk * first / 2) * first
    v2 = v1 - peak * hold
    end = (
        (v + (a / 2 - jerk * first / 6) * first) * first
        + (v1 - peak * hold / 2) * hold
        + (v2 - (peak / 2 - jerk * last / 6) * last) * last
    )
    dip = 0.0
    if v < 0:  # it goes the other way first
        t = (a - math.sqrt(max(a * a + 2 * jerk * v, 0.0))) / jerk
        dip = (v + (a / 2 - jerk * t / 6) * t) * t
    low, high = min(dip, end, 0.0), max(end, 0.0)
    return (low, high) if sign > 0 else (-high, -low)


_Stop = tuple[Trajectory, float]  # a path to rest, and how far on it the joints are, in seconds


class Limiter:
    """The limits of J joints at one control period: propose where to go next, then accept it.

    `propose_position`, `propose_velocity` and `propose_stop` leave the state as it is and put what they found into
    `next_position`; `accept` makes the last proposal the state. All lists have J numbers.
    """

    def __init__(self, limits: Limits, period_s: float) -> None:
        """At rest in the middle of nowhere: call `start` first.

        Raises:
            InputError: the period is not above 0.
        """
        if not 0 < period_s < math.inf:
            raise InputError(f"a control period of {period_s} s is not above 0")
        self.limits = limits
        self.period_s = period_s
        joints = len(limits.names)
        moving = [bool(min(limits.velocity[i], limits.acceleration[i], limits.jerk[i]) > 0) for i in range(joints)]
        self._rows = [
            (
                i,
                moving[i],
                limits.low[i],
                limits.high[i],
                limits.velocity[i],
                limits.acceleration[i],
                limits.jerk[i],
                # from further away than this every speed can be stopped
                _longest_stop(limits.velocity[i], limits.acceleration[i], limits.jerk[i]) if moving[i] else 0.0,
            )
            for i in range(joints)
        ]
        self._planner = Ruckig(joints, period_s)
        self._path = Trajectory(joints)
        self._stop_paths = Trajectory(joints), Trajectory(joints)
        self._stop: _Stop | None = None  # from the state, where one is known
        self._next_stop: _Stop | None = None  # from the proposal
        self._to_position = self._input(moving)
        self._to_velocity = self._input(moving)
        self._to_velocity.control_interface = ControlInterface.Velocity
        self._zeros = [0.0] * joints
        self.position = list(self._zeros)
        self.velocity = list(self._zeros)  # of the curve at the end of the period
        self.acceleration = list(self._zeros)
        self.sent_velocity = list(self._zeros)  # v[k] of the positions sent
        self.sent_acceleration = list(self._zeros)
        self.next_position = list(self._zeros)
        self._next_velocity = list(self._zeros)
        self._next_acceleration = list(self._zeros)
        self._target = list(self._zeros)
        self._last_target = list(self._zeros)
        self.limited = [False] * joints  # the last command was not followed
        self.changes = [0] * joints  # of the last proposal: why each joint does not go where it was told, 0 if it does
        self.planner_errors = 0

    def _input(self, moving: list[bool]) -> InputParameter:
        joints = len(moving)
        parameters = InputParameter(joints)
        parameters.synchronization = Synchronization.No  # no joint waits for another
        parameters.enabled = moving
        for key, values in (
            ("max_velocity", self.limits.velocity),
            ("max_acceleration", self.limits.acceleration),
            ("max_jerk", self.limits.jerk),
        ):
            setattr(parameters, key, [x if x > 0 else 1.0 for x in values])  # Ruckig wants some for locked joints too
        parameters.target_velocity = [0.0] * joints
        parameters.target_acceleration = [0.0] * joints
        return parameters

    def start(self, position: Sequence[float]) -> None:
        """Begin at rest at `position`. Shapes: (J,).

        Raises:
            InputError: a position is no finite number or outside its limits.
        """
        for name, x, low, high in zip(self.limits.names, position, self.limits.low, self.limits.high, strict=True):
            if not (low <= x <= high and math.isfinite(x)):
                raise InputError(f"{name} is at {x:.6g}, outside [{low:.6g}, {high:.6g}]: move it inside by hand first")
        self.position = [float(x) for x in position]
        for state in (self.velocity, self.acceleration, self.sent_velocity, self.sent_acceleration):
            state[:] = self._zeros
        self._target = list(self.position)
        self._last_target = list(self.position)
        self.limited = [False] * len(self._rows)
        self.next_position = list(self.position)
        self._next_velocity = list(self._zeros)
        self._next_acceleration = list(self._zeros)
        self._stop = self._next_stop = None

    @property
    def at_rest(self) -> bool:
        """The curve has ended: sending the same position again is all there is to do."""
        return not (any(self.velocity) or any(self.acceleration))

    def propose_position(self, target: Sequence[float]) -> list[int]:
        """Go towards `target`, and there at once if no limit is in the way. Shapes: (J,), finite.

        Returns:
            `changes`: for each joint 0 if `next_position` is the target, else the limits that are in the way.
        """
        rate = 1 / self.period_s
        if self._pass(target, [(x - y) * rate for x, y in zip(target, self._last_target, strict=True)]):
            low, high = self.limits.low, self.limits.high
            plan = self._plan(
                self._to_position,
                [min(max(x, low[i]), high[i]) for i, x in enumerate(target)],
            )
            self._use(plan, [i for i, change in enumerate(self.changes) if change])
        return self.changes

    def propose_velocity(self, target: Sequence[float]) -> list[int]:
        """Go on with the velocity `target`, as fast as the limits allow. Shapes: (J,), finite.

        Returns:
            `changes`: for each joint 0 if (`next_position` - `position`) / period is the target.
        """
        h = self.period_s
        if self._pass([p + h * u for p, u in zip(self.position, target, strict=True)], target):
            limited = [i for i, change in enumerate(self.changes) if change]
            wanted = [
                u if -v <= u <= v else v if u > 0 else -v for u, v in zip(target, self.limits.velocity, strict=True)
            ]
            self._use(self._plan(self._to_velocity, wanted), limited)
            unsafe = self._cannot_stop(limited)
            if unsafe:
                edge = list(self.position)
                for i in unsafe:
                    x = self.limits.high[i] if target[i] > 0 else self.limits.low[i]
                    edge[i] = x if math.isfinite(x) else edge[i]
                    self.changes[i] |= STOPPING_DISTANCE
                self._use(self._plan(self._to_position, edge), unsafe)
                self._next_stop = None
        return self.changes

    def propose_stop(self) -> None:
        """Brake as hard as the limits allow; the joints are then independent of each other."""
        joints = range(len(self._rows))
        self.changes = [0] * len(joints)
        self._target = [math.nan] * len(joints)  # nothing to stay with: nan passes no comparison
        stop = None if self.at_rest else self._stop or self._find_stop(self.position, self.velocity, self.acceleration)
        if stop is None:
            self._next_stop = None
            self._brake(joints)
            return
        path, elapsed_s = stop
        elapsed_s += self.period_s
        self._next_stop = path, elapsed_s
        self._follow(path, elapsed_s, joints)
        if elapsed_s >= path.duration:
            self._next_velocity, self._next_acceleration = list(self._zeros), list(self._zeros)

    def accept(self) -> None:
        """Make the proposal the state: `next_position` is what is sent."""
        rate = 1 / self.period_s
        for i, x in enumerate(self.next_position):
            v = (x - self.position[i]) * rate
            self.sent_acceleration[i] = (v - self.sent_velocity[i]) * rate
            self.sent_velocity[i] = v
        self.limited = list(map(ne, self.next_position, self._target))
        self._last_target, self._target = self._target, self._last_target
        self.position, self.next_position = self.next_position, self.position
        self.velocity, self._next_velocity = self._next_velocity, self.velocity
        self.acceleration, self._next_acceleration = self._next_acceleration, self.acceleration
        self._stop, self._next_stop = self._next_stop, None

    def next_stop_bound(self) -> list[float]:
        """No joint moves further than this in the stop after the proposal, back and forth together. Shapes: (J,).

        At most at the speed w = |v| + a^2 / 2J, for the time that the acceleration takes to zero and a brake from w.
        """
        found = []
        for (_, moving, _, _, _, maximum, jerk, _), v, a in zip(
            self._rows, self._next_velocity, self._next_acceleration, strict=True
        ):
            if moving and (v or a):
                speed = abs(v) + a * a / (2 * jerk)
                found.append(speed * (speed / maximum + (maximum + abs(a)) / jerk))
            else:
                found.append(0.0)
        return found

    def next_stop(self) -> Trajectory | None:
        """The stop after a proposed position or velocity; `propose_stop` goes on along it. None: Ruckig finds none."""
        if self._next_stop is None:
            self._next_stop = self._find_stop(self.next_position, self._next_velocity, self._next_acceleration)
        return None if self._next_stop is None else self._next_stop[0]

    def _find_stop(self, position: list[float], velocity: list[float], acceleration: list[float]) -> _Stop | None:
        """Ruckig's stop from there; that from the state stays as it is."""
        known, other = self._stop_paths
        path = other if self._stop is not None and self._stop[0] is known else known
        self._to_velocity.target_velocity = self._zeros
        found = self._computed(self._to_velocity, path, position, velocity, acceleration)
        return None if found is None else (found, 0.0)

    def _pass(self, target: Sequence[float], target_velocity: Sequence[float]) -> bool:
        """Let through each joint whose target violates nothing; true if one does."""
        h, rate = self.period_s, 1 / self.period_s
        position, sent_velocity, sent_acceleration = self.position, self.sent_velocity, self.sent_acceleration
        next_position, next_velocity, next_acceleration = [], [], []
        changes = []
        limited = False
        for i, moving, low, high, top_velocity, top_acceleration, top_jerk, longest_stop in self._rows:
            x, p = target[i], position[i]
            v = (x - p) * rate
            a = (v - sent_velocity[i]) * rate
            change = 0
            if not moving:
                change = LOCKED if x != p else 0
                x, v, a = p, 0.0, 0.0
            else:
                jerk = (a - sent_acceleration[i]) * rate
                if not -top_jerk * ROUNDING <= jerk <= top_jerk * ROUNDING:
                    change = JERK
                if not -top_acceleration * ROUNDING <= a <= top_acceleration * ROUNDING:
                    change |= ACCELERATION
                speed = abs(v)
                v += a * h / 2  # the velocity of the parabola at its end
                peak = abs(v + a * abs(a) / (2 * top_jerk))  # when the acceleration has been brought to zero
                if (
                    speed > top_velocity * ROUNDING
                    or peak > top_velocity * ROUNDING
                    or abs(v) > top_velocity * ROUNDING
                ):
                    change |= VELOCITY
                if not change and self.limited[i]:
                    # Next to the velocity of the target, then to no acceleration.
                    then = (target_velocity[i] - (x - p) * rate) * rate
                    first, second = (then - a) * rate, then * rate
                    if not (abs(first) <= top_jerk and abs(second) <= top_jerk and abs(then) <= top_acceleration):
                        change = JERK
                if not low <= x <= high:
                    change |= POSITION
                elif not change and (x - low < longest_stop or high - x < longest_stop):
                    down, up = stop_reach(v, a, top_acceleration, top_jerk)
                    if x + down < low or x + up > high:
                        change = STOPPING_DISTANCE
            if change:
                limited = True
            next_position.append(x)
            next_velocity.append(v)
            next_acceleration.append(a)
            changes.append(change)
        self.next_position, self._next_velocity, self._next_acceleration = (
            next_position,
            next_velocity,
            next_acceleration,
        )
        self.changes = changes
        self._target = list(target)
        self._next_stop = None
        return limited

    def _plan(self, parameters: InputParameter, target: list[float]) -> Trajectory | None:
        """Ruckig's curve from the state to the target; None where it finds none."""
        if parameters is self._to_position:
            parameters.target_position = target
        else:
            parameters.target_velocity = target
        return self._computed(parameters, self._path, self.position, self.velocity, self.acceleration)

    def _computed(
        self,
        parameters: InputParameter,
        path: Trajectory,
        position: list[float],
        velocity: list[float],
        acceleration: list[float],
    ) -> Trajectory | None:
        """The path, computed from there to the target of the parameters; None where Ruckig finds none."""
        parameters.current_position = position
        parameters.current_velocity = velocity
        parameters.current_acceleration = acceleration
        try:
            result = self._planner.calculate(parameters, path)
        except RuckigError:
            return None
        return path if result.value >= 0 else None

    def _use(self, path: Trajectory | None, joints: list[int]) -> None:
        """Take the state of these joints one period along the path; without one they brake."""
        if path is None:
            self.planner_errors += 1
            for i in joints:
                self.changes[i] |= PLANNER
            self._brake(joints)
            return
        self._follow(path, self.period_s, joints)

    def _follow(self, path: Trajectory, time_s: float, joints: Iterable[int]) -> None:
        position, velocity, acceleration = path.at_time(time_s)
        next_position, next_velocity, next_acceleration = (
            self.next_position,
            self._next_velocity,
            self._next_acceleration,
        )
        for i in joints:
            _, moving, low, high, _, _, _, _ = self._rows[i]
            if moving:
                x = position[i]
                next_position[i] = x if low <= x <= high else low if x < low else high
                next_velocity[i], next_acceleration[i] = velocity[i], acceleration[i]
            else:
                next_position[i], next_velocity[i], next_acceleration[i] = self.position[i], 0.0, 0.0

    def _brake(self, joints: Iterable[int]) -> None:
        for i in joints:
            _, moving, low, high, _, maximum, jerk, _ = self._rows[i]
            x, v, a = self.position[i], 0.0, 0.0
            if moving and (self.velocity[i] or self.acceleration[i]):
                gone, v, a = stop_state(self.velocity[i], self.acceleration[i], maximum, jerk, self.period_s)
                x = min(max(x + gone, low), high)
            self.next_position[i] = x
            self._next_velocity[i] = v
            self._next_acceleration[i] = a

    def _cannot_stop(self, joints: list[int]) -> list[int]:
        """Those whose proposal cannot be stopped inside the limits of their positions."""
        near = []
        for i in joints:
            _, moving, low, high, _, _, _, longest_stop = self._rows[i]
            x = self.next_position[i]
            if moving and (x - low < longest_stop or high - x < longest_stop):
                near.append(i)
        path = self.next_stop() if near else None
        if path is None:
            return near
        extremes, limits = path.position_extrema, self.limits
        return [i for i in near if extremes[i].min < limits.low[i] or extremes[i].max > limits.high[i]]


def _longest_stop(velocity: float, acceleration: float, jerk: float) -> float:
    """No stop from any allowed state is longer: from full speed, at full acceleration too."""
    return stop_reach(velocity, acceleration, acceleration, jerk)[1]
