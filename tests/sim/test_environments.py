"""What the contract cannot ask of every environment: ends, success, settings that are refused."""

import json
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np
import pytest

from robot_rl.apps.build_environment import build_environment, build_expert, robomimic_arguments
from robot_rl.config import DmControlEnvironmentConfig, GymnasiumEnvironmentConfig, RobosuiteEnvironmentConfig
from robot_rl.datasets.ingest.robomimic_hdf5 import action_semantics
from robot_rl.errors import InputError
from robot_rl.sim.dm_control_env import DmControlEnvironment
from robot_rl.sim.episode import EpisodeRules
from robot_rl.sim.experts import LiftExpert
from robot_rl.sim.gymnasium_env import GymnasiumEnvironment
from robot_rl.sim.robosuite_env import SEMANTICS, RobosuiteEnvironment, import_robosuite, quiet, task_arguments
from robot_rl.spec import Spec
from robot_rl.testing.fakes import OneJointEnvironment, OneJointExpert
from robot_rl.types import TimeStep


def finish(rules: EpisodeRules, success: bool | None, terminated: bool = False) -> TimeStep:
    """One step of an episode in which nothing else happens."""
    return rules.finish_step(
        observation={}, reward=0.5, terminated=terminated, truncated=False, success=success, action=np.zeros(1)
    )


def test_a_success_on_the_last_step_is_a_termination_and_a_truncation() -> None:
    rules = EpisodeRules(maximum_steps=2, terminate_on_success=True)
    rules.begin({})
    assert not finish(rules, success=False).last
    last = finish(rules, success=True)
    assert (last.terminated, last.truncated) == (True, True)


def test_success_does_not_end_an_episode_that_was_not_told_so() -> None:
    rules = EpisodeRules(maximum_steps=5)
    rules.begin({})
    step = finish(rules, success=True)
    assert step.success
    assert not step.last
    assert step.reward == 0.5


def test_a_success_reward_replaces_the_native_one() -> None:
    rules = EpisodeRules(maximum_steps=5, success_reward=[-1.0, 0.0])
    rules.begin({})
    assert [finish(rules, success=success).reward for success in (False, True)] == [-1.0, 0.0]


def test_a_success_reward_is_two_numbers() -> None:
    with pytest.raises(InputError, match="two numbers"):
        EpisodeRules(maximum_steps=5, success_reward=[1.0])


def test_lift_on_its_last_step_is_terminated_and_truncated() -> None:
    def run(maximum_steps: int) -> tuple[int, TimeStep]:
        environment = RobosuiteEnvironment(task="Lift", maximum_steps=maximum_steps)
        expert = LiftExpert(environment.spec)
        step, count = environment.reset(seed=0), 0
        while not step.last:
            step, count = environment.step(expert.act(step.observation)), count + 1
        return count, step

    needed, first = run(200)
    assert (first.terminated, first.truncated, first.success) == (True, False, True)
    count, last = run(needed)
    assert count == needed
    assert (last.terminated, last.truncated, last.success, last.reward) == (True, True, True, 1.0)
    assert (run(needed - 1)[1].terminated, run(needed - 1)[1].truncated) == (False, True)


def test_the_one_joint_fake_ends_both_ways_at_once() -> None:
    expert = OneJointExpert()
    for limit in (3, 20):
        environment = OneJointEnvironment(maximum_steps=limit, terminate_on_success=True, success_reward=(-1.0, 0.0))
        step, count = environment.reset(seed=1), 0
        while not step.last:
            step, count = environment.step(expert.act(step.observation)), count + 1
        assert step.truncated == (count == limit)
        assert step.reward == (0.0 if step.success else -1.0)


def test_a_termination_of_dm_control_on_the_last_step_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = DmControlEnvironment(domain="cartpole", task="balance", action_repeat=500)
    assert environment.maximum_steps == 2
    environment.reset(seed=0)
    assert not environment.step(np.zeros(1)).last
    monkeypatch.setattr(environment._task, "get_termination", lambda physics: 0.0)
    last = environment.step(np.zeros(1))
    assert (last.terminated, last.truncated) == (True, True)


def test_success_of_dm_control_is_declared_on_the_last_step_by_the_return() -> None:
    for threshold, expected in ((0.1, True), (1.0, False)):
        environment = DmControlEnvironment(
            domain="cartpole", task="balance", action_repeat=100, success_threshold=threshold
        )
        step = environment.reset(seed=0)
        declared = []
        while not step.last:
            step = environment.step(np.zeros(1))
            declared.append(step.success)
        assert not any(declared[:-1])
        assert declared[-1] is expected


def test_the_control_period_is_that_of_one_action() -> None:
    assert RobosuiteEnvironment(task="Lift", control_frequency_hz=10).spec.control_period_s == pytest.approx(0.1)
    assert GymnasiumEnvironment(id="AdroitHandDoor-v1").spec.control_period_s == pytest.approx(0.01)
    repeated = DmControlEnvironment(domain="cartpole", task="swingup", action_repeat=3)
    assert repeated.spec.control_period_s == pytest.approx(0.03)


def test_an_environment_without_time_limit_needs_one() -> None:
    with pytest.raises(InputError, match="maximum_steps"):
        GymnasiumEnvironment(id="Blackjack-v1")


def test_the_kitchen_succeeds_when_nothing_is_left_to_do() -> None:
    environment = GymnasiumEnvironment(
        id="FrankaKitchen-v1", arguments={"tasks_to_complete": ["kettle"]}, success="tasks_to_complete"
    )
    environment.reset(seed=0)
    assert environment.step(np.zeros(9)).success is False
    assert environment._succeeded({"tasks_to_complete": []}) is True


BAD: list[tuple[Any, str]] = [
    (GymnasiumEnvironmentConfig(id="AdroitHandDor-v1"), "did you mean 'AdroitHandDoor-v1'"),
    (GymnasiumEnvironmentConfig(id="HalfCheetah-v5", arguments={"wheels": 4}), "wheels"),
    (GymnasiumEnvironmentConfig(id="FetchPush-v1"), "mujoco_py"),
    (GymnasiumEnvironmentConfig(id="HalfCheetah-v2"), "cannot be made"),
    (GymnasiumEnvironmentConfig(id="FrankaKitchen-v1", arguments={"tasks_to_complete": ["dishes"]}), "dishes"),
    (GymnasiumEnvironmentConfig(id="AdroitHandDoor-v1", success="succes"), "did you mean 'success'"),
    (GymnasiumEnvironmentConfig(id="HalfCheetah-v5", terminate_on_success=True), "declares no success"),
    (GymnasiumEnvironmentConfig(id="HalfCheetah-v5", success_reward=[0.0, 1.0]), "declares no success"),
    (GymnasiumEnvironmentConfig(id="CartPole-v1"), "continuous"),
    (GymnasiumEnvironmentConfig(id="HalfCheetah-v5", maximum_steps=0), "maximum_steps"),
    (DmControlEnvironmentConfig(domain="cartpole", task="swingdown"), "did you mean 'cartpole/swingup'"),
    (DmControlEnvironmentConfig(domain="cartpole", task="swingup", action_repeat=0), "action_repeat"),
    (DmControlEnvironmentConfig(domain="lqr", task="lqr_2_1"), "no time limit"),
    (RobosuiteEnvironmentConfig(task="Lfit"), "did you mean 'Lift'"),
    (RobosuiteEnvironmentConfig(task="Lift", robot="Pandas"), "did you mean 'Panda'"),
    (RobosuiteEnvironmentConfig(task="Lift", controller="OSC_POS"), "did you mean 'OSC_POSE'"),
    (RobosuiteEnvironmentConfig(task="Lift", control_frequency_hz=30.0), "does not divide"),
    (RobosuiteEnvironmentConfig(task="Lift", observation=["robot0_eef_position"]), "did you mean 'robot0_eef_pos'"),
    (RobosuiteEnvironmentConfig(task="TwoArmLift"), "refuses"),
    ({"id": "HalfCheetah-v5"}, "no known schema"),
]


@pytest.mark.parametrize(("config", "message"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_a_bad_setting_is_refused_with_what_was_wanted(config: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_environment(config)


TASKS: list[tuple[Any, dict[str, Any], tuple[str, ...]]] = [
    (RobosuiteEnvironmentConfig(task="Lift"), {"simulator": "robosuite", "task": "Lift"}, ("robosuite", "mujoco")),
    (
        GymnasiumEnvironmentConfig(id="AdroitHandDoor-v1"),
        {"simulator": "gymnasium", "id": "AdroitHandDoor-v1"},
        ("gymnasium", "gymnasium_robotics", "mujoco"),
    ),
    (
        GymnasiumEnvironmentConfig(id="Hopper-v5"),
        {"simulator": "gymnasium", "id": "Hopper-v5"},
        ("gymnasium", "mujoco"),
    ),
    (
        DmControlEnvironmentConfig(domain="cartpole", task="swingup"),
        {"simulator": "dm_control", "domain": "cartpole", "task": "swingup"},
        ("dm_control", "mujoco"),
    ),
]


@pytest.mark.parametrize(("config", "task", "packages"), TASKS)
def test_trap_19_a_spec_names_simulator_task_and_the_versions_that_made_it(
    config: Any, task: dict[str, Any], packages: tuple[str, ...]
) -> None:
    metadata = Spec.from_json(build_environment(config).spec.to_json()).metadata  # as stores and checkpoints keep it
    assert {key: metadata[key] for key in task} == task
    assert metadata["libraries"] == {name: version(name.replace("_", "-")) for name in packages}


def test_robomimic_can_make_the_environment_from_its_arguments() -> None:
    config = RobosuiteEnvironmentConfig(task="Lift", controller="OSC_POSITION")
    arguments = json.loads(json.dumps(robomimic_arguments(config, build_environment(config).spec)))
    assert (arguments["env_name"], arguments["type"], arguments["env_version"]) == ("Lift", 1, version("robosuite"))
    assert (arguments["env_kwargs"]["robots"], arguments["env_kwargs"]["control_freq"]) == (["Panda"], 20.0)
    with quiet():
        made = import_robosuite().make(arguments["env_name"], **arguments["env_kwargs"])
    assert made.action_dim == 4

    hopper = GymnasiumEnvironmentConfig(id="Hopper-v5", arguments={"forward_reward_weight": 2.0})
    arguments = robomimic_arguments(hopper, build_environment(hopper).spec)
    assert (arguments["env_name"], arguments["type"], arguments["env_kwargs"]) == ("Hopper-v5", 2, hopper.arguments)
    assert gymnasium.make(arguments["env_name"], **arguments["env_kwargs"]).action_space.shape == (3,)

    cartpole = DmControlEnvironmentConfig(domain="cartpole", task="swingup")
    arguments = robomimic_arguments(cartpole, build_environment(cartpole).spec)
    assert (arguments["env_name"], arguments["type"]) == ("dm_control/cartpole-swingup-v0", 2)


@pytest.mark.parametrize("controller", SEMANTICS)
def test_ingestion_reads_what_an_action_means_from_the_controller(controller: str) -> None:
    arguments = task_arguments("Panda", controller, 20.0, reward_shaping=False)
    assert action_semantics(arguments) == SEMANTICS[controller]


@pytest.mark.parametrize("backend", ["osmesa", "nonsense"])
def test_a_renderer_that_is_not_there_is_named_with_the_remedy(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", backend)
    if subprocess.run([sys.executable, "-c", "import mujoco"], capture_output=True, check=False).returncode == 0:
        pytest.skip(f"{backend} works here")
    code = (
        "from robot_rl.apps.build_environment import build_environment\n"
        "from robot_rl.config import RobosuiteEnvironmentConfig\n"
        "build_environment(RobosuiteEnvironmentConfig(task='Lift'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"InputError: mujoco cannot be imported with MUJOCO_GL={backend}" in done.stderr
    assert "unset MUJOCO_GL" in done.stderr


def test_an_environment_without_expert_says_which_have_one() -> None:
    config = GymnasiumEnvironmentConfig(id="HalfCheetah-v5")
    with pytest.raises(InputError, match="environment=lift"):
        build_expert(config, build_environment(config), 0.0, np.random.default_rng(0))


def test_an_unknown_camera_is_refused_with_the_cameras_of_the_model() -> None:
    environment = RobosuiteEnvironment(task="Lift", camera="agentviews")
    environment.reset(seed=0)
    with pytest.raises(InputError, match="agentview"):
        environment.render()


def test_objects_begin_as_far_from_the_middle_as_asked() -> None:
    environment = build_environment(RobosuiteEnvironmentConfig(task="Lift", placement_m=0.12))
    try:
        cubes = np.asarray([environment.reset(seed=seed).observation["object"][:2] for seed in range(100)])
    finally:
        environment.close()
    assert np.all(np.abs(cubes) <= 0.12)
    assert np.all(np.max(np.abs(cubes), axis=0) > 0.1)


def test_a_task_that_places_objects_itself_is_named() -> None:
    with pytest.raises(InputError, match=r"NutAssembly places its objects .* environment.placement_m=null"):
        build_environment(RobosuiteEnvironmentConfig(task="NutAssembly", placement_m=0.1))


def test_no_rendering_context_exists_before_a_frame_is_asked_for() -> None:
    environment = RobosuiteEnvironment(task="Lift", render_size=32)
    environment.reset(seed=0)
    assert environment._renderer is None
    assert environment._env.sim._render_context_offscreen is None
    assert environment.render().shape == (32, 32, 3)
