"""The exit to the robot: no limit is exceeded, from any state, whatever is commanded."""

import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from robot_rl.errors import InputError
from robot_rl.hardware.description import load
from robot_rl.hardware.safety import NOT_FINITE, SHAPE, STOPPED, WORKSPACE, Safety, reason_names

sys.path.insert(0, str(Path(__file__).parent))

from adversary import excess, sequence, tool_points


def attack(name: str, sequences: int, length: int, seed: int) -> dict[str, float]:
    """The worst excess of `sequences` random sequences, each from where the one before ended, as it moves.

    Every 1000th begins anew at a random pose in the workspace, since a tool at the edge of the box rarely gets away.
    """
    robot = load(name)
    generator = np.random.default_rng(seed)
    safety, names = Safety.of(robot), robot.names
    home = [joint.home for joint in robot.joints]
    safety.start(home)
    low, high = np.asarray(robot.workspace.low_m), np.asarray(robot.workspace.high_m)
    worst = dict.fromkeys(("position", "velocity", "acceleration", "jerk", "workspace"), -math.inf)
    changed = unchanged = refused = 0
    sent: list[list[float]] = [safety.position] * 3

    def check() -> None:
        positions = np.array(sent)
        tool = tool_points(robot.chain, names, positions)
        outside = {"workspace": float(max((tool - high).max(), (low - tool).max()))}
        for key, value in (excess(positions, robot.limits, robot.control_period_s) | outside).items():
            worst[key] = max(worst[key], value)

    for number in range(sequences):
        if number % 100 == 99:
            check()
            sent = sent[-3:]
            if number % 1000 == 999:
                while True:
                    pose = generator.uniform(robot.limits.low, robot.limits.high)
                    if ((low < (at := tool_points(robot.chain, names, pose[None])[0])) & (at < high)).all():
                        break
                safety.start(pose.tolist())
                sent = [safety.position] * 3
        for command in sequence(generator, robot.limits, robot.control_period_s, lambda: safety.position, home, length):
            if command is None:
                result = safety.send_stop()
            elif command.velocity:
                result = safety.send_velocity(command.target)
            else:
                result = safety.send_position(command.target)
                if result.unchanged:
                    assert result.position == command.target
            changed += not result.unchanged
            unchanged += result.unchanged
            refused += bool(result.reasons & WORKSPACE)
            sent.append(result.position)
    check()
    assert min(changed, unchanged, refused) > sequences * length / 500  # the attack reaches every branch
    return worst


def assert_none_exceeded(worst: dict[str, float]) -> None:
    assert worst["position"] <= 0
    assert worst["workspace"] <= 0
    assert worst["velocity"] < 1e-8
    assert worst["acceleration"] < 1e-8
    assert worst["jerk"] < 1e-6  # third differences of rounded positions, divided by the cube of 4 ms


@pytest.mark.parametrize("name", ["panda", "ur5e", "so101"])
def test_no_limit_is_ever_exceeded(name: str) -> None:
    assert_none_exceeded(attack(name, 1500, 5, seed=0))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sequences"), [("panda", 600_000), ("ur5e", 200_000), ("so101", 200_000)])
def test_no_limit_is_ever_exceeded_in_a_million_sequences(name: str, sequences: int) -> None:
    start = time.process_time()
    worst = attack(name, sequences, 5, seed=1)
    print(name, sequences, worst, f"{time.process_time() - start:.0f} s of processor time", flush=True)
    assert_none_exceeded(worst)


def panda() -> tuple[Safety, list[float]]:
    robot = load("panda")
    safety, home = Safety.of(robot), [joint.home for joint in robot.joints]
    safety.start(home)
    return safety, home


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_command_that_is_no_number_brakes_the_arm(value: float) -> None:
    safety, home = panda()
    for _ in range(40):
        safety.send_velocity([0.3] * 7)
    moving = safety.position
    for _ in range(200):
        sent = safety.send_position([*home[:6], value])
        assert sent.reasons == NOT_FINITE
        assert all(map(math.isfinite, sent.position))
    assert safety.at_rest
    assert sent.velocity == [0.0] * 7
    assert moving != home


def test_finite_numbers_whose_sum_is_not_are_no_reason_to_brake() -> None:
    safety, _ = panda()
    assert not safety.send_velocity([1e308, 1e308, 0, 0, 0, 0, 0]).reasons & NOT_FINITE


@pytest.mark.parametrize("count", [0, 6, 8])
def test_a_wrong_number_of_joints_brakes_the_arm(count: int) -> None:
    safety, home = panda()
    assert safety.send_position([0.0] * count).reasons == SHAPE
    assert safety.position == home


def test_a_target_whose_tool_is_outside_is_not_approached() -> None:
    safety, home = panda()
    folded = [home[0], 1.2, *home[2:]]  # the hand goes into the table
    for _ in range(50):
        assert safety.send_position(folded).reasons & WORKSPACE
    assert safety.position == home


def test_a_velocity_out_of_the_box_ends_at_its_face() -> None:
    tool = load("panda").tool_point()
    safety, _ = panda()
    for _ in range(2500):
        sent = safety.send_velocity([0, 0.4, 0, 0, 0, 0, 0])
    assert sent.reasons & WORKSPACE
    assert 0.2 <= tool(safety.position)[0] < 0.202  # the face towards the robot


def test_a_resting_target_inside_is_reached_and_then_unchanged() -> None:
    safety, home = panda()
    target = [x + 0.1 for x in home]
    for _ in range(400):
        sent = safety.send_position(target)
    assert sent.unchanged
    assert sent.position == target


def test_a_stop_ends_at_rest_and_says_so() -> None:
    safety, _ = panda()
    for _ in range(40):
        safety.send_velocity([0.3] * 7)
    assert not safety.at_rest
    sent = safety.send_stop()
    assert sent.reasons == STOPPED
    assert reason_names(sent.reasons) == ["stop"]
    for _ in range(100):
        safety.send_stop()
    assert safety.at_rest


def test_a_start_outside_the_workspace_is_refused() -> None:
    safety, home = panda()
    with pytest.raises(InputError, match="outside the workspace"):
        safety.start([home[0], 1.2, *home[2:]])
    with pytest.raises(InputError, match="panda_joint4 is at 0"):
        safety.start([0.0] * 7)


def test_a_scaled_exit_is_slower() -> None:
    robot = load("panda")
    slow = Safety.of(robot, speed_scale=0.2)
    slow.start([joint.home for joint in robot.joints])
    speeds = [max(map(abs, slow.send_position([j.home + 0.4 for j in robot.joints]).velocity)) for _ in range(300)]
    assert 0.3 < max(speeds) <= 0.2 * 2.61 * (1 + 1e-9)
