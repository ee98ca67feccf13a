"""The ROS 2 environment in real time: a fixed grid, misses counted, pauses and faults survived. Loose in wall time."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))

from robots import NEEDS_ROS, shared_memory, simulated

from robot_rl.errors import InputError
from robot_rl.hardware.description import load
from robot_rl.hardware.launch import SimulatedRobot
from robot_rl.hardware.mujoco_arm import ArmSettings

pytestmark = NEEDS_ROS


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated Panda at rates that a busy machine of two cores keeps, and with the patience that it needs."""
    data = yaml.safe_load((Path(__file__).parents[2] / "configs/robot/sim_panda.yaml").read_text())
    data |= {"control_period_s": 0.05, "controller_rate_hz": 5}
    data["command"] |= {"rate_hz": 20, "maximum_age_s": 2.0}
    data["topics"].pop("cameras")
    topics = [data["topics"][key] for key in ("joint_states", "wrench", "tool_pose", "outcome")]
    for topic in (*topics, data["topics"]["points"]["target"]):
        topic |= {"rate_hz": 20, "maximum_age_s": 1.5}
    silences = ("observation_stop_s", "heartbeat_stop_s", "permit_stop_s", "frozen_s", "clock_jump_s", "answer_age_s")
    data["watchdogs"] |= dict.fromkeys(silences, 3.0)
    data["watchdogs"] |= {"command_hold_s": 2.0, "command_stop_s": 6.0, "missed_deadlines": 60}
    path = tmp_path_factory.mktemp("robot") / "sim_panda.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(scope="module")
def robot(description: Path) -> Iterator[SimulatedRobot]:
    """One simulated robot in real time, with a clock, a latency and a noise of its own."""
    before = shared_memory()
    settings = ArmSettings(latency_s=0.02, position_noise=1e-4, clock_offset_s=1000.0, clock_drift=0.001)
    with simulated(str(description), in_lockstep=False, settings=settings) as found:
        yield found
    assert shared_memory() <= before


@pytest.fixture
def environment(robot: SimulatedRobot, description: Path) -> Iterator[Any]:
    from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment

    settings = EnvironmentSettings(reset="service", maximum_steps=1000, patience_s=300.0, person_patience_s=0.5)
    told: list[str] = []
    with closing(
        RosEnvironment(load(description), settings, domain_id=robot.domain_id, check=robot.check, tell=told.append)
    ) as found:
        found.told = told
        yield found


def zero(environment: Any) -> np.ndarray[Any, Any]:
    return np.zeros(environment.spec.action.shape)


def first_step(environment: Any) -> Any:
    """A reset and a step, again where a busy machine took so long that the robot stopped."""
    said: list[str] = []
    for _ in range(20):
        try:
            environment.reset(seed=1)
            step = environment.step(zero(environment))
        except InputError as error:
            said.append(str(error))
        else:
            if not step.last:
                return step
            said += environment.link.causes
        environment.link.trigger("governor/clear")
    raise AssertionError(said)


def test_steps_come_on_a_fixed_grid_and_what_is_missed_is_counted(environment: Any) -> None:
    first_step(environment)
    grid, period = environment._next_ns, environment._period_ns
    before, steps = environment.counts["missed"], 0

    def missed() -> int:
        return int(environment.counts["missed"] - before)

    for k in range(20):
        if k == 10:
            time.sleep(2.2 * period / 1e9)
        steps += 1
        if environment.step(environment.spec.action.high / 10).last:
            break
    points = (environment._next_ns - grid) / period  # but for what keeps it in phase with the joint states
    assert points == pytest.approx(steps + missed(), abs=0.5)  # every point of the grid was used, or counted
    assert steps < 10 or missed() >= 2


def test_ages_are_those_of_this_machines_clock_whatever_the_robots_clock_says(environment: Any) -> None:
    first_step(environment)
    assert set(environment.ages_s) == {*environment.spec.observation, "outcome"}
    assert all(0 <= age <= 1.5 for age in environment.ages_s.values())
    robots_ns = environment._observer.heard["joint_states"].stamp_ns
    assert abs(robots_ns - time.time_ns() - 1000e9) < 100e9


def test_a_pause_ends_the_episode_without_a_fault(environment: Any) -> None:
    for _ in range(5):
        first_step(environment)
        missed = environment.counts["missed"]
        time.sleep(0.75 * environment.robot.watchdogs.command_stop_s)
        step = environment.step(zero(environment))
        assert step.truncated
        assert not np.any(step.action)
        if environment.link.state == "disarmed":
            break
        environment.link.trigger("governor/clear")  # the machine was too busy to pause in time
    assert environment.link.state == "disarmed"
    assert environment.counts["paused"] >= 1
    assert environment.counts["missed"] <= missed + 1  # nobody was to keep the points of the grid that passed
    first_step(environment)


def test_a_fault_waits_for_a_person_and_tells_him_what_to_do(environment: Any) -> None:
    first_step(environment)
    assert environment.link.trigger("governor/stop") == (True, "")
    assert environment.step(zero(environment)).truncated
    with pytest.raises(InputError, match=r"the operator pressed stop, and nobody cleared it within 0\.5 s"):
        environment.reset(seed=1)
    assert "type `clear` in the operator's terminal" in environment.told[-1]
    assert environment.link.trigger("governor/clear") == (True, "")
    first_step(environment)


def test_a_robot_that_hangs_ends_the_episode(robot: SimulatedRobot, environment: Any) -> None:
    first_step(environment)
    os.kill(robot.pids["mujoco_arm"], signal.SIGSTOP)
    try:
        step = environment.step(zero(environment))
        while not step.last:
            step = environment.step(zero(environment))
        assert step.truncated
        assert environment.counts["lost"] + environment.counts["stopped"] >= 1
    finally:
        os.kill(robot.pids["mujoco_arm"], signal.SIGCONT)
