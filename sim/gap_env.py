"""A simulator that differs from the simulator: a robot by proxy, or one of many random ones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np

from robot_rl.environment import Wrapper
from robot_rl.errors import InputError
from robot_rl.seeding import Seeds
from robot_rl.sim.drive import Drive, draw_timing
from robot_rl.sim.encoders import Differences, Encoders, find_encoders
from robot_rl.sim.episode import clip_action
from robot_rl.sim.gap import NOMINAL, QUALIFIERS, Gap
from robot_rl.sim.model_gap import ModelGap
from robot_rl.sim.randomization import Randomization
from robot_rl.sim.sensors import Sensors, measure_deviation
from robot_rl.sim.simulated import Simulated
from robot_rl.spec import Spec
from robot_rl.types import Array, TimeStep


class GapEnvironment(Wrapper):
    """An environment with a gap, and in training with randomisation around it.

    Reward, termination and success are facts of the true state; only the observation passes the sensors. The action
    that a step reports is the command as it was sent, inside the bounds: what a robot's log holds. What the wire, the
    delay and the motors make of it stays hidden, as it does on a robot.

    Args:
        inner: the simulator; closed with this.
        gap: of every episode.
        randomization: draws further differences for each episode; None: every episode has `gap`.
        proxy: name of the robot, where `gap` is that of one by proxy.
        asked: fields of the gap that a person set; each has to have an effect. A proxy's need not, in every task.

    Raises:
        InputError: the task does not run on MuJoCo, nothing differs, or a difference has no effect in this task.
    """

    def __init__(
        self,
        inner: Simulated,
        gap: Gap = NOMINAL,
        *,
        randomization: Randomization | None = None,
        proxy: str | None = None,
        asked: Sequence[str] = (),
    ) -> None:
        super().__init__(inner)
        self._simulator, self._gap, self._randomization = inner, gap, randomization
        model, _ = inner.physics
        self._physics = ModelGap(model)
        differences = gap.velocity_periods > 0 or (
            randomization is not None and "velocity_periods" in randomization.fields
        )
        self._encoders = find_encoders(inner) if differences else Encoders()
        idle = self._require_effect(proxy, asked)
        senses = gap.senses or (randomization is not None and randomization.can_sense(gap))
        self._deviation = measure_deviation(inner) if senses else {}
        self._environment_steps = 0
        self._drawn: dict[str, float] = {}
        self._sensors: Sensors | None = None
        self._drive: Drive | None = None
        self._wire_bits = 0
        self._noise = np.random.default_rng(0)  # on commands; anew at each reset
        self._action_noise = 0.0
        self._limit_hits = 0
        facts: dict[str, Any] = {}
        if not gap.is_identity:
            facts["gap"] = {"proxy": proxy, "values": gap.differing(), "without_effect": idle, "hash": gap.hash}
        if randomization is not None:
            vain = self._drawn_in_vain(randomization)
            facts["randomization"] = {**randomization.to_json(), "without_effect": vain, "hash": randomization.hash}
        self._spec = replace(inner.spec, metadata={**inner.spec.metadata, **facts})

    def _require_effect(self, proxy: str | None, asked: Sequence[str]) -> list[str]:
        """Refuse a robot that is the simulator; what of a proxy has no effect here."""
        _, data = self._simulator.physics
        idle = self._physics.without_effect(self._gap, data)
        if self._gap.velocity_periods > 0 and not self._encoders.pairs:
            idle.append("velocity_periods")
        active = set(self._gap.differing()) - set(idle)
        name = "environment.gap" if proxy is None else f"environment.proxy={proxy}"
        vain = [field for field in asked if field in idle]
        if vain:
            raise InputError(
                f"environment.gap.{vain[0]}={getattr(self._gap, vain[0])} changes nothing in this task: its model has "
                "nothing that it scales, or that moves by it. Remove it, or choose another gap"
            )
        if self._randomization is None and self._gap.with_only(active).is_identity:
            raise InputError(
                f"{name} leaves the simulator as it is (values {self._gap.differing()}, without effect here {idle}): a "
                "robot that is the simulator shows nothing about transfer. Remove it, or set a gap that has an effect"
            )
        return idle

    def _drawn_in_vain(self, randomization: Randomization) -> list[str]:
        """Fields of the model that are drawn and have no effect in this task; refused if there are no others."""
        _, data = self._simulator.physics
        vain = self._physics.without_effect(NOMINAL.with_values(randomization.far(self._gap)), data)
        if set(randomization.fields) <= {*vain, *QUALIFIERS}:
            raise InputError(
                "environment.randomization.fields: nothing that is drawn has an effect in this task (without effect: "
                f"{vain}). Choose other fields, or remove them"
            )
        return vain

    @property
    def drawn(self) -> dict[str, float]:
        """What was drawn for the episode, by field."""
        return dict(self._drawn)

    @property
    def limit_hits(self) -> int:
        """Control periods of the episode at whose end some joint was pressed against its limit."""
        return self._limit_hits

    def experienced(self, environment_steps: int) -> None:
        """So many steps of training are done: curricula go by it, from the next reset on."""
        self._environment_steps = environment_steps

    def reset(self, *, seed: int) -> TimeStep:
        """Begin an episode; everything random in it follows from the seed and from `experienced`."""
        generator = Seeds(seed).numpy("gap")
        gap = self._gap
        if self._randomization is not None:
            self._drawn = self._randomization.draw(gap, generator, self._environment_steps)
            gap = gap.with_values(self._drawn)
        self._simulator.attach(None)
        self._need_model()
        self._physics.apply(gap)
        step = self._simulator.reset(seed=seed)
        if self._need_model():  # the reset built a new one
            self._physics.apply(gap)
            mujoco.mj_forward(*self._simulator.physics)
        timing = draw_timing(
            gap,
            steps=self.maximum_steps,
            substeps=self._simulator.substeps,
            timestep_s=float(self._physics.model.opt.timestep),
            generator=generator,
        )
        self._wire_bits = gap.action_bits
        self._noise, self._action_noise = Seeds(seed).numpy("gap", "action noise"), gap.action_noise
        self._drive = Drive(
            timing=timing,
            hold=self._simulator.hold(),
            pole=gap.motor_pole,
            substeps=self._simulator.substeps,
            observe=self._simulator.observe,
            first=step.observation,
            motors=self._simulator.motors(),
        )
        self._simulator.attach(self._drive)
        self._sensors = Sensors(gap, self._deviation, generator, self._differences(gap))
        self._limit_hits = 0
        return replace(step, observation=self._sensors.read(copied(step.observation)))

    def _differences(self, gap: Gap) -> Differences | None:
        """What velocities are read as, where they have no sensors of their own."""
        if gap.velocity_periods == 0 or not self._encoders.pairs:
            return None
        period_s = float(self._physics.model.opt.timestep) * self._simulator.substeps
        return Differences(self._encoders, gap.velocity_periods, period_s)

    def _need_model(self) -> bool:
        """Take hold of the simulator's present model; whether it is another than before."""
        model, _ = self._simulator.physics
        if model is self._physics.model:
            return False
        self._physics = ModelGap(model)
        return True

    def step(self, action: Array) -> TimeStep:
        """Send one command for one control period. Shapes: (A,)."""
        sent = clip_action(action, self._spec.action)
        if self._drive is None or self._sensors is None:
            raise RuntimeError("step without an episode: call reset first")
        command = on_wire(sent, self._spec, self._wire_bits)
        step = self._simulator.step(disturbed(command, self._spec, self._action_noise, self._noise))
        self._limit_hits += at_limit(self._simulator.physics[1])
        seen = self._sensors.read(self._drive.observed(step.observation))
        return replace(step, observation=seen, action=sent)


def at_limit(data: Any) -> bool:
    """Whether some joint is pressed against its limit.

    Args:
        data: the `mujoco.MjData` after a step.
    """
    kinds = np.asarray(data.efc_type[: data.nefc])
    return bool((kinds == int(mujoco.mjtConstraint.mjCNSTR_LIMIT_JOINT)).any())


def on_wire(action: Array, spec: Spec, bits: int) -> Array:
    """A command with the resolution of its wire: 2**bits values from bound to bound; 0 bits: exact. Shapes: (A,)."""
    if bits == 0:
        return action
    low, high = np.asarray(spec.action.low), np.asarray(spec.action.high)
    grain = (high - low) / (2**bits - 1)
    rounded: Array = low + np.rint((action - low) / grain) * grain
    return rounded


def disturbed(action: Array, spec: Spec, deviation: float, generator: np.random.Generator) -> Array:
    """A command with noise, in half ranges, cut to the bounds; a deviation of 0 leaves it. Shapes: (A,)."""
    if deviation == 0.0:
        return action
    half = (np.asarray(spec.action.high) - np.asarray(spec.action.low)) / 2.0
    return clip_action(action + deviation * half * generator.standard_normal(len(action)), spec.action)


def copied(observation: Mapping[str, Array]) -> dict[str, Array]:
    """The same numbers in arrays of their own."""
    return {key: array.copy() for key, array in observation.items()}
