"""The recorder in a process of its own, on a robot that moves: nothing that was said is missing, whoever dies."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

sys.path.insert(0, str(Path(__file__).parent))

from robots import NEEDS_ROS, simulated
from test_bag_writer import count

from robot_rl.apps import cli
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.hardware import recording, ros
from robot_rl.hardware.bag_writer import FILE, METADATA
from robot_rl.hardware.description import load
from robot_rl.hardware.domains import Domain
from robot_rl.hardware.launch import SimulatedRobot
from robot_rl.loops.rollout import run_episode
from robot_rl.types import Array, Episode

pytestmark = NEEDS_ROS
STEPS = 30


@pytest.fixture(scope="module")
def robot() -> Iterator[SimulatedRobot]:
    with simulated() as found:
        yield found


@contextlib.contextmanager
def recorder(robot: SimulatedRobot, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = ros.start(
        "robot_rl.hardware.recorder_node",
        ["sim_panda", "--output", str(folder), "--parent", str(os.getpid())],
        os.environ,
        domain_id=robot.domain_id,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


class Swing:
    """Moves each joint back and forth."""

    def __init__(self) -> None:
        self._step = 0

    def reset(self) -> None:
        """Begin anew."""
        self._step = 0

    def act(self, observation: dict[str, Array]) -> Array:
        """The velocities of this step."""
        self._step += 1
        return np.full(7, 0.1 * np.sin(self._step / 3))


def play(robot: SimulatedRobot, folder: Path) -> Episode:
    """An episode in lockstep, where each stamp is known exactly; the recorder has to be listening before it begins."""
    from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment

    settings = EnvironmentSettings(
        mode="lockstep", reset="service", maximum_steps=STEPS, observation=["joint_position", "joint_velocity"]
    )
    environment = RosEnvironment(load("sim_panda"), settings, domain_id=robot.domain_id, check=robot.check)
    try:
        deadline = time.monotonic() + 30
        environment.reset(seed=0)
        while not (folder / METADATA).exists():
            assert time.monotonic() < deadline, "the recorder hears no joint states"
            environment.link.wait_until(environment.link.now_ns() + 10_000_000)
        return run_episode(environment, Swing(), seed=3)
    finally:
        environment.close()


def ingested(folder: Path, store: Path) -> list[Episode]:
    words = ["bag.observations=[/sim_panda/joint_states:position,/sim_panda/joint_states:velocity]"]
    words += ["bag.clock=header", "control_period_s=0.01"]
    assert cli.main(["ingest", str(folder), str(store), *words]) == 0
    return list(EpisodeStore.open(store).episodes())


def test_a_run_comes_back_from_its_bag_as_the_numbers_that_the_policy_saw(
    robot: SimulatedRobot, tmp_path: Path
) -> None:
    with recorder(robot, tmp_path / "bag") as process:
        episode = play(robot, tmp_path / "bag")
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    rows = np.concatenate([row(found) for found in ingested(*both(tmp_path))])
    for seen in episode.observation["joint_position"]:
        assert np.abs(rows - seen).max(axis=1).min() < 1e-6, "a row that the policy saw is not there"
    np.testing.assert_array_equal(applied(tmp_path / "bag")[-STEPS:], episode.action)


def row(episode: Episode) -> Array:
    """Positions, (T + 1, J)."""
    return next(rows for key, rows in episode.observation.items() if key.endswith("position"))


def applied(folder: Path) -> np.ndarray:
    """The velocities that the robot was sent last in each step of a policy, in the order of the steps."""
    last: dict[tuple[int, int], np.ndarray] = {}
    with AnyReader([folder]) as reader:
        chosen = [connection for connection in reader.connections if connection.topic == "/sim_panda/rl/applied"]
        for connection, _, raw in reader.messages(chosen):
            message = reader.deserialize(raw, connection.msgtype)
            if message.header.frame_id not in ("hold", "home"):
                last[message.header.stamp.sec, message.header.stamp.nanosec] = message.velocity
    return np.stack(list(last.values()))


def both(folder: Path) -> tuple[Path, Path]:
    return folder / "bag", folder / "store.zarr"


def test_a_killed_recorder_loses_nothing_that_it_had_written(robot: SimulatedRobot, tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    with recorder(robot, folder) as process:
        play(robot, folder)
        time.sleep(0.2)
        before = count(folder / FILE)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert count(folder / FILE) == before > STEPS * 5
    assert ingested(*both(tmp_path))


def test_a_recorder_that_hangs_is_noticed_and_its_bag_is_whole_all_the_same(
    robot: SimulatedRobot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment

    monkeypatch.setattr(recording, "SILENT_S", 2.0)
    settings = EnvironmentSettings(mode="lockstep", reset="service", observation=["joint_position"])
    found = recording.Recording("sim_panda", tmp_path / "bag", os.environ, domain_id=robot.domain_id)
    with closing(RosEnvironment(load("sim_panda"), settings, domain_id=robot.domain_id)) as environment:

        def step() -> None:
            environment.link.wait_until(environment.link.now_ns() + 10_000_000)

        try:
            environment.reset(seed=0)
            found.wait_until_recording(60.0, step)
            began = time.monotonic()
            while time.monotonic() - began < 3.0:
                step()
                assert found.problem() is None
            os.kill(found.pid, signal.SIGSTOP)
            began = time.monotonic()
            while (problem := found.problem()) is None:
                step()
                assert time.monotonic() - began < 30
            assert problem.startswith("the recorder has written nothing for ")
        finally:
            found.close()
    assert found.status == 0
    with AnyReader([tmp_path / "bag"]) as reader:
        assert reader.message_count > 100


def test_a_recorder_that_cannot_write_ends_and_says_so(robot: SimulatedRobot, tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    with recorder(robot, tmp_path / "bag") as process:
        assert process.wait(30) == 2


def test_a_recorder_that_does_not_start_in_time_and_one_that_hears_nothing_are_told_apart(tmp_path: Path) -> None:
    with closing(Domain()) as domain:
        found = recording.Recording("sim_panda", tmp_path / "early", os.environ, domain_id=domain.number)
        with pytest.raises(InputError, match="the recorder has not started within 0 s"):
            found.wait_until_recording(0.0)
        assert found.status is not None
        found = recording.Recording("sim_panda", tmp_path / "deaf", os.environ, domain_id=domain.number)
        try:
            while not (tmp_path / "deaf" / FILE).exists():
                assert found.status is None
                time.sleep(0.05)
            heard = f"no joint states on /sim_panda/joint_states within 0.2 s: .* ROS domain {domain.number}"
            with pytest.raises(InputError, match=heard):
                found.wait_until_recording(0.2)
            assert found.status == 0
        finally:
            found.close()
