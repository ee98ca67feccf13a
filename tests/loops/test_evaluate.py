"""What an episode says of a policy."""

import numpy as np
import pytest

from robot_rl.loops.evaluate import EpisodeResult, summarize
from robot_rl.types import Episode


def episode(success: list[bool] | None) -> Episode:
    return Episode(
        observation={"state": np.zeros((4, 1), np.float32)},
        action=np.zeros((3, 1)),
        reward=np.array([0.0, 1.0, -0.5]),
        terminated=np.zeros(3, bool),
        truncated=np.array([False, False, True]),
        success=None if success is None else np.array(success),
        metadata={"seed": 7},
    )


@pytest.mark.parametrize(
    ("declared", "expected"),
    [([False, True, False], True), ([False, False, True], True), ([False, False, False], False), (None, None)],
)
def test_trap_10_success_at_any_step_counts_as_success(declared, expected) -> None:
    assert EpisodeResult.of(episode(declared)).success is expected


def test_the_return_is_the_undiscounted_native_reward() -> None:
    result = EpisodeResult.of(episode(None))
    assert (result.seed, result.episode_return, result.length) == (7, 0.5, 3)  # 0 + 1 - 0.5


def test_without_declared_success_there_is_no_success_rate() -> None:
    results = [EpisodeResult.of(episode(success)) for success in ([True] * 3, None)]
    assert "success_rate" not in summarize(results)
    assert summarize(results[:1])["success_rate"] == 1.0
