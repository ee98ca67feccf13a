"""From images to a policy and back: recorded, trained on, acted on, resumed, by the commands that a person uses."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from robot_rl import checkpoint
from robot_rl.apps import evaluate, train
from robot_rl.apps.compose import compose
from robot_rl.datasets.store import EpisodeStore

REACHER = [
    "environment=reacher_easy",
    "environment.action_repeat=100",  # ten steps an episode
    "environment.cameras=[fixed]",
    "environment.image_size=32",
    "environment.render_size=32",
]
SMALL = [
    "algorithm.actor_hidden=[8]",
    "algorithm.critic_hidden=[8]",
    "algorithm.pixels.encoder.channels=[4,4]",
    "algorithm.pixels.encoder.kernels=[3,3]",
    "algorithm.pixels.encoder.strides=[2,2]",
    "algorithm.pixels.width=8",
    "replay.frame_stack=3",
    "evaluation.episodes=1",
    "evaluation.final_episodes=1",
    "evaluation.videos=1",
    "log_every=5",
    "checkpoint_every_s=0.0",
    "+phases.offline={steps:3,batch_size:8}",
    "+phases.online={interact:policy,steps:25,batch_size:8,shares:{offline:0.5,online:0.5}}",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("data") / "random.zarr"
    evaluate.run(compose("evaluate", ["policy=random", *REACHER, "episodes=2", f"record={path}"]))
    return path


def words(store: Path, folder: Path, *more: str) -> list[str]:
    data = f"+datasets.offline={{path:{store}}}"
    return [*REACHER, "environment.numbers=[velocity]", "algorithm=sac", *SMALL, data, f"output={folder}", *more]


def final_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.checkpoints(folder / "checkpoints")[-1])[0]


def test_images_are_recorded_learned_from_acted_on_and_resumed(store: Path, tmp_path: Path) -> None:
    spec = EpisodeStore.open(store).spec
    assert spec.observation["fixed_image"].is_image
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert train.run(compose("train", words(store, whole))) == 0
    tensors = final_tensors(whole)
    images = tensors["replay.observation.fixed_image"]
    assert images.dtype == torch.uint8
    assert images.shape[1:] == (32, 32, 3)  # one frame a row, whatever the stack
    assert not any("position" in key for key in tensors)  # numbers=[velocity] left it out, though the data has it

    # As if the process had been killed between the last two checkpoints.
    shutil.copytree(whole, resumed)
    shutil.rmtree(checkpoint.checkpoints(resumed / "checkpoints")[-1])
    assert train.run(compose("train", words(store, resumed, "resume=true"))) == 0
    again = final_tensors(resumed)
    assert tensors.keys() == again.keys()
    assert all(torch.equal(value, again[key]) for key, value in tensors.items())

    found = tmp_path / "evaluated"
    assert evaluate.run(compose("evaluate", [f"run={whole}", "episodes=1", f"output={found}"])) == 0


def test_images_that_stay_on_the_disk_give_the_same_run(store: Path, tmp_path: Path) -> None:
    runs = []
    for images in ("mapped", "memory"):
        folder = tmp_path / images
        data = [f"datasets.offline.images={images}", "evaluation.videos=0", "phases.online.steps=5"]
        assert train.run(compose("train", words(store, folder, *data))) == 0
        runs.append(final_tensors(folder))
    assert all(torch.equal(value, runs[1][key]) for key, value in runs[0].items())
