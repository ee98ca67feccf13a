"""Evaluation: episodes in an environment of its own, with seeds of its own, and intervals around what they say."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_rl.environment import Environment
from robot_rl.loops.rollout import AgentPolicy, Film, run_episode
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Episode, EpisodeSink, Policy


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """One episode in a few numbers. `success` is whether the task was achieved at any step (Adroit's convention)."""

    seed: int
    episode_return: float  # undiscounted, native reward
    length: int
    success: bool | None
    limit_hits: int | None = None  # steps with a joint at its limit; None where nobody counts

    @staticmethod
    def of(episode: Episode) -> "EpisodeResult":
        """Summarise a recorded episode."""
        return EpisodeResult(
            seed=int(episode.metadata["seed"]),
            episode_return=float(episode.reward.sum()),
            length=len(episode),
            success=None if episode.success is None else bool(episode.success.any()),
            limit_hits=episode.metadata.get("limit_hits"),
        )

    def to_json(self) -> dict[str, Any]:
        """As it stands in `metrics.jsonl`."""
        return {
            "seed": self.seed,
            "return": self.episode_return,
            "length": self.length,
            "success": self.success,
        } | ({} if self.limit_hits is None else {"limit_hits": self.limit_hits})


def wilson_interval(successes: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % score interval of a success rate (Wilson, JASA 22, 1927): honest at 0 and 1 and for few episodes."""
    rate = successes / count
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def summarize(results: Sequence[EpisodeResult]) -> dict[str, float]:
    """Mean return and length; success rate with its interval where the environment declares success."""
    returns = np.asarray([result.episode_return for result in results])
    metrics = {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "length_mean": float(np.mean([result.length for result in results])),
    }
    if all(result.success is not None for result in results):
        successes = sum(bool(result.success) for result in results)
        low, high = wilson_interval(successes, len(results))
        metrics |= {"success_rate": successes / len(results), "success_low": low, "success_high": high}
    return metrics


def evaluate(
    environment: Environment,
    policy: Policy,
    seeds: Sequence[int],
    *,
    films: int = 0,
    sink: EpisodeSink | None = None,
    on_episode: Callable[[EpisodeResult], None] | None = None,
    discounting: tuple[RewardTransform, float] | None = None,
) -> tuple[list[EpisodeResult], dict[str, float], list[Film]]:
    """One episode for each seed.

    Args:
        films: so many of the first episodes are rendered.
        sink: takes every episode, for recording.
        on_episode: told after each, for progress bars; what it raises ends the evaluation.
        discounting: the learner's reward transform and discount, for `discounted_return_mean`, the number that the
            critic's `value_mean` claims to predict.

    Returns:
        results, their summary (`value_mean` is the critic's value at the first step, where there is a critic), films.
    """
    judge = policy if isinstance(policy, AgentPolicy) else None
    results, recorded, first_values, discounted = [], [], [], []
    for number, seed in enumerate(seeds):
        film = Film() if number < films else None
        episode = run_episode(environment, policy, seed=seed, film=film)
        if film is not None:
            recorded.append(film)
        if judge is not None:
            first = {key: values[0] for key, values in episode.observation.items()}
            estimate = judge.value(first, episode.action[: judge.action_chunk])
            if estimate is not None:
                first_values.append(estimate)
        if discounting is not None:
            transform, discount = discounting
            rewards = transform(episode.reward, {key: rows[1:] for key, rows in episode.observation.items()})
            discounted.append(float(rewards @ discount ** np.arange(len(rewards))))
        if sink is not None:
            sink.append(episode)
        results.append(EpisodeResult.of(episode))
        if on_episode is not None:
            on_episode(results[-1])
    metrics = summarize(results)
    if first_values:
        metrics["value_mean"] = float(np.mean(first_values))
    if discounted:
        metrics["discounted_return_mean"] = float(np.mean(discounted))
    return results, metrics, recorded
