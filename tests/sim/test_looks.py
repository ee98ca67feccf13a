"""Looks: drawn from the seed of an episode, without a hand in what moves."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
import pytest

from robot_rl.apps.build_environment import build_environment
from robot_rl.apps.compose import compose
from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.sim.looks import colours_of, robot_bodies, set_colour
from robot_rl.sim_config import LooksConfig
from robot_rl.types import Array

IMAGE = "0_image"
ALL = LooksConfig(
    camera_shift=0.05, camera_scale=0.1, background=1.0, objects=0.8, robot=0.8, lights=0.3, distractors=6
)
MODEL = """
<mujoco>
  <asset><material name="steel" rgba="0.2 0.4 0.6 1"/></asset>
  <worldbody>
    <geom name="floor" type="plane" size="1 1 0.1"/>
    <body name="robot0_base"><geom size="0.1" material="steel"/>
      <body name="link1"><joint/><geom size="0.1"/></body></body>
    <body name="cube"><freejoint/><geom type="box" size="0.1 0.1 0.1"/></body>
  </worldbody>
</mujoco>
"""


def built(looks: LooksConfig) -> Environment:
    words = ["environment=cartpole_swingup", "environment.cameras=['0']", "environment.image_size=32"]
    config = compose("evaluate", words).environment
    return build_environment(replace(config, looks=looks))


@pytest.fixture(scope="module")
def dressed() -> Iterator[Environment]:
    environment = built(ALL)
    yield environment
    environment.close()


def picture(environment: Environment, seed: int) -> Array:
    return environment.reset(seed=seed).observation[IMAGE]


def test_an_episode_looks_as_its_seed_says(dressed: Environment) -> None:
    first, second, again = picture(dressed, 1), picture(dressed, 2), picture(dressed, 1)
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - second.astype(int)).mean() > 10


def test_a_look_stays_through_the_episode(dressed: Environment) -> None:
    before = picture(dressed, 3).astype(int)
    step = dressed.step(np.zeros(dressed.spec.action.shape))
    assert np.abs(step.observation[IMAGE].astype(int) - before).mean() < 5


def test_looks_change_nothing_that_moves(dressed: Environment) -> None:
    plain = built(LooksConfig())
    steps = [environment.reset(seed=5) for environment in (plain, dressed)]
    for number in range(20):
        for key in plain.spec.observation:
            if key != IMAGE:
                assert np.array_equal(steps[0].observation[key], steps[1].observation[key])
        action = np.full(plain.spec.action.shape, np.sin(number))
        steps = [environment.step(action) for environment in (plain, dressed)]
    assert not np.array_equal(steps[0].observation[IMAGE], steps[1].observation[IMAGE])
    plain.close()


@pytest.mark.parametrize(
    "looks",
    [
        {"camera_shift": 0.2},
        {"camera_scale": 0.3},
        {"background": 1.0},
        {"objects": 1.0},
        {"lights": 0.9},
        {"distractors": 40},
    ],
)
def test_every_part_of_a_look_is_seen(looks: dict[str, Any]) -> None:
    plain, changed = built(LooksConfig()), built(LooksConfig(**looks))
    differences = [np.abs(picture(plain, seed).astype(int) - picture(changed, seed)).max() for seed in range(3)]
    plain.close()
    changed.close()
    assert max(differences) > 3


def test_another_family_looks_otherwise() -> None:
    one, other = built(ALL), built(replace(ALL, family="unseen"))
    assert not np.array_equal(picture(one, 1), picture(other, 1))
    one.close()
    other.close()


def test_the_robot_is_known_by_its_names_and_what_hangs_on_it() -> None:
    model: Any = mujoco.MjModel.from_xml_string(MODEL)
    names = {model.body(body).name for body in robot_bodies(model)}
    assert names == {"robot0_base", "link1"}


def test_a_plain_colour_takes_the_place_of_a_material() -> None:
    model: Any = mujoco.MjModel.from_xml_string(MODEL)
    assert colours_of(model)[1] == pytest.approx([0.2, 0.4, 0.6])
    set_colour(model, 1, np.array([1.0, 0.0, 0.5]))
    assert colours_of(model)[1] == pytest.approx([1.0, 0.0, 0.5])
    assert int(model.geom_matid[1]) == -1
    assert float(model.geom_rgba[1, 3]) == 1.0


def test_a_texture_counts_with_its_mean_colour() -> None:
    texture = (
        '<texture name="wood" type="2d" builtin="checker" rgb1="0.8 0.4 0" rgb2="0.4 0 0" width="64" height="64"/>'
    )
    wooden = texture + '<material name="steel" texture="wood" rgba="0.5 1 1 1"/>'
    model: Any = mujoco.MjModel.from_xml_string(MODEL.replace('<material name="steel" rgba="0.2 0.4 0.6 1"/>', wooden))
    assert colours_of(model)[1] == pytest.approx([0.3, 0.2, 0.0], abs=0.01)
    assert colours_of(model)[0] == pytest.approx(model.geom_rgba[0, :3])


def test_looks_without_a_camera_and_amounts_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match=r"needs environment\.cameras"):
        compose("evaluate", ["environment=cartpole_swingup", "environment.looks.background=1.0"])
    with pytest.raises(InputError, match=r"looks\.lights"):
        LooksConfig(lights=2.0)
    with pytest.raises(InputError, match=r"looks\.distractors"):
        LooksConfig(distractors=-1)
