"""Agents that learn from images: what every agent does, and what only these do."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robot_rl import checkpoint
from robot_rl.algorithms import AlgorithmConfig, BCConfig, IQLConfig, SACConfig, TD3Config, create, with_overrides
from robot_rl.algorithms.agent import Agent
from robot_rl.errors import InputError
from robot_rl.loops.execution import CompiledUpdate, as_traced
from robot_rl.networks.vision.augmentation import AugmentationConfig
from robot_rl.networks.vision.auxiliary import AuxiliaryConfig
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.observation import PixelsConfig
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

CPU = torch.device("cpu")
BOUND = np.ones(2)
SPEC = Spec(
    observation={
        "camera": ArraySpec(shape=(3, 16, 16, 3), dtype="uint8"),
        "joints": ArraySpec(shape=(3,)),
    },
    action=ArraySpec(shape=(2,), low=-BOUND, high=BOUND),
)
WIDTHS: dict[str, Any] = {"actor_hidden": [16], "critic_hidden": [16]}


def pixels(**settings: Any) -> PixelsConfig:
    defaults: dict[str, Any] = {
        "encoder": VisionConfig(channels=[4, 4], kernels=[3, 3], strides=[2, 2]),
        "augmentation": AugmentationConfig(shift=2),
        "width": 6,
    }
    return PixelsConfig(**{**defaults, **settings})


TACO = AuxiliaryConfig(taco=1.0, curl=1.0, reward=1.0, consistency=1.0, width=4, hidden=8)
SVEA = AugmentationConfig(shift=2, strong="convolution")
CONFIGS: dict[str, Callable[[], AlgorithmConfig]] = {
    "sac": lambda: SACConfig(**WIDTHS, pixels=pixels()),
    "sac_svea": lambda: SACConfig(**WIDTHS, pixels=pixels(augmentation=SVEA)),
    "sac_eyes": lambda: SACConfig(**WIDTHS, pixels=pixels(actor="eyes", numbers_width=4)),
    "sac_one_neck": lambda: SACConfig(**WIDTHS, pixels=pixels(actor="nothing", learns_from="all")),
    "sac_taco": lambda: SACConfig(**WIDTHS, pixels=pixels(auxiliary=TACO), exploration_candidates=3),
    "rlpd": lambda: SACConfig(**WIDTHS, pixels=pixels(), critic_count=4, critic_subset=2, actor_batch="last"),
    "wsrl": lambda: SACConfig(
        **WIDTHS,
        pixels=pixels(augmentation=SVEA),
        critic_count=3,
        critic_subset=2,
        conservative_weight=1.0,
        conservative_calibrated=True,
        conservative_samples=2,
        temperature_states="next",
        step_with_zero_gradients=True,
        max_target_backup=2,
        actor_critics="previous",
        gradient_clip=1.0,
    ),
    "iql": lambda: IQLConfig(**WIDTHS, value_hidden=[16], pixels=pixels()),
    "iql_svea": lambda: IQLConfig(
        **WIDTHS, value_hidden=[16], pixels=pixels(augmentation=SVEA), updated_value=False, gradient_clip=1.0
    ),
    "bc": lambda: BCConfig(**WIDTHS_OF_BC, pixels=pixels(actor="nothing", learns_from="actor")),
}
WIDTHS_OF_BC: dict[str, Any] = {"actor_hidden": [16]}


@pytest.fixture(params=list(CONFIGS))
def config(request: pytest.FixtureRequest) -> AlgorithmConfig:
    return CONFIGS[request.param]()


def batch(rows: int, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)

    def observation() -> dict[str, Tensor]:
        return {
            "camera": torch.randint(0, 256, (rows, 3, 16, 16, 3), generator=g, dtype=torch.uint8),
            "joints": torch.randn(rows, 3, generator=g),
        }

    return Batch(
        observation=observation(),
        action=torch.randn(rows, 2, generator=g).tanh(),
        reward=torch.randn(rows, generator=g),
        discount=torch.full((rows,), 0.99),
        next_observation=observation(),
        monte_carlo_return=torch.randn(rows, generator=g),
    )


def made(config: AlgorithmConfig, seed: int = 0) -> Any:
    return create(config, SPEC, Seeds(seed), CPU, None)


def parameters(agent: Agent) -> dict[str, Tensor]:
    networks = {item.name: getattr(agent, item.name) for item in fields(agent)}
    modules = {name: each for name, each in networks.items() if isinstance(each, nn.Module)}
    return {f"{name}.{key}": value for name, each in modules.items() for key, value in each.state_dict().items()}


def assert_same(one: Agent, other: Agent, tolerance: float = 0.0) -> None:
    a, b = (checkpoint.pack_agent(agent) for agent in (one, other))
    assert set(a[0]) == set(b[0])
    for name, value in a[0].items():
        torch.testing.assert_close(b[0][name], value, rtol=0, atol=tolerance, msg=name)
    assert a[1]["updates"] == b[1]["updates"]


def test_updates_are_finite_and_every_part_of_the_encoder_learns(config: AlgorithmConfig) -> None:
    agent = made(config)
    before = {key: value.clone() for key, value in agent.encoder.state_dict().items()}
    for critic_updates in (1, 2):
        metrics = agent.update(batch(8), critic_updates=critic_updates)
        assert all(value.shape == () and math.isfinite(value) for value in metrics.values()), metrics
        assert not any(value.requires_grad for value in metrics.values())
    still = {
        key
        for key, value in agent.encoder.state_dict().items()
        if torch.equal(value, before[key]) and not key.startswith("flat.")
    }
    assert not still
    assert agent.updates == 3


def test_equal_seeds_give_equal_updates(config: AlgorithmConfig) -> None:
    agents = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        agent = made(config, 7)
        for step in range(2):
            agent.update(batch(8, step), critic_updates=2)
        agents.append(agent)
    assert_same(*agents)


def test_a_batch_stays_as_it_was_in_bytes(config: AlgorithmConfig) -> None:
    given, agent = batch(8), made(config)
    before = {key: value.clone() for key, value in given.observation.items()}
    agent.update(given, critic_updates=2)
    assert all(torch.equal(value, before[key]) for key, value in given.observation.items())
    assert given.observation["camera"].dtype == torch.uint8


def test_acting_is_bounded_and_changes_no_image_at_random(config: AlgorithmConfig) -> None:
    agent, observation = made(config), batch(6).observation
    state = agent.generator.get_state()
    action = agent.act(observation, explore=False)
    assert action.shape == (6, 2)
    assert action.abs().max() <= 1
    assert torch.equal(action, agent.act(observation, explore=False))
    assert torch.equal(agent.generator.get_state(), state)
    value = agent.value(observation, action)
    assert value is None or value.shape == (6,)


def test_a_checkpoint_goes_on_where_it_was(config: AlgorithmConfig, tmp_path: Path) -> None:
    agent, other = made(config), made(config, seed=1)
    agent.update(batch(8))
    tensors, state = checkpoint.pack_agent(agent)
    checkpoint.save(tmp_path, 1, tensors, state)
    checkpoint.unpack_agent(other, *checkpoint.load(tmp_path / "000000001"))
    assert_same(agent, other)
    for each in (agent, other):
        each.update(batch(8, 1))
    assert_same(agent, other)


def test_a_traced_update_is_the_eager_one() -> None:
    config = SACConfig(**WIDTHS, pixels=pixels(augmentation=SVEA, auxiliary=TACO))
    eager, traced = made(config), made(config)
    eager.update(batch(8))
    CompiledUpdate(agent=traced, compiler=as_traced)(batch(8))
    assert_same(eager, traced, 2e-5)


def test_a_rate_of_zero_freezes_the_encoder() -> None:
    agent = made(CONFIGS["sac"]())
    agent.config = with_overrides(agent.config, {"encoder_learning_rate": 0.0})
    before = {key: value.clone() for key, value in agent.encoder.state_dict().items()}
    agent.update(batch(8))
    assert all(torch.equal(value, before[key]) for key, value in agent.encoder.state_dict().items())
    with pytest.raises(InputError, match="shapes the networks"):
        with_overrides(agent.config, {"pixels": PixelsConfig()})


def test_without_svea_the_critic_loss_is_that_of_the_images_alone() -> None:
    """Twice the same image, were the strong change none, is the same loss: the mean over twice the rows."""
    agent = made(CONFIGS["iql"]())
    twin = made(CONFIGS["iql"]())
    parts = [slice(0, 8)]
    (seen,) = agent.encoder.views(batch(8), parts, agent.generator)
    (other,) = twin.encoder.views(batch(8), parts, twin.generator)
    doubled = replace(other, critic=torch.cat([other.critic.detach()] * 2).requires_grad_(), repeats=2, outputs=[])
    given = batch(8)
    one = agent._step(seen, given.action, given.reward, given.discount)
    two = twin._step(doubled, given.action, given.reward, given.discount)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_bc_without_values_to_learn_from_is_refused() -> None:
    with pytest.raises(InputError, match="learns_from=actor"):
        BCConfig(pixels=PixelsConfig())


def test_algorithms_that_take_no_images_say_which_do() -> None:
    with pytest.raises(InputError, match="sac, iql and bc"):
        create(TD3Config(), SPEC, Seeds(0), CPU, None)
