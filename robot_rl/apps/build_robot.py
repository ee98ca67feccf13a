"""From the configuration of a robot behind ROS 2 to its environment; starts the simulated robot where there is none."""

import os
from dataclasses import fields

from rich.console import Console

from robot_rl.environment import Environment
from robot_rl.errors import InputError, nearest
from robot_rl.hardware import ros
from robot_rl.hardware.description import Robot, load
from robot_rl.hardware.direct import Direct
from robot_rl.hardware.environment import EnvironmentSettings, RosEnvironment
from robot_rl.hardware.mujoco_arm import ArmSettings
from robot_rl.hardware.person import Terminal
from robot_rl.robot_config import Ros2EnvironmentConfig


def build_robot(config: Ros2EnvironmentConfig) -> Environment:
    """The environment of a robot.

    Raises:
        InputError: there is no ROS 2, or a setting that the robot's description does not fit.
    """
    robot = load(config.robot)
    console = Console(stderr=True)
    if config.transport == "none":
        return _direct(robot, config)
    if config.simulated:
        from robot_rl.hardware.launch import SimulatedRobot

        settings = _arm_settings(config)
        started = SimulatedRobot(robot.file, settings, os.environ, in_lockstep=config.mode == "lockstep")
        domain_id, check, close = started.domain_id, started.check, started.close
    else:
        domain_id, check, close = _domain(config), _nothing, _nothing
    try:
        ros.adopt(os.environ, domain_id=domain_id, profile=ros.PROFILE if config.transport == "loopback" else None)
        return RosEnvironment(
            robot,
            _settings(config),
            domain_id=domain_id,
            check=check,
            close=close,
            tell=lambda text: console.print(text, markup=False),
            terminal=Terminal() if config.simulated else None,
        )
    except BaseException:
        close()
        raise


def _direct(robot: Robot, config: Ros2EnvironmentConfig) -> Environment:
    settings = _arm_settings(config)
    return RosEnvironment(robot, _settings(config), domain_id=0, connect=lambda heard: Direct(robot, settings, heard))


def _arm_settings(config: Ros2EnvironmentConfig) -> ArmSettings:
    known = {field.name for field in fields(ArmSettings)}
    for name in config.simulation:
        if name not in known:
            raise InputError(f"environment.simulation has no '{name}': {nearest(name, known)}")
    return ArmSettings(**config.simulation)


def _settings(config: Ros2EnvironmentConfig) -> EnvironmentSettings:
    return EnvironmentSettings(
        mode=config.mode,
        action=config.action,
        speed_scale=config.speed_scale,
        observation=config.observation,
        image_size=config.image_size,
        action_history=config.action_history,
        maximum_steps=config.maximum_steps,
        terminate_on_success=config.terminate_on_success,
        success_reward=config.success_reward,
        reset=config.reset,
        patience_s=config.patience_s,
        person_patience_s=config.person_patience_s,
    )


def _domain(config: Ros2EnvironmentConfig) -> int:
    if config.domain_id is not None:
        return config.domain_id
    text = os.environ.get("ROS_DOMAIN_ID", "0")
    if not text.isdigit():
        raise InputError(f"ROS_DOMAIN_ID={text} is no number: set it, or environment.domain_id")
    return int(text)


def _nothing() -> None:
    return None
