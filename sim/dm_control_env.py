"""The dm_control suite under the environment contract (Tunyasuvunakool et al., arXiv:2006.12983)."""

import warnings
from typing import Any

import numpy as np

from robot_rl.errors import InputError, nearest
from robot_rl.sim.drive import Drive
from robot_rl.sim.episode import EpisodeRules, clip_action, float32, versions
from robot_rl.sim.model_gap import resting_control
from robot_rl.sim.rendering import Renderer
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, TimeStep


def import_suite() -> Any:
    """The suite, imported on first use: importing it looks for a renderer and sets environment variables."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dm_control import suite
    return suite


class DmControlEnvironment:
    """A task of the suite, its time limit counted by us.

    dm_control's own environment hides a termination on the step of the time limit, so physics and task are driven here
    directly. Episodes have the length of the suite (1000 steps at action_repeat 1); rewards of repeated steps add up.

    Success, where a threshold is given, is a fact of the last step: the episode's return reached `success_threshold`
    times its maximum, the number of simulated steps. Before the last step it is False.

    Args:
        domain: such as `cartpole`.
        task: such as `swingup`.
        action_repeat: control periods of the suite for which one action is held.
        success_threshold: mean reward, in [0, 1]; None declares no success.
        render_size: height and width of a frame in pixels.

    Raises:
        InputError: an unknown domain or task.
    """

    def __init__(
        self,
        *,
        domain: str,
        task: str,
        action_repeat: int = 1,
        success_threshold: float | None = None,
        render_size: int = 256,
    ) -> None:
        suite = import_suite()
        tasks = {f"{known_domain}/{known_task}" for known_domain, known_task in suite.ALL_TASKS}
        if f"{domain}/{task}" not in tasks:
            raise InputError(f"dm_control {domain}/{task}: {nearest(f'{domain}/{task}', tasks)}")
        if action_repeat < 1:
            raise InputError(f"dm_control action_repeat={action_repeat} must be at least 1")
        self._generator = np.random.RandomState(0)  # dm_control's tasks ask for this type
        self._env = suite.load(domain, task, task_kwargs={"random": self._generator})
        self._physics, self._task = self._env.physics, self._env.task
        self._repeat, self._threshold = action_repeat, success_threshold
        limit = self._env._step_limit
        if not np.isfinite(limit):
            raise InputError(f"dm_control {domain}/{task} has no time limit")
        self._rules = EpisodeRules(maximum_steps=int(np.ceil(limit / action_repeat)))
        self._return = 0.0
        self._renderer: Renderer | None = None
        self._render_size = render_size
        self._drive: Drive | None = None
        self._spec = self._make_spec(domain, task)

    @property
    def spec(self) -> Spec:
        """Shapes, bounds, units; never changes."""
        return self._spec

    @property
    def maximum_steps(self) -> int:
        """Steps after which an episode is truncated."""
        return self._rules.maximum_steps

    def _make_spec(self, domain: str, task: str) -> Spec:
        bounds = self._env.action_spec()
        model = self._physics.model
        low, high = (
            np.broadcast_to(bound, bounds.shape).astype(np.float64) for bound in (bounds.minimum, bounds.maximum)
        )
        names = tuple(model.id2name(index, "actuator") for index in range(model.nu))
        self._begin(seed=0)
        return Spec(
            observation={key: ArraySpec(shape=value.shape) for key, value in self._observe().items()},
            action=ArraySpec(
                shape=bounds.shape,
                low=low,
                high=high,
                names=names if all(names) and (len(names),) == bounds.shape else None,
                unit="1",
            ),
            control_period_s=float(self._env.control_timestep()) * self._repeat,
            action_semantics="actuator_control",
            metadata={
                "simulator": "dm_control",
                "domain": domain,
                "task": task,
                "action_repeat": self._repeat,
                "libraries": versions("dm_control", "mujoco"),
            },
        )

    def _begin(self, seed: int) -> None:
        """Put physics and task at the start of the episode of a seed."""
        self._generator.seed(seed)
        with self._physics.reset_context():
            self._task.initialize_episode(self._physics)

    def _observe(self) -> dict[str, Array]:
        return {key: float32(value) for key, value in self._task.get_observation(self._physics).items()}

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode; everything random in it follows from the seed."""
        self._begin(seed)
        self._return = 0.0
        return self._rules.begin(self._observe())

    def step(self, action: Array) -> TimeStep:
        """Apply one action for one control period. Shapes: (A,)."""
        self._rules.need_running()
        applied = clip_action(action, self._spec.action)
        reward = 0.0
        discount: float | None = None  # None goes on; 0 is a termination; 1 an end that says nothing about the state
        for steps in self._counts(applied):
            self._advance(applied, steps)
            self._task.after_step(self._physics)
            reward += float(self._task.get_reward(self._physics))
            discount = self._task.get_termination(self._physics)
            if discount is not None:
                break
        self._return += reward
        last = discount is not None or self._rules.steps + 1 >= self._rules.maximum_steps
        return self._rules.finish_step(
            observation=self._observe(),
            reward=reward,
            terminated=discount is not None and discount < 1.0,
            truncated=discount is not None and discount >= 1.0,
            success=None if self._threshold is None else last and self._reached(self._threshold),
            action=applied,
        )

    def _counts(self, applied: Array) -> list[int]:
        """Physics steps of each repeat of the action."""
        if self._drive is None:
            return [self._env._n_sub_steps] * self._repeat
        total = self._drive.send(applied)
        return [total * (index + 1) // self._repeat - total * index // self._repeat for index in range(self._repeat)]

    def _advance(self, applied: Array, steps: int) -> None:
        """Some physics steps with an action, or with what the drive makes of it."""
        if self._drive is None:
            self._task.before_step(applied, self._physics)
            self._physics.step(steps)
            return
        for _ in range(steps):
            self._task.before_step(self._drive.tick(), self._physics)
            self._physics.set_control(self._drive.motor(self._physics.data.ctrl.copy()))
            self._physics.step(1)

    @property
    def physics(self) -> tuple[Any, Any]:
        """MuJoCo's model and data."""
        return self._physics.model.ptr, self._physics.data.ptr

    @property
    def substeps(self) -> int:
        """Physics steps of one control period."""
        return int(self._env._n_sub_steps) * self._repeat

    def hold(self) -> Array:
        """No force for motors, the present position for servos. Shapes: (A,)."""
        resting = resting_control(*self.physics)
        return resting if resting.shape == self._spec.action.shape else np.zeros(self._spec.action.shape)

    def motors(self) -> Array | None:
        """They begin at rest."""
        return resting_control(*self.physics)

    def attach(self, drive: Drive | None) -> None:
        """Put a drive between commands and motors."""
        self._drive = drive

    def observe(self) -> dict[str, Array]:
        """The observation of the present state."""
        return self._observe()

    def advance(self, action: Array) -> dict[str, Array]:
        """One control period with an action, whatever has ended. Shapes: (A,)."""
        applied = clip_action(action, self._spec.action)
        for steps in self._counts(applied):
            self._advance(applied, steps)
            self._task.after_step(self._physics)
        return self._observe()

    def _reached(self, threshold: float) -> bool:
        return self._return >= threshold * self._rules.maximum_steps * self._repeat

    def render(self) -> Array:
        """The scene now. Shapes: (height, width, 3), uint8."""
        if self._renderer is None:
            camera = 0 if self._physics.model.ncam else -1
            self._renderer = Renderer(self._physics.model.ptr, self._physics.data.ptr, self._render_size, camera)
        return self._renderer.render()

    def close(self) -> None:
        """Free the simulator; calling it twice is allowed."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        self._physics.free()
