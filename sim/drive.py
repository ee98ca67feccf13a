"""When things happen: the timetable of an episode, and the way of a command from the policy to the motors.

MuJoCo 3.3.7, the newest that dm_control and robosuite of `pyproject.toml` work with, has no delays of its own: commands
wait here, and arrive in the middle of a control period, at the physics step that is theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from robot_rl.sim.gap import Gap
from robot_rl.types import Array

Observe = Callable[[], dict[str, Array]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Timing:
    """The timetable of an episode of at most T steps, in physics steps since its beginning.

    Drawn at the reset, so that it does not depend on what the policy does.
    """

    substeps: Array  # (T,), int: physics steps of each control period
    arrival: Array  # (T,), float: when each command reaches the motors; infinity: lost
    capture: Array  # (T,), int: whose state is observed at the end of each period


def draw_timing(gap: Gap, *, steps: int, substeps: int, timestep_s: float, generator: np.random.Generator) -> Timing:
    """The timetable of an episode.

    Commands and observations never overtake one another. A period that is no whole number of physics steps is rounded
    up or down at random, so that its mean is right.

    Args:
        gap: delays and jitters.
        steps: T, the longest that the episode can be.
        substeps: physics steps of an undisturbed control period.
        timestep_s: of the physics.
        generator: of the episode.
    """
    swing = generator.uniform(-1.0, 1.0, (3, steps))
    chance = generator.uniform(0.0, 1.0, (2, steps))
    counts = np.maximum(1, np.floor(substeps * (1.0 + gap.period_jitter * swing[0]) + chance[0])).astype(np.int64)
    ends = counts.cumsum()
    # Rounded, because 0.03 / 0.01 is not 3: a delay of whole steps has to arrive at whole steps.
    wait = np.round(gap.action_delay_s * (1.0 + gap.action_delay_jitter * swing[1]) / timestep_s, 9)
    arrival = np.maximum.accumulate(ends - counts + wait)
    age = gap.observation_delay_s * (1.0 + gap.observation_delay_jitter * swing[2]) / timestep_s
    capture = np.maximum.accumulate(np.maximum(0, ends - np.rint(age).astype(np.int64)))
    return Timing(substeps=counts, arrival=np.where(chance[1] < gap.missed_commands, np.inf, arrival), capture=capture)


class Drive:
    """What lies between the policy and the motors in one episode; a simulator asks it at every physics step.

    Args:
        timing: the timetable.
        hold: the command in force before the first one arrives. Shapes: (A,) or (nu,).
        pole: of the motors' first-order lag over a control period.
        substeps: physics steps of an undisturbed control period.
        observe: reads the sensors as they are now.
        first: what was observed at the reset.
        motors: at the beginning; None: they begin with the first control. Shapes: (nu,).
    """

    def __init__(
        self,
        *,
        timing: Timing,
        hold: Array,
        pole: float,
        substeps: int,
        observe: Observe,
        first: dict[str, Array],
        motors: Array | None,
    ) -> None:
        self._timing = timing
        self._force = np.array(hold, np.float64)
        self._motors = None if motors is None else np.array(motors, np.float64)
        self._pole, self._substeps = pole, substeps
        self._observe = observe
        self._sent: list[Array] = []
        self._next = 0  # command that arrives next
        self._now = 0  # physics steps done
        self._due = set(timing.capture.tolist())
        self._seen = {0: first}

    def send(self, command: Array) -> int:
        """A control period begins with this command; how many physics steps it takes."""
        self._sent.append(np.array(command, np.float64))
        return int(self._timing.substeps[len(self._sent) - 1])

    def tick(self) -> Array:
        """The mean command over the coming physics step. Shapes: (A,) or (nu,).

        A command that arrives within the step counts for its share of it: the motors deliver the impulse that a command
        held from that instant delivers, so delays need not be whole physics steps.
        """
        begin, force = float(self._begin_step()), self._force
        if not self._pending(begin + 1.0):
            return force
        since, mean = begin, np.zeros_like(force)
        while self._pending(begin + 1.0):
            at = max(since, float(self._timing.arrival[self._next]))
            mean += (at - since) * force
            since, force = at, self._sent[self._next]
            self._next += 1
        self._force = force
        return mean + (begin + 1.0 - since) * force

    def tick_whole(self) -> tuple[Array, bool]:
        """The command in force in the coming physics step, and whether it is new; arrivals are rounded.

        For simulators that do something once with each command, such as a controller that sets its goal. At the first
        step of an episode the command is new: `hold`, if no other.
        """
        begin = float(self._begin_step())
        arrived = begin == 0.0
        while self._pending(begin + 0.5):
            self._force, arrived = self._sent[self._next], True
            self._next += 1
        return self._force, arrived

    def _begin_step(self) -> int:
        step = self._now
        if step in self._due and step not in self._seen:
            self._seen[step] = self._observe()
        self._now += 1
        return step

    def _pending(self, before: float) -> bool:
        while self._next < len(self._sent) and np.isinf(self._timing.arrival[self._next]):
            self._next += 1  # lost
        return self._next < len(self._sent) and bool(self._timing.arrival[self._next] < before)

    def motor(self, control: Array, *, periods: float | None = None) -> Array:
        """What lagging motors make of a control that holds for so much of a period; None: a physics step.

        Shapes: (nu,) -> (nu,).
        """
        if self._motors is None:
            self._motors = np.array(control, np.float64)
        if self._pole == 0.0:
            return control
        left = self._pole ** (1.0 / self._substeps if periods is None else periods)
        self._motors = left * self._motors + (1.0 - left) * control
        return self._motors

    def observed(self, latest: dict[str, Array]) -> dict[str, Array]:
        """What is seen at the end of the period that `send` began; `latest` is the state as it is now."""
        if self._now in self._due:  # the end of a period is seen by its own observation
            self._seen[self._now] = {key: array.copy() for key, array in latest.items()}
        capture = int(self._timing.capture[len(self._sent) - 1])
        return {key: array.copy() for key, array in self._seen[capture].items()}
