"""Orders and linear maps, on numbers that can be worked out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from robot_rl.functional.video_scores import mean_of_numbers, ranks, ridge_scores, value_order_correlation


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    # sorted 1, 5, 5, 7: ranks 0, (1 + 2) / 2, (1 + 2) / 2, 3
    assert ranks(np.array([5.0, 1.0, 7.0, 5.0])).tolist() == [1.5, 0.0, 3.0, 1.5]


def test_the_order_of_values() -> None:
    assert value_order_correlation(np.array([-9.0, -4.0, -3.9, 0.0])) == pytest.approx(1.0)
    assert value_order_correlation(np.array([3.0, 2.0, 1.0])) == pytest.approx(-1.0)
    # ranks 1, 0, 2 against 0, 1, 2: 1 - 6 * (1 + 1 + 0) / (3 * 8) = 0.5
    assert value_order_correlation(np.array([2.0, 1.0, 3.0])) == pytest.approx(0.5)
    assert math.isnan(value_order_correlation(np.array([1.0, 1.0, 1.0])))
    assert math.isnan(value_order_correlation(np.array([1.0])))


@given(st.lists(st.integers(0, 6), min_size=3, max_size=30).filter(lambda values: len(set(values)) > 1))
def test_the_order_is_spearmans(values: list[int]) -> None:
    expected = spearmanr(values, range(len(values))).statistic
    assert value_order_correlation(np.asarray(values, float)) == pytest.approx(expected)


def test_a_linear_map_reads_what_is_there_and_not_what_is_not() -> None:
    draws = np.random.default_rng(0)
    features = draws.normal(size=(300, 20)) * np.geomspace(1e-3, 1e3, 20) + 5.0
    targets = np.stack([features[:, 3] * 2 + features[:, 8] * 1e-3, draws.normal(size=300), np.ones(300)], 1)
    scores = ridge_scores(features[:200], targets[:200], features[200:], targets[200:])
    assert scores[0] > 0.99
    assert scores[1] < 0.1
    assert math.isnan(scores[2])  # a constant channel


def test_features_that_say_nothing_score_zero() -> None:
    targets = np.arange(10.0)[:, None]
    assert ridge_scores(np.ones((10, 4)), targets, np.ones((10, 4)), targets).tolist() == [0.0]


def test_the_score_is_of_rows_that_were_not_fitted() -> None:
    # 30 rows of 200 features of noise can be fitted exactly, which says nothing of other rows.
    draws = np.random.default_rng(0)
    features, targets = draws.normal(size=(60, 200)), draws.normal(size=(60, 1))
    assert ridge_scores(features[:30], targets[:30], features[30:], targets[30:])[0] < 0.2


def test_what_is_no_number_does_not_count() -> None:
    assert mean_of_numbers([1.0, float("nan"), 3.0]) == 2.0
    assert math.isnan(mean_of_numbers([float("nan")]))
