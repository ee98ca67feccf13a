"""Learning rates over the course of a run."""

import math


def cosine_then_hold(updates: int, steps: int) -> float:
    """0.5 (1 + cos(pi * updates / steps)), and 0 for ever after `steps`; torch's cosine would climb again."""
    return 0.5 * (1 + math.cos(math.pi * min(updates / steps, 1.0)))
