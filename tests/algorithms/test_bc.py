"""Behaviour cloning: a whole update against the formulas in float64."""

import math
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import Tensor

from robot_rl.algorithms import BCConfig, bc
from robot_rl.seeding import Seeds
from robot_rl.spec import Spec
from robot_rl.types import Batch


def loss_by_formula(weights: dict[str, Tensor], features: Tensor, action: Tensor, loss: str) -> Tensor:
    """-log pi(a|s) of a tanh Gaussian, or |tanh(mean) - a|^2, through a network of one hidden layer of ReLUs."""
    hidden = (features @ weights["network.layers.0.weight"].T + weights["network.layers.0.bias"]).clamp(min=0)
    mean, log_std = (hidden @ weights["network.layers.1.weight"].T + weights["network.layers.1.bias"]).chunk(2, dim=1)
    if loss == "squared_error":
        return ((mean.tanh() - action) ** 2).sum(1).mean()
    log_std = log_std.clamp(-0.3, 0.3)
    u = 0.5 * ((1 + action) / (1 - action)).log()
    density = -0.5 * ((u - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)
    return -(density - (1 - action**2).log()).sum(1).mean()


@pytest.mark.parametrize("loss", ["likelihood", "squared_error"])
def test_updates_equal_the_formulas(spec: Spec, make_batch: Callable[..., Batch], loss: str) -> None:
    config = BCConfig(
        actor_hidden=[8],
        loss=loss,
        output_gain=1.0,
        log_std_minimum=-0.3,
        log_std_maximum=0.3,
        actor_learning_rate=1e-2,
    )
    agent = bc.create(config, spec, Seeds(0), torch.device("cpu"), None)
    agent.actor.double()
    agent.encoder.double()
    weights = {name: each.detach().clone().requires_grad_() for name, each in agent.actor.named_parameters()}
    first = {name: torch.zeros_like(each) for name, each in weights.items()}
    second = {name: torch.zeros_like(each) for name, each in weights.items()}
    for step in range(1, 4):
        batch = make_batch(12, step)
        metrics = agent.update(batch)
        features = torch.cat([batch.observation["joints"], batch.observation["object"]], 1).double()
        found = loss_by_formula(weights, features, batch.action.double(), loss)
        torch.testing.assert_close(metrics["actor/loss"], found.detach(), rtol=1e-5, atol=1e-5)
        gradients = torch.autograd.grad(found, list(weights.values()))
        for (name, weight), gradient in zip(list(weights.items()), gradients, strict=True):
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            moved = first[name] / (1 - 0.9**step) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
            weights[name] = (weight - 1e-2 * moved).detach().requires_grad_()
    for name, weight in agent.actor.named_parameters():
        torch.testing.assert_close(weight.detach(), weights[name].detach(), rtol=1e-5, atol=1e-5, msg=name)


def test_a_consistency_head_learns_to_denoise_by_the_formula(spec: Spec, make_batch: Callable[..., Batch]) -> None:
    config = BCConfig(policy="consistency", actor_hidden=[8])
    agent, batch = bc.create(config, spec, Seeds(0), torch.device("cpu"), None), make_batch(12)
    with torch.no_grad():
        agent.actor.out.weight.normal_(generator=torch.Generator().manual_seed(0))
    head, generator = deepcopy(agent.actor), torch.Generator()
    generator.set_state(agent.generator.get_state())
    level = torch.randint(40, (12,), generator=generator).numpy()
    noise, action = torch.randn(12, 2, generator=generator).double().numpy(), batch.action.double().numpy()
    sigma = ((80 ** (1 / 7) + level / 39 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7)[:, None]
    noisy = action + sigma * noise
    features = torch.cat([batch.observation["joints"], batch.observation["object"]], 1)

    def denoised(x: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        inside, time = torch.from_numpy(x / np.sqrt(sigma**2 + 0.25)).float(), torch.from_numpy(250 * np.log(sigma))
        with torch.no_grad():
            output = head(features, inside, time.float()[:, 0]).double().numpy()
        above = sigma - 0.002
        return 0.25 / (above**2 + 0.25) * x + 0.5 * above / np.sqrt(sigma**2 + 0.25) * output

    wanted = ((1 / sigma**2 + 4) * ((denoised(noisy, sigma) - action) ** 2).mean(1, keepdims=True)).mean()
    mode = denoised(np.zeros_like(noisy), np.full_like(sigma, 80.0)).clip(-1, 1)
    np.testing.assert_allclose(agent.act(batch.observation, explore=False).numpy(), mode, rtol=1e-3, atol=1e-4)
    metrics = agent.update(batch)
    assert float(metrics["actor/loss"]) == pytest.approx(wanted, rel=1e-3)
    assert float(metrics["actor/absolute_error"]) == pytest.approx(np.abs(mode - action).mean(), rel=1e-3)
