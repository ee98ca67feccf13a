"""Box-constrained least squares of a simulator's parameters on logged motion, and how sure the result is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import least_squares  # type: ignore[import-untyped]  # scipy ships no types

from robot_rl.sim.gap import Gap
from robot_rl.sim.open_loop import Logged, OpenLoop, Stretch
from robot_rl.sim.state_reading import StateLayout
from robot_rl.types import Array

DELAY = "action_delay_s"
FLOOR = 1e-3
"""Smallest deviation of an error, as a share of the channel's motion: no model and no sensor is better than that."""
OUTLIER = 3.0
"""Errors above so many deviations count linearly: dropouts, stuck sensors, blows that nobody logged."""
CLUSTER_STEPS = 20
"""Errors within so many steps may go together; deviations of parameters take them as one piece of evidence."""
INSEPARABLE = 1e-3
"""Share of a parameter's effect that others do not imitate, in squares, below which it cannot be told from them."""
FAULTY = 6.0
"""A reading this many deviations from what the last one predicts is set aside: neither compared nor started from."""
MOST_FAULTY = 0.3
"""Share of steps from which it is the model that is wrong, not the readings."""
ITERATIONS = 12


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """What can be identified: a field of a gap."""

    low: float
    high: float
    known: float  # two deviations below this are knowledge
    prior: tuple[float, float]  # range for randomisation where nothing is known
    step: float = 1e-3  # of finite differences


PARAMETERS: Mapping[str, Parameter] = {
    "gear": Parameter(low=0.2, high=4.0, known=0.2, prior=(0.8, 1.2)),
    "damping": Parameter(low=0.05, high=20.0, known=0.5, prior=(0.7, 2.0)),
    "coulomb": Parameter(low=0.0, high=0.5, known=0.02, prior=(0.0, 0.04)),
    "armature": Parameter(low=0.05, high=20.0, known=0.3, prior=(0.9, 1.3)),
    "mass": Parameter(low=0.2, high=4.0, known=0.2, prior=(0.85, 1.15)),
    "contact_friction": Parameter(low=0.05, high=4.0, known=0.4, prior=(0.5, 1.2)),
    "gravity": Parameter(low=0.2, high=4.0, known=0.2, prior=(0.9, 1.1)),
    "motor_pole": Parameter(low=0.0, high=0.95, known=0.15, prior=(0.0, 0.3)),
    DELAY: Parameter(low=0.0, high=1.0, known=0.01, prior=(0.0, 0.03)),
}
"""Priors are the ranges of `configs/environment/randomization/standard.yaml`, which does not draw gravity."""


@dataclass(kw_only=True, eq=False)
class Problem:
    """The errors of predictions as a function of a gap.

    Args:
        loop: plays the log.
        layout: of observations.
        log: of the robot.
        stretches: that are fitted.
        horizon: steps between two logged states that are started from.
        warm_up: steps before a stretch.
    """

    loop: OpenLoop
    layout: StateLayout
    log: Sequence[Logged]
    stretches: list[Stretch]
    horizon: int
    warm_up: int
    deviation: Array = field(init=False)  # (h, C'), by which errors are divided, for each step after a start
    compared: list[int] = field(init=False)  # channels

    def __post_init__(self) -> None:
        change = np.concatenate([np.diff(episode.channels, axis=0) for episode in self.log])
        self.compared = [c for c in self.layout.channels if change[:, c].std() > 1e-9]
        self.motion = change[:, self.compared].std(axis=0)  # (C',), of one step
        self.deviation = np.tile(self.motion, (self.horizon, 1))
        self.measured = np.concatenate(
            [self.log[s.episode].channels[s.start + 1 : s.stop + 1, self.compared] for s in self.stretches]
        )
        place = np.concatenate([np.arange(len(s)) for s in self.stretches])
        self.after = place % self.horizon  # steps since the start, less one
        self.usable = np.concatenate([self._usable(stretch) for stretch in self.stretches])
        self.cluster = np.concatenate(
            [[(i, step // CLUSTER_STEPS) for step in range(len(s))] for i, s in enumerate(self.stretches)]
        )
        for channel, size in self.layout.cut.items():
            if channel in self.compared:
                column = self.compared.index(channel)
                self.usable[:, column] &= np.abs(self.measured[:, column]) < size * (1.0 - 1e-6)

    def _usable(self, stretch: Stretch) -> Array:
        starts = np.arange(stretch.start, stretch.stop) - np.arange(len(stretch)) % self.horizon
        return np.tile(self.log[stretch.episode].trusted[starts][:, None], (1, len(self.compared)))

    def predicted(self, gap: Gap) -> Array:
        """Compared channels after each step. Shapes: -> (N, C')."""
        return self.loop.predict(self.stretches, gap, self.horizon, self.warm_up)[:, self.compared]

    def errors(self, gap: Gap) -> Array:
        """Prediction less measurement in deviations; 0 where nothing can be compared. Shapes: -> (N, C')."""
        difference = (self.predicted(gap) - self.measured) / self.deviation[self.after]
        return np.where(self.usable, difference, 0.0)

    def set_faults_aside(self, gap: Gap) -> float:
        """Look for readings that no motion explains, such as dropouts; returns the share of steps that have one.

        One period is predicted from each reading. Where the next one is far off in some channel, either may be wrong.
        """
        predicted = self.loop.predict(self.stretches, gap, 1, self.warm_up)[:, self.compared]
        difference = np.abs(predicted - self.measured)
        size = np.maximum(1.4826 * np.median(difference, axis=0), FLOOR * self.motion)
        faulty = difference > FAULTY * size
        share = float(faulty.any(axis=1).mean())
        if share > MOST_FAULTY:
            return 0.0
        self.usable &= ~faulty
        row = 0
        for stretch in self.stretches:
            bad = faulty[row : row + len(stretch)].any(axis=1)
            starts = np.arange(0, len(stretch), self.horizon)
            for start in starts[1:][bad[starts[1:] - 1]]:
                self.usable[row + start : row + min(start + self.horizon, len(stretch))] = False
            row += len(stretch)
        return share

    def learn_deviation(self, errors: Array) -> None:
        """Weigh channels, and steps since the start, by how far errors lie there, outliers aside."""
        raw = errors * self.deviation[self.after]
        for step in range(self.horizon):
            rows = self.after == step
            size = 1.4826 * np.median(np.abs(raw[rows]), axis=0)
            self.deviation[step] = np.maximum(size, FLOOR * self.motion)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A solution."""

    names: tuple[str, ...]
    values: Array  # (p,)
    covariance: Array  # (p, p)
    separable: Array  # (p,), bool: no other parameters imitate it


def robust(errors: Array) -> Array:
    """soft-L1: quadratic below `OUTLIER` deviations, linear above. Shapes: (*) -> (*)."""
    cost: Array = 2.0 * OUTLIER**2 * (np.sqrt(1.0 + (errors / OUTLIER) ** 2) - 1.0)
    return cost


class Solver:
    """Errors and their slopes over the fitted parameters.

    Args:
        problem: errors.
        gap: what is not fitted.
        names: what is.
        high: upper bounds other than those of `PARAMETERS`.
    """

    def __init__(self, problem: Problem, gap: Gap, names: Sequence[str], high: Mapping[str, float]) -> None:
        self._problem, self._gap, self._names = problem, gap, tuple(names)
        self._lows = np.array([PARAMETERS[name].low for name in names])
        self._highs = np.array([high.get(name, PARAMETERS[name].high) for name in names])
        timestep = problem.loop.timestep_s
        self._steps = np.array([timestep / 100 if name == DELAY else PARAMETERS[name].step for name in names])
        self._scale = np.array([timestep if name == DELAY else 0.1 for name in names])

    def _errors(self, values: Array) -> Array:
        gap = self._gap.with_values(dict(zip(self._names, values.tolist(), strict=True)))
        return self._problem.errors(gap).ravel()

    def _slopes(self, values: Array) -> Array:
        """Forward differences, backward at an upper bound. Shapes: (p,) -> (N * C', p)."""
        here, columns = self._errors(values), []
        for index, step in enumerate(self._steps):
            moved = values.copy()
            moved[index] += step if values[index] + step <= self._highs[index] else -step
            columns.append((self._errors(moved) - here) / (moved[index] - values[index]))
        return np.stack(columns, axis=1)

    def _wide_slopes(self, values: Array) -> Array:
        """Central differences over ten times the step, which rounding disturbs less. Shapes: (p,) -> (N * C', p)."""
        columns = []
        for index, step in enumerate(10 * self._steps):
            up, down = values.copy(), values.copy()
            up[index] = min(values[index] + step, self._highs[index])
            down[index] = max(values[index] - step, self._lows[index])
            columns.append((self._errors(up) - self._errors(down)) / (up[index] - down[index]))
        return np.stack(columns, axis=1)

    def solve(self, start: Mapping[str, float]) -> dict[str, float]:
        """Least squares in the box."""
        found = least_squares(
            self._errors,
            np.clip(np.array([start[name] for name in self._names]), self._lows, self._highs),
            jac=self._slopes,
            bounds=(self._lows, self._highs),
            method="dogbox",  # the other one comes near to a bound, such as no friction, but never there
            x_scale=self._scale,
            loss=_soft,
            max_nfev=ITERATIONS,
            xtol=1e-5,
            ftol=1e-6,
            gtol=1e-10,
        )
        return dict(zip(self._names, found.x.tolist(), strict=True))

    def fit(self, values: Mapping[str, float]) -> Fit:
        """A solution with its uncertainty."""
        place = np.array([values[name] for name in self._names])
        covariance, separable = uncertainty(self._problem, self._wide_slopes(place), self._errors(place))
        return Fit(names=self._names, values=place, covariance=covariance, separable=separable)


def _soft(squares: Array) -> Array:
    """Value, slope and curvature of the robust loss in the square of an error, as scipy asks for them."""
    inner = 1.0 + squares / OUTLIER**2
    root = np.sqrt(inner)
    return np.stack([2.0 * OUTLIER**2 * (root - 1.0), 1.0 / root, -0.5 / OUTLIER**2 / (inner * root)])


def uncertainty(problem: Problem, jacobian: Array, residual: Array) -> tuple[Array, Array]:
    """Covariance of the parameters, robust to errors that go together within a cluster, and which are separable.

    (J'WJ)^-1 (sum over clusters of g g') (J'WJ)^-1 with g = J'W r of a cluster (Liang and Zeger, Biometrika 1986). The
    errors are taken to be `FLOOR` at least, so that noise-free simulations do not claim what no robot can.

    Shapes: (N * C', p), (N * C',) -> (p, p), (p,).
    """
    count = jacobian.shape[1]
    weight = 1.0 / np.sqrt(1.0 + (residual / OUTLIER) ** 2)
    size = np.linalg.norm(jacobian * np.sqrt(weight)[:, None], axis=0) + 1e-12
    scaled = jacobian / size
    information = scaled.T @ (weight[:, None] * scaled)
    inverse = np.linalg.inv(information + 1e-9 * np.eye(count))
    separable = 1.0 / np.diag(inverse) > INSEPARABLE
    _, groups = np.unique(np.repeat(problem.cluster, len(problem.compared), axis=0), axis=0, return_inverse=True)
    gradient = np.zeros((groups.max() + 1, count))
    np.add.at(gradient, groups.ravel(), scaled * (weight * residual)[:, None])
    clusters = len(gradient)
    spread = gradient.T @ gradient * clusters / max(1, clusters - count)
    floor = np.median(FLOOR * problem.motion / problem.deviation) ** 2
    covariance = inverse @ spread @ inverse + floor * inverse
    return covariance / np.outer(size, size), separable
