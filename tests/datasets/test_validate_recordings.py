"""The checks on real recordings: what is wrong is found, and no wolf is cried."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robot_rl.datasets.frames import as_array, lazy
from robot_rl.datasets.ingest.base import ReadOptions
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.datasets.schema import Finding
from robot_rl.datasets.validation.alignment import ActionFacts, image_lag
from robot_rl.datasets.validation.facts import vectors
from robot_rl.datasets.validation.numbers import NumberFacts
from robot_rl.datasets.validation.pictures import PictureFacts
from robot_rl.datasets.validation.quaternions import QuaternionFacts
from robot_rl.spec import Spec
from robot_rl.types import Episode


def read(path: Path) -> tuple[Spec, list[Episode]]:
    with find_reader(path).open(path, ReadOptions()) as recording:
        return recording.spec, list(recording.episodes())


def numbers(spec: Spec, episodes: list[Episode]) -> list[Finding]:
    """What the checks of numbers, quaternions and offsets of actions say; nothing is decoded."""
    found = []
    for facts in (NumberFacts(spec, "s"), QuaternionFacts(spec, "s"), ActionFacts(spec, len(episodes))):
        for index, episode in enumerate(episodes):
            kept = {key: episode.observation[key] for key in vectors(spec)}
            facts.add(index, replace(episode, observation=kept))
        found += facts.findings()
    return found


def told(path: Path) -> str:
    return "\n".join(f"{f.severity} {f.place}: {f.text}" for f in numbers(*read(path)))


def test_a_unit_vector_beside_a_small_number_is_no_quaternion(shared_data: Path) -> None:
    assert "quaternion" not in told(shared_data / "adroit_human" / "pen_human.hdf5")


def test_the_door_exceeds_its_bounds(shared_data: Path) -> None:
    found = told(shared_data / "adroit_human" / "door-v0_demos.pickle")
    assert "warning action: 5.6% of the numbers lie outside the bounds, by up to 0.366" in found


def test_an_arm_that_never_moves(shared_data: Path) -> None:
    found = told(shared_data / "lerobot" / "so101_pick_and_place_v30")
    assert "warning observation 'state': none of its 6 channels ever changes" in found
    assert "warning action: none of its 6 channels ever changes" in found


def test_robots_that_follow_their_commands(shared_data: Path) -> None:
    lerobot = shared_data / "lerobot"
    g1 = told(lerobot / "g1_inspire_bottle_v21_lowdim_original")
    assert "information action: actions are positions: 'state' follows them within 9 steps, in 17 of the 26" in g1
    reachy = told(lerobot / "reachy2_apple_storage_v30_lowdim")
    assert "information action: actions are positions: 'state' follows them within 2 steps, in 17 of the 18" in reachy


def shifted(episodes: list[Episode], key: str, steps: int) -> Iterator[Episode]:
    """With pictures that come so many steps late."""
    for episode in episodes:
        frames = lazy(episode.observation[key])
        assert frames is not None
        late = as_array(frames.select(np.clip(np.arange(len(frames)) - steps, 0, len(frames) - 1)))
        yield replace(episode, observation={**episode.observation, key: late})


@pytest.mark.slow  # decodes 4,096 frames, twice
def test_a_lag_is_told_of_a_real_robot_only_where_there_is_one(shared_data: Path) -> None:
    spec, episodes = read(shared_data / "lerobot" / "g1_inspire_bottle_v21")

    def lag(steps: int) -> list[Finding]:
        facts = PictureFacts(spec, "s", len(episodes))
        (camera,) = facts.cameras.values()
        for index, episode in enumerate(shifted(episodes, camera.key, steps)):
            facts.add(index, episode)
        return image_lag(camera, spec.control_period_s)

    assert lag(0) == []
    (finding,) = lag(-7)
    assert "ahead of the state" in finding.text
