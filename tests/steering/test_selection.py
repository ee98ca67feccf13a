"""Which of K candidates, worked out by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.errors import InputError
from robot_rl.steering import selection
from robot_rl.steering.selection import SELECTORS, ValueSelector

NO = -math.inf
ALL = torch.ones(3, dtype=torch.bool)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_first_of_equals_is_the_best() -> None:
    assert selection.argmax_share(torch.tensor([2.0, 2.0, 1.0])).tolist() == [1, 0, 0]


def test_softmax_weighs_by_the_temperature() -> None:
    # exp(0), exp(log(3) / 1): 1 to 3; at half the temperature 1 to 9
    value = torch.tensor([0.0, math.log(3), NO])
    torch.testing.assert_close(selection.softmax_share(value, 1.0), torch.tensor([0.25, 0.75, 0.0]))
    torch.testing.assert_close(selection.softmax_share(value, 0.5), torch.tensor([0.1, 0.9, 0.0]))
    assert selection.softmax_share(value, 0.0).tolist() == [0, 1, 0]


def test_a_gain_within_the_margin_is_no_reason_to_leave_the_policy() -> None:
    value = torch.tensor([1.0, 1.5, 1.2])
    assert selection.margin_share(value, 0.4).tolist() == [0, 1, 0]
    assert selection.margin_share(value, 0.5).tolist() == [1, 0, 0]
    assert selection.margin_share(torch.tensor([1.0, 1.0, NO]), 0.0).tolist() == [1, 0, 0]


def test_disagreement_of_the_critics_costs() -> None:
    # means 1, 2, 1.5; deviations 0, 1.5, 0.1: with penalty 1 they are 1, 0.5, 1.4
    values = torch.tensor([[1.0, 0.5, 1.4], [1.0, 3.5, 1.6]])
    chosen = ValueSelector(rule="uncertainty", penalty=1.0).select(values, ALL, generator())
    torch.testing.assert_close(chosen.value, torch.tensor([1.0, 0.5, 1.4]))
    assert chosen.index == 2
    assert ValueSelector(rule="uncertainty", penalty=0.0).select(values, ALL, generator()).index == 1


def test_advantage_weights_are_those_of_implicit_q_learning() -> None:
    # The 0.75-expectile v of 0 and 1: 0.25 v = 0.75 (1 - v), v = 0.75. Weights 0.25 below, 0.75 above.
    value = torch.tensor([0.0, 1.0, NO])
    assert float(selection.expectile_of(value[:2], 0.75)) == pytest.approx(0.75)
    torch.testing.assert_close(selection.advantage_share(value, 0.75), torch.tensor([0.25, 0.75, 0.0]))


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=6), st.floats(0.05, 0.95))
def test_an_expectile_cancels_the_weighted_residuals(numbers: list[float], level: float) -> None:
    value = torch.tensor(numbers, dtype=torch.float64)
    residual = value - selection.expectile_of(value, level)
    balance = level * residual.clamp(min=0).sum() + (1 - level) * residual.clamp(max=0).sum()
    assert float(balance) == pytest.approx(0, abs=1e-6)


def test_effective_count_is_between_one_and_all() -> None:
    assert float(selection.effective_count(torch.tensor([1.0, 0.0, 0.0, 0.0]))) == pytest.approx(1)
    assert float(selection.effective_count(torch.full((4,), 0.25))) == pytest.approx(4)


@pytest.mark.parametrize("rule", SELECTORS)
def test_what_must_not_be_chosen_is_not(rule: str) -> None:
    selector = ValueSelector(rule=rule, temperature=5.0)
    values, allowed = torch.tensor([[0.0, 9.0, 0.1], [0.0, 9.0, 0.1]]), torch.tensor([True, False, True])
    draws = generator()
    chosen = [selector.select(values, allowed, draws) for _ in range(50)]
    assert 1 not in {each.index for each in chosen}
    assert float(chosen[0].share.sum()) == pytest.approx(1)
    only = selector.select(values, torch.tensor([True, False, False]), draws)
    assert only.index == 0


def test_draws_follow_the_generator() -> None:
    selector, values = ValueSelector(rule="softmax", temperature=3.0), torch.randn(2, 3, generator=generator())
    first, second = ([selector.select(values, ALL, g).index for _ in range(20)] for g in (generator(), generator()))
    assert first == second
    assert len(set(first)) > 1


def test_a_mistyped_rule_is_answered() -> None:
    with pytest.raises(InputError, match="did you mean 'softmax'"):
        ValueSelector(rule="sotfmax")
    with pytest.raises(ValueError, match=r"expected \(E, K\)"):
        ValueSelector().select(torch.zeros(3), ALL, generator())
