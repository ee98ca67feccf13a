"""A run on a one-joint task that needs no simulator, assembled as `robot-rl train` does it."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from robot_rl import checkpoint
from robot_rl.algorithms import AlgorithmConfig, create
from robot_rl.algorithms.sac import SACConfig
from robot_rl.clock import FakeClock
from robot_rl.config import PhaseConfig
from robot_rl.loops.rollout import AgentPolicy, run_episode
from robot_rl.loops.run import Evaluator, Run
from robot_rl.recorder import Progress, Recorder
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.seeding import Seeds
from robot_rl.testing.fakes import OneJointEnvironment
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform

CPU = torch.device("cpu")
SMALL = SACConfig(actor_hidden=[16], critic_hidden=[16], critic_count=3, critic_subset=2)


class SilentDisplay:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.advances: list[tuple[int, dict[str, float]]] = []
        self.evaluated: list[tuple[int, int]] = []

    def begin_phase(self, name: str, done: int, steps: int, interact: bool) -> None:
        self.phases.append(name)

    def advance(self, done: int, metrics: Mapping[str, float]) -> None:
        self.advances.append((done, dict(metrics)))

    def evaluating(self, done: int, episodes: int) -> None:
        self.evaluated.append((done, episodes))

    def evaluation(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        pass

    def say(self, text: str) -> None:
        pass


def empty_replay(action_chunk: int = 1) -> ReplayBuffer:
    spec = OneJointEnvironment().spec
    return ReplayBuffer(
        spec,
        capacity=300,
        scale=ActionScale.from_spec(spec.action),
        reward=RewardTransform(),
        discount=0.9,
        action_chunk=action_chunk,
        tail="constant",
    )


def assemble(
    stack: contextlib.ExitStack,
    folder: Path,
    phases: dict[str, PhaseConfig],
    *,
    seed: int = 0,
    config: AlgorithmConfig = SMALL,
    stop_after: int | None = None,
    resume: bool = False,
    every_s: float = 1e9,
    videos: int = 0,
    action_chunk: int = 1,
    write_film: Callable[..., str] = lambda film, result, name: name,
) -> Run:
    """A run whose stop is requested when it has been asked about `stop_after` times."""
    environment, spec = OneJointEnvironment(), OneJointEnvironment().spec
    scale, seeds = ActionScale.from_spec(spec.action), Seeds(seed)

    def agent(salt: int):
        return create(config, spec.chunked(action_chunk), Seeds(seeds.integer("agent", salt)), CPU, None)

    sources = {"offline": empty_replay(action_chunk), "online": empty_replay(action_chunk)}
    random = AgentPolicy(agent=agent(99), spec=spec, scale=scale, device=CPU, explore=True, action_chunk=action_chunk)
    for number in range(5):
        sources["offline"].append(run_episode(environment, random, seed=number))
    learner, asked = agent(0), [0]

    def stop() -> bool:
        asked[0] += 1
        return stop_after is not None and asked[0] > stop_after

    folder.mkdir(exist_ok=True)
    tensors, state = {}, {}
    if resume:
        found = checkpoint.checkpoints(folder / "checkpoints")[-1]
        tensors, state = checkpoint.load(found)
        recorder = Recorder(folder, resume_at=state["metrics_bytes"], work=Progress(**state["progress"]).work)
    else:
        recorder = Recorder(folder)
    stack.callback(recorder.close)
    policy = AgentPolicy(agent=learner, spec=spec, scale=scale, device=CPU, action_chunk=action_chunk)
    run = Run(
        folder=folder,
        origin={"config": {}},
        phases=phases,
        agent=learner,
        fresh_agent=lambda index: agent(index + 1),
        sources=sources,
        environment=environment,
        policy=replace(policy, explore=True),
        evaluator=Evaluator(
            environment=OneJointEnvironment(),
            policy=policy,
            seeds=Seeds(1000),
            episodes=2,
            final_episodes=3,
            videos=videos,
            write_film=write_film,
            discount=0.9,
            reward=RewardTransform(),
        ),
        recorder=recorder,
        display=SilentDisplay(),
        clock=FakeClock(),
        seeds=seeds,
        generator=seeds.torch("batches"),
        stop_requested=stop,
        checkpoint_every_s=every_s,
        log_every=10,
    )
    if resume:
        run.restore(int(found.name), tensors, state)
    return run


@pytest.fixture
def build():
    """`assemble`, with recorders that are closed at the end."""
    with contextlib.ExitStack() as stack:
        yield partial(assemble, stack)
