"""TD3 and its relatives: arithmetic of the terms, parity with formulas in float64, and when what is updated."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.algorithms import TD3Config, create, td3
from robot_rl.errors import InputError
from robot_rl.functional.ensemble import reduce_heads
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

SPEC = Spec(observation={"state": ArraySpec(shape=(4,))}, action=ArraySpec(shape=(2,)))
CPU = torch.device("cpu")


def make(**settings) -> td3.TD3:
    config = TD3Config(actor_hidden=[16, 16], critic_hidden=[16, 16], **settings)
    agent = create(config, SPEC, Seeds(0), CPU, None)
    assert isinstance(agent, td3.TD3)
    return agent


def batch(rows: int = 32, seed: int = 0, **fields) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    values = {
        "observation": {"state": noise(rows, 4)},
        "action": noise(rows, 2).tanh(),
        "reward": noise(rows),
        "discount": torch.where(noise(rows) > 1, 0.0, 0.99),
        "next_observation": {"state": noise(rows, 4)},
        "next_action": noise(rows, 2).tanh(),
        "has_next_action": noise(rows) < 1,
        "monte_carlo_return": noise(rows),
    }
    return Batch(**(values | fields))


def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def network(agent: td3.TD3, which: str, features: np.ndarray, action: np.ndarray | None = None) -> np.ndarray:
    """An independent forward pass in float64: (B, A) of an actor, (E, B) of critics."""
    if action is None:
        x = features
        layers = getattr(agent, which).network.layers
        for index, layer in enumerate(layers):
            x = x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
            x = np.maximum(x, 0) if index < len(layers) - 1 else np.tanh(x)
        return x
    critics, module = [], getattr(agent, which)
    for member in range(module.count):
        x = np.concatenate([features, action], 1)
        for index, (weight, bias) in enumerate(zip(module.weights, module.biases, strict=True)):
            x = x @ weight[member].detach().double().numpy().T + bias[member].detach().double().numpy()
            x = np.maximum(x, 0) if index < len(module.weights) - 1 else x
        critics.append(x[:, 0])
    return np.stack(critics)


def numbers(rows: Batch) -> dict[str, np.ndarray]:
    return {
        "s": rows.observation["state"].double().numpy(),
        "a": rows.action.double().numpy(),
        "r": rows.reward.double().numpy(),
        "d": rows.discount.double().numpy(),
        "s2": rows.next_observation["state"].double().numpy(),
        "a2": rows.next_action.double().numpy(),
        "has": rows.has_next_action.numpy(),
    }


def test_smoothing_cuts_the_noise_and_then_the_action() -> None:
    # noise 2 is cut to 0.5: 0.3 + 0.5 = 0.8; 0.9 + 0.3 = 1.2 is cut to 1; -0.2 - 0.5 = -0.7
    action, noise = torch.tensor([[0.3, 0.9, -0.2]]), torch.tensor([[2.0, 0.3, -3.0]])
    torch.testing.assert_close(td3.smoothed(action, noise, 0.5), torch.tensor([[0.8, 1.0, -0.7]]))


def test_the_actor_weighs_value_against_cloning() -> None:
    # mean |Q| = 3, so lambda = 6 / 3 = 2: mean(0.5 * [4, 0] - 2 * [2, -4]) = mean([-2, 8]) = 3
    q, cloning = torch.tensor([2.0, -4.0]), torch.tensor([4.0, 0.0])
    loss = td3.actor_loss(q, cloning, value_weight=6.0, cloning_weight=0.5, normalize=True)
    torch.testing.assert_close(loss, torch.tensor(3.0))
    # not normalised: mean([2 - 12, 0 + 24]) = 7
    loss = td3.actor_loss(q, cloning, value_weight=6.0, cloning_weight=0.5, normalize=False)
    torch.testing.assert_close(loss, torch.tensor(7.0))


def test_infeasible_actions_lie_far_outside_on_both_sides() -> None:
    # c = 100: u = 0.5 gives 150, -0.25 gives -125, -1 gives -200
    found = td3.infeasible_actions(torch.tensor([[0.5, -0.25, -1.0]]), 100.0)
    torch.testing.assert_close(found, torch.tensor([[150.0, -125.0, -200.0]]))


def test_weighted_min_pair_is_the_mean_over_all_pairs() -> None:
    # pairs of 1, 2, 4: minima 1, 1, 2, mean 4/3
    torch.testing.assert_close(
        reduce_heads(torch.tensor([[4.0], [1.0], [2.0]]), "weighted_min_pair"), torch.tensor([4 / 3])
    )


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8))
def test_weighted_min_pair_equals_the_pairs_written_out(values: list[float]) -> None:
    q = torch.tensor(values, dtype=torch.float64)[:, None]
    pairs = [min(a, b) for i, a in enumerate(values) for b in values[i + 1 :]] or values
    found = reduce_heads(q, "weighted_min_pair")
    torch.testing.assert_close(found, torch.tensor([np.mean(pairs)]), rtol=1e-9, atol=1e-9)


CRITICS = {
    "td3": {},
    "rebrac": {"critic_cloning_weight": 0.7},
    "rebrac_calibrated": {"critic_cloning_weight": 0.7, "calibrated": True},
    "pars": {"infeasible_weight": 0.3, "infeasible_value": -3.0, "infeasible_distance": 2.0, "critic_subset": 2},
    "mean": {"critic_reduction": "mean"},
}


@pytest.mark.parametrize("name", list(CRITICS))
def test_the_critic_loss_is_the_formula(name: str) -> None:
    agent = make(critic_count=4, target_noise=0.3, target_noise_limit=0.4, **CRITICS[name])
    config, rows, own = agent.config, batch(), torch.Generator()
    x = numbers(rows)
    own.set_state(agent.generator.get_state())
    noise = np.clip(0.3 * double(torch.randn((32, 2), generator=own)), -0.4, 0.4)
    next_action = np.clip(network(agent, "target_actor", x["s2"]) + noise, -1, 1)
    v = network(agent, "target_critic", x["s2"], next_action)
    if config.critic_subset is not None:
        v = v[torch.rand(4, generator=own).argsort()[:2].numpy()]
    v = v.min(0) - config.critic_cloning_weight * np.where(x["has"], np.square(next_action - x["a2"]).sum(1), 0.0)
    y = x["r"] + x["d"] * v
    y = np.maximum(y, double(rows.monte_carlo_return)) if config.calibrated else y
    expected = np.square(network(agent, "critic", x["s"], x["a"]) - y).mean(1)
    if config.infeasible_weight:
        uniform = double(torch.rand((32, 2), generator=own)) * 2 - 1
        outside = 2.0 * np.where(uniform < 0, -1, 1) * (1 + np.abs(uniform))
        expected = expected + 0.3 * np.square(network(agent, "critic", x["s"], outside) + 3.0).mean(1)
    expected = expected.mean() if config.critic_reduction == "mean" else expected.sum()
    assert float(agent.update(rows)["critic/td_loss"]) == pytest.approx(expected, rel=1e-5)


ACTORS = {
    "td3": {},
    "td3_bc": {
        "actor_value_weight": 2.5,
        "actor_normalize_value": True,
        "actor_cloning_weight": 1.0,
        "actor_cloning_reduction": "mean",
    },
    "rebrac": {"actor_reduction": "min", "actor_normalize_value": True, "actor_cloning_weight": 0.4},
    "pars_online": {"actor_reduction": "mean", "actor_subset": 2, "actor_normalize_value": True},
}


@pytest.mark.parametrize("name", list(ACTORS))
def test_the_actor_loss_and_its_gradient_are_the_formula(name: str) -> None:
    agent = make(actor_every=1, critic_learning_rate=0.0, critic_count=4, actor_learning_rate=0.0, **ACTORS[name])
    config, rows, own = agent.config, batch(), torch.Generator()
    x = numbers(rows)
    own.set_state(agent.generator.get_state())
    torch.randn((32, 2), generator=own)  # of the smoothing
    heads = {"first": [0], "min": [0, 1, 2, 3], "mean": torch.rand(4, generator=own).argsort()[:2].tolist()}
    drawn = heads[config.actor_reduction]
    layers = [(double(each.weight), double(each.bias)) for each in agent.actor.network.layers]

    def value(action: np.ndarray) -> np.ndarray:
        q = network(agent, "critic", x["s"], action)[drawn]
        return q.mean(0) if config.actor_reduction == "mean" else q.min(0)

    scale = np.abs(value(network(agent, "actor", x["s"]))).mean() if config.actor_normalize_value else 1.0

    def loss(layers: list[tuple[np.ndarray, np.ndarray]]) -> float:
        action = x["s"]
        for index, (weight, bias) in enumerate(layers):
            action = action @ weight.T + bias
            action = np.maximum(action, 0) if index < len(layers) - 1 else np.tanh(action)
        distance = np.square(action - x["a"])
        distance = distance.mean(1) if config.actor_cloning_reduction == "mean" else distance.sum(1)
        return np.mean(config.actor_cloning_weight * distance - config.actor_value_weight * value(action) / scale)

    assert float(agent.update(rows)["actor/loss"]) == pytest.approx(loss(layers), rel=1e-5)
    draws = np.random.default_rng(0)
    way = [(draws.normal(size=w.shape), draws.normal(size=b.shape)) for w, b in layers]
    ahead, behind = (
        [(w + h * v, b + h * c) for (w, b), (v, c) in zip(layers, way, strict=True)] for h in (1e-6, -1e-6)
    )
    found = sum(
        (double(each.weight.grad) * v).sum() + (double(each.bias.grad) * c).sum()
        for each, (v, c) in zip(agent.actor.network.layers, way, strict=True)
    )
    assert found == pytest.approx((loss(ahead) - loss(behind)) / 2e-6, rel=1e-4)


def test_cloning_decays_to_its_final_weight_and_stays() -> None:
    # from 0.4 to 0.2 over updates 2 to 6: a quarter of the way at 3
    agent = make(
        actor_cloning_weight=0.4, actor_cloning_final=0.2, actor_cloning_decay_start=2, actor_cloning_decay_updates=4
    )
    found = []
    for agent.updates in (0, 2, 3, 4, 6, 100):
        found.append(agent._cloning_weight)
    assert found == pytest.approx([0.4, 0.4, 0.35, 0.3, 0.2, 0.2])


def test_the_decayed_weight_is_what_the_actor_sees() -> None:
    settings = {"actor_every": 1, "critic_learning_rate": 0.0, "actor_value_weight": 0.0}
    decayed = make(**settings, actor_cloning_weight=4.0, actor_cloning_final=2.0)
    plain = make(**settings, actor_cloning_weight=1.0)
    # the first update is number 1, where the decay over 1 update is done
    torch.testing.assert_close(decayed.update(batch())["actor/loss"], 2 * plain.update(batch())["actor/loss"])


def test_the_actor_and_the_targets_follow_every_second_update_of_the_critic() -> None:
    agent = make()

    def moved(name: str) -> bool:
        before = [each.clone() for each in getattr(agent, name).parameters()]
        agent.update(batch())
        return any(not torch.equal(a, b) for a, b in zip(before, getattr(agent, name).parameters(), strict=True))

    assert [moved("actor") for _ in range(4)] == [False, True, False, True]
    assert [moved("target_critic") for _ in range(4)] == [False, True, False, True]
    assert moved("critic")


def test_several_critic_updates_in_one_call_are_the_same_as_one_after_the_other() -> None:
    together, apart = make(), make()
    rows = batch(64)
    together.update(rows, critic_updates=4)
    for start in range(0, 64, 16):
        part = slice(start, start + 16)
        apart.update(
            batch(
                observation={"state": rows.observation["state"][part]},
                next_observation={"state": rows.next_observation["state"][part]},
                **{name: getattr(rows, name)[part] for name in ("action", "reward", "discount", "next_action")},
                has_next_action=rows.has_next_action[part],
                monte_carlo_return=None,
            )
        )
    for a, b in zip(together.actor.parameters(), apart.actor.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_penalty_on_next_actions_refuses_batches_without_them() -> None:
    agent = make(critic_cloning_weight=0.1)
    assert agent.needs == {"next_action"}
    assert not make().needs
    with pytest.raises(InputError, match="critic_cloning_weight"):
        agent.update(batch(next_action=None, has_next_action=None))


def test_calibration_refuses_batches_without_returns() -> None:
    agent = make(calibrated=True)
    assert agent.needs == {"monte_carlo_return"}
    with pytest.raises(InputError, match=r"algorithm\.calibrated=false"):
        agent.update(batch(monte_carlo_return=None))


def test_exploring_noise_has_its_deviation() -> None:
    agent = make(exploration_noise=0.05)
    observation = {"state": torch.zeros(20_000, 4)}
    noise = agent.act(observation, explore=True) - agent.act(observation, explore=False)
    assert float(noise.std()) == pytest.approx(0.05, rel=0.05)
