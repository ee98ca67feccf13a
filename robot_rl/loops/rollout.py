"""Episodes of a policy in an environment: the one place where evaluation, recording and filming happen."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from robot_rl.algorithms.agent import Agent
from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.replay.finite import LIVE, require_numbers
from robot_rl.spec import Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.types import Array, Episode, Policy, TimeStep


@dataclass(kw_only=True)
class AgentPolicy:
    """An agent as a policy: arrays in, actions in the units of the spec out.

    Where the agent decides on chunks, one is played to its end without looking, then the next is decided. With
    `chunk_ensemble` it decides at every step, and the mean of what the last H decisions say of the step is played
    (temporal ensembling: Zhao et al. "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware". RSS 2023,
    arXiv:2304.13705).

    Args:
        explore: sample from the policy instead of taking its mode.
        action_chunk: H, steps of one decision.
        chunk_ensemble: decay of the weights exp(-decay * k), k = 0 for the oldest decision; None plays to the end.
    """

    agent: Agent
    spec: Spec  # of the environment, whose actions are single ones
    scale: ActionScale
    device: torch.device
    explore: bool = False
    action_chunk: int = 1
    chunk_ensemble: float | None = None
    _chunk: Array | None = field(init=False, default=None)  # (H, A), in the units of the spec
    _played: int = field(init=False, default=0)  # actions of it
    _decisions: list[Array] = field(init=False, default_factory=list)  # each (H, A), the newest last

    def reset(self) -> None:
        """Forget what is left of the chunk."""
        self._chunk, self._played, self._decisions = None, 0, []

    def act(self, observation: Mapping[str, Array]) -> Array:
        """One action in the units of the spec. Shapes: each (*) -> (A,)."""
        if self.chunk_ensemble is not None:
            return self._mean_of_decisions(observation, self.chunk_ensemble)
        if self._chunk is None or self._played == self.action_chunk:
            self._chunk, self._played = self.decide(observation), 0
        action: Array = self._chunk[self._played]
        self._played += 1
        return action

    def _mean_of_decisions(self, observation: Mapping[str, Array], decay: float) -> Array:
        self._chunk, self._played = self.decide(observation), 1
        self._decisions = [*self._decisions, self._chunk][-self.action_chunk :]
        oldest_first = reversed(list(enumerate(reversed(self._decisions))))
        said = np.stack([chunk[age] for age, chunk in oldest_first])
        weight = np.exp(-decay * np.arange(len(said)))
        mean: Array = weight @ said / weight.sum()
        return mean

    def decide(self, observation: Mapping[str, Array]) -> Array:
        """A new chunk, whatever is left of the last one. Shapes: each (*) -> (H, A).

        Raises:
            InputError: the actions are not numbers, because an observation or the agent's weights are not.
        """
        action = self.agent.act(self._tensors(observation), explore=self.explore)[0]
        chunk = self.scale.unnormalize(action.unflatten(0, (self.action_chunk, -1)))
        if not np.isfinite(chunk).all():
            for key in self.spec.observation:
                require_numbers(np.asarray(observation[key]), f"observation '{key}' of the environment", LIVE)
            raise InputError(
                f"the policy gives {chunk[0].tolist()} for observations that are numbers: its training has diverged, "
                "so use a checkpoint from before"
            )
        return chunk

    @property
    def decided(self) -> Array | None:
        """The chunk of which the last action was the first; None in the middle of one. Shapes: (H, A)."""
        return self._chunk if self._played == 1 else None

    def value(self, observation: Mapping[str, Array], actions: Array) -> float | None:
        """The critic's value of a chunk in the units of the spec; None where the algorithm has no critic.

        Shapes: each (*), (h, A) with h <= H: where the episode ended inside the chunk, the last action repeats.
        """
        whole = np.concatenate([actions, np.repeat(actions[-1:], self.action_chunk - len(actions), axis=0)])
        normalized = torch.from_numpy(self.scale.normalize(whole)).reshape(1, -1).to(self.device)
        value = self.agent.value(self._tensors(observation), normalized)
        return None if value is None else float(value[0])

    def _tensors(self, observation: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(observation[key])[None].to(self.device) for key in self.spec.observation}


@dataclass(kw_only=True)
class Film:
    """What the camera saw: T + 1 frames, and the critic's value of the policy's decision in each."""

    frames: list[Array] = field(default_factory=list)
    values: list[float] = field(default_factory=list)  # empty without a critic

    def judge(self, policy: Policy, step: TimeStep) -> None:
        """Keep the critic's value of what the policy decided in the newest frame; where it did not, of its mode."""
        if not isinstance(policy, AgentPolicy):
            return
        actions = None if step.last else policy.decided
        if actions is None:
            # Not a sample: that would move the agent's generator, and filming would change the next episode.
            actions = replace(policy, explore=False).decide(step.observation)
        estimate = policy.value(step.observation, actions)
        if estimate is not None:
            self.values.append(estimate)


def run_episode(
    environment: Environment,
    policy: Policy,
    *,
    seed: int,
    film: Film | None = None,
) -> Episode:
    """One episode from reset to end, as it would be recorded: with the actions that were really applied."""
    step = environment.reset(seed=seed)
    policy.reset()
    steps: list[TimeStep] = [step]
    if film is not None:
        film.frames.append(environment.render())
    while not step.last:
        action = policy.act(step.observation)
        if film is not None:
            film.judge(policy, step)
        step = environment.step(action)
        steps.append(step)
        if film is not None:
            film.frames.append(environment.render())
    if film is not None:
        film.judge(policy, step)
    return assemble(steps, {"seed": seed})


def assemble(steps: list[TimeStep], metadata: dict[str, Any]) -> Episode:
    """An episode from its reset and its T steps."""
    taken = steps[1:]
    declared = all(step.success is not None for step in taken)
    return Episode(
        observation={key: np.stack([step.observation[key] for step in steps]) for key in steps[0].observation},
        action=np.stack([np.asarray(step.action) for step in taken]),
        reward=np.asarray([step.reward for step in taken], np.float32),
        terminated=np.asarray([step.terminated for step in taken]),
        truncated=np.asarray([step.truncated for step in taken]),
        success=np.asarray([bool(step.success) for step in taken]) if declared else None,
        intervened=np.asarray([step.intervened for step in taken]),
        metadata=metadata,
    )
