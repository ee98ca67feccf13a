"""IDQL: the diffusion, its network, parity of the losses and of acting with formulas in float64, and what is kept."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robot_rl import checkpoint
from robot_rl.algorithms import IDQLConfig, idql
from robot_rl.functional.diffusion import denoise, log_signal, noised
from robot_rl.functional.implicit import value_loss
from robot_rl.networks.denoiser import Denoiser
from robot_rl.networks.ensemble import Ensemble
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"actor_width": 16, "critic_hidden": [16, 16], "value_hidden": [16, 16], "time_width": 8}


def make(state_size: int = 4, action_size: int = 2, **settings) -> idql.IDQL:
    spec = Spec(observation={"state": ArraySpec(shape=(state_size,))}, action=ArraySpec(shape=(action_size,)))
    return idql.create(IDQLConfig(**(SMALL | settings)), spec, Seeds(0), CPU, None)


def make_batch(rows: int = 32, seed: int = 0, scale: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Batch(
        observation={"state": noise(rows, 4)},
        action=noise(rows, 2).tanh(),
        reward=scale * noise(rows),
        discount=torch.where(noise(rows) > 1, 0.0, 0.99),
        next_observation={"state": noise(rows, 4)},
    )


# Independent forward passes in float64 --------------------------------------------------------------------------------
def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def linear(layer: Any, x: np.ndarray) -> np.ndarray:
    return x @ double(layer.weight).T + double(layer.bias)


def of_mlp(network: nn.Module, x: np.ndarray) -> np.ndarray:
    for layer in network.layers[:-1]:
        x = np.maximum(linear(layer, x), 0)
    return linear(network.layers[-1], x)


def of_critics(critic: Ensemble, state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Shapes: -> (E, B)."""
    values = []
    for member in range(critic.count):
        x = np.concatenate([state, action], 1)
        for index, (weight, bias) in enumerate(zip(critic.weights, critic.biases, strict=True)):
            x = x @ double(weight[member]).T + double(bias[member])
            x = np.maximum(x, 0) if index < len(critic.weights) - 1 else x
        values.append(x[:, 0])
    return np.stack(values)


def of_denoiser(
    network: Denoiser, state: np.ndarray, action: np.ndarray, step: np.ndarray, kept: list[np.ndarray] | None = None
) -> np.ndarray:
    """Mish or swish; `kept`: what dropout multiplies each block's input by."""

    def activation(x: np.ndarray) -> np.ndarray:
        return x * np.tanh(np.log1p(np.exp(x))) if network.activation is nn.functional.mish else x / (1 + np.exp(-x))

    angle = 2 * np.pi * step * double(network.frequencies)
    time = linear(network.time_layers[0], np.concatenate([np.cos(angle), np.sin(angle)], 1))
    time = linear(network.time_layers[1], activation(time))
    x = linear(network.first, np.concatenate([action, state, time], 1))
    for block, (wide, narrow) in enumerate(zip(network.wide, network.narrow, strict=True)):
        inner = x if kept is None else x * kept[block]
        if len(network.norms):
            norm = network.norms[block]
            inner = (inner - inner.mean(1, keepdims=True)) / np.sqrt(inner.var(1, keepdims=True) + 1e-6)
            inner = inner * double(norm.weight) + double(norm.bias)
        x = x + linear(narrow, activation(linear(wide, inner)))
    return linear(network.last, activation(x))


def schedule(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """alpha and its cumulative product, from beta = 1 - exp(-b_min / T - (b_max - b_min) (2 t - 1) / (2 T^2))."""
    t = np.arange(1, steps + 1)
    beta = 1 - np.exp(-0.1 / steps - 0.5 * 9.9 * (2 * t - 1) / steps**2)
    return 1 - beta, np.cumprod(1 - beta)


def sampled(network: Denoiser, state: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """DDPM's algorithm 2 in float64; noise (T, B, A)."""
    steps = len(noise)
    alpha, signal = schedule(steps)
    x = noise[0]
    for k in range(steps - 1, -1, -1):
        predicted = of_denoiser(network, state, x, np.full((len(x), 1), float(k)))
        x = (x - (1 - alpha[k]) / np.sqrt(1 - signal[k]) * predicted) / np.sqrt(alpha[k])
        x = x + (np.sqrt(1 - alpha[k]) * noise[steps - k] if k > 0 else 0)
        x = np.clip(x, -1, 1)
    return x


# Terms ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [1, 5, 50])
def test_the_schedule_is_the_product_of_its_steps(steps: int) -> None:
    _, signal = schedule(steps)
    found = [math.exp(log_signal((k + 1) / steps)) for k in range(steps)]
    assert found == pytest.approx(list(signal), rel=1e-12)
    # the whole time: exp(-0.1 - 9.9 / 2) = 0.00641 of the variance is left of the action
    assert found[-1] == pytest.approx(math.exp(-5.05))


def test_noise_is_mixed_in_by_the_schedule() -> None:
    # k = 0 of 5: abar = exp(-0.02 - 4.95 / 25) = 0.80413, roots 0.89673 and 0.44258: 0.5 * 0.89673 + 2 * 0.44258
    x = noised(torch.tensor([[0.5]]), torch.tensor([[2.0]]), torch.tensor([[0]]), 5)
    torch.testing.assert_close(x, torch.tensor([[1.333519]]), rtol=1e-5, atol=1e-5)
    # k = 4: abar = exp(-5.05) = 0.0064093: 0.5 * 0.080058 + 2 * 0.99679
    x = noised(torch.tensor([[0.5]]), torch.tensor([[2.0]]), torch.tensor([[4]]), 5)
    torch.testing.assert_close(x, torch.tensor([[2.033609]]), rtol=1e-5, atol=1e-5)


@given(st.floats(-1, 1), st.integers(1, 8), st.integers(0, 10_000))
def test_whoever_knows_the_noise_gets_the_action_back(action: float, steps: int, seed: int) -> None:
    def predict(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        signal = log_signal((k + 1) / steps).exp()
        return (x - signal.sqrt() * action) / (1 - signal).sqrt()

    noise = torch.randn((steps, 3, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = torch.full((3, 2), action, dtype=torch.float64)
    torch.testing.assert_close(denoise(predict, noise), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("steps", "between"), [(5, 0.2), (10, 0.05), (20, 0.003)])
def test_an_exact_model_of_two_modes_blurs_them_where_steps_are_few(steps: int, between: float) -> None:
    """Modes of deviation 0.05 at -0.7 and 0.7: the share of samples in (-0.4, 0.4), where there should be none."""

    def predict(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        signal = log_signal((k + 1) / steps).exp()
        variance, mean = signal * 0.05**2 + 1 - signal, signal.sqrt() * 0.7
        score = (mean * torch.tanh(mean * x / variance) - x) / variance
        return -(1 - signal).sqrt() * score

    noise = torch.randn((steps, 20_000, 1), generator=torch.Generator().manual_seed(0))
    x = denoise(predict, noise)
    assert float((x.abs() < 0.4).float().mean()) == pytest.approx(between, abs=0.01)
    assert float((x > 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    if steps == 20:
        assert float(x.abs().mean()) == pytest.approx(0.7, abs=0.02)


def test_every_step_ends_inside_the_bounds() -> None:
    seen = []

    def predict(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        seen.append((int(k), float(x.abs().max())))
        return -10 * x

    action = denoise(predict, torch.full((4, 2, 3), 3.0))
    assert [k for k, _ in seen] == [3, 2, 1, 0]
    assert all(size <= 1 for _, size in seen[1:])
    assert action.abs().max() <= 1


def test_losses_and_weights() -> None:
    # rows |(1, 1)|^2 = 2 and |(0, 3)|^2 = 9, mean 5.5
    found = idql.noise_loss(torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0], [2.0, 3.0]]))
    torch.testing.assert_close(found, torch.tensor(5.5))
    with pytest.raises(ValueError, match=r"\(B, A\)"):
        idql.noise_loss(torch.zeros(2, 1), torch.zeros(2))
    # targets 1 + 0.5 * 2 = 2 and 3; errors 1, 0 and 2, 1: squares 1, 0, 4, 1, mean 1.5
    q = torch.tensor([[1.0, 3.0], [4.0, 2.0]])
    loss = idql.critic_loss(q[..., None], torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.0]), torch.tensor([2.0, 9.0]))
    torch.testing.assert_close(loss, torch.tensor(1.5))
    # above V: 0.7, below: 0.3
    weight = idql.candidate_weight(torch.tensor([[1.0, -1.0, 3.0]]), torch.tensor([0.5]), 0.7)
    torch.testing.assert_close(weight, torch.tensor([[0.7, 0.3, 0.7]]))


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.01, 0.99))
def test_the_weight_is_the_slope_of_the_value_loss_over_the_advantage(q: float, v: float, expectile: float) -> None:
    if abs(q - v) < 1e-3:
        return
    value = torch.tensor([v], dtype=torch.float64, requires_grad=True)
    critic = torch.tensor([q], dtype=torch.float64)
    (slope,) = torch.autograd.grad(value_loss(critic, value, expectile), value)
    weight = idql.candidate_weight(critic[:, None], value.detach(), expectile)
    torch.testing.assert_close(weight[0, 0].double(), slope.abs()[0] / (2 * abs(q - v)))


# The network, the update and acting -----------------------------------------------------------------------------------
@pytest.mark.parametrize("activation", ["mish", "swish"])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_the_network_is_the_formula(activation: str, layer_norm: bool) -> None:
    network = make(activation=activation, actor_layer_norm=layer_norm).actor
    for each in network.norms:
        nn.init.uniform_(each.bias, generator=torch.Generator().manual_seed(0))
    batch, step = make_batch(8), torch.arange(8)[:, None] % 5
    found = double(network(batch.observation["state"], batch.action, step))
    expected = of_denoiser(network, double(batch.observation["state"]), double(batch.action), double(step))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_one_step_stands_for_all_rows() -> None:
    network, batch = make().actor, make_batch(8)
    state, action = batch.observation["state"], batch.action
    each, once = (network(state, action, torch.full((rows, 1), 3.0)) for rows in (8, 1))
    torch.testing.assert_close(each, once)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_all_losses_are_the_formulas(dropout: float) -> None:
    agent, batch = make(actor_dropout=dropout, value_learning_rate=0.0), make_batch()
    s, a, r, d = (double(each) for each in (batch.observation["state"], batch.action, batch.reward, batch.discount))
    s2 = double(batch.next_observation["state"])
    own = torch.Generator()
    own.set_state(agent.generator.get_state())

    u = of_critics(agent.target_critic, s, a).min(0) - of_mlp(agent.value_network, s)[:, 0]
    value = np.mean(np.abs(0.7 - (u < 0)) * np.square(u))
    target = r + d * of_mlp(agent.value_network, s2)[:, 0]
    critic = np.square(target - of_critics(agent.critic, s, a)).mean()
    step = torch.randint(5, (32, 1), generator=own).numpy()
    noise = torch.randn((32, 2), generator=own).double().numpy()
    kept = [(torch.rand((32, 16), generator=own).numpy() >= dropout) / (1 - dropout) for _ in range(3)]
    signal = schedule(5)[1][step]
    x = np.sqrt(signal) * a + np.sqrt(1 - signal) * noise
    predicted = of_denoiser(agent.actor, s, x, step, kept if dropout else None)
    actor = np.square(predicted - noise).sum(1).mean()
    metrics = agent.update(batch)
    assert float(metrics["value/loss"]) == pytest.approx(value, rel=1e-5)
    assert float(metrics["critic/td_loss"]) == pytest.approx(critic, rel=1e-5)
    assert float(metrics["actor/loss"]) == pytest.approx(actor, rel=1e-5)


def test_acting_takes_the_candidate_that_the_target_critics_like_best() -> None:
    agent = make(candidates=6, actor_average_rate=0.1)
    for seed in range(3):
        agent.update(make_batch(seed=seed))
    state = make_batch(8, seed=9).observation["state"]
    noise = double(torch.randn((5, 6, 2), generator=torch.Generator().manual_seed(idql.EVALUATION_SEED)))
    expected = []
    for row in double(state):
        repeated = np.tile(row, (6, 1))
        candidates = sampled(agent.average_actor, repeated, noise)
        expected.append(candidates[of_critics(agent.target_critic, repeated, candidates).min(0).argmax()])
    found = agent.act({"state": state}, explore=False)
    np.testing.assert_allclose(double(found), np.stack(expected), rtol=1e-4, atol=1e-5)


def test_the_action_of_a_state_does_not_depend_on_the_rows_beside_it() -> None:
    agent, state = make(), make_batch(8).observation["state"]
    together = agent.act({"state": state}, explore=False)
    alone = torch.cat([agent.act({"state": row[None]}, explore=False) for row in state])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("expectile", [0.9, 0.5, 0.1])
def test_exploring_draws_good_and_bad_candidates_by_weight(expectile: float) -> None:
    """With the share p of candidates above V, a good one is drawn with p e / (p e + (1 - p) (1 - e))."""
    agent = make(candidates=32, expectile=expectile)
    state, critics = torch.zeros(2000, 4), agent.target_critic
    with torch.no_grad():
        q = critics(state, agent._candidates(state, True)).amin(dim=0)
        v = q[:100].quantile(0.6)
        for each in agent.value_network.layers:
            nn.init.zeros_(each.weight)
        nn.init.constant_(agent.value_network.layers[-1].bias, float(v))
        action = agent.act({"state": state}, explore=True)
        found = float((critics(state, action).amin(dim=0) >= v).float().mean())
        good = float((q >= v).float().mean()) * expectile
    bad = float((q < v).float().mean()) * (1 - expectile)
    assert found == pytest.approx(good / (good + bad), abs=0.05)


def test_exploring_with_the_best_draws_new_candidates_and_takes_the_best() -> None:
    agent = make(candidates=64, exploration="best")
    state = torch.zeros(500, 4)
    best, weighted = agent.act({"state": state}, explore=True), None
    agent.config = IDQLConfig(**SMALL, candidates=64)
    weighted = agent.act({"state": state}, explore=True)
    q = [agent.target_critic(state, each).amin(dim=0).mean() for each in (best, weighted)]
    assert q[0] > q[1]
    assert best.std(dim=0).min() > 0


def test_without_training_the_actor_only_the_critics_move() -> None:
    agent = make(train_actor=False)
    networks = {name: getattr(agent, name) for name in ("actor", "average_actor", "critic", "value_network")}
    before = {name: [each.clone() for each in network.parameters()] for name, network in networks.items()}
    metrics = agent.update(make_batch())
    still = {
        name
        for name, network in networks.items()
        if all(torch.equal(a, b) for a, b in zip(before[name], network.parameters(), strict=True))
    }
    assert still == {"actor", "average_actor"}
    assert "actor/loss" not in metrics


def test_after_its_schedule_the_actor_stands_still_and_its_average_catches_up() -> None:
    agent = make(actor_schedule_steps=2, actor_average_rate=0.5)
    for seed in range(20):
        agent.update(make_batch(seed=seed))
        if seed == 1:
            before = [each.clone() for each in agent.actor.parameters()]
    for old, new, average in zip(before, agent.actor.parameters(), agent.average_actor.parameters(), strict=True):
        assert torch.equal(old, new)
        torch.testing.assert_close(average.detach(), new.detach(), rtol=1e-3, atol=1e-4)


def test_a_chunked_update_is_that_many_updates() -> None:
    together, apart, batch = make(), make(), make_batch(64)
    together.update(batch, critic_updates=2)
    for rows in (slice(0, 32), slice(32, 64)):
        apart.update(
            Batch(
                observation={"state": batch.observation["state"][rows]},
                action=batch.action[rows],
                reward=batch.reward[rows],
                discount=batch.discount[rows],
                next_observation={"state": batch.next_observation["state"][rows]},
            )
        )
    for name in ("actor", "average_actor", "critic", "target_critic", "value_network"):
        for a, b in zip(getattr(together, name).parameters(), getattr(apart, name).parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_an_agent_from_a_checkpoint_goes_on_as_if_nothing_had_happened() -> None:
    agent, restored = make(actor_weight_decay=0.1), make(actor_weight_decay=0.1)
    agent.update(make_batch())
    checkpoint.unpack_agent(restored, *checkpoint.pack_agent(agent))
    for each in (agent, restored):
        each.update(make_batch(seed=1))
    expected, found = (checkpoint.pack_agent(each)[0] for each in (agent, restored))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_the_actors_weights_decay() -> None:
    # AdamW: w - rate * (Adam's step + decay * w); two first steps differ by rate * decay * w
    agents = [make(actor_weight_decay=decay, actor_learning_rate=1e-2) for decay in (0.0, 0.5)]
    before = agents[0].actor.last.weight.detach().clone()
    for agent in agents:
        agent.update(make_batch())
    plain, decayed = (agent.actor.last.weight.detach() for agent in agents)
    torch.testing.assert_close(plain - decayed, 1e-2 * 0.5 * before, rtol=1e-4, atol=1e-6)


def test_rewards_a_thousand_times_as_large_are_survived() -> None:
    agent = make()
    for seed in range(20):
        metrics = agent.update(make_batch(seed=seed, scale=1e3))
        assert all(math.isfinite(value) for value in metrics.values())
    state = make_batch().observation["state"]
    assert torch.isfinite(agent.act({"state": state}, explore=True)).all()


def test_both_modes_of_the_data_are_candidates_and_the_better_one_is_chosen() -> None:
    """Actions near -0.7 and 0.7, of which 0.7 is worth more; a Gaussian clone would act at 0, which nobody did."""
    agent = make(
        1, 1, actor_learning_rate=3e-3, critic_learning_rate=3e-3, value_learning_rate=3e-3, actor_average_rate=0.02,
        actor_width=32, actor_dropout=0.0, diffusion_steps=20,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for _ in range(500):
        sign = torch.where(torch.rand((64, 1), generator=generator) < 0.5, -1.0, 1.0)
        action = 0.7 * sign + 0.05 * torch.randn((64, 1), generator=generator)
        observation = {"state": torch.zeros(64, 1)}
        agent.update(
            Batch(
                observation=observation,
                action=action,
                reward=action[:, 0],
                discount=torch.zeros(64),
                next_observation=observation,
            )
        )
    state = torch.zeros(200, 1)
    with torch.no_grad():
        candidates = agent._candidates(state, True)
    assert float((candidates < -0.4).float().mean()) == pytest.approx(0.5, abs=0.2)
    assert float((candidates > 0.4).float().mean()) == pytest.approx(0.5, abs=0.2)
    assert float((candidates.abs() < 0.4).float().mean()) < 0.1
    assert float(agent.act({"state": state}, explore=False).min()) > 0.4
