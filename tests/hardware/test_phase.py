"""A grid that follows arrivals: it finds them from any phase, moves by at most 2 %, and its ticks come with them."""

import numpy as np
import pytest

from robot_rl.hardware.phase import SHARE, SHARE_OF_WINDOW, Phase
from robot_rl.types import Array

PERIOD_NS = 5_000_000


def ticks_of(phase: Phase, arrivals: Array, begin_ns: int, count: int) -> tuple[Array, Array, Array]:
    """What a loop does with it: points of the grid, ticks, and how long each newest arrival waited for its tick."""
    due, points, ticks, waits = begin_ns, [], [], []
    for _ in range(count):
        opens, closes = due - phase.early_ns, phase.closes_ns(due)
        newest = int(np.searchsorted(arrivals, opens, side="right")) - 1
        tick = opens if newest >= 0 and phase.belongs(int(arrivals[newest]), due) else None
        if tick is None:
            tick = min(closes, int(arrivals[newest + 1]))
            newest += tick == int(arrivals[newest + 1])
        points.append(due)
        ticks.append(tick)
        waits.append(tick - int(arrivals[newest]))
        due += PERIOD_NS + phase.shift_ns(due, int(arrivals[newest]))
    return np.array(points), np.array(ticks), np.array(waits)


@pytest.mark.parametrize("arrival_ns", [PERIOD_NS, PERIOD_NS // 5, round(PERIOD_NS * 1.005)])
@pytest.mark.parametrize("begin_ns", [0, 1_300_000, 4_900_000])
def test_ticks_come_with_arrivals_that_scatter_from_any_phase(arrival_ns: int, begin_ns: int) -> None:
    generator = np.random.default_rng(0)
    arrivals = np.arange(1, 30_000) * arrival_ns + generator.normal(0, 60_000, 29_999).astype(int)
    phase = Phase(PERIOD_NS, arrival_ns)
    points, ticks, waits = ticks_of(phase, arrivals, begin_ns + 2 * PERIOD_NS, 2000)
    assert np.abs(np.diff(points) - PERIOD_NS).max() <= PERIOD_NS * SHARE
    assert np.abs(ticks - points).max() <= PERIOD_NS * SHARE_OF_WINDOW
    settled = waits[len(waits) // 2 :]
    assert np.median(settled) == 0
    assert np.percentile(settled, 99) < 200_000


def test_a_tick_with_half_as_many_arrivals_waits_only_where_one_is_expected() -> None:
    phase, arrivals = Phase(PERIOD_NS, 2 * PERIOD_NS), np.arange(1, 2000) * 2 * PERIOD_NS
    phase.shift_ns(int(arrivals[0]), int(arrivals[0]))
    due = int(arrivals[0])
    assert [phase.expects(due + k * PERIOD_NS) for k in range(1, 5)] == [False, True, False, True]
    assert phase.closes_ns(due + PERIOD_NS) == due + PERIOD_NS
    assert phase.closes_ns(due + 2 * PERIOD_NS) > due + 2 * PERIOD_NS
    assert not phase.expects(due + 8 * PERIOD_NS)  # nothing for too long


def test_without_arrivals_the_grid_stays_and_nothing_is_waited_for() -> None:
    phase = Phase(PERIOD_NS, PERIOD_NS)
    assert phase.shift_ns(7, None) == 0
    assert phase.closes_ns(PERIOD_NS) == PERIOD_NS


@pytest.mark.parametrize("off_ns", [-2_400_000, -600_000, 1_000_000, 2_400_000])
def test_while_nothing_moves_the_grid_may_jump(off_ns: int) -> None:
    phase = Phase(PERIOD_NS, PERIOD_NS)
    assert phase.shift_ns(10 * PERIOD_NS, 10 * PERIOD_NS + off_ns, at_once=True) == off_ns
    assert abs(phase.shift_ns(10 * PERIOD_NS, 10 * PERIOD_NS + off_ns)) <= PERIOD_NS * SHARE


def test_a_grid_that_cannot_keep_up_with_its_arrivals_stays() -> None:
    phase = Phase(33_333_333, 10_000_000)
    assert [phase.shift_ns(k * 33_333_333, k * 33_333_333 - 3_000_000) for k in range(9)] == [0] * 9
    assert not phase.expects(9 * 33_333_333)
    assert Phase(33_333_333, 8_333_333).shift_ns(0, 10_000) != 0
