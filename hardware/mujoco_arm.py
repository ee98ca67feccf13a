"""A MuJoCo arm with a task: it goes where it is told, and says what it measures. It knows neither ROS nor faults.

The task is to bring the tool to a target: the reward is minus the distance in m, the success being closer than
`ArmSettings.reach_m`. Everything random of an episode follows from the seed of its reset and from how many commands
came since; so the same commands give the same numbers, however often the arm was looked at or waited for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from robot_rl.errors import InputError
from robot_rl.hardware.description import TOOL_MODES, Robot
from robot_rl.hardware.mujoco_model import build_arm

Array = NDArray[Any]
TRIES = 1000  # of a target inside the workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSettings:
    """What a description does not say about the arm that stands in for a robot."""

    physics_step_s: float = 0.002
    latency_s: float = 0.0  # from measuring to publishing
    position_noise: float = 0.0  # deviation of what is measured, in rad or m
    velocity_noise: float = 0.0  # in rad/s or m/s
    clock_offset_s: float = 0.0  # how far the robot's clock is ahead of this machine's
    clock_drift: float = 0.0  # share by which it is faster
    start_spread: float = 0.02  # how far from the start pose an episode begins at most, in rad or m
    target_spread: float = 0.25  # and how far the joints are from there that reach its target
    reach_m: float = 0.05
    image_size: int = 64

    def __post_init__(self) -> None:
        for name in ("physics_step_s", "reach_m", "image_size"):
            if not getattr(self, name) > 0:
                raise InputError(f"simulated arm: {name}={getattr(self, name)} must be above 0")
        for name in ("latency_s", "position_noise", "velocity_noise", "start_spread", "target_spread"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"simulated arm: {name}={getattr(self, name)} must be finite and at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What the arm measures at one time."""

    position: list[float]  # (J,)
    velocity: list[float]  # (J,)
    effort: list[float]  # (J,)
    force_N: list[float]  # (3,), in the tool frame
    torque_Nm: list[float]  # (3,)
    tool_m: list[float]  # (3,), in the base frame
    tool_quaternion: list[float]  # w x y z
    target_m: list[float]  # (3,), in the base frame
    distance_m: float
    reached: bool


class MujocoArm:
    """The physics. Not thread-safe but for `snapshot`, whose array is the caller's."""

    def __init__(self, robot: Robot, settings: ArmSettings) -> None:
        """At the start pose of seed 0."""
        if robot.mode in TOOL_MODES:
            raise InputError(
                f"simulated arm: {robot.file} has command.mode={robot.mode}, and the arm has no Cartesian controller: "
                "simulate a description with a joint mode"
            )
        step = round(robot.control_period_s / settings.physics_step_s)
        if step < 1 or not math.isclose(step * settings.physics_step_s, robot.control_period_s, rel_tol=1e-6):
            raise InputError(
                f"simulated arm: physics_step_s={settings.physics_step_s} does not divide control_period_s="
                f"{robot.control_period_s} of {robot.file}"
            )
        self._robot, self._settings = robot, settings
        self._built = build_arm(robot, settings.physics_step_s)
        self.model, self._data = self._built.model, mujoco.MjData(self._built.model)
        self._tool, self._tool_body = self.model.site("tool").id, self.model.body("tool").id
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin the episode of a seed: at rest near the start pose, with a target."""
        self._seed, self._commands, self._idle = seed, 0, 0  # `_idle`: periods without a command, since the last one
        self._left = 0  # physics steps until the command is reached
        generator = np.random.default_rng([seed, 0])
        position = self._draw(generator, self._settings.start_spread)
        mujoco.mj_resetData(self.model, self._data)
        self._data.qpos[self._built.qpos] = position
        self._data.mocap_pos[self._built.target] = self._draw_target(generator)
        self._setpoint = np.array(position)
        self._command = self._setpoint.copy()  # positions, or velocities
        if self._robot.mode == "joint_velocity":
            self._command[:] = 0.0
        self._data.ctrl[self._built.springs] = position
        mujoco.mj_forward(self.model, self._data)

    def command(self, values: Sequence[float], dead: frozenset[int] = frozenset()) -> None:
        """Positions or velocities, as the description says; joints in `dead` do not hear. Shapes: (J,)."""
        alive = [index for index in range(len(self._command)) if index not in dead]
        self._command[alive] = np.asarray(values, np.float64)[alive]
        self._commands, self._idle = self._commands + 1, 0
        self._left = round(self._robot.control_period_s / self._settings.physics_step_s)

    def hold(self) -> None:
        """Stay where the setpoint is."""
        self._left = 0
        self._command = np.zeros_like(self._setpoint) if self._robot.mode == "joint_velocity" else self._setpoint.copy()

    def brake(self) -> None:
        """Nobody commands: the brakes close, and the joints stand where they are."""
        self._idle += 1
        self._data.qvel[:] = 0.0
        self._setpoint = self._data.qpos[self._built.qpos].copy()
        self._data.ctrl[self._built.springs] = self._setpoint
        self._data.ctrl[self._built.dampers] = 0.0
        self.hold()

    def advance(self, duration_s: float) -> None:
        """Let so much time go by, in whole physics steps.

        The setpoint goes to a commanded position on a straight line that takes a control period.
        """
        step_s, built, data = self._settings.physics_step_s, self._built, self._data
        for _ in range(max(round(duration_s / step_s), 1)):
            if self._robot.mode == "joint_velocity":
                change = self._command * step_s
            elif self._left > 0:
                change = (self._command - self._setpoint) / self._left
                self._left -= 1
            else:
                change = np.zeros_like(self._setpoint)
            self._setpoint = self._setpoint + change
            data.ctrl[built.springs], data.ctrl[built.dampers] = self._setpoint, change / step_s
            mujoco.mj_step(self.model, data)

    def measure(self) -> Measurement:
        """Everything, now, with the noise of this command."""
        built, data, settings = self._built, self._data, self._settings
        mujoco.mj_forward(self.model, data)
        position, velocity = data.qpos[built.qpos].copy(), data.qvel[built.dofs].copy()
        if settings.position_noise or settings.velocity_noise:
            noise = np.random.default_rng([self._seed, 1, self._commands]).normal(size=(2, len(position)))
            position += noise[0] * settings.position_noise
            velocity += noise[1] * settings.velocity_noise
        quaternion = np.empty(4)
        mujoco.mju_mat2Quat(quaternion, data.site_xmat[self._tool])
        tool, target = data.site_xpos[self._tool], data.mocap_pos[built.target]
        distance = float(np.linalg.norm(tool - target))
        return Measurement(
            position=position.tolist(),
            velocity=velocity.tolist(),
            effort=data.qfrc_actuator[built.dofs].tolist(),
            force_N=data.sensor("force").data.tolist(),
            torque_Nm=data.sensor("torque").data.tolist(),
            tool_m=tool.tolist(),
            tool_quaternion=quaternion.tolist(),
            target_m=target.tolist(),
            distance_m=distance,
            reached=distance < settings.reach_m,
        )

    def chance(self) -> np.random.Generator:
        """Draws that the seed and the number of commands fix; without commands they go on."""
        return np.random.default_rng([self._seed, 2, self._commands, self._idle])

    def snapshot(self) -> tuple[Array, Array]:
        """What a picture follows from: joint positions, target. Shapes: (nq,), (3,)."""
        return self._data.qpos.copy(), self._data.mocap_pos[self._built.target].copy()

    def _draw(self, generator: np.random.Generator, spread: float) -> list[float]:
        """A pose near the start pose and inside the limits; no further than arming allows."""
        pose = []
        for joint in self._robot.joints:
            shift = generator.uniform(-spread, spread)
            pose.append(float(np.clip(joint.start + shift, joint.low, joint.high)))
        return pose

    def _draw_target(self, generator: np.random.Generator) -> tuple[float, float, float]:
        """A point that the tool can reach: where it is in a pose near the start."""
        tool, box = self._robot.tool_point(), self._robot.workspace
        for _ in range(TRIES):
            point = tool(self._draw(generator, self._settings.target_spread))
            if all(low <= x <= high for low, x, high in zip(box.low_m, point, box.high_m, strict=True)):
                return point
        raise InputError(
            f"simulated arm: no target within target_spread={self._settings.target_spread} of the start pose lies in "
            f"the workspace of {self._robot.file}: make it smaller"
        )


class ArmCamera:
    """Pictures of an arm from its own copy of the data; made, used and closed in one thread."""

    def __init__(self, model: Any, camera: str, size: int) -> None:
        """Opens an off-screen context of the renderer that `MUJOCO_GL` names."""
        self._data = mujoco.MjData(model)
        self._model, self._camera = model, camera
        self._renderer = mujoco.Renderer(model, size, size)

    def picture(self, snapshot: tuple[Array, Array]) -> Array:
        """The scene. Shapes: -> (size, size, 3), uint8."""
        qpos, target = snapshot
        self._data.qpos[:] = qpos
        self._data.mocap_pos[0] = target
        mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, camera=self._camera)
        return np.ascontiguousarray(self._renderer.render())

    def close(self) -> None:
        """Free the context."""
        self._renderer.close()
