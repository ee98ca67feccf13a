"""Q-chunking: parity of its losses with formulas in float64, which of the flow's chunks is played, and what is kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robot_rl import checkpoint
from robot_rl.algorithms import FQLConfig, fql, with_overrides
from robot_rl.algorithms.agent import Agent
from robot_rl.errors import InputError
from robot_rl.networks.ensemble import Ensemble
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

CPU = torch.device("cpu")
STEPS, ACTION, ROWS, CANDIDATES, FLOW_STEPS = 3, 2, 24, 5, 4
SMALL: dict[str, Any] = {
    "actor_hidden": [16, 16],
    "critic_hidden": [16, 16],
    "critic_layer_norm": False,
    "candidates": CANDIDATES,
    "flow_steps": FLOW_STEPS,
}


def make(**settings) -> fql.FQL:
    spec = Spec(observation={"state": ArraySpec(shape=(4,))}, action=ArraySpec(shape=(ACTION,))).chunked(STEPS)
    return fql.create(FQLConfig(**(SMALL | settings)), spec, Seeds(0), CPU, None)


def make_batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    length = torch.randint(1, STEPS + 1, (ROWS,), generator=generator)
    return Batch(
        observation={"state": noise(ROWS, 4)},
        action=noise(ROWS, STEPS * ACTION).tanh(),
        reward=noise(ROWS),
        discount=torch.where(noise(ROWS) > 0.5, 0.0, 0.97),
        next_observation={"state": noise(ROWS, 4)},
        valid=torch.arange(STEPS)[None] < length[:, None],
    )


# Independent formulas in float64 --------------------------------------------------------------------------------------
def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def of_mlp(network: nn.Module, *inputs: np.ndarray) -> np.ndarray:
    x = np.concatenate(inputs, -1)
    for layer in network.layers[:-1]:
        x = np.maximum(x @ double(layer.weight).T + double(layer.bias), 0)
    return x @ double(network.layers[-1].weight).T + double(network.layers[-1].bias)


def of_critics(critic: Ensemble, state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Shapes: (*, F), (*, A) -> (E, *)."""
    values = []
    for member in range(critic.count):
        x = np.concatenate([state, action], -1)
        for index, (weight, bias) in enumerate(zip(critic.weights, critic.biases, strict=True)):
            x = x @ double(weight[member]).T + double(bias[member])
            x = np.maximum(x, 0) if index < len(critic.weights) - 1 else x
        values.append(x[..., 0])
    return np.stack(values)


def of_flow(network: nn.Module, state: np.ndarray, x: np.ndarray) -> np.ndarray:
    for step in range(FLOW_STEPS):
        x = x + of_mlp(network, state, x, np.full((*x.shape[:-1], 1), step / FLOW_STEPS)) / FLOW_STEPS
    return np.clip(x, -1, 1)


def shift(network: nn.Module) -> None:
    """So that the target critics differ from the critics, and from one another."""
    with torch.no_grad():
        for each in network.parameters():
            each.add_(0.3 * torch.randn(each.shape, generator=torch.Generator().manual_seed(each.numel())))


@pytest.mark.parametrize("reduction", ["mean", "min"])
@pytest.mark.parametrize("rule", ["whole", "terminated", "all"])
def test_losses_of_qc_are_those_of_the_formulas(reduction, rule) -> None:
    agent, batch = make(extraction="best_of_n", target_reduction=reduction, critic_chunks=rule), make_batch()
    shift(agent.target_critic)
    reduce = np.mean if reduction == "mean" else np.min
    state, action, next_state = (
        double(each) for each in (batch.observation["state"], batch.action, batch.next_observation["state"])
    )
    assert batch.valid is not None
    valid, ended = batch.valid.numpy(), double(batch.discount) == 0
    weight = {"whole": valid[:, -1], "terminated": valid[:, -1] | ended, "all": np.ones(ROWS)}[rule]

    own = torch.Generator()
    own.set_state(agent.generator.get_state())
    noise = double(torch.randn((ROWS, CANDIDATES, STEPS * ACTION), generator=own))
    repeated = np.repeat(next_state[:, None], CANDIDATES, 1)
    drawn = of_flow(agent.flow, repeated, noise)
    best = reduce(of_critics(agent.critic, repeated, drawn), 0).argmax(1)  # the online critics choose
    next_q = reduce(of_critics(agent.target_critic, next_state, drawn[np.arange(ROWS), best]), 0)  # the target's say
    y = double(batch.reward) + double(batch.discount) * next_q
    critic = (weight * (of_critics(agent.critic, state, action) - y) ** 2).mean()

    time = double(torch.rand(ROWS, 1, generator=own))
    start = double(torch.randn((ROWS, STEPS * ACTION), generator=own))
    velocity = of_mlp(agent.flow, state, (1 - time) * start + time * action, time)
    flow = ((velocity - (action - start)) ** 2 * np.repeat(valid, ACTION, 1)).mean()

    metrics = agent.update(batch)
    assert set(metrics) == {"critic/td_loss", "critic/q", "critic/target", "actor/flow_loss"}
    for name, value in {"critic/td_loss": critic, "critic/target": y.mean(), "actor/flow_loss": flow}.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name


def test_losses_of_qc_fql_leave_out_what_was_not_recorded() -> None:
    """The rest of its losses: test_fql.py."""
    agent, batch = make(distillation_weight=100.0), make_batch()
    shift(agent.target_critic)
    assert agent.actor is not None
    assert batch.valid is not None
    own = torch.Generator()
    own.set_state(agent.generator.get_state())
    state, action, next_state = (
        double(each) for each in (batch.observation["state"], batch.action, batch.next_observation["state"])
    )
    next_action = np.clip(of_mlp(agent.actor, next_state, double(torch.randn((ROWS, 6), generator=own))), -1, 1)
    y = double(batch.reward) + double(batch.discount) * of_critics(agent.target_critic, next_state, next_action).mean(0)
    critic = (batch.valid[:, -1].numpy() * (of_critics(agent.critic, state, action) - y) ** 2).mean()
    time = double(torch.rand(ROWS, 1, generator=own))
    start = double(torch.randn((ROWS, 6), generator=own))
    velocity = of_mlp(agent.flow, state, (1 - time) * start + time * action, time)
    flow = ((velocity - (action - start)) ** 2 * np.repeat(batch.valid.numpy(), ACTION, 1)).mean()
    metrics = agent.update(batch)
    assert float(metrics["critic/td_loss"]) == pytest.approx(critic, rel=1e-5)
    assert float(metrics["actor/flow_loss"]) == pytest.approx(flow, rel=1e-5)


def test_the_best_candidate_is_played() -> None:
    agent = make(extraction="best_of_n")
    observation = make_batch().observation
    state = double(observation["state"])
    noise = double(torch.randn((1, CANDIDATES, 6), generator=torch.Generator().manual_seed(0)))
    repeated = np.repeat(state[:, None], CANDIDATES, 1)
    drawn = of_flow(agent.flow, repeated, np.repeat(noise, ROWS, 0))
    best = of_critics(agent.critic, repeated, drawn).mean(0).argmax(1)
    found = agent.act(observation, explore=False)
    np.testing.assert_allclose(double(found), drawn[np.arange(ROWS), best], atol=1e-5)


def test_more_candidates_are_worth_more_from_one_phase_to_the_next() -> None:
    agent, observation = make(extraction="best_of_n"), make_batch().observation
    worth = []
    for count in (1, 64):
        agent.config = with_overrides(agent.config, {"candidates": count})
        worth.append(float(agent.value(observation, agent.act(observation, explore=False)).mean()))
    assert worth[1] > worth[0]
    with pytest.raises(InputError, match="extraction shapes the networks"):
        with_overrides(agent.config, {"extraction": "distilled"})


def test_padding_teaches_nothing() -> None:
    batch = make_batch()
    assert batch.valid is not None
    padding = ~batch.valid.repeat_interleave(ACTION, dim=1)
    other = replace(batch, action=torch.where(padding, 0.9, batch.action))
    cut = replace(batch, reward=torch.where(batch.valid[:, -1], batch.reward, 50.0))
    agents = [make(extraction="best_of_n") for _ in range(3)]
    for agent, each in zip(agents, (batch, other, cut), strict=True):
        agent.update(each)
    first, *others = (each.critic.state_dict() for each in agents)
    for state in others:
        assert all(torch.equal(first[key], state[key]) for key in first)


@pytest.mark.parametrize("extraction", ["best_of_n", "distilled"])
def test_a_checkpoint_keeps_everything(tmp_path, extraction) -> None:
    def run(agent: Agent, steps: range) -> None:
        for step in steps:
            agent.update(make_batch(step), critic_updates=2)

    whole, first, second = (make(extraction=extraction) for _ in range(3))
    run(whole, range(6))
    run(first, range(3))
    tensors, state = checkpoint.pack_agent(first)
    checkpoint.save(tmp_path, 1, tensors, {"agent": state})
    tensors, loaded = checkpoint.load(checkpoint.checkpoints(tmp_path)[-1])
    checkpoint.unpack_agent(second, tensors, loaded["agent"])
    run(second, range(3, 6))
    a, b = checkpoint.pack_agent(whole)[0], checkpoint.pack_agent(second)[0]
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
