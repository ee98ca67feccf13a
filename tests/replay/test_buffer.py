"""The ring of episodes: boundaries, n-step sums, returns, wrap-around."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.errors import InputError
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.sequences import sample_sequences
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Episode, TimeStep

SPEC = Spec(
    observation={"state": ArraySpec(shape=(2,))},
    action=ArraySpec(shape=(1,), low=np.array([-2.0]), high=np.array([2.0])),
)


def make(
    capacity: int = 200, *, scale: float = 1.0, bias: float = 0.0, discount: float = 0.5, **options
) -> ReplayBuffer:
    return ReplayBuffer(
        SPEC,
        capacity=capacity,
        scale=ActionScale.from_spec(SPEC.action),
        reward=RewardTransform(scale=scale, bias=bias),
        discount=discount,
        **options,
    )


def episode(
    number: int, steps: int, *, terminated: bool = False, final: bool = True, reward: float | None = None
) -> Episode:
    """State (episode number, step); reward of step t is t + 1 unless given."""
    time = np.arange(steps + 1, dtype=np.float32)
    last = np.arange(steps) == steps - 1
    return Episode(
        observation={"state": np.stack([np.full(steps + 1, number, np.float32), time], 1)},
        action=np.zeros((steps, 1)),
        reward=np.full(steps, reward) if reward is not None else time[1:],
        terminated=last & terminated,
        truncated=last & (not terminated),
        has_final_observation=final,
    )


def every_transition(buffer: ReplayBuffer):
    ring = (buffer._rows_first + np.arange(len(buffer))) % buffer.capacity
    return buffer.gather(torch.from_numpy(buffer._rows[ring]))


def play(buffer: ReplayBuffer, number: int, steps: int, *, terminated: bool = True) -> None:
    """The same episode, step by step."""
    recorded = episode(number, steps, terminated=terminated)
    buffer.begin({"state": recorded.observation["state"][0]})
    for t in range(steps):
        step = TimeStep(
            observation={"state": recorded.observation["state"][t + 1]},
            reward=float(recorded.reward[t]),
            terminated=bool(recorded.terminated[t]),
            truncated=bool(recorded.truncated[t]),
            action=recorded.action[t],
        )
        buffer.add(step)


def test_a_truncated_transition_still_bootstraps_and_a_terminated_one_does_not() -> None:
    buffer = make()
    buffer.append(episode(0, 3, terminated=False))
    buffer.append(episode(1, 3, terminated=True))
    batch = every_transition(buffer)
    assert batch.discount.tolist() == [0.5, 0.5, 0.5, 0.5, 0.5, 0.0]


def test_termination_wins_where_both_ends_fall_on_one_step() -> None:
    both = episode(0, 2, terminated=True)
    recorded = Episode(
        observation=both.observation,
        action=both.action,
        reward=both.reward,
        terminated=both.terminated,
        truncated=both.terminated,
    )
    buffer = make()
    buffer.append(recorded)
    assert every_transition(buffer).discount.tolist() == [0.5, 0.0]


def test_a_missing_final_observation_gives_no_transition_but_counts_for_the_return() -> None:
    buffer = make(complete_only=True)
    buffer.append(episode(0, 3, final=False))
    batch = every_transition(buffer)
    assert len(batch) == 2
    # G_0 = 1 + 0.5 * 2 + 0.25 * 3 = 2.75 ; G_1 = 2 + 0.5 * 3 = 3.5
    assert batch.monte_carlo_return is not None
    assert batch.monte_carlo_return.tolist() == pytest.approx([2.75, 3.5])


def test_a_termination_without_final_observation_is_a_transition() -> None:
    buffer = make()
    buffer.append(episode(0, 3, terminated=True, final=False))
    assert len(buffer) == 3


def test_n_step_sums_stop_at_the_end_of_the_episode() -> None:
    buffer = make(n_step=3)
    buffer.append(episode(0, 4, terminated=True))
    buffer.append(episode(1, 4, terminated=False))
    batch = every_transition(buffer)
    # Rewards 1, 2, 3, 4: 1 + 2/2 + 3/4 = 2.75 ; 2 + 3/2 + 4/4 = 4.5 ; 3 + 4/2 = 5 ; 4.
    assert batch.reward.tolist() == pytest.approx([2.75, 4.5, 5.0, 4.0] * 2)
    assert batch.discount.tolist() == pytest.approx([0.125, 0.0, 0.0, 0.0, 0.125, 0.125, 0.25, 0.5])
    assert batch.next_observation["state"][:, 1].tolist() == [3.0, 4.0, 4.0, 4.0] * 2


def test_n_step_sums_never_bootstrap_from_a_final_observation_that_was_not_recorded() -> None:
    buffer = make(n_step=3)
    buffer.append(episode(0, 3, final=False))
    batch = every_transition(buffer)
    # Steps 0 and 1 may look ahead to observation 2, the last that was recorded.
    assert batch.next_observation["state"][:, 1].tolist() == [2.0, 2.0]
    assert batch.reward.tolist() == pytest.approx([1 + 2 / 2, 2.0])


def test_the_running_episode_bootstraps_from_its_newest_observation() -> None:
    buffer = make(n_step=3)
    buffer.begin({"state": np.zeros(2, np.float32)})
    for t in range(2):
        buffer.add(TimeStep(observation={"state": np.full(2, t + 1.0, np.float32)}, reward=1.0, action=np.zeros(1)))
    batch = every_transition(buffer)
    assert batch.next_observation["state"][:, 1].tolist() == [2.0, 2.0]
    assert batch.discount.tolist() == [0.25, 0.5]


def test_trap_05_a_time_limit_under_negative_rewards_is_not_an_optimistic_return() -> None:
    zero, constant = make(complete_only=True, discount=0.99), make(complete_only=True, discount=0.99, tail="constant")
    for buffer in (zero, constant):
        buffer.append(episode(0, 100, reward=-5.0))
    # Constant tail: -5 / (1 - 0.99) = -500 at every step. Zero tail: only -5 at the last step, -317 at the first.
    assert every_transition(constant).monte_carlo_return.tolist() == pytest.approx([-500.0] * 100)
    returns = every_transition(zero).monte_carlo_return
    assert returns[-1] == pytest.approx(-5.0)
    assert returns[0] == pytest.approx(-5 * (1 - 0.99**100) / 0.01, rel=1e-5)


def test_the_constant_tail_leaves_terminated_episodes_alone() -> None:
    buffer = make(complete_only=True, tail="constant")
    buffer.append(episode(0, 2, terminated=True))
    assert every_transition(buffer).monte_carlo_return.tolist() == pytest.approx([2.0, 2.0])


def test_trap_06_scale_and_bias_apply_once_to_rewards_and_to_returns() -> None:
    buffer = make(complete_only=True, scale=10.0, bias=5.0)
    recorded = episode(0, 2, terminated=True, reward=-1.0)
    buffer.append(recorded)
    batch = every_transition(buffer)
    assert batch.reward.tolist() == [-5.0, -5.0]
    assert batch.monte_carlo_return.tolist() == [-7.5, -5.0]
    assert recorded.reward.tolist() == [-1.0, -1.0]


def test_trap_07_with_returns_wanted_only_finished_episodes_are_sampled() -> None:
    buffer = make(complete_only=True)
    buffer.append(episode(0, 2, terminated=True))
    buffer.begin({"state": np.zeros(2, np.float32)})
    buffer.add(TimeStep(observation={"state": np.zeros(2, np.float32)}, reward=-1.0, action=np.zeros(1)))
    assert len(buffer) == 2
    buffer.cut()
    assert len(buffer) == 3


def test_trap_08_actions_at_the_bounds_stay_inside_the_open_interval() -> None:
    recorded = episode(0, 2)
    buffer = make()
    buffer.append(
        Episode(
            observation=recorded.observation,
            action=np.array([[2.0], [-2.0]]),
            reward=recorded.reward,
            terminated=recorded.terminated,
            truncated=recorded.truncated,
        )
    )
    action = every_transition(buffer).action
    assert torch.isfinite(torch.atanh(action)).all()
    assert action.abs().min() > 0.999


def test_trap_09_actions_are_normalised_from_the_bounds_of_the_action_space() -> None:
    recorded = episode(0, 1)
    buffer = make()
    buffer.append(
        Episode(
            observation=recorded.observation,
            action=np.array([[1.0]]),
            reward=recorded.reward,
            terminated=recorded.terminated,
            truncated=recorded.truncated,
        )
    )
    assert every_transition(buffer).action.item() == pytest.approx(0.5)


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=12), step_wise=st.booleans(), capacity=st.integers(9, 30)
)
def test_a_full_ring_holds_the_last_rows_and_no_transition_crosses_an_episode(lengths, step_wise, capacity) -> None:
    buffer = make(capacity, n_step=2)
    rows = []
    for number, steps in enumerate(lengths):
        if step_wise:
            play(buffer, number, steps)
        else:
            buffer.append(episode(number, steps, terminated=True))
        rows += [(number, t, t < steps) for t in range(steps + 1)]
    kept = rows[-capacity:]
    batch = every_transition(buffer)
    expected = [[float(number), float(t)] for number, t, starts in kept if starts]
    assert batch.observation["state"].tolist() == expected
    assert torch.equal(batch.observation["state"][:, 0], batch.next_observation["state"][:, 0])
    ahead = batch.next_observation["state"][:, 1] - batch.observation["state"][:, 1]
    assert ((ahead == 1) | (ahead == 2)).all()


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8), capacity=st.integers(8, 40))
def test_appending_an_episode_equals_playing_it(lengths, capacity) -> None:
    whole, played = make(capacity, tail="constant"), make(capacity, tail="constant")
    for number, steps in enumerate(lengths):
        whole.append(episode(number, steps, terminated=True))
        play(played, number, steps)
    a, b = whole.state(), played.state()
    assert a[1] == b[1]
    for key in a[0]:
        if key != "action":  # rows without an action keep what was there
            assert torch.equal(a[0][key], b[0][key]) or key in ("reward", "monte_carlo")
    assert torch.equal(every_transition(whole).reward, every_transition(played).reward)


def test_sampling_is_uniform_over_transitions_and_reproducible() -> None:
    buffer = make()
    buffer.append(episode(0, 3))
    buffer.append(episode(1, 1))
    batch = buffer.sample(8000, torch.Generator().manual_seed(0))
    states, numbers = np.unique(batch.observation["state"].numpy(), axis=0, return_counts=True)
    assert len(states) == 4
    assert (abs(numbers - 2000) < 5 * np.sqrt(1500)).all()
    again = buffer.sample(8000, torch.Generator().manual_seed(0))
    assert torch.equal(batch.observation["state"], again.observation["state"])


def test_state_and_restore_are_inverse_and_go_on_alike() -> None:
    buffer, other = make(20), make(20)
    for number in range(6):
        play(buffer, number, 4)
    tensors, state = buffer.state()
    other.restore(tensors, state)
    for one in (buffer, other):
        play(one, 9, 5)
    a = buffer.sample(64, torch.Generator().manual_seed(1))
    b = other.sample(64, torch.Generator().manual_seed(1))
    assert torch.equal(a.observation["state"], b.observation["state"])
    assert torch.equal(a.reward, b.reward)


def test_windows_stay_inside_an_episode_and_say_what_is_valid() -> None:
    buffer = make()
    buffer.append(episode(0, 3, terminated=True))
    buffer.append(episode(1, 5, terminated=False))
    batch = sample_sequences(buffer, 500, 3, torch.Generator().manual_seed(0))
    state, start = batch.observation["state"], batch.observation["state"][:, 0, 1]
    length = torch.where(state[:, 0, 0] == 0, 3.0, 5.0)
    steps = torch.minimum(length - start, torch.tensor(3.0))
    assert torch.equal(batch.valid.sum(1).float(), steps)
    assert (state[:, :, 0] == state[:, :1, 0]).all()
    for h in range(4):
        expected = torch.minimum(start + h, start + steps)
        assert torch.equal(state[:, h, 1], expected)
    assert (batch.reward[~batch.valid] == 0).all()
    ends = batch.valid & (batch.discount == 0)
    assert (state[:, :3, 1][ends] == 2).all()
    assert (state[:, :3, 0][ends] == 0).all()


def test_an_episode_longer_than_the_buffer_is_refused() -> None:
    buffer = make(4)
    with pytest.raises(InputError, match="does not fit"):
        buffer.append(episode(0, 4))
    with pytest.raises(InputError, match=r"replay\.capacity"):
        play(buffer, 0, 6)


def test_a_missing_observation_is_named() -> None:
    buffer = make()
    recorded = episode(0, 2)
    other = Episode(
        observation={"flat": recorded.observation["state"]},
        action=recorded.action,
        reward=recorded.reward,
        terminated=recorded.terminated,
        truncated=recorded.truncated,
    )
    with pytest.raises(InputError, match=r"lacks observations \['state'\]"):
        buffer.append(other)


def test_a_channel_of_the_following_observation_can_take_the_place_of_the_reward() -> None:
    transform = RewardTransform(scale=2.0, bias=1.0, observation="state", index=1)
    whole, played = (
        ReplayBuffer(SPEC, capacity=50, scale=ActionScale.from_spec(SPEC.action), reward=transform, discount=0.5)
        for _ in range(2)
    )
    whole.append(episode(0, 3, terminated=True, reward=-100.0))
    play(played, 0, 3)
    # Observation t + 1 is t + 1: 2 * 1 + 1, 2 * 2 + 1, 2 * 3 + 1.
    assert every_transition(whole).reward.tolist() == [3.0, 5.0, 7.0]
    assert torch.equal(every_transition(whole).reward, every_transition(played).reward)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"observation": "flat"}, "Choices: state"), ({"observation": "state", "index": 2}, "2 channels")],
)
def test_a_reward_from_an_observation_that_is_not_there_is_refused(options, message) -> None:
    with pytest.raises(InputError, match=message):
        ReplayBuffer(
            SPEC,
            capacity=9,
            scale=ActionScale.from_spec(SPEC.action),
            reward=RewardTransform(**options),
            discount=0.5,
        )


def test_the_next_action_is_the_recorded_one_and_missing_where_the_episode_was_cut() -> None:
    buffer = make()
    recorded = episode(0, 4)
    buffer.append(replace(recorded, action=np.linspace(-2, 2, 4)[:, None]))
    assert buffer.gather(torch.tensor([0])).next_action is None
    buffer.with_next_action = True
    batch = buffer.gather(torch.tensor([0, 1, 2, 3]))
    # actions -2, -2/3, 2/3, 2 over a bound of 2
    torch.testing.assert_close(batch.next_action[:3, 0], torch.tensor([-1 / 3, 1 / 3, 1.0]))
    assert batch.has_next_action.tolist() == [True, True, True, False]


def test_statistics_are_of_the_rows_in_use_and_not_of_the_empty_ones() -> None:
    """H2O's are of an array that is ten elevenths zeros."""
    buffer = make(1000)
    buffer.append(episode(3, 4, terminated=True))
    (mean, deviation) = buffer.observation_statistics()["state"]
    assert mean.tolist() == pytest.approx([3.0, 2.0])
    assert deviation.tolist() == pytest.approx([0.0, 2.5**0.5])


def test_a_tenth_in_blocks_is_held_out_and_a_buffer_of_a_hundred_rows_has_some() -> None:
    buffer = make(1000)
    buffer.with_domain = True
    for number in range(9):
        buffer.append(episode(number, 99, terminated=True))
    held_out = buffer.gather(torch.arange(900)).held_out
    assert held_out is not None
    assert held_out.nonzero()[:, 0].tolist() == [*range(50, 100), *range(550, 600)]
