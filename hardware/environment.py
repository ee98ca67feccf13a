"""A robot behind ROS 2 as an environment: what it senses in, what the governor lets through out, on a grid of time.

An action says where the joints are to be at the end of the control period, or how fast, or how the tool is to move;
what the governor sent the robot last in that period is reported as the action that was applied, and gets recorded. An
observation holds the newest message of every sensor at the tick. One that is older than its topic's `maximum_age_s` is
not used: nothing is sent until a younger one comes, which is counted, and after the `observation_stop_s` of the
watchdogs the episode is over.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any

import numpy as np

from robot_rl.environment import ACTION_HISTORY, CommandHistory
from robot_rl.errors import InputError
from robot_rl.hardware.commands import stop_time_s
from robot_rl.hardware.connection import Connection, Heard
from robot_rl.hardware.description import Robot
from robot_rl.hardware.observations import Observer, outcome_part, parts_of
from robot_rl.hardware.pause import Overdue
from robot_rl.hardware.person import Person, Terminal
from robot_rl.hardware.phase import Phase
from robot_rl.hardware.resets import arm, bring_back, quiet
from robot_rl.hardware.robot_spec import make_spec
from robot_rl.hardware.states import SENT, State
from robot_rl.hardware.watch import SECOND_NS, nanoseconds
from robot_rl.spec import Spec
from robot_rl.types import Array, TimeStep

RESTING_S = 1.0  # longer than the brake takes, for a governor that is slow to say so
KEPT = 10_000  # ages and the like that are kept to be looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSettings:
    """How a robot is made an environment; `configs/environment/ros2.yaml` says what each is for."""

    mode: str = "realtime"  # realtime | lockstep
    action: str = "velocity"  # velocity | delta | position | twist
    speed_scale: float = 0.15
    observation: list[str] | None = None
    image_size: int = 64
    action_history: int = 0
    maximum_steps: int = 100
    terminate_on_success: bool = False
    success_reward: Sequence[float] | None = None
    reset: str = "home"  # home | service | person
    patience_s: float = 60.0
    person_patience_s: float = 600.0


class RosEnvironment:
    """One robot, or the simulated one that stands for it, under the environment contract."""

    def __init__(
        self,
        robot: Robot,
        settings: EnvironmentSettings,
        *,
        domain_id: int,
        check: Callable[[], None] = lambda: None,
        close: Callable[[], None] = lambda: None,
        tell: Callable[[str], None] = lambda _: None,
        terminal: Terminal | None = None,
        connect: Callable[[Heard], Connection] | None = None,
    ) -> None:
        """Joins the ROS domain; governor and robot are waited for by the first reset.

        Args:
            robot: the description.
            settings: of the environment.
            domain_id: of ROS; the process must be prepared by `ros.adopt`.
            check: called while waiting; raises where waiting is in vain.
            close: called by `close`: ends what was started for this environment.
            tell: says to a person what he has to do.
            terminal: at which he answers, where the robot is simulated; None: he has the operator's.
            connect: makes another connection than ROS, which then is not needed.

        Raises:
            InputError: an observation that the description does not offer, or settings that do not fit it.
        """
        if robot.outcome is None and (settings.success_reward is not None or settings.terminate_on_success):
            raise InputError(
                f"{robot.file} has no topics.outcome, so environment.success_reward and terminate_on_success have "
                "nothing to go by: describe the topic, or leave them out"
            )
        self.robot, self.settings = robot, settings
        self._parts = parts_of(robot, settings.observation, settings.image_size)
        self._spec = make_spec(robot, self._parts, settings.action, settings.speed_scale, settings.mode)
        self._commands: CommandHistory | None = None
        if settings.action_history > 0:
            self._commands = CommandHistory(self._spec.action, settings.action_history)
            self._spec = self._commands.shown_in(self._spec)
        low, high = self._spec.action.low, self._spec.action.high
        assert low is not None
        assert high is not None
        self._tool_motion = robot.tool_motion()
        self._bounds = list(zip(low.tolist(), high.tolist(), strict=True))
        outcome = {} if robot.outcome is None else {"outcome": outcome_part(robot.outcome)}
        answered = parts_of(robot, ["joint_position"], settings.image_size)  # by the actions, shown or not
        self._observer = Observer({**answered, **self._parts, **outcome}, robot.joints)
        self.link: Connection
        if connect is not None:
            self.link = connect(self._heard)
        else:
            from robot_rl.hardware.link import Link  # wants ROS 2

            self.link = Link(
                robot,
                domain_id,
                in_lockstep=settings.mode == "lockstep",
                patience_s=settings.patience_s,
                heard=self._heard,
                check=check,
            )
        listened = {part.sensor: part.topic for part in self._observer.parts.values()}
        for sensor, topic in listened.items():
            self.link.listen(sensor, topic)
        self.check = check
        """Raises where processes that were started for this environment have ended."""
        self._close, self._tell = close, tell
        self._person = Person(patience_s=settings.person_patience_s, tell=tell, terminal=terminal)
        self._closed = self._paused = False
        self._listened = set(listened)
        self._outcomes: list[dict[str, float]] = []  # since the last step
        self._frame: Any = None  # of the camera that `render` shows
        self._period_ns = nanoseconds(1 / robot.controller_rate_hz)
        self._next_ns = 0  # of the grid
        self._phase = Phase(self._period_ns, nanoseconds(1 / robot.joint_states.rate_hz))
        self._steps, self._running, self._watching = 0, False, False
        self._observed_ns = 0  # when the last observation was made
        self._answers_ns = 0  # stamp of the joint states in the last observation
        self._sent: list[float] = []  # (J,) positions that were last applied
        self._last: dict[str, Array] = {}
        self.ages_s: dict[str, float] = {}
        """Of the parts of the last observation."""
        self.history: deque[dict[str, float]] = deque(maxlen=KEPT)
        """`ages_s` of each observation, the newest last."""
        self.counts: Counter[str] = Counter()
        """`missed` control periods, `stale KEY` observations waited for, `lost` episodes without one, `stopped`
        episodes, `paused` ones."""
        self.causes: list[str] = []
        """Why the governor stopped the last episode that it did; kept when a person clears it."""
        self.before_tick: Callable[[int], object] = lambda _: None
        """Called shortly before a tick in real time, with the nanoseconds that are left."""
        self._lock = RLock()  # the link is one thread's at a time
        dogs = robot.watchdogs  # whichever of them would stop it first, which a person would have to clear
        patience_s = min(dogs.command_stop_s, dogs.heartbeat_stop_s) / 2
        self._next_step = None if self.link.in_lockstep else Overdue(patience_s, self._pause, self._lock)

    @property
    def spec(self) -> Spec:
        """Shapes, bounds, units; never changes."""
        return self._spec

    @property
    def maximum_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return self.settings.maximum_steps

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode: bring the robot, and the scene, back, and arm it.

        Raises:
            InputError: it could not be brought back, does not arm, or a part of the observation does not come.
        """
        self._expect_no_step()
        with self._lock:
            return self._reset(seed)

    def _reset(self, seed: int) -> TimeStep:
        self._running = self._watching = False
        quiet(self.link, self._person)
        bring_back(self.link, self.settings.reset, seed, self._person)
        since = self.link.now_ns()
        self._await_all(since)
        arm(self.link)
        self.link.clear_applied()
        self.link.wait_until(self.link.now_ns() + self._period_ns)
        self._await_all(since)
        self._sent = list(self.link.applied[-1].position) if self.link.applied else self._measured()
        self._outcomes.clear()
        self._begin_grid()
        self._steps, self._running = 0, True
        if self._commands is not None:
            self._commands.forget()
        self._expect_step()
        return TimeStep(observation=self._observe())

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""
        if not self._running:
            raise RuntimeError("step without an episode: the last one is over or none has begun; call reset first")
        self._expect_no_step()
        with self._lock:
            return self._step(action)

    def _step(self, action: Array) -> TimeStep:
        link, kind = self.link, self.settings.action
        wanted = self._within_bounds(action)
        target = wanted if kind != "delta" else [x + y for x, y in zip(wanted, self._sent, strict=True)]
        link.clear_applied()
        link.act(
            target,
            of="twist" if kind == "twist" else "joints",
            velocity=kind in ("velocity", "twist"),
            answers_ns=self._answers_ns,
        )
        decision_s = (link.now_ns() - self._observed_ns) / SECOND_NS
        waited = sum(count for name, count in self.counts.items() if name.startswith("stale"))
        if self._paused:
            self._begin_grid()  # what passed meanwhile was nobody's to keep
        link.tell((max(self.ages_s.values()), decision_s, self.counts["missed"], waited), self._answers_ns)
        self._wait_for_tick()
        applied, intervened = self._applied()
        if self._commands is not None:
            self._commands.take(applied)
        fresh = self._await_fresh()
        stopped = link.state not in SENT
        self.counts["stopped"] += stopped
        if stopped:
            self.causes = list(link.causes)
        reward, success, terminated = self._outcome()
        self._steps += 1
        truncated = stopped or not fresh or self._steps >= self.maximum_steps
        self._running = not (terminated or truncated)
        observation = self._observe() if fresh else {key: array.copy() for key, array in self._last.items()}
        if self._running:
            self._expect_step()
        else:
            self._let_go()
        return TimeStep(
            observation=observation,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            success=success,
            action=applied,
            intervened=intervened,
        )

    def watch(self) -> TimeStep:
        """What is sensed at the next tick. Nothing is asked of the robot, which stays in the state that it is in.

        The heartbeat is sent nevertheless, so meanwhile the governor arms for nobody else.

        Raises:
            InputError: a part of the observation does not come, or not any more.
        """
        if self._running:
            raise RuntimeError("watch in the middle of an episode: finish it, or close the environment")
        if self._watching:
            self._wait_for_tick()
        else:
            self._await_all(-1)
            self._watching = True
            if self._commands is not None:
                self._commands.forget()  # nobody here says what the robot is told meanwhile
            self._begin_grid()
        if not self._await_fresh():
            now = self.link.now_ns()
            raise InputError(f"nothing to watch: {self._observer.why_stale(self._observer.stale(now, -1), now)}")
        return TimeStep(observation=self._observe())

    def render(self) -> Array:
        """What the first camera of the description sees now. Shapes: (image_size, image_size, 3), uint8.

        Raises:
            InputError: the description has no camera, or none is heard.
        """
        if not self.robot.cameras:
            raise InputError(f"{self.robot.file} has no cameras, so there is nothing to film")
        camera, topic = next(iter(self.robot.cameras.items()))
        if camera not in self._listened:
            self.link.listen(camera, topic)
            self._listened.add(camera)
        if self.link.in_lockstep:
            self.link.look(camera)
        else:
            began = time.monotonic()
            while self._frame is None or time.monotonic_ns() - self._frame[1] > nanoseconds(topic.maximum_age_s):
                if time.monotonic() - began > self.settings.patience_s:
                    raise InputError(f"no picture of {topic.topic} came for {self.settings.patience_s:g} s")
                self.link.wait_until(self.link.now_ns() + nanoseconds(1 / topic.rate_hz))
        part = parts_of(self.robot, [camera], self.settings.image_size)[camera]
        pixels = part.read(self._frame[0])
        assert pixels is not None
        return pixels

    def close(self) -> None:
        """Let go of the robot, end what was started for it, and tell what was counted; twice is allowed."""
        if self._closed:
            return
        self._closed = True
        if self._next_step is not None:
            self._next_step.close()
        if self._running:
            self._let_go()
        self._running = False
        self._see_it_rest()
        if counted := [f"{name} {count}" for name, count in sorted(self.counts.items()) if count]:
            self._tell(f"{self.robot.name}: {', '.join(counted)}")
        self.link.close()
        self._close()

    def _expect_step(self) -> None:
        if self._next_step is not None:
            self._next_step.expect()

    def _expect_no_step(self) -> None:
        if self._next_step is not None:
            self._next_step.came()

    def _pause(self) -> None:
        """In the middle of an episode nobody goes on, as while a policy is evaluated: disarm, before silence stops it.

        The next step finds the robot stopped, and ends the episode as truncated.
        """
        self.counts["paused"] += 1
        self._paused = True
        self._let_go()

    def _let_go(self) -> None:
        """Nothing is asked of the robot while nobody looks at it."""
        if self.link.in_lockstep:
            return  # its time stands still
        try:
            self.link.trigger("governor/disarm", patience_s=2.0)
        except InputError as error:  # then the governor's watchdogs stop it
            self._tell(str(error))

    def _see_it_rest(self) -> None:
        """Not to leave, nor to end a recording, while the robot still brakes."""
        if self.link.in_lockstep:
            return
        until_ns = self.link.now_ns() + nanoseconds(stop_time_s(self.robot.limits) + RESTING_S)
        while self.link.state in (*SENT, State.STOPPING.value) and self.link.now_ns() < until_ns:
            self.link.wait_until(self.link.now_ns() + nanoseconds(self.robot.control_period_s))

    def _heard(self, sensor: str, message: Any, stamp_ns: int, received_ns: int) -> None:
        self._observer.take(sensor, message, stamp_ns, received_ns)
        if sensor == "outcome" and len(message.name) == len(message.position):
            self._outcomes.append(dict(zip(message.name, message.position, strict=True)))
        elif sensor == next(iter(self.robot.cameras), None):
            self._frame = (message, received_ns)

    def _measured(self) -> list[float]:
        message = self._observer.heard["joint_states"].message
        order = {name: index for index, name in enumerate(message.name)}
        return [message.position[order[name]] for name in self.robot.names]

    def _begin_grid(self) -> None:
        """From the newest joint states on, which the ticks are to follow."""
        self._paused, now = False, self.link.now_ns()
        begin_ns = now if self.link.in_lockstep else self._observer.heard["joint_states"].received_ns
        self._next_ns = begin_ns + ((now - begin_ns) // self._period_ns + 1) * self._period_ns

    def _wait_for_tick(self) -> None:
        """The next point of the grid that is still ahead; the points that are past are counted."""
        link, phase = self.link, self._phase
        behind = link.now_ns() - self._next_ns
        if behind >= 0:
            skipped = behind // self._period_ns + 1
            self.counts["missed"] += skipped
            self._next_ns += skipped * self._period_ns
        due = self._next_ns
        if link.in_lockstep:  # where nothing has delays
            link.wait_until(due)
            self._next_ns += self._period_ns
            return
        heard = self._observer.heard
        link.wait_until(due - phase.early_ns)
        if not phase.belongs(heard["joint_states"].received_ns, due):
            self.before_tick(due - link.now_ns())
            link.watch("joint_states", phase.closes_ns(due))
        self._next_ns += self._period_ns + phase.shift_ns(due, heard["joint_states"].received_ns)

    def _within_bounds(self, action: Array) -> list[float]:
        """The action, clipped. Shapes: (A,)."""
        array = np.asarray(action, np.float64)
        wanted: list[float] = array.tolist()
        if array.shape != self._spec.action.shape or not math.isfinite(sum(wanted)):
            self._spec.action.check(array, "action")
        return [min(max(x, low), high) for x, (low, high) in zip(wanted, self._bounds, strict=True)]

    def _applied(self) -> tuple[Array, bool]:
        """What the robot was sent at the end of the period, in the units of the action; and whether a person chose."""
        if not self.link.applied:  # the governor is quiet, so the robot stands
            self.counts["nothing applied"] += 1
            kind = self.settings.action
            return np.array(self._sent) if kind == "position" else np.zeros(self._spec.action.shape), False
        last = self.link.applied[-1]
        before, self._sent = np.array(self._sent), list(last.position)
        match self.settings.action:
            case "velocity":
                applied = np.array(last.velocity)
            case "twist":
                applied = self._tool_motion(last.position)[2] @ np.array(last.velocity)
            case "delta":
                applied = np.array(last.position) - before
            case _:
                applied = np.array(last.position)
        return applied, any(message.header.frame_id == "person" for message in self.link.applied)

    def _await_fresh(self) -> bool:
        """Whether every part is young enough, after waiting as long as the description allows."""
        began = self.link.now_ns()
        patience = nanoseconds(self.robot.watchdogs.observation_stop_s)
        stale = self._observer.stale(began, -1)
        for key in stale:
            self.counts[f"stale {key}"] += 1
        while stale:
            now = self.link.now_ns()
            if now - began > patience:
                self.counts["lost"] += 1
                self._tell(f"the episode ends: {self._observer.why_stale(stale, now)}")
                return False
            self.link.wait_until(now + nanoseconds(self.robot.control_period_s))
            stale = self._observer.stale(self.link.now_ns(), -1)
        return True

    def _await_all(self, since_ns: int) -> None:
        """Every part, measured after the reset."""
        began = time.monotonic()
        while stale := self._observer.stale(self.link.now_ns(), since_ns):
            if time.monotonic() - began > self.settings.patience_s:
                raise InputError(f"no observation to begin with: {self._observer.why_stale(stale, self.link.now_ns())}")
            self.link.wait_until(self.link.now_ns() + nanoseconds(self.robot.control_period_s))

    def _observe(self) -> dict[str, Array]:
        self._observed_ns = self.link.now_ns()
        self.ages_s = self._observer.ages_s(self._observed_ns)
        self.history.append(self.ages_s)
        self._answers_ns = self._observer.heard["joint_states"].stamp_ns
        found = {key: self._observer.read(key) for key in self._parts}
        if self._commands is not None:
            found[ACTION_HISTORY] = self._commands.now()
        self._last = {key: array.copy() for key, array in found.items()}
        return found

    def _outcome(self) -> tuple[float, bool | None, bool]:
        """Reward of the newest, success and termination of any since the last step."""
        if self.robot.outcome is None:
            return 0.0, None, False
        told, self._outcomes = self._outcomes, []
        settings = self.settings
        success = any(outcome.get("success", 0.0) > 0 for outcome in told)
        newest = self._observer.heard["outcome"].message
        reward = dict(zip(newest.name, newest.position, strict=True)).get("reward", 0.0)
        if settings.success_reward is not None:
            reward = settings.success_reward[int(success)]
        terminated = any(outcome.get("terminated", 0.0) > 0 for outcome in told)
        return float(reward), success, terminated or (settings.terminate_on_success and success)
