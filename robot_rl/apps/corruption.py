"""Corrupted data sets: what a run learns from in their place, who attacks them, and which runs can learn from them."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robot_rl import checkpoint
from robot_rl.algorithms import with_overrides
from robot_rl.algorithms.agent import Agent
from robot_rl.algorithms.rorl import RORL
from robot_rl.apps.build import LoadedData, build_agent, check_fit, config_from_json
from robot_rl.config import TrainConfig
from robot_rl.data_config import CorruptionConfig
from robot_rl.errors import InputError
from robot_rl.functional import tanh_gaussian
from robot_rl.functional.attack import lowest_within
from robot_rl.spec import Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.corruption import SPLITTING, Attack, Transitions, Values, corrupt

STEP = 0.01
"""Length of a step of the attack, as a share of `scale`: RIQL's, whose 100 steps go from the middle of the box to its
side."""
ROWS = 8192
"""Attacked at a time."""


def corrupted(name: str, config: CorruptionConfig, data: LoadedData) -> LoadedData:
    """What a run learns from where its data set is to be corrupted.

    Args:
        name: of the data set.
        config: what is changed.
        data: as it was read; is not changed.

    Raises:
        InputError: adversarial changes without critics, or with those of another kind or spec; images.
    """
    if config.element == "none":
        return data
    place = f"datasets.{name}.corruption"
    attack: Attack | None = None
    facts = asdict(config)
    if config.mode == "adversarial" and config.element != "reward":
        path = latest_checkpoint(config.attacker, place)
        agent, spec = load_attacker(path, place)
        check_fit(f"data set {name}", data.spec, f"the attacker ({path})", spec)
        attack = Attacker(agent, config, spec)
    episodes, count = corrupt(
        data.episodes,
        element=config.element,
        mode=config.mode,
        rate=config.rate,
        scale=config.scale,
        seed=config.seed,
        attack=attack,
    )
    weights = [1.0] * len(episodes) if config.element in SPLITTING else data.weights
    facts["transitions"] = count
    return replace(data, episodes=episodes, weights=weights, facts=data.facts | {"corruption": facts})


class Attacker:
    """Chooses the changes that the critics of an agent like least: the attack of RIQL's code.

    Observations: min Q(s + d, a); actions: min Q(s, a + d); dynamics: min Q(s' + d, pi(s' + d)), pi the policy's mode
    and Q the mean over critics; d within `scale` deviations of each channel, and uniform there to begin with.
    """

    def __init__(self, agent: RORL, config: CorruptionConfig, spec: Spec) -> None:
        self._agent, self._config = agent, config
        scale = ActionScale.from_spec(spec.action)
        self._low, self._high = _tensor(scale.low), _tensor(scale.high)
        self._generator = torch.Generator().manual_seed(config.seed)

    def __call__(self, element: str, found: Transitions, size: Values) -> Values:
        """What to put in place of the given rows. Shapes: each (M, *) -> each (M, *)."""
        total = len(found.reward)
        parts = [
            self._attack(element, found.rows(np.arange(begin, min(begin + ROWS, total))), size)
            for begin in range(0, total, ROWS)
        ]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]} if parts else {}

    def _attack(self, element: str, found: Transitions, size: Values) -> Values:
        match element:
            case "action":
                recorded = {"action": found.action}
            case "observation":
                recorded = found.observation
            case _:
                recorded = found.next_observation
        shapes = [values.shape[1:] for values in recorded.values()]
        widths = [int(np.prod(shape)) for shape in shapes]
        state = {key: _tensor(values) for key, values in found.observation.items()}
        action = _tensor(found.action)

        def moved(change: Tensor) -> dict[str, Tensor]:
            pieces = zip(recorded, change.split(widths, dim=1), shapes, strict=True)
            return {
                key: _tensor(recorded[key]) + _tensor(size[key]) * piece.unflatten(1, shape)
                for key, piece, shape in pieces
            }

        def value(change: Tensor) -> Tensor:
            new = moved(change)
            match element:
                case "action":
                    return self._value(state, self._normalized(new["action"]))
                case "observation":
                    return self._value(new, self._normalized(action))
            mean, _ = self._agent.actor(self._agent.encoder(new))
            return self._value(new, tanh_gaussian.mode(mean))

        bound = self._config.scale
        start = bound * (2 * torch.rand((len(action), sum(widths)), generator=self._generator) - 1)
        change = lowest_within(value, start, bound=bound, steps=self._config.attack_steps, step_size=STEP * bound)
        return {key: values.numpy().astype(recorded[key].dtype) for key, values in moved(change).items()}

    def _normalized(self, action: Tensor) -> Tensor:
        return 2 * (action - self._low) / (self._high - self._low) - 1

    def _value(self, observation: dict[str, Tensor], action: Tensor) -> Tensor:
        """Mean over critics. Shapes: each (M, *), (M, A) -> (M,)."""
        q: Tensor = self._agent.critic(self._agent.encoder(observation), action)
        return q.mean(dim=0)


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values, np.float32))


def latest_checkpoint(folder: str, place: str) -> Path:
    """The last checkpoint of an attacker's run.

    Raises:
        InputError: there is none; names the setting.
    """
    if not folder:
        raise InputError(
            f"{place}.mode=adversarial needs critics: train some with algorithm=edac on the same data, and name the "
            f"folder of that run in {place}.attacker"
        )
    found = checkpoint.checkpoints(Path(folder).expanduser() / "checkpoints")
    if not found:
        raise InputError(f"{place}.attacker={folder} holds no checkpoint: train it first, such as with algorithm=edac")
    return found[-1]


def load_attacker(path: Path, place: str) -> tuple[RORL, Spec]:
    """The agent of a checkpoint, and what it sees and does.

    Raises:
        InputError: it is of an algorithm whose critics and policy are not taken here.
    """
    tensors, state = checkpoint.load(path)
    config, spec = config_from_json(state["config"], str(path)), Spec.from_json(state["spec"])
    agent = build_agent(replace(config, device="cpu"), spec, None, config.seed)
    if not isinstance(agent, RORL):
        raise InputError(
            f"{place}.attacker: {path} is a run of {type(agent).__name__}, not of algorithm=edac, sac_n or rorl"
        )
    checkpoint.unpack_agent(agent, checkpoint.under(tensors, "agent"), state["agent"])
    return agent, spec


def require_single_transitions(config: TrainConfig, agent: Agent) -> None:
    """Refuse what cannot be known of transitions that no longer form episodes.

    Raises:
        InputError: n-step returns, action chunks, weights of episodes, Monte-Carlo returns or next actions are asked
            for.
    """
    for name, dataset in config.datasets.items():
        if dataset.corruption.element not in SPLITTING:
            continue
        place = f"datasets.{name}.corruption.element={dataset.corruption.element} leaves single transitions"
        if config.replay.n_step != 1 or config.replay.action_chunk != 1:
            raise InputError(f"{place}: set replay.n_step=1 and replay.action_chunk=1")
        if dataset.weighting != "uniform":
            raise InputError(f"{place}: set datasets.{name}.weighting=uniform")
        before = agent.config
        try:
            for phase_name, phase in config.phases.items():
                agent.config = with_overrides(before, phase.algorithm)
                if agent.needs:
                    raise InputError(f"{place}, but in phase {phase_name} the algorithm needs {sorted(agent.needs)}")
        finally:
            agent.config = before
