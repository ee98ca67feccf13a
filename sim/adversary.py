"""Forces of an adversary on named bodies, as further actions: what a policy is trained against, so that it bears blows.

The protagonist's commands go on as they are; the last actions are forces, in [-1, 1] of the largest, along the axes of
the world, on the centre of mass of each body, for one control period. Zeros are the undisturbed task.
"""

from collections.abc import Sequence
from dataclasses import replace

import mujoco
import numpy as np

from robot_rl.environment import Environment, Wrapper
from robot_rl.errors import InputError, nearest
from robot_rl.sim.episode import clip_action
from robot_rl.sim.simulated import Simulated
from robot_rl.spec import ArraySpec
from robot_rl.types import Array, TimeStep

AXES = ("x", "y", "z")


class AdversaryEnvironment(Wrapper):
    """An environment whose last 3 K actions push K bodies.

    Shapes: action (A + 3 K,).

    Args:
        inner: with whatever gap and history; closed with this. It never sees the forces among its commands.
        simulator: what it runs on.
        bodies: names of bodies of its model.
        maximum_force_n: largest force along each axis, in newton.

    Raises:
        InputError: an unknown body, or one that is fixed to the world, which no force moves.
    """

    def __init__(
        self, inner: Environment, simulator: Simulated, *, bodies: Sequence[str], maximum_force_n: float
    ) -> None:
        self._simulator = simulator
        self._names, self._force_n = tuple(bodies), maximum_force_n
        model, _ = simulator.physics
        for name in self._names:
            index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
            known = [model.body(each).name for each in range(1, model.nbody) if model.body_weldid[each] > 0]
            if index < 0 or name not in known:
                raise InputError(f"environment.adversary.bodies: no body '{name}' that moves: {nearest(name, known)}")
        spec, size = inner.spec, 3 * len(self._names)
        action = spec.action
        names = action.names
        if names is not None:
            names = (*names, *(f"{body} force {axis}" for body in self._names for axis in AXES))
        shown = ArraySpec(
            shape=(action.shape[0] + size,),
            low=np.concatenate([np.asarray(action.low), np.full(size, -1.0)]),
            high=np.concatenate([np.asarray(action.high), np.full(size, 1.0)]),
            names=names,
            unit=action.unit,
        )
        facts = {"bodies": list(self._names), "maximum_force_n": maximum_force_n}
        self._own = action.shape[0]
        super().__init__(inner, replace(spec, action=shown, metadata={**spec.metadata, "adversary": facts}))

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode, with nobody pushing."""
        self._push(np.zeros((len(self._names), 3)))
        step = self._inner.reset(seed=seed)
        self._push(np.zeros((len(self._names), 3)))
        return step

    def step(self, action: Array) -> TimeStep:
        """Send the commands, and push, for one control period. Shapes: (A + 3 K,)."""
        sent = clip_action(action, self._spec.action)
        self._push(self._force_n * sent[self._own :].reshape(-1, 3))
        step = self._inner.step(sent[: self._own])
        applied = sent[: self._own] if step.action is None else step.action
        return replace(step, action=np.concatenate([applied, sent[self._own :]]))

    def _push(self, forces_n: Array) -> None:
        """Forces until the next push; a simulator may have built a new model since. Shapes: (K, 3)."""
        model, data = self._simulator.physics
        for name, force in zip(self._names, forces_n, strict=True):
            data.xfrc_applied[mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name), :3] = force
