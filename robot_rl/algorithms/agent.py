"""What every algorithm offers to the loops, and the checks that their settings share."""

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from types import NoneType
from typing import Any, Protocol, get_args, get_origin, get_type_hints

from torch import Tensor

from robot_rl.checks import require_range
from robot_rl.errors import InputError, nearest
from robot_rl.types import Batch, Metrics


class Agent(Protocol):
    """The state of an algorithm; an agent is a dataclass, and all its fields go into a checkpoint.

    `config` may be replaced between two updates (`robot_rl.algorithms.with_overrides`): agents read it anew each time.
    """

    config: Any
    updates: int
    """Gradient steps of the critic so far (of the actor, where there is no critic)."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the optional fields of `Batch` that `update` asks for under the present settings."""

    def update(self, batch: Batch, *, critic_updates: int = 1) -> Metrics:
        """Learn from `critic_updates` batches of equal size that lie one after the other in `batch`.

        The rows are not shuffled: each chunk of `len(batch) / critic_updates` consecutive rows is one batch.
        Nothing in here waits for the device, and `batch` is not changed.
        """

    def act(self, observation: dict[str, Tensor], *, explore: bool) -> Tensor:
        """Actions in [-1, 1]: the policy's mode, or a sample to explore. Shapes: each (B, *) -> (B, A)."""

    def value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor | None:
        """Mean of the online critics; None without a critic. Shapes: each (B, *), (B, A) -> (B,)."""


def require_numbers(config: Any, place: str) -> None:
    """Refuse numbers that make no sense in a setting that all algorithms have: widths, gains, learning rates, bounds.

    Raises:
        InputError: names the setting and the range.
    """
    for name, value in vars(config).items():
        if isinstance(value, float) and math.isnan(value):
            raise InputError(f"{place} {name} is not a number")
        if name.endswith("_hidden"):
            for width in value:
                require_range(width, 1, 100_000, f"{place} {name}: width")
        elif name.endswith("learning_rate"):
            require_range(value, 0, 1, f"{place} {name}")
        elif name.endswith("_gain") and value is not None:
            require_range(value, 0, 1e4, f"{place} {name}")
    if hasattr(config, "log_std_minimum"):
        require_range(config.log_std_minimum, -100, config.log_std_maximum, f"{place} log_std_minimum")
        require_range(config.log_std_maximum, config.log_std_minimum, 100, f"{place} log_std_maximum")
    if config.gradient_clip is not None:
        require_range(config.gradient_clip, 1e-8, 1e8, f"{place} gradient_clip")


def replaced(config: Any, overrides: dict[str, Any], switchable: frozenset[str]) -> Any:
    """A copy of a config dataclass with some of its `switchable` fields changed.

    Raises:
        InputError: an unknown field, one that fixes the networks, or a value of the wrong type.
    """
    kind = type(config).__name__
    known, hints = {field.name for field in fields(config)}, get_type_hints(type(config))
    for name, value in overrides.items():
        if name not in known:
            raise InputError(f"{kind} has no setting '{name}': {nearest(name, switchable)}")
        if name not in switchable:
            raise InputError(f"{kind}.{name} shapes the networks and cannot change during a run: set it at the start")
        allowed = get_args(hints[name]) or (hints[name],)
        fits = type(value) in allowed or (float in allowed and type(value) is int)
        if not fits:
            names = " or ".join("none" if item is NoneType else item.__name__ for item in allowed)
            raise InputError(f"{kind}.{name}={value!r} must be {names}")
        assert get_origin(hints[name]) is not list
    return replace(config, **overrides)


def chunks(batch: Batch, count: int) -> Iterator[slice]:
    """The rows of each of `count` equal, consecutive parts.

    Raises:
        InputError: the rows do not divide.
    """
    rows = len(batch)
    if count < 1 or rows == 0 or rows % count:
        raise InputError(
            f"a batch of {rows} rows does not split into {count} critic updates: use a multiple of {count}"
        )
    size = rows // count
    return (slice(start, start + size) for start in range(0, rows, size))


def chosen_action(actions: Tensor, chosen: Tensor) -> Tensor:
    """One of N actions in each state. Shapes: (B, N, A), (B,) of indices -> (B, A)."""
    return actions.take_along_dim(chosen[:, None, None], dim=1)[:, 0]
