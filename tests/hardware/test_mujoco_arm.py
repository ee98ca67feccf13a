"""The simulated arm, without ROS: it stands where the description says, follows, and a seed fixes its episodes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from robot_rl.errors import InputError
from robot_rl.hardware.description import Robot, load
from robot_rl.hardware.kinematics import frames
from robot_rl.hardware.mujoco_arm import ArmCamera, ArmSettings, Measurement, MujocoArm

ARMS = ["sim_panda", "ur5e", "so101"]


def settings(robot: Robot, **changes: float) -> ArmSettings:
    return ArmSettings(**{"physics_step_s": min(0.002, robot.control_period_s / 5), **changes})


def made(name: str, **changes: float) -> tuple[Robot, MujocoArm]:
    robot = load(name)
    return robot, MujocoArm(robot, settings(robot, **changes))


def swing(robot: Robot, arm: MujocoArm, periods: int, reach: float = 0.1) -> list[Measurement]:
    """All joints on a slow sine."""
    start, found = np.array(arm.measure().position), []
    for k in range(periods):
        arm.command((start + reach * math.sin(2 * k * robot.control_period_s)).tolist())
        arm.advance(robot.control_period_s)
        found.append(arm.measure())
    return found


@pytest.mark.parametrize("name", ARMS)
def test_the_tool_is_where_the_kinematics_of_the_description_put_it(name: str) -> None:
    robot, arm = made(name)
    for measurement in [arm.measure(), *swing(robot, arm, 40)[::10]]:
        chained = [measurement.position[robot.names.index(link.joint)] for link in robot.chain.links]
        pose = frames(robot.chain, chained)[-1]
        assert np.allclose(measurement.tool_m, pose[:3, 3], atol=1e-9)
        w, x, y, z = measurement.tool_quaternion
        first_column = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
        assert np.allclose(first_column, pose[:3, 0], atol=1e-9)


@pytest.mark.parametrize("name", ARMS)
def test_it_follows_closer_than_the_governor_demands_and_within_its_efforts(name: str) -> None:
    robot, arm = made(name)
    start = np.array(arm.measure().position)
    found = swing(robot, arm, 100)
    for k, measurement in enumerate(found):
        wanted = start + 0.1 * math.sin(2 * k * robot.control_period_s)
        assert all(
            abs(q - w) < joint.tracking / 2 and abs(e) < joint.effort
            for q, w, e, joint in zip(measurement.position, wanted, measurement.effort, robot.joints, strict=True)
        )
    assert np.std([m.position[0] for m in found]) > 0.01


def test_a_seed_and_the_commands_fix_everything_also_the_noise() -> None:
    robot, arm = made("sim_panda", position_noise=0.001, velocity_noise=0.01)
    episodes = []
    for seed in (3, 4, 3):
        arm.reset(seed)
        first = arm.measure()
        arm.measure()  # looking twice changes nothing
        episodes.append([first, *swing(robot, arm, 20)])
    assert episodes[0] == episodes[2]
    assert episodes[0][0].target_m != episodes[1][0].target_m
    assert episodes[0][0].position != episodes[1][0].position


def test_noise_is_what_the_settings_say() -> None:
    robot, arm = made("sim_panda", position_noise=0.01)
    _, exact = made("sim_panda")
    noisy, true = swing(robot, arm, 100), swing(robot, exact, 100)
    errors = np.array([m.position for m in noisy[1:]]) - np.array([m.position for m in true[1:]])
    assert 0.009 < (errors - errors.mean(axis=0)).std() < 0.011  # the swing starts from a pose with noise


def test_targets_are_in_the_workspace_and_within_reach_of_a_pose_nearby() -> None:
    robot, arm = made("sim_panda")
    targets = []
    for seed in range(50):
        arm.reset(seed)
        targets.append(arm.measure().target_m)
    assert (np.array(targets) >= robot.workspace.low_m).all()
    assert (np.array(targets) <= robot.workspace.high_m).all()
    assert (np.std(targets, axis=0) > 0.03).all()


def test_the_target_is_reached_where_the_tool_is_at_it() -> None:
    _, arm = made("sim_panda", target_spread=0.0, start_spread=0.0)
    measurement = arm.measure()
    assert measurement.distance_m < 1e-9
    assert measurement.reached
    _, arm = made("sim_panda", reach_m=1e-6)
    measurement = arm.measure()
    assert measurement.distance_m == pytest.approx(math.dist(measurement.tool_m, measurement.target_m))
    assert not measurement.reached


def test_a_dead_joint_does_not_hear_and_the_others_do() -> None:
    robot, arm = made("sim_panda")
    start = arm.measure().position
    for _ in range(20):
        arm.command([q + 0.05 for q in start], dead=frozenset({2}))
        arm.advance(robot.control_period_s)
    moved = np.array(arm.measure().position) - start
    assert abs(moved[2]) < 0.01
    assert (np.delete(moved, 2) > 0.04).all()


def test_without_commands_it_holds_and_the_brakes_end_all_motion() -> None:
    robot, arm = made("sim_panda")
    arm.command([q + 0.05 for q in arm.measure().position])
    arm.advance(robot.control_period_s)
    arm.hold()
    for _ in range(50):
        arm.advance(robot.control_period_s)
    assert np.abs(arm.measure().velocity).max() < 1e-3
    swing(robot, arm, 5)
    arm.brake()
    before = arm.measure()
    assert not any(before.velocity)
    arm.advance(0.5)
    assert np.allclose(arm.measure().position, before.position, atol=0.01)


def test_velocities_are_followed_where_the_robot_takes_them() -> None:
    robot = replace(load("sim_panda"), mode="joint_velocity")
    arm = MujocoArm(robot, settings(robot))
    start = np.array(arm.measure().position)
    for _ in range(50):
        arm.command([0.1] * 7)
        arm.advance(robot.control_period_s)
    assert np.allclose(arm.measure().velocity, 0.1, atol=0.02)
    assert np.allclose(arm.measure().position - start, 0.05, atol=0.01)
    arm.hold()
    arm.advance(0.5)
    assert np.abs(arm.measure().velocity).max() < 1e-3


def test_pushing_against_the_table_is_felt() -> None:
    robot, arm = made("sim_panda", start_spread=0.0)
    free = np.linalg.norm(arm.measure().force_N)
    q = np.array(arm.measure().position)
    forces = []
    for _ in range(200):
        q[1] += 0.01  # lean forwards, down to the table
        arm.command(q.tolist())
        arm.advance(robot.control_period_s)
        forces.append(np.linalg.norm(arm.measure().force_N))
    assert free < 1.0
    assert max(forces) > 5.0


@pytest.mark.parametrize("camera", ["front", "wrist"])
def test_both_cameras_see_the_arm_move(camera: str) -> None:
    robot, arm = made("sim_panda")
    view = ArmCamera(arm.model, camera, 32)
    before = view.picture(arm.snapshot())
    assert before.shape == (32, 32, 3)
    assert before.std() > 5
    assert np.array_equal(before, view.picture(arm.snapshot()))
    swing(robot, arm, 60, reach=0.3)
    assert not np.array_equal(before, view.picture(arm.snapshot()))
    view.close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"physics_step_s": 0.003}, "does not divide control_period_s"),
        ({"physics_step_s": 0.0}, "must be above 0"),
        ({"latency_s": -1.0}, "must be finite and at least 0"),
        ({"reach_m": 0.0}, "must be above 0"),
    ],
)
def test_settings_without_sense_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made("sim_panda", **changes)
