"""Checks of settings that several configuration dataclasses share, and what tells two of them apart."""

import hashlib
import json
from typing import Any

from robot_rl.errors import InputError, nearest


def require_choice(value: str, choices: tuple[str, ...], place: str) -> None:
    """Refuse a setting that is not one of `choices`.

    Raises:
        InputError: with the nearest choice.
    """
    if value not in choices:
        raise InputError(f"{place}={value}: {nearest(value, choices)}")


def require_range(value: float, low: float, high: float, place: str) -> None:
    """Refuse a setting outside [low, high].

    Raises:
        InputError: names the setting and the range.
    """
    if not low <= value <= high:
        raise InputError(f"{place}={value} must lie in [{low}, {high}]")


def require_minimum(value: float, minimum: float, place: str) -> None:
    """Refuse a number below `minimum`.

    Raises:
        InputError: names the setting.
    """
    if not value >= minimum:
        raise InputError(f"{place}={value} must be at least {minimum:g}")


def require_success_reward(value: list[float] | None, place: str) -> None:
    """Refuse a success reward of other than two numbers.

    Raises:
        InputError: names the setting.
    """
    if value is not None and len(value) != 2:
        raise InputError(f"{place}={value}: give two numbers, [reward without success, reward with success]")


def short_hash(data: Any) -> str:
    """SHA-256 of plain JSON, 12 digits: of two settings with the same one nothing differs."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]
