"""A MuJoCo arm from a robot description: its kinematics, with bodies that are ours, since a description has none.

The description says where the joints are and how far, fast and strong they may move, not how heavy the links are. So
this is a stand-in with the right geometry: links of equal mass on straight capsules, gravity compensated, and servos
whose stiffness follows from the inertia at the start pose. Nothing measured on it is a statement about the real arm.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

import mujoco
import numpy as np

from robot_rl.hardware.description import Robot

LINK_MASS_KG = 1.0
TOOL_MASS_KG = 0.05
ARMATURE = 0.02  # kg m^2, of motors behind gears
SERVO_RAD_S = 60.0  # natural frequency of the servos, critically damped
ON_TOOL = ("wrist", "hand", "tool", "gripper")
"""A camera with one of these words in its name looks from the tool, every other from beside the workspace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmModel:
    """The model, and where things are in it."""

    model: mujoco.MjModel
    qpos: list[int]  # (J,) addresses
    dofs: list[int]  # (J,) addresses
    springs: list[int]  # (J,) actuators that take positions
    dampers: list[int]  # (J,) actuators that take velocities
    target: int  # number of the mocap body


def build_arm(robot: Robot, physics_step_s: float) -> ArmModel:
    """The model of a description, in memory."""
    model = mujoco.MjModel.from_xml_string(arm_xml(robot, physics_step_s))
    joints = [model.joint(name) for name in robot.names]
    built = ArmModel(
        model=model,
        qpos=[int(joint.qposadr[0]) for joint in joints],
        dofs=[int(joint.dofadr[0]) for joint in joints],
        springs=[int(model.actuator(f"{name}_position").id) for name in robot.names],
        dampers=[int(model.actuator(f"{name}_velocity").id) for name in robot.names],
        target=int(model.body_mocapid[model.body("target").id]),
    )
    _set_servos(built, [joint.start for joint in robot.joints])
    return built


def arm_xml(robot: Robot, physics_step_s: float) -> str:
    """MJCF of the arm, its target and its cameras."""
    root = Element("mujoco", model=robot.name)
    # URDF's roll, pitch, yaw turn about fixed axes, which capital letters mean.
    SubElement(root, "compiler", angle="radian", eulerseq="XYZ", autolimits="true")
    SubElement(root, "option", timestep=repr(physics_step_s), integrator="implicitfast", gravity="0 0 -9.81")
    visual = SubElement(root, "visual")
    SubElement(visual, "global", offwidth="640", offheight="640")
    SubElement(visual, "quality", shadowsize="1024", offsamples="0")
    world = SubElement(root, "worldbody")
    SubElement(world, "light", pos="0 0 3", dir="0 0 -1", diffuse="0.6 0.6 0.6")
    SubElement(world, "geom", type="plane", size="2 2 0.1", rgba="0.55 0.6 0.55 1", contype="1", conaffinity="1")
    _add_links(world, root, robot)
    target = SubElement(world, "body", name="target", mocap="true", pos="0 0 -1")
    SubElement(target, "geom", type="sphere", size="0.02", rgba="0.9 0.1 0.1 1", contype="0", conaffinity="0")
    return tostring(root, encoding="unicode")


def _add_links(world: Element, root: Element, robot: Robot) -> None:
    links, chain = robot.chain.links, robot.chain
    actuators, sensors = SubElement(root, "actuator"), SubElement(root, "sensor")
    radius = 0.1 * max(0.2, *(math.hypot(*link.xyz_m) for link in links)) * 0.8
    parent = world
    ends = [*(link.xyz_m for link in links[1:]), chain.tool_xyz_m]
    for link, end in zip(links, ends, strict=True):
        parent = SubElement(parent, "body", name=f"{link.joint}_link", pos=_text(link.xyz_m), gravcomp="1")
        parent.set("euler", _text(link.rpy_rad))
        _add_joint(parent, actuators, link.joint, link.axis, robot)
        shape = {"mass": repr(LINK_MASS_KG), "rgba": "0.85 0.85 0.9 1", "contype": "0", "conaffinity": "0"}
        if math.hypot(*end) > 1e-3:
            SubElement(parent, "geom", type="capsule", fromto=_text((0, 0, 0, *end)), size=repr(radius), attrib=shape)
        else:
            SubElement(parent, "geom", type="sphere", size=repr(radius), attrib=shape)
    tool = SubElement(parent, "body", name="tool", pos=_text(chain.tool_xyz_m), gravcomp="1")
    tool.set("euler", _text(chain.tool_rpy_rad))
    small = repr(0.4 * radius)
    SubElement(tool, "geom", type="sphere", size=small, mass=repr(TOOL_MASS_KG), rgba="0.2 0.3 0.8 1")
    SubElement(tool, "site", name="tool")
    SubElement(sensors, "force", name="force", site="tool")
    SubElement(sensors, "torque", name="torque", site="tool")
    moved = {link.joint for link in links}
    for index, joint in enumerate(joint for joint in robot.joints if joint.name not in moved):
        body = SubElement(tool, "body", name=f"{joint.name}_link", pos=f"0 {0.03 * (index + 1)} 0", gravcomp="1")
        _add_joint(body, actuators, joint.name, (0.0, 0.0, 1.0), robot)
        SubElement(body, "geom", type="sphere", size=small, mass=repr(TOOL_MASS_KG), contype="0", conaffinity="0")
    _add_cameras(world, tool, robot)


def _add_joint(body: Element, actuators: Element, name: str, axis: tuple[float, float, float], robot: Robot) -> None:
    joint = next(joint for joint in robot.joints if joint.name == name)
    attributes = {"name": name, "type": "slide" if joint.prismatic else "hinge", "axis": _text(axis)}
    if joint.low < joint.high:
        attributes["range"] = _text((joint.low, joint.high))
    SubElement(
        body, "joint", attributes, armature=repr(ARMATURE), actuatorfrcrange=_text((-joint.effort, joint.effort))
    )
    SubElement(actuators, "position", name=f"{name}_position", joint=name, kp="1")
    SubElement(actuators, "velocity", name=f"{name}_velocity", joint=name, kv="1")


def _add_cameras(world: Element, tool: Element, robot: Robot) -> None:
    low, high = np.asarray(robot.workspace.low_m), np.asarray(robot.workspace.high_m)
    middle, reach = (low + high) / 2, float(np.linalg.norm(high - low))
    SubElement(world, "body", name="middle", pos=_text(middle))
    beside = [name for name in robot.cameras if not any(word in name for word in ON_TOOL)]
    for name in robot.cameras:
        if name not in beside:
            SubElement(tool, "camera", name=name, pos="0.06 0 -0.04", euler=f"{math.pi!r} 0 0", fovy="80")
            continue
        angle = 0.6 + 2.1 * beside.index(name)  # rad about the vertical, each from another side
        at = middle + 1.1 * reach * np.array([math.cos(angle), math.sin(angle), 0.5])
        SubElement(world, "camera", name=name, pos=_text(at), mode="targetbody", target="middle", fovy="50")


def _set_servos(arm: ArmModel, start: list[float]) -> None:
    """Springs and dampers in proportion to each joint's inertia at the start pose."""
    model, data = arm.model, mujoco.MjData(arm.model)
    data.qpos[arm.qpos] = start
    mujoco.mj_forward(model, data)
    inertia = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, inertia, data.qM)
    for dof, spring, damper in zip(arm.dofs, arm.springs, arm.dampers, strict=True):
        stiffness, damping = inertia[dof, dof] * SERVO_RAD_S**2, 2.0 * inertia[dof, dof] * SERVO_RAD_S
        model.actuator_gainprm[spring, 0], model.actuator_biasprm[spring, 1] = stiffness, -stiffness
        model.actuator_gainprm[damper, 0], model.actuator_biasprm[damper, 2] = damping, -damping


def _text(numbers: Iterable[float]) -> str:
    return " ".join(repr(float(x)) for x in numbers)
