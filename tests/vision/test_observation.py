"""What a learner makes of observations with images: features, and where gradients go."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from robot_rl.errors import InputError
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.optimize import descend_encoder, encoder_adam
from robot_rl.networks.seen import Seen
from robot_rl.networks.vision.augmentation import AugmentationConfig
from robot_rl.networks.vision.auxiliary import AuxiliaryConfig
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.observation import PixelEncoder, PixelsConfig, observation_encoder
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch

SMALL: dict[str, Any] = {
    "encoder": VisionConfig(channels=[4, 4], kernels=[3, 3], strides=[2, 2]),
    "augmentation": AugmentationConfig(shift=2),
    "width": 6,
}
SPEC = Spec(
    observation={
        "front": ArraySpec(shape=(16, 16, 3), dtype="uint8"),
        "joints": ArraySpec(shape=(3,)),
        "wrist": ArraySpec(shape=(2, 12, 12, 3), dtype="uint8"),
    },
    action=ArraySpec(shape=(2,)),
)
ALL = slice(0, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def observation(rows: int, seed: int) -> dict[str, Tensor]:
    g = generator(seed)
    return {
        key: torch.randint(0, 256, (rows, *array.shape), generator=g, dtype=torch.uint8)
        if array.dtype == "uint8"
        else torch.randn((rows, *array.shape), generator=g)
        for key, array in SPEC.observation.items()
    }


def batch(rows: int = 8) -> Batch:
    return Batch(
        observation=observation(rows, 0),
        action=torch.randn(rows, 2, generator=generator(1)).tanh(),
        reward=torch.randn(rows, generator=generator(2)),
        discount=torch.full((rows,), 0.99),
        next_observation=observation(rows, 3),
    )


def encoder(**settings: Any) -> PixelEncoder:
    made = observation_encoder(PixelsConfig(**{**SMALL, **settings}), SPEC, None, generator())
    assert isinstance(made, PixelEncoder)
    return made


def see(made: PixelEncoder, parts: Sequence[slice] = (ALL,), seed: int = 5) -> list[Seen]:
    return list(made.views(batch(), parts, generator(seed)))


def learned(made: PixelEncoder, views: Sequence[Seen], critic: float = 1.0, actor: float = 1.0) -> set[str]:
    """Which parts of the encoder have a gradient, after both losses have left theirs."""
    optimizers = encoder_adam(made, 1e-3)
    made.zero_grad()
    for view in views:
        for features, weight in ((view.critic, critic), (view.actor, actor)):
            if features.requires_grad and weight:
                (weight * features.square().mean()).backward()
    descend_encoder(optimizers, views, learning_rate=1e-3, gradient_clip=None)
    return {
        name.split(".")[0] for name, each in made.named_parameters() if each.grad is not None and each.grad.abs().sum()
    }


def test_features_are_those_of_all_cameras_and_the_numbers() -> None:
    made = encoder()
    assert made.features == 6 + 3
    assert made(observation(4, 0)).shape == made.for_actor(observation(4, 0)).shape == (4, 9)
    assert encoder(width=None, actor="nothing").features == 4 * (3 * 3) + 4 * (2 * 2) + 3
    assert encoder(numbers_width=5).features == 6 + 5
    (view,) = see(made)
    for features in (view.critic, view.next_critic, view.actor, view.next_actor):
        assert features.shape == (8, 9)


def test_without_images_it_is_the_encoder_of_vectors() -> None:
    spec = replace(SPEC, observation={"joints": SPEC.observation["joints"]})
    made = observation_encoder(PixelsConfig(), spec, None, generator())
    assert isinstance(made, FlatEncoder)
    assert encoder_adam(made, 1e-3) == {}
    given = replace(batch(), observation={"joints": torch.ones(8, 3)}, next_observation={"joints": torch.zeros(8, 3)})
    first, second = made.views(given, [slice(0, 4), slice(4, 8)], generator())
    assert first.critic is first.actor
    assert torch.equal(first.critic, torch.ones(4, 3))
    assert torch.equal(second.next_actor, torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, {"eyes", "neck", "actor_neck"}),
        ({"actor": "nothing"}, {"eyes", "neck"}),
        ({"actor": "eyes"}, {"eyes", "neck", "actor_eyes", "actor_neck"}),
        ({"numbers_width": 4}, {"eyes", "neck", "actor_neck", "numbers_neck", "actor_numbers_neck"}),
    ],
)
def test_every_part_learns(settings: dict[str, Any], wanted: set[str]) -> None:
    made = encoder(**settings)
    assert learned(made, see(made)) == wanted == {name.split(".")[0] for name, _ in made.named_parameters()}


@pytest.mark.parametrize(
    ("actor", "learns_from", "of_critic", "of_actor"),
    [
        ("neck", "values", {"eyes", "neck"}, {"actor_neck"}),
        ("neck", "actor", {"neck"}, {"eyes", "actor_neck"}),
        ("neck", "all", {"eyes", "neck"}, {"eyes", "actor_neck"}),
        ("nothing", "values", {"eyes", "neck"}, set()),
        ("nothing", "actor", set(), {"eyes", "neck"}),
        ("nothing", "all", {"eyes", "neck"}, {"eyes", "neck"}),
        ("eyes", "values", {"eyes", "neck"}, {"actor_eyes", "actor_neck"}),
    ],
)
def test_gradients_reach_what_the_settings_say(
    actor: str, learns_from: str, of_critic: set[str], of_actor: set[str]
) -> None:
    made = encoder(actor=actor, learns_from=learns_from)
    assert learned(made, see(made), critic=1.0, actor=0.0) == of_critic
    assert learned(made, see(made), critic=0.0, actor=1.0) == of_actor


def test_the_gradient_is_that_of_one_loss_through_the_encoder() -> None:
    """By leaves and one backward pass, as by plain autograd through what forward does."""
    made = encoder(augmentation=AugmentationConfig(shift=0), learns_from="all").double()
    given = batch()
    learned(made, see(made))
    found = {name: each.grad.clone() for name, each in made.named_parameters() if each.grad is not None}
    made = encoder(augmentation=AugmentationConfig(shift=0), learns_from="all").double()
    (made(given.observation).square().mean() + made.for_actor(given.observation).square().mean()).backward()
    for name, each in made.named_parameters():
        torch.testing.assert_close(found[name], each.grad, rtol=1e-5, atol=1e-9)


def test_parts_are_encoded_by_the_weights_of_their_moment() -> None:
    made = encoder(augmentation=AugmentationConfig(shift=0))
    views = made.views(batch(), [slice(0, 4), slice(4, 8)], generator())
    next(views)
    with torch.no_grad():
        for each in made.parameters():
            each.add_(0.5)
    second = next(views)
    wanted = made({key: value[4:8] for key, value in batch().observation.items()})
    assert torch.equal(second.critic, wanted)


def test_a_view_gives_its_gradient_once() -> None:
    made = encoder()
    (view,) = see(made)
    optimizers = encoder_adam(made, 1e-3)
    view.critic.sum().backward()
    descend_encoder(optimizers, [view], learning_rate=1e-3, gradient_clip=None)
    before = {name: each.detach().clone() for name, each in made.named_parameters()}
    descend_encoder(optimizers, [view], learning_rate=1e-3, gradient_clip=None)
    assert all(torch.equal(each, before[name]) for name, each in made.named_parameters())
    view.actor.sum().backward()  # what comes later is still taken
    descend_encoder(optimizers, [view], learning_rate=1e-3, gradient_clip=None)
    moved = {name.split(".")[0] for name, each in made.named_parameters() if not torch.equal(each, before[name])}
    assert "actor_neck" in moved


def test_now_and_next_change_apart_and_a_seed_repeats_both() -> None:
    made = encoder()
    given = replace(batch(), next_observation=batch().observation)
    (first,) = made.views(given, [ALL], generator(1))
    (again,) = made.views(given, [ALL], generator(1))
    (other,) = made.views(given, [ALL], generator(2))
    assert torch.equal(first.critic, again.critic)
    assert torch.equal(first.next_actor, again.next_actor)
    assert not torch.equal(first.critic, other.critic)
    assert not torch.equal(first.critic, first.next_critic)


def test_svea_shows_critics_each_image_twice() -> None:
    made = encoder(augmentation=AugmentationConfig(shift=0, strong="convolution"))
    (view,) = see(made)
    assert view.repeats == 2
    assert view.critic.shape == (16, 9)
    assert view.actor.shape == view.next_critic.shape == (8, 9)
    torch.testing.assert_close(view.critic[:8], made(batch().observation))
    assert (view.critic[8:] - view.critic[:8]).abs().max() > 1e-3
    assert torch.equal(view.critic[8:, -3:], view.critic[:8, -3:])  # joints are not changed
    assert torch.equal(view.each(torch.arange(8)), torch.arange(8).repeat(2))
    assert torch.equal(view.first(torch.arange(16)), torch.arange(8))


def test_auxiliary_losses_reach_the_eyes() -> None:
    weights = AuxiliaryConfig(taco=1.0, curl=1.0, reward=1.0, consistency=1.0, width=4, hidden=8)
    made = encoder(auxiliary=weights)
    (view,) = see(made)
    assert set(view.metrics) == {f"encoder/{name}" for name in ("taco", "taco_found", "curl", "reward", "consistency")}
    assert learned(made, [view], critic=0.0, actor=0.0) == {"eyes", "neck", "auxiliary"}


def test_cameras_may_share_weights_where_they_are_of_one_size() -> None:
    with pytest.raises(InputError, match="one shape"):
        encoder(cameras="shared")
    twice = {key: ArraySpec(shape=(16, 16, 3), dtype="uint8") for key in ("left", "right")}
    made = PixelEncoder(PixelsConfig(**SMALL, cameras="shared"), replace(SPEC, observation=twice), None, generator())
    assert len(made.eyes.encoders) == 1
    image = observation(4, 0)["front"]
    features = made.eyes({"left": image, "right": image})
    assert torch.equal(features[:, : features.shape[1] // 2], features[:, features.shape[1] // 2 :])


def test_eyes_listen_to_an_observation_and_begin_as_if_there_were_none() -> None:
    deaf, heard = encoder(width=None), encoder(width=None, film="joints")
    seen = observation(4, 0)
    spoken = {**seen, "joints": seen["joints"] + 1}
    visual = heard.eyes.features
    torch.testing.assert_close(heard(seen)[:, :visual], heard(spoken)[:, :visual])  # FiLM begins at nothing
    assert deaf.eyes.features == visual
    optimizers = encoder_adam(heard, 1e-2)
    views = list(heard.views(batch(), (ALL,), generator(5)))
    views[0].critic.square().mean().backward()
    descend_encoder(optimizers, views, learning_rate=1e-2, gradient_clip=None)
    assert float((heard(seen) - heard(spoken))[:, :visual].detach().abs().max()) > 1e-4
    with pytest.raises(InputError, match=r"film=words is no vector among the observations; there are \['joints'\]"):
        encoder(film="words")
