"""The soft actor-critic agent: what its settings switch, and the traps of its public versions."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robot_rl.algorithms import SACConfig, sac, with_overrides
from robot_rl.algorithms.sac import SAC
from robot_rl.errors import InputError
from robot_rl.functional import tanh_gaussian
from robot_rl.functional.bellman import monte_carlo_return
from robot_rl.functional.ensemble import random_heads
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch

CPU = torch.device("cpu")
MakeBatch = Callable[..., Batch]
SMALL = {"actor_hidden": [16, 16], "critic_hidden": [16, 16]}
STILL = {"actor_learning_rate": 0.0, "critic_learning_rate": 0.0, "temperature_learning_rate": 0.0, "target_rate": 0.0}


def agent(spec: Spec, **settings: object) -> SAC:
    return sac.create(SACConfig(**(SMALL | settings)), spec, Seeds(0), CPU, None)


def weights(of: SAC) -> Tensor:
    networks = (of.actor, of.critic, of.target_critic, of.temperature)
    return torch.cat([each.detach().flatten() for network in networks for each in network.parameters()])


def after_updates(of: SAC, make_batch: MakeBatch, **changed: Tensor) -> Tensor:
    for step in range(3):
        of.update(replace(make_batch(8, step), **changed))
    return weights(of)


# Limit cases ----------------------------------------------------------------------------------------------------------
def test_a_conservative_weight_of_zero_is_plain_sac(spec: Spec, make_batch: MakeBatch) -> None:
    switched_off = agent(spec, conservative_weight=0.0, conservative_calibrated=True, conservative_lagrange_gap=0.8)
    assert torch.equal(after_updates(switched_off, make_batch), after_updates(agent(spec), make_batch))
    assert not switched_off.needs


def test_calql_with_returns_of_minus_infinity_is_cql(spec: Spec, make_batch: MakeBatch) -> None:
    calibrated = agent(spec, conservative_weight=5.0, conservative_calibrated=True)
    plain = agent(spec, conservative_weight=5.0)
    lowest = torch.full((8,), -math.inf)
    expected = after_updates(plain, make_batch)
    assert torch.equal(after_updates(calibrated, make_batch, monte_carlo_return=lowest), expected)
    calibrated = agent(spec, conservative_weight=5.0, conservative_calibrated=True)
    assert not torch.equal(after_updates(calibrated, make_batch, monte_carlo_return=torch.full((8,), 5.0)), expected)


def test_a_frozen_multiplier_of_one_is_a_fixed_weight(spec: Spec, make_batch: MakeBatch) -> None:
    still = {"conservative_lagrange_initial": 1.0, "conservative_lagrange_learning_rate": 0.0}
    tuned = agent(spec, conservative_weight=5.0, conservative_lagrange_gap=0.8, **still)
    expected = after_updates(agent(spec, conservative_weight=5.0), make_batch)
    torch.testing.assert_close(after_updates(tuned, make_batch), expected, rtol=1e-4, atol=1e-5)


def test_the_multiplier_multiplies_the_weight(spec: Spec, make_batch: MakeBatch) -> None:
    still = {"conservative_lagrange_initial": 2.0, "conservative_lagrange_learning_rate": 0.0}
    tuned = agent(spec, conservative_weight=5.0, conservative_lagrange_gap=0.8, **still)
    expected = after_updates(agent(spec, conservative_weight=10.0), make_batch)
    torch.testing.assert_close(after_updates(tuned, make_batch), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after_updates(agent(spec, conservative_weight=5.0), make_batch), expected)


def test_dropping_the_conservative_term_is_an_override(spec: Spec, make_batch: MakeBatch) -> None:
    learner = agent(spec, conservative_weight=5.0, conservative_calibrated=True)
    assert "critic/conservative_difference" in learner.update(make_batch(8))
    learner.config = with_overrides(learner.config, {"conservative_weight": 0.0})
    metrics = learner.update(replace(make_batch(8), monte_carlo_return=None))
    assert "critic/conservative_difference" not in metrics


def test_every_setting_is_read_anew_at_each_update(spec: Spec, make_batch: MakeBatch) -> None:
    learner = agent(spec)
    learner.config = with_overrides(learner.config, STILL)
    before = weights(learner)
    learner.update(make_batch(8))
    assert torch.equal(weights(learner), before)


def test_nothing_behind_a_termination_counts(spec: Spec, make_batch: MakeBatch) -> None:
    batch = make_batch(8)
    ended, elsewhere = torch.zeros(8), {key: value + 3 for key, value in batch.next_observation.items()}
    metrics = [
        agent(spec).update(replace(batch, discount=ended, next_observation=observation))
        for observation in (batch.next_observation, elsewhere)
    ]
    assert metrics[0]["critic/td_loss"] == metrics[1]["critic/td_loss"]
    assert metrics[0]["critic/target"] == batch.reward.mean()


def test_the_actor_sees_all_rows_or_the_last_batch(spec: Spec, make_batch: MakeBatch) -> None:
    batch = make_batch(16)
    other_start = {key: torch.cat([value[:8] + 1, value[8:]]) for key, value in batch.observation.items()}
    for rows, equal in (("last", True), ("all", False)):
        learners = [agent(spec, **STILL, actor_batch=rows) for _ in range(2)]
        for learner, observation in zip(learners, (batch.observation, other_start), strict=True):
            learner.config = with_overrides(learner.config, {"actor_learning_rate": 1e-2})
            learner.update(replace(batch, observation=observation), critic_updates=2)
        assert torch.equal(weights(learners[0]), weights(learners[1])) == equal


def test_each_critic_update_has_its_own_consecutive_rows_and_moves_the_target(
    spec: Spec, make_batch: MakeBatch
) -> None:
    first, second, both = make_batch(8, 1), make_batch(8, 2), make_batch(16)
    for name in ("action", "reward"):
        getattr(both, name).copy_(torch.cat([getattr(first, name), getattr(second, name)]))
    for key, value in both.observation.items():
        value.copy_(torch.cat([first.observation[key], second.observation[key]]))
    settings = {"discount": torch.zeros(8)}  # so that random next actions play no part
    still = {"actor_learning_rate": 0.0, "temperature_learning_rate": 0.0}
    together, apart = agent(spec, **still), agent(spec, **still)
    together.update(replace(both, discount=torch.zeros(16)), critic_updates=2)
    apart.update(replace(first, **settings))
    apart.update(replace(second, **settings))
    torch.testing.assert_close(weights(together), weights(apart))
    assert together.updates == apart.updates == 2


@pytest.mark.parametrize(("loss", "weight"), [("squared_error", 1e3), ("likelihood", 10.0)])
def test_cloning_pulls_the_mode_to_recorded_actions(
    spec: Spec, make_batch: MakeBatch, loss: str, weight: float
) -> None:
    batch = replace(make_batch(64), action=torch.full((64, 2), 0.7))
    cloning = {"actor_behaviour_cloning_loss": loss, "actor_behaviour_cloning_weight": weight}
    learner = agent(spec, **cloning, log_std_minimum=-2.0, actor_learning_rate=1e-2)
    for _ in range(60):
        learner.update(batch)
    assert (learner.act(batch.observation, explore=False) - 0.7).abs().mean() < 0.1


def test_dropout_acts_in_the_actors_update_and_nowhere_else(spec: Spec, make_batch: MakeBatch) -> None:
    plain, dropping = agent(spec), agent(spec, actor_dropout=0.5)
    batch = make_batch(8)
    assert torch.equal(plain.act(batch.observation, explore=False), dropping.act(batch.observation, explore=False))
    for learner in (plain, dropping):
        learner.update(batch)
    assert not torch.equal(plain.act(batch.observation, explore=False), dropping.act(batch.observation, explore=False))


def test_the_mode_of_the_averaged_actor_is_what_is_evaluated(spec: Spec, make_batch: MakeBatch) -> None:
    config = SACConfig(actor_hidden=[8], critic_hidden=[8], actor_average_rate=0.25, actor_learning_rate=0.1)
    agent = sac.create(config, spec, Seeds(0), torch.device("cpu"), None)
    before = [value.clone() for value in agent.actor.parameters()]
    agent.update(make_batch(16))
    for average, old, new in zip(agent.average_actor.parameters(), before, agent.actor.parameters(), strict=True):
        assert torch.allclose(average, 0.75 * old + 0.25 * new)
    observation = make_batch(8).observation
    mode = tanh_gaussian.mode(agent.average_actor(agent.encoder(observation))[0])
    assert torch.equal(agent.act(observation, explore=False), mode)
    agent.config = replace(config, actor_average_rate=0.0)
    newest = tanh_gaussian.mode(agent.actor(agent.encoder(observation))[0])
    assert torch.equal(agent.act(observation, explore=False), newest)


def test_the_difference_is_clipped_unless_lagrange_says_no(spec: Spec, make_batch: MakeBatch) -> None:
    clip = {"conservative_weight": 5.0, "conservative_clip_minimum": 100.0, "conservative_clip_maximum": 200.0}
    name = "critic/conservative_difference"
    assert agent(spec, **clip).update(make_batch(8))[name] == 100
    assert agent(spec, **clip, conservative_lagrange_gap=0.8).update(make_batch(8))[name] == 100
    unclipped = agent(spec, **clip, conservative_lagrange_gap=0.8, conservative_clip_with_lagrange=False)
    assert unclipped.update(make_batch(8))[name] < 50


def test_the_temperature_can_learn_from_next_states(spec: Spec, make_batch: MakeBatch) -> None:
    batch = make_batch(8)
    batch.next_observation["joints"].fill_(50.0)  # where the clamped deviation, so the entropy, is another
    for states, equal in (("current", True), ("next", False)):
        learners = [agent(spec, temperature_states=states, **STILL) for _ in range(2)]
        for learner, next_observation in zip(learners, (batch.observation, batch.next_observation), strict=True):
            learner.config = with_overrides(learner.config, {"temperature_learning_rate": 1e-2})
            for step in range(3):
                learner.update(replace(batch, next_observation=next_observation, reward=batch.reward + step))
        assert (learners[0].temperature() == learners[1].temperature()) == equal


# Traps (numbers: the checklist of reference/offline-to-online.md, section 7) ------------------------------------------
def test_trap_05_a_truncated_episode_of_negative_rewards_is_not_worth_only_its_steps() -> None:
    # 100 steps of -5 at discount 0.99: cut off, -5 (1 - 0.99^100) / 0.01 = -317; in truth -5 / 0.01 = -500 throughout.
    reward = torch.full((100,), -5.0)
    cut = monte_carlo_return(reward, False, 0.99, tail_value=0.0)
    constant = monte_carlo_return(reward, False, 0.99, tail_value=-5.0 / (1 - 0.99))
    assert float(cut[0]) == pytest.approx(-317.0, abs=0.1)
    torch.testing.assert_close(constant, torch.full((100,), -500.0))
    # Kitchen's last step, reward -4: -4 against -400
    assert float(monte_carlo_return(torch.tensor([-4.0]), False, 0.99, tail_value=0.0)[0]) == -4
    assert float(monte_carlo_return(torch.tensor([-4.0]), False, 0.99, tail_value=-400.0 + 1e-9)[0]) == -400


def test_trap_06_returns_of_transformed_rewards_are_not_transformed_returns() -> None:
    # rewards -1, 0 at discount 0.5, transformed 10 r + 5 -> -5, 5: G_0 = -2.5; the transformed raw return is -5
    raw = torch.tensor([-1.0, 0.0])
    assert monte_carlo_return(10 * raw + 5, True, 0.5, 0.0)[0] == -2.5
    assert (10 * monte_carlo_return(raw, True, 0.5, 0.0) + 5)[0] == -5


def test_trap_07_calibration_without_returns_is_refused_instead_of_floored_at_zero(
    spec: Spec, make_batch: MakeBatch
) -> None:
    learner = agent(spec, conservative_weight=5.0, conservative_calibrated=True)
    assert learner.needs == {"monte_carlo_return"}
    with pytest.raises(InputError, match="needs Monte-Carlo returns"):
        learner.update(replace(make_batch(8), monte_carlo_return=None))


def test_trap_08_log_probability_is_finite_at_the_edge_of_the_action_range() -> None:
    action = torch.tensor([[1.0, -1.0], [1 - 1e-7, 0.0]])
    mean, log_std = torch.zeros(2, 2, requires_grad=True), torch.full((2, 2), -5.0, requires_grad=True)
    log_prob = tanh_gaussian.log_prob(mean, log_std, action)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    assert mean.grad is not None
    assert log_std.grad is not None
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(log_std.grad).all()
    # and of samples far out, where tanh rounds to 1
    for side in (1, -1):
        action, log_prob = tanh_gaussian.sample(torch.full((4, 2), 50.0 * side), torch.zeros(4, 2), torch.Generator())
        assert (action == side).all()
        assert torch.isfinite(log_prob).all()


def test_trap_13_a_subset_of_two_is_never_one_critic_twice_unless_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)

    def share_of_repeats(with_replacement: bool) -> float:
        draws = [random_heads(10, 2, with_replacement=with_replacement, generator=generator) for _ in range(4000)]
        return sum(int(first == second) for first, second in draws) / 4000

    assert share_of_repeats(False) == 0
    assert share_of_repeats(True) == pytest.approx(0.1, abs=0.02)  # WSRL's code


def test_trap_13_networks_that_an_update_leaves_out_step_on_zero_gradients(spec: Spec, make_batch: MakeBatch) -> None:
    settings = {"conservative_weight": 1.0, "conservative_lagrange_gap": 0.8}
    # 4 critic updates and 1 of actor and temperature: WSRL's code steps each of the three in all 5
    for zero_gradients, expected in ((True, (5, 5, 5, 4)), (False, (4, 1, 1, 4))):
        learner = agent(spec, **settings, step_with_zero_gradients=zero_gradients)
        learner.update(make_batch(8), critic_updates=4)
        steps = {name: next(iter(each.state.values()))["step"] for name, each in learner.optimizers.items()}
        assert tuple(steps[name] for name in ("critic", "actor", "temperature", "lagrange")) == expected


def test_trap_13_a_single_critic_update_leaves_no_network_out(spec: Spec, make_batch: MakeBatch) -> None:
    """So pre-training takes no step on a zero gradient: WSRL's code masks losses at a ratio above 1 only."""
    masked, plain = agent(spec, step_with_zero_gradients=True), agent(spec)
    assert torch.equal(after_updates(masked, make_batch), after_updates(plain, make_batch))


def test_trap_13_the_actor_reduces_critics_as_configured(spec: Spec, make_batch: MakeBatch) -> None:
    losses = {how: agent(spec, actor_reduction=how).update(make_batch(8))["actor/loss"] for how in ("min", "mean")}
    assert losses["min"] > losses["mean"]  # the loss holds -Q


def test_trap_13_the_target_entropy_is_per_dimension_and_configured(spec: Spec, make_batch: MakeBatch) -> None:
    """A policy whose entropy lies between -A and -A/2 cools under the one target and heats under the other."""
    fixed = {"log_std": "state_independent", "log_std_minimum": -2.15, "log_std_maximum": -2.15, **STILL}
    for per_dimension, cools in ((-1.0, True), (-0.5, False)):
        learner = agent(spec, **fixed, target_entropy_per_dimension=per_dimension)
        learner.config = with_overrides(learner.config, {"temperature_learning_rate": 1e-2})
        metrics = learner.update(make_batch(512))
        assert -2.0 < metrics["actor/entropy"] < -1.0
        assert (learner.temperature() < 1.0) == cools


def test_trap_13_the_backup_takes_the_entropy_as_configured(spec: Spec, make_batch: MakeBatch) -> None:
    with_entropy, without = (
        agent(spec, backup_entropy=each, initial_temperature=10.0).update(make_batch(8))["critic/target"]
        for each in (True, False)
    )
    assert with_entropy > without + 1


def test_trap_dppo_policy_actions_at_the_next_state_are_judged_at_the_state(spec: Spec, make_batch: MakeBatch) -> None:
    """A policy blind to the state draws the same actions wherever s' is; then s' must not matter to the term."""
    differences = []
    for shift in (0.0, 3.0):
        learner = agent(spec, conservative_weight=5.0)
        torch.nn.init.zeros_(learner.actor.network.layers[0].weight)
        batch = make_batch(8)
        moved = {key: value + shift for key, value in batch.next_observation.items()}
        metrics = learner.update(replace(batch, next_observation=moved))
        differences.append(metrics["critic/conservative_difference"])
    assert differences[0] == differences[1]


def test_trap_dppo_the_term_draws_all_its_samples_and_spreads_the_uniform_ones(
    spec: Spec, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, seen = agent(spec, conservative_weight=5.0), []
    judge = learner.critic.raw
    monkeypatch.setattr(learner.critic, "raw", lambda *inputs: (seen.append(inputs[1]), judge(*inputs))[1])
    batch = make_batch(64)
    learner.update(batch)
    actions = seen[0]  # recorded, 10 uniform, 10 of the policy at s, 10 at s'
    assert actions.shape == (64, 31, 2)
    assert torch.equal(actions[:, 0], batch.action)
    uniform = actions[:, 1:11]
    assert -1 <= uniform.min() < -0.98
    assert 0.98 < uniform.max() <= 1
    assert len(uniform.flatten().unique()) == 64 * 10 * 2


def test_trap_corl_log_probability_is_that_of_the_given_actions() -> None:
    mean, log_std = torch.zeros(1, 2), torch.zeros(1, 2)
    near, far = (tanh_gaussian.log_prob(mean, log_std - 2, torch.full((1, 2), value)) for value in (0.0, 0.9))
    assert near > far


@pytest.mark.parametrize(
    ("kind", "initial", "weight", "start"), [("exp", math.e, 5.0, 13.591409), ("softplus", 1.0, 1.0, 1.0)]
)
def test_the_tuned_weight_starts_as_in_the_code_it_follows(
    spec: Spec, kind: str, initial: float, weight: float, start: float
) -> None:
    learner = agent(
        spec,
        conservative_weight=weight,
        conservative_lagrange_gap=0.8,
        conservative_lagrange_initial=initial,
        conservative_lagrange_parameterization=kind,
    )
    assert (weight * learner.lagrange()).item() == pytest.approx(start, rel=1e-5)


def test_the_actor_sees_critics_before_or_after_their_step(spec: Spec, make_batch: MakeBatch) -> None:
    batch = make_batch(8)
    losses = {
        (seen, rate): agent(spec, actor_critics=seen, critic_learning_rate=rate).update(batch)["actor/loss"]
        for seen in ("previous", "updated")
        for rate in (0.0, 1e-2)
    }
    assert losses["previous", 1e-2] == losses["previous", 0.0] == losses["updated", 0.0]
    assert losses["updated", 1e-2] != losses["updated", 0.0]


def test_without_the_value_the_actor_clones_and_keeps_its_entropy(spec: Spec, make_batch: MakeBatch) -> None:
    """The beginning of CQL's own code: temperature * log pi(a'|s) - log pi(a|s), whatever the critics say."""
    cloning = {"actor_behaviour_cloning_weight": 1.0, "actor_behaviour_cloning_loss": "likelihood"}
    learners = [agent(spec, actor_value_weight=0.0, critic_learning_rate=rate, **cloning) for rate in (0.0, 1e-2)]
    first, second = (
        torch.cat([each.detach().flatten() for each in learner.actor.parameters()])
        for learner in learners
        if learner.update(make_batch(8))
    )
    assert torch.equal(first, second)


def test_exploring_takes_the_candidate_that_critics_hope_most_of(spec: Spec, make_batch: MakeBatch) -> None:
    config = SACConfig(
        actor_hidden=[16], critic_hidden=[16], critic_count=4, exploration_candidates=8, exploration_bonus=2.0
    )
    agent = sac.create(config, spec, Seeds(0), torch.device("cpu"), None)
    observation = make_batch(5).observation
    state = agent.generator.get_state()
    found = agent.act(observation, explore=True)
    agent.generator.set_state(state)
    features = agent.encoder(observation)
    mean, log_std = agent.actor(features)
    shape = (5, 8, 2)
    candidates, _ = tanh_gaussian.sample(mean[:, None].expand(shape), log_std[:, None].expand(shape), agent.generator)
    for row in range(5):
        q = torch.stack([agent.critic(features, candidates[:, n])[:, row] for n in range(8)])  # (N, E)
        best = int((q.mean(1) + 2.0 * q.std(1, correction=0)).argmax())
        torch.testing.assert_close(found[row], candidates[row, best])
