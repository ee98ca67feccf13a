"""What every algorithm does, whatever it is."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robot_rl.algorithms import AlgorithmConfig, create
from robot_rl.algorithms.agent import Agent
from robot_rl.errors import InputError
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch

CPU = torch.device("cpu")
MakeBatch = Callable[..., Batch]


def parameters(agent: Agent) -> dict[str, Tensor]:
    """All state of all networks of an agent."""
    networks = {item.name: getattr(agent, item.name) for item in fields(agent)}
    modules = {name: each for name, each in networks.items() if isinstance(each, nn.Module)}
    return {f"{name}.{key}": value for name, each in modules.items() for key, value in each.state_dict().items()}


def test_update_gives_finite_scalar_metrics(config: AlgorithmConfig, spec: Spec, make_batch: MakeBatch) -> None:
    agent = create(config, spec, Seeds(0), CPU, None)
    for critic_updates in (1, 4):
        metrics = agent.update(make_batch(16), critic_updates=critic_updates)
        assert all(value.shape == () and math.isfinite(value) for value in metrics.values()), metrics
        assert not any(value.requires_grad for value in metrics.values())
    assert agent.updates == 5


def test_update_moves_every_trained_network(config: AlgorithmConfig, spec: Spec, make_batch: MakeBatch) -> None:
    agent = create(config, spec, Seeds(0), CPU, None)
    before = {key: value.clone() for key, value in parameters(agent).items()}
    for _ in range(2):
        agent.update(make_batch(16))
    moved = {key.split(".")[0] for key, value in parameters(agent).items() if not torch.equal(value, before[key])}
    networks = {key.split(".")[0] for key in before} - {"encoder"}
    still = {"lagrange"} if getattr(config, "conservative_lagrange_gap", None) is None else set()
    still |= {"average_actor"} if getattr(config, "actor_average_rate", 0.0) == 0 else set()
    assert moved == networks - still


def test_actions_lie_in_the_unit_box_whatever_the_observation(
    config: AlgorithmConfig, spec: Spec, make_batch: MakeBatch
) -> None:
    agent = create(config, spec, Seeds(0), CPU, None)
    observation = {key: 1e3 * value for key, value in make_batch(64).observation.items()}
    for explore in (False, True):
        action = agent.act(observation, explore=explore)
        assert action.shape == (64, 2)
        assert action.abs().max() <= 1
        assert not action.requires_grad


def test_only_exploring_is_random(config: AlgorithmConfig, spec: Spec, make_batch: MakeBatch) -> None:
    agent = create(config, spec, Seeds(0), CPU, None)
    observation = make_batch(8).observation
    state = agent.generator.get_state()
    assert torch.equal(agent.act(observation, explore=False), agent.act(observation, explore=False))
    assert torch.equal(agent.generator.get_state(), state)
    assert not torch.equal(agent.act(observation, explore=True), agent.act(observation, explore=True))


def test_equal_seeds_give_equal_updates_and_global_randomness_plays_no_part(
    config: AlgorithmConfig, spec: Spec, make_batch: MakeBatch
) -> None:
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        agent = create(config, spec, Seeds(7), CPU, None)
        for step in range(3):
            agent.update(make_batch(8, step), critic_updates=2)
        results.append(parameters(agent))
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())
    other = parameters(create(config, spec, Seeds(8), CPU, None))
    assert any(not torch.equal(value, other[key]) for key, value in results[0].items())


def test_update_leaves_the_batch_as_it_was(config: AlgorithmConfig, spec: Spec, make_batch: MakeBatch) -> None:
    batch = make_batch(8)
    before = deepcopy(batch)
    create(config, spec, Seeds(0), CPU, None).update(batch, critic_updates=2)
    for name in ("action", "reward", "discount", "monte_carlo_return"):
        assert torch.equal(getattr(batch, name), getattr(before, name)), name
    for key in batch.observation:
        assert torch.equal(batch.observation[key], before.observation[key])
        assert torch.equal(batch.next_observation[key], before.next_observation[key])


def test_constant_observations_are_survived(config: AlgorithmConfig, spec: Spec, make_batch: MakeBatch) -> None:
    statistics = {
        key: (torch.full(array.shape, 5.0), torch.zeros(array.shape)) for key, array in spec.observation.items()
    }
    agent = create(config, spec, Seeds(0), CPU, statistics)
    batch = make_batch(8)
    for observation in (batch.observation, batch.next_observation):
        for value in observation.values():
            value.fill_(5.0)
    metrics = agent.update(batch)
    assert all(math.isfinite(value) for value in metrics.values())
    assert torch.isfinite(agent.act(batch.observation, explore=True)).all()


def test_value_is_one_number_per_row(config: AlgorithmConfig, spec: Spec, make_batch: MakeBatch) -> None:
    agent = create(config, spec, Seeds(0), CPU, None)
    batch = make_batch(6)
    value = agent.value(batch.observation, batch.action)
    assert value is None or (value.shape == (6,) and not value.requires_grad)
    assert (value is None) == ("BC" in type(agent).__name__)


def test_update_never_waits_for_the_device(config: AlgorithmConfig, spec: Spec, make_batch: MakeBatch) -> None:
    agent = create(config, spec, Seeds(0), CPU, None)
    batch = make_batch(8)
    with without_host_synchronisation():
        agent.update(batch, critic_updates=2)


@contextmanager
def without_host_synchronisation() -> Iterator[None]:
    """Raise where a tensor's value, or a shape that depends on one, is asked for."""

    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = str(function)
            if any(each in name for each in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item")):
                raise AssertionError(f"{name} waits for the device")
            return function(*args, **(kwargs or {}))

    with Refuse():
        yield


@pytest.mark.parametrize(("rows", "critic_updates"), [(8, 3), (8, 0), (0, 1)])
def test_rows_that_do_not_split_are_refused(
    config: AlgorithmConfig, spec: Spec, make_batch: MakeBatch, rows: int, critic_updates: int
) -> None:
    agent = create(config, spec, Seeds(0), CPU, None)
    with pytest.raises(InputError, match=f"{rows} rows does not split into {critic_updates}"):
        agent.update(make_batch(rows), critic_updates=critic_updates)
    assert agent.updates == 0
