"""Stacked frames: the last K of an episode, each kept once, the same in replay as in the policy that acts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from robot_rl.loops.frames import FrameHistory
from robot_rl.loops.rollout import AgentPolicy
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.sequences import gather_sequences
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array, Episode, TimeStep

BOUND = np.ones(1)
SIDE = 8
SPEC = Spec(
    observation={"camera": ArraySpec(shape=(SIDE, SIDE, 3), dtype="uint8"), "joint": ArraySpec(shape=(1,))},
    action=ArraySpec(shape=(1,), low=-BOUND, high=BOUND),
)


def buffer(capacity: int, frames: int, **settings: Any) -> ReplayBuffer:
    return ReplayBuffer(
        SPEC,
        capacity=capacity,
        scale=ActionScale.from_spec(SPEC.action),
        reward=RewardTransform(),
        discount=0.9,
        frame_stack=frames,
        **settings,
    )


def observed(number: int) -> dict[str, Array]:
    """A picture of one brightness, by which it is told."""
    return {"camera": np.full((SIDE, SIDE, 3), number, np.uint8), "joint": np.array([number], np.float32)}


def episode(first: int, steps: int) -> Episode:
    rows = [observed(first + index) for index in range(steps + 1)]
    return Episode(
        observation={key: np.stack([row[key] for row in rows]) for key in rows[0]},
        action=np.zeros((steps, 1)),
        reward=np.zeros(steps, np.float32),
        terminated=np.zeros(steps, bool),
        truncated=np.arange(steps) == steps - 1,
    )


def brightness(frames: torch.Tensor) -> list[list[int]]:
    numbers: list[list[int]] = frames[:, :, 0, 0, 0].tolist()
    return numbers


def test_the_last_frames_of_the_episode_are_seen_and_the_first_is_repeated() -> None:
    replay = buffer(50, 3)
    replay.append(episode(10, 4))
    replay.append(episode(20, 3))
    batch = replay.gather(torch.tensor([0, 1, 3, 5, 7]))
    assert batch.observation["camera"].dtype == torch.uint8
    assert batch.observation["camera"].shape == (5, 3, SIDE, SIDE, 3)
    assert brightness(batch.observation["camera"]) == [
        [10, 10, 10], [10, 10, 11], [11, 12, 13], [20, 20, 20], [20, 21, 22]
    ]  # fmt: skip
    assert brightness(batch.next_observation["camera"]) == [
        [10, 10, 11], [10, 11, 12], [12, 13, 14], [20, 20, 21], [21, 22, 23]
    ]  # fmt: skip
    assert batch.observation["joint"].shape == (5, 1)


def test_what_was_overwritten_is_filled_with_the_oldest_frame_there_is() -> None:
    replay = buffer(8, 3)
    replay.append(episode(10, 5))  # rows 0 to 5
    replay.append(episode(20, 3))  # rows 6, 7, 0, 1: of the first, rows 2 to 5 are left
    batch = replay.gather(torch.tensor([2, 3, 4, 7, 0]))
    assert brightness(batch.observation["camera"]) == [
        [12, 12, 12], [12, 12, 13], [12, 13, 14], [20, 20, 21], [20, 21, 22]
    ]  # fmt: skip


def test_stacks_take_no_more_memory_than_single_frames() -> None:
    """Images are bytes from the step on: (capacity) frames of 8 * 8 * 3 bytes, whatever the stack."""
    for frames in (1, 3):
        replay = buffer(1000, frames)
        images = replay.observation["camera"]
        assert isinstance(images, torch.Tensor)
        assert images.untyped_storage().nbytes() == 1000 * SIDE * SIDE * 3
    running, recorded = buffer(10, 3), buffer(10, 3)
    running.begin(observed(0))
    for number in range(1, 5):
        running.add(TimeStep(observation=observed(number), action=np.zeros(1), truncated=number == 4))
    recorded.append(episode(0, 4))
    rows = torch.arange(4)
    for key in ("camera", "joint"):
        assert torch.equal(running.gather(rows).observation[key], recorded.gather(rows).observation[key])
    tensors, _ = running.state()
    assert tensors["observation.camera"].shape == (5, SIDE, SIDE, 3)


def test_sequences_of_frames_have_stacks_too() -> None:
    replay = buffer(50, 2)
    replay.append(episode(10, 4))
    found = gather_sequences(replay, torch.tensor([1]), 2)
    assert found.observation["camera"].shape == (1, 3, 2, SIDE, SIDE, 3)
    assert brightness(found.observation["camera"][0]) == [[10, 11], [11, 12], [12, 13]]


# Acting ---------------------------------------------------------------------------------------------------------------
class Watcher:
    """An agent that remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def act(self, observation: Mapping[str, torch.Tensor], *, explore: bool) -> torch.Tensor:
        self.seen += brightness(observation["camera"])
        return torch.zeros(1, 2)

    def value(self, observation: Mapping[str, torch.Tensor], action: torch.Tensor) -> torch.Tensor:
        self.seen += brightness(observation["camera"])
        return torch.zeros(1)


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_policy_sees_what_replay_would_show(chunk: int) -> None:
    agent: Any = Watcher()
    policy = AgentPolicy(
        agent=agent,
        spec=SPEC,
        scale=ActionScale.from_spec(SPEC.action),
        device=torch.device("cpu"),
        action_chunk=2,
        chunk_ensemble=None if chunk == 2 else 0.0,
        frame_stack=3,
    )
    for start in (10, 20):
        policy.reset()
        for number in range(start, start + 4):
            policy.act(observed(number))
    replay = buffer(50, 3)
    replay.append(episode(10, 4))
    replay.append(episode(20, 4))
    rows = torch.tensor([0, 1, 2, 3, 5, 6, 7, 8])
    wanted = brightness(replay.gather(rows).observation["camera"])
    assert agent.seen == (wanted if chunk == 1 else wanted[::2])


def test_looking_at_a_step_again_or_at_the_next_one_keeps_nothing() -> None:
    history = FrameHistory(keys=("camera",), count=2)
    first, second = observed(1), observed(2)
    history.see(first)
    history.see(first)
    for _ in range(2):
        assert history.stacked(first)["camera"][:, 0, 0, 0].tolist() == [1, 1]
        assert history.stacked(second)["camera"][:, 0, 0, 0].tolist() == [1, 2]
    history.see(second)
    assert history.stacked(second)["camera"][:, 0, 0, 0].tolist() == [1, 2]
    assert history.stacked(second)["joint"].tolist() == [2.0]
    history.reset()
    assert history.stacked(second)["camera"][:, 0, 0, 0].tolist() == [2, 2]
