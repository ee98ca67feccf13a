"""Hybrid learners: arithmetic, parity of whole updates with formulas in float64, and what they do with each domain."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn

from robot_rl.algorithms import HybridConfig, create, hybrid, with_overrides
from robot_rl.errors import InputError
from robot_rl.functional import hybrid as functions
from robot_rl.networks import judges as judging
from robot_rl.networks.judges import JudgesConfig, Transitions
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

SPEC = Spec(observation={"state": ArraySpec(shape=(4,))}, action=ArraySpec(shape=(2,)))
B, F, A, E, K, M = 24, 4, 2, 3, 3, 4
AT_ONCE = {"warm_up": 0, "calibration_limit": 1.0, "minimum_held_out": 0, "classifier_noise": 0.0, "gap_samples": K}
SMALL = {"classifier_hidden": [8], "dynamics_hidden": [8], "dynamics_count": M, "latent_hidden": [8], "latent_size": 5}
MODELS = {
    "mixture": ({}, []),
    "h2o": (
        {"importance_weights": True, "penalty_weight": 0.3, "backup_entropy": False},
        ["classifiers"],
    ),
    "h2o_plus": (
        {"importance_weights": True, "value_blend": 0.4, "value_expectile": 0.8, "value_hidden": [8]},
        ["classifiers"],
    ),
    "hybrid": (
        {
            "importance_weights": True,
            "value_blend": 0.5,
            "value_expectile": 0.7,
            "value_hidden": [8],
            "critic_quantile": 0.25,
            "critic_huber": 0.5,
        },
        ["classifiers"],
    ),
    "darc": ({"learn_from": "simulator", "reward_correction": 0.7}, ["classifiers"]),
    "sac_iw": ({"learn_from": "simulator", "importance_weights": True, "weight_maximum": 10.0}, ["classifiers"]),
    "par": ({"mismatch_weight": 0.2}, ["latent"]),
    "vgdf": ({"accepted_share": 0.25}, ["dynamics"]),
}


def make(name: str, *, judges: dict | None = None, **settings) -> hybrid.Hybrid:
    own, models = MODELS[name]
    judged = JudgesConfig(models=models, **(AT_ONCE | SMALL | (judges or {})))
    sizes = {"actor_hidden": [16, 16], "critic_hidden": [16, 16], "critic_count": E}
    config = HybridConfig(**(sizes | {"judges": judged} | own | settings))
    agent = create(config, SPEC, Seeds(0), torch.device("cpu"), None)
    assert isinstance(agent, hybrid.Hybrid)
    return agent


def batch(rows: int = B, seed: int = 0, **changes) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    made = Batch(
        observation={"state": noise(rows, F)},
        action=noise(rows, A).tanh(),
        reward=noise(rows),
        discount=torch.where(noise(rows) > 1, 0.0, 0.99),
        next_observation={"state": noise(rows, F)},
        real=noise(rows) > 0.3,
        held_out=noise(rows) > 1,
    )
    return replace(made, **changes)


# Arithmetic -----------------------------------------------------------------------------------------------------------
def test_a_blend_of_values_lies_between_them() -> None:
    explored, recorded = torch.tensor([4.0]), torch.tensor([2.0])
    torch.testing.assert_close(functions.blended_value(explored, recorded, 0.25), torch.tensor([3.5]))


def test_the_value_of_recorded_actions_is_of_the_robots_rows_alone() -> None:
    # u = 2 and -2 on the robot's rows: 0.8 * 4 and 0.2 * 4, mean 2
    q, v = torch.tensor([3.0, 50.0, 0.0]), torch.tensor([1.0, 1.0, 2.0], requires_grad=True)
    loss = functions.real_value_loss(q, v, torch.tensor([True, False, True]), 0.8)
    torch.testing.assert_close(loss.detach(), torch.tensor(2.0))
    loss.backward()
    assert v.grad is not None
    assert v.grad[1] == 0


def test_errors_are_squared_or_hubers() -> None:
    q, target = torch.tensor([[1.0, 5.0]]), torch.tensor([0.0, 0.0])
    torch.testing.assert_close(functions.each_td_error(q, target, None), torch.tensor([[1.0, 25.0]]))
    torch.testing.assert_close(functions.each_td_error(q, target, 2.0), torch.tensor([[0.25, 4.0]]))


def test_a_simulated_transition_that_the_robot_would_not_make_is_worth_less() -> None:
    reward, log_ratio, real = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 3.0]), torch.tensor([True, False])
    torch.testing.assert_close(functions.corrected_reward(reward, log_ratio, real, 0.5), torch.tensor([1.0, -0.5]))
    # mean of the squares 4 and 0 is 2
    predicted, latent = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.zeros(2, 2)
    found = functions.mismatch_reward(reward, predicted, latent, real, 0.1)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.8]))


def test_likelihood_is_that_of_the_gaussian_of_the_members() -> None:
    # members 1 and 3: mean 2, deviation sqrt(2); value 2 + sqrt(2) is one deviation off
    found = functions.value_likelihood(torch.tensor([2 + math.sqrt(2)]), torch.tensor([[1.0], [3.0]]))
    torch.testing.assert_close(found, torch.tensor([-0.5 - 0.5 * math.log(2) - 0.5 * math.log(2 * math.pi)]))


@pytest.mark.parametrize(("share", "wanted"), [(0.5, [0, 1, 0, 0, 1]), (0.25, [0, 1, 0, 0, 0]), (1.0, [1, 1, 0, 1, 1])])
def test_the_best_of_the_simulated_rows_pass(share: float, wanted: list[int]) -> None:
    score, rows = torch.tensor([1.0, 9.0, 99.0, 2.0, 3.0]), torch.tensor([True, True, False, True, True])
    assert functions.top_share(score, rows, share).tolist() == wanted
    assert functions.top_share(score, rows & False, share).tolist() == [0] * 5


# Parity ---------------------------------------------------------------------------------------------------------------
Layers = list[tuple[np.ndarray, np.ndarray]]


def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def layers_of(module: nn.Module) -> Layers:
    """Of an ensemble, or of one network as an ensemble of one."""
    if hasattr(module, "weights"):
        return [(double(w), double(b)) for w, b in zip(module.weights, module.biases, strict=True)]
    return [(double(each.weight)[None], double(each.bias)[None]) for each in module.layers]


def forward(layers: Layers, *inputs: np.ndarray) -> np.ndarray:
    """Outputs (E, B, out)."""
    x = np.concatenate(inputs, axis=-1)
    x = np.broadcast_to(x, (len(layers[0][0]), *x.shape))
    for index, (weight, bias) in enumerate(layers):
        x = np.einsum("ebi,eoi->ebo", x, weight) + bias[:, None]
        x = np.maximum(x, 0) if index < len(layers) - 1 else x
    return x


def policy(layers: Layers, state: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An action (B, A) and its log density (B,)."""
    mean, log_std = np.split(forward(layers, state)[0], 2, axis=1)
    action = np.tanh(mean + np.exp(log_std) * noise)
    return action, (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - np.log(1 - action**2)).sum(1)


def reduced(q: np.ndarray, level: float) -> np.ndarray:
    return np.quantile(q, level, axis=0)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_whole_update_is_the_formulas(name: str) -> None:
    """Domains are chosen here by indexing, where the agent masks; the sum of terms is held by their gradient."""
    frozen = {"critic_learning_rate": 0.0, "actor_learning_rate": 0.0, "value_learning_rate": 0.0}
    fixed = {"temperature_learning_rate": 0.0, "initial_temperature": 0.5}
    gaussian = {"learning_rate": 0.0, "gap_estimator": "gaussian", "gap_deviation": 0.3}
    agent, rows = make(name, judges=gaussian, **frozen, **fixed), batch()
    config, own = agent.config, torch.Generator()
    own.set_state(agent.generator.get_state())
    critic, target_critic = layers_of(agent.critic), layers_of(agent.target_critic)
    actor = layers_of(agent.actor.network)
    s, a, s2 = double(rows.observation["state"]), double(rows.action), double(rows.next_observation["state"])
    r, discount, real = double(rows.reward), double(rows.discount), rows.real.numpy()
    sim, level, both = ~real, config.critic_quantile, config.learn_from == "both"

    def normal(*shape: int) -> np.ndarray:
        return double(torch.randn(shape, generator=own))

    outcome = np.concatenate([s2 - s, r[:, None]], 1)
    mean, deviation = outcome[real].mean(0), outcome[real].std(0)
    change = ((outcome - mean) / deviation)[:, :F]
    weight, gap, judges = np.ones(B), np.zeros(B), agent.judges
    if judges is not None and judges.classifiers is not None:
        layers = layers_of(judges.classifiers.transition)

        def log_ratio(changes: np.ndarray) -> np.ndarray:
            return 4 * np.tanh(forward(layers, s, a, changes)[0, :, 0] / 4)

        found = log_ratio(change)
        if config.importance_weights:
            weight = np.clip(np.exp(-found), config.weight_minimum, config.weight_maximum)
        if config.penalty_weight:
            around = change[:, None] + 0.3 * normal(B, K, F)
            gap = np.clip(np.mean([log_ratio(around[:, k]) for k in range(K)], axis=0), 1e-3, 10.0)
        r = np.where(sim, r - config.reward_correction * found, r)
    if judges is not None and judges.latent is not None:
        encoder, predictor = layers_of(judges.latent.state), layers_of(judges.latent.prediction)

        def encode(state: np.ndarray) -> np.ndarray:
            raw = forward(encoder, state)[0]
            return raw / np.abs(raw).mean(1, keepdims=True)

        missed = forward(predictor, encode(s), a)[0] - encode(s2)
        r = np.where(sim, r - 0.2 * np.square(missed).mean(1), r)
    if judges is not None and judges.dynamics is not None:
        predicted, draws = [], normal(M, B, F + 1)
        members = [forward(layers_of(each), s, a)[0] for each in judges.dynamics.members]
        noise, reached, rewards = normal((M + 1) * B, A), [], []
        for member, drawn in zip(members, draws, strict=True):
            middle, raw = np.split(member, 2, axis=1)
            log_std = -5 + np.logaddexp(0, 1 - np.logaddexp(0, 1 - raw) + 5)
            imagined = (middle + np.exp(log_std) * drawn) * deviation + mean
            reached.append(s + imagined[:, :F])
            rewards.append(imagined[:, F])
        states = np.concatenate([*reached, s2])
        value = reduced(forward(target_critic, states, policy(actor, states, noise)[0])[..., 0], level)
        value = value.reshape(M + 1, B)
        predicted = np.stack(rewards) + discount * value[:M]
        center, spread = predicted.mean(0), predicted.std(0, ddof=1)
        likely = -np.square((r + discount * value[M] - center) / spread) / 2 - np.log(spread)
        kept = math.ceil(0.25 * sim.sum())
        weight = np.where(sim & (likely >= np.sort(likely[sim])[::-1][kept - 1]), 1.0, 0.0)

    expected = {}
    next_action, log_prob = policy(actor, s2, normal(B, A))
    v2 = reduced(forward(target_critic, s2, next_action)[..., 0], level)
    v2 = v2 - 0.5 * log_prob if config.backup_entropy else v2
    if agent.value_network is not None:
        layers = layers_of(agent.value_network)
        u = reduced(forward(target_critic, s, a)[..., 0], level) - forward(layers, s)[0, :, 0]
        u = u[real]
        tau = config.value_expectile
        expected["value/loss"] = (np.where(u < 0, 1 - tau, tau) * u**2).mean()
        v2 = (1 - config.value_blend) * v2 + config.value_blend * forward(layers, s2)[0, :, 0]
    y = r + discount * v2

    def critic_loss(layers: Layers) -> tuple[float, float]:
        q = forward(layers, s, a)[..., 0]
        d = q - y
        error = d**2
        if config.critic_huber is not None:
            t = config.critic_huber
            error = np.where(np.abs(d) < t, d**2 / (2 * t), np.abs(d) - t / 2)
        td = ((weight * error)[:, sim].mean(1) + (error[:, real].mean(1) if both else 0)).sum()
        penalty = 0.0
        if config.penalty_weight:
            omega = gap[sim] / gap[sim].sum()
            penalty = (np.log((omega * np.exp(q[:, sim])).sum(1)) - q[:, real].mean(1)).sum()
        return td, penalty

    expected["critic/td_loss"], penalty = critic_loss(critic)
    if config.penalty_weight:
        expected["critic/penalty"] = penalty
    action, log_prob = policy(actor, s, normal(B, A))
    loss = 0.5 * log_prob - reduced(forward(critic, s, action)[..., 0], level)
    expected["actor/loss"] = loss.mean() if both else loss[sim].mean()
    expected["gap/weight"] = weight[sim].mean()

    metrics = agent.update(rows)
    if judges is None:
        expected.pop("gap/weight")
    for key, value in expected.items():
        assert float(metrics[key]) == pytest.approx(value, rel=2e-5, abs=1e-6), key

    draws = np.random.default_rng(0)
    way = [tuple(draws.normal(size=each.shape) for each in pair) for pair in critic]

    def moved(step: float) -> float:
        td, extra = critic_loss([(w + step * v, b + step * c) for (w, b), (v, c) in zip(critic, way, strict=True)])
        return td + config.penalty_weight * extra

    gradients = [
        (double(w.grad), double(b.grad)) for w, b in zip(agent.critic.weights, agent.critic.biases, strict=True)
    ]
    found = sum(
        (g * v).sum() for pair, both_ in zip(gradients, way, strict=True) for g, v in zip(pair, both_, strict=True)
    )
    assert found == pytest.approx((moved(1e-6) - moved(-1e-6)) / 2e-6, rel=1e-3, abs=1e-5)


# Domains --------------------------------------------------------------------------------------------------------------
def state_of(agent: hybrid.Hybrid) -> dict[str, torch.Tensor]:
    modules = {item.name: getattr(agent, item.name) for item in fields(agent)}
    return {
        f"{name}.{key}": value.clone()
        for name, each in modules.items()
        if isinstance(each, nn.Module)
        for key, value in each.state_dict().items()
    }


def changed(name: str, **settings) -> tuple[dict, dict]:
    """What an update leaves behind, of two agents that differ in nothing but the rewards of the robot's rows."""
    rows = batch()
    other = replace(rows, reward=torch.where(rows.real, rows.reward + 5.0, rows.reward))
    found = []
    for each in (rows, other):
        agent = make(name, **settings)
        agent.update(each)
        found.append(state_of(agent))
    return found[0], found[1]


@pytest.mark.parametrize("name", ["darc", "sac_iw"])
def test_what_learns_from_the_simulator_does_not_see_the_robots_rewards(name: str) -> None:
    one, two = changed(name)
    assert all(torch.equal(one[key], two[key]) for key in one if key.split(".")[0] in ("actor", "critic"))
    one, two = changed(name, learn_from="both")
    assert any(not torch.equal(one[key], two[key]) for key in one if key.startswith("critic."))


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("of_robot", [True, False])
def test_batches_of_one_domain_are_learned_from(name: str, of_robot: bool) -> None:
    agent = make(name)
    for seed in range(3):
        metrics = agent.update(batch(seed=seed, real=torch.full((B,), of_robot)))
        assert all(math.isfinite(value) for value in metrics.values()), metrics
    assert all(torch.isfinite(value).all() for value in state_of(agent).values())


def test_batches_that_do_not_say_whose_rows_they_are_are_refused() -> None:
    with pytest.raises(InputError, match="which rows are the robot's"):
        make("h2o").update(batch(real=None))


# When judges count ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["h2o", "darc", "par", "vgdf"])
@pytest.mark.parametrize("wait", [{"warm_up": 100}, {"calibration_limit": 0.0}, {"minimum_held_out": 1000}])
def test_until_judges_count_a_learner_is_the_plain_one(name: str, wait: dict) -> None:
    if name in ("par", "vgdf") and "warm_up" not in wait:
        return
    judged = make(name, judges=wait)
    off = {"importance_weights": False, "penalty_weight": 0.0, "reward_correction": 0.0}
    off |= {"mismatch_weight": 0.0, "accepted_share": 1.0}
    plain = make(name, judges=wait)
    plain.config = with_overrides(plain.config, off)
    for seed in range(4):
        metrics = judged.update(batch(seed=seed))
        plain.update(batch(seed=seed))
        assert metrics["gap/trust"] == 0
        assert metrics["gap/weight"] == 1
    if name != "vgdf":  # whose gate draws random numbers
        one, two = state_of(judged), state_of(plain)
        assert all(torch.equal(one[key], two[key]) for key in one if key.split(".")[0] in ("actor", "critic"))


def test_judges_that_are_told_not_to_count_change_nothing() -> None:
    agent = make("darc")
    assert agent.update(batch())["gap/trust"] == 1
    agent.config = with_overrides(agent.config, {"judges_count": False})
    metrics = agent.update(batch())
    assert metrics["gap/trust"] == 0
    assert "gap/classifier_loss" in metrics


@pytest.mark.parametrize("name", list(MODELS))
def test_switching_every_term_off_still_trains(name: str) -> None:
    """H2O's own switch for its penalty skipped the optimisers too."""
    agent = make(name)
    off = {"importance_weights": False, "penalty_weight": 0.0, "reward_correction": 0.0}
    agent.config = with_overrides(
        agent.config, off | {"mismatch_weight": 0.0, "accepted_share": 1.0, "value_blend": 0.0}
    )
    before = state_of(agent)
    agent.update(batch())
    after = state_of(agent)
    for part in ("actor", "critic", "target_critic", "temperature"):
        assert any(not torch.equal(before[key], after[key]) for key in before if key.split(".")[0] == part), part


@pytest.mark.parametrize("estimator", ["one_sample", "gaussian"])
def test_ratios_are_shrunk_to_what_held_out_rows_bear_out(estimator: str) -> None:
    plain, shrunk = (make("h2o", judges={"held_out_slope": each, "gap_estimator": estimator}) for each in (False, True))
    drawn, found = batch(), []
    assert drawn.real is not None
    assert drawn.held_out is not None
    rows = Transitions(
        features=drawn.observation["state"],
        action=drawn.action,
        reward=drawn.reward,
        discount=drawn.discount,
        next_features=drawn.next_observation["state"],
        real=drawn.real,
        held_out=drawn.held_out,
    )
    for each in (plain, shrunk):
        assert each.judges is not None
        assert each.judges.classifiers is not None
        each.judges.scale.observe(rows.outcome, rows.real)
        each.judges.classifiers.slope.value.fill_(0.25)
        one = each.judges.log_ratio(rows)
        found.append((one, each.judges.log_ratios(rows, one, torch.Generator().manual_seed(0))))
    for whole, part in zip(*found, strict=True):
        assert whole.abs().min() > 0
        torch.testing.assert_close(part, 0.25 * whole)


def test_every_setting_of_the_judges_is_read() -> None:
    import ast
    import inspect

    source = inspect.getsource(judging) + inspect.getsource(hybrid)
    read = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert {item.name for item in fields(JudgesConfig)} - read - {"minimum_real"} == set()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"importance_weights": True}, "add 'classifiers' to"),
        ({"accepted_share": 0.25}, "add 'dynamics' to"),
        ({"mismatch_weight": 0.1}, "add 'latent' to"),
        ({"value_blend": 0.5}, "set algorithm.value_expectile"),
        ({"learn_from": "sim"}, "did you mean 'simulator'"),
        ({"value_expectile": 1.0}, "value_expectile=1.0"),
        ({"critic_huber": 0.0}, "critic_huber=0.0"),
        ({"weight_minimum": 2.0}, "weight_minimum=2.0"),
        ({"gap_minimum": 0.0}, "gap_minimum=0.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        HybridConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ["classifier"]}, "did you mean 'classifiers'"),
        ({"gap_estimator": "resampled"}, "add 'simulator'"),
        ({"classifier_smoothing": 0.5}, "classifier_smoothing"),
        ({"dynamics_hidden": [0]}, "dynamics_hidden"),
        ({"warm_up": -1}, "warm_up"),
    ],
)
def test_judges_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        JudgesConfig(**settings)
