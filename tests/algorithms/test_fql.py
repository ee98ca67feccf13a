"""Flow Q-learning: the path, the integration and the two losses, and what a flow can do that a Gaussian cannot."""

import pytest
import torch

from robot_rl.algorithms import FQLConfig, create, fql
from robot_rl.functional.flow import integrate, straight_path
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

SPEC = Spec(observation={"state": ArraySpec(shape=(1,))}, action=ArraySpec(shape=(1,)))


def test_the_path_is_straight_and_its_velocity_constant() -> None:
    # from -1 to 0.5, a third of the way: -1 + 1.5 / 3 = -0.5
    point, velocity = straight_path(torch.tensor([[-1.0]]), torch.tensor([[0.5]]), torch.tensor([[1 / 3]]))
    torch.testing.assert_close(point, torch.tensor([[-0.5]]))
    torch.testing.assert_close(velocity, torch.tensor([[1.5]]))


def test_euler_follows_the_velocity_and_cuts_at_the_end() -> None:
    # dx/dt = -x in two steps of 1/2 from 0.8: 0.8 * (1/2)^2 = 0.2
    torch.testing.assert_close(integrate(lambda x, t: -x, torch.tensor([[0.8]]), 2), torch.tensor([[0.2]]))
    # dx/dt = t from 0 in four steps: (0 + 1/4 + 1/2 + 3/4) / 4 = 0.375
    torch.testing.assert_close(integrate(lambda x, t: t, torch.zeros(1, 1), 4), torch.tensor([[0.375]]))
    # past the bound on the way, inside at the end
    path = integrate(lambda x, t: torch.where(t < 0.5, 6.0, -5.0).expand_as(x), torch.zeros(1, 1), 2)
    torch.testing.assert_close(path, torch.tensor([[0.5]]))
    torch.testing.assert_close(integrate(lambda x, t: x * 0 + 5, torch.zeros(1, 1), 2), torch.ones(1, 1))


def test_the_one_step_policy_weighs_distance_against_value() -> None:
    # distances (0.5^2 + 0) / 2 = 0.125 and 0, mean 0.0625; 4 * 0.0625 - mean(1, 3) = -1.75; mean |Q| = 2: 0.25 - 1
    action, flow_action = torch.tensor([[0.5, 0.2], [0.1, 0.1]]), torch.tensor([[0.0, 0.2], [0.1, 0.1]])
    q = torch.tensor([1.0, 3.0])
    found = fql.one_step_loss(q, action, flow_action, weight=4.0, normalize=False)
    torch.testing.assert_close(found, torch.tensor(-1.75))
    found = fql.one_step_loss(q, action, flow_action, weight=4.0, normalize=True)
    torch.testing.assert_close(found, torch.tensor(-0.75))


def test_both_modes_of_the_data_survive_and_the_better_one_is_chosen() -> None:
    """Actions near -0.7 and 0.7, of which 0.7 is worth more: the flow keeps both, a low weight lets value decide."""
    agents = {}
    for weight in (0.3, 100.0):
        config = FQLConfig(
            actor_hidden=[32, 32], critic_hidden=[32, 32], distillation_weight=weight,
            actor_learning_rate=3e-3, critic_learning_rate=3e-3,
        )  # fmt: skip
        agent = create(config, SPEC, Seeds(0), torch.device("cpu"), None)
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
        agents[weight] = agent.act({"state": torch.zeros(2000, 1)}, explore=True)[:, 0]
    held = agents[100.0]
    assert float((held < -0.4).float().mean()) == pytest.approx(0.5, abs=0.2)
    assert float((held > 0.4).float().mean()) == pytest.approx(0.5, abs=0.2)
    assert float((agents[0.3] > 0.4).float().mean()) > 0.9
