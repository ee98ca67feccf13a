"""The simulated arm without ROS passes the contract of every simulator. That its numbers are those of ROS:
`test_ros_learning.py`."""

import inspect
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from robot_rl.apps.build_environment import build_environment, build_expert
from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.robot_config import Ros2EnvironmentConfig
from robot_rl.seeding import Seeds
from robot_rl.testing.contracts import ENVIRONMENT_CHECKS

ARM = Ros2EnvironmentConfig(
    robot="sim_panda", simulated=True, mode="lockstep", reset="service", transport="none", maximum_steps=15
)


@pytest.mark.parametrize("check", ENVIRONMENT_CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Callable[[], Environment]], None]) -> None:
    if ".render(" in inspect.getsource(check):
        pytest.skip("it draws no pictures, and says so")
    check(lambda: build_environment(ARM))


def test_the_last_commands_are_shown_as_they_were_applied() -> None:
    with closing(build_environment(replace(ARM, action_history=2))) as environment:
        low, high = environment.spec.action.low, environment.spec.action.high
        assert low is not None
        assert high is not None
        size = len(low)
        assert environment.spec.observation["action_history"].shape == (2 * size,)
        for seed in (0, 1):  # the second begins with zeros too
            assert not environment.reset(seed=seed).observation["action_history"].any()
            applied = [environment.step(action).action for action in (0.5 * high, 2 * low, 0.1 * low)]
            step = environment.step(0 * low)
            assert step.action is not None
            assert applied[-1] is not None
            assert applied[-1].any()
            wanted = np.concatenate([applied[-1], step.action]).astype(np.float32)
            assert np.array_equal(step.observation["action_history"], wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "realtime"}, "is a simulated arm in lockstep"),
        ({"simulated": False}, "is a simulated arm in lockstep"),
        ({"reset": "home"}, "environment.reset=service"),
        ({"observation": ["joint_position", "front"]}, "has no cameras"),
        ({"simulation": {"clock_drift": 0.1}}, "there is one clock"),
    ],
)
def test_what_needs_processes_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_environment(replace(ARM, **changes)).close()


def test_the_scripted_policy_reaches_the_target_and_an_operators_stop_ends_the_episode() -> None:
    config = replace(ARM, maximum_steps=60, terminate_on_success=True)
    with closing(build_environment(config)) as environment:
        expert = build_expert(config, environment, 0.0, Seeds(0).numpy("noise"))
        for seed in range(3):
            step = environment.reset(seed=seed)
            while not step.last:
                step = environment.step(expert.act(step.observation))
            assert step.success
        robot: Any = environment
        step = environment.reset(seed=1)
        assert robot.link.trigger("governor/stop") == (True, "")
        while not step.last:
            step = environment.step(expert.act(step.observation))
        assert (step.truncated, step.terminated) == (True, False)
        with pytest.raises(InputError, match="the operator pressed stop"):
            environment.reset(seed=1)
        assert robot.link.trigger("governor/clear") == (True, "")
        environment.reset(seed=1)


def test_an_expert_that_cannot_command_velocities_is_refused() -> None:
    config = replace(ARM, action="delta")
    with (
        closing(build_environment(config)) as environment,
        pytest.raises(InputError, match="action=velocity"),
    ):
        build_expert(config, environment, 0.0, Seeds(0).numpy("noise"))
