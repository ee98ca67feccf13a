"""Transitions of several actions: what a chunk sums, where the end of its episode cuts it, and which may be drawn."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.config import ReplayConfig
from robot_rl.errors import InputError
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.mixture import sample_mixture
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Batch, Episode, TimeStep

SPEC = Spec(
    observation={"state": ArraySpec(shape=(2,)), "camera": ArraySpec(shape=(2, 2, 3), dtype="uint8")},
    action=ArraySpec(shape=(2,), low=np.full(2, -100.0), high=np.full(2, 100.0), names=("x", "y")),
)


def make(capacity: int = 200, *, discount: float = 0.5, **options) -> ReplayBuffer:
    return ReplayBuffer(
        SPEC,
        capacity=capacity,
        scale=ActionScale.from_spec(SPEC.action),
        reward=RewardTransform(),
        discount=discount,
        **options,
    )


def episode(number: int, steps: int, *, terminated: bool = False, final: bool = True) -> Episode:
    """State (episode number, step), an image of the step, action (number, step), reward step + 1."""
    time, last = np.arange(steps + 1), np.arange(steps) == steps - 1
    return Episode(
        observation={
            "state": np.stack([np.full(steps + 1, number), time], 1).astype(np.float32),
            "camera": np.broadcast_to(time.astype(np.uint8)[:, None, None, None], (steps + 1, 2, 2, 3)).copy(),
        },
        action=np.stack([np.full(steps, number), time[:-1]], 1).astype(np.float64),
        reward=(time[:-1] + 1).astype(np.float32),
        terminated=last & terminated,
        truncated=last & (not terminated),
        has_final_observation=final,
    )


def play(buffer: ReplayBuffer, recorded: Episode) -> None:
    """The same episode, step by step."""
    buffer.begin({key: values[0] for key, values in recorded.observation.items()})
    for t in range(len(recorded)):
        buffer.add(
            TimeStep(
                observation={key: values[t + 1] for key, values in recorded.observation.items()},
                reward=float(recorded.reward[t]),
                terminated=bool(recorded.terminated[t]),
                truncated=bool(recorded.truncated[t]),
                action=recorded.action[t],
            )
        )


def drawable(buffer: ReplayBuffer) -> torch.Tensor:
    ring = (buffer._rows_first + np.arange(len(buffer))) % buffer.capacity
    return torch.from_numpy(buffer._rows[ring])


def steps_of(action: torch.Tensor) -> list[list[int]]:
    """The second channel of each action of a chunk, in units: the step in which it was recorded."""
    return (action.unflatten(1, (-1, 2))[:, :, 1] * 100).round().long().tolist()


def test_a_chunk_has_the_actions_of_its_steps_and_the_sum_of_their_rewards() -> None:
    buffer = make(action_chunk=3)
    buffer.append(episode(7, 4, terminated=True))
    buffer.append(episode(8, 4, terminated=False))
    batch = buffer.gather(drawable(buffer))
    assert steps_of(batch.action) == [[0, 1, 2], [1, 2, 3], [2, 3, 3], [3, 3, 3]] * 2
    # Rewards 1, 2, 3, 4: 1 + 2/2 + 3/4 = 2.75 ; 2 + 3/2 + 4/4 = 4.5 ; 3 + 4/2 = 5 ; 4.
    assert batch.reward.tolist() == pytest.approx([2.75, 4.5, 5.0, 4.0] * 2)
    # Termination ends the chunk for good; after a time limit the value of where it got to counts for the steps done.
    assert batch.discount.tolist() == pytest.approx([0.125, 0.0, 0.0, 0.0, 0.125, 0.125, 0.25, 0.5])
    assert batch.next_observation["state"][:, 1].tolist() == [3.0, 4.0, 4.0, 4.0] * 2
    assert batch.next_observation["camera"][:, 0, 0, 0].tolist() == [3, 4, 4, 4] * 2
    assert batch.valid is not None
    assert batch.valid.int().tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]] * 2


def test_rewards_inside_a_chunk_may_have_a_discount_of_their_own() -> None:
    # Two chunks of two steps: 1 + 0.9 * 2 + 0.5^2 * (3 + 0.9 * 4) = 4.45, then 0.5^4 of the value.
    buffer = make(action_chunk=2, n_step=2, chunk_discount=0.9)
    buffer.append(episode(0, 6))
    batch = buffer.gather(torch.tensor([0, 5]))
    assert batch.reward.tolist() == pytest.approx([4.45, 6.0])
    assert batch.discount.tolist() == pytest.approx([0.0625, 0.5])
    buffer.complete_only = True
    with pytest.raises(InputError, match=r"leave replay\.chunk_discount out"):
        buffer.gather(torch.tensor([0]))


def test_steps_may_be_summed_whatever_the_chunk() -> None:
    buffer = make(action_chunk=3, n_step=2, n_step_counts="steps")
    buffer.append(episode(0, 4, terminated=True))
    batch = buffer.gather(drawable(buffer))
    assert steps_of(batch.action) == [[0, 1, 2], [1, 2, 3], [2, 3, 3], [3, 3, 3]]
    assert batch.reward.tolist() == pytest.approx([1 + 2 / 2, 2 + 3 / 2, 3 + 4 / 2, 4])
    assert batch.discount.tolist() == pytest.approx([0.25, 0.25, 0.0, 0.0])


def test_the_next_action_is_the_chunk_that_follows_where_all_of_it_was_recorded() -> None:
    buffer = make(action_chunk=2)
    buffer.with_next_action = True
    buffer.append(episode(0, 5))
    buffer.append(episode(1, 3))
    batch = buffer.gather(drawable(buffer)[:5])
    assert batch.next_action is not None
    assert batch.has_next_action is not None
    assert batch.has_next_action.tolist() == [True, True, False, False, False]
    assert steps_of(batch.next_action)[:2] == [[2, 3], [3, 4]]


def test_a_monte_carlo_return_is_that_of_the_first_step() -> None:
    buffer = make(action_chunk=3, complete_only=True)
    buffer.append(episode(0, 3, terminated=True))
    # G_2 = 3, G_1 = 2 + 3/2 = 3.5, G_0 = 1 + 3.5/2 = 2.75
    returns = buffer.gather(drawable(buffer)).monte_carlo_return
    assert returns is not None
    assert returns.tolist() == pytest.approx([2.75, 3.5, 3.0])


@settings(deadline=None)
@given(
    capacity=st.integers(12, 40),
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    live=st.booleans(),
    terminated=st.booleans(),
    final=st.booleans(),
    chunk=st.integers(2, 6),
    n_step=st.integers(1, 3),
    counts=st.sampled_from(["chunks", "steps"]),
    inside=st.sampled_from([None, 0.8]),
    cut=st.booleans(),
)
def test_chunks_are_those_of_a_loop_over_the_episode(
    capacity, lengths, live, terminated, final, chunk, n_step, counts, inside, cut
) -> None:
    final = final or live
    inside = inside if counts == "chunks" else None
    buffer = make(capacity, action_chunk=chunk, n_step=n_step, n_step_counts=counts, chunk_discount=inside)
    wanted = [episode(number, steps, terminated=terminated, final=final) for number, steps in enumerate(lengths)]
    if not cut and max(lengths) >= chunk:
        longest = episode(99, chunk + 1)  # so that something can be drawn when it is decided
        buffer.append(longest)
        wanted.append(longest)
        buffer.allow_cut_chunks(False)
    for recorded in wanted[: len(lengths)]:
        play(buffer, recorded) if live else buffer.append(recorded)
    rows = drawable(buffer)
    if not len(rows):
        return
    batch = buffer.gather(rows)
    episodes = {int(each.observation["state"][0, 0]): each for each in wanted}
    for index, (number, step) in enumerate(batch.observation["state"].long().tolist()):
        each = episodes[number]
        transitions = len(each) if each.has_final_observation or each.terminated[-1] else len(each) - 1
        backup = n_step * (chunk if counts == "chunks" else 1)
        reward, reached = 0.0, min(backup, transitions - step)
        for k in range(reached):
            within = k % chunk
            weight = 0.5**k if inside is None else inside**within * 0.5 ** (k - within)
            reward += weight * float(each.reward[step + k])
        ended = bool(each.terminated[step + reached - 1])
        assert float(batch.reward[index]) == pytest.approx(reward, rel=1e-5)
        assert float(batch.discount[index]) == pytest.approx(0.0 if ended else 0.5**reached)
        assert steps_of(batch.action[index : index + 1])[0] == [min(step + k, transitions - 1) for k in range(chunk)]
        if batch.valid is None:
            assert step + chunk <= transitions
        else:
            assert batch.valid[index].tolist() == [step + k < transitions for k in range(chunk)]


def test_without_cut_chunks_an_episode_gives_h_minus_one_transitions_less() -> None:
    recorded, live = make(action_chunk=3), make(action_chunk=3)
    recorded.allow_cut_chunks(False)
    live.allow_cut_chunks(False)
    for number, steps in enumerate((5, 2, 3)):
        recorded.append(episode(number, steps))
        play(live, episode(number, steps))
    for buffer in (recorded, live):
        assert buffer.gather(drawable(buffer)).observation["state"].tolist() == [[0, 0], [0, 1], [0, 2], [2, 0]]
        assert buffer.gather(drawable(buffer)).valid is None
        buffer.allow_cut_chunks(True)
        assert len(buffer) == 10


@pytest.mark.parametrize("complete_only", [False, True])
def test_what_may_be_drawn_does_not_depend_on_when_it_was_decided(complete_only) -> None:
    early, late = (make(30, action_chunk=3, complete_only=complete_only) for _ in range(2))
    early.append(episode(0, 4))
    early.allow_cut_chunks(False)
    late.append(episode(0, 4))
    for number in range(1, 12):
        for buffer in (early, late):
            play(buffer, episode(number, 1 + number % 6))
    late.allow_cut_chunks(False)
    assert drawable(early).tolist() == drawable(late).tolist()


def test_episodes_that_are_all_shorter_than_a_chunk_are_refused() -> None:
    buffer = make(action_chunk=5)
    buffer.append(episode(0, 4))
    with pytest.raises(InputError, match="no episode has the 5 steps"):
        buffer.allow_cut_chunks(False)


def test_a_mixture_of_sources_keeps_what_is_valid() -> None:
    sources = {"offline": make(action_chunk=2), "online": make(action_chunk=2)}
    sources["offline"].append(episode(0, 1))
    sources["online"].append(episode(1, 50))
    batch = sample_mixture(sources, {"offline": 3, "online": 5}, 2, torch.Generator().manual_seed(0))
    assert batch.valid is not None
    from_short = batch.observation["state"][:, 0] == 0
    assert from_short.tolist() == ([True] * 3 + [False] * 5) * 2
    assert (~batch.valid[from_short, 1]).all()
    assert batch.valid[:, 0].all()
    assert batch.action.shape == (16, 4)


def test_a_restored_buffer_gives_the_same_chunks() -> None:
    buffer, again = make(20, action_chunk=3), make(20, action_chunk=3)
    buffer.append(episode(0, 8))
    buffer.allow_cut_chunks(False)
    for number in range(1, 6):
        play(buffer, episode(number, 5))
    again.restore(*buffer.state())
    again.allow_cut_chunks(False)
    for each in (buffer, again):
        play(each, episode(9, 4))
    one, other = (each.sample(64, torch.Generator().manual_seed(3)) for each in (buffer, again))
    for item in fields(Batch):
        left, right = getattr(one, item.name), getattr(other, item.name)
        assert left is right is None or (
            all(torch.equal(left[key], right[key]) for key in left)
            if isinstance(left, dict)
            else torch.equal(left, right)
        )


def test_a_spec_of_chunks_repeats_what_is_known_of_an_action() -> None:
    chunk = SPEC.chunked(3)
    assert chunk.action.shape == (6,)
    assert chunk.action.names == ("x[0]", "y[0]", "x[1]", "y[1]", "x[2]", "y[2]")
    assert chunk.action.low is not None
    assert chunk.action.low.tolist() == [-100.0] * 6
    assert Spec.from_json(chunk.to_json()).action_chunk == chunk.action_chunk == 3
    assert SPEC.chunked(1) is SPEC
    assert "action_chunk" not in SPEC.to_json()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"action_chunk": 0}, "replay.action_chunk=0"),
        ({"chunk_discount": 0.9}, "needs replay.action_chunk > 1"),
        ({"action_chunk": 4, "n_step_counts": "steps", "chunk_discount": 0.9}, "n_step_counts=chunks"),
        ({"action_chunk": 4, "chunk_discount": 1.5}, "replay.chunk_discount=1.5"),
        ({"n_step_counts": "step"}, "did you mean 'steps'"),
    ],
)
def test_wrong_settings_are_refused(values, message) -> None:
    with pytest.raises(InputError, match=message):
        ReplayConfig(**values)
