"""A grid that follows arrivals: it finds them from any phase, and never moves by more than 2 %."""

import numpy as np
import pytest

from robot_rl.hardware.phase import LEAD_NS, Phase

PERIOD_NS = 5_000_000


@pytest.mark.parametrize("arrival_ns", [PERIOD_NS, 2 * PERIOD_NS, PERIOD_NS // 5, round(PERIOD_NS * 1.005)])
@pytest.mark.parametrize("begin_ns", [0, 1_300_000, 4_900_000])
def test_ticks_come_shortly_after_arrivals_that_scatter_from_any_phase(arrival_ns: int, begin_ns: int) -> None:
    generator = np.random.default_rng(0)
    arrivals = np.arange(1, 30_000) * arrival_ns + generator.normal(0, 30_000, 29_999).astype(int)
    phase = Phase(PERIOD_NS, arrival_ns)
    tick, index, waits, ticks = begin_ns + PERIOD_NS, -1, [], []
    for _ in range(2000):
        newest = int(np.searchsorted(arrivals, tick, side="right")) - 1
        waited = tick - int(arrivals[newest]) if newest > index else None
        index = max(index, newest)
        ticks.append(tick)
        if waited is not None:
            waits.append(waited)
        tick += PERIOD_NS + phase.shift_ns(waited)
    assert np.abs(np.diff(ticks) - PERIOD_NS).max() <= PERIOD_NS * 0.02
    settled = np.array(waits[len(waits) // 2 :])
    assert np.percentile(settled, 99) < LEAD_NS + 200_000
    assert abs(np.median(settled) - LEAD_NS) < 100_000


def test_without_arrivals_the_grid_stays() -> None:
    assert Phase(PERIOD_NS, PERIOD_NS).shift_ns(None) == 0
