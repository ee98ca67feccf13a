"""Losses of video pre-training against independent formulas in NumPy, float64, and their limit cases."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from robot_rl.errors import InputError
from robot_rl.functional import goal_value, intentional, masked
from robot_rl.types import Array

PARITY = 1e-5
E, K, D = 2, 37, 6


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape)


def same(found: Tensor, expected: Array | float) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=PARITY, atol=PARITY)


# ICVF -----------------------------------------------------------------------------------------------------------------
def test_the_multilinear_value_is_phi_times_a_matrix_of_the_intent_times_psi() -> None:
    phi, psi, intent = numbers(E, K, D), numbers(E, K, D, seed=1), numbers(E, K, D, seed=2)
    a, b, a0, b0 = numbers(E, D, D, seed=3), numbers(E, D, D, seed=4), numbers(E, D, seed=5), numbers(E, D, seed=6)
    found = intentional.multilinear_value(
        *map(torch.from_numpy, (phi, psi, intent)),
        (torch.from_numpy(a), torch.from_numpy(a0)),
        (torch.from_numpy(b), torch.from_numpy(b0)),
    )
    for member in range(E):
        for row in range(K):
            t = np.diag(intent[member, row])
            left, right = a[member] @ t @ phi[member, row] + a0[member], b[member] @ t @ psi[member, row] + b0[member]
            same(found[member, row], left @ right)
    # Without biases it is phi^T T(z) psi with T(z) = diag(t) A^T B diag(t), a matrix of the intent alone.
    zero = torch.zeros(E, D, dtype=torch.float64)
    plain = intentional.multilinear_value(
        *map(torch.from_numpy, (phi, psi, intent)), (torch.from_numpy(a), zero), (torch.from_numpy(b), zero)
    )
    t = np.diag(intent[1, 3])
    same(plain[1, 3], phi[1, 3] @ (t @ a[1].T @ b[1] @ t) @ psi[1, 3])


def icvf_by_hand(
    v: Array, next_v: Array, v_zz: Array, next_v_zz: Array, at_goal: Array, at_intent: Array, reduction: str
) -> tuple[Array, float]:
    """A and L with discount 0.99 and expectile 0.9, tuple by tuple."""
    advantage, loss = np.empty(K), np.zeros(E)
    for k in range(K):
        following = min(next_v_zz[:, k]) if reduction == "min" else np.mean(next_v_zz[:, k])
        q_zz = (float(at_intent[k]) - 1) + 0.99 * (1 - float(at_intent[k])) * following
        advantage[k] = q_zz - np.mean(v_zz[:, k])
        weight = 0.1 if advantage[k] < 0 else 0.9
        for member in range(E):
            y = (float(at_goal[k]) - 1) + 0.99 * (1 - float(at_goal[k])) * next_v[member, k]
            loss[member] += weight * (y - v[member, k]) ** 2 / K
    return advantage, loss.sum()


@pytest.mark.parametrize("reduction", ["min", "mean"])
def test_the_loss_of_icvf_is_that_of_an_independent_formula(reduction: str) -> None:
    v, next_v, v_zz, next_v_zz = (numbers(E, K, seed=seed) for seed in range(4))
    draws = np.random.default_rng(9)
    at_goal, at_intent = draws.random(K) < 0.3, draws.random(K) < 0.3
    tensors = [torch.from_numpy(each) for each in (v, next_v, v_zz, next_v_zz, at_goal, at_intent)]
    advantage = intentional.intent_advantage(tensors[3], tensors[2], tensors[5], 0.99, reduction=reduction)
    loss, metrics = intentional.value_loss(tensors[0], tensors[1], tensors[4], advantage, 0.99, 0.9)
    expected_advantage, expected = icvf_by_hand(v, next_v, v_zz, next_v_zz, at_goal, at_intent, reduction)
    same(advantage, expected_advantage)
    same(loss, expected)
    same(metrics["value/accepted"], float((expected_advantage >= 0).mean()))


def test_at_the_goal_the_value_is_pulled_to_zero_and_elsewhere_one_below_the_next() -> None:
    # at the goal: 0, whatever follows; elsewhere: -1 + 0.5 * (-4) = -3
    found = intentional.backup(torch.tensor([[-4.0, -4.0]]), torch.tensor([True, False]), 0.5)
    assert found.tolist() == [[0.0, -3.0]]


def test_the_gradient_reaches_the_value_alone() -> None:
    tensors = [torch.from_numpy(numbers(E, K, seed=seed)).requires_grad_() for seed in range(4)]
    at = torch.zeros(K, dtype=torch.bool)
    advantage = intentional.intent_advantage(tensors[3], tensors[2], at, 0.99)
    intentional.value_loss(tensors[0], tensors[1], at, advantage, 0.99, 0.9)[0].backward()
    assert tensors[0].grad is not None
    assert [each.grad for each in tensors[1:]] == [None, None, None]


def test_shapes_of_icvf_that_would_broadcast_are_refused() -> None:
    good, at = torch.zeros(E, K), torch.zeros(K, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\(E, K\)"):
        intentional.value_loss(good, torch.zeros(K), at, torch.zeros(K), 0.99, 0.9)
    with pytest.raises(ValueError, match="advantage"):
        intentional.value_loss(good, good, at, torch.zeros(K, 1), 0.99, 0.9)
    with pytest.raises(ValueError, match=r"\(K,\)"):
        intentional.backup(good, at[:, None], 0.99)
    with pytest.raises(ValueError, match=r"\(E, K\)"):
        intentional.intent_advantage(good, good[:1], at, 0.99)


# VIP and LIV ----------------------------------------------------------------------------------------------------------
def dual_by_hand(v_first: Array, v: Array, next_v: Array, discount: float, shuffled: tuple[Array, Array]) -> float:
    """The published sum, as it stands."""
    loss = (1 - discount) * float(np.mean(-v_first))
    for value, following in ((v, next_v), shuffled):
        loss += math.log(1e-8 + float(np.mean(np.exp(-(-1.0 + discount * following - value)))))
    return loss


@pytest.mark.parametrize("scale", [0.1, 5.0, 40.0])
def test_the_loss_of_vip_is_that_of_an_independent_formula(scale: float) -> None:
    first, now, following, goal = (scale * numbers(K, D, seed=seed) for seed in range(4))
    order = np.random.default_rng(5).permutation(K)
    v = [-np.sqrt(np.sum((each - goal) ** 2, 1)) for each in (first, now, following, now[order], following[order])]
    tensors = [torch.from_numpy(each) for each in (first, now, following, now[order], following[order])]
    found = [goal_value.distance_value(each, torch.from_numpy(goal)) for each in tensors]
    for one, other in zip(found, v, strict=True):
        same(one, other)
    loss, _ = goal_value.dual_value_loss(*found[:3], 0.98, (found[3], found[4]))
    same(loss, dual_by_hand(*v[:3], 0.98, (v[3], v[4])))


def test_the_loss_of_vip_bears_values_whose_exponentials_overflow() -> None:
    # exponent 1 + 1000 - 0 = 1001 for V = 1000, V' = 0: log exp(1001) = 1001, and (1 - 0.5) * -0 = 0
    v = torch.tensor([1000.0], requires_grad=True)
    loss, _ = goal_value.dual_value_loss(torch.zeros(1), v, torch.zeros(1), 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(1001.0)
    assert v.grad is not None
    assert v.grad.item() == pytest.approx(1.0)
    # far below, the tiny number keeps the logarithm at log(1e-8) and its slope at 0
    low, _ = goal_value.dual_value_loss(torch.zeros(1), torch.tensor([-1000.0]), torch.zeros(1), 0.5)
    assert low.item() == pytest.approx(math.log(1e-8))


def test_the_distance_at_the_goal_has_a_gradient_that_is_a_number() -> None:
    embedding = torch.zeros(1, D, requires_grad=True)
    goal_value.distance_value(embedding, torch.zeros(1, D)).sum().backward()
    assert embedding.grad is not None
    assert bool(torch.isfinite(embedding.grad).all())


def test_the_values_of_liv_are_cosines_over_one_minus_the_discount() -> None:
    a, b = numbers(K, D), numbers(K, D, seed=1)
    cosine = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    same(goal_value.cosine_value(torch.from_numpy(a), torch.from_numpy(b), 0.98), cosine / 0.02)


def test_the_contrast_of_liv_is_a_cross_entropy_both_ways() -> None:
    image, text = numbers(K, D), numbers(K, D, seed=1)
    unit_i = image / np.linalg.norm(image, axis=1, keepdims=True)
    unit_t = text / np.linalg.norm(text, axis=1, keepdims=True)
    logits = unit_i @ unit_t.T
    expected = 0.0
    for table in (logits, logits.T):
        for row in range(K):
            expected -= (table[row, row] - np.log(np.sum(np.exp(table[row])))) / (2 * K)
    same(goal_value.contrastive_loss(torch.from_numpy(image), torch.from_numpy(text)), expected)


def test_clips_with_the_same_instruction_are_no_wrong_answers() -> None:
    # Three clips, the first two say the same; each of their targets is half and half.
    image, text = numbers(3, D), numbers(3, D, seed=1)
    text[1] = text[0]
    same_text = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    logits = (image / np.linalg.norm(image, axis=1, keepdims=True)) @ (
        text / np.linalg.norm(text, axis=1, keepdims=True)
    ).T
    target = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    expected = sum(
        -(target * (table - np.log(np.exp(table).sum(1, keepdims=True)))).sum() / 6 for table in (logits, logits.T)
    )
    same(goal_value.contrastive_loss(torch.from_numpy(image), torch.from_numpy(text), same_text), expected)


def test_norms_of_embeddings() -> None:
    # (3, 4): L1 7, L2 5; (0, 0): 0, 0
    first, second = goal_value.embedding_norms(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert (first.item(), second.item()) == (3.5, 2.5)


# Masked auto-encoding -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("normalize", [True, False])
def test_the_error_of_masked_patches_is_that_of_an_independent_formula(normalize: bool) -> None:
    images, side = numbers(3, 2, 8, 12), 4
    prediction = numbers(3, 6, 32, seed=1)
    hidden = np.random.default_rng(2).random((3, 6)) < 0.5
    total, count = 0.0, 0
    for m in range(3):
        for p in range(6):
            row, column = divmod(p, 3)
            patch = images[m, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
            flat = np.moveaxis(patch, 0, 2).reshape(-1)  # colours last
            if normalize:
                flat = (flat - flat.mean()) / np.sqrt(flat.var(ddof=1) + 1e-6)
            if hidden[m, p]:
                total, count = total + float(np.mean((prediction[m, p] - flat) ** 2)), count + 1
    tensors = (torch.from_numpy(prediction), torch.from_numpy(images), torch.from_numpy(hidden))
    same(masked.reconstruction_loss(*tensors, side, normalize=normalize), total / count)


def test_every_image_hides_the_same_number_of_patches() -> None:
    mask = masked.random_mask(50, 64, 0.75, torch.Generator().manual_seed(0))
    assert mask.sum(1).tolist() == [48] * 50
    assert len({tuple(row) for row in mask.int().tolist()}) == 50  # but not the same ones
    assert bool(masked.random_mask(9, 4, 1.0, torch.Generator()).sum(1).eq(3).all()), "never all"
    assert bool(masked.random_mask(9, 4, 0.0, torch.Generator()).sum(1).eq(1).all()), "at least one"


def test_what_is_hidden_is_gone_and_the_rest_is_untouched() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 1.0
    hidden = torch.tensor([[True, False, False, False], [False, False, True, True]])
    shown = masked.hide(images, hidden, 4)
    cut, original = masked.patches(shown, 4), masked.patches(images, 4)
    assert bool((cut[hidden] == 0).all())
    assert torch.equal(cut[~hidden], original[~hidden])


def test_patches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="patches of 5 pixels"):
        masked.patches(torch.zeros(1, 3, 8, 8), 5)
