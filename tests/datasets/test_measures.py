"""What a data set is good for, on data whose answer is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.datasets.measure_sample import Sample, Sampler, action_disagreement, cell_coverage, motion_explained
from robot_rl.datasets.measures import (
    DistinctCounter,
    Measures,
    Spread,
    measure,
    positive_sided_variance,
    scaled,
    trajectory_quality,
)
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode


def test_trajectory_quality_is_0_for_random_and_1_for_the_expert() -> None:
    assert trajectory_quality(30.0, 10.0, 50.0) == 0.5
    assert trajectory_quality(10.0, 10.0, 50.0) == 0.0
    assert trajectory_quality(50.0, 10.0, 50.0) == 1.0


def test_positive_sided_variance_counts_only_what_is_above_the_mean() -> None:
    # mean 2; above it only 6: (6 - 2)^2 / 4 = 4. With signs turned: 0 0 0 -4 around -1: 3 * 1 / 4 = 0.75
    assert positive_sided_variance(np.asarray([1.0, 1.0, 0.0, 6.0])) == 4.0
    assert positive_sided_variance(np.asarray([0.0, 0.0, 0.0, -4.0])) == 0.75
    assert positive_sided_variance(np.full(5, 3.0)) == 0.0


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_the_scaled_variance_is_at_most_4_27(returns: list[float]) -> None:
    assert positive_sided_variance(scaled(np.asarray(returns))) <= 4 / 27 + 1e-9


def test_the_scaled_variance_is_largest_with_a_third_of_good_episodes() -> None:
    assert positive_sided_variance(np.asarray([0.0, 0.0, 1.0])) == pytest.approx(4 / 27)


@given(st.integers(1, 300), st.integers(0, 1000))
def test_distinct_rows_are_counted_exactly_while_they_are_few(count: int, seed: int) -> None:
    rows = np.random.default_rng(seed).integers(0, 8, (count, 3))
    counter = DistinctCounter()
    for start in range(0, count, 50):
        counter.add(rows[start : start + 50])
    assert counter.count() == len(np.unique(rows, axis=0))


def test_distinct_rows_are_estimated_beyond_that() -> None:
    counter = DistinctCounter(kept=4096)
    rows = np.arange(200_000)[:, None] // 2  # each twice
    for start in range(0, len(rows), 30_000):
        counter.add(rows[start : start + 30_000])
    assert counter.count() == pytest.approx(100_000, rel=4 / np.sqrt(4096))  # four standard errors


def oscillator(steps: int, seed: int, *, velocity: bool) -> tuple[Array, Array]:
    """A damped spring that is pushed at random; its state with or without the velocity."""
    rng = np.random.default_rng(seed)
    push = rng.normal(size=(steps, 1))
    position, speed = rng.normal(size=2)
    rows = [(position, speed)]
    for force in push[:, 0]:
        speed += 0.1 * (force - 2.0 * position - 0.1 * speed)
        position += 0.3 * speed
        rows.append((position, speed))
    states = np.asarray(rows)
    return (states if velocity else states[:, :1]), push


def sampled(*, velocity: bool) -> Sample:
    sampler = Sampler(10)
    for seed in range(10):
        sampler.add(*oscillator(200, seed, velocity=velocity))
    return sampler.sample()


def store_of(path: Path, episodes: list[Episode], spec: Spec) -> EpisodeStore:
    store = EpisodeStore.create(path, spec, provenance={})
    store.extend(episodes)
    store.finish()
    return store


def spring(seed: int, *, velocity: bool, steps: int = 200) -> Episode:
    states, push = oscillator(steps, seed, velocity=velocity)
    end = np.arange(steps) == steps - 1
    return Episode(
        observation={"state": states},
        action=push,
        reward=-np.square(states[1:, 0]),
        terminated=np.zeros(steps, bool),
        truncated=end,
    )


def spec_of(width: int) -> Spec:
    return Spec(
        observation={"state": ArraySpec(shape=(width,), dtype="float64")},
        action=ArraySpec(shape=(1,), dtype="float64", low=np.asarray([-4.0]), high=np.asarray([4.0])),
        control_period_s=0.1,
    )


def test_hidden_velocities_are_noticed(tmp_path: Path) -> None:
    seen = measure(store_of(tmp_path / "a.zarr", [spring(n, velocity=True) for n in range(10)], spec_of(2)))
    hidden = measure(store_of(tmp_path / "b.zarr", [spring(n, velocity=False) for n in range(10)], spec_of(1)))
    assert seen.velocities == "measured"
    assert hidden.velocities == "missing"
    explained, with_history = motion_explained(sampled(velocity=False))
    assert explained is not None
    assert with_history is not None
    assert explained < 0.5 < 0.9 < with_history


def test_names_speak_where_there_are_too_few_steps(tmp_path: Path) -> None:
    episodes = [spring(n, velocity=True, steps=10) for n in range(3)]
    assert measure(store_of(tmp_path / "a.zarr", episodes, spec_of(2))).velocities == "unknown"
    named = spec_of(2)
    named = replace(named, observation={"state": replace(named.observation["state"], names=("joint_pos", "joint_vel"))})
    assert measure(store_of(tmp_path / "b.zarr", episodes, named)).velocities == "named"


def of(state: Array, action: Array) -> Sample:
    return Sample(np.arange(len(state)) % 10, state, state, state, action)


def test_neighbours_agree_where_the_state_tells_the_action() -> None:
    rng = np.random.default_rng(0)
    state = rng.uniform(-1, 1, (2000, 2))
    told = action_disagreement(of(state, state @ np.asarray([[1.0], [2.0]])))
    noise = action_disagreement(of(state, rng.normal(size=(2000, 1))))
    two_ways = np.where(np.arange(2000)[:, None] % 2, 1.0, -1.0)
    assert told is not None
    assert told < 0.05
    assert noise == pytest.approx(1.0, abs=0.1)
    assert action_disagreement(of(state, two_ways)) == pytest.approx(1.0, abs=0.15)
    assert action_disagreement(replace(of(state, two_ways), episode=np.zeros(2000))) is None


def test_cells_tell_a_line_from_a_cloud() -> None:
    rng = np.random.default_rng(0)
    cloud = cell_coverage(of(rng.uniform(size=(5000, 3)), np.zeros((5000, 1))))
    line = cell_coverage(of(np.linspace(0, 1, 5000)[:, None] * [[1.0, 1.0, 1.0]], np.zeros((5000, 1))))
    assert cloud is not None
    assert line is not None
    assert line < 0.05 < 0.5 < cloud


def test_the_measures_of_a_small_store(tmp_path: Path) -> None:
    episodes = []
    for n, steps in enumerate((4, 6)):
        end = np.arange(steps) == steps - 1
        episodes.append(
            Episode(
                observation={"state": np.arange(steps + 1, dtype=float)[:, None]},
                action=np.asarray([[1.0], [-1.0]] * (steps // 2)),
                reward=end.astype(float) * (n + 1),
                terminated=end,
                truncated=np.zeros(steps, bool),
                success=np.arange(steps) >= steps - 2,
                metadata={"language": f"task {n}"},
            )
        )
    spec = spec_of(1)
    found = measure(
        store_of(tmp_path / "s.zarr", episodes, spec), discount=0.5, environment_return=(0.0, 2.0), reference_pairs=20
    )
    assert (found.episodes, found.steps, found.duration_s) == (2, 10, 1.0)
    assert found.reward == "dense"  # 0, 1 and 2
    assert found.returns.mean == 1.5
    assert found.trajectory_quality == 0.75
    assert found.best_quality == 1.0
    assert found.discounted_returns.maximum == pytest.approx(max(0.5**3, 2 * 0.5**5))
    assert (found.known_success, found.success_share, found.steps_after_success) == (2, 1.0, 1.0)
    assert found.terminated_share == 1.0
    assert found.instructions == 2
    # states 0 to 3 with actions 1, -1, 1, -1, and 0 to 5 with the same: the first four pairs are shared
    assert found.distinct_pairs == 6
    assert found.state_action_coverage == 6 / 20
    # -1 and 1 in turns: squared change 4, variance 1: 4 / 2
    assert found.action_roughness == pytest.approx(2.0)
    assert found.action_coverage == 2 / 20
    assert found.action_saturation == 0.0
    assert "episode_returns" not in found.to_json()
    assert found.episode_returns == (1.0, 2.0)
    assert isinstance(found, Measures)


def test_a_spread_is_seven_numbers() -> None:
    spread = Spread.of(range(11))
    assert (spread.minimum, spread.low, spread.median, spread.high, spread.maximum) == (0, 1, 5, 9, 10)


def test_an_empty_store_has_no_measures(tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "s.zarr", spec_of(1), provenance={})
    with pytest.raises(InputError, match="has no episodes"):
        measure(store)
