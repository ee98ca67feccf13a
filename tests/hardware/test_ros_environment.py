"""The ROS 2 environment passes the contract of every simulator, in lockstep over real DDS, each process its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from robots import NEEDS_ROS, shared_memory, simulated

from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.hardware.description import load
from robot_rl.hardware.faults import Faults
from robot_rl.hardware.launch import SimulatedRobot
from robot_rl.hardware.mujoco_arm import ArmSettings
from robot_rl.testing.contracts import ENVIRONMENT_CHECKS, actions_of, need_equal, roll_out

pytestmark = NEEDS_ROS
STEPS = 15
PATIENCE_S = 300.0  # to find one another: on a busy machine processes start slowly


@pytest.fixture(scope="module")
def robot() -> Iterator[SimulatedRobot]:
    """One simulated robot, which all tests but those that break it share."""
    before = shared_memory()
    with simulated(settings=ArmSettings(image_size=32)) as found:
        yield found
    assert shared_memory() <= before


def connect(robot: SimulatedRobot, **changes: Any) -> Any:
    """An environment on it."""
    from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment

    settings = EnvironmentSettings(
        mode="lockstep", reset="service", image_size=32, maximum_steps=STEPS, patience_s=PATIENCE_S
    )
    return RosEnvironment(load("sim_panda"), replace(settings, **changes), domain_id=robot.domain_id, check=robot.check)


@pytest.fixture
def environment(robot: SimulatedRobot) -> Iterator[Any]:
    """One on the shared robot, whose faults are switched off afterwards."""
    from robot_rl.hardware.person import Person
    from robot_rl.hardware.resets import quiet

    with closing(connect(robot, maximum_steps=60)) as found:
        yield found
        healthy = {
            f"fault.{name}": "" if isinstance(value, tuple) else value for name, value in asdict(Faults()).items()
        }
        found.link.set_parameters("arm", healthy)
        with suppress(InputError):  # in fault
            quiet(found.link, Person(patience_s=0.0, tell=print))
        found.link.trigger("governor/clear")


def rest(environment: Any) -> np.ndarray[Any, Any]:
    return np.zeros(environment.spec.action.shape)


@pytest.mark.parametrize("check", ENVIRONMENT_CHECKS, ids=lambda check: check.__name__)
def test_contract(robot: SimulatedRobot, check: Callable[[Callable[[], Environment]], None]) -> None:
    check(lambda: connect(robot))


def test_other_processes_give_the_same_numbers(robot: SimulatedRobot) -> None:
    episodes = []
    with simulated(settings=ArmSettings(image_size=32)) as other:
        for where in (robot, other):
            with closing(connect(where)) as environment:
                episodes.append(roll_out(environment, 5, actions_of(environment.spec, 5, STEPS)))
    need_equal(*episodes, "in other processes")


def test_a_policy_that_goes_to_the_target_succeeds(robot: SimulatedRobot) -> None:
    tool_point = load("sim_panda").tool_point()
    with closing(
        connect(robot, maximum_steps=80, terminate_on_success=True, success_reward=[-1.0, 0.0])
    ) as environment:
        step = environment.reset(seed=1)
        while not step.last:
            q = step.observation["joint_position"].astype(float)
            tool = np.array(tool_point(q.tolist()))
            assert np.allclose(tool, step.observation["tool_pose"][:3], atol=0.02)
            jacobian = np.array([np.array(tool_point((q + dq).tolist())) - tool for dq in 1e-5 * np.eye(7)]).T / 1e-5
            step = environment.step(np.linalg.pinv(jacobian) @ (3 * (step.observation["target"] - tool)))
        assert (step.success, step.terminated, step.truncated, step.reward) == (True, True, False, 0.0)


def test_what_is_reported_as_applied_is_what_the_governor_let_through(robot: SimulatedRobot) -> None:
    with closing(connect(robot, action="position")) as environment:
        start = environment.reset(seed=1).observation["joint_position"].astype(float)
        wanted = start + np.array([0.09, 0, 0, 0, 0, 0, 0])  # within `first_command`
        first, *later = [environment.step(wanted) for _ in range(8)]
        assert 0 < first.action[0] - start[0] < 0.02  # no further than the limits allow in a period
        for step in (first, *later):
            assert np.allclose(step.observation["joint_position"], step.action, atol=0.03)
        assert np.allclose(later[-1].action, wanted, atol=1e-6)
    with closing(connect(robot, action="delta", speed_scale=0.7)) as environment:
        environment.reset(seed=1)
        wanted = environment.spec.action.high
        step = environment.step(wanted)
        assert (step.action < wanted / 2).all()
        assert (step.action > 0).all()


def test_a_reset_by_homing_moves_the_robot_back_through_the_governor(robot: SimulatedRobot) -> None:
    with closing(connect(robot, reset="home")) as environment:
        home = [joint.home for joint in environment.robot.joints]
        assert np.allclose(environment.reset(seed=1).observation["joint_position"], home, atol=0.01)
        for _ in range(10):
            step = environment.step(environment.spec.action.high)
        assert np.abs(step.observation["joint_position"] - home).max() > 0.1
        assert np.allclose(environment.reset(seed=2).observation["joint_position"], home, atol=0.01)


def test_images_come_raw_and_compressed(robot: SimulatedRobot) -> None:
    with closing(connect(robot, observation=["front", "wrist"], image_size=16)) as environment:
        seen = [environment.reset(seed=1), *(environment.step(environment.spec.action.high) for _ in range(6))]
        for camera in ("front", "wrist"):
            images = [step.observation[camera] for step in seen]
            assert {(image.shape, image.dtype.name) for image in images} == {((16, 16, 3), "uint8")}
            assert images[0].std() > 2
            assert not np.array_equal(images[0], images[-1])
            assert environment.ages_s[camera] <= environment.robot.cameras[camera].maximum_age_s
        environment.link.set_parameters("arm", {"fault.stuck": "front"})
        stuck = [environment.step(environment.spec.action.low).observation for _ in range(6)]
        assert np.array_equal(stuck[-1]["front"], stuck[-2]["front"])
        assert not np.array_equal(stuck[-1]["wrist"], stuck[0]["wrist"])
        environment.link.set_parameters("arm", {"fault.stuck": ""})


def test_a_camera_that_repeats_its_picture_while_the_robot_moves_ends_the_episode(robot: SimulatedRobot) -> None:
    with closing(connect(robot, observation=["front"], maximum_steps=60)) as environment:
        step = environment.reset(seed=1)
        high = environment.spec.action.high
        for _ in range(4):
            step = environment.step(high)
        environment.link.set_parameters("arm", {"fault.stuck": "front"})
        began, described = environment.link.now_ns(), environment.robot
        while not step.last:
            step = environment.step(high)
        environment.link.set_parameters("arm", {"fault.stuck": ""})
        assert step.truncated
        assert (environment.counts["stale front"], environment.counts["lost"]) == (1, 1)
        turn_s = max(joint.tracking for joint in described.joints) / min(high)  # until the motion is seen for sure
        silence_s = described.cameras["front"].maximum_age_s + described.watchdogs.observation_stop_s
        assert environment.link.now_ns() - began < (turn_s + silence_s + 0.1) * 1e9


def test_silence_ends_the_episode_and_is_told_and_only_a_clear_lets_it_go_on(environment: Any) -> None:
    environment.reset(seed=1)
    environment.step(rest(environment))
    environment.link.set_parameters("arm", {"fault.silent": True})
    began = environment.link.now_ns()
    step = environment.step(rest(environment))
    while not step.last:
        step = environment.step(rest(environment))
    assert step.truncated
    assert not step.terminated
    assert environment.link.now_ns() - began < 1.5e9  # of the robot's time
    assert environment.counts["stale joint_position"] >= 1
    assert environment.counts["lost"] == 1
    assert environment.link.state == "fault"
    environment.link.set_parameters("arm", {"fault.silent": False})
    with pytest.raises(InputError, match="the robot has stopped: no new joint states"):
        environment.reset(seed=1)
    assert environment.link.trigger("governor/clear") == (True, "")
    environment.reset(seed=1)


def test_a_joint_that_does_not_answer_stops_the_robot(environment: Any) -> None:
    environment.reset(seed=1)
    environment.link.set_parameters("arm", {"fault.dead": "panda_joint2"})
    for _ in range(30):
        step = environment.step(environment.spec.action.high)
        if step.last:
            break
    assert step.truncated
    assert environment.counts["stopped"] == 1
    assert "panda_joint2 is at" in environment.link.causes[0]


def test_a_sensor_that_is_stuck_repeats_itself_and_the_others_do_not(environment: Any) -> None:
    environment.reset(seed=1)
    environment.step(environment.spec.action.high)
    environment.link.set_parameters("arm", {"fault.stuck": "panda_joint1,tool_pose"})
    first, second = (environment.step(environment.spec.action.high).observation for _ in range(2))
    assert first["joint_position"][0] == second["joint_position"][0]
    assert first["joint_position"][1] != second["joint_position"][1]
    assert np.array_equal(first["tool_pose"], second["tool_pose"])


def test_dropped_and_late_messages_are_survived_counted_and_repeatable(environment: Any) -> None:
    episodes = []
    environment.link.set_parameters("arm", {"fault.drop": 0.5, "fault.late": 0.2, "fault.late_s": 0.3})
    for _ in range(2):
        environment.counts.clear()
        episodes.append(roll_out(environment, 7, actions_of(environment.spec, 7, 25)))
        ages = [max(ages.values()) for ages in list(environment.history)[-25:]]
        assert max(ages) > 0.01
        assert max(ages) <= 0.2  # what is older is not used
    need_equal(*episodes, "with dropped messages")


def test_what_a_person_does_is_reported_as_applied_and_as_intervened(environment: Any) -> None:
    from sensor_msgs.msg import Joy

    from robot_rl.hardware.ros_io import profile

    device = environment.link._node.create_publisher(Joy, "rl/takeover", profile(reliable=False))

    def steps(held: bool, until: Callable[[Any], bool]) -> Any:
        for _ in range(25):
            device.publish(Joy(axes=[0.1] * 7, buttons=[int(held)]))
            step = environment.step(-environment.spec.action.high)
            if until(step):
                return step
        raise AssertionError(environment.link.state, environment.link.causes)

    environment.reset(seed=1)
    steps(True, lambda step: step.intervened and np.allclose(step.action, 0.1, atol=1e-3))
    assert environment.link.state == "takeover"
    step = steps(False, lambda step: not step.intervened and environment.link.state == "active")
    assert (step.action <= 1e-6).all()  # the policy's way again, from rest


def test_faults_that_do_not_exist_are_refused_with_a_reason(environment: Any) -> None:
    for values, reason in (({"fault.dead": "elbow"}, "Choices: panda_joint1"), ({"fault.drop": 2.0}, "must lie in")):
        with pytest.raises(InputError, match=reason):
            environment.link.set_parameters("arm", values)


def test_a_key_that_the_description_does_not_offer_is_refused(robot: SimulatedRobot) -> None:
    with pytest.raises(InputError, match="offers no 'joint_positions': did you mean 'joint_position'"):
        connect(robot, observation=["joint_positions"])


def test_a_robot_whose_task_nobody_watches_has_no_success_to_go_by(robot: SimulatedRobot) -> None:
    from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment

    unwatched = replace(load("sim_panda"), outcome=None)
    with pytest.raises(InputError, match=r"no topics\.outcome"):
        RosEnvironment(unwatched, EnvironmentSettings(terminate_on_success=True), domain_id=robot.domain_id)
    settings = EnvironmentSettings(mode="lockstep", reset="service", patience_s=PATIENCE_S)
    with closing(RosEnvironment(unwatched, settings, domain_id=robot.domain_id)) as environment:
        environment.reset(seed=1)
        step = environment.step(rest(environment))
        assert (step.reward, step.success, step.terminated) == (0.0, None, False)


def test_a_killed_robot_is_noticed_with_its_name() -> None:
    with simulated() as mortal, closing(connect(mortal)) as environment:
        environment.reset(seed=1)
        os.kill(mortal.pids["mujoco_arm"], signal.SIGKILL)
        with pytest.raises(InputError, match="mujoco_arm_node of the simulated robot ended with status -9"):
            environment.step(rest(environment))


PARENT = """
import os, sys, time
sys.path.insert(0, {folder!r})
from test_ros_environment import connect
from robots import simulated
with simulated() as robot:
    environment = connect(robot)
    environment.reset(seed=1)
    print(*robot.pids.values(), flush=True)
    while True:
        environment.step(environment.spec.action.high * 0)
        environment.reset(seed=1)
"""


def test_after_a_killed_run_no_process_and_no_shared_memory_is_left() -> None:
    before = shared_memory()
    code = PARENT.format(folder=str(Path(__file__).parent))
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(text) for text in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    began = time.monotonic()
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() - began < PATIENCE_S, "the robot goes on without anybody"
        time.sleep(0.1)
    assert shared_memory() <= before


def test_training_evaluation_and_recording_run_unchanged(tmp_path: Path) -> None:
    from robot_rl.apps import evaluate, train
    from robot_rl.apps.compose import compose
    from robot_rl.datasets.store import EpisodeStore

    run = tmp_path / "run"
    small = ["algorithm.actor_hidden=[16]", "algorithm.critic_hidden=[16]", "evaluation.final_episodes=1"]
    words = ["environment=ros2_simulated", "environment.maximum_steps=10", f"environment.patience_s={PATIENCE_S}"]
    words += [f"output={run}", "evaluation.videos=0"]
    phase = "+phases.online={steps: 20, interact: policy, batch_size: 8}"
    assert train.run(compose("train", ["algorithm=sac", *small, *words, "evaluation.episodes=1", phase])) == 0
    recorded = tmp_path / "recorded.zarr"
    assert evaluate.run(compose("evaluate", [f"run={run}", "episodes=2", f"record={recorded}"])) == 0
    store = EpisodeStore.open(recorded)
    assert len(store) == 2
    assert store.spec.metadata["robot"] == "sim_panda"
    assert store.spec.action_semantics == "joint_velocity"
