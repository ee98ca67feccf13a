"""Paired comparisons of success, worked out by hand."""

import pytest

from robot_rl.functional.paired import binomial_two_sided, mcnemar


def test_only_episodes_on_which_two_policies_differ_say_anything() -> None:
    ours = [True] * 5 + [False] * 1 + [True] * 10 + [False] * 4
    theirs = [False] * 5 + [True] * 1 + [True] * 10 + [False] * 4
    found = mcnemar(ours, theirs)
    assert (found.won, found.lost, found.count) == (5, 1, 20)
    assert found.gain == pytest.approx(0.2)
    # 2 * (C(6,0) + C(6,1)) / 2^6 = 14 / 64
    assert found.p_value == pytest.approx(14 / 64)
    assert mcnemar(theirs, ours).p_value == found.p_value
    assert mcnemar(ours, ours).p_value == 1.0


def test_a_fair_split_is_no_difference_and_all_of_ten_is_one() -> None:
    assert binomial_two_sided(5, 10) == 1.0
    assert binomial_two_sided(0, 10) == pytest.approx(2 / 1024)
    with pytest.raises(ValueError, match="both must have the same"):
        mcnemar([True], [])
