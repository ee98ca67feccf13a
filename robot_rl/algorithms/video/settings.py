"""Checks that the settings of all objectives share."""

import math
from typing import Any

from robot_rl.checks import require_minimum, require_range


def require_numbers(config: Any, place: str) -> None:
    """Refuse numbers that make no sense in a setting that several objectives have.

    Raises:
        InputError: names the setting and the range.
    """
    for name, value in vars(config).items():
        if isinstance(value, float) and math.isnan(value):
            require_range(value, -math.inf, math.inf, f"{place} {name}")
    require_range(config.learning_rate, 0.0, 1.0, f"{place} learning_rate")
    for width in getattr(config, "hidden", []):
        require_range(width, 1, 100_000, f"{place} hidden: width")
    require_minimum(len(getattr(config, "hidden", [1])), 1, f"{place} hidden: how many")
    if config.gradient_clip is not None:
        require_range(config.gradient_clip, 1e-8, 1e8, f"{place} gradient_clip")
