"""Scripted proposers and scorers that pass for real ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from robot_rl.clock import FakeClock
from robot_rl.steering.action_spec import ActionSpec
from robot_rl.steering.proposals import BASE, SAMPLE, Capabilities, Deadline, Proposals, Scores
from robot_rl.steering.selection import ValueSelector
from robot_rl.steering.steer import Steerer
from robot_rl.transforms.action import ActionScale
from robot_rl.types import Array

LOW, HIGH = np.array([-2.0, 0.0]), np.array([2.0, 1.0])


def spec(**changes: Any) -> ActionSpec:
    facts: dict[str, Any] = {"size": 2, "chunk": 3, "control_period_s": 0.1, "semantics": "joint_velocity"}
    return ActionSpec(**{**facts, "scale": ActionScale(LOW, HIGH), **changes})


@dataclass
class Proposer:
    """Row i is `rows[i]` everywhere; takes `takes_s` for each candidate."""

    rows: list[list[float]]
    clock: FakeClock
    takes_s: float = 0.0
    stochastic: bool = True
    spec: ActionSpec = field(default_factory=spec)
    error: Exception | None = None
    fails_at: int = 0  # the row at which `error` is raised
    answers_to: int | None = None
    asked: list[int] = field(default_factory=list)
    committed: list[Array] = field(default_factory=list)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(stochastic=self.stochastic, native_batch=False)

    def reset(self, task: str) -> None:
        self.asked.clear()

    def commit(self, actions: Array) -> None:
        self.committed.append(actions)

    def propose(
        self,
        observation: Mapping[str, Array],
        count: int,
        *,
        observation_id: int,
        deadline: Deadline,
        ready: Callable[[Array], None],
    ) -> Proposals:
        self.asked.append(count)
        found: list[Array] = []
        for number in range(count):
            if self.error is not None and number == self.fails_at:
                raise self.error
            if found and deadline.passed:
                break
            self.clock.advance(self.takes_s)
            found.append(np.tile(np.asarray(self.rows[number % len(self.rows)], np.float64), (self.spec.chunk, 1)))
            if number == 0:
                ready(found[0])
        answers = observation_id if self.answers_to is None else self.answers_to
        return Proposals(actions=np.stack(found), kinds=(BASE, *[SAMPLE] * (len(found) - 1)), observation_id=answers)


@dataclass
class Scorer:
    """Value is minus the distance of the first number of the first step from `target`; critics differ by `spread`."""

    clock: FakeClock
    target: float = 0.0
    spread: float = 0.0
    takes_s: float = 0.0
    spec: ActionSpec = field(default_factory=spec)
    error: Exception | None = None
    values: list[float] | None = None
    encoded: int = 0
    judged: list[Array] = field(default_factory=list)

    def encode(self, observation: Mapping[str, Array], task: str) -> str:
        self.encoded += 1
        return task

    def score(self, encoded: str, actions: Array) -> Scores:
        if self.error is not None:
            raise self.error
        self.clock.advance(self.takes_s)
        self.judged.append(actions)
        value = -np.abs(actions[:, 0, 0] - self.target) if self.values is None else np.asarray(self.values)
        supported = (np.abs(self.spec.normalized(actions)) <= 1.001).all(axis=(1, 2))
        values = torch.tensor(np.stack([value, value + self.spread]), dtype=torch.float32)
        return Scores(values=values, supported=torch.from_numpy(supported))


@dataclass
class Rig:
    clock: FakeClock
    proposer: Proposer
    scorer: Scorer

    def steerer(self, **changes: Any) -> Steerer:
        settings: dict[str, Any] = {
            "selector": ValueSelector(),
            "candidates": len(self.proposer.rows),
            "clock": self.clock,
            "generator": torch.Generator().manual_seed(0),
        }
        return Steerer(proposer=self.proposer, scorer=self.scorer, **{**settings, **changes})
