"""robosuite tasks under the environment contract (robosuite 1.5; Zhu et al., arXiv:2009.12293)."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from robot_rl.errors import InputError, nearest
from robot_rl.sim.drive import Drive
from robot_rl.sim.episode import EpisodeRules, clip_action, float32, versions
from robot_rl.sim.rendering import Renderer
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, TimeStep

SEMANTICS = {  # of each controller; JOINT_VELOCITY is missing: robosuite 1.5.2 fails to build it
    "OSC_POSE": "osc_pose_delta",
    "OSC_POSITION": "osc_position_delta",
    "JOINT_POSITION": "joint_position_delta",
    "JOINT_TORQUE": "joint_torque",
}
DEFAULT_SUFFIXES = (
    "eef_pos",
    "eef_quat",
    "gripper_qpos",
)  # of a robot's observations; with `object`, robomimic's choice
OBJECT = "object"
"""Key of the object state, as in robomimic; robosuite calls it `object-state`."""
MODEL_SEED = 0
"""Sizes of objects are drawn when the model is built: a fixed seed makes them part of the task, not of the episode."""
COLLISION_GROUP = 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back robosuite's console messages (missing private macros, optional packages) while it imports or builds."""
    logger = logging.getLogger("robosuite_logs")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def import_robosuite() -> Any:
    """The package, imported on first use: importing it sets environment variables and takes a second."""
    with quiet():
        import robosuite
    return robosuite


def controller_config(robosuite: Any, robot: str, controller: str) -> dict[str, Any]:
    """robosuite's default configuration of a robot with `controller` on each arm."""
    config: dict[str, Any] = robosuite.load_composite_controller_config(robot=robot)
    for name in ("right", "left"):
        arm = config["body_parts"].get(name)
        if arm is not None and arm["type"] != controller:
            part = robosuite.load_part_controller_config(default_controller=controller)
            config["body_parts"][name] = {**part, "gripper": arm.get("gripper", {"type": "GRIP"})}
    return config


def task_arguments(robot: str, controller: str, control_frequency_hz: float, reward_shaping: bool) -> dict[str, Any]:
    """Keyword arguments of `robosuite.make`: plain JSON, which robomimic's `env_args` hold too."""
    robosuite = import_robosuite()
    with quiet():
        controller_configs = controller_config(robosuite, robot, controller)
    return {
        "robots": robot,
        "controller_configs": controller_configs,
        "control_freq": control_frequency_hz,
        "reward_shaping": reward_shaping,
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "use_camera_obs": False,
        "renderer": "mujoco",
        "ignore_done": True,
        "hard_reset": False,
        "seed": MODEL_SEED,
    }


def make_task(task: str, robot: str, controller: str, control_frequency_hz: float, reward_shaping: bool) -> Any:
    """A robosuite environment without cameras, renderers or a time limit of its own.

    Raises:
        InputError: unknown task, robot or controller, or a combination that robosuite refuses.
    """
    robosuite = import_robosuite()
    for name, value, choices in (
        ("task", task, robosuite.ALL_ENVIRONMENTS),
        ("robot", robot, robosuite.ALL_ROBOTS),
        ("controller", controller, SEMANTICS),
    ):
        if value not in choices:
            raise InputError(f"robosuite {name}={value}: {nearest(value, choices)}")
    try:
        with quiet():
            return robosuite.make(task, **task_arguments(robot, controller, control_frequency_hz, reward_shaping))
    except (AssertionError, ValueError) as error:
        raise InputError(f"robosuite refuses task={task} with robot={robot}: {error}") from error


def observation_keys(env: Any, wanted: Sequence[str] | None) -> dict[str, str]:
    """Our key of each low-dimensional observation -> robosuite's; None takes robomimic's choice.

    Raises:
        InputError: robosuite has no such observation.
    """
    available = {
        (OBJECT if key == "object-state" else key): key
        for key, value in env.observation_spec().items()
        if np.ndim(value) <= 1 and np.size(value) > 0  # no images; a tool without fingers has no finger positions
    }
    if wanted is None:
        proprioception = [key for key in available if key.startswith("robot") and key.endswith(DEFAULT_SUFFIXES)]
        wanted = [*proprioception, *([OBJECT] if OBJECT in available else [])]
    for key in wanted:
        if key not in available:
            raise InputError(f"robosuite observation '{key}': {nearest(key, available)}")
    return {key: available[key] for key in wanted}


def observe(env: Any, keys: Mapping[str, str]) -> dict[str, Array]:
    """The state now, not the one that robosuite sampled at the beginning of the last control period."""
    raw = env._get_observations(force_update=True)
    return {key: float32(raw[name]) for key, name in keys.items()}


class RobosuiteEnvironment:
    """One robosuite task with low-dimensional observations and a controller on normalised actions.

    A reset does not rebuild the model (1.4 ms against 125 ms). It is still a pure function of the seed: robosuite draws
    placements and joint noise from one generator, which is set anew in place, and resets data, controllers, grippers.

    Args:
        task: such as `Lift`.
        robot: such as `Panda`.
        controller: of each arm, one of `SEMANTICS`; actions lie in [-1, 1] and are scaled by robosuite.
        control_frequency_hz: must divide the simulator's 500 Hz.
        maximum_steps: steps of an episode.
        observation: keys; None takes end effector pose, finger positions and the object state.
        reward_shaping: robosuite's dense reward.
        terminate_on_success: end the episode with the first successful step.
        success_reward: [reward without success, reward with success] in place of the native reward.
        render_size: height and width of a frame in pixels.
        camera: of the rendered frames.
        placement_m: how far from the middle of the table objects begin at most, along both its sides; None is
            robosuite's own.

    Raises:
        InputError: a setting that robosuite does not know.
    """

    def __init__(
        self,
        *,
        task: str,
        robot: str = "Panda",
        controller: str = "OSC_POSE",
        control_frequency_hz: float = 20.0,
        maximum_steps: int = 200,
        observation: Sequence[str] | None = None,
        reward_shaping: bool = False,
        terminate_on_success: bool = True,
        success_reward: Sequence[float] | None = None,
        render_size: int = 256,
        camera: str = "agentview",
        placement_m: float | None = None,
    ) -> None:
        self._rules = EpisodeRules(
            maximum_steps=maximum_steps, terminate_on_success=terminate_on_success, success_reward=success_reward
        )
        if not control_frequency_hz > 0:
            raise InputError(f"robosuite control_frequency_hz={control_frequency_hz} must be positive")
        self._env = make_task(task, robot, controller, control_frequency_hz, reward_shaping)
        if placement_m is not None:
            self._place_within(task, placement_m)
        timestep = self._env.model_timestep
        period = int(self._env.control_timestep / timestep) * timestep
        if abs(period * control_frequency_hz - 1.0) > 1e-6:
            raise InputError(
                f"robosuite control_frequency_hz={control_frequency_hz} does not divide the simulator's "
                f"{1 / timestep:g} Hz: it would run at {1 / max(period, timestep):g} Hz"
            )
        self._renderer: Renderer | None = None
        self._render_size, self._camera = render_size, camera
        self._drive: Drive | None = None
        self._substeps = round(period / timestep)
        self._keys = observation_keys(self._env, observation)
        self._spec = self._make_spec(task, robot, controller, period)

    def _place_within(self, task: str, placement_m: float) -> None:
        sampler: Any = getattr(self._env, "placement_initializer", None)
        if not hasattr(sampler, "x_range"):
            raise InputError(
                f"robosuite task={task} places its objects in a way of its own: leave environment.placement_m=null"
            )
        sampler.x_range = sampler.y_range = [-placement_m, placement_m]

    @property
    def spec(self) -> Spec:
        """Shapes, bounds, units; never changes."""
        return self._spec

    @property
    def maximum_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return self._rules.maximum_steps

    def _make_spec(self, task: str, robot: str, controller: str, period_s: float) -> Spec:
        low, high = (np.asarray(bound, np.float64) for bound in self._env.action_spec)
        robosuite = import_robosuite()
        return Spec(
            observation={key: describe(key, value) for key, value in self._observe().items()},
            action=ArraySpec(
                shape=low.shape,
                low=low,
                high=high,
                names=action_names(controller, len(low)),
                unit="1",
                frame="robot base" if controller.startswith("OSC") else None,
            ),
            control_period_s=period_s,
            action_semantics=SEMANTICS[controller],
            metadata={
                "simulator": "robosuite",
                "version": robosuite.__version__,
                "task": task,
                "robot": robot,
                "controller": controller,
                "libraries": versions("robosuite", "mujoco"),
            },
        )

    def _observe(self) -> dict[str, Array]:
        return observe(self._env, self._keys)

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode; everything random in it follows from the seed."""
        self._env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        with quiet():
            self._env.reset()
        return self._rules.begin(self._observe())

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""
        self._rules.need_running()
        applied = clip_action(action, self._spec.action)
        reward = self._advance(applied)
        return self._rules.finish_step(
            observation=self._observe(),
            reward=reward,
            terminated=False,
            truncated=False,
            success=bool(self._env._check_success()),
            action=applied,
        )

    def _advance(self, applied: Array) -> float:
        """One control period of robosuite; the native reward."""
        if self._drive is None:
            return float(self._env.step(applied)[1])
        period = self._env.control_timestep
        steps = self._drive.send(applied)
        self._env.control_timestep = (steps + 0.5) * self._env.model_timestep  # robosuite cuts it to whole steps
        try:
            return float(self._env.step(applied)[1])
        finally:
            self._env.control_timestep = period

    @property
    def physics(self) -> tuple[Any, Any]:
        """MuJoCo's model and data."""
        return self._env.sim.model._model, self._env.sim.data._data

    @property
    def substeps(self) -> int:
        """Physics steps of one control period."""
        return int(self._substeps)

    def hold(self) -> Array:
        """Stay: no change of pose or position, no torque beyond gravity's. Shapes: (A,)."""
        return np.zeros(self._spec.action.shape)

    def motors(self) -> Array | None:
        """They carry the arm already: whatever the controller asks for first."""
        return None

    def attach(self, drive: Drive | None) -> None:
        """Put a drive between commands and controllers, and its lag between controllers and motors."""
        vars(self._env).pop("_pre_action", None)  # what was put here before: the class's own is found again
        self._drive = drive
        if drive is None:
            return
        control = self._env._pre_action

        def pre_action(action: Array, policy_step: bool = False) -> None:
            command, arrived = drive.tick_whole()
            control(command, arrived)
            data = self._env.sim.data._data
            data.ctrl[:] = drive.motor(data.ctrl.copy())

        self._env._pre_action = pre_action

    def observe(self) -> dict[str, Array]:
        """The observation of the present state."""
        return self._observe()

    def advance(self, action: Array) -> dict[str, Array]:
        """One control period with an action, whatever has ended. Shapes: (A,)."""
        self._advance(clip_action(action, self._spec.action))
        return self._observe()

    def render(self) -> Array:
        """The scene now. Shapes: (height, width, 3), uint8."""
        if self._renderer is None:
            self._renderer = Renderer(
                self._env.sim.model._model,
                self._env.sim.data._data,
                self._render_size,
                self._camera,
                hidden_geometry_groups=(COLLISION_GROUP,),
            )
        return self._renderer.render()

    def close(self) -> None:
        """Free the simulator; calling it twice is allowed."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def action_names(controller: str, size: int) -> tuple[str, ...] | None:
    """Channel names of one arm with a gripper of one channel; None for other shapes."""
    cartesian = ("x", "y", "z") + (("rx", "ry", "rz") if controller == "OSC_POSE" else ())
    arm = cartesian if controller.startswith("OSC") else tuple(f"joint{index}" for index in range(1, size))
    return (*arm, "gripper") if len(arm) + 1 == size else None


def describe(key: str, value: Array) -> ArraySpec:
    """Names, unit and frame of an observation by robosuite's naming."""
    if key.endswith("_pos") and value.shape == (3,):
        return ArraySpec(shape=(3,), names=("x", "y", "z"), unit="m", frame="world")
    if key.endswith("_quat") and value.shape == (4,):
        return ArraySpec(shape=(4,), names=("x", "y", "z", "w"), unit="1", frame="world")
    units = {"joint_pos": "rad", "joint_vel": "rad/s"}
    if value.shape == (2,):  # two sliding fingers; grippers with more joints turn them
        units |= {"gripper_qpos": "m", "gripper_qvel": "m/s"}
    unit = next((unit for suffix, unit in units.items() if key.endswith(suffix)), None)
    return ArraySpec(shape=value.shape, unit=unit)
