"""Models of what follows: their losses by hand, and that they see a difference of the dynamics."""

import math

import torch

from robot_rl.networks.dynamics import LOG_STD, GaussianDynamics, LatentDynamics
from robot_rl.networks.initialize import Initialization

START = Initialization(kind="uniform", hidden_gain=1.0, output_gain=1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(count: int = 2) -> GaussianDynamics:
    return GaussianDynamics(3, 2, 4, [16], count=count, initialization=START, generator=generator())


def test_the_loss_is_the_density_of_the_rows_that_count() -> None:
    ensemble, noise = model(), generator(1)
    features, action = torch.randn(5, 3, generator=noise), torch.randn(5, 2, generator=noise)
    outcome, rows = torch.randn(5, 4, generator=noise), torch.tensor([True, False, True, True, False])
    mean, log_std = ensemble(features, action)
    density = torch.distributions.Normal(mean, log_std.exp()).log_prob(outcome) + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(ensemble.loss(features, action, outcome, rows), -density[:, rows].mean())
    assert ((log_std > LOG_STD[0]) & (log_std < LOG_STD[1])).all()
    changed = torch.where(rows.unsqueeze(1), outcome, outcome + 100)
    torch.testing.assert_close(
        ensemble.loss(features, action, outcome, rows), ensemble.loss(features, action, changed, rows)
    )


def test_draws_have_the_mean_and_deviation_that_are_predicted() -> None:
    ensemble = model()
    features, action = torch.zeros(1, 3), torch.zeros(1, 2)
    mean, log_std = ensemble(features, action)
    drawn = ensemble.draws(features, action, 20_000, generator(2))[0]
    torch.testing.assert_close(drawn.mean(0), mean[0, 0], atol=0.03, rtol=0.02)
    torch.testing.assert_close(drawn.std(0), log_std[0, 0].exp(), atol=0.03, rtol=0.02)
    assert ensemble.one_each(features, action, generator(3)).shape == (2, 1, 4)


def test_a_latent_model_sees_that_the_dynamics_are_others() -> None:
    latent = LatentDynamics(3, 2, 8, [32], initialization=START, generator=generator())
    optimizer, noise = torch.optim.Adam(latent.parameters(), lr=3e-3), generator(1)

    def rows(shift: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        state, action = torch.randn(128, 3, generator=noise), torch.randn(128, 2, generator=noise).clamp(-1, 1)
        return state, action, 0.9 * state + 0.3 * action.sum(1, keepdim=True) + shift * state[:, [1, 2, 0]]

    every = torch.ones(128, dtype=torch.bool)
    for _ in range(400):
        optimizer.zero_grad()
        latent.loss(*rows(0.0), every).backward()
        optimizer.step()
    with torch.no_grad():
        same, other = (float(latent.loss(*rows(shift), every)) for shift in (0.0, 0.7))
        spread = float(latent.encode(rows(0.0)[0]).std(dim=0).mean())
    assert other > 3 * same
    assert spread > 0.1  # it has not shrunk to a constant, which would be predicted perfectly
