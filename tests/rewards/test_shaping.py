"""Rewards from scores: arithmetic, and what shaping may not change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.functional import shaping
from robot_rl.rewards.forms import rewards_of
from robot_rl.rewards.settings import RewardForm

SCORE = np.asarray([0.0, 1.0, 3.0, 2.0])
RECORDED = np.asarray([0.0, 0.0, 5.0], np.float32)
NEVER = np.zeros(3, bool)
AT_END = np.asarray([False, False, True])
numbers = st.floats(-100, 100)


def test_the_differences_sum_to_what_was_gained() -> None:
    assert shaping.difference(SCORE).tolist() == [1.0, 2.0, -1.0]
    assert shaping.difference(SCORE).sum() == SCORE[-1] - SCORE[0]


def test_a_step_is_worth_the_state_behind_it() -> None:
    assert shaping.reached(SCORE).tolist() == [1.0, 3.0, 2.0]
    assert shaping.added(RECORDED, SCORE, 0.5).tolist() == [0.5, 1.5, 6.0]


def test_a_potential_by_hand() -> None:
    # 0 + (0.5 * 1 - 0), 0 + (0.5 * 3 - 1), 5 + (0.5 * 2 - 3)
    assert shaping.potential(RECORDED, SCORE, NEVER, 0.5, 1.0).tolist() == [0.5, 0.5, 3.0]
    # behind a termination the potential is 0: 5 + (0 - 3)
    assert shaping.potential(RECORDED, SCORE, AT_END, 0.5, 1.0).tolist() == [0.5, 0.5, 2.0]


@given(st.lists(numbers, min_size=4, max_size=4), st.lists(numbers, min_size=2, max_size=2), st.floats(0.5, 1.0))
def test_a_potential_changes_the_return_of_every_way_to_a_terminal_state_alike(
    ways: list[float], middle: list[float], discount: float
) -> None:
    start, one, other, end = ways
    scores = [np.asarray([start, one, end]), np.asarray([start, other, end])]
    ended = np.asarray([False, True])
    discounts = np.asarray([1.0, discount])
    change = [
        float((discounts * (shaping.potential(np.asarray(middle), score, ended, discount, 2.0) - middle)).sum())
        for score in scores
    ]
    assert change[0] == pytest.approx(-2.0 * start, abs=1e-6)
    assert change[1] == pytest.approx(change[0], abs=1e-6)


def test_the_threshold_counts_as_reached() -> None:
    assert shaping.above(SCORE, 2.0, -1.0, 0.0).tolist() == [-1.0, 0.0, 0.0]


def test_one_misread_frame_is_no_success_where_two_are_asked_for() -> None:
    score = np.asarray([0.9, 0.1, 0.9, 0.8, 0.7])
    assert shaping.rolling_minimum(score, 1).tolist() == score.tolist()
    assert shaping.rolling_minimum(score, 2).tolist() == [-np.inf, 0.1, 0.1, 0.8, 0.7]
    assert shaping.rolling_minimum(score[:1], 2).tolist() == [-np.inf]


def test_percentiles_become_0_and_1_and_a_constant_stays() -> None:
    score = np.linspace(-3.0, 7.0, 1001)
    offset, scale = shaping.percentile_map(score)
    assert np.percentile((score - offset) * scale, [1, 99]) == pytest.approx([0.0, 1.0])
    assert shaping.percentile_map(np.full(5, 2.0)) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (RewardForm(form="kept", bias=1.0), [0.0, 0.0, 5.0]),
        (RewardForm(form="reached", weight=2.0, bias=1.0), [3.0, 7.0, 5.0]),
        (RewardForm(form="difference", weight=2.0), [2.0, 4.0, -2.0]),
        (RewardForm(form="added", weight=1.0, bias=-1.0), [0.0, 2.0, 6.0]),
        (RewardForm(form="potential", weight=1.0, discount=1.0), [1.0, 2.0, 4.0]),
        (RewardForm(form="above", values=[-1.0, 0.0]), [-1.0, 0.0, 0.0]),
    ],
)
def test_each_form_gives_its_reward_in_the_recorded_type(form: RewardForm, expected: list[float]) -> None:
    reward = rewards_of(form, RECORDED, SCORE, NEVER, threshold=2.0)
    assert reward.tolist() == expected
    assert reward.dtype == np.float32
