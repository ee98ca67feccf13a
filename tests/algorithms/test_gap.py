"""Estimators of the dynamics ratio: arithmetic, and a linear-Gaussian pair of domains whose ratio is known.

s' = A s + B a + 0.1 noise in both; the simulator's A differs by `difference`, and it visits other states and actions.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from robot_rl.functional import calibration, domains, dynamics_ratio
from robot_rl.networks.gap import Calibration, DomainClassifiers, RunningScale, Slope
from robot_rl.networks.initialize import Initialization

F, A, NOISE, BOUND = 3, 2, 0.1, 4.0
REAL_A = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [-0.1, 0.0, 0.9]])
REAL_B = torch.tensor([[0.1, 0.0], [0.0, 0.1], [0.1, 0.1]])
SHIFT = torch.tensor([[0.1, 0.0, 0.0], [0.0, -0.1, 0.0], [0.05, 0.0, 0.05]])


# Arithmetic -----------------------------------------------------------------------------------------------------------
def test_a_mean_over_a_domain_ignores_the_other_and_gives_it_no_gradient() -> None:
    value = torch.tensor([[1.0, 5.0, 100.0]], requires_grad=True)
    mean = domains.mean_of(value, torch.tensor([True, True, False]))
    torch.testing.assert_close(mean.detach(), torch.tensor([3.0]))
    mean.sum().backward()
    torch.testing.assert_close(value.grad, torch.tensor([[0.5, 0.5, 0.0]]))
    assert domains.mean_of(value, torch.tensor([False, False, False])).item() == 0.0


def test_the_error_of_both_domains_is_the_sum_of_their_means() -> None:
    # real rows 2 and 4: mean 3, times 0.5; simulated 10 and 20 with weights 1 and 0.1: (10 + 2) / 2 = 6
    error, real = torch.tensor([[2.0, 10.0, 4.0, 20.0]]), torch.tensor([True, False, True, False])
    weight = torch.tensor([9.0, 1.0, 9.0, 0.1])
    torch.testing.assert_close(domains.domain_error(error, real, weight, 0.5), torch.tensor([7.5]))
    with pytest.raises(ValueError, match="must be"):
        domains.domain_error(error, real, weight[:, None], 0.5)


def test_a_weight_of_zero_gives_its_row_alone_no_gradient() -> None:
    error = torch.ones(1, 4, requires_grad=True)
    real, weight = torch.tensor([True, False, False, False]), torch.tensor([1.0, 0.0, 0.5, 1.0])
    domains.domain_error(error, real, weight, 1.0).sum().backward()
    torch.testing.assert_close(error.grad, torch.tensor([[1.0, 0.0, 0.5 / 3, 1 / 3]]))


def test_classes_count_alike_whatever_their_numbers_and_held_out_rows_not_at_all() -> None:
    # sigmoid(log 3) = 3/4. Simulated: -log 3/4. Real, two rows: -log(1 - 3/4) and -log(1 - 1/2). The last is out
    logit = torch.tensor([math.log(3), math.log(3), 0.0, 50.0])
    real, counted = torch.tensor([False, True, True, True]), torch.tensor([True, True, True, False])
    wanted = -math.log(0.75) - (math.log(0.25) + math.log(0.5)) / 2
    torch.testing.assert_close(dynamics_ratio.classifier_loss(logit, real, counted, 0.0), torch.tensor(wanted))


def test_smoothing_makes_certainty_worth_nothing_more() -> None:
    logit = torch.tensor([math.log(19)], requires_grad=True)  # log(0.95 / 0.05)
    every = torch.ones(1, dtype=torch.bool)
    dynamics_ratio.classifier_loss(logit, ~every, every, 0.05).backward()
    torch.testing.assert_close(logit.grad, torch.zeros(1), atol=1e-6, rtol=0)


def test_what_the_robot_would_not_do_weighs_less_and_has_a_larger_gap() -> None:
    log_ratio = torch.tensor([-1.0, 0.0, math.log(4), 20.0])
    weight = dynamics_ratio.importance_weight(log_ratio, 1e-5, 1.0)
    torch.testing.assert_close(weight, torch.tensor([1.0, 1.0, 0.25, 1e-5]))
    gap = dynamics_ratio.dynamics_gap(torch.tensor([[1.0, 3.0], [-2.0, 0.0], [40.0, 60.0]]), 1e-3, 10.0)
    torch.testing.assert_close(gap, torch.tensor([2.0, 1e-3, 10.0]))


def test_the_penalty_is_the_formula_and_is_pulled_by_gap_and_value() -> None:
    # omega = (1/4, 3/4) of the simulated rows: log(1/4 e^2 + 3/4 e^1) - mean(5, 7)
    q = torch.tensor([[2.0, 5.0, 1.0, 7.0]], requires_grad=True)
    gap, real = torch.tensor([1.0, 99.0, 3.0, 99.0]), torch.tensor([False, True, False, True])
    wanted = math.log(0.25 * math.exp(2) + 0.75 * math.exp(1)) - 6.0
    penalty = dynamics_ratio.gap_penalty(q, gap, real, 1000.0)
    torch.testing.assert_close(penalty.detach(), torch.tensor([wanted]))
    penalty.sum().backward()
    torch.testing.assert_close(q.grad[0, [1, 3]], torch.tensor([-0.5, -0.5]))
    assert q.grad[0, [0, 2]].sum().item() == pytest.approx(1.0)
    assert dynamics_ratio.gap_penalty(10 * q, gap, real, 3.0).item() == pytest.approx(-3.0)


@pytest.mark.parametrize("of_robot", [True, False])
def test_the_penalty_is_off_where_a_domain_is_missing(of_robot: bool) -> None:
    q = torch.tensor([[2.0, 5.0]], requires_grad=True)
    penalty = dynamics_ratio.gap_penalty(q, torch.ones(2), torch.full((2,), of_robot), 1000.0)
    penalty.sum().backward()
    assert penalty.item() == 0.0
    torch.testing.assert_close(q.grad, torch.zeros(1, 2))


def test_shares_of_samples_that_count_and_that_are_at_the_bound() -> None:
    rows = torch.tensor([True, True, True, True, False])
    one = torch.tensor([1.0, 0.0, 0.0, 0.0, 7.0])
    torch.testing.assert_close(dynamics_ratio.effective_share(one, rows), torch.tensor(0.25))
    torch.testing.assert_close(dynamics_ratio.effective_share(torch.ones(5), rows), torch.tensor(1.0))
    log_ratio = torch.tensor([3.9, -3.9, 0.0, 3.0, 3.9])
    torch.testing.assert_close(dynamics_ratio.saturated_share(log_ratio, 4.0, rows), torch.tensor(0.5))
    torch.testing.assert_close(dynamics_ratio.effective_share(one, ~rows & False), torch.tensor(0.0))


# Calibration ----------------------------------------------------------------------------------------------------------
def test_area_and_calibration_error_by_hand() -> None:
    # class 0 in bins 0, 0, 1 and class 1 in bins 1, 1: of 6 pairs 4 are above and 2 tie, so (4 + 1) / 6
    negative, positive = torch.tensor([2.0, 1.0]), torch.tensor([0.0, 2.0])
    torch.testing.assert_close(calibration.area_under_curve(negative, positive), torch.tensor(5 / 6))
    torch.testing.assert_close(calibration.area_under_curve(0 * negative, positive), torch.tensor(0.5))
    # bins 0 and 1 at probability 0.3 and 0.8. Classes count one half each: bin 0 says 0.3 * (2/3) / 2 = 0.1 and is 0;
    # bin 1 says 0.8 * (1/3 + 1) / 2 = 0.5333 and is 1/2
    count = torch.stack([negative, positive])
    confidence = count * torch.tensor([0.3, 0.8])
    torch.testing.assert_close(calibration.calibration_error(count, confidence), torch.tensor(0.1 + 0.0333333))


def test_binning_counts_the_rows_that_are_held_out_only() -> None:
    probability = torch.tensor([0.0, 0.49, 0.51, 1.0, 0.2])
    count, confidence = calibration.binned(probability, torch.tensor([True, True, True, True, False]), 2)
    torch.testing.assert_close(count, torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(confidence, torch.tensor([0.49, 1.51]))


def test_calibration_tells_confident_nonsense_from_honest_doubt() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(4000, generator=generator) < 0.3  # unequal classes
    held_out = torch.ones(4000, dtype=torch.bool)
    doubtful, confident = Calibration(), Calibration()
    doubtful.observe(torch.zeros(4000), real, held_out)
    confident.observe(4 * torch.randn(4000, generator=generator).sign(), real, held_out)
    assert doubtful.error < 0.01
    assert confident.error > 0.45
    assert abs(float(confident.auc) - 0.5) < 0.05
    assert Calibration().error == 1.0  # nothing was seen


@pytest.mark.parametrize("parts", [1, 7])
def test_the_scale_is_that_of_the_rows_that_count_however_they_come(parts: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = 5 + 3 * torch.randn(70, 2, generator=generator)
    rows = torch.rand(70, generator=generator) < 0.5
    scale = RunningScale(2)
    for chunk, chosen in zip(values.chunk(parts), rows.chunk(parts), strict=True):
        scale.observe(chunk, chosen)
    torch.testing.assert_close(scale.mean, values[rows].mean(0))
    torch.testing.assert_close(scale.deviation, values[rows].std(0, correction=0))
    scale.observe(values, torch.zeros(70, dtype=torch.bool))
    torch.testing.assert_close(scale.count, rows.sum().float())
    torch.testing.assert_close(RunningScale(2).deviation, torch.ones(2))


# A pair of domains with a known ratio ---------------------------------------------------------------------------------
def states_and_actions(rows: int, generator: torch.Generator, *, real: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The simulator is visited elsewhere: what is different there must not be taken for different dynamics."""
    state = torch.randn(rows, F, generator=generator) + (0.0 if real else 0.5)
    return state, (torch.randn(rows, A, generator=generator) - (0.0 if real else 0.3)).clamp(-1, 1)


def follow(
    state: torch.Tensor, action: torch.Tensor, difference: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A next state, and its log-ratio log N(s'; sim) - log N(s'; real). Shapes: (*, F), (*, A) -> (*, F), (*)."""
    mean_real = state @ REAL_A.T + action @ REAL_B.T
    mean_sim = mean_real + difference * state @ SHIFT.T
    following = mean_sim + NOISE * torch.randn(state.shape, generator=generator)
    ratio = ((following - mean_real).square() - (following - mean_sim).square()).sum(-1) / (2 * NOISE**2)
    return following, ratio


@cache
def trained(
    difference: float, noise: float = 0.05, smoothing: float = 0.05, updates: int = 1000, robot_rows: int | None = None
) -> tuple[DomainClassifiers, RunningScale]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    scale = RunningScale(F)
    classifiers = DomainClassifiers(
        F, A, [64, 64], bound=BOUND, initialization=Initialization(output_gain=0.01), generator=generator
    )
    optimizer = torch.optim.Adam(classifiers.parameters(), lr=3e-3)
    if robot_rows is not None:
        recorded = states_and_actions(robot_rows, generator, real=True)
        reached, _ = follow(*recorded, 0.0, generator)
    for _ in range(updates):
        parts = []
        for real in (True, False):
            if real and robot_rows is not None:  # the same few again and again, an eighth of them held out
                rows = 8 * torch.randint(robot_rows // 8, (128,), generator=generator) + torch.arange(128) % 8
                state, action, following = recorded[0][rows], recorded[1][rows], reached[rows]
            else:
                state, action = states_and_actions(128, generator, real=real)
                following, _ = follow(state, action, 0.0 if real else difference, generator)
            parts.append((state, action, following - state))
        state, action, change = (torch.cat(each) for each in zip(*parts, strict=True))
        real_rows = torch.arange(256) < 128
        held_out = torch.arange(256) % 8 == 0
        scale.observe(change, real_rows)
        loss, _ = classifiers.loss(
            state,
            action,
            scale(change),
            real_rows,
            held_out,
            noise=noise,
            smoothing=smoothing,
            generator=generator,
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return classifiers, scale


def judged(difference: float, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """What the classifiers say of simulated transitions, and the truth."""
    classifiers, scale = trained(difference, **settings)
    generator = torch.Generator().manual_seed(1)
    state, action = states_and_actions(2000, generator, real=False)
    following, truth = follow(state, action, difference, generator)
    with torch.no_grad():
        found = classifiers.log_ratio(state, action, scale(following - state))
    return found.numpy(), truth.numpy()


def test_the_ratio_is_that_of_the_gaussians() -> None:
    found, truth = judged(1.0)
    inside = np.abs(truth) < 2.5  # beyond, smoothing bounds it
    assert np.corrcoef(found, truth)[0, 1] > 0.85
    slope = np.polyfit(truth[inside], found[inside], 1)[0]
    assert 0.5 < slope < 1.2


def test_noise_as_large_as_the_changes_destroys_the_ratio() -> None:
    clean, truth = judged(1.0)
    noisy, _ = judged(1.0, noise=1.0)
    assert np.polyfit(truth, noisy, 1)[0] < 0.5 * np.polyfit(truth, clean, 1)[0]


def test_a_larger_difference_makes_larger_gaps_and_smaller_weights() -> None:
    ratios = [torch.from_numpy(judged(each)[0]) for each in (0.5, 1.0, 2.0)]
    gaps = [float(each.mean()) for each in ratios]
    weights = [float(dynamics_ratio.importance_weight(each, 1e-5, 1.0).mean()) for each in ratios]
    assert 0 < gaps[0] < gaps[1] < gaps[2]
    assert weights[0] > weights[1] > weights[2]


def test_without_a_gap_nothing_is_weighed_down() -> None:
    found, truth = judged(0.0)
    assert np.all(truth == 0)
    assert np.abs(found).mean() < 0.15
    ratio = torch.from_numpy(found)
    weight = dynamics_ratio.importance_weight(ratio, 1e-5, 1.0)
    assert dynamics_ratio.effective_share(weight, torch.ones(len(ratio), dtype=torch.bool)) > 0.9
    classifiers, _ = trained(0.0)
    assert classifiers.calibration.error < 0.1


def test_held_out_transitions_show_how_well_domains_are_told_apart() -> None:
    near, far = trained(0.0)[0].calibration, trained(2.0)[0].calibration
    assert 0.55 < near.auc < 0.8  # other states and actions, which are not the dynamics
    assert far.auc > near.auc + 0.1
    assert far.error < 0.1


@pytest.mark.parametrize(
    ("overstated", "noise", "wanted"), [(1.0, 0.0, 1.0), (3.0, 0.0, 1 / 3), (0.5, 0.0, 1.0), (0.0, 1.0, 0.0)]
)
def test_the_slope_is_what_held_out_rows_bear_out(overstated: float, noise: float, wanted: float) -> None:
    generator = torch.Generator().manual_seed(0)
    slope, held_out = Slope(), torch.arange(256) % 4 != 0
    for _ in range(1500):
        log_odds, truth = torch.randn(2, 4096, generator=generator)
        simulated = torch.rand(4096, generator=generator) < torch.sigmoid(log_odds + truth)
        # as many of each domain: the slope counts them alike, and then the offset is right
        rows = torch.cat([simulated.nonzero()[:128, 0], (~simulated).nonzero()[:128, 0]])
        said = overstated * truth + noise * torch.randn(4096, generator=generator)
        said[rows[~held_out]] = 1e3  # what was learned from does not count
        slope.observe(log_odds[rows], said[rows], ~simulated[rows], held_out)
    assert float(slope.value) == pytest.approx(wanted, abs=0.12)


def test_without_held_out_rows_of_both_domains_the_slope_stays() -> None:
    slope, one = Slope(), torch.ones(4)
    slope.observe(0 * one, one, torch.tensor([True, True, False, False]), torch.tensor([True, True, False, False]))
    assert float(slope.value) == 0.0


def test_what_was_learned_by_heart_is_shrunk_and_a_gap_is_not() -> None:
    heart, _ = judged(0.0, robot_rows=480)
    shrunk = float(trained(0.0, robot_rows=480)[0].slope.value) * np.abs(heart).mean()
    assert np.abs(heart).mean() > 0.4  # a gap where there is none
    assert shrunk < 0.15
    assert float(trained(1.0, robot_rows=480)[0].slope.value) > 0.4


def test_what_states_and_actions_tell_alone_is_not_taken_for_the_dynamics() -> None:
    near, far = (trained(each)[0].visited for each in (0.0, 2.0))
    assert 0.55 < near.auc < 0.8
    assert float(far.auc) == pytest.approx(float(near.auc), abs=0.05)


ESTIMATORS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]] = {
    "one_sample": lambda change, state, action, generator: change.unsqueeze(1),
    "gaussian": lambda change, state, action, generator: dynamics_ratio.changes_around(change, 1.0, 10, generator),
    "resampled": lambda change, state, action, generator: (
        trained(1.0)[1](torch.cat([follow(state, action, 1.0, generator)[0] - state for _ in range(10)]))
        .unflatten(0, (10, -1))
        .transpose(0, 1)
    ),
}


def rank_correlation(estimator: str) -> float:
    """Of u with the divergence of the two Gaussians, |mean_sim - mean_real|^2 / (2 noise^2)."""
    classifiers, scale = trained(1.0)
    generator = torch.Generator().manual_seed(2)
    state, action = states_and_actions(1000, generator, real=False)
    following, _ = follow(state, action, 1.0, generator)
    divergence = (state @ SHIFT.T).square().sum(1) / (2 * NOISE**2)
    changes = ESTIMATORS[estimator](scale(following - state), state, action, generator)
    with torch.no_grad():
        gap = dynamics_ratio.dynamics_gap(classifiers.log_ratios(state, action, changes), 1e-3, 10.0)
    return float(spearmanr(gap.numpy(), divergence.numpy()).statistic)


def test_draws_of_the_simulator_estimate_the_gap_best_and_noise_worst() -> None:
    found = {name: rank_correlation(name) for name in ESTIMATORS}
    assert found["resampled"] > 0.65
    assert found["resampled"] > found["one_sample"] + 0.1
    assert found["one_sample"] > found["gaussian"] + 0.05
