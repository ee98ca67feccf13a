"""Windows, histories and goals: never across an episode, whatever the ring holds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.errors import InputError
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.goals import GoalMixture, draw_goals, sample_goals
from robot_rl.replay.instructions import Instructions
from robot_rl.replay.sequences import gather_sequences, sample_sequences
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Episode, TimeStep

SPEC = Spec(
    observation={"state": ArraySpec(shape=(2,))},
    action=ArraySpec(shape=(1,), low=np.array([-1.0]), high=np.array([1.0])),
)


def make(capacity: int = 100, **options) -> ReplayBuffer:
    return ReplayBuffer(
        SPEC,
        capacity=capacity,
        scale=ActionScale.from_spec(SPEC.action),
        reward=RewardTransform(scale=1.0, bias=0.0),
        discount=0.9,
        **options,
    )


def episode(number: int, steps: int, *, final: bool = True, language: str | None = None) -> Episode:
    """State (episode number, step)."""
    last = np.arange(steps) == steps - 1
    time = np.arange(steps + 1, dtype=np.float32)
    if not final:
        time[-1] = time[-2]
    return Episode(
        observation={"state": np.stack([np.full(steps + 1, number, np.float32), time], 1)},
        action=np.zeros((steps, 1)),
        reward=np.ones(steps),
        terminated=np.zeros(steps, bool),
        truncated=last,
        has_final_observation=final,
        metadata={} if language is None else {"language": language},
    )


def play(buffer: ReplayBuffer, number: int, steps: int, *, ends: bool = True) -> None:
    recorded = episode(number, steps)
    buffer.begin({"state": recorded.observation["state"][0]})
    for t in range(steps):
        buffer.add(
            TimeStep(
                observation={"state": recorded.observation["state"][t + 1]},
                reward=1.0,
                action=np.zeros(1),
                truncated=ends and t == steps - 1,
            )
        )


@given(
    capacity=st.integers(12, 40),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    live=st.booleans(),
    history=st.integers(1, 5),
    length=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_windows_and_goals_stay_in_one_episode_and_in_order(capacity, lengths, live, history, length, seed) -> None:
    buffer = make(capacity)
    for number, steps in enumerate(lengths):
        if live:
            play(buffer, number, steps, ends=number < len(lengths) - 1)
        else:
            buffer.append(episode(number, steps))
    generator = torch.Generator().manual_seed(seed)
    batch = sample_sequences(buffer, 64, length, generator, history=history)
    state = batch.observation["state"]  # (B, K + H, 2)
    assert (state[:, :, 0] == state[:, :1, 0]).all()
    assert set((state[:, 1:, 1] - state[:, :-1, 1]).flatten().tolist()) <= {0.0, 1.0}
    assert batch.valid[:, 0].all()
    row = buffer.draw(64, generator)
    goal = draw_goals(buffer, row, GoalMixture(future=1.0, current=0.0), generator)
    here, there = buffer.observations(row)["state"], buffer.observations(goal)["state"]
    assert (here[:, 0] == there[:, 0]).all()
    assert (there[:, 1] > here[:, 1]).all()


def test_a_history_before_the_first_step_repeats_the_first_observation() -> None:
    buffer = make()
    buffer.append(episode(7, 5))
    batch = gather_sequences(buffer, torch.tensor([0, 1, 4]), 2, history=3)
    assert batch.observation["state"][:, :, 1].tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [2, 3, 4, 5, 5]]
    assert batch.valid.tolist() == [[True, True], [True, True], [True, False]]


def test_a_history_does_not_reach_into_rows_that_were_overwritten() -> None:
    buffer = make(8)
    play(buffer, 0, 5)  # rows 0 to 5
    play(buffer, 1, 4, ends=False)  # rows 6, 7, 0, 1, 2: the newest
    batch = gather_sequences(buffer, torch.tensor([4]), 1, history=4)
    assert batch.observation["state"][0].tolist() == [[0, 3], [0, 3], [0, 3], [0, 4], [0, 5]]


def test_a_goal_is_never_the_repeated_row_behind_a_missing_final_observation() -> None:
    buffer = make()
    buffer.append(episode(0, 3, final=False))
    row = torch.tensor([0] * 200)
    goal = draw_goals(buffer, row, GoalMixture(future=1.0, current=0.0), torch.Generator().manual_seed(0))
    assert set(goal.tolist()) == {1, 2}


def test_goals_have_the_shares_of_their_mixture() -> None:
    buffer = make(2000)
    for number in range(18):
        buffer.append(episode(number, 100))
    batch = sample_goals(buffer, 20_000, GoalMixture(), torch.Generator().manual_seed(1))
    same_episode = batch.observation["state"][:, 0] == batch.intent["state"][:, 0]
    # 0.5 future and 0.2 current, and one in 18 of the random ones is of the same episode.
    assert float(same_episode.float().mean()) == pytest.approx(0.7 + 0.3 / 18, abs=0.01)
    assert float(batch.at_intent.float().mean()) == pytest.approx(0.2, abs=0.01)
    equal = (batch.goal["state"] == batch.intent["state"]).all(1)
    assert float(equal.float().mean()) == pytest.approx(0.5 + 0.5 * 0.2 * 0.2, abs=0.02)


def test_a_future_goal_keeps_its_distance() -> None:
    buffer = make()
    buffer.append(episode(0, 50))
    mixture = GoalMixture(future=1.0, current=0.0, maximum_distance=3)
    goal = draw_goals(buffer, torch.full((300,), 10), mixture, torch.Generator().manual_seed(0))
    assert set(goal.tolist()) == {11, 12, 13}


def test_shares_of_goals_that_exceed_one_are_refused() -> None:
    with pytest.raises(InputError, match="exceed 1"):
        GoalMixture(future=0.9, current=0.2)


def test_sources_that_share_instructions_agree_on_their_numbers() -> None:
    instructions = Instructions()
    first, second = make(instructions=instructions), make(instructions=instructions)
    first.append(episode(0, 3, language="open the door"))
    first.append(episode(1, 3))
    second.append(episode(2, 3, language="close the door"))
    second.append(episode(3, 3, language="open the door"))
    batch = second.gather(torch.tensor([0, 4]))
    assert batch.instruction is not None
    assert [instructions.texts[number] for number in batch.instruction] == ["close the door", "open the door"]
    batch = first.gather(torch.tensor([0, 4]))
    assert batch.instruction is not None
    assert batch.instruction.tolist() == [0, -1]


def test_the_instruction_of_a_running_episode_survives_a_checkpoint() -> None:
    instructions = Instructions()
    buffer, again = make(instructions=instructions), make(instructions=instructions)
    buffer.begin({"state": np.zeros(2, np.float32)}, "wave")
    step = TimeStep(observation={"state": np.ones(2, np.float32)}, action=np.zeros(1))
    buffer.add(step)
    again.restore(*buffer.state())
    again.add(step)
    assert again.gather(torch.tensor([0, 1])).instruction.tolist() == [0, 0]
    assert again.newer(torch.tensor([0])).tolist() == [2]


def test_a_heavier_episode_is_drawn_more_often() -> None:
    buffer = make()
    buffer.append(episode(0, 10), weight=3.0)
    buffer.append(episode(1, 10), weight=1.0)
    rows = buffer.draw(20_000, torch.Generator().manual_seed(0))
    assert float((rows < 11).float().mean()) == pytest.approx(0.75, abs=0.01)
    assert set(rows.tolist()) == set(range(10)) | set(range(11, 21))
