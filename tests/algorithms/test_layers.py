"""The gradients that are written out for a CPU, against automatic differentiation of the plain formula in float64."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from robot_rl.networks import layers as module
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import Initialization
from robot_rl.networks.layers import (
    Keep,
    Layers,
    bfloat16_products,
    differentiable,
    draw_keep,
    on_cpu,
    one_by_one,
)
from robot_rl.networks.mlp import MLP

F, A, N, B = 5, 3, 4, 7


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Case(NamedTuple):
    """Inputs of one call."""

    features: Tensor
    action: Tensor | None
    layers: Layers
    keep: list[Keep]
    stacked: bool

    @property
    def inputs(self) -> list[Tensor]:
        given = [self.features] if self.action is None else [self.features, self.action]
        return [*given, *(each for part in self.layers for each in part)]

    def call(self, *inputs: Tensor) -> Tensor:
        """With other values of the inputs."""
        action = None if self.action is None else inputs[1]
        parameters = inputs[1:] if self.action is None else inputs[2:]
        layers = Layers.of(parameters, bool(self.layers.scales))
        return on_cpu(inputs[0], action, layers, self.keep, self.stacked)

    def plain(self) -> Tensor:
        if self.stacked:
            return one_by_one(self.features, self.action, self.layers, self.keep)
        return differentiable(self.features, self.action, self.layers, self.keep[0])


def case(
    actions: str,
    *,
    norms: bool,
    dropout: float = 0.0,
    count: int = 2,
    hidden: tuple[int, ...] = (6, 8),
    outputs: int = 2,
    batch: int = B,
    dtype: torch.dtype = torch.float64,
) -> Case:
    draws = generator()

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws, dtype=torch.float64).to(dtype).requires_grad_()

    shapes = {"none": None, "one": (batch, A), "several": (batch, N, A)}
    shape = shapes[actions]
    stack = (count,) if count else ()
    widths = [F + (0 if shape is None else A), *hidden, outputs]
    sizes = list(zip(widths[1:], widths, strict=False))
    norm_widths = hidden if norms else ()
    layers = Layers(
        [noise(*stack, *size) for size in sizes],
        [noise(*stack, width) for width, _ in sizes],
        [noise(*stack, width) for width in norm_widths],
        [noise(*stack, width) for width in norm_widths],
    )
    rows = batch * N if actions == "several" else batch
    keep: list[Keep] = [None] * max(count, 1)
    if dropout:
        drawn = [draw_keep(rows, hidden, dropout, draws) for _ in keep]
        keep = [[each.to(dtype) for each in kept or ()] for kept in drawn]
    return Case(noise(batch, F), None if shape is None else noise(*shape), layers, keep, bool(count))


KINDS = [
    pytest.param(actions, norms, dropout, count, id=f"{actions}-{norms}-{dropout}-{count}")
    for actions in ("none", "one", "several")
    for norms in (False, True)
    for dropout in (0.0, 0.4)
    for count in (0, 2)
]


@pytest.mark.parametrize(("actions", "norms", "dropout", "count"), KINDS)
def test_written_out_gradients_are_those_of_finite_differences(
    actions: str, norms: bool, dropout: float, count: int
) -> None:
    it = case(actions, norms=norms, dropout=dropout, count=count, batch=3)
    assert torch.autograd.gradcheck(it.call, it.inputs)


@pytest.mark.parametrize(("actions", "norms", "dropout", "count"), KINDS)
def test_outputs_and_gradients_are_those_of_automatic_differentiation(
    actions: str, norms: bool, dropout: float, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the rows go through in several blocks."""
    it = case(actions, norms=norms, dropout=dropout, count=count)
    expected = it.plain()
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), it.inputs)
    for block in (1024, 3):
        monkeypatch.setattr(module, "BLOCK", block)
        found = it.call(*it.inputs)
        torch.testing.assert_close(found, expected)
        for each, want in zip(torch.autograd.grad((found * weight).sum(), it.inputs), wanted, strict=True):
            torch.testing.assert_close(each, want)
        with torch.no_grad():
            torch.testing.assert_close(it.call(*it.inputs), expected.detach())


@pytest.mark.parametrize("actions", ["none", "one", "several"])
@pytest.mark.parametrize("count", [0, 2])
def test_without_hidden_layers_a_network_is_linear(actions: str, count: int) -> None:
    it = case(actions, norms=False, hidden=(), count=count)
    torch.testing.assert_close(it.call(*it.inputs), it.plain())
    assert torch.autograd.gradcheck(it.call, it.inputs)


@pytest.mark.parametrize("norms", [False, True])
def test_wide_layers_in_float32_agree_with_float64(norms: bool) -> None:
    """Wide enough for the products that have the ReLU in them."""
    for actions in ("none", "one", "several"):
        single = case(actions, norms=norms, hidden=(128, 160), batch=600, dtype=torch.float32)
        double = case(actions, norms=norms, hidden=(128, 160), batch=600)
        expected = double.plain()
        scale = expected.detach().abs().mean()
        weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
        found = single.call(*single.inputs)
        torch.testing.assert_close((found / scale).double(), expected / scale, rtol=1e-4, atol=1e-5)
        wanted = torch.autograd.grad((expected * weight).sum(), double.inputs)
        gradients = torch.autograd.grad((found * weight.float()).sum(), single.inputs)
        for each, want in zip(gradients, wanted, strict=True):
            assert (each.double() - want).norm() <= 1e-4 * want.norm()


@pytest.mark.parametrize(("way", "batch"), [("written out", 40), ("written out", 600), ("plain", 40)])
@pytest.mark.parametrize(("actions", "norms", "dropout", "count"), KINDS)
def test_bfloat16_products_round_outputs_and_gradients_and_nothing_more(
    actions: str, norms: bool, dropout: float, count: int, batch: int, way: str
) -> None:
    single, double = (
        case(actions, norms=norms, dropout=dropout, count=count, hidden=(128, 160), batch=batch, dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    )
    expected = double.plain()
    weight = torch.linspace(0.5, 1.5, expected.numel(), dtype=torch.float64).view_as(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), double.inputs)
    with bfloat16_products():
        found = single.call(*single.inputs) if way == "written out" else single.plain()
        gradients = torch.autograd.grad((found * weight.float()).sum(), single.inputs)
    assert found.dtype is torch.float32
    error = (found.double() - expected).norm() / expected.norm()
    assert 1e-4 < error < 0.02  # bfloat16 rounds by up to 0.004: less would say that it was not used
    for each, want in zip(gradients, wanted, strict=True):
        assert each.dtype is torch.float32
        # Where an activation is next to zero, rounding turns it on or off, so single numbers differ by much.
        assert torch.cosine_similarity(each.double().flatten(), want.flatten(), dim=0) > 0.95
        assert 0.8 < each.norm() / want.norm() < 1.25
    outside = single.call(*single.inputs)
    assert (outside.double() - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize(("actions", "norms", "dropout", "count"), KINDS)
def test_gradients_of_gradients_are_those_of_finite_differences(
    actions: str, norms: bool, dropout: float, count: int
) -> None:
    it = case(actions, norms=norms, dropout=dropout, count=count, hidden=(4,), outputs=1, batch=2)
    assert torch.autograd.gradgradcheck(it.call, it.inputs)


def test_a_second_gradient_does_not_count_the_way_from_features_to_action_twice() -> None:
    it = case("one", norms=False)
    assert it.action is not None

    def squared_slope(call: bool) -> Tensor:
        action = it.features[:, :A].sin() * 2
        inputs = [it.features, action, *it.inputs[2:]]
        q = it.call(*inputs) if call else it._replace(action=action).plain()
        (slope,) = torch.autograd.grad(q.sum(), [it.features], create_graph=True)
        return torch.autograd.grad(slope.square().sum(), [it.features])[0]

    torch.testing.assert_close(squared_slope(True), squared_slope(False))


@pytest.mark.parametrize("needed", ["features", "action", "parameters"])
def test_only_what_is_asked_for_gets_a_gradient(needed: str) -> None:
    it = case("several", norms=True)
    assert it.action is not None
    for each in it.inputs:
        each.requires_grad_(False)
    asked = {"features": [it.features], "action": [it.action], "parameters": it.inputs[2:]}[needed]
    for each in asked:
        each.requires_grad_(True)
    it.call(*it.inputs).sum().backward()
    found = [each.grad if each.grad is None else each.grad.clone() for each in it.inputs]
    it.plain().sum().backward()  # adds the same once more
    for each, once in zip(it.inputs, found, strict=True):
        assert (once is not None) == any(each is one for one in asked)
        if once is not None:
            assert each.grad is not None
            torch.testing.assert_close(each.grad, 2 * once)


def test_no_rows_give_no_outputs_and_no_gradient() -> None:
    for actions in ("none", "one", "several"):
        it = case(actions, norms=True, batch=0)
        outputs = it.call(*it.inputs)
        assert outputs.shape == it.plain().shape
        outputs.sum().backward()
        assert all(each.grad is not None and not each.grad.any() for each in it.inputs)


def test_a_parameter_that_changed_in_between_is_noticed() -> None:
    it = case("one", norms=False)
    outputs = it.call(*it.inputs)
    with torch.no_grad():
        it.layers.weights[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


@pytest.mark.parametrize("heads", [[0, 2], [1, 1, 2]])
def test_heads_that_were_not_chosen_get_no_gradient(heads: list[int]) -> None:
    critic = Ensemble(
        F, A, [6], count=3, layer_norm=True, initialization=Initialization(), generator=generator()
    ).double()
    features, action = case("one", norms=False).inputs[:2]
    chosen = torch.tensor(heads)
    critic(features, action, chosen).sum().backward()
    parameters = [each for part in critic.layers for each in part]
    found = [each.grad for each in parameters]
    whole = torch.autograd.grad(
        one_by_one(features, action, critic.layers, [None] * 3).sum((1, 2)), parameters, torch.ones(3).double()
    )
    times = torch.bincount(chosen, minlength=3).double()
    for each, one in zip(found, whole, strict=True):
        torch.testing.assert_close(each, one * times.view(-1, *[1] * (one.ndim - 1)))


def test_dropped_units_are_the_same_on_the_way_back() -> None:
    network = MLP(
        F, [32], 1, layer_norm=False, initialization=Initialization(), generator=generator(), dropout=0.5
    ).double()
    x = case("none", norms=False).features
    network(x, generator(1)).sum().backward()
    (weight,) = (layer.weight.grad for layer in network.layers[1:])
    kept = draw_keep(B, [32], 0.5, generator(1))
    assert kept is not None
    hidden = (network.layers[0](x) * kept[0]).relu()
    torch.testing.assert_close(weight, hidden.sum(dim=0, keepdim=True))
