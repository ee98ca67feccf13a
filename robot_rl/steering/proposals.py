"""What proposers, scorers and the steerer hand each other.

Letters: K candidates, H steps of a chunk, A action, E critics.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from robot_rl.clock import Clock
from robot_rl.errors import InputError
from robot_rl.steering.action_spec import ActionSpec
from robot_rl.types import Array

BASE, SAMPLE, PERTURBED = "base", "sample", "perturbed"
IDENTICAL = 1e-6
"""Largest deviation, in [-1, 1], of candidates that count as one."""


class ProposerError(RuntimeError):
    """A policy gave no usable action: a transport, a time-out, or an answer that makes no sense. Says which."""


@dataclass(frozen=True, kw_only=True)
class Deadline:
    """A moment on a clock until which there has to be an action; None is never."""

    clock: Clock
    end_ns: int | None = None

    @staticmethod
    def after(clock: Clock, duration_s: float | None) -> "Deadline":
        """The moment `duration_s` seconds from now."""
        return Deadline(clock=clock, end_ns=None if duration_s is None else clock.now_ns() + round(duration_s * 1e9))

    @property
    def left_s(self) -> float | None:
        """Seconds that are left, at least 0; None: any number."""
        return None if self.end_ns is None else max(0.0, (self.end_ns - self.clock.now_ns()) * 1e-9)

    @property
    def passed(self) -> bool:
        """There is no time left."""
        return self.end_ns is not None and self.clock.now_ns() >= self.end_ns


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a proposer can do."""

    stochastic: bool  # asked again, it answers differently
    native_batch: bool  # K candidates cost one call
    remote: bool = False  # on the other side of a socket


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposals:
    """K candidates for one observation; row 0 is what the policy would have done without us.

    Raises:
        InputError: shapes disagree, or row 0 is not of the kind `base`.
    """

    actions: Array  # (K, H, A), units
    kinds: tuple[str, ...]  # (K,): base, then sample or perturbed
    observation_id: int  # of the request; an answer to another is refused
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.actions.ndim != 3 or len(self.actions) != len(self.kinds) or not self.kinds:
            raise InputError(f"{len(self.kinds)} kinds of candidates with shape {self.actions.shape}, not (K, H, A)")
        if self.kinds[0] != BASE or BASE in self.kinds[1:]:
            raise InputError(f"row 0 alone is the un-steered action, but the kinds are {self.kinds}")

    def __len__(self) -> int:
        return len(self.kinds)


class ActionProposer(Protocol):
    """A policy of which several actions can be had."""

    @property
    def spec(self) -> ActionSpec:
        """What its actions are."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def reset(self, task: str) -> None:
        """An episode begins, of the task in words; "" where there are none."""

    def propose(
        self,
        observation: Mapping[str, Array],
        count: int,
        *,
        observation_id: int,
        deadline: Deadline,
        ready: Callable[[Array], None],
    ) -> Proposals:
        """Row 0 un-steered, and up to `count - 1` samples; fewer where time or answers ran out.

        `ready` is handed row 0, (H, A), as soon as it is known: should the rest take too long, that is executed.

        Shapes: each (*) -> (K, H, A), K <= count.

        Raises:
            ProposerError: not even row 0 can be had.
        """

    def commit(self, actions: Array) -> None:
        """These first steps of a chunk will be executed. Shapes: (h, A), units, h <= H."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the critics say of K candidates."""

    values: Tensor  # (E, K)
    supported: Tensor  # (K,), bool: inside the range of actions that the critic knows


class Scorer(Protocol):
    """A critic, a verifier, a learned reward: more is better."""

    @property
    def spec(self) -> ActionSpec:
        """The actions that it judges."""

    def encode(self, observation: Mapping[str, Array], task: str) -> Any:
        """What is the same for all candidates; called once for an observation."""

    def score(self, encoded: Any, actions: Array) -> Scores:
        """Shapes: (K, h, A), units, h = spec.chunk -> (E, K)."""


# Deterministic policies -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """Candidates around those of a policy: for one that always answers alike, and to have more for free.

    Kwok et al. "RoboMonkey: Scaling Test-Time Sampling and Verification for Vision-Language-Action Models".
    arXiv:2506.17811: a Gaussian is fitted to few samples, and the gripper is decided by their majority.
    Differences: where all samples are one, the deviation is `deviation`; a chunk is moved as a whole.

    Args:
        deviation: of the noise in [-1, 1], smallest one of a fitted Gaussian; one number, or one per dimension.
        discrete: dimensions that take no noise, such as a gripper's.
    """

    deviation: float | tuple[float, ...] = 0.1
    discrete: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not np.all(np.asarray(self.deviation) > 0):
            raise InputError(f"perturbation deviation={self.deviation}: every number must be above 0")

    def around(self, samples: Array, count: int, spec: ActionSpec, generator: torch.Generator) -> Array:
        """`count` candidates around the mean of `samples`, inside the bounds. Shapes: (S, H, A) -> (count, H, A)."""
        normalized = spec.normalized(samples)
        smallest = np.broadcast_to(np.asarray(self.deviation, np.float64), (spec.size,))
        fitted = np.maximum(normalized.mean(axis=1).std(axis=0), smallest)  # of a chunk's place, over samples
        noise = torch.randn(count, 1, spec.size, generator=generator, dtype=torch.float64).numpy() * fitted
        center = np.array(normalized.mean(axis=0))
        for at in self.discrete:
            noise[:, :, at] = 0.0
            votes = (normalized[:, :, at] > 0).sum(axis=0) * 2 > len(normalized)  # of S, in each of H steps
            center[:, at] = np.where(votes, normalized[:, :, at].max(axis=0), normalized[:, :, at].min(axis=0))
        return spec.scale.unnormalize(np.clip(center + noise, -1.0, 1.0))


def distinct(actions: Array, spec: ActionSpec) -> int:
    """How many of K candidates differ by more than rounding. Shapes: (K, H, A) -> ()."""
    rows = spec.normalized(actions).reshape(len(actions), -1)
    found = np.full_like(rows, np.inf)
    count = 0
    for row in rows:
        if (np.abs(found[:count] - row).max(axis=1) > IDENTICAL).all():
            found[count] = row
            count += 1
    return count
