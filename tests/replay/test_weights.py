"""Good episodes are sampled more often, by as much as the formulas say."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.errors import InputError
from robot_rl.replay.weights import (
    advantage_weights,
    effective_episodes,
    effective_transitions,
    initial_values,
    return_weights,
    transition_probabilities,
    weighted_mean_return,
)

RETURNS = st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=30)


def test_weights_of_three_episodes_are_those_of_the_formula() -> None:
    # returns 0, 5, 10 scaled to 0, 0.5, 1; temperature 0.5: exp(0), exp(1), exp(2) = 1, 2.71828, 7.38906
    weights = return_weights(np.asarray([0.0, 5.0, 10.0]), np.asarray([1, 1, 1]), 0.5)
    np.testing.assert_allclose(weights / weights[0], [1.0, 2.71828183, 7.3890561])
    assert weights.mean() == pytest.approx(1.0)


def test_a_transition_of_a_longer_episode_weighs_the_same() -> None:
    returns, lengths = np.asarray([1.0, 1.0, 0.0]), np.asarray([10, 30, 20])
    weights = return_weights(returns, lengths, 0.1)
    assert weights[0] == weights[1] > weights[2]
    probabilities = transition_probabilities(weights, lengths)
    assert (probabilities * lengths).sum() == pytest.approx(1.0)
    assert (probabilities * lengths)[1] == pytest.approx(3 * (probabilities * lengths)[0])


@given(RETURNS, st.floats(0.05, 100.0), st.integers(0, 1000))
def test_weights_have_mean_one_and_never_lower_the_mean_return(
    returns: list[float], temperature: float, seed: int
) -> None:
    values = np.asarray(returns)
    lengths = np.random.default_rng(seed).integers(1, 50, len(values))
    weights = return_weights(values, lengths, temperature)
    assert (weights * lengths).sum() / lengths.sum() == pytest.approx(1.0)
    plain = weighted_mean_return(values, np.ones(len(values)), lengths)
    assert weighted_mean_return(values, weights, lengths) >= plain - 1e-6 * max(1.0, abs(plain))
    assert 1.0 - 1e-9 <= effective_episodes(weights, lengths) <= len(values) + 1e-9
    assert 1.0 - 1e-9 <= effective_transitions(weights, lengths) <= lengths.sum() * (1 + 1e-9)


def test_equal_returns_and_a_high_temperature_give_uniform_sampling() -> None:
    lengths = np.asarray([3, 4, 5])
    np.testing.assert_array_equal(return_weights(np.full(3, 7.0), lengths), np.ones(3))
    np.testing.assert_allclose(return_weights(np.asarray([0.0, 1.0, 2.0]), lengths, 1e9), np.ones(3))


def test_effective_sizes_of_known_weights() -> None:
    # shares 2 * 3 = 6 and 1 * 2 = 2: (6 + 2)^2 / (36 + 4) = 1.6; transitions: 8^2 / (4 * 3 + 1 * 2) = 64 / 14
    weights, lengths = np.asarray([2.0, 1.0]), np.asarray([3, 2])
    assert effective_episodes(weights, lengths) == pytest.approx(1.6)
    assert effective_transitions(weights, lengths) == pytest.approx(64 / 14)
    assert effective_episodes(np.ones(5), np.full(5, 7)) == pytest.approx(5.0)


def test_an_easy_start_is_no_merit() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(200, 3))
    skill = rng.normal(size=200) * 0.1
    returns = 5.0 * start[:, 0] + skill
    lengths = np.full(200, 10)
    advantage = advantage_weights(returns, start, lengths, 0.3)
    plain = return_weights(returns, lengths, 0.3)
    assert np.corrcoef(np.log(advantage), skill)[0, 1] > 0.95
    assert np.corrcoef(np.log(plain), skill)[0, 1] < 0.3


def test_few_episodes_do_not_lose_their_advantage_to_an_exact_fit() -> None:
    rng = np.random.default_rng(1)
    start, returns = rng.normal(size=(25, 45)), rng.normal(size=25)
    advantage = returns - initial_values(start, returns)
    assert advantage.std() > 0.5 * returns.std()  # least squares would leave 0
    np.testing.assert_array_equal(initial_values(np.zeros((4, 2)), np.arange(4.0)), np.full(4, 1.5))


def test_a_value_that_the_start_does_tell_is_found() -> None:
    rng = np.random.default_rng(2)
    start = rng.normal(size=(40, 2))
    returns = start @ [2.0, -1.0] + 0.01 * rng.normal(size=40)
    assert np.abs(initial_values(start, returns) - returns).max() < 0.5


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match="must be positive"):
        return_weights(np.arange(3.0), np.ones(3), 0.0)
    with pytest.raises(InputError, match="NaN or infinite"):
        return_weights(np.asarray([1.0, np.nan]), np.ones(2))


def test_sampling_by_the_probabilities_gives_these_shares() -> None:
    returns, lengths = np.asarray([0.0, 1.0]), np.asarray([30, 10])
    probabilities = np.repeat(transition_probabilities(return_weights(returns, lengths, 1.0), lengths), lengths)
    drawn = torch.multinomial(
        torch.from_numpy(probabilities), 20_000, replacement=True, generator=torch.Generator().manual_seed(0)
    )
    # episode 1 has 10 of 40 steps at e times the weight: 10 e / (30 + 10 e) = 0.4754
    assert float((drawn >= 30).double().mean()) == pytest.approx(0.4754, abs=0.01)
