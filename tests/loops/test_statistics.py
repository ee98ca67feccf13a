"""Statistics over runs, against scipy, arithmetic and simulated truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import mannwhitneyu, sem, trim_mean
from scipy.stats import t as student

from robot_rl import statistics

scores_of_runs = st.integers(1, 40).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-1e3, 1e3)))


@given(scores_of_runs)
def test_the_interquartile_mean_is_scipys_mean_trimmed_by_a_quarter(scores) -> None:
    assert float(statistics.interquartile_mean(scores)) == pytest.approx(trim_mean(scores, 0.25), abs=1e-9)


def test_the_interquartile_mean_leaves_out_the_extremes() -> None:
    # of eight, two at each end: (2 + 3 + 4 + 5) / 4
    assert float(statistics.interquartile_mean(np.array([-1e9, 1, 2, 3, 4, 5, 6, 1e9]))) == 3.5


def test_statistics_of_several_rows_are_those_of_each_row() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 9))
    for statistic in (statistics.interquartile_mean, statistics.mean):
        assert statistic(rows) == pytest.approx([float(statistic(row)) for row in rows])


def test_no_scores_have_no_interquartile_mean() -> None:
    with pytest.raises(ValueError, match="no scores"):
        statistics.interquartile_mean(np.array([]))


def test_the_bootstrap_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    tasks = [(0.0, 1.0), (5.0, 0.5), (-2.0, 2.0)]  # mean and deviation of the runs of each task
    truth, hits, rounds = 1.0, 0, 300
    for _ in range(rounds):
        runs = [generator.normal(mean, deviation, 20) for mean, deviation in tasks]
        low, high = statistics.stratified_bootstrap(runs, statistics.mean, generator, resamples=400)
        hits += low <= truth <= high
    # percentile intervals of 20 runs are slightly too narrow: 0.93 in expectation, deviation 0.015
    assert 0.88 < hits / rounds < 0.98


def test_runs_are_resampled_within_their_task_only() -> None:
    # no spread within a task: whatever is drawn, the mean stays, although the tasks are far apart
    low, high = statistics.stratified_bootstrap(
        [np.full(3, 0.0), np.full(3, 100.0)], statistics.mean, np.random.default_rng(0), resamples=200
    )
    assert low == high == 50.0


def test_one_seed_gives_one_interval() -> None:
    runs = [np.arange(5.0)]
    intervals = {
        statistics.stratified_bootstrap(runs, statistics.mean, np.random.default_rng(7), resamples=100)
        for _ in range(2)
    }
    assert len(intervals) == 1


def test_the_probability_of_improvement_is_that_of_mann_and_whitney() -> None:
    generator = np.random.default_rng(1)
    x, y = generator.integers(0, 5, 12).astype(float), generator.integers(1, 6, 9).astype(float)  # with ties
    value, low, high = statistics.probability_of_improvement([(x, y)], generator, resamples=500)
    assert value == pytest.approx(mannwhitneyu(x, y).statistic / (len(x) * len(y)))
    assert 0.0 <= low <= value <= high <= 1.0


def test_the_probability_of_improvement_weighs_tasks_equally() -> None:
    won, lost = (np.ones(9), np.zeros(9)), (np.zeros(1), np.ones(1))
    value, _, _ = statistics.probability_of_improvement([won, lost], np.random.default_rng(0), resamples=10)
    assert value == 0.5


def test_regret_is_one_minus_the_mean_along_the_steps_however_they_are_spaced() -> None:
    # up from 0 to 1 over 100 steps, then 1 for 300: the mean is (0.5 * 100 + 300) / 400
    assert statistics.regret([0, 100, 400], [0.0, 1.0, 1.0]) == pytest.approx(1 - 350 / 400)
    assert statistics.regret([0, 50, 100, 200, 400], [0.0, 0.5, 1.0, 1.0, 1.0]) == pytest.approx(1 - 350 / 400)
    assert statistics.regret([0], [0.25]) == 0.75


def test_steps_and_scores_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="1 steps for 2 scores"):
        statistics.mean_along([0], [1.0, 2.0])


def test_a_dip_has_a_depth_and_ends_where_the_baseline_is_reached_again() -> None:
    dip = statistics.switch_dip(0.8, [100, 200, 300, 400], [0.5, 0.2, 0.7, 0.9], window_steps=300)
    assert dip is not None
    assert (dip.depth, dip.step, dip.recovery_step) == (pytest.approx(0.6), 200, 400)


def test_a_dip_is_sought_in_the_window_only() -> None:
    dip = statistics.switch_dip(0.8, [100, 200, 300], [0.5, 0.6, 0.0], window_steps=200)
    assert dip is not None
    assert (dip.depth, dip.recovery_step) == (pytest.approx(0.3), None)
    assert statistics.switch_dip(0.8, [300], [0.0], window_steps=200) is None


def test_what_only_rises_has_no_dip() -> None:
    dip = statistics.switch_dip(0.1, [100, 200], [0.2, 0.3], window_steps=500)
    assert dip is not None
    assert (dip.depth, dip.recovery_step) == (0.0, None)


def test_scores_are_normalised_between_random_and_reference() -> None:
    assert statistics.normalized(30.0, 10.0, 50.0) == 0.5
    with pytest.raises(ValueError, match="span no scale"):
        statistics.normalized(1.0, 2.0, 2.0)


def test_the_interval_around_few_values_is_students() -> None:
    values = np.array([0.1, 0.4, 0.3])
    expected = student.interval(0.95, 2, loc=values.mean(), scale=sem(values))
    assert statistics.mean_interval(values) == pytest.approx(expected)
    with pytest.raises(ValueError, match="no spread"):
        statistics.mean_interval(values[:1])
