"""A governor with a robot that does as it is told, a policy and an operator, and all that can break, in fake time."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from adversary import excess, tool_points

from robot_rl.clock import FakeClock
from robot_rl.hardware.commands import Command, Output, stop_time_s
from robot_rl.hardware.description import Robot, load
from robot_rl.hardware.governor import Governor
from robot_rl.hardware.states import State

MS = 1_000_000
ROBOT_CLOCK_NS = 10**18  # the robot's stamps count from elsewhere


@dataclass
class Rig:
    """Everybody speaks at his rate unless he is in `silent`; `run` moves time on, a control period at a time."""

    robot: Robot = field(default_factory=lambda: load("panda"))
    clock: FakeClock = field(default_factory=lambda: FakeClock(5 * 10**9))
    silent: set[str] = field(default_factory=set)  # robot, policy, heartbeat, permit, wrench, device, governor
    held: bool = False  # the person holds the button
    person: list[float] = field(default_factory=lambda: [0.0] * 7)  # velocities
    policy: Callable[["Rig"], list[float]] = lambda rig: rig.wave()
    stamp_offset_ns: int = ROBOT_CLOCK_NS
    force_N: float = 1.0
    stuck: set[int] = field(default_factory=set)  # joints that do not move

    def __post_init__(self) -> None:
        self.governor = Governor(self.robot)
        self.home = [joint.home for joint in self.robot.joints]
        self.measured = list(self.home)
        self.outputs: list[Output] = []
        self.times: list[int] = []
        self.positions: list[list[float]] = []
        self.stamp_ns = 0

    @property
    def now(self) -> int:
        return self.clock.now_ns()

    @property
    def state(self) -> State:
        return self.governor.state

    def wave(self) -> list[float]:
        """A slow motion around the home pose."""
        return [x + 0.05 * math.sin(self.now / 1e9) for x in self.home]

    def command(self, values: list[float], source: str = "policy", stamp_ns: int | None = None) -> str | None:
        return self.governor.on_command(
            Command(
                source=source,
                stamp_ns=self.stamp_ns if stamp_ns is None else stamp_ns,
                names=self.robot.names,
                values=[values],
            ),
            self.now,
        )

    def run(self, seconds: float) -> None:
        """Let everybody who is not silent speak: joint states and ticks every 5 ms, the policy every 50 ms."""
        for _ in range(round(seconds / self.robot.control_period_s)):
            self.clock.advance(self.robot.control_period_s)
            step = self.now // (5 * MS)
            governor, now = self.governor, self.now
            if "robot" not in self.silent:
                self.stamp_ns = now + self.stamp_offset_ns
                governor.on_joint_states(self.robot.names, self.measured, [], [], self.stamp_ns, now)
            if "wrench" not in self.silent:
                governor.on_wrench([self.force_N, 0, 0], [0, 0, 0], now)
            if step % 20 == 0 and "permit" not in self.silent:
                governor.on_permit(True, now)
            if step % 10 == 0 and "heartbeat" not in self.silent:
                governor.on_heartbeat("policy", now)
            if step % 4 == 0 and "device" not in self.silent and self.held is not None:
                governor.on_takeover(self.held, now)
                if self.held:
                    governor.on_person(self.person, True, now)
            if step % 10 == 0 and "policy" not in self.silent:
                self.command(self.policy(self))
            if "governor" not in self.silent:
                self.take(governor.tick(now))

    def take(self, output: Output) -> None:
        self.outputs.append(output)
        self.times.append(self.now)
        if output.sent is not None:
            self.positions.append(output.sent.position)
            self.measured = [
                old if i in self.stuck else new
                for i, (old, new) in enumerate(zip(self.measured, output.sent.position, strict=True))
            ]

    def armed(self) -> "Rig":
        """Up to following the policy."""
        self.run(0.2)
        assert self.governor.claim("policy", self.now) is None
        assert self.governor.arm(self.now) is None
        self.positions = [self.measured] * 3
        self.run(1.0)
        assert self.state is State.ACTIVE
        return self

    def speed(self) -> float:
        """Of the fastest joint, as last sent; 0 where nothing is sent."""
        sent = self.outputs[-1].sent
        return 0.0 if sent is None else max(map(abs, sent.velocity))

    def seconds_until(self, done: Callable[[], bool], limit_s: float = 10.0) -> float:
        """Run until `done`."""
        start = self.now
        while not done():
            assert self.now - start < limit_s * 1e9, f"not within {limit_s} s: {self.state}, {self.governor.causes}"
            self.run(self.robot.control_period_s)
        return (self.now - start) / 1e9

    def assert_within_limits(self) -> None:
        """All that was sent since `armed` kept the limits."""
        sent = np.array(self.positions)
        assert max(excess(sent, self.robot.limits, self.robot.control_period_s).values()) < 1e-6
        tool = tool_points(self.robot.chain, self.robot.names, sent)
        assert (tool >= self.robot.workspace.low_m).all()
        assert (tool <= self.robot.workspace.high_m).all()


def at_rest(rig: Rig) -> bool:
    """Nothing is sent any more, and the last that was did not move."""
    return rig.state in (State.FAULT, State.DISARMED) and rig.speed() == 0


def bound_s(rig: Rig, silence_s: float) -> float:
    """How long until the robot stands still: the silence, then the brake, and two control periods."""
    return silence_s + stop_time_s(rig.robot.limits) + 2 * rig.robot.control_period_s
