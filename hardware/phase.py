"""Moves a grid of ticks so that each comes shortly after what it waits for, instead of up to a period later."""

SHARE = 0.02  # of a period, by which the grid moves at most at a tick
LEAD_NS = 200_000  # from an arrival to the tick: more than arrivals scatter, on a machine that schedules in real time
LEARNED = 32  # ticks over which a difference of the two clocks is learned


class Phase:
    """The grid of one loop, behind the messages of another whose period is the same, a multiple, or a part.

    The distance of two ticks stays within 2 % of the period. Without arrivals the grid is left where it is.
    """

    def __init__(self, period_ns: int, arrivals_ns: int) -> None:
        """Of the ticks, and of what they wait for."""
        self._limit_ns = round(period_ns * SHARE)
        self._cycle_ns = min(period_ns, arrivals_ns)
        self._drift_ns = 0.0  # by which the ticks would run away, each

    def shift_ns(self, waited_ns: int | None) -> int:
        """By how much the next tick is to come later.

        Args:
            waited_ns: how long before this tick its newest message came; None: no new one since the last tick.
        """
        if waited_ns is None:
            return 0
        error = LEAD_NS - waited_ns
        if error < -self._cycle_ns // 2:  # the next one is nearer
            error += self._cycle_ns
        limit = self._limit_ns
        self._drift_ns = max(-limit / 2, min(limit / 2, self._drift_ns + error / LEARNED))
        return round(max(-limit, min(limit, error / 2 + self._drift_ns)))
