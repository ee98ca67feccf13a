"""From an environment's configuration to the environment and, where there is one, its scripted expert.

The simulators are imported only when one of theirs is asked for: each takes time, and some set environment variables.
"""

import os
from dataclasses import replace
from typing import Any

import numpy as np

from robot_rl.config import (
    DmControlEnvironmentConfig,
    EvaluationConfig,
    GymnasiumEnvironmentConfig,
    RobosuiteEnvironmentConfig,
)
from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.hardware.description import load
from robot_rl.hardware.reach_expert import ReachExpert
from robot_rl.robot_config import Ros2EnvironmentConfig
from robot_rl.sim.action_history import ActionHistory
from robot_rl.sim.experts import FetchPickAndPlaceExpert, LiftExpert, NoisyPolicy, StackExpert
from robot_rl.sim.gap import NOMINAL
from robot_rl.sim.randomization import read_randomization
from robot_rl.sim.task_id import TaskId
from robot_rl.sim_config import RandomizationConfig, SimulatedConfig
from robot_rl.spec import Spec
from robot_rl.types import Policy

EXPERTS = (
    "robosuite Lift and Stack (environment=lift, stack), FetchPickAndPlace (environment=fetch_pick_and_place), and the "
    "simulated arm (environment=arm, ros2_simulated)"
)


def build_environment(config: Any, *, training: bool = False) -> Environment:
    """The environment of a configuration, with its gap, and in training with its randomisation.

    Args:
        config: of the environment.
        training: draw what `environment.randomization` says; evaluation and recording never do.

    Raises:
        InputError: a task, id, controller or argument that the simulator does not know, a gap without effect, or MuJoCo
            does not import.
    """
    if isinstance(config, Ros2EnvironmentConfig):
        from robot_rl.apps.build_robot import build_robot

        return build_robot(config)
    _need_mujoco()
    simulator = _build_simulator(config)
    try:
        return _with_gap(simulator, config, training=training)
    except InputError:
        simulator.close()
        raise


def on_robot(config: Any, evaluation: EvaluationConfig) -> Any:
    """The configuration of an environment with the robot of `evaluation` in place of its own; without one as it is."""
    if evaluation.robot is None:
        return config
    if not isinstance(config, SimulatedConfig):
        raise InputError(f"{evaluation.robot} differs from a simulator, and the environment is a robot: drop it")
    return replace(config, proxy=evaluation.proxy, gap=evaluation.gap, randomization=RandomizationConfig())


def _with_gap(simulator: Any, config: SimulatedConfig, *, training: bool) -> Environment:
    environment: Environment = simulator
    asked, drawn = config.gap.values(), config.randomization
    randomization = None
    if drawn.fields:  # read for evaluation, too: a mistake in it is to be told at once
        randomization = read_randomization(drawn.fields, drawn.curriculum_steps, drawn.curriculum_start)
    elif drawn.curriculum_steps:
        raise InputError("environment.randomization.curriculum_steps is set, but no fields: there is nothing to grow")
    randomization = randomization if training else None
    if config.proxy is not None or asked or randomization is not None:
        from robot_rl.sim.gap_env import GapEnvironment
        from robot_rl.sim.proxy import family_of, proxy_gap

        gap = NOMINAL if config.proxy is None else proxy_gap(config.proxy, family_of(simulator.spec))
        environment = GapEnvironment(
            simulator,
            gap.with_values(asked),
            randomization=randomization,
            proxy=config.proxy,
            asked=tuple(asked),
        )
    if config.cameras:
        from robot_rl.sim.cameras import CameraEnvironment

        hidden: tuple[int, ...] = ()
        if isinstance(config, RobosuiteEnvironmentConfig):
            from robot_rl.sim.robosuite_env import COLLISION_GROUP

            hidden = (COLLISION_GROUP,)
        decorate = None
        if config.looks.drawn:
            from robot_rl.sim.looks import LookEnvironment

            dressed = LookEnvironment(environment, simulator, config.looks, hidden_geometry_groups=hidden)
            environment, decorate = dressed, dressed.decorate
        environment = CameraEnvironment(
            environment,
            simulator,
            cameras=config.cameras,
            size=config.image_size,
            numbers=config.numbers,
            hidden_geometry_groups=hidden,
            decorate=decorate,
        )
    if config.action_history > 0:
        environment = ActionHistory(environment, config.action_history)
    if config.adversary.bodies:
        from robot_rl.sim.adversary import AdversaryEnvironment

        environment = AdversaryEnvironment(
            environment,
            simulator,
            bodies=config.adversary.bodies,
            maximum_force_n=config.adversary.maximum_force_n,
        )
    if config.task_id is not None:
        environment = TaskId(environment, *config.task_id)
    return environment


def _build_simulator(config: Any) -> Any:
    match config:
        case GymnasiumEnvironmentConfig():
            from robot_rl.sim.gymnasium_env import GymnasiumEnvironment

            return GymnasiumEnvironment(
                id=config.id,
                arguments=config.arguments,
                maximum_steps=config.maximum_steps,
                success=config.success,
                terminate_on_success=config.terminate_on_success,
                success_reward=config.success_reward,
                render_size=config.render_size,
            )
        case DmControlEnvironmentConfig():
            from robot_rl.sim.dm_control_env import DmControlEnvironment

            return DmControlEnvironment(
                domain=config.domain,
                task=config.task,
                action_repeat=config.action_repeat,
                success_threshold=config.success_threshold,
                render_size=config.render_size,
            )
        case RobosuiteEnvironmentConfig():
            from robot_rl.sim.robosuite_env import RobosuiteEnvironment

            return RobosuiteEnvironment(
                task=config.task,
                robot=config.robot,
                controller=config.controller,
                control_frequency_hz=config.control_frequency_hz,
                maximum_steps=config.maximum_steps,
                observation=config.observation,
                reward_shaping=config.reward_shaping,
                terminate_on_success=config.terminate_on_success,
                success_reward=config.success_reward,
                render_size=config.render_size,
                camera=config.camera,
                placement_m=config.placement_m,
            )
        case _:
            raise InputError(f"environment has no known schema ({type(config).__name__}): name one, environment=lift")


def _need_mujoco() -> None:
    try:
        import mujoco  # noqa: F401  # its import picks the renderer that MUJOCO_GL names, and fails if it is not there
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise InputError(
            f"mujoco cannot be imported with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')} ({error}): unset MUJOCO_GL or "
            "set MUJOCO_GL=egl; `robot-rl doctor` says which renderers work here, and how to install the others"
        ) from error


def robomimic_arguments(config: Any, spec: Spec) -> dict[str, Any]:
    """robomimic's `env_args` of an environment: what its `EnvRobosuite` (type 1) or `EnvGym` (type 2) makes it from.

    A dm_control task gets the id that it has in gymnasium with shimmy.

    Args:
        config: of the environment.
        spec: of the environment built from it.
    """
    env_args: dict[str, Any]
    match config:
        case RobosuiteEnvironmentConfig():
            from robot_rl.sim.robosuite_env import task_arguments

            settings = (config.robot, config.controller, config.control_frequency_hz, config.reward_shaping)
            env_args = {"env_name": config.task, "type": 1, "env_kwargs": task_arguments(*settings)}
            env_args["env_kwargs"]["robots"] = [config.robot]
            if config.placement_m is not None:  # no argument of robosuite: told beside them
                env_args["placement_m"] = config.placement_m
        case GymnasiumEnvironmentConfig():
            env_args = {"env_name": config.id, "type": 2, "env_kwargs": dict(config.arguments)}
        case DmControlEnvironmentConfig():
            env_args = {"env_name": f"dm_control/{config.domain}-{config.task}-v0", "type": 2, "env_kwargs": {}}
        case Ros2EnvironmentConfig():
            raise InputError("robomimic's layout knows no robots: record into a store, such as record=data/robot.zarr")
        case _:
            raise InputError(f"environment has no known schema ({type(config).__name__}): name one, environment=lift")
    return env_args | {"env_version": spec.metadata["libraries"][spec.metadata["simulator"]]}


def build_expert(config: Any, environment: Environment, noise: float, generator: np.random.Generator) -> Policy:
    """The scripted expert of an environment.

    Args:
        config: of the environment.
        environment: built from it.
        noise: deviation of Gaussian noise on the normalised action; 0.0 adds none.
        generator: of the noise.

    Raises:
        InputError: the environment has no expert; lists those that have.
    """
    expert: Policy
    match config:
        case RobosuiteEnvironmentConfig(task="Lift"):
            expert = LiftExpert(environment.spec)
        case RobosuiteEnvironmentConfig(task="Stack"):
            expert = StackExpert(environment.spec)
        case GymnasiumEnvironmentConfig() if config.id.startswith("FetchPickAndPlace"):
            expert = FetchPickAndPlaceExpert(environment.spec)
        case Ros2EnvironmentConfig(simulated=True):
            expert = ReachExpert(load(config.robot), environment.spec)
        case _:
            raise InputError(f"no scripted expert for this environment. There are experts for {EXPERTS}")
    if noise < 0:
        raise InputError(f"expert_noise={noise} must not be negative")
    return expert if noise == 0 else NoisyPolicy(expert, environment.spec.action, noise, generator)
