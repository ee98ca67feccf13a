"""Observations of raw robosuite recordings: play the recorded simulator states in the installed robosuite.

Raw `demo.hdf5` files hold states and actions only. A recorded state is the one before its action; the state after the
last action is not recorded, so the last action is left out: every transition of the episode is then a recorded one,
with the reward and success of the state it led to.

The recorded model is compiled without its meshes (its file names are those of the author's machine) to prove that the
installed model means the same by the same numbers: as many joints, of the same kind, at the same places.
"""

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np

from robot_rl.errors import InputError
from robot_rl.sim.robosuite_env import import_robosuite, make_task, observation_keys, observe
from robot_rl.types import Array, Episode

KINEMATIC_TOLERANCE_M = 0.005
"""Largest distance between a joint of the recorded model and of the installed one, in the same state."""
CHECKED_STATES = 20  # at which the joints are compared
HIDDEN_STATE = {
    "Wipe": "which markers are wiped, and where they lie, is not part of the recorded states",
    "NutAssemblySingle": "which nut the episode is about is not part of the recorded states",
    "PickPlaceSingle": "which object the episode is about is not part of the recorded states",
}
FIRST_VERSION = (1, 0)  # of robosuite, whose recordings name tasks, robots and joints as the installed one does


def resimulate(environment_info: Mapping[str, Any], model_xml: str, states: Array, actions: Array) -> Episode:
    """The episode that a raw recording stands for. Shapes: states (N, 1 + nq + nv), actions (N, A) -> N - 1 steps.

    Args:
        environment_info: `env_info` of the file: `env_name`, `robots`; `repository_version` where it is known.
        model_xml: the recorded model.
        states: time in s, joint positions, joint velocities.
        actions: as recorded.

    Returns:
        Observations under the keys of `RobosuiteEnvironment`, robosuite's sparse reward, success, the states as extra.

    Raises:
        InputError: the installed simulator does not fit the recording; says how.
    """
    task, robot = task_and_robot(environment_info)
    env = make_task(task, robot, "OSC_POSE", 20.0, reward_shaping=False)
    env.reset()
    model, data = env.sim.model._model, env.sim.data._data
    recorded = compile_without_meshes(model_xml)
    need_same_joints(recorded, model, states)
    place_fixed_bodies(recorded, model)
    deviation_m = kinematic_deviation(recorded, model, states)
    if deviation_m > KINEMATIC_TOLERANCE_M:
        raise InputError(
            f"in the same state the joints of the recorded {task} and of the installed one are up to "
            f"{deviation_m * 1000:.0f} mm apart: replay it with the robosuite that recorded it"
        )
    keys = observation_keys(env, None)
    rows: dict[str, list[Array]] = {key: [] for key in keys}
    success, reward = [], []
    for index, state in enumerate(states):
        set_state(model, data, state)
        env.sim.forward()
        for key, value in observe(env, keys).items():
            rows[key].append(value)
        success.append(bool(env._check_success()))
        reward.append(float(env.reward(actions[index])))
    steps = len(states) - 1
    truncated = np.zeros(steps, np.bool_)
    truncated[-1] = True  # the recording stops; the task has no end of its own
    return Episode(
        observation={key: np.stack(values) for key, values in rows.items()},
        action=np.asarray(actions[:-1], np.float64),
        reward=np.array(reward[1:]),
        terminated=np.zeros(steps, np.bool_),
        truncated=truncated,
        success=np.array(success[1:]),
        extras={"simulator_state": np.asarray(states, np.float64)},
        metadata={
            "resimulated_with": f"robosuite {import_robosuite().__version__}",
            "kinematic_deviation_m": deviation_m,
            "left_out": "the last action: the state after it is not recorded",
        },
    )


def task_and_robot(info: Mapping[str, Any]) -> tuple[str, str]:
    """Name of the task and of its one robot.

    Raises:
        InputError: the recording is older than robosuite 1.0, of several robots, or of a task with hidden state.
    """
    version = str(info.get("repository_version", "1.0"))
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    robots = info.get("robots")
    if numbers < FIRST_VERSION or robots is None:
        raise InputError(
            f"{info.get('env_name')} was recorded by robosuite {version}, whose tasks, robots and joints are not the "
            "installed one's: convert it with the robosuite that recorded it"
        )
    names = [robots] if isinstance(robots, str) else list(robots)
    if len(names) != 1:
        raise InputError(f"recordings of several robots ({', '.join(names)}) are not supported")
    task = str(info.get("env_name"))
    if task in HIDDEN_STATE:
        raise InputError(f"{task} cannot be played from states: {HIDDEN_STATE[task]}")
    return task, names[0]


def compile_without_meshes(model_xml: str) -> Any:
    """The recorded model as `mujoco.MjModel`, without what it loads from files: meshes, textures, and what uses them.

    Raises:
        InputError: the text is no model that MuJoCo compiles.
    """
    try:
        root = ElementTree.fromstring(model_xml)
        for asset in root.findall("asset"):
            root.remove(asset)
        for parent in list(root.iter()):
            parent.attrib.pop("material", None)
            for geometry in [child for child in parent.findall("geom") if child.get("mesh") is not None]:
                parent.remove(geometry)
        compiler = root.find("compiler")
        if compiler is None:
            compiler = ElementTree.SubElement(root, "compiler")
        compiler.attrib |= {"boundmass": "1e-3", "boundinertia": "1e-6"}  # of bodies whose mass was their mesh's
        return mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"the recorded model does not compile: {error}") from error


def need_same_joints(recorded: Any, installed: Any, states: Array) -> None:
    """Refuse a recording whose states are laid out differently.

    Raises:
        InputError: sizes or kinds of joints differ.
    """
    if states.ndim != 2 or len(states) < 2:
        raise InputError(f"states have shape {states.shape}: at least two rows are needed")
    width = 1 + installed.nq + installed.nv
    if states.shape[1] != width:
        raise InputError(
            f"the recorded states have {states.shape[1]} numbers, the installed model {width} "
            f"(time, {installed.nq} positions, {installed.nv} velocities)"
        )
    if not np.isfinite(states).all():
        raise InputError(f"the recorded states hold NaN or infinity in row {np.argwhere(~np.isfinite(states))[0][0]}")
    if not np.array_equal(recorded.jnt_type, installed.jnt_type):
        raise InputError(
            f"the recorded model has {recorded.njnt} joints of types {recorded.jnt_type.tolist()}, the installed one "
            f"{installed.njnt} of types {installed.jnt_type.tolist()}"
        )


def place_fixed_bodies(recorded: Any, installed: Any) -> None:
    """Put what stands in the world, such as the door, where it stood: that is part of the model, not of a state."""
    for body in range(1, recorded.nbody):
        if recorded.body_parentid[body] != 0 or recorded.body_jntnum[body] > 0:
            continue
        name = recorded.body(body).name
        for candidate in (name, f"{name}_main"):
            number = mujoco.mj_name2id(installed, mujoco.mjtObj.mjOBJ_BODY, candidate)
            if number > 0 and installed.body_parentid[number] == 0:
                installed.body_pos[number] = recorded.body_pos[body]
                installed.body_quat[number] = recorded.body_quat[body]


def kinematic_deviation(recorded: Any, installed: Any, states: Array) -> float:
    """Largest distance in m between the same joint in both models, over states of the whole recording."""
    worst = 0.0
    pair = [(model, mujoco.MjData(model)) for model in (recorded, installed)]
    for index in np.linspace(0, len(states) - 1, CHECKED_STATES).astype(int):
        for model, data in pair:
            set_state(model, data, states[index])
            mujoco.mj_kinematics(model, data)
        worst = max(worst, float(np.abs(pair[0][1].xanchor - pair[1][1].xanchor).max()))
    return worst


def set_state(model: Any, data: Any, state: Array) -> None:
    """Shapes: state (1 + nq + nv,)."""
    data.time = state[0]
    data.qpos[:] = state[1 : 1 + model.nq]
    data.qvel[:] = state[1 + model.nq :]
