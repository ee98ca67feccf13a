"""Two policies on the same episodes: what a difference in success is worth.

McNemar "Note on the sampling error of the difference between correlated proportions or percentages". Psychometrika 1947
(the exact form: of the episodes on which the two differ, each is as likely to be won by either).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Of one policy with another, on the same seeds."""

    count: int
    won: int  # episodes in which only this one succeeded
    lost: int  # episodes in which only the other one did
    p_value: float  # two-sided; 1 where they never differ

    @property
    def gain(self) -> float:
        """Difference of the success rates."""
        return (self.won - self.lost) / self.count


def mcnemar(ours: list[bool], theirs: list[bool]) -> Comparison:
    """Success of two policies, episode by episode.

    Raises:
        ValueError: no episodes, or not as many of both.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} episodes: both must have the same, and some")
    won = sum(a and not b for a, b in zip(ours, theirs, strict=True))
    lost = sum(b and not a for a, b in zip(ours, theirs, strict=True))
    return Comparison(count=len(ours), won=won, lost=lost, p_value=binomial_two_sided(min(won, lost), won + lost))


def binomial_two_sided(least: int, count: int) -> float:
    """min(1, 2 P(X <= least)), X of `count` fair coins."""
    if count == 0:
        return 1.0
    tail = sum(math.comb(count, each) for each in range(least + 1))
    return min(1.0, 2.0 * tail / float(2**count))
