"""Velocities as robots know them: differences of encoder positions, with their resolution and half a step late.

The check that proves it: `tests/sim/test_encoders.py`. A joint that moves by less than one count of its encoder in a
control period reads a velocity of 0, or of one count per period, whatever its speed.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robot_rl.sim.simulated import Simulated
from robot_rl.sim.state_reading import channel_cuts, coordinates, flat, match_channels, probe_states
from robot_rl.types import Array


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A velocity that is differenced from a position. Channels count through `Encoders.keys`."""

    velocity: int
    position: tuple[int, ...]  # one channel, or (cosine, sine)
    cut: float  # size at which the task cuts the velocity; infinity: nowhere


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """All of an observation; none where no velocity and position of one joint are both observed."""

    keys: tuple[str, ...] = ()
    pairs: tuple[Encoder, ...] = ()


def find_encoders(simulator: Simulated) -> Encoders:
    """The joints of one coordinate of which position and velocity are observed. The simulator is reset.

    What turns in space (ball and free joints) has no encoder, and keeps its measured velocity.
    """
    simulator.attach(None)
    simulator.reset(seed=0)
    model, _ = simulator.physics
    keys = tuple(key for key, spec in simulator.spec.observation.items() if len(spec.shape) == 1)
    position, _, velocity = match_channels(*probe_states(simulator, keys))
    cuts = channel_cuts(simulator, keys, velocity)
    pairs = []
    for joint in range(model.njnt):
        for dof, entries in coordinates(model, joint):
            if len(entries) == 1 and entries[0] in position and dof in velocity:
                channel = velocity[dof]
                pairs.append(
                    Encoder(velocity=channel, position=position[entries[0]], cut=cuts.get(channel, float("inf")))
                )
    return Encoders(keys=keys, pairs=tuple(pairs))


class Differences:
    """The velocities of one episode.

    Args:
        encoders: of the observation.
        periods: control periods over which positions are differenced, at least 1.
        period_s: control period.
    """

    def __init__(self, encoders: Encoders, periods: int, period_s: float) -> None:
        self._encoders, self._period_s = encoders, period_s
        self._past: deque[Array] = deque(maxlen=periods + 1)

    def read(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Readings with velocities made from those of positions; 0 in the first one. Shapes: each (*) -> the same."""
        encoders = self._encoders
        channels = flat(values, encoders.keys)
        self._past.append(channels.copy())
        elapsed = (len(self._past) - 1) * self._period_s
        for pair in encoders.pairs:
            moved = self._moved(pair) / elapsed if elapsed > 0 else 0.0
            channels[pair.velocity] = min(max(moved, -pair.cut), pair.cut)
        sizes = [values[key].shape[0] for key in encoders.keys]
        parts = np.split(channels, np.cumsum(sizes)[:-1])
        return {**values, **dict(zip(encoders.keys, parts, strict=True))}

    def _moved(self, pair: Encoder) -> float:
        before, now = self._past[0], self._past[-1]
        if len(pair.position) == 1:
            return float(now[pair.position[0]] - before[pair.position[0]])
        cosine, sine = pair.position
        turned = np.arctan2(now[sine], now[cosine]) - np.arctan2(before[sine], before[cosine])
        return float((turned + np.pi) % (2 * np.pi) - np.pi)
