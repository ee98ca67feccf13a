"""Networks: ensembles, encoders, initialisation, optimiser steps."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robot_rl.errors import InputError
from robot_rl.networks.actor import GaussianActor
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.ensemble import Ensemble
from robot_rl.networks.initialize import Initialization
from robot_rl.networks.layers import differentiable
from robot_rl.networks.mlp import MLP
from robot_rl.networks.optimize import adam, descend, held, step_with_zero_gradient
from robot_rl.networks.parameters import parameters_of
from robot_rl.networks.scalar import Scalar
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

F, A, H = 5, 2, 16


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ensemble(count: int = 3, *, layer_norm: bool = True, hidden: tuple[int, ...] = (H, H)) -> Ensemble:
    critic = Ensemble(
        F,
        A,
        list(hidden),
        count=count,
        layer_norm=layer_norm,
        initialization=Initialization(output_gain=1.0),
        generator=generator(),
    )
    with torch.no_grad():  # biases and norms start alike; make them tell the members apart
        for each in [*critic.biases, *critic.norm_scales, *critic.norm_offsets]:
            each += torch.randn(each.shape, generator=generator(1))
    return critic


def one_member(critic: Ensemble, member: int, x: Tensor) -> Tensor:
    """The same network written out as plain modules."""
    layers: list[nn.Module] = []
    for index, (weight, bias) in enumerate(zip(critic.weights, critic.biases, strict=True)):
        linear = nn.Linear(weight.shape[2], weight.shape[1])
        linear.weight.data, linear.bias.data = weight[member].detach(), bias[member].detach()
        layers.append(linear)
        if index < len(critic.norm_scales):
            norm = nn.LayerNorm(weight.shape[1], eps=1e-6)
            norm.weight.data = critic.norm_scales[index][member].detach()
            norm.bias.data = critic.norm_offsets[index][member].detach()
            layers.append(norm)
        if index < len(critic.weights) - 1:
            layers.append(nn.ReLU())
    value: Tensor = nn.Sequential(*layers)(x)
    return value[:, 0]


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("hidden", [(H,), (H, H), (H, 8, 12)])
def test_an_ensemble_equals_a_loop_over_its_members(layer_norm: bool, hidden: tuple[int, ...]) -> None:
    critic = ensemble(layer_norm=layer_norm, hidden=hidden)
    features, action = torch.randn(7, F, generator=generator()), torch.randn(7, A, generator=generator(1))
    expected = torch.stack([one_member(critic, member, torch.cat([features, action], dim=1)) for member in range(3)])
    torch.testing.assert_close(critic(features, action), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_trap_17_stacked_and_single_computation_agree_in_values_and_gradients(several: bool, layer_norm: bool) -> None:
    critic = ensemble(layer_norm=layer_norm)
    features = torch.randn(7, F, generator=generator())
    action = torch.randn(*((7, 4, A) if several else (7, A)), generator=generator(1), requires_grad=True)
    stacked = [*critic.weights, *critic.biases, *critic.norm_scales, *critic.norm_offsets]
    results = []
    for q in (critic(features, action), differentiable(features, action, critic.layers, None)[..., 0]):
        assert q.shape == (3, 7, 4) if several else (3, 7)
        weight = torch.linspace(-1, 1, q.numel()).view_as(q)
        results.append([q, *torch.autograd.grad((q * weight).sum(), [action, *stacked])])
    for single, batched in zip(*results, strict=True):
        torch.testing.assert_close(single, batched, rtol=1e-5, atol=1e-5)


def test_several_actions_in_a_state_equal_that_many_states() -> None:
    critic = ensemble()
    features, action = torch.randn(7, F, generator=generator()), torch.randn(7, 4, A, generator=generator(1))
    q = critic(features, action)
    for n in range(4):
        torch.testing.assert_close(q[:, :, n], critic(features, action[:, n]), rtol=1e-5, atol=1e-5)


def test_chosen_heads_are_those_critics() -> None:
    critic = ensemble()
    features, action = torch.randn(7, F, generator=generator()), torch.randn(7, A, generator=generator(1))
    torch.testing.assert_close(critic(features, action, torch.tensor([2, 0, 2])), critic(features, action)[[2, 0, 2]])


def test_critics_of_an_ensemble_start_differently() -> None:
    critic = Ensemble(F, A, [H], count=4, layer_norm=False, initialization=Initialization(), generator=generator())
    for weight in critic.weights:
        assert all(not torch.allclose(weight[i], weight[j]) for i in range(4) for j in range(i))


def test_an_ensemble_refuses_what_does_not_fit() -> None:
    critic = ensemble()
    for features, action in (((7, F), (6, A)), ((7, F + 1), (7, A)), ((7, F), (7,)), ((7, F), (1, 7, 4, A))):
        with pytest.raises(ValueError, match="expected"):
            critic(torch.zeros(features), torch.zeros(action))


# Encoder --------------------------------------------------------------------------------------------------------------
def test_the_encoder_concatenates_in_the_order_of_the_spec_and_normalises() -> None:
    spec = Spec(observation={"b": ArraySpec(shape=(2,)), "a": ArraySpec(shape=())}, action=ArraySpec(shape=(1,)))
    statistics = {
        "b": (torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0])),  # the second channel is constant
        "a": (torch.tensor(-1.0), torch.tensor(0.5)),
    }
    encoder = FlatEncoder(spec, statistics)
    observation = {"a": torch.tensor([0.0]), "b": torch.tensor([[5.0, 2.5]])}
    # (5 - 1) / 2 = 2;  2.5 - 2 = 0.5, not scaled;  (0 + 1) / 0.5 = 2
    torch.testing.assert_close(encoder(observation), torch.tensor([[2.0, 0.5, 2.0]]))
    assert encoder.features == 3


def test_normalisation_travels_with_the_state_of_the_encoder(spec: Spec, make_batch: Callable[..., Batch]) -> None:
    statistics = {
        key: (torch.ones(array.shape), torch.full(array.shape, 3.0)) for key, array in spec.observation.items()
    }
    first, second = FlatEncoder(spec, statistics), FlatEncoder(spec, None)
    second.load_state_dict(first.state_dict())
    observation = make_batch(4).observation
    assert torch.equal(first(observation), second(observation))


def test_images_are_refused_by_name() -> None:
    spec = Spec(observation={"camera": ArraySpec(shape=(64, 64, 3), dtype="uint8")}, action=ArraySpec(shape=(1,)))
    with pytest.raises(InputError, match=r"'camera' is \(64, 64, 3\) uint8, which is no vector"):
        FlatEncoder(spec, None)


def test_statistics_that_do_not_fit_are_refused(spec: Spec) -> None:
    good = {key: (torch.zeros(array.shape), torch.ones(array.shape)) for key, array in spec.observation.items()}
    with pytest.raises(InputError, match="lack observation 'object'"):
        FlatEncoder(spec, {"joints": good["joints"]})
    with pytest.raises(InputError, match="'joints' have shape"):
        FlatEncoder(spec, good | {"joints": (torch.zeros(4), torch.ones(4))})


# Actor ----------------------------------------------------------------------------------------------------------------
def actor(kind: str, **changed: object) -> GaussianActor:
    arguments: dict[str, object] = {"layer_norm": False, "log_std_kind": kind, "log_std_range": (-3.0, 1.0)}
    arguments |= {"initialization": Initialization(output_gain=5.0), "generator": generator()}
    return GaussianActor(F, A, [H], **(arguments | changed))


@pytest.mark.parametrize("kind", ["state_dependent", "state_independent", "affine"])
def test_deviations_stay_in_their_range(kind: str) -> None:
    mean, log_std = actor(kind)(100 * torch.randn(50, F, generator=generator()))
    assert mean.shape == log_std.shape == (50, A)
    assert log_std.min() >= -3
    assert log_std.max() <= 1
    assert (log_std.std(dim=0).max() == 0) == (kind == "state_independent")


def test_an_affine_deviation_starts_at_the_output_minus_one() -> None:
    features = 0.01 * torch.randn(4, F, generator=generator())
    plain, affine = actor("state_dependent")(features), actor("affine")(features)
    torch.testing.assert_close(affine[0], plain[0])
    torch.testing.assert_close(affine[1], plain[1] - 1)


def test_a_bounded_mean_is_a_tanh() -> None:
    features = torch.randn(4, F, generator=generator())
    raw, bounded = actor("state_independent")(features)[0], actor("state_independent", bounded_mean=True)(features)[0]
    torch.testing.assert_close(bounded, raw.tanh())


def test_dropout_acts_only_with_a_generator_and_keeps_the_mean() -> None:
    network = MLP(
        F,
        [4000],
        1,
        layer_norm=False,
        initialization=Initialization(output_gain=1.0),
        generator=generator(),
        dropout=0.5,
    )
    x = torch.ones(1, F)
    assert torch.equal(network(x), network(x))
    assert torch.equal(network(x, generator(3)), network(x, generator(3)))
    draws = torch.cat([network(x, generator(seed)) for seed in range(200)])
    assert draws.std() > 0
    assert abs(draws.mean() - network(x)[0, 0]) < 4 * draws.std() / math.sqrt(200)


# Initialisation and optimiser steps -----------------------------------------------------------------------------------
def test_trap_14_every_layer_has_the_gain_of_its_place() -> None:
    # Orthogonal with gain g: each row (or column) of the smaller side has norm g.
    def gains(initialization: Initialization) -> list[float]:
        network = MLP(8, [8, 8, 8], 8, layer_norm=True, initialization=initialization, generator=generator())
        return [round(layer.weight.norm(dim=1).mean().item(), 4) for layer in network.layers]

    assert gains(Initialization(hidden_gain=1.5, output_gain=0.01)) == [1.5, 1.5, 1.5, 0.01]  # Cal-QL
    assert gains(Initialization(hidden_gain=1.5, last_hidden_gain=0.01, output_gain=1.5)) == [
        1.5,
        1.5,
        0.01,
        1.5,
    ]  # WSRL
    critic = Ensemble(
        6,
        2,
        [8, 8],
        count=2,
        layer_norm=True,
        initialization=Initialization(hidden_gain=1.5, last_hidden_gain=0.01, output_gain=2.0),
        generator=generator(),
    )
    assert [round(weight.norm(dim=2).mean().item(), 4) for weight in critic.weights] == [1.5, 0.01, 2.0]


def test_trap_14_layer_norm_undoes_the_forward_effect_of_a_small_last_hidden_layer() -> None:
    x = torch.randn(16, 8, generator=generator())

    def scale(layer_norm: bool, last_hidden_gain: float) -> float:
        initialization = Initialization(last_hidden_gain=last_hidden_gain, output_gain=1.0)
        network = MLP(8, [32, 32], 4, layer_norm=layer_norm, initialization=initialization, generator=generator())
        return float(network(x).detach().std())

    assert scale(True, 0.01) == pytest.approx(scale(True, 1.0), rel=0.02)
    assert scale(False, 0.01) == pytest.approx(0.01 * scale(False, 1.0), rel=0.02)


@pytest.mark.parametrize("parameterization", ["exp", "softplus"])
@pytest.mark.parametrize("initial", [0.01, 1.0, 2.718281828459045, 30.0])
def test_a_scalar_starts_where_it_is_told(parameterization: str, initial: float) -> None:
    assert Scalar(initial, parameterization)().item() == pytest.approx(initial, rel=1e-5)


def test_a_held_network_passes_gradients_on_but_takes_none() -> None:
    layer, x = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    with held(layer):
        layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None
    assert layer.weight.requires_grad


def test_trap_13_zero_gradient_steps_carry_the_parameters_on() -> None:
    """With 4 critic updates per actor update, the masked updates of WSRL's code move the actor sqrt(5) times as far.

    Adam's first moment under gradients 1, 0, 0, 0, 0, repeated, averages 1/5, its second moment 1/5: five steps of
    size (1/5) / sqrt(1/5) make sqrt(5) = 2.236 steps per gradient.
    """

    def distance(zero_steps: int) -> float:
        layer = nn.Linear(1, 1, bias=False)
        optimizer, start = adam(layer, 1e-3), layer.weight.item()
        for _ in range(3000):
            descend(optimizer, layer.weight.sum(), learning_rate=1e-3, gradient_clip=None)
            for _ in range(zero_steps):
                step_with_zero_gradient(optimizer, learning_rate=1e-3)
        return start - layer.weight.item()

    assert distance(0) == pytest.approx(3.0, rel=0.01)
    assert distance(4) / distance(0) == pytest.approx(math.sqrt(5), rel=0.02)


def test_gradients_are_clipped_to_a_norm() -> None:
    layer = nn.Linear(2, 1, bias=False)
    descend(adam(layer, 0.0), 30 * layer.weight[0, 0] + 40 * layer.weight[0, 1], learning_rate=0.0, gradient_clip=1.0)
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_step_without_bookkeeping_is_that_of_pytorch(clip: float | None) -> None:
    """Also after a checkpoint, whose layout is PyTorch's."""
    ours, theirs = (
        MLP(3, [4], 2, layer_norm=True, initialization=Initialization(), generator=generator()) for _ in "ab"
    )
    quick, plain = adam(ours, 1e-2), torch.optim.Adam(theirs.parameters(), lr=1e-2, fused=True)
    for number in range(6):
        x = torch.randn(5, 3, generator=generator(number))
        descend(quick, ours(x).square().mean(), learning_rate=1e-2 / (number + 1), gradient_clip=clip)
        plain.param_groups[0]["lr"] = 1e-2 / (number + 1)
        plain.zero_grad()
        theirs(x).square().mean().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(theirs.parameters(), clip)
        plain.step()
        if number == 3:
            state = quick.state_dict()
            assert state["param_groups"][0].keys() == plain.state_dict()["param_groups"][0].keys()
            quick = adam(ours, 1.0)
            quick.load_state_dict(state)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)
    for index, entry in plain.state_dict()["state"].items():
        for name, value in entry.items():
            assert torch.equal(quick.state_dict()["state"][index][name], value)


def test_a_parameter_without_a_gradient_stays() -> None:
    layer = nn.Linear(2, 1)
    before, optimizer = layer.bias.detach().clone(), adam(layer, 1.0)
    for _ in range(2):
        descend(optimizer, layer.weight.sum(), learning_rate=1.0, gradient_clip=None)
    assert torch.equal(layer.bias, before)
    assert list(optimizer.state) == [layer.weight]


def test_parameters_are_those_of_pytorch_in_its_order() -> None:
    for module in (ensemble(), actor("affine"), nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))):
        assert [id(each) for each in parameters_of(module)] == [id(each) for each in module.parameters()]
