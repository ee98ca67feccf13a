"""Somebody else's model in this process, as a proposer: K candidates by one call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from robot_rl.steering.action_spec import ActionSpec
from robot_rl.steering.answers import Answers, selected
from robot_rl.steering.proposals import BASE, SAMPLE, Capabilities, Deadline, Proposals
from robot_rl.types import Array


class LocalModel(Protocol):
    """A model of another package."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def stochastic(self) -> bool:
        """It samples."""

    def begin(self, task: str) -> None:
        """An episode begins."""

    def sample(self, sent: Mapping[str, Any], task: str, count: int, generator: torch.Generator) -> Array:
        """Un-normalised actions. Shapes: each (*) -> (K, H, A).

        Raises:
            InputError: what is sent is not what the model needs.
        """


@dataclass(kw_only=True)
class LocalProposer:
    """The model's samples; row 0 is the first of them, as good as any.

    Args:
        model: samples.
        spec: what its actions are, as declared.
        generator: of the samples, where the model takes one.
        keys: name in the model -> name in the observation; None: all, under its own names.
    """

    model: LocalModel
    spec: ActionSpec
    generator: torch.Generator
    keys: Mapping[str, str] | None = None
    _task: str = field(init=False, default="")

    @property
    def capabilities(self) -> Capabilities:
        """K samples cost one call."""
        return Capabilities(stochastic=self.model.stochastic, native_batch=True)

    def reset(self, task: str) -> None:
        """An episode begins."""
        self._task = task
        self.model.begin(task)

    def commit(self, actions: Array) -> None:
        """The models here keep no actions."""

    def propose(
        self,
        observation: Mapping[str, Array],
        count: int,
        *,
        observation_id: int,
        deadline: Deadline,
        ready: Callable[[Array], None],
    ) -> Proposals:
        """Shapes: each (*) -> (K, H, A).

        Raises:
            ProposerError: row 0 has another shape than declared, or is not finite.
            InputError: the observation lacks what the model needs.
        """
        sent = selected(observation, self.keys, self.model.name)
        found = np.asarray(self.model.sample(sent, self._task, count, self.generator))
        answers = Answers(spec=self.spec, address=self.model.name)
        if found.ndim != 3 or len(found) != count:
            raise answers.refusal(f"actions have shape {found.shape}, not ({count}, H, A)")
        ready(answers.take(found[0]))
        return Proposals(
            actions=found.astype(np.float64), kinds=(BASE, *[SAMPLE] * (count - 1)), observation_id=observation_id
        )
