"""Flow Q-learning: the path, the integration and the two losses, and what a flow can do that a Gaussian cannot."""

import numpy as np
import pytest
import torch

from robot_rl.algorithms import FQLConfig, create, fql
from robot_rl.functional.flow import integrate, straight_path
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.mlp import MLP
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


# Parity with formulas in float64 --------------------------------------------------------------------------------------
def double(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def of_policy(network: MLP, *inputs: np.ndarray) -> np.ndarray:
    x = np.concatenate(inputs, 1)
    for index, layer in enumerate(network.layers):
        x = x @ double(layer.weight).T + double(layer.bias)
        x = np.maximum(x, 0) if index < len(network.layers) - 1 else x
    return x


def of_critics(critic: Ensemble, state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """With LayerNorm before the ReLU where there is one. Shapes: -> (E, B)."""
    values = []
    for member in range(critic.count):
        x = np.concatenate([state, action], 1)
        for index, (weight, bias) in enumerate(zip(critic.weights, critic.biases, strict=True)):
            x = x @ double(weight[member]).T + double(bias[member])
            if index == len(critic.weights) - 1:
                break
            if len(critic.norm_scales):
                x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
                x = x * double(critic.norm_scales[index][member]) + double(critic.norm_offsets[index][member])
            x = np.maximum(x, 0)
        values.append(x[:, 0])
    return np.stack(values)


@pytest.mark.parametrize("reduction", ["mean", "min"])
@pytest.mark.parametrize("normalize", [False, True])
def test_all_losses_are_the_formulas(reduction: str, normalize: bool) -> None:
    spec = Spec(observation={"state": ArraySpec(shape=(4,))}, action=ArraySpec(shape=(2,)))
    config = FQLConfig(
        actor_hidden=[16, 16],
        critic_hidden=[16, 16],
        critic_layer_norm=reduction == "mean",
        target_reduction=reduction,
        normalize_value=normalize,
        distillation_weight=3.0,
        flow_steps=4,
        critic_learning_rate=0.0,
        actor_learning_rate=0.0,
    )
    agent, generator = fql.create(config, spec, Seeds(0), torch.device("cpu"), None), torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    rows = Batch(
        observation={"state": noise(16, 4)},
        action=noise(16, 2).tanh(),
        reward=noise(16),
        discount=torch.where(noise(16) > 1, 0.0, 0.99),
        next_observation={"state": noise(16, 4)},
    )
    own = torch.Generator()
    own.set_state(agent.generator.get_state())

    def drawn() -> np.ndarray:
        return double(torch.randn((16, 2), generator=own))

    s, a, s2 = double(rows.observation["state"]), double(rows.action), double(rows.next_observation["state"])
    next_q = of_critics(agent.target_critic, s2, np.clip(of_policy(agent.actor, s2, drawn()), -1, 1))
    next_v = next_q.mean(0) if reduction == "mean" else next_q.min(0)
    y = double(rows.reward) + double(rows.discount) * next_v
    critic = np.square(of_critics(agent.critic, s, a) - y).mean()
    time = double(torch.rand(16, 1, generator=own))
    start = drawn()
    flow = np.square(of_policy(agent.flow, s, (1 - time) * start + time * a, time) - (a - start)).mean()
    start = drawn()
    x = start
    for step in range(4):
        x = x + of_policy(agent.flow, s, x, np.full((16, 1), step / 4)) / 4
    action = of_policy(agent.actor, s, start)
    distance = np.square(action - np.clip(x, -1, 1)).mean()
    q = of_critics(agent.critic, s, np.clip(action, -1, 1)).mean(0)
    actor = 3 * distance - q.mean() / (np.abs(q).mean() if normalize else 1)
    metrics = agent.update(rows)
    expected = {"critic/td_loss": critic, "actor/flow_loss": flow, "actor/distance": distance, "actor/loss": actor}
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name


def test_no_gradient_goes_through_the_steps_of_the_flow() -> None:
    config = FQLConfig(actor_hidden=[8], critic_hidden=[8], critic_learning_rate=0.0)
    agent = fql.create(config, SPEC, Seeds(0), torch.device("cpu"), None)
    observation = {"state": torch.randn(8, 1, generator=torch.Generator().manual_seed(0))}
    zero = torch.zeros(8)
    rows = Batch(
        observation=observation, action=zero[:, None], reward=zero, discount=zero, next_observation=observation
    )
    agent.update(rows)
    # What the flow's optimiser saw is the gradient of the flow's loss alone: the same with and without distillation.
    with_distillation = [each.grad.clone() for each in agent.flow.parameters()]
    other = fql.create(
        FQLConfig(**(vars(config) | {"distillation_weight": 0.0})), SPEC, Seeds(0), torch.device("cpu"), None
    )
    other.update(rows)
    for a, b in zip(with_distillation, other.flow.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad)


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
