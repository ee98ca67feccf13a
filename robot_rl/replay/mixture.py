"""Batches from several sources by share: offline only, online only, symmetric, any ratio or schedule."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from robot_rl.errors import InputError, nearest
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.types import Batch


def check_shares(shares: Mapping[str, Any], sources: Mapping[str, object], place: str) -> None:
    """Refuse shares of unknown sources, of wrong form, or that do not sum to one.

    Raises:
        InputError: names `place`.
    """
    for name, share in shares.items():
        if name not in sources:
            raise InputError(f"{place}.shares names '{name}': {nearest(name, sources)}")
        if isinstance(share, Mapping):
            whole = set(share) == {"start", "end", "steps"} and all(_is_number(value) for value in share.values())
            if not whole or not (_is_share(share["start"]) and _is_share(share["end"]) and share["steps"] > 0):
                raise InputError(
                    f"{place}.shares.{name}={dict(share)}: a schedule is {{start, end, steps}}, start and end in "
                    "[0, 1], steps > 0"
                )
        elif share != "proportional" and not _is_share(share):
            raise InputError(
                f"{place}.shares.{name}={share}: expected a number in [0, 1], a schedule, or `proportional`"
            )
    proportional = [share == "proportional" for share in shares.values()]
    if any(proportional):
        if not all(proportional):
            raise InputError(f"{place}.shares={dict(shares)}: `proportional` applies to all sources or to none")
        return
    # Linear between these steps and constant after the last, the sum is 1 everywhere if it is 1 at each of them.
    for step in (0.0, *(float(share["steps"]) for share in shares.values() if isinstance(share, Mapping))):
        total = sum(_share(share, step) for share in shares.values())
        if abs(total - 1.0) > 1e-6:
            raise InputError(f"{place}.shares={dict(shares)} sum to {total:g} at step {step:g}, not to 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _share(share: Any, step: float) -> float:
    if isinstance(share, Mapping):
        done = min(step / float(share["steps"]), 1.0)
        return float(share["start"] + done * (share["end"] - share["start"]))
    return float(share)


def counts(shares: Mapping[str, Any], sizes: Mapping[str, int], step: int, batch_size: int) -> dict[str, int]:
    """Rows of each source in a batch of `batch_size`: exact at shares 0 and 1, otherwise by largest remainder."""
    if any(share == "proportional" for share in shares.values()):
        total = sum(sizes[name] for name in shares)
        wanted = {name: batch_size * sizes[name] / max(total, 1) for name in shares}
    else:
        wanted = {name: batch_size * _share(share, step) for name, share in shares.items()}
    rows = {name: int(value + 1e-9) for name, value in wanted.items()}
    order = sorted(wanted, key=lambda name: rows[name] - wanted[name])
    for name in order[: batch_size - sum(rows.values())]:
        rows[name] += 1
    return rows


def sample_mixture(
    sources: Mapping[str, ReplayBuffer],
    rows: Mapping[str, int],
    repeats: int,
    generator: torch.Generator,
) -> Batch:
    """`repeats` batches one behind the other, each with `rows[name]` transitions of every source."""
    return gather_mixture(sources, draw_mixture(sources, rows, repeats, generator), repeats)


def draw_mixture(
    sources: Mapping[str, ReplayBuffer],
    rows: Mapping[str, int],
    repeats: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The random half of `sample_mixture`: which transitions of every source."""
    return {name: sources[name].draw(count * repeats, generator) for name, count in rows.items() if count}


def draw_when_ready(
    sources: Mapping[str, ReplayBuffer],
    shares: Mapping[str, Any],
    step: int,
    batch_size: int,
    repeats: int,
    generator: torch.Generator,
) -> dict[str, Tensor] | None:
    """As `draw_mixture`, by shares of sources that grow. None where one of them is still empty.

    It is waited for (it has no finished episode yet), not replaced by another.
    """
    sizes = {name: len(source) for name, source in sources.items()}
    rows = counts(shares, sizes, step, batch_size)
    if any(sizes[name] == 0 for name, count in rows.items() if count):
        return None
    return draw_mixture(sources, rows, repeats, generator)


def gather_mixture(sources: Mapping[str, ReplayBuffer], drawn: Mapping[str, Tensor], repeats: int) -> Batch:
    """The other half, which reads but never changes the sources, so that a thread may do it."""
    parts = [sources[name].gather(row) for name, row in drawn.items()]
    return parts[0] if len(parts) == 1 else _interleave(parts, repeats)


def _interleave(parts: list[Batch], repeats: int) -> Batch:
    def join(tensors: list[Tensor]) -> Tensor:
        split = [tensor.reshape(repeats, -1, *tensor.shape[1:]) for tensor in tensors]
        return torch.cat(split, 1).flatten(0, 1)

    joined: dict[str, Any] = {}
    for field in fields(Batch):
        values = [getattr(part, field.name) for part in parts]
        if isinstance(values[0], dict):
            joined[field.name] = {key: join([value[key] for value in values]) for key in values[0]}
        else:
            joined[field.name] = None if any(value is None for value in values) else join(values)
    return replace(parts[0], **joined)
