"""What the exit to the robot costs, in microseconds a call: one call is one control period of all joints.

    python benchmarks/safety.py [--robot panda] [--calls 5000] [--repeats 5]

Prints one line per case: median, 99th and 99.9th percentile and maximum over the calls of the processor time of each,
the median of all times on the wall, and the share of calls that changed the command. The same calls are repeated from
the same state, and the fastest repeat of each call counts, so what a busy machine did meanwhile is left out.
"""

import argparse
import gc
import math
import time
from collections.abc import Callable

import numpy as np

from robot_rl.hardware.commands import Command
from robot_rl.hardware.description import Robot, load
from robot_rl.hardware.governor import Governor
from robot_rl.hardware.safety import Safety
from robot_rl.hardware.watch import nanoseconds

Case = Callable[[int], bool]


def cases(robot: Robot) -> dict[str, Case]:
    """Each a function of the number of the call that makes it, and says whether the command was changed."""
    home = [joint.home for joint in robot.joints]
    h = robot.control_period_s
    generator = np.random.default_rng(0)
    goals = (np.asarray(home) + generator.uniform(-0.1, 0.1, (1000, len(home)))).tolist()
    noise = generator.uniform(-1, 1, (1000, len(home)))
    jumps = (np.asarray(home) + noise).tolist()
    velocities = (noise * robot.limits.velocity).tolist()
    waves = [[x + 0.05 * math.sin(k * h * (1 + i / 10)) for i, x in enumerate(home)] for k in range(100_000)]

    def start() -> Safety:
        safety = Safety.of(robot)
        safety.start(home)
        return safety

    passing, stepping, moving, free, jumping = (start() for _ in range(5))
    unbounded = Safety(robot.limits, None, h)
    unbounded.start(home)
    return {
        "passes unchanged: slow sines": lambda k: not passing.send_position(waves[k % len(waves)]).unchanged,
        "limited: a step of up to 0.1 rad every 20th call": lambda k: (
            not stepping.send_position(goals[k // 20 % 1000]).unchanged
        ),
        "limited: any velocity, changing every 20th call, often at the face of the box": lambda k: (
            not moving.send_velocity(velocities[k // 20 % 1000]).unchanged
        ),
        "the same without a box": lambda k: not unbounded.send_velocity(velocities[k // 20 % 1000]).unchanged,
        "limited: another step of up to 1 rad every call": lambda k: (
            not jumping.send_position(jumps[k % 1000]).unchanged
        ),
        "stop": lambda k: not free.send_stop().unchanged,
        "governor: joint states, wrench, command every 10th call, tick": governor_case(robot, waves),
    }


def governor_case(robot: Robot, waves: list[list[float]]) -> Case:
    """A whole control period of the governor, following a policy."""
    governor, period = Governor(robot), nanoseconds(robot.control_period_s)
    measured = waves[0]

    def hear(now: int, k: int) -> None:
        governor.on_joint_states(robot.names, measured, [], [], now, now)
        governor.on_wrench([0.0] * 3, [0.0] * 3, now)
        if k % 10 == 0:
            governor.on_permit(True, now)
            governor.on_heartbeat("policy", now)

    for k in range(-40, 0):
        hear((k + 100) * period, k)
    governor.claim("policy", 99 * period)
    refusal = governor.arm(99 * period)
    if refusal is not None:
        raise RuntimeError(refusal)

    def call(k: int) -> bool:
        nonlocal measured
        now = (k + 100) * period
        hear(now, k)
        if k % 10 == 0:
            wave = waves[k % len(waves)]
            governor.on_command(Command(source="policy", stamp_ns=now, names=robot.names, values=[wave]), now)
        sent = governor.tick(now).sent
        if sent is None:
            raise RuntimeError(f"the governor stopped: {governor.causes}")
        measured = sent.position
        return not sent.unchanged

    return call


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--robot", default="panda")
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    robot = load(arguments.robot)
    print(f"{robot.name}, {len(robot.joints)} joints, a control period of {robot.control_period_s * 1e3:g} ms")
    for name in cases(robot):
        times = np.empty((arguments.repeats, arguments.calls))
        walls = np.empty_like(times)
        changed = 0
        for repeat in range(arguments.repeats):
            call = cases(robot)[name]
            for k in range(200):
                call(k)
            gc.collect()
            gc.disable()
            for k in range(arguments.calls):
                wall, before = time.perf_counter_ns(), time.thread_time_ns()
                result = call(k + 200)
                times[repeat, k], walls[repeat, k] = time.thread_time_ns() - before, time.perf_counter_ns() - wall
                changed += result
            gc.enable()
        p50, p99, p999, worst = np.percentile(times.min(0) / 1e3, [50, 99, 99.9, 100])
        print(
            f"{p50:6.1f} {p99:6.1f} {p999:6.1f} {worst:7.1f} us, {np.median(walls) / 1e3:5.1f} us on the wall, "
            f"{changed / times.size:4.0%} changed  {name}",
            flush=True,
        )


if __name__ == "__main__":
    main()
