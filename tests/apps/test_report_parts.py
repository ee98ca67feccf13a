"""The dip at the switch, and the charts: what a report is made of."""

import math

import pytest

from robot_rl.apps.report_chart import MAXIMUM_POINTS, Panel, Series, chart, number, thin, ticks
from robot_rl.apps.report_read import Dip, Evaluation, dip


def evaluations(*points: tuple[int, float], baseline: float = 0.5) -> list[Evaluation]:
    """A baseline at the end of the offline phase, then online (step, success) pairs after 1000 warm-up steps."""

    def one(phase: str, index: int, step: int, steps: int, success: float) -> Evaluation:
        return Evaluation(
            phase=phase,
            phase_index=index,
            phase_step=step,
            environment_steps=steps,
            updates=0,
            online=index == 2,
            interacted=index >= 1,
            metrics={"success_rate": success, "return_mean": 10 * success},
        )

    offline = one("offline", 0, 100, 0, baseline)
    return [offline, *(one("online", 2, step, 1000 + step, success) for step, success in points)]


def test_the_dip_is_what_is_lost_and_the_first_step_that_has_it_back() -> None:
    found = dip(evaluations((1000, 0.3), (2000, 0.1), (3000, 0.4), (4000, 0.5), (5000, 0.9)))
    assert found is not None
    assert found.depth == pytest.approx(0.4)  # 0.5 - 0.1
    assert (found.minimum_step, found.recovery_step) == (2000, 4000)


def test_an_evaluation_at_step_zero_of_the_online_phase_is_the_baseline() -> None:
    found = dip(evaluations((0, 0.8), (1000, 0.6), (2000, 0.7)))
    assert found is not None
    assert (found.baseline, found.recovery_step) == (0.8, None)


def test_a_minimum_after_the_window_is_no_dip_but_a_recovery_there_counts() -> None:
    found = dip(evaluations((10_000, 0.4), (20_000, 0.45), (21_000, 0.0), (30_000, 0.6)))
    assert found is not None
    assert (found.minimum, found.minimum_step, found.recovery_step) == (0.4, 10_000, 30_000)


def test_a_policy_that_only_improves_has_a_depth_that_is_not_positive() -> None:
    found = dip(evaluations((1000, 0.5), (2000, 0.9)))
    assert found == Dip(
        score="success_rate",
        baseline=0.5,
        minimum=0.5,
        minimum_step=1000,
        recovery_step=1000,
        window_steps=20_000,
        significant=None,
    )
    assert found is not None
    assert found.depth == 0


def test_scores_that_are_not_finite_do_not_make_a_dip() -> None:
    found = dip(evaluations((1000, math.nan), (2000, 0.2)))
    assert found is not None
    assert found.minimum_step == 2000


@pytest.mark.parametrize(
    "case", [[], evaluations(), evaluations((0, 0.5)), evaluations((30_000, 0.5)), evaluations((9, 0.1))[1:]]
)
def test_without_both_sides_of_the_switch_there_is_no_dip(case: list[Evaluation]) -> None:
    assert dip(case) is None


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 7.1), (1e-7, 3e-7), (0, 1_000_000), (5.0, 5.0)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high, 5)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-9 * abs(low) <= tick <= high + 1e-9 * abs(high) for tick in found)


def test_numbers_are_short() -> None:
    cases = {
        0.0: "0",
        0.1234: "0.123",
        20_000.0: "20k",
        1_500_000.0: "1.5M",
        -2.5: "−2.5",
        9999.0: "9999",
        1e-6: "1.00e-06",
    }
    assert {value: number(value).replace("−06", "-06") for value in cases} == cases


def test_a_long_series_is_averaged_and_keeps_its_extremes() -> None:
    x = list(range(10_000))
    series = thin(Series(label="a", x=x, y=[100.0 if value == 777 else math.nan if value == 3 else 1.0 for value in x]))
    assert len(series.x) == MAXIMUM_POINTS
    assert series.high is not None
    assert max(series.high) == 100.0


@pytest.mark.parametrize("y", [[], [math.nan, math.nan], [2.0, 2.0], [1e300, -1e300], [0.0]])
def test_odd_series_are_drawn(y: list[float]) -> None:
    drawn = chart([Panel(x_label="x", series=[Series(label="y", x=range(len(y)), y=y)])], y_label="y", description="d")
    assert "nan" not in drawn
