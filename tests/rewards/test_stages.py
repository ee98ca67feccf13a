"""Perceptual stages: cuts, features and progress."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.errors import InputError
from robot_rl.functional import stages as cut
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.encoder import ImageEncoder
from robot_rl.rewards import stages
from robot_rl.rewards.stages import StagesConfig
from robot_rl.types import Array


def steps(lengths: list[int], noise: float = 0.0, seed: int = 0) -> Array:
    """Features that jump from stage to stage, with two that say nothing. Shapes: -> (T, 5)."""
    generator = np.random.default_rng(seed)
    places = np.asarray([[0.0, 5.0, 0.0], [4.0, 5.0, 0.0], [4.0, 0.0, 3.0]])
    told = np.repeat(places[: len(lengths)], lengths, axis=0)
    return np.concatenate([told, generator.normal(size=(len(told), 2))], 1) + noise * generator.normal(
        size=(len(told), 5)
    )


def test_a_cut_lies_where_the_features_jump() -> None:
    assert cut.segment(steps([6, 9, 4])[:, :3], 3, 2) == [0, 6, 15]


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 2))
def test_the_cut_is_the_best_of_all(seed: int, count: int, minimum: int) -> None:
    features = np.random.default_rng(seed).normal(size=(8, 2))

    def cost(begins: tuple[int, ...]) -> float:
        edges = [*begins, len(features)]
        return sum(features[a:b].std(0).mean() for a, b in pairwise(edges))

    allowed = [
        (0, *rest)
        for rest in combinations(range(1, 8), count - 1)
        if all(b - a >= minimum for a, b in zip((0, *rest), (*rest, 8), strict=True))
    ]
    found = cut.segment(features, count, minimum)
    assert cost(tuple(found)) == pytest.approx(min(map(cost, allowed)))


def test_a_feature_that_tells_the_stage_beats_one_that_does_not() -> None:
    features = steps([20, 20, 20], noise=0.1)
    normal = (features - features.mean(0)) / features.std(0)
    score = cut.discriminative(normal, cut.stage_numbers([0, 20, 40], 60), 3, 5.0)
    assert set(score.argmax(1).tolist()) <= {0, 1, 2}
    assert (score[:, :3].max(1) > score[:, 3:].max(1)).all()


def test_progress_goes_from_0_to_1_with_the_stages() -> None:
    distance = np.asarray([[0.0, 50.0, 50.0], [50.0, 0.0, 50.0], [50.0, 50.0, 0.0], [10.0, 10.0, 10.0]])
    assert cut.progress(distance, 1.0) == pytest.approx([0.0, 0.5, 1.0, 0.5], abs=1e-6)


def demonstrations() -> list[Array]:
    return [steps([8, 10, 6], 0.2, 1), steps([5, 7, 9], 0.2, 2), steps([9, 6, 7], 0.2, 3)]


def encoder() -> ImageEncoder:
    config = VisionConfig(channels=[4], kernels=[3], strides=[2], padding=True)
    return ImageEncoder(config, (8, 8, 3), torch.Generator().manual_seed(0))


def test_another_demonstration_progresses_through_the_stages_of_three() -> None:
    fitted, begins = stages.fit(StagesConfig(stages=3, features=3), encoder(), demonstrations())
    assert begins == [[0, 8, 18], [0, 5, 12], [0, 9, 15]]
    fresh = steps([7, 7, 7], 0.2, 9)
    placed = cut.progress(fitted.distances(fresh), 8.0)
    assert np.allclose(placed, np.repeat([0.0, 0.5, 1.0], 7), atol=0.05)


def test_a_constant_feature_and_a_short_video_are_no_traps() -> None:
    constant = [np.concatenate([each, np.ones((len(each), 1))], 1) for each in demonstrations()]
    fitted, _ = stages.fit(StagesConfig(stages=3, features=50), encoder(), constant)
    assert 5 not in fitted.chosen.tolist()
    with pytest.raises(InputError, match="demonstration 0 has 4 frames"):
        stages.fit(StagesConfig(stages=3), encoder(), [steps([2, 2])])
    with pytest.raises(InputError, match="do not vary"):
        stages.fit(StagesConfig(stages=2), encoder(), [np.ones((9, 3))])
