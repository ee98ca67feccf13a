"""The further losses of encoders, against their formulas written out with loops in float64."""

import math

import numpy as np
import pytest
import torch

from robot_rl.functional.contrastive import consistency_loss, found_share, info_nce
from robot_rl.networks.vision.auxiliary import Auxiliary, AuxiliaryConfig


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_info_nce_is_the_mean_surprise_of_the_right_key() -> None:
    query, key = noise(5, 3, seed=0), noise(5, 3, seed=1)
    total = 0.0
    for i in range(5):
        weights = [math.exp(sum(float(a * b) for a, b in zip(query[i], key[j], strict=True))) for j in range(5)]
        total -= math.log(weights[i] / sum(weights))
    assert float(info_nce(query, key)) == pytest.approx(total / 5, rel=1e-12)


def test_info_nce_of_equal_keys_is_the_logarithm_of_their_number() -> None:
    assert float(info_nce(noise(7, 3, seed=0), torch.ones(7, 3).double())) == pytest.approx(math.log(7), rel=1e-12)
    far = 100.0 * torch.eye(4).double()
    assert float(info_nce(far, far)) == pytest.approx(0.0, abs=1e-12)
    assert torch.isfinite(info_nce(1e3 * far, 1e3 * far))  # exp(1e10) is not computed


def test_the_gradient_of_info_nce_is_that_of_differences() -> None:
    query, key = noise(4, 3, seed=2).requires_grad_(), noise(4, 3, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(info_nce, (query, key))
    assert torch.autograd.gradcheck(lambda x: consistency_loss(x, key.detach()), (query,))


def test_found_share_counts_the_right_ones() -> None:
    query = torch.eye(4)
    assert float(found_share(query, query)) == 1.0
    assert float(found_share(query, query[[1, 0, 2, 3]])) == 0.5


def test_consistency_worked_out() -> None:
    """Cosines 1, 0 and -1 give 0, 2 and 4."""
    prediction = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    target = torch.tensor([[5.0, 0.0], [0.0, 1.0], [0.0, -1.0]], requires_grad=True)
    loss = consistency_loss(prediction.requires_grad_(), target)
    assert float(loss.detach()) == pytest.approx((0 + 2 + 4) / 3)
    loss.backward()
    assert target.grad is None
    rows = noise(6, 4, seed=4).numpy(), noise(6, 4, seed=5).numpy()
    cosine = [float(a @ b) / float(np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(*rows, strict=True)]
    wanted = float(np.mean([2 - 2 * each for each in cosine]))
    assert float(consistency_loss(*map(torch.from_numpy, rows))) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("function", [info_nce, consistency_loss])
def test_features_that_do_not_pair_are_refused(function: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        function(torch.zeros(3, 2), torch.zeros(2, 2))  # type: ignore[operator]  # one of two functions


def test_the_weighted_sum_is_that_of_its_parts() -> None:
    weights = AuxiliaryConfig(taco=0.5, curl=2.0, reward=3.0, consistency=0.25, width=4, hidden=8)
    heads = Auxiliary(weights, 6, 2, torch.Generator().manual_seed(0)).double()
    features, action, following, other = (
        noise(5, 6, seed=1),
        noise(5, 2, seed=2),
        noise(5, 6, seed=3),
        noise(5, 6, seed=4),
    )
    reward = noise(5, seed=5)
    total, parts = heads(features, action, reward, following, other)
    wanted = 0.5 * parts["encoder/taco"] + 2.0 * parts["encoder/curl"]
    wanted += 3.0 * parts["encoder/reward"] + 0.25 * parts["encoder/consistency"]
    torch.testing.assert_close(total.detach(), wanted, rtol=1e-12, atol=0)
    state, target = heads.state(features), heads.state(following)
    both = torch.cat([state, action], 1)
    torch.testing.assert_close(parts["encoder/taco"], info_nce(heads.step(both), target).detach())
    torch.testing.assert_close(parts["encoder/curl"], info_nce(state, heads.state(other)).detach())
    torch.testing.assert_close(parts["encoder/reward"], (heads.reward(both)[:, 0] - reward).square().mean().detach())
