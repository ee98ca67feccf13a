"""Shares of sources in a batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.errors import InputError
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.mixture import check_shares, counts, sample_mixture
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Episode

SIZES = {"offline": 300, "online": 100}


def source(value: float) -> ReplayBuffer:
    spec = Spec(
        observation={"state": ArraySpec(shape=(1,))},
        action=ArraySpec(shape=(1,), low=np.array([-1.0]), high=np.array([1.0])),
    )
    buffer = ReplayBuffer(
        spec, capacity=20, scale=ActionScale.from_spec(spec.action), reward=RewardTransform(), discount=0.9
    )
    ends = np.arange(10) == 9
    buffer.append(
        Episode(
            observation={"state": np.full((11, 1), value, np.float32)},
            action=np.zeros((10, 1)),
            reward=np.zeros(10),
            terminated=ends,
            truncated=np.zeros(10, bool),
        )
    )
    return buffer


def test_shares_of_zero_and_one_are_exact() -> None:
    assert counts({"offline": 0.0, "online": 1.0}, SIZES, 0, 7) == {"offline": 0, "online": 7}
    assert counts({"offline": 0.5, "online": 0.5}, SIZES, 0, 256) == {"offline": 128, "online": 128}


@given(share=st.floats(0, 1), batch=st.integers(1, 512))
def test_counts_fill_the_batch_and_are_off_by_less_than_one_row(share, batch) -> None:
    rows = counts({"offline": share, "online": 1.0 - share}, SIZES, 0, batch)
    assert sum(rows.values()) == batch
    assert abs(rows["offline"] - share * batch) < 1


def test_proportional_shares_follow_the_sizes() -> None:
    assert counts({"offline": "proportional", "online": "proportional"}, SIZES, 0, 8) == {"offline": 6, "online": 2}


def test_a_schedule_is_linear_and_holds_its_end() -> None:
    shares = {
        "offline": {"start": 1.0, "end": 0.0, "steps": 100},
        "online": {"start": 0.0, "end": 1.0, "steps": 100},
    }
    assert [counts(shares, SIZES, step, 100)["offline"] for step in (0, 25, 100, 500)] == [100, 75, 0, 0]


def test_every_repeat_of_a_mixture_has_its_share_of_every_source() -> None:
    sources = {"offline": source(0.0), "online": source(1.0)}
    batch = sample_mixture(sources, {"offline": 6, "online": 2}, 4, torch.Generator().manual_seed(0))
    chunks = batch.observation["state"].reshape(4, 8)
    assert len(batch) == 32
    assert chunks.sum(1).tolist() == [2.0] * 4


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"offlin": 1.0}, "did you mean 'offline'"),
        ({"offline": 0.5}, "sum to 0.5"),
        ({"offline": 1.5, "online": -0.5}, "expected a number"),
        ({"offline": "half"}, "expected a number"),
        ({"offline": "proportional", "online": 0.5}, "to all sources or to none"),
        ({"offline": {"start": 1.0, "end": 0.0}}, "a schedule is"),
        ({"offline": {"start": 1.0, "end": 0.5, "steps": 10}}, "sum to 0.5"),
        ({"offline": {"start": 1.0, "end": "half", "steps": 10}}, "a schedule is"),
        (
            {"offline": {"start": 1.5, "end": 1, "steps": 10}, "online": {"start": -0.5, "end": 0, "steps": 10}},
            r"start and end in \[0, 1\]",
        ),
        (  # 1 at the beginning and at the end, but 0 + 0.9 where the first has ended
            {"offline": {"start": 1, "end": 0, "steps": 10}, "online": {"start": 0, "end": 1, "steps": 100}},
            "sum to 0.1 at step 10",
        ),
    ],
)
def test_wrong_shares_are_refused(shares, message) -> None:
    with pytest.raises(InputError, match=message):
        check_shares(shares, SIZES, "phases.online")
