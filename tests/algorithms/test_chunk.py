"""Of chunks that the end of an episode cut: which rows teach critics, and which steps are cloned."""

import pytest
import torch

from robot_rl.functional.chunk import chunk_weight, recorded
from robot_rl.functional.flow import candidate_noise, candidates, flow_loss, integrate

VALID = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
DISCOUNT = torch.tensor([0.9, 0.0, 0.81])  # the second terminated, the third met a time limit


@pytest.mark.parametrize(
    ("rule", "counts"), [("whole", [1.0, 0.0, 0.0]), ("terminated", [1.0, 1.0, 0.0]), ("all", None)]
)
def test_the_rule_says_which_cut_chunks_teach_critics(rule, counts) -> None:
    weight = chunk_weight(VALID, DISCOUNT, rule)
    assert (None if weight is None else weight.tolist()) == counts
    assert chunk_weight(None, DISCOUNT, rule) is None


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'whole'"):
        chunk_weight(VALID, DISCOUNT, "hole")


def test_steps_that_were_not_recorded_have_no_error() -> None:
    error = torch.arange(1.0, 19.0).view(3, 6)  # three steps of two dimensions
    expected = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 0, 0], [13, 14, 0, 0, 0, 0]]
    assert recorded(error, VALID).tolist() == expected
    assert recorded(error, None) is error


def test_the_flow_clones_recorded_steps_alone() -> None:
    # Squares 4 in every entry; 12 of 18 are recorded, and the mean is over all: 12 * 4 / 18.
    velocity, wanted = torch.full((3, 6), 3.0), torch.ones(3, 6)
    assert float(flow_loss(velocity, wanted, VALID)) == pytest.approx(12 * 4 / 18)
    assert float(flow_loss(velocity, wanted)) == pytest.approx(4.0)


def test_candidates_are_the_actions_of_a_flow_for_their_noise() -> None:
    def network(x: torch.Tensor) -> torch.Tensor:
        """Velocity f - x in both dimensions, of (f, x_1, x_2, t)."""
        return x[:, :1] - x[:, 1:3]

    generator = torch.Generator().manual_seed(0)
    features, noise = torch.tensor([[0.2], [-0.4]]), torch.randn((2, 3, 2), generator=generator)
    found = candidates(network, features, noise, 4)
    for row in range(2):
        alone = integrate(lambda x, t, f=float(features[row, 0]): f - x, noise[row], 4)
        torch.testing.assert_close(found[row], alone)


def test_without_a_generator_every_state_has_the_same_noise() -> None:
    features = torch.zeros(4, 3)
    fixed = candidate_noise(features, 5, 2, None)
    assert fixed.shape == (4, 5, 2)
    assert torch.equal(fixed, candidate_noise(features, 5, 2, None))
    assert torch.equal(fixed[:1].expand(4, -1, -1), fixed)
    generator = torch.Generator().manual_seed(0)
    drawn = candidate_noise(features, 5, 2, generator)
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn, candidate_noise(features, 5, 2, generator))
