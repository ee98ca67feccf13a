"""From configuration to the parts of a run: data sets, agent, policy. The checks that come before hours of training."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from robot_rl.algorithms import ALGORITHM_CONFIGS, create
from robot_rl.algorithms.agent import Agent
from robot_rl.checks import short_hash
from robot_rl.config import ENVIRONMENT_CONFIGS, DatasetConfig, ReplayConfig, TrainConfig
from robot_rl.datasets.reader import load_episodes
from robot_rl.datasets.store import EpisodeStore
from robot_rl.environment import ACTION_HISTORY, CommandHistory, Environment
from robot_rl.errors import InputError, nearest
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.replay.finite import require_finite_episode
from robot_rl.replay.instructions import Instructions
from robot_rl.replay.weights import advantage_weights, return_weights
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Episode

NOT_OF_THE_RUN = (
    *("resume", "output", "checkpoint_every_s", "evaluation.videos", "replay.prefetch_workers"),
    *("learner.when_lost", "learner.patience_s", "learner.priority", "learner.nice"),
)
"""Dotted settings that change no number, so a resumed run may change them."""


@dataclass(frozen=True, kw_only=True)
class LoadedData:
    """The episodes of one data set, and what the report says of them."""

    spec: Spec
    episodes: list[Episode]
    weights: list[float]  # of each episode: how often its transitions are drawn
    facts: dict[str, Any]


# Configuration on disk ------------------------------------------------------------------------------------------------


def config_to_json(config: TrainConfig) -> dict[str, Any]:
    """Plain JSON in which the environment and the algorithm say of which kind they are."""
    data = asdict(config)
    for group, value, kinds in (
        ("environment", config.environment, ENVIRONMENT_CONFIGS),
        ("algorithm", config.algorithm, ALGORITHM_CONFIGS),
    ):
        kind = next((kind for kind, node in kinds.items() if type(value) is node), None)
        data[group] = None if value is None else {"kind": kind, **asdict(value)}
    return data


def config_from_json(data: dict[str, Any], place: str) -> TrainConfig:
    """Undo `config_to_json`.

    Raises:
        InputError: a key or value that this version does not know; names `place`.
    """
    plain = dict(data)
    try:
        for group, kinds in (("environment", ENVIRONMENT_CONFIGS), ("algorithm", ALGORITHM_CONFIGS)):
            if plain[group] is None:
                continue
            values = dict(plain[group])
            kind = values.pop("kind")
            if kind not in kinds:
                raise InputError(f"{place}: {group} kind '{kind}': {nearest(kind, kinds)}")
            plain[group] = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kinds[kind]), values))
        environment, algorithm = plain.pop("environment"), plain.pop("algorithm")
        typed = OmegaConf.merge(OmegaConf.structured(TrainConfig), plain)
        typed.environment, typed.algorithm = environment, algorithm
        config = OmegaConf.to_object(typed)
    except (KeyError, ValueError) as error:
        raise InputError(f"{place} holds a configuration that this version does not read: {error}") from error
    assert isinstance(config, TrainConfig)
    return config


def config_hash(data: dict[str, Any]) -> str:
    """SHA-256 of everything that changes the numbers of a run, 12 digits."""
    kept = {key: value for key, value in flat(data).items() if key not in NOT_OF_THE_RUN}
    return short_hash(kept)


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


# Data -----------------------------------------------------------------------------------------------------------------


def load_data(name: str, config: DatasetConfig, spec: Spec | None, whose: str) -> LoadedData:
    """Read a store and hold it against what the policy is to see and do.

    Args:
        name: of the data set.
        config: of the data set.
        spec: what every batch has to fit; None takes the store's.
        whose: whom `spec` belongs to, for error messages.

    Raises:
        InputError: the data does not fit; says where and what to do.
    """
    path = Path(config.path).expanduser()
    store = EpisodeStore.open(path)
    given, history = _with_history(store.spec, spec)
    if spec is not None:
        check_fit(f"data set {name} ({path})", given, whose, spec)
    episodes = load_episodes(
        path,
        success_reward=config.success_reward,
        cut_at_success=config.cut_at_success,
        keep=config.keep,
        maximum_episodes=config.maximum_episodes,
    )
    if not episodes:
        raise InputError(f"data set {name}: {config.path} has no episode left (keep={config.keep})")
    if history is not None:
        for episode in episodes:
            episode.observation[ACTION_HISTORY] = history.along(episode.action)
    for index, episode in enumerate(episodes):
        wanted = store.spec.observation if spec is None else spec.observation
        require_finite_episode(episode, wanted, f"data set {name} ({config.path}), episode {index}")
    if spec is not None and config.out_of_range == "error":
        _check_range(name, config, episodes, spec, whose)
    returns = [float(episode.reward.sum()) for episode in episodes]
    successes = [episode.success for episode in episodes if episode.success is not None]
    facts = {
        "path": config.path,
        "episodes": len(episodes),
        "steps": sum(map(len, episodes)),
        "return_mean": float(np.mean(returns)),
        "success_rate": float(np.mean([success.any() for success in successes])) if successes else None,
        "sha256": hashlib.sha256("".join(store.digests).encode()).hexdigest(),
        "provenance": store.provenance,
    }
    return LoadedData(spec=given, episodes=episodes, weights=_weights(config, given, episodes), facts=facts)


def _weights(config: DatasetConfig, spec: Spec, episodes: list[Episode]) -> list[float]:
    returns = np.asarray([episode.reward.sum(dtype=np.float64) for episode in episodes])
    lengths = np.asarray([len(episode) for episode in episodes])
    match config.weighting:
        case "return":
            weights = return_weights(returns, lengths, config.weighting_temperature)
        case "advantage":
            numbers = [key for key, array in spec.observation.items() if not array.is_image]
            first = np.stack([np.concatenate([e.observation[key][0].ravel() for key in numbers]) for e in episodes])
            weights = advantage_weights(returns, first, lengths, config.weighting_temperature)
        case _:
            weights = np.ones(len(episodes))
    return [float(weight) for weight in weights]


def _with_history(given: Spec, wanted: Spec | None) -> tuple[Spec, CommandHistory | None]:
    """The last commands as an observation, where they are wanted and were not recorded: the actions have them."""
    shown = None if wanted is None else wanted.observation.get(ACTION_HISTORY)
    if shown is None or ACTION_HISTORY in given.observation or shown.shape[0] % given.action.shape[0] != 0:
        return given, None
    history = CommandHistory(given.action, shown.shape[0] // given.action.shape[0])
    return history.shown_in(given), history


def check_fit(giver: str, given: Spec, taker: str, wanted: Spec) -> None:
    """Refuse observations, actions or a control period other than those wanted.

    Args:
        giver: who has `given`: a data set, or the environment in which a policy is evaluated.
        given: may have more observations than wanted, in any order.
        taker: who has `wanted`: the environment in which the policy is to act, or the policy.
        wanted: every observation of it is needed.

    Raises:
        InputError: names both, and what differs.
    """
    for key, array in wanted.observation.items():
        if key not in given.observation:
            remedy = "Choose the same observations for both (environment.observation), or other data"
            if key == ACTION_HISTORY:
                remedy = (
                    f"They are the last commands: environment.action_history={array.shape[0] // wanted.action.shape[0]}"
                )
            there = sorted(given.observation)
            raise InputError(f"{giver} has no observation '{key}', which {taker} has; there are {there}. {remedy}")
        if given.observation[key].shape != array.shape:
            raise InputError(
                f"{giver}: observation '{key}' has shape {given.observation[key].shape}, that of {taker} has "
                f"{array.shape}: they are of different environments"
            )
    if given.action.shape != wanted.action.shape:
        raise InputError(
            f"{giver}: actions have shape {given.action.shape}, those of {taker} have {wanted.action.shape}: "
            "choose the same controller for both"
        )
    arrays = [(f"observation '{key}'", given.observation[key], array) for key, array in wanted.observation.items()]
    for what, found_array, wanted_array in [*arrays, ("action", given.action, wanted.action)]:
        ours, theirs = found_array.names, wanted_array.names
        if ours is not None and theirs is not None and ours != theirs and sorted(ours) == sorted(theirs):
            place = next(index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
            raise InputError(
                f"{giver}: channels of {what} stand in another order than those of {taker}: channel {place} is "
                f"'{ours[place]}' here and '{theirs[place]}' there. Bring them into one order where the data is read"
            )
    for fact in ("control_period_s", "action_semantics"):
        found, needed = getattr(given, fact), getattr(wanted, fact)
        numbers = isinstance(found, float) and isinstance(needed, float)
        same = np.isclose(found, needed) if numbers else found == needed
        if found is not None and needed is not None and not same:
            raise InputError(f"{giver} has {fact}={found}, but {taker} has {needed}: set the environment to match")


def check_rendering(environment: Environment, setting: str) -> None:
    """Draw one frame, so that what cannot be filmed is known before hours of training.

    Raises:
        InputError: the environment, or this machine, cannot draw; names the setting that asks for films.
    """
    environment.reset(seed=0)
    try:
        environment.render()
    except Exception as error:  # every renderer has exceptions of its own
        raise InputError(
            f"{setting} asks for films, but no frame can be drawn ({error}): set {setting}=0. "
            "`robot-rl doctor` says which renderers work here"
        ) from error


def _check_range(name: str, config: DatasetConfig, episodes: list[Episode], spec: Spec, whose: str) -> None:
    scale = ActionScale.from_spec(spec.action)
    tolerance = 1e-4 * (scale.high - scale.low)
    outside = [
        (episode.action < scale.low - tolerance) | (episode.action > scale.high + tolerance) for episode in episodes
    ]
    share = float(np.mean(np.concatenate(outside)))
    if share > 0:
        low = np.min([episode.action.min(0) for episode in episodes], 0)
        high = np.max([episode.action.max(0) for episode in episodes], 0)
        channel = int(np.argmax(np.maximum(high - scale.high, scale.low - low)))
        raise InputError(
            f"data set {name} ({config.path}): {share:.1%} of the recorded action entries lie outside what "
            f"{whose} accepts; channel {channel} reaches [{low[channel]:.3g}, {high[channel]:.3g}], allowed is "
            f"[{scale.low[channel]:.3g}, {scale.high[channel]:.3g}]. If the robot clipped them too, set "
            f"datasets.{name}.out_of_range=clip; otherwise the data has other units or another controller"
        )


def empty_buffer(
    config: TrainConfig, spec: Spec, rows: int, instructions: Instructions | None, *, mapped: bool = False
) -> ReplayBuffer:
    """A replay buffer under the run's settings."""
    replay = config.replay
    return ReplayBuffer(
        spec,
        capacity=rows,
        scale=ActionScale.from_spec(spec.action),
        reward=reward_transform(replay),
        discount=replay.discount,
        n_step=replay.n_step,
        action_chunk=replay.action_chunk,
        chunk_discount=replay.chunk_discount,
        n_step_counts=replay.n_step_counts,
        tail=replay.monte_carlo_tail,
        mapped=mapped,
        frame_stack=replay.frame_stack,
        instructions=instructions,
        device=config.device,
    )


def reward_transform(replay: ReplayConfig) -> RewardTransform:
    """What the learner makes of rewards."""
    return RewardTransform(
        scale=replay.reward_scale,
        bias=replay.reward_bias,
        observation=replay.reward_observation,
        index=replay.reward_index,
    )


# Agent ----------------------------------------------------------------------------------------------------------------


def device_of(name: str) -> torch.device:
    """The device by name.

    Raises:
        InputError: it is not there; never a silent fallback to the CPU.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device={name} cannot be used here ({error}); `robot-rl doctor` lists what can") from error
    return device


def build_agent(
    config: TrainConfig,
    spec: Spec,
    statistics: dict[str, tuple[torch.Tensor, torch.Tensor]] | None,
    seed: int,
) -> Agent:
    """A new agent; the global generator is seeded here, once, for weight initialisation.

    `spec` is that of the environment; where actions come in chunks, the agent's has actions of `replay.action_chunk`
    steps, and its images have `replay.frame_stack` frames.
    """
    torch.manual_seed(Seeds(seed).integer("initialisation"))
    seen = spec.chunked(config.replay.action_chunk).stacked(config.replay.frame_stack)
    return create(config.algorithm, seen, Seeds(seed), torch.device(config.device), statistics)
