"""Images as observations: every simulator shows them, bytes, deterministic, under the environment contract."""

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
import pytest

from robot_rl.apps.build_environment import build_environment
from robot_rl.config import DmControlEnvironmentConfig, GymnasiumEnvironmentConfig, RobosuiteEnvironmentConfig
from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.sim.rendering import Renderer
from robot_rl.testing.contracts import ENVIRONMENT_CHECKS


def reacher(**settings: Any) -> Any:
    return DmControlEnvironmentConfig(
        domain="reacher", task="easy", action_repeat=50, cameras=["fixed"], image_size=32, render_size=32, **settings
    )


def lift(**settings: Any) -> Any:
    cameras = ["agentview", "robot0_eye_in_hand"]
    return RobosuiteEnvironmentConfig(
        task="Lift", maximum_steps=5, cameras=cameras, image_size=32, render_size=32, **settings
    )


def kitchen() -> Any:
    return GymnasiumEnvironmentConfig(
        id="FrankaKitchen-v1", maximum_steps=5, cameras=["-1"], image_size=32, render_size=32
    )


@pytest.mark.parametrize("check", ENVIRONMENT_CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Callable[[], Environment]], None]) -> None:
    check(lambda: build_environment(reacher(numbers=["position"])))


def test_images_are_bytes_that_show_what_moves() -> None:
    environment = build_environment(lift())
    try:
        assert list(environment.spec.observation)[-2:] == ["agentview_image", "robot0_eye_in_hand_image"]
        assert all(environment.spec.observation[key].is_image for key in list(environment.spec.observation)[-2:])
        first = environment.reset(seed=0).observation
        after = first
        for _ in range(3):
            after = environment.step(environment.spec.action.high).observation
        for key in ("agentview_image", "robot0_eye_in_hand_image"):
            assert first[key].dtype == np.uint8
            assert first[key].shape == (32, 32, 3)
            assert first[key].std() > 10
            assert (first[key] != after[key]).any()
        assert environment.render().shape == (32, 32, 3)
    finally:
        environment.close()


def test_images_may_be_all_that_is_seen() -> None:
    environment = build_environment(reacher(numbers=[]))
    assert list(environment.spec.observation) == ["fixed_image"]
    environment.close()


def test_a_model_built_anew_is_the_one_that_is_seen() -> None:
    environment = build_environment(kitchen())
    try:
        images = [environment.reset(seed=0).observation["-1_image"] for _ in range(2)]
        np.testing.assert_array_equal(images[0], images[1])
    finally:
        environment.close()


def test_reflections_are_drawn_where_they_can_be_seen() -> None:
    def frame(reflectance: float) -> Any:
        model = mujoco.MjModel.from_xml_string(
            f"""<mujoco><asset><material name="floor" reflectance="{reflectance}" rgba=".2 .2 .2 1"/></asset>
            <worldbody><geom type="plane" size="2 2 .1" material="floor"/><light pos="0 0 3"/>
            <geom type="sphere" size=".2" pos="0 0 .3" rgba="1 0 0 1"/></worldbody></mujoco>"""
        )
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        renderer = Renderer(model, data, 32)
        try:
            return renderer.render()
        finally:
            renderer.close()

    assert np.array_equal(frame(0.01), frame(0.0))
    assert not np.array_equal(frame(0.5), frame(0.0))


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="no camera 'fixd'"):
        build_environment(DmControlEnvironmentConfig(domain="reacher", task="easy", cameras=["fixd"]))
    with pytest.raises(InputError, match=r"environment.numbers names 'positions'"):
        build_environment(reacher(numbers=["positions"]))
    with pytest.raises(InputError, match=r"needs environment.cameras"):
        DmControlEnvironmentConfig(domain="reacher", task="easy", numbers=[])
