"""Learning on the simulated robot over ROS 2: the numbers of direct simulation, a learner that nobody waits for, and
what is left of a run whose learner, or whose loop, is killed. Real processes; what counts is what happens, not when.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from robots import NEEDS_ROS, shared_memory

from robot_rl import checkpoint
from robot_rl.apps import train
from robot_rl.apps.build_environment import build_environment
from robot_rl.apps.compose import compose
from robot_rl.apps.learner import EXPERIENCE
from robot_rl.config import TrainConfig
from robot_rl.datasets.store import EpisodeStore
from robot_rl.loops.experience import STEPS, VERSION
from robot_rl.loops.pipe import frames
from robot_rl.robot_config import Ros2EnvironmentConfig
from robot_rl.testing.contracts import actions_of, need_equal, roll_out

pytestmark = NEEDS_ROS
PATIENCE_S = 900.0  # on a busy machine processes start slowly
SMALL = [
    *("algorithm=sac", "algorithm.actor_hidden=[16]", "algorithm.critic_hidden=[16]", "replay.capacity=5000"),
    *("environment.maximum_steps=10", f"environment.patience_s={PATIENCE_S}", "evaluation.videos=0"),
    *(
        "evaluation.episodes=1",
        "evaluation.final_episodes=1",
        "log_every=10",
        "learner.priority=null",
        "learner.nice=0",
    ),
]
LOCKSTEP = Ros2EnvironmentConfig(
    robot="sim_panda", simulated=True, mode="lockstep", reset="service", maximum_steps=25, patience_s=PATIENCE_S
)


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = shared_memory()
    yield
    assert shared_memory() <= before


def settings(folder: Path, *words: str, environment: str = "ros2_simulated") -> TrainConfig:
    found = compose("train", [*SMALL, f"environment={environment}", f"output={folder}", *words])
    assert isinstance(found, TrainConfig)
    return found


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]


def newest(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return checkpoint.load(checkpoint.checkpoints(folder / "checkpoints")[-1])


def test_over_ros_in_lockstep_the_numbers_are_those_of_direct_simulation() -> None:
    simulation = {"position_noise": 1e-3, "velocity_noise": 1e-2, "latency_s": 0.013}
    episodes = []
    for transport in ("loopback", "none"):
        config = replace(LOCKSTEP, transport=transport, simulation=simulation)
        with closing(build_environment(config)) as environment:
            episodes.append([roll_out(environment, seed, actions_of(environment.spec, seed, 25)) for seed in (1, 2, 1)])
    for over_ros, direct in zip(*episodes, strict=True):
        need_equal(over_ros, direct, "over ROS and without")
        for left, right in zip(over_ros[1:], direct[1:], strict=True):
            assert np.array_equal(left.action, right.action)  # as the governor let it through
            assert left.intervened == right.intervened


def test_over_ros_in_lockstep_the_same_is_learned_as_in_direct_simulation(tmp_path: Path) -> None:
    phase = "+phases.online={steps: 40, interact: policy, batch_size: 16}"
    for environment in ("ros2_simulated", "arm"):
        assert train.run(settings(tmp_path / environment, phase, environment=environment)) == 0
    (left, ros), (right, direct) = newest(tmp_path / "ros2_simulated"), newest(tmp_path / "arm")
    assert set(left) == set(right)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert ros["progress"]["updates"] == direct["progress"]["updates"] > 0
    results = [events(tmp_path / name, "evaluation")[-1]["episodes"] for name in ("ros2_simulated", "arm")]
    assert results[0] == results[1]


def learner_of(parent: int) -> int | None:
    """The process number of the learner that a process has started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if int(status[1]) == parent and b"robot_rl.apps.learner" in words and status[0] != "Z":
            return int(entry.name)
    return None


class Training:
    """`robot-rl train` in a process of its own, which is watched by what it writes down."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        code = "import sys; from robot_rl.apps.cli import main; sys.exit(main(sys.argv[1:]))"
        arguments = ["train", *SMALL, "environment=ros2_simulated", f"output={folder}", "learner.place=process", *words]
        self.process = subprocess.Popen([sys.executable, "-c", code, *arguments])

    def wait_for(self, done: Callable[[], Any]) -> Any:
        began = time.monotonic()
        while not (found := done()):
            assert self.process.poll() is None, f"it ended with {self.process.returncode}"
            assert time.monotonic() - began < PATIENCE_S, "nothing happens"
            time.sleep(0.05)
        return found

    def steps(self) -> int:
        """That are written down for good."""
        path = self.folder / EXPERIENCE / "online"
        store = path / "episodes.zarr"
        finished = EpisodeStore.open(store).steps if store.exists() else 0
        running = frames((path / STEPS).read_bytes()) if (path / STEPS).exists() else []
        return finished + max(len(running) - 1, 0)

    def learner(self) -> int | None:
        return learner_of(self.process.pid)

    def end(self) -> int:
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Callable[..., Training]]:
    started: list[Training] = []

    def start(*words: str) -> Training:
        started.append(Training(tmp_path / "run", *words))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


ENDLESS = "+phases.online={steps: 100000, interact: policy, batch_size: 16}"


def test_a_killed_learner_stops_the_run_which_goes_on_where_it_was(training: Callable[..., Training]) -> None:
    run = training(ENDLESS, "learner.when_lost=stop")
    run.wait_for(lambda: run.steps() >= 25)
    learner = run.wait_for(run.learner)
    os.kill(learner, signal.SIGKILL)
    assert run.end() == 1
    lost = events(run.folder, "learner_lost")
    assert "ended with status -9" in lost[0]["why"]
    _, state = newest(run.folder)
    store = EpisodeStore.open(run.folder / EXPERIENCE / "online" / "episodes.zarr")
    taken = state["progress"]["environment_steps"]
    assert store.steps == taken >= 25
    assert state["progress"]["updates"] + state["progress"]["owed_updates"] == taken
    again = training(ENDLESS, "resume=true")
    again.wait_for(lambda: again.steps() >= taken + 15)
    again.process.send_signal(signal.SIGTERM)
    assert again.end() == 130
    _, state = newest(again.folder)
    assert state["progress"]["environment_steps"] >= taken + 15
    versions = np.concatenate([episode.extras[VERSION] for episode in EpisodeStore.open(store.path).episodes()])
    assert versions.max() >= 1  # weights of the learner were acted with


def test_a_learner_that_hangs_keeps_nothing_waiting_and_a_killed_loop_loses_no_step(
    training: Callable[..., Training],
) -> None:
    run = training(ENDLESS, "learner.patience_s=3600")
    run.wait_for(lambda: run.steps() >= 15)
    learner = run.wait_for(run.learner)
    os.kill(learner, signal.SIGSTOP)
    before = run.steps()
    run.wait_for(lambda: run.steps() >= before + 25)  # several episodes and their resets
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    os.kill(learner, signal.SIGCONT)
    written = run.steps()
    began = time.monotonic()
    while Path(f"/proc/{learner}").exists():
        assert time.monotonic() - began < PATIENCE_S, "the learner goes on without a loop"
        time.sleep(0.05)
    again = training(ENDLESS, "resume=true")
    again.wait_for(lambda: again.steps() >= written + 10)
    again.process.send_signal(signal.SIGTERM)
    assert again.end() == 130
    _, state = newest(again.folder)
    store = EpisodeStore.open(run.folder / EXPERIENCE / "online" / "episodes.zarr")
    assert state["progress"]["environment_steps"] == store.steps >= written + 10
    assert any(store.metadata(index).get("recovered") for index in range(len(store))) or written % 10 == 0
