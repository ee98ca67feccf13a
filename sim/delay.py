"""How long after a command the robot moves, from a log alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robot_rl.sim.open_loop import Logged
from robot_rl.types import Array

SIGNIFICANT = 0.1
"""Share of the strongest lag's response below which a lag counts as noise."""
RIDGE = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class CommandResponse:
    """How strongly velocities change with the command of k control periods ago."""

    lag_s: Array  # (K,)
    correlation: Array  # (K,), in [0, 1]
    delay_s: float  # the centre of what is significant


def cross_correlate(log: Sequence[Logged], velocities: Sequence[int], *, lags: int, period_s: float) -> CommandResponse:
    """Cross-correlation of commands with changes of velocity, cleaned of what else goes with both.

    A policy's commands follow the state and one another, so that a plain correlation shows the loop, not the delay. The
    velocity's change in period t is therefore regressed at once on the state at t and on the commands of periods t,
    t - 1, ...; what counts for a lag is the part that its command explains, as a share of the deviation. A command that
    arrives a share f of a period late acts 1 - f in its own period and f in the next one, which is why the centre is no
    whole lag.

    Args:
        log: of the robot.
        velocities: indices in qvel whose changes count: those that are seen.
        lags: K, control periods that are looked back.
        period_s: control period.
    """
    states, changes, commands = [], [], []
    for episode in log:
        for step in range(lags - 1, len(episode)):
            states.append(np.concatenate([episode.position[step], episode.velocity[step]]))
            changes.append(episode.velocity[step + 1, list(velocities)] - episode.velocity[step, list(velocities)])
            commands.append(episode.action[step - lags + 1 : step + 1][::-1].ravel())  # the newest first
    target, command = _scaled(np.array(changes)), _scaled(np.array(commands))
    design = np.concatenate([_scaled(np.array(states)), command, np.ones((len(target), 1))], axis=1)
    weights = _solve(design, target)
    size = len(log[0].action[0])
    start = design.shape[1] - 1 - lags * size
    strength = np.zeros(lags)
    for lag in range(lags):
        part = slice(start + lag * size, start + (lag + 1) * size)
        strength[lag] = np.sqrt((design[:, part] @ weights[part]).var(axis=0).mean())
    total = np.sqrt(target.var(axis=0).mean())
    correlation = np.clip(strength / max(total, 1e-12), 0.0, 1.0)
    kept = np.where(correlation >= SIGNIFICANT * correlation.max(), correlation, 0.0)
    lag_s = np.arange(lags) * period_s
    centre = float(kept @ lag_s / kept.sum()) if kept.sum() > 0 else 0.0
    return CommandResponse(lag_s=lag_s, correlation=correlation, delay_s=centre)


def _scaled(rows: Array) -> Array:
    deviation = rows.std(axis=0)
    scaled: Array = (rows - rows.mean(axis=0)) / np.where(deviation > 1e-9, deviation, 1.0)
    return scaled


def _solve(design: Array, target: Array) -> Array:
    gram = design.T @ design + RIDGE * len(design) * np.eye(design.shape[1])
    weights: Array = np.linalg.solve(gram, design.T @ target)
    return weights
