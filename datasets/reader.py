"""Episodes of a store as a data set asks for them: filtered, cut at success, with the reward of the task."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.types import Array, Episode


def load_episodes(
    path: str | Path,
    *,
    success_reward: Sequence[float] | None = None,
    cut_at_success: str = "none",
    keep: str = "all",
    maximum_episodes: int | None = None,
) -> list[Episode]:
    """Read a store to memory once, but for its images, which stay where they are; the store is not changed.

    Args:
        path: of the store, or a URL.
        success_reward: [reward without success, reward with success] in place of the recorded reward.
        cut_at_success: `first` or `last`: the episode ends, terminated, with its first (last) successful step.
        keep: `all`, or only the `successful` episodes: those with a successful step.
        maximum_episodes: the first so many of those that are kept.

    Raises:
        InputError: an option needs success, and the store does not know it.
    """
    store = EpisodeStore.open(path)
    episodes = store.episodes()
    if success_reward is not None or cut_at_success != "none" or keep == "successful":
        episodes = _require_success(episodes, store.path)
    if keep == "successful":
        episodes = (episode for episode in episodes if _success(episode).any())
    if cut_at_success != "none":
        episodes = (cut(episode, last=cut_at_success == "last") for episode in episodes)
    if success_reward is not None:
        without, with_success = success_reward
        episodes = (_with_success_reward(episode, without, with_success) for episode in episodes)
    return list(islice(episodes, maximum_episodes))


def cut(episode: Episode, *, last: bool) -> Episode:
    """End an episode, terminated, with its first or last successful step; without one it stays as it is.

    The observation behind that step becomes the final one.
    """
    successes = np.flatnonzero(_success(episode))
    if len(successes) == 0:
        return episode
    total, steps = len(episode), int(successes[-1 if last else 0]) + 1
    terminated, truncated = np.zeros(steps, bool), np.zeros(steps, bool)
    terminated[-1] = True
    return Episode(
        observation={key: array[: steps + 1] for key, array in episode.observation.items()},
        action=episode.action[:steps],
        reward=episode.reward[:steps],
        terminated=terminated,
        truncated=truncated,
        success=_success(episode)[:steps],
        intervened=None if episode.intervened is None else episode.intervened[:steps],
        has_final_observation=True if steps < total else episode.has_final_observation,
        extras={key: array[: steps + len(array) - total] for key, array in episode.extras.items()},
        metadata=episode.metadata,
    )


def _success(episode: Episode) -> Array:
    assert episode.success is not None
    return episode.success


def _with_success_reward(episode: Episode, without: float, with_success: float) -> Episode:
    return replace(episode, reward=np.where(_success(episode), with_success, without).astype(episode.reward.dtype))


def _require_success(episodes: Iterator[Episode], path: Path) -> Iterator[Episode]:
    for index, episode in enumerate(episodes):
        if episode.success is None:
            raise InputError(
                f"{path}: whether episode {index} succeeds is not recorded, but success_reward, cut_at_success and "
                "keep=successful need it. Ingest the source again with a rule, such as "
                "`robot-rl ingest ... success.observation=state success.index=28 success.minimum=1.35 overwrite=true`"
            )
        yield episode
