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
    }
    return Batch(**(values | fields))


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


@pytest.mark.parametrize(("weight", "infeasible"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.3)], ids=["td3", "rebrac", "pars"])
def test_the_critic_loss_is_the_formula(weight: float, infeasible: float) -> None:
    agent = make(
        target_noise=0.0, critic_cloning_weight=weight, infeasible_weight=infeasible, infeasible_value=-3.0,
        infeasible_distance=2.0,
    )  # fmt: skip
    rows = batch()
    x, state = numbers(rows), agent.generator.get_state()
    next_action = network(agent, "target_actor", x["s2"])
    v = network(agent, "target_critic", x["s2"], next_action).min(0)
    v = v - weight * np.where(x["has"], np.square(next_action - x["a2"]).sum(1), 0.0)
    expected = np.square(network(agent, "critic", x["s"], x["a"]) - (x["r"] + x["d"] * v)).mean(1)
    if infeasible:
        generator = torch.Generator()
        generator.set_state(state)
        torch.randn((32, 2), generator=generator)  # of the smoothing, whose deviation is 0 here
        uniform = torch.rand((32, 2), generator=generator).double().numpy() * 2 - 1
        outside = 2.0 * np.where(uniform < 0, -1, 1) * (1 + np.abs(uniform))
        expected = expected + infeasible * np.square(network(agent, "critic", x["s"], outside) + 3.0).mean(1)
    found = agent.update(rows)["critic/td_loss"]
    assert float(found) == pytest.approx(expected.sum(), rel=1e-5)


@pytest.mark.parametrize("reduction", ["first", "min", "mean"])
def test_the_actor_loss_is_the_formula(reduction: str) -> None:
    agent = make(
        actor_every=1, critic_learning_rate=0.0, actor_reduction=reduction, actor_value_weight=2.5,
        actor_normalize_value=True, actor_cloning_weight=1.0, actor_cloning_reduction="mean", critic_count=3,
    )  # fmt: skip
    rows = batch()
    x = numbers(rows)
    action = network(agent, "actor", x["s"])
    q = network(agent, "critic", x["s"], action)
    q = {"first": q[0], "min": q.min(0), "mean": q.mean(0)}[reduction]
    expected = np.mean(np.square(action - x["a"]).mean(1) - 2.5 * q / np.abs(q).mean())
    assert float(agent.update(rows)["actor/loss"]) == pytest.approx(expected, rel=1e-5)


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


def test_exploring_noise_has_its_deviation() -> None:
    agent = make(exploration_noise=0.05)
    observation = {"state": torch.zeros(20_000, 4)}
    noise = agent.act(observation, explore=True) - agent.act(observation, explore=False)
    assert float(noise.std()) == pytest.approx(0.05, rel=0.05)
