"""Logged commands played once more in a simulator, from logged states: what it would have done in the robot's place."""

from dataclasses import dataclass

import mujoco
import numpy as np

from robot_rl.sim.drive import Drive, draw_timing
from robot_rl.sim.gap import NOMINAL, Gap
from robot_rl.sim.model_gap import ModelGap
from robot_rl.sim.simulated import Simulated
from robot_rl.sim.state_reading import StateLayout, flat, set_state
from robot_rl.types import Array

DIVERGED = 1e6
"""In place of what is not finite: a simulation that has exploded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Logged:
    """One episode of a robot: what it was told, what its sensors said, and the states that they say."""

    action: Array  # (T, A), in the units of the spec
    channels: Array  # (T + 1, C), all of the observation
    position: Array  # (T + 1, nq)
    velocity: Array  # (T + 1, nv)
    trusted: Array  # (T + 1,), bool: the state may be started from

    def __len__(self) -> int:
        return len(self.action)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Steps [start, stop) of an episode."""

    episode: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class OpenLoop:
    """A simulator that plays stretches of a log.

    Every `horizon` steps it is put into the logged state; in between it goes where its own physics takes it. Commands
    under way, motors and controllers go on over these points, so that a delay is one everywhere. Before a stretch some
    steps are played from logged states only, so that it begins with the right commands under way.

    Args:
        simulator: is reset, and gets drives and gaps; nothing else may use it meanwhile.
        layout: of its observations.
        log: the episodes.
    """

    def __init__(self, simulator: Simulated, layout: StateLayout, log: list[Logged]) -> None:
        self._simulator, self._layout, self._log = simulator, layout, log
        model, _ = simulator.physics
        self._physics = ModelGap(model)
        self.timestep_s = float(model.opt.timestep)
        self.substeps = simulator.substeps
        self.steps = 0
        """Control steps simulated so far."""

    @property
    def period_s(self) -> float:
        """Control period."""
        return self.timestep_s * self.substeps

    def without_effect(self, gap: Gap) -> list[str]:
        """Fields of a gap's model that change nothing that this simulator does."""
        _, data = self._simulator.physics
        return self._physics.without_effect(gap, data)

    def predict(self, stretches: list[Stretch], gap: Gap, horizon: int, warm_up: int) -> Array:
        """All channels after each step of the stretches, one behind the other. Shapes: -> (N, C)."""
        return np.concatenate([self._play(stretch, gap, horizon, warm_up) for stretch in stretches])

    def _play(self, stretch: Stretch, gap: Gap, horizon: int, warm_up: int) -> Array:
        episode, simulator = self._log[stretch.episode], self._simulator
        first = max(0, stretch.start - warm_up)
        self._prepare(gap, episode, first, stretch.stop)
        rows = []
        for step in range(first, stretch.stop):
            if step <= stretch.start or (step - stretch.start) % horizon == 0:
                set_state(simulator, episode.position[step], episode.velocity[step])
            seen = simulator.advance(episode.action[step])
            self.steps += 1
            if step >= stretch.start:
                rows.append(flat(seen, self._layout.keys))
        return np.nan_to_num(np.array(rows), nan=DIVERGED, posinf=DIVERGED, neginf=-DIVERGED)

    def _prepare(self, gap: Gap, episode: Logged, first: int, stop: int) -> None:
        """A simulator with the gap, in the state at `first`, with nothing under way."""
        simulator = self._simulator
        simulator.attach(None)
        self._physics.apply(gap)
        simulator.reset(seed=0)
        model, _ = simulator.physics
        if model is not self._physics.model:  # the reset built a new one
            self._physics = ModelGap(model)
            self._physics.apply(gap)
        set_state(simulator, episode.position[first], episode.velocity[first])
        timing = draw_timing(
            gap,
            steps=stop - first,
            substeps=self.substeps,
            timestep_s=self.timestep_s,
            generator=np.random.default_rng(0),
        )
        simulator.attach(
            Drive(
                timing=timing,
                hold=simulator.hold(),
                pole=gap.motor_pole,
                substeps=self.substeps,
                observe=dict,
                first={},
                motors=simulator.motors(),
            )
        )

    def close(self) -> None:
        """The model as it came, and nothing between commands and motors."""
        self._simulator.attach(None)
        self._physics.apply(NOMINAL)
        mujoco.mj_forward(*self._simulator.physics)
