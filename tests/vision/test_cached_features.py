"""A frozen transformer whose features replay keeps: each image is encoded once, and the numbers are the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from vit_files import dinov2_tensors

from robot_rl.algorithms import SACConfig, create
from robot_rl.apps.pixels import encoder_weights, keep_frozen_features, without_initial_weights
from robot_rl.errors import InputError
from robot_rl.networks.vision.augmentation import AugmentationConfig
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.observation import PixelsConfig
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.seeding import Seeds
from robot_rl.spec import ArraySpec, Spec
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform
from robot_rl.types import Array, Episode, TimeStep

BOUND = np.ones(2)
SPEC = Spec(
    observation={"camera": ArraySpec(shape=(20, 20, 3), dtype="uint8"), "joints": ArraySpec(shape=(2,))},
    action=ArraySpec(shape=(2,), low=-BOUND, high=BOUND),
)
FRAMES = 2
OFF = AugmentationConfig(shift=0)


def config(path: Path, **settings: Any) -> SACConfig:
    encoder = VisionConfig(kind="vit", weights=str(path), resize=28, pixels="imagenet")
    pixels = PixelsConfig(encoder=encoder, augmentation=OFF, width=6, **settings)
    return SACConfig(actor_hidden=[8], critic_hidden=[8], pixels=pixels)


def observed(generator: np.random.Generator, rows: int) -> dict[str, Array]:
    images = generator.integers(0, 256, (rows, 20, 20, 3), np.uint8)
    return {"camera": images, "joints": generator.normal(size=(rows, 2)).astype(np.float32)}


def filled(agent: Any) -> ReplayBuffer:
    """One recorded episode from before, one running one from after replay begins to keep features."""
    generator = np.random.default_rng(0)
    buffer = ReplayBuffer(
        SPEC,
        capacity=30,
        scale=ActionScale.from_spec(SPEC.action),
        reward=RewardTransform(),
        discount=0.9,
        frame_stack=FRAMES,
    )
    steps = 5
    buffer.append(
        Episode(
            observation=observed(generator, steps + 1),
            action=generator.uniform(-1, 1, (steps, 2)),
            reward=generator.normal(size=steps).astype(np.float32),
            terminated=np.zeros(steps, bool),
            truncated=np.arange(steps) == steps - 1,
        )
    )
    keep_frozen_features(agent, buffer)
    rows = observed(generator, steps + 1)
    buffer.begin({key: values[0] for key, values in rows.items()})
    for step in range(1, steps + 1):
        seen = {key: values[step] for key, values in rows.items()}
        buffer.add(TimeStep(observation=seen, action=np.zeros(2), reward=1.0, truncated=step == steps))
    return buffer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "dinov2.safetensors"
    save_file(dinov2_tensors(), file)
    return file


def test_an_agent_learns_and_acts_as_from_the_images(path: Path) -> None:
    agents, buffers = [], []
    for cache in (False, True):
        agent = create(config(path, cache=cache), SPEC.stacked(FRAMES), Seeds(0), torch.device("cpu"), None)
        agents.append(agent)
        buffers.append(filled(agent))
    images, features = (each.observation["camera"] for each in buffers)
    assert isinstance(images, torch.Tensor)
    assert isinstance(features, torch.Tensor)
    assert (images.dtype, images.shape) == (torch.uint8, (30, 20, 20, 3))
    assert (features.dtype, features.shape) == (torch.float32, (30, 12))
    for _ in range(2):
        for agent, buffer in zip(agents, buffers, strict=True):
            agent.update(buffer.sample(8, torch.Generator().manual_seed(1)))
    for name, value in agents[0].encoder.state_dict().items():  # type: ignore[attr-defined]  # an agent of ours
        torch.testing.assert_close(agents[1].encoder.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)  # type: ignore[attr-defined]
    shown = {"camera": torch.randint(0, 256, (3, FRAMES, 20, 20, 3), dtype=torch.uint8), "joints": torch.zeros(3, 2)}
    torch.testing.assert_close(*(each.act(shown, explore=False) for each in agents), rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_features_is_restored(path: Path) -> None:
    agent = create(config(path, cache=True), SPEC.stacked(FRAMES), Seeds(0), torch.device("cpu"), None)
    buffer = filled(agent)
    again = ReplayBuffer(
        SPEC,
        capacity=30,
        scale=ActionScale.from_spec(SPEC.action),
        reward=RewardTransform(),
        discount=0.9,
        frame_stack=FRAMES,
    )
    keep_frozen_features(agent, again)
    again.restore(*buffer.state())
    rows = torch.arange(4)
    assert torch.equal(buffer.gather(rows).observation["camera"], again.gather(rows).observation["camera"])


def test_the_frozen_weights_do_not_learn_and_their_file_is_known(path: Path) -> None:
    agent: Any = create(config(path), SPEC, Seeds(0), torch.device("cpu"), None)
    (facts,) = encoder_weights(agent)
    assert facts["path"] == str(path)
    assert len(facts["sha256"]) == 64
    learning = {id(each) for group in agent.optimizers["encoder"].param_groups for each in group["params"]}
    assert not any(id(each) in learning for each in agent.encoder.eyes.parameters())


def test_settings_that_cannot_be_are_refused(path: Path) -> None:
    encoder = VisionConfig(kind="vit", weights=str(path))
    with pytest.raises(InputError, match=r"augmentation\.shift=0"):
        PixelsConfig(encoder=encoder, cache=True)
    with pytest.raises(InputError, match=r"encoder\.kind=vit"):
        PixelsConfig(cache=True, augmentation=OFF)
    with pytest.raises(InputError, match="actor=neck"):
        PixelsConfig(encoder=encoder, actor="eyes")


def test_a_checkpoint_needs_no_file_of_what_an_encoder_began_with(path: Path) -> None:
    began = SACConfig(pixels=PixelsConfig(encoder=VisionConfig(weights="gone.safetensors")))
    assert without_initial_weights(began).pixels.encoder.weights is None
    frozen = config(path)
    assert without_initial_weights(frozen) is frozen
