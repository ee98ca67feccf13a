"""Episodes of a policy in an environment: the one place where evaluation, recording and filming happen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from robot_rl.algorithms.agent import Agent
from robot_rl.environment import Environment, limit_hits_in
from robot_rl.errors import InputError
from robot_rl.loops.frames import FrameHistory
from robot_rl.policy import ChunkPlayer, drop_chunk
from robot_rl.replay.finite import LIVE, require_numbers
from robot_rl.spec import Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.types import Array, Episode, Policy, TimeStep


@dataclass(kw_only=True)
class AgentPolicy:
    """An agent as a policy: arrays in, actions in the units of the spec out; chunks are played as `ChunkPlayer` does.

    Args:
        explore: sample from the policy instead of taking its mode.
        action_chunk: H, steps of one decision.
        chunk_ensemble: see `ChunkPlayer`.
        frame_stack: K, frames of each image that the agent sees.
    """

    agent: Agent
    spec: Spec  # of the environment, whose actions are single ones
    scale: ActionScale
    device: torch.device
    explore: bool = False
    action_chunk: int = 1
    chunk_ensemble: float | None = None
    frame_stack: int = 1
    _history: FrameHistory = field(init=False)
    _player: ChunkPlayer = field(init=False)

    def __post_init__(self) -> None:
        self._player = ChunkPlayer(steps=self.action_chunk, ensemble=self.chunk_ensemble)
        images = tuple(key for key, array in self.spec.observation.items() if array.is_image)
        self._history = FrameHistory(keys=images, count=self.frame_stack)

    def reset(self) -> None:
        """Forget what is left of the chunk, and the frames."""
        self._player.reset()
        self._history.reset()

    def drop_chunk(self) -> None:
        """Decide anew at the next step."""
        self._player.reset()

    def act(self, observation: Mapping[str, Array]) -> Array:
        """One action in the units of the spec. Shapes: each (*) -> (A,)."""
        self._history.see(observation)
        return self._player.next(lambda: self.decide(observation))

    def decide(self, observation: Mapping[str, Array], *, explore: bool | None = None) -> Array:
        """A new chunk, whatever is left of the last one; None explores as the policy does. Shapes: each (*) -> (H, A).

        Raises:
            InputError: the actions are not numbers, because an observation or the agent's weights are not.
        """
        explore = self.explore if explore is None else explore
        action = self.agent.act(self._tensors(observation), explore=explore)[0]
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
        return self._player.decided

    def value(self, observation: Mapping[str, Array], actions: Array) -> float | None:
        """The critic's value of a chunk in the units of the spec; None where the algorithm has no critic.

        Shapes: each (*), (h, A) with h <= H: where the episode ended inside the chunk, the last action repeats.
        """
        whole = np.concatenate([actions, np.repeat(actions[-1:], self.action_chunk - len(actions), axis=0)])
        normalized = torch.from_numpy(self.scale.normalize(whole)).reshape(1, -1).to(self.device)
        value = self.agent.value(self._tensors(observation), normalized)
        return None if value is None else float(value[0])

    def _tensors(self, observation: Mapping[str, Array]) -> dict[str, torch.Tensor]:
        shown = self._history.stacked(observation)
        return {key: torch.from_numpy(shown[key])[None].to(self.device) for key in self.spec.observation}


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
            actions = policy.decide(step.observation, explore=False)
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
        if step.intervened:
            drop_chunk(policy)
        steps.append(step)
        if film is not None:
            film.frames.append(environment.render())
    if film is not None:
        film.judge(policy, step)
    hits = limit_hits_in(environment)
    return assemble(steps, {"seed": seed} | ({} if hits is None else {"limit_hits": hits}))


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
