"""What a data set is good for, in numbers: quality, coverage, variety, smoothness, and whether the state is all there.

Trajectory quality (TQ) and state-action coverage (SACo) are those of "A Dataset Perspective on Offline Reinforcement
Learning", Schweighofer et al., CoLLAs 2022, arXiv 2111.04714: TQ is the mean return on a scale where a random policy is
at 0 and an expert at 1; SACo is the number of distinct state-action pairs over that of a reference. The positive-sided
variance of returns is that of "Harnessing Mixed Offline Reinforcement Learning Datasets via Trajectory Weighting", Hong
et al., ICLR 2023, arXiv 2306.13085: E[max(R - E R, 0)^2], how far good episodes stand out.

Differences from the papers:
- SACo divides every channel into 100 bins between its extremes, as the paper's code (github kschweig/OfflineRL) does,
  but counts by the smallest hashes (Bar-Yossef et al., 2002, "Counting distinct elements in a data stream": exact up to
  `COUNTED` pairs, then within 0.4 %) instead of HyperLogLog. Without a reference, the number of steps stands in for it.
  In many dimensions nearly every pair is distinct, so `cell_coverage` counts the occupied cells of the first
  `CELL_AXES` principal axes too.
- TQ uses undiscounted returns, since that is what the two references are measured in. Where none are given, it is None.
- The positive-sided variance is given of raw returns and of returns scaled to [0, 1], where it is at most 4/27: a third
  of the episodes at 1 and the others at 0.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from robot_rl.datasets.measure_sample import (
    Sampler,
    action_coverage,
    action_disagreement,
    cell_coverage,
    motion_explained,
    velocities,
)
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.validation.facts import flat, state_rows, vectors
from robot_rl.datasets.validation.numbers import ActionFacts
from robot_rl.datasets.validation.sketches import hash_rows
from robot_rl.errors import InputError
from robot_rl.types import Array, Episode

BINS = 100  # of a channel, for SACo
COUNTED = 65_536  # distinct pairs that are counted exactly


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A distribution in seven numbers."""

    minimum: float
    low: float  # 10th percentile
    median: float
    mean: float
    high: float  # 90th percentile
    maximum: float
    deviation: float

    @staticmethod
    def of(values: Sequence[float] | Array) -> "Spread":
        """Of at least one number."""
        array = np.asarray(values, np.float64)
        low, median, high = (float(value) for value in np.percentile(array, [10, 50, 90]))
        return Spread(
            minimum=float(array.min()),
            low=low,
            median=median,
            mean=float(array.mean()),
            high=high,
            maximum=float(array.max()),
            deviation=float(array.std()),
        )


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Numbers of one store. None is unknown: the data does not tell."""

    episodes: int
    steps: int
    horizon: Spread  # steps of an episode
    duration_s: float | None
    reward: str  # absent | constant | sparse (two values) | dense
    returns: Spread  # undiscounted
    discounted_returns: Spread
    trajectory_quality: float | None  # TQ
    best_quality: float | None  # of the best episode, on the same scale
    positive_sided_variance: float
    positive_sided_variance_scaled: float  # of returns scaled to [0, 1], at most 4/27
    known_success: int  # episodes
    success_share: float | None  # of those
    steps_after_success: float | None  # median over episodes that go on
    terminated_share: float
    missing_final_share: float
    intervened_share: float  # of the steps
    instructions: int  # distinct ones
    images: tuple[str, ...]
    state_channels: int
    distinct_pairs: int
    state_action_coverage: float  # SACo
    cell_coverage: float | None  # occupied cells over the most that there could be
    action_channels: int
    action_coverage: float | None  # occupied bins between the bounds, mean over channels
    action_saturation: float | None  # share of the numbers at a bound
    outside_bounds: float  # share of the numbers
    action_roughness: float | None  # 0 smooth, 1 white noise
    action_disagreement: float | None  # 0: neighbours in state agree on the action, 1: they do not at all
    velocities: str  # named | measured | missing | unknown
    motion_explained: float | None  # share of the next state's change that state and action explain
    motion_explained_with_history: float | None  # the same with the change before
    episode_returns: tuple[float, ...]  # undiscounted, in the order of the store
    episode_steps: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without the numbers of single episodes."""
        return {key: value for key, value in asdict(self).items() if not key.startswith("episode_")}


def measure(
    store: EpisodeStore,
    *,
    discount: float = 0.99,
    environment_return: tuple[float, float] | None = None,
    reference_pairs: int | None = None,
) -> Measures:
    """Read a store once, without its images.

    Args:
        store: with at least one episode.
        discount: of `discounted_returns`.
        environment_return: return of a random policy and of an expert, undiscounted.
        reference_pairs: distinct state-action pairs of the reference of SACo; None takes the number of steps.

    Raises:
        InputError: the store has no episodes.
    """
    if len(store) == 0:
        raise InputError(f"{store.path} has no episodes: record or ingest some")
    passing = _Pass(store, discount)
    for episode in store.episodes(keys=passing.keys):
        passing.add(episode)
    outcomes, sample, pairs = passing.outcomes, passing.sampler.sample(), min(passing.pairs.count(), store.steps)
    totals = np.asarray([outcome.total for outcome in outcomes])
    known = [outcome.success for outcome in outcomes if outcome.success is not None]
    after = [outcome.after_success for outcome in outcomes if outcome.after_success]
    explained, with_history = motion_explained(sample)
    spec, bounds = store.spec, passing.bounds
    numbers = max(bounds.steps * flat_width(spec.action.shape), 1)
    bounded = bounds.saturated is not None and spec.action.low is not None
    return Measures(
        episodes=len(store),
        steps=store.steps,
        horizon=Spread.of([outcome.steps for outcome in outcomes]),
        duration_s=None if spec.control_period_s is None else store.steps * spec.control_period_s,
        reward=passing.reward_kind(),
        returns=Spread.of(totals),
        discounted_returns=Spread.of([outcome.discounted for outcome in outcomes]),
        trajectory_quality=_quality(float(totals.mean()), environment_return),
        best_quality=_quality(float(totals.max()), environment_return),
        positive_sided_variance=positive_sided_variance(totals),
        positive_sided_variance_scaled=positive_sided_variance(scaled(totals)),
        known_success=len(known),
        success_share=float(np.mean(known)) if known else None,
        steps_after_success=float(np.median(after)) if after else None,
        terminated_share=float(np.mean([outcome.terminated for outcome in outcomes])),
        missing_final_share=float(np.mean([not outcome.final_observation for outcome in outcomes])),
        intervened_share=sum(outcome.intervened for outcome in outcomes) / max(store.steps, 1),
        instructions=len({outcome.language for outcome in outcomes} - {None}),
        images=tuple(store.tiers),
        state_channels=sample.state.shape[1],
        distinct_pairs=pairs,
        state_action_coverage=pairs / (store.steps if reference_pairs is None else reference_pairs),
        cell_coverage=cell_coverage(sample),
        action_channels=sample.action.shape[1],
        action_coverage=action_coverage(sample.action, spec.action),
        action_saturation=float(bounds.saturated.sum()) / numbers if bounded and bounds.saturated is not None else None,
        outside_bounds=bounds.outside / numbers,
        action_roughness=passing.roughness(),
        action_disagreement=action_disagreement(sample),
        velocities=velocities(spec, explained, with_history),
        motion_explained=explained,
        motion_explained_with_history=with_history,
        episode_returns=tuple(totals.tolist()),
        episode_steps=tuple(outcome.steps for outcome in outcomes),
    )


def positive_sided_variance(returns: Array) -> float:
    """E[max(R - E R, 0)^2]. Shapes: (N,)."""
    return float(np.square(np.maximum(returns - returns.mean(), 0.0)).mean())


def trajectory_quality(mean_return: float, random_return: float, expert_return: float) -> float:
    """TQ: 0 for a random policy, 1 for the expert."""
    return (mean_return - random_return) / (expert_return - random_return)


def scaled(returns: Array) -> Array:
    """To [0, 1]; zeros where all are equal. Shapes: (N,) -> (N,)."""
    spread = returns.max() - returns.min()
    return (returns - returns.min()) / spread if spread > 0 else np.zeros(len(returns))


def flat_width(shape: tuple[int, ...]) -> int:
    """Channels of an array of this shape a step."""
    return int(np.prod(shape))


class DistinctCounter:
    """How many different rows there are, by their smallest hashes."""

    def __init__(self, kept: int = COUNTED) -> None:
        self.kept = kept
        self._smallest = np.empty(0, np.uint64)

    def add(self, rows: Array) -> None:
        """Shapes: (N, C), integers."""
        self._smallest = np.union1d(self._smallest, hash_rows(rows.astype(np.int64)))[: self.kept]

    def count(self) -> int:
        """Exact up to `kept`; beyond, (k - 1) over the share of the range that the k smallest hashes cover."""
        if len(self._smallest) < self.kept:
            return len(self._smallest)
        return round((self.kept - 1) / (float(self._smallest[-1]) / 2.0**64))


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """One episode in numbers."""

    steps: int
    total: float
    discounted: float
    success: bool | None
    after_success: int  # steps
    terminated: bool
    final_observation: bool
    intervened: int  # steps
    language: str | None


class _Pass:
    """What one pass over the store collects."""

    def __init__(self, store: EpisodeStore, discount: float) -> None:
        self.keys = vectors(store.spec)
        self.discount = discount
        self.absent = tuple(store.spec.metadata.get("absent", ()))
        self.outcomes: list[_Outcome] = []
        self.pairs = DistinctCounter()
        self.bounds = ActionFacts(store.spec.action)
        self.sampler = Sampler(len(store))
        self._rewards: set[float] = set()
        arrays = store.statistics["arrays"]
        ranges = [arrays[f"observation/{key}"] for key in self.keys] + [arrays["action"]]
        self._low = np.concatenate([np.ravel(numbers["minimum"]) for numbers in ranges])
        self._high = np.concatenate([np.ravel(numbers["maximum"]) for numbers in ranges])
        self._variance = np.square(np.ravel(arrays["action"]["std"]))
        self._changes = np.zeros(len(self._variance))
        self._change_rows = 0

    def add(self, episode: Episode) -> None:
        """One episode."""
        states = state_rows(episode, self.keys)
        actions = flat(episode.action).astype(np.float64)
        rewards = np.asarray(episode.reward, np.float64)
        successes = None if episode.success is None else np.flatnonzero(episode.success)
        language = episode.metadata.get("language")
        self.outcomes.append(
            _Outcome(
                steps=len(episode),
                total=float(rewards.sum()),
                discounted=float(rewards @ self.discount ** np.arange(len(rewards))),
                success=None if successes is None else len(successes) > 0,
                after_success=0 if successes is None or len(successes) == 0 else len(episode) - 1 - int(successes[0]),
                terminated=bool(episode.terminated[-1]),
                final_observation=episode.has_final_observation,
                intervened=0 if episode.intervened is None else int(episode.intervened.sum()),
                language=None if not language else str(language),
            )
        )
        if len(self._rewards) < 3:
            self._rewards |= set(np.unique(rewards)[:3].tolist())
        width = np.where(self._high > self._low, self._high - self._low, 1.0)
        rows = np.concatenate([states[: len(actions)], actions], axis=1)
        self.pairs.add(np.minimum((rows - self._low) / width * BINS, BINS - 1))
        self.bounds.add(len(self.outcomes) - 1, actions)
        self.sampler.add(states, actions)
        self._changes += np.square(np.diff(actions, axis=0)).sum(axis=0)
        self._change_rows += max(len(actions) - 1, 0)

    def reward_kind(self) -> str:
        """absent, constant, sparse or dense."""
        if "reward" in self.absent or self._rewards == {0.0}:
            return "absent"
        return {1: "constant", 2: "sparse"}.get(len(self._rewards), "dense")

    def roughness(self) -> float | None:
        """Von Neumann's ratio, halved: squared change over twice the variance, mean over the channels that vary."""
        varies = self._variance > 0
        if not varies.any() or self._change_rows == 0:
            return None
        return float((self._changes[varies] / self._change_rows / (2 * self._variance[varies])).mean())


def _quality(value: float, environment_return: tuple[float, float] | None) -> float | None:
    return None if environment_return is None else trajectory_quality(value, *environment_return)
