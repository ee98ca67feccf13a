"""Gaps of the model do to motion what they say, leave no trace, and are told apart from those that do nothing."""

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.sim.gap import MODEL_FIELDS, NOMINAL, Gap
from robot_rl.sim.gymnasium_env import GymnasiumEnvironment
from robot_rl.sim.model_gap import ModelGap, largest_torque, resting_control

CART = """
<mujoco><option timestep="0.001" gravity="0 0 -10" cone="elliptic"/><worldbody>
  <geom name="floor" type="plane" size="10 10 .1" friction="0.4 0.005 0.0001"/>
  <body name="cart" pos="0 0 5"><joint name="slide" type="slide" {joint}/>
    <geom type="box" size=".1 .1 .1" mass="2" contype="0" conaffinity="0"/></body>
  <body name="block" pos="0 5 .1"><freejoint/>
    <geom name="block" type="box" size=".1 .1 .1" mass="1" friction="0.4 0.005 0.0001"/></body>
</worldbody><actuator>{actuator}</actuator></mujoco>
"""
MOTOR = '<motor joint="slide" gear="3" ctrlrange="-2 2" ctrllimited="true"/>'
SERVO = '<position joint="slide" kp="50" ctrlrange="-1 1" ctrllimited="true"/>'
PENDULUM = """
<mujoco><option timestep="0.001" gravity="0 0 -10"/><worldbody><body>
  <joint type="hinge" axis="0 1 0"/><geom type="sphere" size=".01" mass="1" pos=".5 0 0"/>
</body></worldbody></mujoco>
"""


def cart(gap: Gap, joint: str = "", actuator: str = MOTOR) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """A cart on a rail that touches nothing, and a block on the floor, with a gap."""
    rail = joint if "axis" in joint else f'axis="1 0 0" {joint}'
    model = mujoco.MjModel.from_xml_string(CART.format(joint=rail, actuator=actuator))
    ModelGap(model).apply(gap)
    return model, mujoco.MjData(model)


def push(gap: Gap, control: float, steps: int, joint: str = "", actuator: str = MOTOR) -> tuple[float, float]:
    """Position (m) and velocity (m/s) of the cart after steps of 1 ms under a constant control."""
    model, data = cart(gap, joint, actuator)
    data.ctrl[0] = control
    mujoco.mj_step(model, data, steps)
    return float(data.qpos[0]), float(data.qvel[0])


def test_a_body_falls_with_the_gravity_of_the_gap() -> None:
    for gravity in (1.0, 0.5, 2.0):
        model, data = cart(Gap(gravity=gravity))
        data.qpos[3] = 4.0  # the block, high above the floor
        mujoco.mj_step(model, data, 100)
        assert data.qvel[3] == pytest.approx(-10.0 * gravity * 0.1, rel=1e-6)


@pytest.mark.parametrize("factor", [1.0, 0.5, 1.5])
def test_a_pushed_block_is_braked_by_the_friction_of_both_the_block_and_the_floor(factor) -> None:
    model, data = cart(Gap(contact_friction=factor))
    mujoco.mj_step(model, data, 200)  # it settles
    assert data.ncon > 0
    assert data.contact[0].friction[0] == pytest.approx(0.4 * factor)
    data.qvel[1] = 2.0  # m/s along x
    mujoco.mj_step(model, data, 100)
    # Coulomb: it loses mu g t = 0.4 * 10 * 0.1 m/s, for each unit of the factor.
    assert 2.0 - data.qvel[1] == pytest.approx(0.4 * factor, rel=0.05)


def test_friction_of_half_a_cheetah_changes_where_it_touches_the_floor() -> None:
    environment = GymnasiumEnvironment(id="HalfCheetah-v5")
    model, data = environment.physics
    environment.reset(seed=0)
    physics = ModelGap(model)
    for factor in (1.0, 0.3):
        physics.apply(Gap(contact_friction=factor))
        mujoco.mj_resetData(model, data)
        mujoco.mj_step(model, data, 100)
        assert data.ncon > 0
        assert [contact.friction[0] for contact in data.contact] == pytest.approx([0.4 * factor] * data.ncon)
    environment.close()


def test_heavier_carts_accelerate_less_but_fall_the_same() -> None:
    # a = gear * control / mass = 3 * 1 / 2 m/s^2
    assert push(Gap(), 1.0, 100)[1] == pytest.approx(0.15, rel=1e-6)
    assert push(Gap(mass=1.5), 1.0, 100)[1] == pytest.approx(0.10, rel=1e-6)
    model, data = cart(Gap(mass=1.5))
    data.qpos[3] = 4.0
    mujoco.mj_step(model, data, 100)
    assert data.qvel[3] == pytest.approx(-1.0, rel=1e-6)


def test_mass_reaches_what_mujoco_derives_from_it() -> None:
    environment = GymnasiumEnvironment(id="HalfCheetah-v5")  # whose density is void: settotalmass=14
    model, _ = environment.physics
    before = model.body_subtreemass[0], model.dof_M0.copy()
    ModelGap(model).apply(Gap(mass=1.2))
    assert model.body_subtreemass[0] == pytest.approx(1.2 * before[0])
    assert (model.dof_M0[:3] > before[1][:3] * 1.1).all()
    environment.close()


def test_gear_scales_the_force_of_motors_and_the_stiffness_of_servos() -> None:
    assert push(Gap(gear=0.8), 1.0, 100)[1] == pytest.approx(0.8 * 0.15, rel=1e-6)
    for gear in (1.0, 0.5):
        # A servo that carries the cart's weight (a vertical rail) sinks by m g / kp, wherever its target is.
        depth, _ = push(Gap(gear=gear), 0.3, 20_000, 'axis="0 0 1" damping="20"', SERVO)
        assert depth == pytest.approx(0.3 - 20.0 / (50.0 * gear), abs=1e-4)


def test_damping_sets_the_final_speed() -> None:
    for factor in (1.0, 2.0):
        # gear * control / damping = 3 / 6 m/s
        assert push(Gap(damping=factor), 1.0, 20_000, 'damping="6"')[1] == pytest.approx(0.5 / factor, rel=1e-4)


def test_coulomb_friction_holds_the_joint_below_its_share_of_the_largest_torque() -> None:
    # The largest force is gear * ctrlrange = 6 N; a tenth of it, 0.6 N, is a control of 0.2.
    model, _ = cart(Gap())
    assert largest_torque(model)[0] == pytest.approx(6.0)
    assert abs(push(Gap(coulomb=0.1), 0.18, 1000)[1]) < 0.01
    free = push(Gap(), 0.25, 1000)[1]
    moved = push(Gap(coulomb=0.1), 0.25, 1000)[1]
    assert moved == pytest.approx(free - 0.6 / 2.0, rel=0.05)


def test_armature_adds_to_the_mass_that_motors_move() -> None:
    # a = 3 / (2 + armature)
    assert push(Gap(armature=2.0), 1.0, 100, 'armature="0.5"')[1] == pytest.approx(0.1 * 3 / 3.0, rel=1e-6)
    assert push(Gap(), 1.0, 100, 'armature="0.5"')[1] == pytest.approx(0.1 * 3 / 2.5, rel=1e-6)


def test_a_shifted_centre_of_mass_lengthens_a_pendulum() -> None:
    accelerations = []
    for shift in (0.0, 0.1):
        model = mujoco.MjModel.from_xml_string(PENDULUM)
        ModelGap(model).apply(Gap(center_of_mass_x_m=shift))
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        accelerations.append(float(data.qacc[0]))
    # A point mass at r: g r / (r^2 + I / m), with I of a sphere of 1 cm next to nothing.
    assert np.abs(accelerations) == pytest.approx([10 / 0.5, 10 / 0.6], rel=1e-3)


def test_a_narrower_joint_stops_earlier() -> None:
    limits = 'limited="true" range="-0.5 1.0"'
    assert push(Gap(), 2.0, 5000, limits)[0] == pytest.approx(1.0, abs=0.02)
    assert push(Gap(joint_range=0.5), 2.0, 5000, limits)[0] == pytest.approx(0.5, abs=0.02)
    assert push(Gap(joint_range=0.5), -2.0, 5000, limits)[0] == pytest.approx(-0.25, abs=0.02)


def snapshot(model: mujoco.MjModel) -> dict[str, np.ndarray]:
    """Every array of a model, its gravity and its statistics."""
    found = {name: getattr(model, name).copy() for name in ARRAYS}
    found["gravity"] = model.opt.gravity.copy()
    for name in ("extent", "center", "meansize", "meaninertia", "meanmass"):
        found[name] = np.copy(getattr(model.stat, name))
    return found


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    """Names of the arrays that differ in any bit."""
    return [name for name in one if not np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f")]


GAPS = st.fixed_dictionaries(
    {},
    optional={
        "gravity": st.floats(0.1, 3),
        "mass": st.floats(0.5, 2),
        "center_of_mass_x_m": st.floats(-0.05, 0.05),
        "gear": st.floats(0.3, 2),
        "damping": st.floats(0, 3),
        "coulomb": st.floats(0, 0.1),
        "armature": st.floats(0.5, 3),
        "contact_friction": st.floats(0.1, 2),
        "joint_range": st.floats(0.5, 1.5),
    },
).map(lambda values: Gap(**values))
PARTS = ("actuator_", "body_", "cam_", "dof_", "geom_", "jnt_", "light_", "tendon_")
ARRAYS = [name for name in dir(mujoco.MjModel) if name.startswith(PARTS)]
HOPPER = GymnasiumEnvironment(id="Hopper-v5").physics[0]


@given(first=GAPS, second=GAPS)
def test_applying_twice_is_applying_once_and_restoring_leaves_no_bit_changed(first, second) -> None:
    before = snapshot(HOPPER)
    physics = ModelGap(HOPPER)
    physics.apply(second)
    once = snapshot(HOPPER)
    for gap in (first, second, second):
        physics.apply(gap)
    assert differences(once, snapshot(HOPPER)) == []
    physics.restore()
    assert differences(before, snapshot(HOPPER)) == []


@pytest.mark.parametrize("name", MODEL_FIELDS)
def test_every_gap_of_the_model_changes_it_and_is_found_to_have_an_effect(name) -> None:
    before = snapshot(HOPPER)
    physics = ModelGap(HOPPER)
    gap = NOMINAL.with_values({name: 0.02 if getattr(NOMINAL, name) == 0 else 1.3})
    physics.apply(gap)
    assert differences(before, snapshot(HOPPER))
    assert physics.without_effect(gap, mujoco.MjData(HOPPER)) == []
    assert differences(before, snapshot(HOPPER)) == []


def test_gaps_that_change_no_motion_are_found() -> None:
    model, data = cart(Gap(), actuator="")
    # No actuators, no damping, no armature, no limits; the block and the floor touch, and gravity presses it down.
    gap = Gap(gravity=2.0, gear=0.5, damping=2.0, coulomb=0.1, armature=2.0, joint_range=0.5, contact_friction=0.5)
    idle = ModelGap(model).without_effect(gap, data)
    assert idle == ["gear", "damping", "coulomb", "armature", "joint_range"]
    apart = mujoco.MjModel.from_xml_string(PENDULUM)
    assert ModelGap(apart).without_effect(Gap(contact_friction=0.5), mujoco.MjData(apart)) == ["contact_friction"]


def test_a_resting_servo_holds_where_it_is_and_a_resting_motor_does_nothing() -> None:
    for actuator, wanted in ((SERVO, 0.4), (MOTOR, 0.0)):
        model, data = cart(Gap(), actuator=actuator)
        data.qpos[0] = 0.4
        mujoco.mj_forward(model, data)
        assert resting_control(model, data) == pytest.approx([wanted])
