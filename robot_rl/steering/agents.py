"""Agents of ours as proposers and as scorers.

An observation is encoded once: what is asked of an agent afterwards goes through a copy of it that shares its networks
and takes features in place of observations.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from robot_rl.algorithms.agent import Agent
from robot_rl.algorithms.awac import AWAC
from robot_rl.algorithms.bc import BC
from robot_rl.algorithms.cqn import CQN
from robot_rl.algorithms.deas import DEAS
from robot_rl.algorithms.fql import FQL
from robot_rl.algorithms.hybrid import Hybrid
from robot_rl.algorithms.idql import IDQL
from robot_rl.algorithms.iql import IQL
from robot_rl.algorithms.qtransformer import QTransformer
from robot_rl.algorithms.robust_sac import RobustSAC
from robot_rl.algorithms.rorl import RORL
from robot_rl.algorithms.sac import SAC
from robot_rl.algorithms.td3 import TD3
from robot_rl.errors import InputError
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.language import TextEncoder
from robot_rl.replay.language import INSTRUCTION, spoken
from robot_rl.spec import Spec
from robot_rl.steering.action_spec import ActionSpec
from robot_rl.steering.proposals import BASE, SAMPLE, Capabilities, Deadline, Proposals, ProposerError, Scores
from robot_rl.transforms.action import EDGE
from robot_rl.types import Array

FEATURES, ACTOR_FEATURES = "features", "actor_features"
WithTargets = AWAC | DEAS | FQL | Hybrid | IDQL | IQL | RobustSAC | RORL | SAC | TD3
"""Agents whose `target_critic` is an ensemble."""
Known = WithTargets | BC | CQN | QTransformer
"""Agents whose `encoder` is all that sees observations."""
SUPPORT = 1e-3
"""So far outside [-1, 1] may an action lie that still counts as known to the critic."""


class GivenFeatures(nn.Module):
    """In the place of an encoder: the observation is its features already, those of critics and those of the policy."""

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """What critics see. Shapes: (B, F) -> (B, F)."""
        return observation[FEATURES]

    def for_actor(self, observation: Mapping[str, Tensor]) -> Tensor:
        """What the policy sees. Shapes: (B, F) -> (B, F)."""
        return observation[ACTOR_FEATURES]


def known(agent: Agent) -> Known:
    """The agent, as one of those of which it is known how they encode observations.

    Raises:
        InputError: an agent of another package.
    """
    if not isinstance(agent, Known):
        kind = type(agent).__name__
        raise InputError(f"steering does not know how {kind} encodes observations: add it to {__name__}")
    return agent


def features_of(agent: Agent, observation: Mapping[str, Tensor], *, critic: bool, actor: bool) -> dict[str, Tensor]:
    """What critics and what the policy see of observations; where that is one, it is made once.

    Shapes: each (B, *) -> each (B, F).
    """
    encoder = known(agent).encoder
    with torch.no_grad():
        if isinstance(encoder, FlatEncoder):
            both: Tensor = encoder(observation)
            return {FEATURES: both, ACTOR_FEATURES: both}
        found: dict[str, Tensor] = {FEATURES: encoder(observation)} if critic else {}
        return found | ({ACTOR_FEATURES: encoder.for_actor(observation)} if actor else {})


def decides_by_critic(agent: Agent, *, explore: bool) -> bool:
    """Its choice of an action asks its critics too."""
    match agent:
        case AWAC() | BC() | IQL() | RORL() | TD3():
            return False
        case SAC():
            return explore and agent.config.exploration_candidates > 1
    return True


def of_features(agent: Agent, generator: torch.Generator | None = None) -> Agent:
    """The agent, sharing its networks, for observations that are features; it draws from `generator` if there is one.

    Raises:
        InputError: an agent of another package.
    """
    ours, given = known(agent), cast(Any, GivenFeatures())
    return replace(ours, encoder=given, generator=ours.generator if generator is None else generator)


def behaviour(agent: Agent) -> Agent:
    """The agent, sharing its networks, whose samples are those of its actor: not already the best of several."""
    match agent:
        case Hybrid() | SAC():
            single: Any = replace(agent.config, exploration_candidates=1)
            return replace(agent, config=single)
        case DEAS() | FQL() | IDQL():
            single = replace(agent.config, candidates=1)
            return replace(agent, config=single)
    return agent


def is_stochastic(agent: Agent) -> bool:
    """It samples; what TD3, CQN-AS and Q-Transformer call exploring is noise of fixed size around one action."""
    return not isinstance(agent, TD3 | CQN | QTransformer)


def _tensors(observation: Mapping[str, Array], spec: Spec, device: torch.device) -> dict[str, Tensor]:
    """Shapes: each (B, *)."""
    return {key: torch.from_numpy(np.array(observation[key])).to(device) for key in spec.observation}


# Proposer -------------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class AgentProposer:
    """A policy of ours: row 0 is its mode (or, of an agent that explores, a sample), the others are samples.

    Args:
        agent: any of ours; its settings are those of this moment, its weights those of the call.
        observations: of the run: keys in order, shapes, types; its actions are single ones.
        chunk: H, steps of one decision.
        generator: of the samples, on the agent's device.
        explore: row 0 is a sample too.
    """

    agent: Agent
    observations: Spec
    chunk: int
    device: torch.device
    generator: torch.Generator
    explore: bool = False
    encodings: int = field(init=False, default=0)  # how often an observation was encoded
    spec: ActionSpec = field(init=False)  # what its actions are
    _deciding: Agent = field(init=False)  # the agent, for features
    _sampling: Agent = field(init=False)  # its actor alone, for features

    def __post_init__(self) -> None:
        self.spec = ActionSpec.from_spec(self.observations, self.chunk)
        self._deciding = of_features(self.agent, self.generator if self.explore else None)
        self._sampling = of_features(behaviour(self.agent), self.generator)

    @property
    def capabilities(self) -> Capabilities:
        """Samples of one call, where it samples at all."""
        return Capabilities(stochastic=is_stochastic(self.agent), native_batch=True)

    def reset(self, task: str) -> None:
        """Nothing to forget."""

    def commit(self, actions: Array) -> None:
        """Nothing to keep."""

    def propose(
        self,
        observation: Mapping[str, Array],
        count: int,
        *,
        observation_id: int,
        deadline: Deadline,
        ready: Callable[[Array], None],
    ) -> Proposals:
        """Row 0 and `count - 1` samples, if there is time for them. Shapes: each (*) -> (K, H, A)."""
        features = self._encode({key: value[None] for key, value in observation.items()})  # each (1, F)
        actions = [self._decide(features)]  # (1, H, A)
        ready(actions[0][0])
        count = 1 if deadline.passed else count
        if count > 1:
            rows = {name: value.expand(count - 1, -1) for name, value in features.items()}
            actions.append(self._units(self._sampling.act(rows, explore=True)))
        kinds = (BASE, *[SAMPLE] * (count - 1))
        return Proposals(actions=np.concatenate(actions), kinds=kinds, observation_id=observation_id)

    def decide(self, observation: Mapping[str, Array]) -> Array:
        """What the policy does without steering, in B situations. Shapes: each (B, *) -> (B, H, A), units.

        Raises:
            ProposerError: the actions are not numbers.
        """
        return self._decide(self._encode(observation))

    def _encode(self, observation: Mapping[str, Array]) -> dict[str, Tensor]:
        self.encodings += 1
        tensors = _tensors(observation, self.observations, self.device)
        critic = decides_by_critic(self.agent, explore=self.explore)
        return features_of(self.agent, tensors, critic=critic, actor=True)

    def _decide(self, features: dict[str, Tensor]) -> Array:
        action = self._deciding.act(features, explore=self.explore)
        if not torch.isfinite(action).all():
            raise ProposerError("the policy gives actions that are not numbers: its training has diverged")
        return self._units(action)

    def _units(self, action: Tensor) -> Array:
        return self.spec.scale.unnormalize(action.unflatten(1, (self.chunk, -1)))


# Scorer ---------------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class CriticScorer:
    """The target critics of an agent of ours (of CQN-AS the one online network).

    Args:
        agent: any of ours that has a critic.
        observations: of its run; its actions are single ones.
        chunk: h, steps of one decision of its run.
        keys: name of an observation in its run -> name in what is to be judged; those not named are the same.
        language: makes the observation `instruction` of the task in words; None where the critic reads none.

    Raises:
        InputError: the algorithm has no critic.
    """

    agent: Agent
    observations: Spec
    chunk: int
    device: torch.device
    keys: Mapping[str, str] = field(default_factory=dict)
    language: TextEncoder | None = None
    encodings: int = field(init=False, default=0)  # how often an observation was encoded
    spec: ActionSpec = field(init=False)  # the actions that it judges

    def __post_init__(self) -> None:
        if isinstance(self.agent, BC):
            raise InputError("behaviour cloning learns no critic: steer with a run of another algorithm, such as iql")
        self.spec = ActionSpec.from_spec(self.observations, self.chunk)

    def encode(self, observation: Mapping[str, Array], task: str) -> Tensor:
        """Features. Shapes: each (*) -> (1, F)."""
        self.encodings += 1
        if self.language is not None:
            observation = {**observation, self.keys.get(INSTRUCTION, INSTRUCTION): spoken(self.language, task)}
        rows = {key: np.asarray(observation[self.keys.get(key, key)])[None] for key in self.observations.observation}
        tensors = _tensors(rows, self.observations, self.device)
        return features_of(self.agent, tensors, critic=True, actor=False)[FEATURES]

    def score(self, encoded: Tensor, actions: Array) -> Scores:
        """Shapes: (1, F), (K, h, A), units -> (E, K)."""
        normalized = self.spec.normalized(actions)
        supported = (np.abs(normalized) <= 1.0 + SUPPORT).all(axis=(1, 2))
        flat = np.clip(normalized, -EDGE, EDGE).astype(np.float32).reshape(len(actions), -1)
        action = torch.from_numpy(flat).to(self.device)
        with torch.no_grad():
            if isinstance(self.agent, WithTargets):
                values: Tensor = self.agent.target_critic(encoded, action[None])[:, 0]  # (E, K)
            elif isinstance(self.agent, QTransformer):
                values = self.agent.target_value(encoded, action)[None]
            else:
                rows = {FEATURES: encoded.expand(len(action), -1)}
                value = of_features(self.agent).value(rows, action)
                assert value is not None
                values = value[None]
        return Scores(values=values.cpu(), supported=torch.from_numpy(supported))
