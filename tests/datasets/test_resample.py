"""Streams onto a grid: held values are never from the future, lines and rotations are followed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.datasets.ingest.resample import (
    continuous,
    gaps,
    grid,
    interpolate,
    latest,
    nearest,
    slerp,
    usual_period,
    windows,
)
from robot_rl.types import Array

stream = st.lists(st.floats(0, 100), min_size=1, max_size=30).map(lambda times: np.sort(np.asarray(times)))
points = st.lists(st.floats(-5, 105), min_size=1, max_size=30).map(np.asarray)


def about_z(angle: Array) -> Array:
    """(N,) rad -> (N, 4), w x y z."""
    return np.stack([np.cos(angle / 2), 0 * angle, 0 * angle, np.sin(angle / 2)], axis=1)


def test_the_grid_begins_at_the_start_and_ends_before_the_end() -> None:
    assert grid(1.0, 1.35, 0.1) == pytest.approx([1.0, 1.1, 1.2, 1.3])
    assert grid(0.0, 0.3, 0.1) == pytest.approx([0.0, 0.1, 0.2, 0.3])  # 0.3 / 0.1 is 2.9999999999999996
    assert len(grid(1.0, 0.5, 0.1)) == 0


def test_the_usual_period_is_the_median_and_repeated_times_do_not_count() -> None:
    assert usual_period(np.array([0.0, 0.1, 0.1, 0.2, 5.0])) == pytest.approx(0.1)
    assert usual_period(np.array([3.0])) is None


@given(stream, points)
def test_a_held_sample_is_the_last_one_that_is_not_from_the_future(times: Array, wanted: Array) -> None:
    chosen = latest(times, wanted)
    for index, point in zip(chosen, wanted, strict=True):
        before = np.flatnonzero(times <= point + 1e-9)
        assert index == (before[-1] if len(before) else 0)


@given(stream, points)
def test_no_sample_is_nearer_than_the_nearest(times: Array, wanted: Array) -> None:
    chosen = nearest(times, wanted)
    assert np.allclose(np.abs(times[chosen] - wanted), np.abs(times[None] - wanted[:, None]).min(axis=1), atol=1e-9)


def test_a_sample_too_far_ahead_is_not_taken_for_the_nearest() -> None:
    times, wanted = np.array([0.0, 1.0]), np.array([0.7, 0.95])
    assert nearest(times, wanted).tolist() == [1, 1]
    assert nearest(times, wanted, ahead=0.1).tolist() == [0, 1]


def test_of_two_as_near_the_earlier_is_taken() -> None:
    assert nearest(np.array([0.0, 1.0]), np.array([0.5])).tolist() == [0]


@given(stream, points)
def test_a_line_is_followed_and_held_at_its_ends(times: Array, wanted: Array) -> None:
    values = np.stack([2 * times + 1, -times], axis=1)
    clipped = np.clip(wanted, times[0], times[-1])
    assert np.allclose(interpolate(values, times, wanted), np.stack([2 * clipped + 1, -clipped], axis=1), atol=1e-9)


def test_interpolation_keeps_the_data_type() -> None:
    assert interpolate(np.zeros((2, 1), np.float32), np.array([0.0, 1.0]), np.array([0.5])).dtype == np.float32


def test_rotations_turn_evenly_and_ignore_the_sign() -> None:
    times = np.arange(0, 10, 0.5)
    samples = about_z(0.9 * times)
    samples[::3] *= -1  # the same rotations
    samples[1::4] *= 2.5  # drivers do not always normalise
    wanted = np.arange(0, 9.4, 0.07)
    out = slerp(samples, times, wanted)
    expected = about_z(0.9 * wanted)
    assert np.allclose(out * np.sign((out[0] * expected[0]).sum()), expected, atol=1e-9)
    assert np.allclose(np.linalg.norm(out, axis=1), 1)
    assert ((out[1:] * out[:-1]).sum(axis=1) > 0).all()


def test_half_way_between_two_rotations_is_half_the_angle() -> None:
    out = slerp(about_z(np.array([0.0, 1.0])), np.array([0.0, 1.0]), np.array([0.5]))
    assert np.allclose(out, about_z(np.array([0.5])))


def test_rotations_that_are_the_same_stay_it() -> None:
    out = slerp(about_z(np.array([0.3, 0.3])), np.array([0.0, 1.0]), np.array([0.2, 0.9]))
    assert np.allclose(out, about_z(np.array([0.3, 0.3])))


def test_a_quaternion_of_length_zero_is_not_made_a_rotation() -> None:
    assert np.array_equal(slerp(np.zeros((2, 4)), np.array([0.0, 1.0]), np.array([0.5])), np.zeros((1, 4)))


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_continuous_quaternions_never_change_their_hemisphere(flips: list[bool]) -> None:
    turning = about_z(0.5 * np.arange(len(flips)))
    out = continuous(turning * np.where(flips, -1.0, 1.0)[:, None])
    assert np.allclose(out * (-1.0 if flips[0] else 1.0), turning)


def test_gaps_are_silences_longer_than_the_largest() -> None:
    found = gaps(np.array([0, 1, 2, 7, 8, 20]), 4)
    assert found.tolist() == [[2, 7], [8, 20]]
    assert len(gaps(np.array([0, 4]), 4)) == 0


def test_windows_are_what_silences_leave() -> None:
    silences = [np.array([[2, 7]]), np.array([[5, 9], [12, 13]]), np.zeros((0, 2))]
    assert windows(0, 20, silences) == [(0, 2), (9, 12), (13, 20)]
    assert windows(3, 10, silences) == [(9, 10)]
    assert windows(0, 4, silences) == [(0, 2)]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 10)), max_size=8))
def test_no_window_overlaps_a_silence_and_nothing_else_is_lost(spans: list[tuple[int, int]]) -> None:
    silences = [np.array([[low, low + length]]) for low, length in spans]
    covered = np.zeros(120, bool)  # halves of seconds
    for low, high in windows(0, 60, silences):
        covered[2 * int(low) : 2 * int(high)] = True
    silent = np.zeros(120, bool)
    for low, length in spans:
        silent[2 * low : 2 * (low + length)] = True
    assert np.array_equal(covered, ~silent)
