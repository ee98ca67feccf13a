"""Who may move the robot, and when it stops: latch, watchdogs, takeover, authority. A node is a shell around it.

What arrives goes in by the `on_...` methods with the time of arrival; `tick` is called once a control period, and says
what to publish. All times are integer nanoseconds of one monotonic clock; nothing here reads a clock.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from robot_rl.errors import InputError
from robot_rl.hardware.commands import Command, Output, Target
from robot_rl.hardware.description import Robot
from robot_rl.hardware.inverse import POSE_NAMES, TWIST_NAMES
from robot_rl.hardware.safety import Safety, Sent, reason_names
from robot_rl.hardware.states import MOVING, TRANSITIONS, Event, State
from robot_rl.hardware.watch import SECOND_NS, Flood, JointStates, Lease, nanoseconds

HOMING_PATIENCE_S = 1.0  # at rest away from the pose: something is in the way
ARRIVED = 1e-6  # rad or m
CAUSES_KEPT = 16
QUATERNION = 1e-3  # by which its length may differ from 1


class Governor:
    """The only one that sends the robot anything. Not thread-safe: one thread calls everything."""

    def __init__(self, robot: Robot) -> None:
        """Disarmed, and nothing heard from anybody."""
        dogs = robot.watchdogs
        self.robot = robot
        self.state = State.DISARMED
        self.causes: list[str] = []  # of the stop, the first first
        self.controller: str | None = None  # who may command
        self.missed = 0  # control periods in which no tick came
        self.early = 0  # ticks that came in a period that had one
        self.refused: Counter[str] = Counter()
        """Commands that were not followed: `authority`, `state`, `invalid`, `handover`, `person`, `device`."""
        self._period_ns = nanoseconds(robot.control_period_s)
        self._fast, self._slow = Safety.of(robot), Safety.of(robot, speed_scale=robot.home_speed_scale)
        self._safety = self._fast
        self._inverse = robot.inverse()
        self.joint_states = JointStates(robot)
        self._wrench = Lease(dogs.observation_stop_s)
        self._wrench_over: str | None = None
        self._heartbeat = Lease(dogs.heartbeat_stop_s)
        self._permit = Lease(dogs.permit_stop_s)
        self._device = Lease(dogs.takeover_stop_s)
        self._device_source = ""
        self._flood = Flood(dogs.flood_factor * robot.controller_rate_hz)
        self._target: Target | None = None
        self._person: Target | None = None
        self._offset: list[float] | None = None  # from the person's device to the robot
        self._goal: list[float] = []  # of homing
        self._held = False
        self._since_ns = 0  # when the state was entered
        self._tick_ns: int | None = None
        self._late = self._invalid = self._astray = 0  # in a row
        self._frozen_at: list[float] = []  # the command when the measured joints last changed, or it last stood
        self._frozen_ns = 0  # when that was
        self._moved_ns = 0

    @property
    def at_rest(self) -> bool:
        """The last command ended all motion, or there was none."""
        return self._safety.at_rest

    # What arrives

    def on_joint_states(
        self,
        names: Sequence[str],
        position: Sequence[float],
        velocity: Sequence[float],
        effort: Sequence[float],
        stamp_ns: int,
        now_ns: int,
    ) -> None:
        """Measured joints, stamped on the robot's clock. Shapes: (K,) each, velocity and effort may be empty."""
        ignored = self.joint_states.ignored
        cause = self.joint_states.take(names, position, velocity, effort, stamp_ns, now_ns)
        if cause is not None and self.state in MOVING:
            self._fail(cause, now_ns)
        elif ignored == self.joint_states.ignored and self.state in MOVING:
            self._check_tracking(now_ns)

    def on_wrench(self, force_N: Sequence[float], torque_Nm: Sequence[float], now_ns: int) -> None:
        """Measured at the tool. Shapes: (3,), (3,)."""
        limits = self.robot.wrench
        if limits is None:
            return
        force, torque = math.hypot(*force_N), math.hypot(*torque_Nm)
        if not (math.isfinite(force) and math.isfinite(torque)):
            return  # silence will stop it
        self._wrench.renew(now_ns)
        over = []
        if force > limits.force_N:
            over.append(f"a force of {force:.4g} N, beyond {limits.force_N:g}")
        if torque > limits.torque_Nm:
            over.append(f"a torque of {torque:.4g} Nm, beyond {limits.torque_Nm:g}")
        self._wrench_over = ", ".join(over) if over else None
        if over and self.state in MOVING:
            self._fail(f"the tool measures {self._wrench_over}", now_ns)

    def on_heartbeat(self, source: str, now_ns: int) -> None:
        """Of the process that commands."""
        if source == self.controller:
            self._heartbeat.renew(now_ns)

    def on_permit(self, granted: bool, now_ns: int) -> None:
        """The operator's permit, which has to be repeated; its absence stops the robot, and so does False at once."""
        if granted:
            self._permit.renew(now_ns)
        else:
            self._permit.drop()
            if self.state in MOVING:
                self._fail("the operator took the permit away", now_ns)

    def on_takeover(self, held: bool, now_ns: int, source: str = "device") -> str | None:
        """Whether the person holds the button of the device, which has to be repeated.

        Returns:
            Why it does not count: another device is heard. Or None.
        """
        if source != self._device_source and not self._device.expired(now_ns):
            return self._refuse("device", f"{self._device_source} is the person's device")
        self._device_source = source
        self._device.renew(now_ns)
        if held and not self._held and self._move(Event.TAKE, now_ns):
            self._person = self._offset = None
        elif not held and self.state is State.TAKEOVER:
            self._move(Event.GIVE_BACK, now_ns)
            self._target = None
        self._held = held
        return None

    def on_person(self, values: Sequence[float], velocity: bool, now_ns: int, source: str = "device") -> str | None:
        """What the person's device says, in the order of the description: velocities, or positions of its own.

        Positions count from where the device and the robot were when the person took over, so nothing jumps.

        Returns:
            Why it is not followed, or None.
        """
        if self.state is not State.TAKEOVER or source != self._device_source:
            return self._refuse("device", f"the person does not have the robot with {source}")
        if len(values) != len(self.robot.joints) or not all(map(math.isfinite, values)):
            return self._refuse("device", "the device sends no number for each joint")
        wanted = [float(x) for x in values]
        if not velocity:
            if self._offset is None:
                self._offset = [p - x for p, x in zip(self._safety.position, wanted, strict=True)]
            wanted = [x + d for x, d in zip(wanted, self._offset, strict=True)]
        self._person = Target("joints", [wanted], [now_ns], velocity, 0, now_ns)
        return None

    def on_command(self, command: Command, now_ns: int) -> str | None:
        """A command of a policy.

        Returns:
            Why it is not followed, or None. Refusals are counted in `refused`.
        """
        if command.source != self.controller:
            return self._refuse("authority", f"{command.source} has not claimed the robot")
        if self._flood.too_many(now_ns) and self.state in MOVING:
            self._fail(f"{command.source} floods: over {self.robot.watchdogs.flood_factor:g} times its rate", now_ns)
        if self.state is State.TAKEOVER:
            return self._refuse("person", "a person has the robot")
        if self.state not in (State.ARMING, State.ACTIVE):
            return self._refuse("state", f"the governor is {self.state.value}")
        found = self._checked(command, now_ns)
        if isinstance(found, str):
            self._invalid += 1
            if self._invalid >= self.robot.watchdogs.invalid_commands:
                self._fail(f"{self._invalid} invalid commands in a row, the last because {found}", now_ns)
            return self._refuse("invalid", found)
        self._invalid = 0
        if self.state is State.ARMING:
            far = self._too_far(found, now_ns)
            if far is not None:
                return self._refuse("handover", far)
            self._move(Event.FIRST_COMMAND, now_ns)
        self._target = found
        return None

    # What people and programs ask for

    def claim(self, source: str, now_ns: int) -> str | None:
        """Become the one that commands. Returns why not, or None."""
        if self.controller not in (None, source):
            return f"{self.controller} commands: release it first"
        if self.state is not State.DISARMED:
            return f"the governor is {self.state.value}: claim it while it is disarmed"
        self.controller = source
        self._heartbeat.renew(now_ns)
        return None

    def release(self, source: str, now_ns: int) -> str | None:
        """Give the authority back; a moving robot is stopped. Returns why not, or None."""
        if source != self.controller:
            return f"{source} does not command"
        if self.state in (State.ARMING, State.ACTIVE, State.TAKEOVER):
            self._move(Event.GIVE_UP, now_ns)
        self.controller = None
        return None

    def arm(self, now_ns: int) -> str | None:
        """Check everything, then wait for the first command. Returns what is wrong, or None."""
        problems = self._problems(now_ns)
        if self.controller is None:
            problems.append("nobody has claimed the robot")
        elif self._heartbeat.expired(now_ns):
            problems.append(f"no heartbeat of {self.controller}")
        if not problems:
            for joint, q in zip(self.robot.joints, self.joint_states.position, strict=True):
                if abs(q - joint.start) > joint.start_tolerance:
                    problems.append(
                        f"{joint.name} is at {q:.4g}, not within {joint.start_tolerance:g} of its start pose "
                        f"{joint.start:g}: ask for `home`"
                    )
        return self._begin(problems, Event.ARM, self._fast, now_ns)

    def home(self, now_ns: int, pose: Sequence[float] | None = None) -> str | None:
        """Go slowly to a pose, by default the home pose, under the same limits. Returns what is wrong, or None."""
        goal = [joint.home for joint in self.robot.joints] if pose is None else [float(x) for x in pose]
        problems = self._problems(now_ns)
        if len(goal) != len(self.robot.joints) or not all(map(math.isfinite, goal)):
            problems.append("the pose is no number for each joint")
        refusal = self._begin(problems, Event.HOME, self._slow, now_ns)
        if refusal is None:
            self._goal = goal
        return refusal

    def disarm(self, now_ns: int) -> None:
        """Brake, then be quiet. Nothing is latched."""
        self._move(Event.GIVE_UP, now_ns)

    def stop(self, by: str, now_ns: int) -> None:
        """The operator's stop, in any state. Latched."""
        self._fail(f"{by} pressed stop", now_ns)

    def clear(self) -> str | None:
        """Leave FAULT. The robot is then disarmed, and everything is checked again before it moves. Returns why not."""
        if self.state is not State.FAULT:
            return f"the governor is {self.state.value}, not in fault"
        self.state = TRANSITIONS[self.state, Event.CLEAR]
        self.causes.clear()
        return None

    # The control period

    def tick(self, now_ns: int) -> Output:
        """What to publish now. To be called once a control period.

        A period that was missed is skipped: the robot gets fewer commands, never two at once. A second tick in the same
        period publishes nothing, since the limits count on the period.
        """
        if self._tick_ns is not None and 0 <= now_ns - self._tick_ns < self._period_ns // 2:
            self.early += 1
            return self._output(None, None, None)
        self._count(now_ns)
        if self.state in MOVING:
            self._watch(now_ns)
        sent: Sent | None = None
        source: str | None = None
        answers: int | None = None
        if self.state in MOVING:
            sent, source, answers = self._follow(now_ns)
        elif self.state is State.STOPPING:
            sent, source = self._safety.send_stop(), "hold"
            if self._safety.at_rest:
                self._move(Event.RESTED_LATCHED if self.causes else Event.RESTED, now_ns)
        return self._output(sent, source, answers)

    def _output(self, sent: Sent | None, source: str | None, answers: int | None) -> Output:
        return Output(
            state=self.state,
            causes=tuple(self.causes),
            sent=sent,
            source=source,
            answers_ns=answers,
            intervened=source == "person",
            missed=self.missed,
        )

    def _follow(self, now_ns: int) -> tuple[Sent, str, int | None]:
        safety, dogs = self._safety, self.robot.watchdogs
        hold = safety.send_stop
        if self.joint_states.stale(now_ns):
            return hold(), "hold", None
        if self.state is State.HOMING:
            sent = safety.send_position(self._goal)
            if safety.at_rest:
                if all(abs(a - b) <= ARRIVED for a, b in zip(sent.position, self._goal, strict=True)):
                    self._move(Event.ARRIVED, now_ns)
                elif now_ns - self._moved_ns > nanoseconds(HOMING_PATIENCE_S):
                    self._fail(f"homing is blocked: {', '.join(reason_names(sent.reasons))}", now_ns)
            else:
                self._moved_ns = now_ns
            return sent, "home", None
        if self.state is State.TAKEOVER:
            person, silence = self._person, self._device.silence_s(now_ns)
            if person is None or max(silence, person.silence_s(now_ns)) > dogs.takeover_hold_s:
                return hold(), "hold", None
            return self._send(person, now_ns), "person", None
        target = self._target
        if self.state is State.ACTIVE and target is not None and target.silence_s(now_ns) <= dogs.command_hold_s:
            return self._send(target, now_ns), str(self.controller), target.stamp_ns
        return hold(), "hold", None

    def _send(self, target: Target, now_ns: int) -> Sent:
        values = target.at(now_ns + self._period_ns)
        if target.of != "joints":
            return self._send_tool(target.of, values)
        return self._safety.send_velocity(values) if target.velocity else self._safety.send_position(values)

    def _send_tool(self, of: str, values: list[float]) -> Sent:
        safety, inverse, limits = self._safety, self._inverse, self.robot.cartesian
        assert inverse is not None, "`_checked` lets nothing of the tool through without it"
        assert limits is not None
        solve = inverse.twist if of == "twist" else inverse.pose
        wanted, asked = solve(values, safety.position, safety.velocity)
        return safety.send_for_tool(wanted, limits.speed_m_s, asked)

    def _count(self, now_ns: int) -> None:
        """The fixed grid: which periods went by without a tick."""
        if self._tick_ns is not None:
            gone = now_ns - self._tick_ns
            if gone < 0:
                self._fail(f"our clock went back by {-gone / SECOND_NS:.3f} s", now_ns)
            missed = max(round(gone / self._period_ns) - 1, 0)
            self.missed += missed
            self._late = self._late + missed if missed else 0
            if self._late > self.robot.watchdogs.missed_deadlines and self.state in MOVING:
                self._fail(f"the governor missed {self._late} control periods in a row", now_ns)
        self._tick_ns = now_ns

    def _watch(self, now_ns: int) -> None:
        """Silences that stop the robot."""
        dogs = self.robot.watchdogs
        silence = self.joint_states.silence_s(now_ns)
        if silence > dogs.observation_stop_s:
            self._fail(f"no new joint states for {silence:.3f} s", now_ns)
        if self.robot.wrench is not None and self._wrench.expired(now_ns):
            self._fail(f"no wrench for {self._wrench.silence_s(now_ns):.3f} s", now_ns)
        if self._permit.expired(now_ns):
            self._fail(f"no permit of the operator for {self._permit.silence_s(now_ns):.3f} s", now_ns)
        if self.state is State.TAKEOVER and self._device.expired(now_ns):
            self._fail(f"nothing from the person's device for {self._device.silence_s(now_ns):.3f} s", now_ns)
        if self.state in (State.ARMING, State.ACTIVE) and self._heartbeat.expired(now_ns):
            self._fail(f"no heartbeat of {self.controller} for {self._heartbeat.silence_s(now_ns):.3f} s", now_ns)
        if self.state is State.ACTIVE and self._target is not None:
            silence = self._target.silence_s(now_ns)
            if silence > dogs.command_stop_s:
                self._fail(f"no command of {self.controller} for {silence:.3f} s", now_ns)
        if self.state is State.ARMING and now_ns - self._since_ns > nanoseconds(dogs.command_stop_s):
            self._move(Event.GIVE_UP, now_ns)

    def _check_tracking(self, now_ns: int) -> None:
        """The measured joints against the command: they must follow, and change when it moves."""
        measured, commanded, dogs = self.joint_states.position, self._safety.position, self.robot.watchdogs
        astray = [
            f"{joint.name} is at {q:.4g}, but was sent to {c:.4g}"
            for joint, q, c in zip(self.robot.joints, measured, commanded, strict=True)
            if not abs(q - c) <= joint.tracking
        ]
        self._astray = self._astray + 1 if astray else 0
        if self._astray >= dogs.tracking_errors:
            self._fail(astray[0], now_ns)
        unchanged = self.joint_states.unchanged_s(now_ns)
        if unchanged <= 0 or not self._frozen_at or commanded == self._frozen_at:
            self._frozen_at, self._frozen_ns = commanded, now_ns  # a robot that is sent nowhere may stand still
        elif now_ns - self._frozen_ns > nanoseconds(dogs.frozen_s) and any(
            abs(c - f) > joint.tracking / 10
            for joint, c, f in zip(self.robot.joints, commanded, self._frozen_at, strict=True)
        ):
            self._fail(f"the joint states have not changed for {unchanged:.3f} s, while the command moved", now_ns)

    def _problems(self, now_ns: int) -> list[str]:
        """What is wrong with moving at all."""
        problems = []
        if self.state is not State.DISARMED:
            problems.append(f"the governor is {self.state.value}" + (f": {self.causes[0]}" if self.causes else ""))
        if self._permit.expired(now_ns):
            problems.append("no permit of the operator")
        if self.robot.wrench is not None and self._wrench.expired(now_ns):
            problems.append("no wrench is measured")
        if self._wrench_over is not None:
            problems.append(f"the tool measures {self._wrench_over}")
        if self.joint_states.stale(now_ns):
            problems.append("no joint states that are young enough")
        else:
            for joint, v in zip(self.robot.joints, self.joint_states.velocity, strict=True):
                if abs(v) > self.robot.start_speed:
                    problems.append(f"{joint.name} moves with {v:.3g} a second")
        return problems

    def _begin(self, problems: list[str], event: Event, safety: Safety, now_ns: int) -> str | None:
        if not problems:
            try:
                safety.start(self.joint_states.position)
            except InputError as error:
                problems.append(str(error))
        if problems:
            return "; ".join(problems)
        self._safety = safety
        self._target = self._person = self._offset = None
        self._held = False
        self._late = self._invalid = self._astray = 0
        self._frozen_at = []
        self._moved_ns = now_ns
        self._move(event, now_ns)
        return None

    def _checked(self, command: Command, now_ns: int) -> Target | str:
        """The command in the order of the joints, or what is wrong with it."""
        robot = self.robot
        order = {name: index for index, name in enumerate(command.names)}
        of, names = "joints", robot.names
        for kind, axes in (("twist", TWIST_NAMES), ("pose", POSE_NAMES)):
            if order.keys() == set(axes):
                of, names = kind, axes
        if order.keys() != set(names) or len(command.names) != len(names):
            return f"it names {sorted(command.names)}, not {sorted(robot.names)}"
        if of != "joints" and self._inverse is None:
            return f"it is a {of} of the tool, and {robot.file} has no limits for one: write its section `cartesian`"
        if command.velocity != (of == "twist") and of != "joints":
            return f"a {of} of the tool is {'a velocity' if of == 'twist' else 'no velocity'}"
        if not command.values or len(command.values) != len(command.offsets_s):
            return f"it has {len(command.values)} steps and {len(command.offsets_s)} times"
        if of == "pose" and len(command.values) > 1:
            return "it has several poses of the tool: send one at a time"
        if any(len(row) != len(names) for row in command.values):
            return f"it has not one number for each {'joint' if of == 'joints' else 'axis'}"
        if not all(math.isfinite(x) for row in command.values for x in row):
            return "it holds NaN or infinity"
        rows = [order[name] for name in names]
        values = [[float(row[index]) for index in rows] for row in command.values]
        if of == "pose" and not abs(math.hypot(*values[0][3:]) - 1) < QUATERNION:
            return f"its quaternion has length {math.hypot(*values[0][3:]):.3g}, not 1"
        offsets = list(command.offsets_s)
        if not all(map(math.isfinite, offsets)) or any(b <= a for a, b in pairwise(offsets)):
            return "its times do not increase"
        if offsets[-1] > robot.watchdogs.command_stop_s:
            return f"it reaches {offsets[-1]:.3g} s ahead, further than command_stop_s"
        received = self.joint_states.received_ns(command.stamp_ns)
        if received is None:
            return f"it answers joint states of {command.stamp_ns} ns, which did not arrive here lately"
        age = (now_ns - received) / SECOND_NS
        if age > robot.watchdogs.answer_age_s:
            return f"it answers joint states that are {age:.3f} s old"
        if self._target is not None and command.stamp_ns < self._target.stamp_ns:
            return "it answers older joint states than the command before"
        return Target(
            of=of,
            values=values,
            times_ns=[received + nanoseconds(offset) for offset in offsets],
            velocity=command.velocity,
            stamp_ns=command.stamp_ns,
            received_ns=now_ns,
        )

    def _too_far(self, target: Target, now_ns: int) -> str | None:
        """Why this may not be the first command after arming, or after a person had the robot."""
        received = self.joint_states.received_ns(target.stamp_ns)
        if not self._safety.at_rest:
            return "the robot is not yet at rest"
        if received is None or received < self._since_ns:
            return "it answers joint states from before the handover"
        if target.of == "pose":
            limits, inverse = self.robot.cartesian, self._inverse
            assert limits is not None
            assert inverse is not None
            way, turn = inverse.away(target.at(now_ns), self._safety.position)
            if way > limits.first_command_m or turn > limits.first_command_rad:
                return f"the tool is {way:.3g} m and {turn:.3g} rad away, too far for a first command"
        elif not target.velocity:
            for joint, x, p in zip(self.robot.joints, target.at(now_ns), self._safety.position, strict=True):
                if abs(x - p) > joint.first_command:
                    return f"{joint.name} is at {p:.4g}, too far from a first command of {x:.4g}"
        return None

    def _refuse(self, kind: str, reason: str) -> str:
        self.refused[kind] += 1
        return reason

    def _fail(self, cause: str, now_ns: int) -> None:
        """Stop, and stay stopped. The causes are kept in the order in which they came."""
        if self._move(Event.FAIL, now_ns) and len(self.causes) < CAUSES_KEPT:
            self.causes.append(cause)

    def _move(self, event: Event, now_ns: int) -> bool:
        """Follow the table; false where it does not list the event."""
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            return False
        if after is not self.state:
            self.state, self._since_ns = after, now_ns
        return True
