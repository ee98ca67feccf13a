"""Arithmetic of every loss, worked out in comments, and its limit cases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robot_rl.algorithms import bc, iql
from robot_rl.functional import entropy, gaussian, tanh_gaussian
from robot_rl.functional.bellman import expectile, monte_carlo_return, squared_td_error, td_target
from robot_rl.functional.conservative import conservative_difference, lagrange_loss
from robot_rl.functional.ensemble import disagreement_weight, random_heads, upper_bound
from robot_rl.functional.polyak import polyak_update


def close(found: Tensor, expected: Tensor | float | list[float], tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=tolerance, atol=tolerance)


# Values ---------------------------------------------------------------------------------------------------------------
def test_td_target() -> None:
    # 1 + 0.9 * 10 = 10;  after a termination the discount is 0, and 2 + 0 * 100 = 2
    close(td_target(torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.0]), torch.tensor([10.0, 100.0])), [10.0, 2.0])


def test_squared_td_error_is_one_number_per_critic() -> None:
    # targets 1, 3. Critic 0: (0-1)^2 = 1, (3-3)^2 = 0, mean 0.5. Critic 1: (2-1)^2 = 1, (1-3)^2 = 4, mean 2.5
    q = torch.tensor([[0.0, 3.0], [2.0, 1.0]])
    close(squared_td_error(q, torch.tensor([1.0, 3.0])), [0.5, 2.5])


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), (1,)])
def test_shapes_that_would_broadcast_are_refused(shape: tuple[int, ...]) -> None:
    three, wrong = torch.zeros(3), torch.zeros(shape)
    with pytest.raises(ValueError, match=r"\(B,\)"):
        td_target(three, three, wrong)
    with pytest.raises(ValueError, match=r"\(E, B\)"):
        squared_td_error(torch.zeros(2, 3), wrong)
    with pytest.raises(ValueError, match=r"\(B,\)"):
        iql.value_loss(three, wrong, 0.7)
    with pytest.raises(ValueError, match=r"\(B,\)"):
        iql.actor_loss(three, wrong, 1.0, 100.0)
    with pytest.raises(ValueError, match=r"\(B,\)"):
        entropy.actor_loss(torch.zeros(2, 3), wrong, torch.tensor(1.0), reduction="min")
    with pytest.raises(ValueError, match=r"\(K, B, N\)"):
        entropy.soft_value(torch.zeros(2, 3, 4), wrong, torch.tensor(1.0), reduction="min", backup_entropy=True)


def test_polyak_goes_the_given_part_of_the_way() -> None:
    # 0.25 of the way from 2 to 10 is 4
    target, source = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(target.weight, 2.0)
    nn.init.constant_(source.weight, 10.0)
    polyak_update(target, source, 0.25)
    close(target.weight.detach(), [[4.0]])
    close(source.weight.detach(), [[10.0]])


def test_a_terminated_episode_returns_what_it_collected() -> None:
    # discount 0.5, rewards 1, 0, 4:  G_2 = 4, G_1 = 0 + 2 = 2, G_0 = 1 + 1 = 2; the tail does not count
    close(monte_carlo_return(torch.tensor([1.0, 0.0, 4.0]), True, 0.5, tail_value=1000.0), [2.0, 2.0, 4.0])


def test_a_truncated_episode_returns_its_tail_too() -> None:
    # discount 0.5, rewards 1, 1, tail 8:  G_1 = 1 + 4 = 5, G_0 = 1 + 2.5 = 3.5
    close(monte_carlo_return(torch.tensor([1.0, 1.0]), False, 0.5, tail_value=8.0), [3.5, 5.0])


@settings(deadline=None)  # on a busy machine
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20), st.floats(0, 0.99), st.floats(-100, 100), st.booleans())
def test_monte_carlo_return_satisfies_its_recursion(
    rewards: list[float], discount: float, tail: float, terminated: bool
) -> None:
    reward = torch.tensor(rewards, dtype=torch.float64)
    returns = monte_carlo_return(reward, terminated, discount, tail)
    following = torch.cat([returns[1:], torch.tensor([0.0 if terminated else tail], dtype=torch.float64)])
    close(returns, reward + discount * following, 1e-9)


# Distributions --------------------------------------------------------------------------------------------------------
def test_gaussian_log_prob() -> None:
    # N(1; 0, 1) = exp(-1/2) / sqrt(2 pi): log = -0.5 - 0.918939 = -1.418939; with deviation e, value e: 1 lower
    close(gaussian.log_prob(torch.zeros(1), torch.zeros(1), torch.ones(1)), -1.4189385)
    close(gaussian.log_prob(torch.zeros(1), torch.ones(1), torch.tensor([math.e])), -2.4189385)
    # two independent dimensions add
    close(gaussian.log_prob(torch.zeros(2), torch.zeros(2), torch.ones(2)), 2 * -1.4189385)


def test_tanh_gaussian_log_prob() -> None:
    # a = 0: u = 0, log N(0) = -0.918939, log(1 - 0) = 0
    close(tanh_gaussian.log_prob(torch.zeros(1), torch.zeros(1), torch.zeros(1)), -0.9189385)
    # a = 0.5: u = atanh 0.5 = 0.549306, log N = -0.918939 - 0.150869, minus log(1 - 0.25) = -0.287682
    close(
        tanh_gaussian.log_prob(torch.zeros(1), torch.zeros(1), torch.tensor([0.5])), -0.9189385 - 0.1508685 + 0.2876821
    )


def test_tanh_gaussian_density_integrates_to_one() -> None:
    edges = torch.linspace(-1, 1, 20_001, dtype=torch.float64)
    middle = ((edges[1:] + edges[:-1]) / 2)[:, None]
    mean, log_std = torch.full_like(middle, 0.4), torch.full_like(middle, -0.7)
    density = tanh_gaussian.log_prob(mean, log_std, middle).exp()
    close(density.sum() * (edges[1] - edges[0]), 1.0, 1e-4)


def test_sampled_and_given_actions_have_the_same_density() -> None:
    mean, log_std = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)).double(), torch.full((64, 3), -0.5)
    action, log_prob = tanh_gaussian.sample(mean, log_std.double(), torch.Generator().manual_seed(1))
    close(tanh_gaussian.log_prob(mean, log_std.double(), action), log_prob, 1e-6)


def test_gradients_of_a_sample_are_those_of_finite_differences() -> None:
    draws = torch.Generator().manual_seed(0)
    mean, log_std = (torch.randn(4, 3, generator=draws, dtype=torch.float64).requires_grad_() for _ in range(2))

    def sample(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        return tanh_gaussian.sample(mean, log_std, torch.Generator().manual_seed(1))

    assert torch.autograd.gradcheck(sample, (mean, log_std))
    with torch.no_grad():
        plain = sample(mean, log_std)
    for found, expected in zip(sample(mean, log_std), plain, strict=True):
        close(found, expected, 1e-12)


def test_squashing_agrees_with_torch() -> None:
    mean, log_std = torch.tensor([[0.3, -1.0]]), torch.tensor([[-0.2, 0.1]])
    action = torch.tensor([[0.7, -0.9]])
    normal = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
    close(tanh_gaussian.log_prob(mean, log_std, action), squashed.log_prob(action).sum(dim=-1), 1e-5)


# Soft actor-critic ----------------------------------------------------------------------------------------------------
def test_next_state_value_is_the_minimum_minus_the_entropy_cost() -> None:
    # one action, two critics: min(3, 5) = 3, and 3 - 0.5 * (-2) = 4
    q, log_prob, temperature = torch.tensor([[[3.0]], [[5.0]]]), torch.tensor([[-2.0]]), torch.tensor(0.5)
    close(entropy.soft_value(q, log_prob, temperature, reduction="min", backup_entropy=True), [4.0])
    close(entropy.soft_value(q, log_prob, temperature, reduction="min", backup_entropy=False), [3.0])


def test_next_state_value_takes_the_best_action_of_the_worst_critic() -> None:
    # critics agree on nothing: min over critics of action 0 is 1, of action 1 is 2; the best is action 1, log prob -4
    q, log_prob = torch.tensor([[[1.0, 9.0]], [[8.0, 2.0]]]), torch.tensor([[-1.0, -4.0]])
    close(entropy.soft_value(q, log_prob, torch.tensor(1.0), reduction="min", backup_entropy=False), [2.0])
    close(entropy.soft_value(q, log_prob, torch.tensor(1.0), reduction="min", backup_entropy=True), [6.0])


def test_next_state_value_of_the_best_action_of_each_critic() -> None:
    # critic 0 is best at action 1, with 9; critic 1 at action 0, with 8: the minimum of their best is 8, that of one
    # action at most 2
    q, log_prob = torch.tensor([[[1.0, 9.0]], [[8.0, 2.0]]]), torch.tensor([[-1.0, -4.0]])
    close(
        entropy.soft_value(q, log_prob, torch.tensor(1.0), reduction="min", backup_entropy=False, best_of="each"), [8]
    )
    with pytest.raises(ValueError, match="no one entropy"):
        entropy.soft_value(q, log_prob, torch.tensor(1.0), reduction="min", backup_entropy=True, best_of="each")


def test_actor_loss_by_either_reduction() -> None:
    # row 0: Q 1, 3; row 1: Q 4, 0. Log probs -1, 2, temperature 0.5: -0.5, 1.
    # min: mean(-0.5 - 1, 1 - 0) = -0.25.  mean: mean(-0.5 - 2, 1 - 2) = -1.75
    q, log_prob = torch.tensor([[1.0, 4.0], [3.0, 0.0]]), torch.tensor([-1.0, 2.0])
    close(entropy.actor_loss(q, log_prob, torch.tensor(0.5), reduction="min"), -0.25)
    close(entropy.actor_loss(q, log_prob, torch.tensor(0.5), reduction="mean"), -1.75)


def test_temperature_falls_while_entropy_exceeds_its_target() -> None:
    # entropy 1.5 against a target of -2: loss 0.2 * 3.5 = 0.7, slope 3.5 > 0, so a descent lowers the temperature
    temperature = torch.tensor(0.2, requires_grad=True)
    loss = entropy.temperature_loss(temperature, torch.tensor([-1.0, -2.0]), target_entropy=-2.0)
    loss.backward()
    close(loss.detach(), 0.7)
    assert temperature.grad is not None
    close(temperature.grad, 3.5)


def test_the_logarithm_of_the_temperature_is_a_factor_of_constant_slope() -> None:
    # log 0.2 * 3.5 = -5.633033; its slope by the logarithm is 3.5 at any temperature, 0.7 by the temperature itself
    for factor, loss, slope in (("logarithm", -5.6330328, 3.5), ("temperature", 0.7, 0.7)):
        logarithm = torch.tensor(math.log(0.2), requires_grad=True)
        found = entropy.temperature_loss(logarithm.exp(), torch.tensor([-1.0, -2.0]), -2.0, factor=factor)
        found.backward()
        close(found.detach(), loss)
        assert logarithm.grad is not None
        close(logarithm.grad, slope)


@settings(deadline=None)  # on a busy machine
@given(st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.integers(0, 2**31))
def test_a_random_subset_of_critics_has_no_repeats(sizes: tuple[int, int], seed: int) -> None:
    count, subset = sizes
    heads = random_heads(count, subset, with_replacement=False, generator=torch.Generator().manual_seed(seed))
    assert len(set(heads.tolist())) == subset
    assert set(heads.tolist()) <= set(range(count))


def test_every_critic_is_drawn_equally_often() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.cat([random_heads(5, 2, with_replacement=False, generator=generator) for _ in range(5000)])
    share = torch.bincount(draws, minlength=5) / len(draws)
    assert (share - 0.2).abs().max() < 0.02


# Conservative term ----------------------------------------------------------------------------------------------------
def term(**changed: object) -> Tensor:
    """One critic, one row, one sample of each kind: Q 1 (data), 2 (uniform), 3 (current), 4 (next); A = 1."""
    arguments: dict[str, object] = {
        "q_data": torch.tensor([[1.0]]),
        "q_random": torch.tensor([[[2.0]]]),
        "q_current": torch.tensor([[[3.0]]]),
        "q_next": torch.tensor([[[4.0]]]),
        "log_prob_current": torch.tensor([[0.5]]),
        "log_prob_next": torch.tensor([[-0.5]]),
        "action_size": 1,
        "temperature": 1.0,
        "importance_sampling": True,
        "subtract_log_count": False,
        "lower_bound": None,
    }
    return conservative_difference(**(arguments | changed))  # type: ignore[arg-type]  # typed in the function


def test_conservative_difference_with_importance_sampling() -> None:
    # terms 2 + log 2 = 2.693147, 3 - 0.5 = 2.5, 4 + 0.5 = 4.5; log(e^2.693147 + e^2.5 + e^4.5) = log 116.977705
    # = 4.761983; minus Q of the data, 1
    close(term(), [[3.7619834]], 1e-5)


def test_conservative_difference_without_importance_sampling() -> None:
    # log(e^2 + e^1 + e^4 + e^3) = log 84.791024 = 4.440190; minus 1. The offset: 4 terms, log 4 = 1.386294
    close(term(importance_sampling=False), [[3.4401897]], 1e-5)
    close(term(importance_sampling=False, subtract_log_count=True), [[3.4401897 - 1.3862944]], 1e-5)


def test_conservative_difference_approaches_the_maximum_as_the_temperature_falls() -> None:
    close(term(importance_sampling=False, temperature=1e-3), [[4.0 - 1.0]], 1e-5)


def test_calibration_lifts_only_the_policys_actions() -> None:
    # floor 3.5 lifts Q 3 (current) to 3.5 and leaves 4 (next), 2 (uniform) and the data's 1 alone:
    # 2.693147, 3.5 - 0.5 = 3, 4.5: log(14.778112 + 20.085537 + 90.017131) = 4.827360; minus 1
    close(term(lower_bound=torch.tensor([3.5])), [[3.8273603]], 1e-5)
    # without densities: log(e^2 + e^1 + e^4 + e^3.5) = log 97.820926 = 4.583139; minus 1
    close(term(lower_bound=torch.tensor([3.5]), importance_sampling=False), [[3.5831389]], 1e-5)


def test_a_bound_of_minus_infinity_is_plain_cql() -> None:
    close(term(lower_bound=torch.tensor([-math.inf])), term())


def test_a_floored_action_is_not_pushed_down() -> None:
    q_current = torch.tensor([[[3.0]]], requires_grad=True)
    q_random = torch.tensor([[[2.0]]], requires_grad=True)
    term(q_current=q_current, q_random=q_random, lower_bound=torch.tensor([10.0])).sum().backward()
    assert q_current.grad is not None
    assert q_random.grad is not None
    assert q_current.grad.item() == 0
    assert q_random.grad.item() > 0


@pytest.mark.parametrize("importance_sampling", [True, False])
@pytest.mark.parametrize("calibrated", [True, False])
def test_conservative_difference_equals_numpy(importance_sampling: bool, calibrated: bool) -> None:
    E, B, N, A, T = 3, 5, 10, 4, 1.7
    random = np.random.default_rng(0)
    data, (uniform, current, following) = random.normal(size=(E, B)), 3 * random.normal(size=(3, E, B, N))
    log_current, log_next, floor = random.normal(size=(B, N)), random.normal(size=(B, N)), random.normal(size=B)
    expected = np.empty((E, B))
    for i in range(E):
        for b in range(B):
            total = 0.0 if importance_sampling else np.exp(data[i, b] / T)
            for n in range(N):
                at_current, at_next = current[i, b, n], following[i, b, n]
                if calibrated:
                    at_current, at_next = max(at_current, floor[b]), max(at_next, floor[b])
                density = (
                    (0.5**A, np.exp(log_current[b, n]), np.exp(log_next[b, n])) if importance_sampling else (1, 1, 1)
                )
                for q, p in zip((uniform[i, b, n], at_current, at_next), density, strict=True):
                    total += np.exp((q - np.log(p)) / T)
            expected[i, b] = T * np.log(total) - data[i, b]
    tensors = [torch.from_numpy(each) for each in (data, uniform, current, following)]
    found = conservative_difference(
        *tensors,
        log_prob_current=torch.from_numpy(log_current),
        log_prob_next=torch.from_numpy(log_next),
        action_size=A,
        temperature=T,
        importance_sampling=importance_sampling,
        subtract_log_count=False,
        lower_bound=torch.from_numpy(floor) if calibrated else None,
    )
    close(found, torch.from_numpy(expected), 1e-9)


@pytest.mark.parametrize("name", ["q_data", "q_current", "q_next", "log_prob_current", "log_prob_next", "lower_bound"])
def test_conservative_difference_refuses_shapes_that_would_broadcast(name: str) -> None:
    with pytest.raises(ValueError, match="shape"):
        term(**{name: torch.zeros(2, 1, 1)})


def test_the_lagrange_multiplier_grows_while_the_difference_exceeds_the_gap() -> None:
    # multiplier 2, weight 5, differences 1 and 3, gap 0.8: -mean(2 * 5 * (0.2, 2.2)) = -12; slope -5 * 1.2 = -6
    multiplier = torch.tensor(2.0, requires_grad=True)
    loss = lagrange_loss(multiplier, 5.0, torch.tensor([1.0, 3.0], requires_grad=True), 0.8)
    loss.backward()
    close(loss.detach(), -12.0)
    assert multiplier.grad is not None
    close(multiplier.grad, -6.0)


# IQL ------------------------------------------------------------------------------------------------------------------
def test_expectile_weighs_the_sides() -> None:
    # 0.7 * 2^2 = 2.8 above, 0.3 * 2^2 = 1.2 below
    close(expectile(torch.tensor([2.0, -2.0]), 0.7), [2.8, 1.2])


def test_an_expectile_of_one_half_is_half_the_squared_error() -> None:
    q, v = torch.tensor([1.0, -3.0, 0.5]), torch.tensor([0.0, 1.0, 2.0])
    close(iql.value_loss(q, v, 0.5), 0.5 * torch.nn.functional.mse_loss(v, q))


def test_a_high_expectile_finds_the_maximum() -> None:
    # the minimiser v of 0.99 (1 - v)^2 + 0.01 (0 - v)^2 is 0.99
    v = torch.tensor([0.99, 0.99], requires_grad=True)
    iql.value_loss(torch.tensor([1.0, 0.0]), v, 0.99).backward()
    assert v.grad is not None
    close(v.grad.sum(), 0.0)


def test_iql_value_loss() -> None:
    # u = 2 - 1 = 1, 0 - 2 = -2:  mean(0.7 * 1, 0.3 * 4) = 0.95
    close(iql.value_loss(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 2.0]), 0.7), 0.95)


def test_iql_critic_loss_sums_over_critics() -> None:
    # y = 1 + 0.9 * 10 = 10 and 2: critic 0 off by 1, 0: 0.5; critic 1 off by 0, 2: 2
    q = torch.tensor([[9.0, 2.0], [10.0, 4.0]])
    close(
        iql.critic_loss(q[..., None], torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.0]), torch.tensor([10.0, 5.0])),
        2.5,
    )


def test_iql_actor_loss() -> None:
    # weights exp(2 * 0.5) = 2.718282 and exp(2 * 10) -> 100: -mean(2.718282 * -1, 100 * -3) = 151.359141
    close(iql.actor_loss(torch.tensor([-1.0, -3.0]), torch.tensor([0.5, 10.0]), 2.0, 100.0), 151.359141)


def test_without_inverse_temperature_iql_clones() -> None:
    log_prob = torch.tensor([-1.0, -3.0])
    close(iql.actor_loss(log_prob, torch.tensor([5.0, -5.0]), 0.0, 100.0), bc.likelihood_loss(log_prob))


# Behaviour cloning ----------------------------------------------------------------------------------------------------
def test_cloning_losses() -> None:
    close(bc.likelihood_loss(torch.tensor([-1.0, -3.0])), 2.0)
    # |(1, 1) - (0, 0)|^2 = 2, |(0, 0) - (0, 2)|^2 = 4: mean 3
    close(bc.squared_error_loss(torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])), 3.0)
    with pytest.raises(ValueError, match="same shape"):
        bc.squared_error_loss(torch.zeros(3, 2), torch.zeros(3, 1))


# Ensembles ------------------------------------------------------------------------------------------------------------
def test_rows_on_which_critics_disagree_weigh_less() -> None:
    # std of (1, 1) is 0: sigmoid(0) + 0.5 = 1; of (0, 2) it is 1: sigmoid(-2) + 0.5 = 0.619203
    q = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    close(disagreement_weight(q, 2.0), [1.0, 0.619203])


def test_the_upper_bound_is_mean_plus_deviations() -> None:
    # mean 1, std 1: 1 + 3 * 1 = 4; mean 2, std 0: 2
    close(upper_bound(torch.tensor([[0.0, 2.0], [2.0, 2.0]]), 3.0), [4.0, 2.0])


def test_weighted_td_errors() -> None:
    # squared errors 1 and 4, weights 0.5 and 1: (0.5 + 4) / 2 = 2.25
    q, target, weight = torch.tensor([[1.0, 2.0]]), torch.zeros(2), torch.tensor([0.5, 1.0])
    close(squared_td_error(q, target, weight), [2.25])
