"""Every environment passes the same suite."""

from collections.abc import Callable

import pytest

from robot_rl.environment import Environment
from robot_rl.sim.dm_control_env import DmControlEnvironment
from robot_rl.sim.gymnasium_env import GymnasiumEnvironment
from robot_rl.sim.robosuite_env import RobosuiteEnvironment
from robot_rl.testing.contracts import ENVIRONMENT_CHECKS, Make
from robot_rl.testing.fakes import OneJointEnvironment

SIZE = 64  # of frames: a software renderer takes a while

FACTORIES: dict[str, Make] = {
    "one_joint": OneJointEnvironment,
    "half_cheetah": lambda: GymnasiumEnvironment(id="HalfCheetah-v5", render_size=SIZE),
    "hopper": lambda: GymnasiumEnvironment(id="Hopper-v5", render_size=SIZE),
    "adroit_door": lambda: GymnasiumEnvironment(id="AdroitHandDoor-v1", success="success", render_size=SIZE),
    "adroit_pen_binary": lambda: GymnasiumEnvironment(
        id="AdroitHandPen-v1",
        maximum_steps=100,
        success="success",
        success_reward=[-1.0, 0.0],
        terminate_on_success=True,
        render_size=SIZE,
    ),
    "kitchen": lambda: GymnasiumEnvironment(
        id="FrankaKitchen-v1",
        maximum_steps=60,
        arguments={"tasks_to_complete": ["microwave", "kettle"]},
        success="tasks_to_complete",
        render_size=SIZE,
    ),
    "fetch_push": lambda: GymnasiumEnvironment(id="FetchPush-v4", success="is_success", render_size=SIZE),
    "fetch_pick_and_place": lambda: GymnasiumEnvironment(
        id="FetchPickAndPlace-v4", success="is_success", render_size=SIZE
    ),
    "cartpole": lambda: DmControlEnvironment(domain="cartpole", task="swingup", render_size=SIZE),
    "reacher": lambda: DmControlEnvironment(
        domain="reacher", task="easy", action_repeat=4, success_threshold=0.5, render_size=SIZE
    ),
    "finger": lambda: DmControlEnvironment(domain="finger", task="turn_hard", action_repeat=2, render_size=SIZE),
    "manipulator": lambda: DmControlEnvironment(domain="manipulator", task="bring_ball", render_size=SIZE),
    "lift": lambda: RobosuiteEnvironment(task="Lift", maximum_steps=40, render_size=SIZE),
    "robosuite_door": lambda: RobosuiteEnvironment(
        task="Door", controller="OSC_POSITION", maximum_steps=40, render_size=SIZE
    ),
}


@pytest.mark.parametrize("check", ENVIRONMENT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FACTORIES)
def test_contract(name: str, check: Callable[[Callable[[], Environment]], None]) -> None:
    check(FACTORIES[name])
