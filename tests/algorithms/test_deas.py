"""DEAS: parity of its losses with formulas in float64, what it clones, how it chooses, and what is kept."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robot_rl import checkpoint
from robot_rl.algorithms import DEASConfig, deas, with_overrides
from robot_rl.algorithms.agent import Agent
from robot_rl.errors import InputError
from robot_rl.networks.critic_head import CriticHeadConfig
from robot_rl.networks.ensemble import Ensemble
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

CPU = torch.device("cpu")
STEPS, ACTION = 3, 2
LOW, HIGH, BINS = -8.0, 4.0, 24
SMALL: dict[str, Any] = {
    "actor_hidden": [16, 16],
    "critic_hidden": [16, 16],
    "value_hidden": [16, 16],
    "critic_layer_norm": False,
    "critic_head": CriticHeadConfig(kind="hl_gauss", minimum=LOW, maximum=HIGH, atoms=BINS),
}


def make(**settings) -> deas.DEAS:
    spec = Spec(observation={"state": ArraySpec(shape=(4,))}, action=ArraySpec(shape=(ACTION,))).chunked(STEPS)
    return deas.create(DEASConfig(**(SMALL | settings)), spec, Seeds(0), CPU, None)


def make_batch(rows: int = 32, seed: int = 0, *, cut: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    length = torch.randint(1, STEPS + 1, (rows,), generator=generator)
    return Batch(
        observation={"state": noise(rows, 4)},
        action=noise(rows, STEPS * ACTION).tanh(),
        reward=2 * noise(rows),
        discount=torch.where(noise(rows) > 0.5, 0.0, 0.97),
        next_observation={"state": noise(rows, 4)},
        valid=torch.arange(STEPS)[None] < length[:, None] if cut else None,
    )


# Independent formulas in float64 --------------------------------------------------------------------------------------
def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def of_mlp(network: nn.Module, x: np.ndarray) -> np.ndarray:
    for layer in network.layers[:-1]:
        x = np.maximum(x @ double(layer.weight).T + double(layer.bias), 0)
    return x @ double(network.layers[-1].weight).T + double(network.layers[-1].bias)


def of_critics(critic: Ensemble, state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Shapes: -> (E, B, Z)."""
    found = []
    for member in range(critic.count):
        x = np.concatenate([state, action], 1)
        for index, (weight, bias) in enumerate(zip(critic.weights, critic.biases, strict=True)):
            x = x @ double(weight[member]).T + double(bias[member])
            x = np.maximum(x, 0) if index < len(critic.weights) - 1 else x
        found.append(x)
    return np.stack(found)


def softmax(logits: np.ndarray) -> np.ndarray:
    each = np.exp(logits - logits.max(-1, keepdims=True))
    return each / each.sum(-1, keepdims=True)


def mean_of(logits: np.ndarray) -> np.ndarray:
    width = (HIGH - LOW) / BINS
    return softmax(logits) @ (LOW + width * (np.arange(BINS) + 0.5))


def histogram(target: np.ndarray) -> np.ndarray:
    """The mass of N(target, (0.75 bins)^2) in each bin, cut to the range. Shapes: (B,) -> (B, Z)."""
    width = (HIGH - LOW) / BINS
    found = []
    for value in np.clip(target, LOW, HIGH):
        edges = [math.erf((LOW + width * k - value) / (math.sqrt(2) * 0.75 * width)) for k in range(BINS + 1)]
        found.append(np.diff(edges) / (edges[-1] - edges[0]))
    return np.stack(found)


def cross_entropy(probability: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return -(probability * np.log(softmax(logits))).sum(-1)


def weight_of(batch: Batch, rule: str) -> np.ndarray:
    whole = np.ones(len(batch), bool) if batch.valid is None else batch.valid[:, -1].numpy()
    terminated = double(batch.discount) == 0
    return {"whole": whole, "terminated": whole | terminated, "all": np.ones(len(batch))}[rule].astype(float)


@pytest.mark.parametrize("rule", ["whole", "terminated", "all"])
@pytest.mark.parametrize("target", ["distribution", "mean"])
def test_losses_of_an_update_are_those_of_the_formulas(rule, target) -> None:
    agent, batch, expectile = make(critic_chunks=rule, value_target=target, expectile=0.8), make_batch(), 0.8
    with torch.no_grad():  # so that the targets differ from the critics, and the two critics from one another
        for each in agent.target_critic.parameters():
            each.add_(0.3 * torch.randn(each.shape, generator=torch.Generator().manual_seed(each.numel())))
    state, next_state = double(batch.observation["state"]), double(batch.next_observation["state"])
    action, weight = double(batch.action), weight_of(batch, rule)
    q_logits = of_critics(agent.target_critic, state, action)  # (E, B, Z)
    q_each = mean_of(q_logits)
    least = q_each.argmin(0)
    q = q_each.min(0)
    v_logits = of_mlp(agent.value_network, state)
    share = np.where(q < mean_of(v_logits), 1 - expectile, expectile) * weight
    wanted = softmax(q_logits)[least, np.arange(len(q))] if target == "distribution" else histogram(q)
    value = (share * cross_entropy(wanted, v_logits)).mean()

    y = double(batch.reward) + double(batch.discount) * mean_of(of_mlp(agent.value_network, next_state))
    logits = of_critics(agent.critic, state, action)
    critic = np.mean([(weight * cross_entropy(histogram(y), each)).mean() for each in logits])

    generator = torch.Generator()
    generator.set_state(agent.generator.get_state())
    time = double(torch.rand(len(batch), 1, generator=generator))
    noise = double(torch.randn(batch.action.shape, generator=generator))
    velocity = of_mlp(agent.flow, np.concatenate([state, (1 - time) * noise + time * action, time], 1))
    assert batch.valid is not None
    masked = (velocity - (action - noise)) ** 2 * np.repeat(batch.valid.numpy(), ACTION, axis=1)

    metrics = agent.update(batch)
    expected = {
        "value/loss": value,
        "critic/td_loss": critic,
        "actor/flow_loss": masked.mean(),
        "critic/target": y.mean(),
    }
    for name, number in expected.items():
        assert float(metrics[name]) == pytest.approx(number, rel=1e-5), name


def test_a_scalar_head_gives_the_losses_of_iql_on_chunks() -> None:
    agent, batch = make(critic_head=CriticHeadConfig()), make_batch(cut=False)
    state, action = double(batch.observation["state"]), double(batch.action)
    q = of_critics(agent.target_critic, state, action)[..., 0].min(0)
    v = of_mlp(agent.value_network, state)[:, 0]
    value = (np.where(q < v, 0.1, 0.9) * (q - v) ** 2).mean()
    y = (
        double(batch.reward)
        + double(batch.discount) * of_mlp(agent.value_network, double(batch.next_observation["state"]))[:, 0]
    )
    critic = ((of_critics(agent.critic, state, action)[..., 0] - y) ** 2).mean()
    metrics = agent.update(batch)
    assert float(metrics["value/loss"]) == pytest.approx(value, rel=1e-5)
    assert float(metrics["critic/td_loss"]) == pytest.approx(critic, rel=1e-5)


def test_chunks_above_the_value_count_more() -> None:
    weight = deas.expectile_weight(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 2.0]), 0.9)
    assert weight.tolist() == pytest.approx([0.1, 0.9, 0.9])


def test_values_never_ask_the_flow() -> None:
    """Detached: another flow, and other noise, leave V and Q as they are."""
    one, other = make(), make()
    with torch.no_grad():
        for each in other.flow.parameters():
            each.zero_()
    other.generator.manual_seed(123)
    for step in range(3):
        one.update(make_batch(seed=step))
        other.update(make_batch(seed=step))
    for name in ("critic", "target_critic", "value_network"):
        left, right = (getattr(each, name).state_dict() for each in (one, other))
        assert all(torch.equal(left[key], right[key]) for key in left), name


def test_the_best_candidate_is_played_and_a_temperature_spreads_the_choice() -> None:
    agent = make(candidates=6, temperature=1e-6)
    for step in range(5):
        agent.update(make_batch(seed=step))
    observation = make_batch(rows=3).observation
    features = agent.encoder(observation)
    noise = deas.candidate_noise(features, 6, STEPS * ACTION, None)
    action = deas.candidates(agent.flow, features, noise, 10)
    q = agent.critic(features, action).amin(0)
    best = action[torch.arange(3), q.argmax(1)]
    torch.testing.assert_close(agent.act(observation, explore=False), best)

    def explored(temperature: float) -> torch.Tensor:
        agent.config = with_overrides(agent.config, {"temperature": temperature})
        agent.generator.manual_seed(0)
        return agent.act({"state": observation["state"][:1].expand(200, -1)}, explore=True)

    chosen = {name: explored(temperature) for name, temperature in (("best", 0.0), ("cold", 1e-6), ("hot", 1e6))}
    torch.testing.assert_close(chosen["cold"], chosen["best"])
    values = {
        name: float(agent.value({"state": observation["state"][:1].expand(200, -1)}, each).mean())
        for name, each in chosen.items()
    }
    assert values["best"] > values["hot"]


def test_what_was_not_recorded_is_neither_cloned_nor_a_whole_chunk() -> None:
    """Other actions in the padding change nothing but the critics that learn from `all`."""
    batch = make_batch()
    assert batch.valid is not None
    padding = ~batch.valid.repeat_interleave(ACTION, dim=1)
    other = Batch(
        **{
            **{name: getattr(batch, name) for name in batch.__slots__},
            "action": torch.where(padding, 0.9, batch.action),
        }
    )
    losses: dict[str, list[Any]] = {}
    for rule in ("whole", "all"):
        losses[rule] = [make(critic_chunks=rule).update(each) for each in (batch, other)]
    for name in ("value/loss", "critic/td_loss"):
        assert torch.equal(losses["whole"][0][name], losses["whole"][1][name])
        assert not torch.equal(losses["all"][0][name], losses["all"][1][name])
    torch.testing.assert_close(losses["all"][0]["actor/flow_loss"].isfinite(), torch.tensor(True))


def test_a_checkpoint_keeps_everything(tmp_path) -> None:
    def run(agent: Agent, steps: range) -> None:
        for step in steps:
            agent.update(make_batch(seed=step), critic_updates=2)

    whole, first, second = make(), make(), make()
    run(whole, range(6))
    run(first, range(3))
    tensors, state = checkpoint.pack_agent(first)
    checkpoint.save(tmp_path, 1, tensors, {"agent": state})
    tensors, loaded = checkpoint.load(checkpoint.checkpoints(tmp_path)[-1])
    checkpoint.unpack_agent(second, tensors, loaded["agent"])
    run(second, range(3, 6))
    a, b = checkpoint.pack_agent(whole)[0], checkpoint.pack_agent(second)[0]
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_distribution_as_target_needs_bins() -> None:
    with pytest.raises(InputError, match="value_target=distribution needs bins"):
        DEASConfig(value_target="distribution")
