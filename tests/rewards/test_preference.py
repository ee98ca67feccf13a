"""Rewards from comparisons: the loss, the pairs, the answers, the ensemble."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.errors import InputError
from robot_rl.functional.preference import preference_accuracy, preference_loss
from robot_rl.networks.vision.augmentation import AugmentationConfig
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.rewards import preference, prompts
from robot_rl.rewards.preference import PreferenceConfig, agreed, draw_pairs, preferred
from robot_rl.rewards.settings import FitConfig
from robot_rl.rewards.split import split_episodes
from robot_rl.seeding import Seeds
from robot_rl.types import Array


def test_the_loss_by_hand() -> None:
    # margins 1 and -2; the second is preferred in both: log(1 + e^-1) and log(1 + e^2), the mean, of one member
    loss, metrics = preference_loss(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 1.0]))
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(2))) / 2
    assert float(loss) == pytest.approx(expected)
    assert float(metrics["preference/accuracy"]) == 0.5


def test_members_are_summed_and_ties_ask_for_equal_rewards() -> None:
    one = torch.tensor([[0.0]])
    two = torch.cat([one, one])
    assert float(preference_loss(two, two, torch.tensor([1.0]))[0]) == pytest.approx(2 * math.log(2))
    apart = torch.tensor([[3.0]], requires_grad=True)
    preference_loss(one, apart, torch.tensor([0.5]))[0].backward()  # type: ignore[no-untyped-call]  # torch
    assert apart.grad is not None
    assert float(apart.grad) > 0  # downhill is back to the other's


def test_accuracy_counts_neither_ties_nor_margins_of_zero() -> None:
    first, second = torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[1.0, -1.0, 0.0]])
    assert float(preference_accuracy(first, second, torch.tensor([1.0, 0.5, 1.0]))) == 0.5
    assert math.isnan(float(preference_accuracy(first, second, torch.full((3,), 0.5))))


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(E, B\)"):
        preference_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2))


# Pairs ----------------------------------------------------------------------------------------------------------------
def test_no_pair_joins_what_is_learned_to_what_is_held_out() -> None:
    learning, held_out = np.arange(50), np.arange(50, 70)
    pairs = draw_pairs(learning, held_out, 100, 0.3, np.random.default_rng(0))
    assert all(({pair.first, pair.second} <= set(range(50, 70))) == pair.held_out for pair in pairs)
    assert all(pair.held_out or max(pair.first, pair.second) < 50 for pair in pairs)
    keys = {(min(pair.first, pair.second), max(pair.first, pair.second)) for pair in pairs}
    assert len(keys) == 100
    assert 15 < sum(pair.held_out for pair in pairs) < 45


def test_more_pairs_begin_with_those_that_were_bought() -> None:
    few, many = (draw_pairs(np.arange(50), np.arange(50, 70), n, 0.2, np.random.default_rng(1)) for n in (10, 30))
    assert many[:10] == few


def test_more_pairs_than_there_are_is_said() -> None:
    with pytest.raises(InputError, match=r"too few pairs for label\.pairs=9"):
        draw_pairs(np.arange(2), np.arange(2, 4), 9, 0.5, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("answer", "exchanged", "expected"),
    [(0, 1, 0), (1, 0, 1), (-1, -1, -1), (0, 0, -1), (1, 1, -1), (0, -1, -1), (None, 1, None), (1, None, None)],
)
def test_both_orders_have_to_agree(answer: int | None, exchanged: int | None, expected: int | None) -> None:
    assert agreed(answer, exchanged) == expected


def test_ties_are_dropped_or_halves() -> None:
    assert np.isnan(preferred([-1, 0, 1], "drop")[0])
    assert preferred([-1, 0, 1], "equal").tolist() == [0.5, 0.0, 1.0]


@given(st.integers(6, 40), st.integers(0, 2**31), st.floats(0.1, 0.4))
def test_a_split_has_every_episode_once_and_copies_together(count: int, seed: int, share: float) -> None:
    digests = [f"{index // 2}" for index in range(count)]  # pairs of copies
    successful = [index % 4 < 2 for index in range(count)]
    shares = {"learn": 1 - share, "held_out": share}
    parts = split_episodes(digests, successful, shares, np.random.default_rng(seed))
    assert sorted(parts["learn"] + parts["held_out"]) == list(range(count))
    assert not {digests[i] for i in parts["learn"]} & {digests[i] for i in parts["held_out"]}
    assert all(any(successful[i] for i in part) for part in parts.values())


def test_too_few_successes_for_the_parts_are_named() -> None:
    with pytest.raises(InputError, match="there are 1 different episodes with a success"):
        split_episodes(["a", "b"], [True, False], {"learn": 0.5, "test": 0.5}, np.random.default_rng(0))


# Answers --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", 1),
        (" 0 \n", 0),
        ("**-1**", -1),
        ("Picture B is closer.\n\n1\n", 1),
        ("0\nBecause of A.", 0),
        ("The answer is 1.", 1),
        ("0 or 1?", None),
        ("It moved 1.5 cm", None),
        ("10", None),
        ("", None),
        ("neither", None),
    ],
)
def test_an_answer_is_read_or_it_is_none(text: str, expected: int | None) -> None:
    assert prompts.read(text) == expected


# The ensemble ---------------------------------------------------------------------------------------------------------
CONFIG = PreferenceConfig(
    vision=VisionConfig(channels=[4, 8], kernels=[3, 3], strides=[2, 2], padding=True),
    image_size=[8, 8],
    hidden=[16],
    members=2,
    augmentation=AugmentationConfig(shift=0),
    fit=FitConfig(steps=60, batch=16, learning_rate=3e-3),
)


def bright(rows: Array) -> torch.Tensor:
    """Images whose brightness is their number."""
    return torch.from_numpy(
        np.broadcast_to(rows[:, None, None, None] * 4, (len(rows), 8, 8, 3)).astype(np.uint8).copy()
    )


def test_the_reward_orders_images_as_the_pairs_do_and_survives_its_file() -> None:
    generator = np.random.default_rng(0)
    pairs = generator.permuted(np.stack([np.arange(60), np.arange(60)[::-1]], 1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    target = (pairs[:, 1] > pairs[:, 0]).astype(float)
    steps: list[int] = []
    reward = preference.fit(
        CONFIG, bright, pairs, target, Seeds(0), torch.device("cpu"), lambda step, _: steps.append(step)
    )
    assert steps == list(range(1, 61))
    fresh = np.stack([np.arange(0, 50), np.arange(10, 60)], 1)
    assert preference.accuracy(reward, bright, fresh, np.ones(50)) > 0.9
    assert np.corrcoef(reward.score(bright(np.arange(60))), np.arange(60))[0, 1] > 0.9
    again = preference.PreferenceReward.unpack(*reward.pack())
    assert np.array_equal(again.score(bright(np.arange(5))), reward.score(bright(np.arange(5))))
