"""Moves a grid of ticks to what they wait for, and says how long each waits, so that it follows its message at once."""

SHARE = 0.02  # of a period, by which the grid moves at most at a tick
SHARE_OF_WINDOW = 0.15  # of a period, on either side of a point of the grid: an arrival within is the tick
EARLY_NS, LATE_NS = 500_000, 2_000_000  # and no more than that before it, when a core is kept busy, and behind it
FOLLOWED, LEARNED = 8, 256  # ticks, over which an offset is made good and a difference of the clocks learned
REMEMBERED = 3  # periods without an arrival, after which none is expected


class Phase:
    """The grid of one loop, around the messages of another whose period is the same, a multiple, or a part.

    The points of the grid move by at most 2 % of the period, or at once while nothing moves, so that arrivals fall on
    them. A tick comes with its message, within 15 % of the period of its point, at most `early_ns` before it and 2 ms
    behind. Without one it comes at the end of that window where one is expected, else at the point. Where nothing
    arrives, or the periods are no multiples of one another, the grid is left where it is.
    """

    def __init__(self, period_ns: int, arrivals_ns: int) -> None:
        """Of the ticks, and of what they wait for."""
        window_ns = round(period_ns * SHARE_OF_WINDOW)
        self.early_ns, self._late_ns = min(EARLY_NS, window_ns), min(LATE_NS, window_ns)
        self._limit_ns = round(period_ns * SHARE)
        self._arrivals_ns = arrivals_ns
        self._cycle_ns = min(period_ns, arrivals_ns)
        longer_ns = max(period_ns, arrivals_ns)
        off_ns = abs(longer_ns - round(longer_ns / self._cycle_ns) * self._cycle_ns)
        self._follows = off_ns * period_ns <= self._limit_ns * longer_ns  # else the grid cannot keep up with them
        self._remembered_ns = REMEMBERED * max(period_ns, arrivals_ns)
        self._drift_ns = 0.0  # by which the ticks would run away, each
        self._last_ns: int | None = None

    def belongs(self, arrival_ns: int, due_ns: int) -> bool:
        """The arrival is the one of the tick at this point of the grid."""
        return not self._follows or arrival_ns > due_ns - self._cycle_ns // 2

    def expects(self, due_ns: int) -> bool:
        """Something is to arrive about this point."""
        if not self._follows or self._last_ns is None or due_ns - self._last_ns > self._remembered_ns:
            return False
        off = (due_ns - self._last_ns) % self._arrivals_ns
        return min(off, self._arrivals_ns - off) <= self._cycle_ns // 2

    def closes_ns(self, due_ns: int) -> int:
        """When the tick of this point comes at the latest."""
        return due_ns + (self._late_ns if self.expects(due_ns) else 0)

    def shift_ns(self, due_ns: int, arrival_ns: int | None, *, at_once: bool = False) -> int:
        """By how much the points that follow are to come later.

        Args:
            due_ns: the point that has gone by.
            arrival_ns: when its newest message came; None: no new one since the tick before.
            at_once: by as much as it takes, since nobody minds a longer period now.
        """
        if arrival_ns is None or not self._follows:
            return 0
        self._last_ns = arrival_ns
        error = (arrival_ns - due_ns + self._cycle_ns // 2) % self._cycle_ns - self._cycle_ns // 2  # to the nearest
        if at_once and abs(error) > self.early_ns:
            return error
        limit = self._limit_ns
        self._drift_ns = max(-limit / 2, min(limit / 2, self._drift_ns + error / LEARNED))
        return round(max(-limit, min(limit, error / FOLLOWED + self._drift_ns)))
