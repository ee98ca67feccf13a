"""Calibration and thresholds: arithmetic, limits, and promises that hold on new data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.functional import reliability
from robot_rl.types import Array


def test_the_calibration_error_by_hand() -> None:
    # bins of 0.5: {0.2, 0.4} says 0.3 and is 0.5; {0.8, 0.8, 1.0, 1.0} says 0.9 and is 0.75: (2 * 0.2 + 4 * 0.15) / 6
    probability = np.asarray([0.2, 0.4, 0.8, 0.8, 1.0, 1.0])
    label = np.asarray([False, True, True, False, True, True])
    assert reliability.expected_calibration_error(probability, label, 2) == pytest.approx(1.0 / 6)
    assert reliability.brier_score(np.asarray([0.0, 1.0, 0.5]), np.asarray([False, True, True])) == pytest.approx(
        0.25 / 3
    )


def drawn(slope: float, count: int = 20_000) -> tuple[Array, Array]:
    """Labels of probability sigmoid(slope * z)."""
    generator = np.random.default_rng(0)
    logit = generator.normal(size=count) * 2
    return logit, generator.random(count) < reliability.sigmoid(slope * logit)


@pytest.mark.parametrize("slope", [0.25, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(slope: float) -> None:
    assert reliability.temperature_of(*drawn(slope)) == pytest.approx(1.0 / slope, rel=0.06)


def test_no_temperature_is_infinite() -> None:
    logit = np.asarray([-1.0, 1.0, 2.0])
    assert reliability.temperature_of(logit, logit > 0) == pytest.approx(1 / reliability.LARGEST_SLOPE)
    assert reliability.temperature_of(logit, logit < 0) == pytest.approx(reliability.LARGEST_SLOPE)


def test_both_ways_of_calibration_lower_the_error_of_an_overconfident_score() -> None:
    logit, label = drawn(0.3)
    fresh, truth = logit[10_000:], label[10_000:]
    before = reliability.expected_calibration_error(reliability.sigmoid(fresh), truth)
    temperature = reliability.temperature_of(logit[:10_000], label[:10_000])
    knots = reliability.isotonic(logit[:10_000], label[:10_000])
    assert before > 0.1
    assert reliability.expected_calibration_error(reliability.sigmoid(fresh / temperature), truth) < 0.02
    assert reliability.expected_calibration_error(reliability.between_knots(fresh, *knots), truth) < 0.03


def test_pooling_neighbours_by_hand() -> None:
    score = np.asarray([1.0, 2.0, 3.0, 4.0])
    label = np.asarray([False, True, False, True])  # 2 and 3 fall: both become 1/2
    place, value = reliability.isotonic(score, label)
    assert reliability.between_knots(score, place, value).tolist() == [0.0, 0.5, 0.5, 1.0]
    assert reliability.between_knots(np.asarray([-9.0, 9.0]), place, value).tolist() == [0.0, 1.0]


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40))
def test_an_isotonic_map_never_falls_and_keeps_the_mean(rows: list[tuple[int, bool]]) -> None:
    score, label = np.asarray([row[0] for row in rows], float), np.asarray([row[1] for row in rows])
    place, value = reliability.isotonic(score, label)
    assert (np.diff(place) > 0).all()
    assert (np.diff(value) >= -1e-12).all()
    assert reliability.between_knots(score, place, value).mean() == pytest.approx(label.mean())


@given(st.lists(st.integers(0, 20), min_size=1, max_size=60), st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0]))
def test_a_threshold_keeps_its_rate_and_is_the_lowest_that_does(values: list[int], rate: float) -> None:
    negative = np.asarray(values, float)
    found = reliability.threshold_for_rate(negative, rate, floor=-1.0)
    assert (negative >= found.value).mean() <= rate + 1e-9
    assert found.false_positives == int((negative >= found.value).sum())
    below = negative[negative < found.value]
    if len(below):
        assert (negative >= below.max()).mean() > rate


def test_with_few_negatives_the_bound_says_so() -> None:
    assert reliability.rate_upper(0, 10) == pytest.approx(1 - 0.05 ** (1 / 10), abs=1e-6)  # (1 - p)^10 = 0.05
    assert reliability.rate_upper(3, 3) == 1.0
    assert reliability.rate_upper(5, 100) == pytest.approx(0.1025, abs=2e-3)  # Clopper and Pearson, 90 % two-sided
    with pytest.raises(ValueError, match="no negatives"):
        reliability.threshold_for_rate(np.asarray([]), 0.1)


def test_areas_and_rates_by_hand() -> None:
    score, label = np.asarray([0.1, 0.4, 0.4, 0.8]), np.asarray([False, True, False, True])
    # pairs: (0.4, 0.1) 1, (0.4, 0.4) 1/2, (0.8, 0.1) 1, (0.8, 0.4) 1
    assert reliability.area_under_curve(score, label) == pytest.approx(3.5 / 4)
    assert np.isnan(reliability.area_under_curve(score, np.ones(4, bool)))
    false, true = reliability.rates_by_threshold(score, label)
    assert false.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert true.tolist() == [0.0, 0.5, 1.0, 1.0]
