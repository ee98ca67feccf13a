"""Gaps of the physical model as run-time changes of an `MjModel`: no XML is edited, and every change can be undone."""

from typing import Any

import mujoco
import numpy as np

from robot_rl.sim.gap import MODEL_FIELDS, NOMINAL, Gap
from robot_rl.types import Array

KEPT = (
    "body_mass",
    "body_inertia",
    "body_ipos",
    "dof_damping",
    "dof_frictionloss",
    "dof_armature",
    "actuator_gainprm",
    "actuator_biasprm",
    "geom_friction",
    "pair_friction",
    "jnt_range",
    # what mj_setConst derives
    "body_subtreemass",
    "body_invweight0",
    "dof_M0",
    "dof_invweight0",
    "tendon_length0",
    "tendon_invweight0",
    "actuator_length0",
    "actuator_acc0",
    "cam_pos0",
    "cam_poscom0",
    "cam_mat0",
    "light_pos0",
    "light_poscom0",
    "light_dir0",
)
DERIVED_FROM = ("mass", "center_of_mass_x_m", "armature")
"""Gaps after which mj_setConst has to run."""
SCALED_GAINS = (mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtGain.mjGAIN_AFFINE)
SCALED_BIASES = (mujoco.mjtBias.mjBIAS_NONE, mujoco.mjtBias.mjBIAS_AFFINE)
STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
PROBE_STEPS = 60
"""Physics steps of a comparison of two models."""


class ModelGap:
    """One model, as it came and as it is now.

    Applying a gap always begins with the model as it came, so that applying twice is applying once.

    Args:
        model: an `mujoco.MjModel`; it is changed in place.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._nominal = {name: getattr(model, name).copy() for name in KEPT}
        self._gravity = model.opt.gravity.copy()
        self._statistic = {name: np.copy(getattr(model.stat, name)) for name in STATISTIC}
        self._scratch = mujoco.MjData(model)
        self._torque = largest_torque(model)

    def restore(self) -> None:
        """The model as it came, to the last bit."""
        for name, values in self._nominal.items():
            getattr(self.model, name)[:] = values
        self.model.opt.gravity[:] = self._gravity
        self._put_statistic(STATISTIC)

    def apply(self, gap: Gap) -> None:
        """The model with the gap, whatever was applied before."""
        model = self.model
        self.restore()
        model.opt.gravity[:] *= gap.gravity
        model.body_mass[:] *= gap.mass
        model.body_inertia[:] *= gap.mass
        moving = model.body_weldid > 0
        model.body_ipos[moving, 0] += gap.center_of_mass_x_m
        model.dof_damping[:] *= gap.damping
        model.dof_frictionloss[:] += gap.coulomb * self._torque
        model.dof_armature[:] *= gap.armature
        scaled = scaled_actuators(model)
        model.actuator_gainprm[scaled, :3] *= gap.gear
        model.actuator_biasprm[scaled, :3] *= gap.gear
        # A contact takes the larger friction of its two geoms, so all of them are scaled, the floor's too.
        model.geom_friction[:, 0] *= gap.contact_friction
        model.pair_friction[:, :2] *= gap.contact_friction
        self._scale_ranges(gap.joint_range)
        if any(getattr(gap, name) != getattr(NOMINAL, name) for name in DERIVED_FROM):
            mujoco.mj_setConst(model, self._scratch)
            self._put_statistic(PICTURE)

    def _scale_ranges(self, factor: float) -> None:
        for joint in range(self.model.njnt):
            scalar = self.model.jnt_type[joint] in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
            if scalar and self.model.jnt_limited[joint]:
                low, high = self._nominal["jnt_range"][joint]
                start = float(self.model.qpos0[self.model.jnt_qposadr[joint]])
                middle = min(max(start, low), high)
                self.model.jnt_range[joint] = middle + factor * (np.array((low, high)) - middle)

    def _put_statistic(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name == "center":
                self.model.stat.center[:] = self._statistic[name]
            else:
                setattr(self.model.stat, name, float(self._statistic[name]))

    def without_effect(self, gap: Gap, state: Any) -> list[str]:
        """Model fields of the gap that change nothing that this model does, such as gravity on a planar arm.

        Each is applied alone and the motion under random controls from `state`, an `MjData`, compared with the nominal
        one. Contact friction and joint limits show in rare states only: they count where bodies can touch and joints
        are limited. The model is left as it came.
        """
        self.restore()
        differing = [name for name in MODEL_FIELDS if name in gap.differing()]
        nominal = self._motion(state) if differing else np.zeros(0)
        idle = []
        for name in differing:
            if name == "contact_friction":
                effect = can_touch(self.model)
            elif name == "joint_range":
                effect = bool(self.model.jnt_limited.any())
            else:
                self.apply(NOMINAL.with_values({name: getattr(gap, name)}))
                effect = not np.allclose(self._motion(state), nominal, rtol=1e-7, atol=1e-9)
            if not effect:
                idle.append(name)
        self.restore()
        return idle

    def _motion(self, state: Any) -> Array:
        """Positions and velocities after random controls. Shapes: (nq + nv,)."""
        model, data, generator = self.model, self._scratch, np.random.default_rng(0)
        whole = np.zeros(mujoco.mj_stateSize(model, STATE))
        mujoco.mj_getState(model, state, whole, STATE)
        mujoco.mj_setState(model, data, whole, STATE)
        low, high = np.where(model.actuator_ctrllimited[:, None], model.actuator_ctrlrange, (-1.0, 1.0)).T
        for _ in range(PROBE_STEPS):
            data.ctrl[:] = generator.uniform(low, high)
            mujoco.mj_step(model, data)
        return np.concatenate([data.qpos, data.qvel])


PICTURE = ("extent", "center", "meansize")
"""Statistics that only pictures use, and that a model's author may have set."""
STATISTIC = (*PICTURE, "meaninertia", "meanmass")


def scaled_actuators(model: Any) -> Array:
    """Actuators whose force is a linear function of control, length and velocity. Shapes: (nu,), bool."""
    gains = np.isin(model.actuator_gaintype, [int(kind) for kind in SCALED_GAINS])
    linear: Array = gains & np.isin(model.actuator_biastype, [int(kind) for kind in SCALED_BIASES])
    return linear


def largest_torque(model: Any) -> Array:
    """The largest torque (N m, or N) that the actuators together put on each degree of freedom. Shapes: (nv,).

    From the force limits, else from gain times the largest control; actuators without either count as control 1.
    """
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    control = np.where(model.actuator_ctrllimited, np.abs(model.actuator_ctrlrange).max(axis=1, initial=0.0), 1.0)
    force = np.abs(model.actuator_gainprm[:, 0]) * control
    limited = model.actuator_forcelimited.astype(bool)
    force = np.where(limited, np.minimum(force, np.abs(model.actuator_forcerange).max(axis=1, initial=0.0)), force)
    force = np.where(scaled_actuators(model), force, 0.0)
    moment = np.zeros((model.nu, model.nv))
    if model.nu:
        mujoco.mju_sparse2dense(
            moment, data.actuator_moment, data.moment_rownnz, data.moment_rowadr, data.moment_colind
        )
    torque: Array = force @ np.abs(moment)
    return torque


def can_touch(model: Any) -> bool:
    """Whether any two geoms of different bodies can be in contact."""
    if model.opt.disableflags & int(mujoco.mjtDisableBit.mjDSBL_CONTACT):
        return False
    one, other = model.geom_contype, model.geom_conaffinity
    pairs = (one[:, None] & other[None, :]) | (other[:, None] & one[None, :])
    apart = model.geom_bodyid[:, None] != model.geom_bodyid[None, :]
    return bool(model.npair > 0 or (pairs.astype(bool) & apart).any())


def resting_control(model: Any, data: Any) -> Array:
    """Controls at which actuators push with no force now: 0 for motors, the present position for servos. Shapes: (nu,).

    It is what the motors do until the first command arrives.
    """
    gain, bias = model.actuator_gainprm[:, 0], model.actuator_biasprm
    scaled = scaled_actuators(model) & (gain != 0)
    passive = bias[:, 0] + bias[:, 1] * data.actuator_length
    control = np.where(scaled, -passive / np.where(scaled, gain, 1.0), 0.0)
    low, high = model.actuator_ctrlrange.T
    clipped: Array = np.where(model.actuator_ctrllimited, np.clip(control, low, high), control)
    return clipped
