"""Moves a grid of ticks so that each comes shortly after what it waits for, instead of up to a period later."""

SHARE = 0.02  # of a period, by which the grid moves at most at a tick
LEAD_NS = 200_000  # from an arrival to the tick: more than arrivals scatter, on a machine that schedules in real time


class Phase:
    """The grid of one loop, behind the messages of another whose period is the same or a multiple, or a part.

    The distance of two ticks stays within 2 % of the period. Without arrivals the grid is left where it is.
    """

    def __init__(self, period_ns: int) -> None:
        """Of the ticks."""
        self._limit_ns = round(period_ns * SHARE)

    def shift_ns(self, waited_ns: int | None) -> int:
        """By how much the next tick is to come later.

        Args:
            waited_ns: how long before this tick its newest message came; None: no new one since the last tick.
        """
        if waited_ns is None:
            return 0
        return max(-self._limit_ns, min(self._limit_ns, (LEAD_NS - waited_ns) // 2))
