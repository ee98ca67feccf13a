"""Value-guided steering: a policy proposes, a critic judges; every failure leaves the policy's own action.

Nakamoto et al. "Steering Your Generalists: Improving Robotic Foundation Models via Value Guidance". CoRL 2024,
arXiv:2410.13816 (V-GPS).

Differences from its public code: the observation is encoded once instead of K times; the un-steered action is always
one of the candidates and the way back from every failure; whole chunks are judged, and chosen where a chunk begins.

Letters: K candidates, H steps of a chunk, h of them judged, A action, E critics.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from robot_rl.checks import require_range
from robot_rl.clock import Clock
from robot_rl.errors import InputError
from robot_rl.steering.action_spec import require_match
from robot_rl.steering.proposals import (
    BASE,
    PERTURBED,
    ActionProposer,
    Deadline,
    Perturbation,
    Proposals,
    ProposerError,
    Scorer,
    Scores,
    distinct,
)
from robot_rl.steering.selection import Selection, Selector, effective_count
from robot_rl.steering.worker import Inline, TooLate, Worker
from robot_rl.types import Array

STEERED, ALONE = "steered", "one_candidate"
LATE, PROPOSER, SCORER, NUMBERS, SUPPORT = "deadline", "proposer", "scorer", "not_finite", "out_of_support"
T = TypeVar("T")
REASONS = (STEERED, ALONE, LATE, PROPOSER, SCORER, NUMBERS, SUPPORT)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One decision, as it is logged: values are those that were compared."""

    observation_id: int
    reason: str  # one of `REASONS`; only under `steered` did the critic decide
    error: str | None = None
    candidates: int = 0  # K
    distinct: int = 0  # of the policy's own, before any perturbation
    perturbed: int = 0
    chosen: int = 0  # row; 0 is the un-steered action
    chosen_kind: str | None = None
    base_value: float | None = None
    chosen_value: float | None = None
    value_mean: float | None = None
    value_deviation: float | None = None
    value_spread: float | None = None  # largest minus smallest
    critic_deviation: float | None = None  # of the chosen candidate, over critics
    base_rank: int | None = None  # 0: the critic likes the un-steered action best
    effective_count: float | None = None
    unsupported: int = 0  # candidates outside what the critic knows
    propose_ms: float = 0.0
    encode_ms: float = 0.0
    score_ms: float = 0.0
    select_ms: float = 0.0
    total_ms: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """What to execute; `actions` is None where not even the policy answered: hold."""

    actions: Array | None  # (H, A), units
    record: Record


@dataclass(kw_only=True)
class Steerer:
    """Decides on chunks. Row 0 of the proposals is executed unless everything after it went well, and in time.

    Args:
        proposer: proposes.
        scorer: judges.
        selector: chooses.
        candidates: K, with row 0; 1 is the policy alone.
        clock: measures, and holds the deadline.
        generator: of draws and of perturbations.
        score_steps: h, steps of a chunk that are judged; None: all H.
        perturbed: of the K candidates, so many are drawn around the policy's samples; all but row 0 where the policy
            answers alike every time.
        perturbation: how.
        worker: does what may take too long; `Inline` here and now, `Threaded` beside.
        keep: is handed every record.
        narrowest: see `require_match`.

    Raises:
        InputError: the proposer's and the scorer's actions are not the same.
    """

    proposer: ActionProposer
    scorer: Scorer
    selector: Selector
    candidates: int
    clock: Clock
    generator: torch.Generator
    score_steps: int | None = None
    perturbed: int = 0
    perturbation: Perturbation = field(default_factory=Perturbation)
    worker: Worker = field(default_factory=Inline)
    keep: Callable[[Record], None] | None = None
    narrowest: float = 0.5
    counts: Counter[str] = field(init=False, default_factory=Counter)
    _task: str = field(init=False, default="")
    _next_id: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        require_range(self.candidates, 1, 10_000, "steering candidates")
        require_range(self.perturbed, 0, self.candidates - 1, "steering perturbed")
        if any(not 0 <= at < self.proposer.spec.size for at in self.perturbation.discrete):
            raise InputError(f"discrete={self.perturbation.discrete} names dimensions that the actions do not have")
        require_match(self.proposer.spec, self.scorer.spec, score_steps=self.score_steps, narrowest=self.narrowest)

    def reset(self, task: str = "") -> None:
        """An episode begins, of the task in words."""
        self._task = task
        self.proposer.reset(task)

    def decide(self, observation: Mapping[str, Array], *, deadline_s: float | None = None) -> Decision:
        """A chunk, within `deadline_s` seconds. Shapes: each (*) -> (H, A)."""
        deadline = Deadline.after(self.clock, deadline_s)
        this = _Deciding(steerer=self, observation=observation, deadline=deadline, observation_id=self._next_id)
        self._next_id += 1
        decision = this.decide(self._task)
        self.counts[decision.record.reason] += 1
        if self.keep is not None:
            self.keep(decision.record)
        return decision


@dataclass(kw_only=True)
class _Deciding:
    """One decision on its way."""

    steerer: Steerer
    observation: Mapping[str, Array]
    deadline: Deadline
    observation_id: int
    base: Array | None = None  # (H, A), as soon as the policy gave it
    note: str | None = None  # of the proposer: why there are fewer candidates
    facts: dict[str, Any] = field(default_factory=dict)

    def decide(self, task: str) -> Decision:
        start_ns = self.steerer.clock.now_ns()
        chosen, error = None, None
        try:
            chosen, reason = self._choose(self._propose(), task)
        except TooLate as late:
            reason, error = LATE, str(late)
        except ProposerError as failed:
            reason, error = PROPOSER, str(failed)
        except _ScorerError as failed:
            reason, error = SCORER, str(failed)
        if reason == STEERED and self.deadline.passed:
            reason, error = LATE, "the choice came too late"
        if reason != STEERED:
            chosen = self.base
            self.facts |= {"chosen": 0, "chosen_kind": None if chosen is None else BASE, "chosen_value": None}
        error = self.note if error is None else error
        total_ms = (self.steerer.clock.now_ns() - start_ns) * 1e-6
        record = Record(observation_id=self.observation_id, reason=reason, error=error, total_ms=total_ms, **self.facts)
        return Decision(actions=chosen, record=record)

    def _propose(self) -> Proposals:
        """K candidates, of which row 0 is finite."""
        this, spec = self.steerer, self.steerer.proposer.spec
        samples = this.candidates - this.perturbed if this.proposer.capabilities.stochastic else 1

        def keep(base: Array) -> None:
            if base.shape != (spec.chunk, spec.size) or not np.isfinite(base).all():
                raise ProposerError(f"the policy's action has shape {base.shape} or is not finite: {base.tolist()}")
            self.base = base

        def propose() -> Proposals:
            try:
                return this.proposer.propose(
                    self.observation, samples, observation_id=self.observation_id, deadline=self.deadline, ready=keep
                )
            except (ProposerError, InputError):
                raise
            except Exception as error:  # whatever a policy raises, the robot must go on
                raise ProposerError(f"{type(error).__name__}: {error}") from error

        proposals = self._timed("propose_ms", "propose actions", propose)
        if proposals.observation_id != self.observation_id:
            self.base = None
            raise ProposerError(f"an answer to observation {proposals.observation_id}, not to {self.observation_id}")
        keep(proposals.actions[0])
        self.note = proposals.metadata.get("error")
        different = distinct(proposals.actions, spec)
        alike = not this.proposer.capabilities.stochastic or (len(proposals) > 1 and different == 1)
        wanted = this.candidates - 1 if alike else this.perturbed
        own = proposals.actions[:1] if alike else proposals.actions
        wanted = 0 if self.deadline.passed else wanted
        around = own[np.isfinite(own).all(axis=(1, 2))]
        more = this.perturbation.around(around, wanted, spec, this.generator) if wanted else own[:0]
        self.facts |= {"distinct": different, "perturbed": wanted, "candidates": len(own) + wanted}
        return Proposals(
            actions=np.concatenate([own, more]),
            kinds=(*proposals.kinds[: len(own)], *[PERTURBED] * wanted),
            observation_id=self.observation_id,
            metadata=proposals.metadata,
        )

    def _choose(self, proposals: Proposals, task: str) -> tuple[Array | None, str]:
        """The chosen chunk and why; None where row 0 is to be executed."""
        this, actions = self.steerer, proposals.actions
        if len(proposals) == 1:
            return None, LATE if this.candidates > 1 else ALONE
        finite = np.isfinite(actions).all(axis=(1, 2))
        judged = np.where(finite[:, None, None], actions, actions[:1])[:, : this.scorer.spec.chunk]
        scorer = this.scorer
        encoded = self._timed("encode_ms", "encode", lambda: _scored(lambda: scorer.encode(self.observation, task)))
        scores: Scores = self._timed("score_ms", "score", lambda: _scored(lambda: scorer.score(encoded, judged)))
        values = scores.values
        if values.ndim != 2 or values.shape[1] != len(proposals) or scores.supported.shape != values.shape[1:]:
            raise _ScorerError(
                f"the scorer gives values of shape {tuple(values.shape)} for {len(proposals)} candidates"
            )
        numbers = values.isfinite().all(dim=0)
        if not bool(numbers[0]):
            return None, NUMBERS
        allowed = numbers & scores.supported & torch.from_numpy(finite)
        self.facts["unsupported"] = int((~scores.supported).sum())
        if not bool(allowed[0]):
            return None, SUPPORT
        known = torch.where(allowed, values, 0.0)
        start_ns = this.clock.now_ns()
        selection = this.selector.select(known, allowed, this.generator)
        self.facts["select_ms"] = (this.clock.now_ns() - start_ns) * 1e-6
        self._describe(selection, known, allowed, proposals)
        return actions[selection.index], STEERED

    def _describe(self, selection: Selection, values: Tensor, allowed: Tensor, proposals: Proposals) -> None:
        value, chosen = selection.value[allowed], selection.index
        self.facts |= {
            "chosen": chosen,
            "chosen_kind": proposals.kinds[chosen],
            "base_value": float(selection.value[0]),
            "chosen_value": float(selection.value[chosen]),
            "value_mean": float(value.mean()),
            "value_deviation": float(value.std(correction=0)),
            "value_spread": float(value.max() - value.min()),
            "critic_deviation": float(values[:, chosen].std(correction=0)),
            "base_rank": int((value > selection.value[0]).sum()),
            "effective_count": float(effective_count(selection.share)),
        }

    def _timed(self, fact: str, what: str, call: Callable[[], T]) -> T:
        start_ns = self.steerer.clock.now_ns()
        try:
            return self.steerer.worker.run(call, self.deadline, what)
        finally:
            self.facts[fact] = (self.steerer.clock.now_ns() - start_ns) * 1e-6


class _ScorerError(RuntimeError):
    """The scorer raised, or what it gave is no answer."""


def _scored(call: Callable[[], T]) -> T:
    try:
        return call()
    except Exception as error:  # a critic that fails must not keep the policy from acting
        raise _ScorerError(f"{type(error).__name__}: {error}") from error
