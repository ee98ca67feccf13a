"""gymnasium's MuJoCo and gymnasium-robotics' tasks under the environment contract."""

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import mujoco
import numpy as np

from robot_rl.errors import InputError, nearest
from robot_rl.sim.drive import Drive
from robot_rl.sim.episode import EpisodeRules, clip_action, float32, versions
from robot_rl.sim.model_gap import resting_control
from robot_rl.sim.rendering import Renderer
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, TimeStep

STATE = "state"
"""Key of an observation that the task returns as one vector."""
ACTIONS = (  # what the actions of a family mean, by the beginning of the id; other tasks drive their actuators directly
    ("AdroitHand", "joint_position_target"),
    ("FrankaKitchen", "joint_velocity"),
    ("Fetch", "end_effector_position_delta"),
)
FETCH_ACTION_NAMES = ("x", "y", "z", "gripper")


def import_gymnasium() -> Any:
    """gymnasium with the robotics tasks registered.

    gymnasium-robotics warns, and prints a notice about its Adroit `Dense` ids, whenever it is imported: held back here,
    what concerns our users is in docs/environments.md.
    """
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import gymnasium
        import gymnasium_robotics

        gymnasium.register_envs(gymnasium_robotics)
    return gymnasium


class GymnasiumEnvironment:
    """A gymnasium task with a continuous action, its time limit counted by us.

    A vector observation gets the key `state`; a mapping keeps its keys, and a mapping in it (the goals of the Franka
    kitchen) becomes one vector in the task's own order.

    Args:
        id: such as `AdroitHandDoor-v1`.
        arguments: keyword arguments of `gymnasium.make`.
        maximum_steps: None takes the registered limit.
        success: key of `info`; a truth value, or the list of what is left to do, which is a success when it is empty.
        terminate_on_success: end the episode with the first successful step.
        success_reward: [reward without success, reward with success] in place of the native reward.
        render_size: height and width of a frame in pixels.

    Raises:
        InputError: an unknown id, arguments or success key, or a task without a continuous action.
    """

    def __init__(
        self,
        *,
        id: str,
        arguments: Mapping[str, Any] | None = None,
        maximum_steps: int | None = None,
        success: str | None = None,
        terminate_on_success: bool = False,
        success_reward: Sequence[float] | None = None,
        render_size: int = 256,
    ) -> None:
        gymnasium = import_gymnasium()
        if id not in gymnasium.registry:
            raise InputError(f"gymnasium id={id}: {nearest(id, close_ids(id, gymnasium.registry))}")
        limit = maximum_steps if maximum_steps is not None else gymnasium.spec(id).max_episode_steps
        if limit is None:
            raise InputError(f"gymnasium id={id} has no time limit of its own: set maximum_steps")
        self._rules = EpisodeRules(
            maximum_steps=limit, terminate_on_success=terminate_on_success, success_reward=success_reward
        )
        self._place = f"gymnasium id={id}"
        self._success = success
        if success is None:
            self._rules.need_declared_success(self._place)
        keywords = {} if arguments is None else dict(arguments)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecated versions are asked for by name, to match recorded data
                made = gymnasium.make(id, max_episode_steps=-1, disable_env_checker=True, **keywords)
        except (TypeError, ValueError, ImportError, gymnasium.error.Error) as error:
            raise InputError(f"{self._place} cannot be made with arguments={keywords}: {error}") from error
        self._env = made.unwrapped
        self._package = type(self._env).__module__.partition(".")[0]  # whose task it is, such as gymnasium_robotics
        if not isinstance(self._env.action_space, gymnasium.spaces.Box) or len(self._env.action_space.shape) != 1:
            raise InputError(
                f"{self._place} has actions {self._env.action_space}: only continuous vectors are supported"
            )
        self._renderer: Renderer | None = None
        self._render_size = render_size
        self._drive: Drive | None = None
        self._spec = self._make_spec(id, gymnasium.__version__)
        self._probe_success()

    @property
    def spec(self) -> Spec:
        """Shapes, bounds, units; never changes."""
        return self._spec

    @property
    def maximum_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return self._rules.maximum_steps

    def _simulation(self) -> Any:
        """What holds `model` and `data`; the Franka kitchen keeps them one level down."""
        return getattr(self._env, "robot_env", self._env)

    def _make_spec(self, id: str, version: str) -> Spec:
        space = self._env.action_space
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        period = getattr(self._simulation(), "dt", None)
        observation, _ = self._env.reset(seed=0)
        return Spec(
            observation={key: ArraySpec(shape=value.shape) for key, value in flatten(observation).items()},
            action=ArraySpec(shape=low.shape, low=low, high=high, names=self._action_names(id, len(low)), unit="1"),
            control_period_s=None if period is None else float(period),
            action_semantics=next((means for family, means in ACTIONS if id.startswith(family)), "actuator_control"),
            metadata={
                "simulator": "gymnasium",
                "version": version,
                "id": id,
                "libraries": versions(*dict.fromkeys(["gymnasium", self._package, "mujoco"])),
            },
        )

    def _action_names(self, id: str, size: int) -> tuple[str, ...] | None:
        """The model's actuators where the action drives each of them."""
        if id.startswith("Fetch"):
            return FETCH_ACTION_NAMES
        model = getattr(self._simulation(), "model", None)
        if model is None or model.nu != size:
            return None
        names = tuple(model.actuator(index).name for index in range(size))
        return names if all(names) else None

    def _probe_success(self) -> None:
        """Find out now, not after hours, whether the success key is there."""
        if self._success is None:
            return
        _, _, _, _, info = self._env.step(np.zeros(self._spec.action.shape, self._env.action_space.dtype))
        if self._success not in info:
            raise InputError(
                f"{self._place} success={self._success} is not in its info: {nearest(self._success, info)}"
            )

    def _succeeded(self, info: Mapping[str, Any]) -> bool | None:
        if self._success is None:
            return None
        value = info[self._success]
        return not value if isinstance(value, list) else bool(value)

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode; everything random in it follows from the seed."""
        observation, _ = self._env.reset(seed=seed)
        return self._rules.begin(flatten(observation))

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""
        self._rules.need_running()
        applied = clip_action(action, self._spec.action)
        observation, reward, terminated, truncated, info = self._env.step(
            applied.astype(self._env.action_space.dtype, copy=True)
        )
        return self._rules.finish_step(
            observation=flatten(observation),
            reward=float(reward),
            terminated=bool(terminated),
            truncated=bool(truncated),
            success=self._succeeded(info),
            action=applied,
        )

    @property
    def physics(self) -> tuple[Any, Any]:
        """MuJoCo's model and data."""
        simulation = self._simulation()
        model, data = getattr(simulation, "model", None), getattr(simulation, "data", None)
        if not isinstance(model, mujoco.MjModel):
            raise InputError(f"{self._place} is not a MuJoCo task: it can neither be rendered nor given a gap")
        return model, data

    @property
    def substeps(self) -> int:
        """Physics steps of one control period."""
        simulation = self._simulation()
        return int(simulation.n_substeps if self._moves_goals else simulation.frame_skip)

    @property
    def _moves_goals(self) -> bool:
        """gymnasium-robotics' arms and hands: an action does something once, then the physics goes on."""
        return hasattr(self._simulation(), "_mujoco_step")

    def hold(self) -> Array:
        """No force for motors, the present position for servos; nothing where an action acts once. Shapes: (nu,)."""
        return np.zeros(self._spec.action.shape) if self._moves_goals else resting_control(*self.physics)

    def motors(self) -> Array | None:
        """They begin as `hold` has them."""
        return self.hold()

    def attach(self, drive: Drive | None) -> None:
        """Put a drive between commands and motors, in place of gymnasium's own loop over physics steps."""
        simulation = self._simulation()
        self._drive = drive
        for name in ("_set_action", "_mujoco_step", "_step_mujoco_simulation"):
            vars(simulation).pop(name, None)  # what was put here before: the class's own is found again
        if drive is None:
            return
        if self._moves_goals:
            take = simulation._set_action
            simulation._set_action = lambda action: None
            simulation._mujoco_step = lambda action: self._step_goals(drive, take, action)
        else:
            simulation._step_mujoco_simulation = lambda control, count: self._step_motors(drive, control)

    def _step_motors(self, drive: Drive, control: Array) -> None:
        model, data = self.physics
        for _ in range(drive.send(control)):
            data.ctrl[:] = drive.motor(drive.tick())
            mujoco.mj_step(model, data)
        mujoco.mj_rnePostConstraint(model, data)  # as gymnasium does, for contact forces

    def _step_goals(self, drive: Drive, take: Callable[[Array], None], action: Array) -> None:
        model, data = self.physics
        for _ in range(drive.send(action)):
            command, arrived = drive.tick_whole()
            if arrived:
                take(drive.motor(command, periods=1.0).astype(self._env.action_space.dtype))
            mujoco.mj_step(model, data)

    def observe(self) -> dict[str, Array]:
        """The observation of the present state."""
        simulation = self._simulation()
        if simulation is self._env:
            if not self._moves_goals:
                mujoco.mj_rnePostConstraint(*self.physics)
            return flatten(self._env._get_obs())
        last = simulation._last_robot_qpos  # the kitchen's next command starts from what was observed last
        observation = flatten(self._env._get_obs(simulation._get_obs()))
        simulation._last_robot_qpos = last
        return observation

    def advance(self, action: Array) -> dict[str, Array]:
        """One control period with an action, whatever has ended. Shapes: (A,)."""
        applied = clip_action(action, self._spec.action)
        return flatten(self._env.step(applied.astype(self._env.action_space.dtype, copy=True))[0])

    def render(self) -> Array:
        """The scene now. Shapes: (height, width, 3), uint8."""
        simulation = self._simulation()
        model, data = self.physics
        if self._renderer is None:
            self._renderer = Renderer(model, data, self._render_size, default_camera(model, data, simulation))
        if self._spec.metadata["id"].startswith("Fetch"):
            place_goal_marker(model, data, self._env.goal)
        return self._renderer.render()

    def close(self) -> None:
        """Free the simulator; calling it twice is allowed."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self._env.close()


def close_ids(id: str, registry: Mapping[str, Any]) -> list[str]:
    """Ids worth naming in an error: hundreds are registered."""
    return get_close_matches(id, list(registry), n=8, cutoff=0.4)


def flatten(observation: Any) -> dict[str, Array]:
    """An observation as vectors by key; float32 copies."""
    if not isinstance(observation, Mapping):
        return {STATE: float32(observation)}
    return {
        key: np.concatenate([float32(part).ravel() for part in value.values()])
        if isinstance(value, Mapping)
        else float32(value)
        for key, value in observation.items()
    }


def place_goal_marker(model: Any, data: Any, goal: Array) -> None:
    """Put Fetch's red ball at the goal, which is where its own renderer would put it. Shapes: goal (3,)."""
    site = model.site("target0").id
    model.site_pos[site] = goal - data.xpos[model.site_bodyid[site]]


def default_camera(model: Any, data: Any, simulation: Any) -> Any:
    """The view that the task's authors chose: gymnasium's `track` camera, or a free one with their settings."""
    track = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    if track >= 0:
        return track
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:] = np.median(data.geom_xpos, axis=0)
    camera.distance = model.stat.extent
    settings = simulation.mujoco_renderer.default_cam_config
    for name, value in ({} if settings is None else settings).items():
        if isinstance(value, np.ndarray):
            getattr(camera, name)[:] = value
        else:
            setattr(camera, name, value)
    return camera
