"""Joint positions and velocities read from observations: which channel is which joint is found by probing a simulator.

A log has no simulator states, only what sensors said. A channel that equals a position, its sine or cosine, or a
velocity, whatever the state, is a sensor of it. What no channel says is differenced (velocities), or left as it is,
which is allowed where nothing that is observed depends on it, such as a runner's distance from the start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from robot_rl.errors import InputError
from robot_rl.sim.simulated import Simulated
from robot_rl.types import Array

PROBES = 5
REACH, SPEED = 0.1, 1.0
"""Largest change of a position and largest speed of a probe, in the joints' units."""
FAST = 1e3
"""Speeds at which it shows whether a channel is cut."""
TOLERANCE = 1e-5
"""Of a float32 channel that equals a float64 state."""
DEPENDENCE_STEPS = 5
DEPENDENCE = 1e-3
"""Share of a channel's motion by which it may change with a coordinate that nobody sees."""
REMEDY = (
    "a log of this task does not say in which state the robot was. Observe the joints (robosuite: "
    "environment.observation=[robot0_joint_pos,robot0_joint_vel,...]), or choose another task"
)


@dataclass(frozen=True, kw_only=True)
class StateLayout:
    """Channels that are sensors of a state. Channels count through all keys, in the order of `keys`."""

    keys: tuple[str, ...]
    position: Mapping[int, tuple[int, ...]]  # index in qpos -> its channel, or its (cosine, sine) channels
    offset: Mapping[int, float]  # index in qpos -> what its channel has on top, as the height of a body has
    velocity: Mapping[int, int]  # index in qvel -> its channel
    cut: Mapping[int, float]  # channel of a velocity -> the size at which it is cut
    differenced: tuple[int, ...]  # indices in qvel that are differenced from positions
    unseen: tuple[int, ...]  # indices in qvel of coordinates whose position nobody sees
    names: Mapping[int, str]  # of channels, for people

    @property
    def channels(self) -> tuple[int, ...]:
        """All channels that are sensors of the state, in order."""
        positions = {channel for channels in self.position.values() for channel in channels}
        return tuple(sorted(positions | set(self.velocity.values())))


def flat(observation: Mapping[str, Array], keys: Sequence[str]) -> Array:
    """Channels of all keys side by side. Shapes: each (*) or (T, *) -> (C,) or (T, C)."""
    rows = [np.asarray(observation[key], np.float64) for key in keys]
    return np.concatenate(rows, axis=-1)


def set_state(simulator: Simulated, position: Array, velocity: Array) -> None:
    """Put the simulator into a state. Shapes: (nq,), (nv,)."""
    model, data = simulator.physics
    data.qpos[:] = position
    data.qvel[:] = velocity
    data.qacc_warmstart[:] = 0.0
    mujoco.mj_forward(model, data)


def read_layout(simulator: Simulated) -> StateLayout:
    """Find the channels of a simulator's observation that are sensors of its state.

    Args:
        simulator: it is reset.

    Raises:
        InputError: no MuJoCo, no channel that is a joint's, or a coordinate that nobody sees and that matters.
    """
    simulator.attach(None)
    simulator.reset(seed=0)
    model, _ = simulator.physics
    keys = tuple(key for key, spec in simulator.spec.observation.items() if len(spec.shape) == 1)
    _require_motors(simulator)
    positions, velocities, seen = probe_states(simulator, keys)
    position, offset, velocity = match_channels(positions, velocities, seen)
    if not position and not velocity:
        raise InputError(f"no channel of the observations {list(keys)} is the position of a joint: {REMEDY}")
    cut = channel_cuts(simulator, keys, velocity)
    driven, unseen, differenced = _driven(simulator), [], []
    for joint in range(model.njnt):
        for index, entries in coordinates(model, joint):
            if any(entry not in position for entry in entries):
                unseen.append(index)
            elif index not in velocity:
                differenced.append(index)
    hidden = [index for index in unseen if driven[index]]
    if hidden:
        raise InputError(
            f"the motors drive joint '{_joint_of(model, hidden[0])}', whose position is in no channel of the "
            f"observations {list(keys)}: {REMEDY}"
        )
    names = _names(model, position, velocity)
    layout = StateLayout(
        keys=keys,
        position=position,
        offset=offset,
        velocity=velocity,
        cut=cut,
        differenced=tuple(differenced),
        unseen=tuple(unseen),
        names=names,
    )
    _require_independence(simulator, layout)
    return layout


def _require_motors(simulator: Simulated) -> None:
    model, _ = simulator.physics
    if model.nmocap > 0 and bool((model.eq_type == int(mujoco.mjtEq.mjEQ_WELD)).any()):
        raise InputError(
            "this task pulls its hand by a weld (mocap) and simulates no motors of the arm, so gears, frictions and "
            "delays of motors cannot be identified with it: choose a task whose actions drive motors"
        )


def _driven(simulator: Simulated) -> Array:
    """Whether an actuator acts on each degree of freedom now. Shapes: (nv,), bool."""
    model, data = simulator.physics
    moment = np.zeros((model.nu, model.nv))
    if model.nu:
        mujoco.mj_forward(model, data)
        mujoco.mju_sparse2dense(
            moment, data.actuator_moment, data.moment_rownnz, data.moment_rowadr, data.moment_colind
        )
    driven: Array = (moment != 0).any(axis=0)
    return driven


def _joint_of(model: mujoco.MjModel, index: int) -> str:
    """The name of the joint of a degree of freedom."""
    joint = int(model.dof_jntid[index])
    return model.joint(joint).name or f"joint {joint}"


def coordinates(model: mujoco.MjModel, joint: int) -> list[tuple[int, tuple[int, ...]]]:
    """Each degree of freedom of a joint with the entries of qpos that say where it is."""
    at, dof = int(model.jnt_qposadr[joint]), int(model.jnt_dofadr[joint])
    match model.jnt_type[joint]:
        case mujoco.mjtJoint.mjJNT_FREE:
            turn = tuple(range(at + 3, at + 7))
            return [(dof + part, (at + part,)) for part in range(3)] + [(dof + part, turn) for part in range(3, 6)]
        case mujoco.mjtJoint.mjJNT_BALL:
            return [(dof + part, tuple(range(at, at + 4))) for part in range(3)]
    return [(dof, (at,))]


def probe_states(simulator: Simulated, keys: Sequence[str]) -> tuple[Array, Array, Array]:
    """Random states about the present one and what is observed in them. Shapes: (P, nq), (P, nv), (P, C)."""
    model, data = simulator.physics
    start, generator = data.qpos.copy(), np.random.default_rng(0)
    positions, velocities, seen = [], [], []
    for _ in range(PROBES):
        position = start.copy()
        mujoco.mj_integratePos(model, position, generator.uniform(-REACH, REACH, model.nv), 1.0)
        velocity = generator.uniform(-SPEED, SPEED, model.nv)
        set_state(simulator, position, velocity)
        positions.append(position)
        velocities.append(velocity)
        seen.append(flat(simulator.observe(), keys))
    return np.array(positions), np.array(velocities), np.array(seen)


def match_channels(
    positions: Array, velocities: Array, seen: Array
) -> tuple[dict[int, tuple[int, ...]], dict[int, float], dict[int, int]]:
    """Channels of positions, what they have on top, and channels of velocities."""

    def equal_to(wanted: Array) -> int | None:
        found = np.flatnonzero(np.abs(seen - wanted[:, None]).max(axis=0) < TOLERANCE)
        return int(found[0]) if len(found) else None

    def shifted_from(wanted: Array) -> int | None:
        found = np.flatnonzero(np.ptp(seen - wanted[:, None], axis=0) < TOLERANCE)
        return int(found[0]) if len(found) and np.ptp(wanted) > 10 * TOLERANCE else None

    position: dict[int, tuple[int, ...]] = {}
    offset: dict[int, float] = {}
    for index in range(positions.shape[1]):
        wanted = positions[:, index]
        channel = equal_to(wanted)
        cosine, sine, shifted = equal_to(np.cos(wanted)), equal_to(np.sin(wanted)), shifted_from(wanted)
        if channel is not None:
            position[index] = (channel,)
        elif cosine is not None and sine is not None:
            position[index] = (cosine, sine)
        elif shifted is not None:
            position[index] = (shifted,)
            offset[index] = float(np.mean(seen[:, shifted] - wanted))
    found = {index: equal_to(velocities[:, index]) for index in range(velocities.shape[1])}
    return position, offset, {index: channel for index, channel in found.items() if channel is not None}


def channel_cuts(simulator: Simulated, keys: Sequence[str], velocity: Mapping[int, int]) -> dict[int, float]:
    """Velocities that are cut, as those of gymnasium's Hopper at 10."""
    model, data = simulator.physics
    set_state(simulator, data.qpos.copy(), np.full(model.nv, FAST))
    seen = flat(simulator.observe(), keys)
    return {channel: float(abs(seen[channel])) for channel in velocity.values() if abs(seen[channel]) < 0.99 * FAST}


def _names(
    model: mujoco.MjModel, position: Mapping[int, tuple[int, ...]], velocity: Mapping[int, int]
) -> dict[int, str]:
    names: dict[int, str] = {}
    for joint in range(model.njnt):
        for dof, entries in coordinates(model, joint):
            name = _joint_of(model, dof)
            for entry in entries:
                part = f" {entry - int(model.jnt_qposadr[joint])}" if len(coordinates(model, joint)) > 1 else ""
                names |= dict.fromkeys(position.get(entry, ()), f"{name} position{part}")
            if dof in velocity:
                part = f" {dof - int(model.jnt_dofadr[joint])}" if len(coordinates(model, joint)) > 1 else ""
                names[velocity[dof]] = f"{name} velocity{part}"
    return names


def _require_independence(simulator: Simulated, layout: StateLayout) -> None:
    """Refuse coordinates that nobody sees and on which the motion depends."""
    if not layout.unseen:
        return
    plain = _motion(simulator, layout, np.zeros(len(layout.unseen)))
    size = np.abs(plain).max() + 1e-9
    for place, index in enumerate(layout.unseen):
        change = np.zeros(len(layout.unseen))
        change[place] = REACH
        if np.abs(_motion(simulator, layout, change) - plain).max() > DEPENDENCE * size:
            raise InputError(
                f"the position of joint '{_joint_of(simulator.physics[0], index)}' is in no channel of the "
                f"observations {list(layout.keys)}, and the motion depends on it: {REMEDY}"
            )


def _motion(simulator: Simulated, layout: StateLayout, change: Array) -> Array:
    """The sensed channels under random actions, from a state whose unseen coordinates are moved, and move if unseen."""
    simulator.reset(seed=0)
    model, data = simulator.physics
    move = np.zeros(model.nv)
    move[list(layout.unseen)] = change
    position = data.qpos.copy()
    mujoco.mj_integratePos(model, position, move, 1.0)
    velocity = data.qvel.copy()
    hidden = [index for index in layout.unseen if index not in layout.velocity]
    velocity[hidden] += move[hidden] / REACH * SPEED
    set_state(simulator, position, velocity)
    generator, spec = np.random.default_rng(0), simulator.spec.action
    channels = list(layout.channels)
    rows = [flat(simulator.observe(), layout.keys)[channels]]
    for _ in range(DEPENDENCE_STEPS):
        action = generator.uniform(np.asarray(spec.low), np.asarray(spec.high))
        rows.append(flat(simulator.advance(action), layout.keys)[channels])
    return np.array(rows)


def read_states(
    model: mujoco.MjModel, layout: StateLayout, channels: Array, rest: Array, period_s: float
) -> tuple[Array, Array, Array]:
    """The states that the sensors of an episode say.

    Args:
        model: of the simulator.
        layout: of its observations.
        channels: what was observed. Shapes: (T + 1, C).
        rest: positions of what nobody sees. Shapes: (nq,).
        period_s: control period, by which positions are differenced.

    Returns:
        Positions, velocities, and whether a row can be trusted: no velocity is cut. Shapes: (T + 1, nq), (T + 1, nv),
        (T + 1,).
    """
    count = len(channels)
    positions = np.tile(rest, (count, 1))
    for index, places in layout.position.items():
        columns = [channels[:, place] for place in places]
        positions[:, index] = np.arctan2(columns[1], columns[0]) if len(columns) == 2 else columns[0]
        positions[:, index] -= layout.offset.get(index, 0.0)
    for row in positions:
        mujoco.mj_normalizeQuat(model, row)
    velocities = np.zeros((count, model.nv))
    if layout.differenced:
        step = np.zeros(model.nv)
        for row in range(count):
            before, after = max(0, row - 1), min(count - 1, row + 1)
            mujoco.mj_differentiatePos(model, step, (after - before) * period_s, positions[before], positions[after])
            velocities[row, list(layout.differenced)] = step[list(layout.differenced)]
    for index, place in layout.velocity.items():
        velocities[:, index] = channels[:, place]
    trusted = np.ones(count, bool)
    for place, size in layout.cut.items():
        trusted &= np.abs(channels[:, place]) < size * (1.0 - 1e-6)
    return positions, velocities, trusted
