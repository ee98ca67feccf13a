"""Q-Transformer: the network and whole updates against formulas in float64, what a dimension sees, how it chooses."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from robot_rl import checkpoint
from robot_rl.algorithms import QTransformerConfig, qtransformer, with_overrides
from robot_rl.errors import InputError
from robot_rl.functional.autoregressive import dimension_targets, recorded_bin, unseen_loss
from robot_rl.networks.autoregressive import AutoregressiveCritic
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

CPU = torch.device("cpu")
ROWS, FEATURES, SIZE, BINS, LOW, HIGH = 12, 4, 3, 5, -2.0, 3.0
SMALL: dict[str, Any] = {
    "bins": BINS,
    "critic_width": 8,
    "attention_heads": 2,
    "value_minimum": LOW,
    "value_maximum": HIGH,
}


def make(**settings: Any) -> qtransformer.QTransformer:
    """Its target network is another than the online one."""
    spec = Spec(observation={"state": ArraySpec(shape=(FEATURES,))}, action=ArraySpec(shape=(SIZE,)))
    agent, other = (
        qtransformer.create(QTransformerConfig(**(SMALL | settings)), spec, Seeds(seed), CPU, None) for seed in (0, 1)
    )
    agent.target_critic.load_state_dict(other.critic.state_dict())
    return agent


def make_batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Batch(
        observation={"state": noise(ROWS, FEATURES)},
        action=noise(ROWS, SIZE).tanh(),
        reward=noise(ROWS),
        discount=torch.where(noise(ROWS) > 0.5, 0.0, 0.97),
        next_observation={"state": noise(ROWS, FEATURES)},
        monte_carlo_return=2 * noise(ROWS),
    )


# Independent formulas in float64 --------------------------------------------------------------------------------------
def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def linear(layer: torch.nn.Linear, x: np.ndarray) -> np.ndarray:
    return x @ double(layer.weight).T + double(layer.bias)


def normalized(x: np.ndarray, norm: torch.nn.LayerNorm | None = None) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x if norm is None else x * double(norm.weight) + double(norm.bias)


def gelu(x: np.ndarray) -> np.ndarray:
    return x * torch.special.ndtr(torch.from_numpy(x)).numpy()


def of_critic(critic: AutoregressiveCritic, state: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """One row, token by token. Shapes: (F,), (P,) -> (P + 1, Z)."""
    tokens = [normalized(linear(critic.state, state)), *(double(critic.bin[d, b]) for d, b in enumerate(bins))]
    x = np.stack([token + double(critic.place[at]) for at, token in enumerate(tokens)])
    for block in critic.blocks:
        each = linear(block.mixed, normalized(x, block.norm))
        query, key, value = (np.split(part, block.heads, -1) for part in np.split(each, 3, -1))
        found = np.zeros_like(x)
        for t in range(len(x)):
            parts = []
            for q, k, v in zip(query, key, value, strict=True):
                weight = np.exp(q[t] @ k[: t + 1].T / np.sqrt(q.shape[-1]))
                parts.append(weight / weight.sum() @ v[: t + 1])
            found[t] = np.concatenate(parts)
        x = x + linear(block.merged, found)
        x = x + linear(block.narrow, gelu(linear(block.wide, normalized(x, block.second_norm))))
    last = normalized(x, critic.norm)
    logits = np.stack([double(critic.head[t]) @ last[t] + double(critic.offset[t]) for t in range(len(x))])
    return LOW + (HIGH - LOW) / (1 + np.exp(-logits))


def bins_of(action: np.ndarray) -> np.ndarray:
    return np.clip(np.floor((action + 1) / 2 * BINS), 0, BINS - 1).astype(int)


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_losses_of_an_update_are_those_of_the_formulas(bound: bool, weight: float) -> None:
    agent, batch = make(return_bound=bound, conservative_weight=weight), make_batch()
    state, following = double(batch.observation["state"]), double(batch.next_observation["state"])
    errors, unseen, last, held, outside = [], [], [], [], []
    for row in range(ROWS):
        chosen = bins_of(double(batch.action[row]))
        q = of_critic(agent.critic, state[row], chosen[:-1])
        now = of_critic(agent.target_critic, state[row], chosen[:-1])
        then = of_critic(agent.target_critic, following[row], chosen[:0])
        assert batch.monte_carlo_return is not None
        had = float(batch.monte_carlo_return[row])
        for d in range(SIZE):
            y = float(batch.reward[row]) + float(batch.discount[row]) * then[0].max()
            y = y if d == SIZE - 1 else now[d + 1].max()
            held.append(bound and had > y)
            y = max(y, had) if bound else y
            outside.append(y < LOW or y > HIGH)
            y = min(max(y, LOW), HIGH)
            errors.append((q[d, chosen[d]] - y) ** 2 / 2)
            unseen.append(np.mean([(q[d, b] - LOW) ** 2 / 2 for b in range(BINS) if b != chosen[d]]))
        last.append(y)
    expected = {
        "critic/td_loss": np.mean(errors),
        "critic/conservative_loss": np.mean(unseen),
        "critic/target": np.mean(last),
        "critic/target_outside": np.mean(outside),
    } | ({"critic/bound_by_return": np.mean(held)} if bound else {})
    bins = agent.bins_of(batch.action)
    values = agent.critic(batch.observation["state"], bins[:, :-1])
    loss, parts = qtransformer.critic_loss(
        values, bins, torch.zeros(ROWS, SIZE), lowest=LOW, conservative_weight=weight
    )
    total = parts["critic/td_loss"] + weight * parts["critic/conservative_loss"]
    assert float(loss.detach()) == pytest.approx(float(total))
    metrics = agent.update(batch)
    assert set(metrics) == {*expected, "critic/q"}
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name


def test_the_best_of_the_next_dimension_is_the_target_and_the_last_has_reward_and_discount() -> None:
    q = torch.tensor([[[9.0, 9.0], [1.0, 2.0], [4.0, 3.0]]])
    found = dimension_targets(q, torch.tensor([10.0]), torch.tensor([0.5]), torch.tensor([[6.0, 8.0]]))
    assert found.tolist() == [[2.0, 4.0, 14.0]]  # 10 + 0.5 * 8
    assert dimension_targets(q, torch.tensor([10.0]), torch.zeros(1), torch.tensor([[6.0, 8.0]]))[0, 2] == 10.0


def test_bins_that_were_not_recorded_alone_are_drawn_to_the_lowest_return() -> None:
    q = torch.tensor([[[1.0, 2.0, 5.0]]], requires_grad=True)
    chosen = torch.tensor([[2]])
    loss = unseen_loss(q, chosen, 1.0)
    assert float(loss.detach()) == 0.25  # (0 + 1) / 2 / 2
    loss.backward()
    assert q.grad is not None
    assert q.grad.tolist() == [[[0.0, 0.5, 0.0]]]
    assert recorded_bin(q, chosen).tolist() == [[5.0]]


def test_a_dimension_sees_those_before_it_alone() -> None:
    critic, state = make().critic, torch.randn(1, FEATURES, generator=torch.Generator().manual_seed(0))
    one, other = (critic(state, torch.tensor([[1, bin]]))[0] for bin in (0, 3))
    torch.testing.assert_close(one[:2], other[:2])
    assert not torch.allclose(one[2], other[2])
    shorter = critic(state, torch.tensor([[1]]))[0]
    torch.testing.assert_close(shorter, one[:2])


def test_several_actions_in_one_state_are_judged_as_each_alone() -> None:
    agent, batch = make(), make_batch()
    state = batch.observation["state"][:1]
    together = agent.target_value(state, batch.action)
    alone = torch.cat([agent.target_value(state, action[None]) for action in batch.action])
    torch.testing.assert_close(together, alone)
    bins = bins_of(double(batch.action))
    wanted = [of_critic(agent.critic, double(state[0]), each[:-1])[-1, each[-1]] for each in bins]
    np.testing.assert_allclose(double(agent.value({"state": state.expand(ROWS, -1)}, batch.action)), wanted, rtol=1e-5)


def test_the_best_bins_are_played_dimension_by_dimension() -> None:
    agent, observation = make(exploration_noise=0.0), make_batch().observation
    wanted = []
    for state in double(observation["state"]):
        chosen: list[int] = []
        for _ in range(SIZE):
            chosen.append(int(of_critic(agent.critic, state, np.array(chosen, int))[-1].argmax()))
        wanted.append([-1 + (2 * b + 1) / BINS for b in chosen])
    np.testing.assert_allclose(double(agent.act(observation, explore=False)), wanted, atol=1e-6)
    np.testing.assert_allclose(double(agent.act(observation, explore=True)), wanted, atol=1e-6)
    noisy = replace(agent, config=replace(agent.config, exploration_noise=0.1))
    assert 0.03 < float((noisy.act(observation, explore=True) - torch.tensor(wanted)).std()) < 0.2


def test_returns_are_needed_where_they_bound_the_targets() -> None:
    agent, batch = make(), make_batch()
    assert agent.needs == {"monte_carlo_return"}
    with pytest.raises(InputError, match="return_bound needs monte_carlo_return"):
        agent.update(replace(batch, monte_carlo_return=None))
    agent.config = with_overrides(agent.config, {"return_bound": False})
    assert agent.needs == frozenset()
    agent.update(replace(batch, monte_carlo_return=None))
    with pytest.raises(InputError, match="bins shapes the networks"):
        with_overrides(agent.config, {"bins": 8})


def test_recorded_actions_of_good_returns_are_found_among_bad_ones() -> None:
    """Return 1 where the action is sign-like to the state in both dimensions, 0 elsewhere; half the rows are either."""
    spec = Spec(observation={"state": ArraySpec(shape=(1,))}, action=ArraySpec(shape=(2,)))
    config = QTransformerConfig(bins=4, critic_width=16, attention_heads=2, critic_learning_rate=1e-2)
    agent, generator = qtransformer.create(config, spec, Seeds(0), CPU, None), torch.Generator().manual_seed(0)
    for _ in range(60):
        state = 2 * torch.rand(64, 1, generator=generator) - 1
        action = 1.8 * torch.rand(64, 2, generator=generator) - 0.9
        action[::2] = action[::2].abs() * state[::2].sign()
        reward = (action.sign() == state.sign()).all(dim=1).float()
        observation = {"state": state}
        agent.update(
            Batch(
                observation=observation,
                action=action,
                reward=reward,
                discount=torch.zeros(64),
                next_observation=observation,
                monte_carlo_return=reward,
            )
        )
    state = torch.linspace(-1, 1, 40)[:, None]
    chosen = agent.act({"state": state}, explore=False)
    assert float((chosen.sign() == state.sign()).all(dim=1).float().mean()) > 0.9
    right, wrong = (agent.value({"state": state}, sign * 0.6 * state.sign().expand(-1, 2)) for sign in (1, -1))
    assert float((right - wrong).mean()) > 0.3


def test_a_checkpoint_keeps_everything(tmp_path) -> None:
    whole, first, second = make(), make(), make()
    for step in range(4):
        whole.update(make_batch(step))
    for step in range(2):
        first.update(make_batch(step))
    tensors, state = checkpoint.pack_agent(first)
    checkpoint.save(tmp_path, 1, tensors, {"agent": state})
    tensors, loaded = checkpoint.load(checkpoint.checkpoints(tmp_path)[-1])
    checkpoint.unpack_agent(second, tensors, loaded["agent"])
    for step in range(2, 4):
        second.update(make_batch(step))
    a, b = checkpoint.pack_agent(whole)[0], checkpoint.pack_agent(second)[0]
    assert all(torch.equal(a[key], b[key]) for key in a)
