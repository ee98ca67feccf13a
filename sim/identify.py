"""System identification: what of a simulator has to change so that it moves as a robot's log says the robot did.

First how long after a command the robot moves, then gains, friction, damping, inertias and the motors' lag by bounded
least squares, then a check on motion that was held out. What the motion does not say is left as the simulator has it,
and said.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from robot_rl.sim.delay import cross_correlate
from robot_rl.sim.gap import MODEL_FIELDS, NOMINAL, RANGES, Gap
from robot_rl.sim.identify_fit import DELAY, PARAMETERS, Fit, Problem, Solver, robust
from robot_rl.sim.identify_result import Comparison, Estimate, Identification
from robot_rl.sim.logged_motion import shortened, split
from robot_rl.sim.open_loop import Logged, OpenLoop
from robot_rl.sim.simulated import Simulated
from robot_rl.sim.state_reading import StateLayout
from robot_rl.types import Array

HOLD_FIRST = ("gravity", "mass", "armature", "contact_friction", "damping", "coulomb", "motor_pole", "gear", DELAY)
"""Of parameters that imitate one another, which is left as it is."""
RELATIVE = ": the others are relative to it"
PARTNER = 0.9
"""Correlation from which two parameters are said to go together."""
PROFILE_POINTS = 16
START_POLE = 0.05
FITS = 4
SETTLED = 1e-3
"""Change of all parameters, as a share, below which another fit changes nothing."""
MINIMUM_WIDTH = 0.05
"""Smallest half width of a range for randomisation, as a share of the value: noise in the states that predictions start
from moves estimates by more than their deviations say (docs/results.md, section on system identification)."""


def identify(
    simulator: Simulated,
    layout: StateLayout,
    log: list[Logged],
    *,
    gap: Gap,
    parameters: Sequence[str],
    maximum_delay_s: float,
    horizon: int,
    steps: int,
    tell: Callable[[str], None],
) -> Identification:
    """Fit a simulator to a log.

    Args:
        simulator: of the task; nothing else may use it meanwhile.
        layout: of its observations.
        log: of the robot.
        gap: that the simulator begins with, and keeps where nothing is found.
        parameters: names of `PARAMETERS` to fit.
        maximum_delay_s: longest delay that is looked for.
        horizon: steps between logged states that predictions start from.
        steps: of the log that are used for the fit, about.
        tell: takes lines about how far it is.
    """
    fitted, held_out = split(log)
    loop = OpenLoop(simulator, layout, log)
    warm_up = math.ceil(maximum_delay_s / loop.period_s) + 3
    problem = Problem(
        loop=loop,
        layout=layout,
        log=log,
        stretches=shortened(fitted, steps),
        horizon=horizon,
        warm_up=warm_up,
    )
    # Looking back further than the log's episodes are long would leave nothing to look at.
    lags = min(math.ceil(maximum_delay_s / loop.period_s) + 2, max(1, min(map(len, log)) // 2))
    seen = sorted({*layout.velocity, *layout.differenced})
    response = cross_correlate(log, seen, lags=lags, period_s=loop.period_s)
    search = _Search(problem, gap, maximum_delay_s, tell)
    idle = [name for name in parameters if not search.has_effect(name)]
    free = [name for name in parameters if name not in idle]
    fit, held = search.run(free, response.delay_s)
    found = dict(zip(fit.names, fit.values.tolist(), strict=True))
    deviations = dict(zip(fit.names, np.sqrt(np.diag(fit.covariance)).tolist(), strict=True))
    if search.whole_delay and DELAY in free:
        found[DELAY], deviations[DELAY] = search.delay_s, loop.timestep_s / math.sqrt(12)
    result = gap.with_values({name: round(value, 6) for name, value in found.items()})
    tell("Held-out motion")
    test = Problem(loop=loop, layout=layout, log=log, stretches=held_out, horizon=horizon, warm_up=warm_up)
    comparison = Comparison(
        measured=test.measured,
        before=test.predicted(gap),
        after=test.predicted(result),
        usable=test.usable,
        motion=test.motion,
        names=tuple(layout.names[channel] for channel in test.compared),
    )
    profile = search.profile(result, np.linspace(0.0, maximum_delay_s, PROFILE_POINTS))
    loop.close()
    deviation = np.sqrt(np.diag(fit.covariance))
    return Identification(
        estimates=tuple(
            _estimate(name, gap, found.get(name), deviations.get(name, math.nan), held.get(name, ""), name in idle)
            for name in parameters
        ),
        fitted=fit.names,
        correlation=fit.covariance / np.outer(deviation, deviation),
        response=response,
        profile=profile,
        comparison=comparison,
        gap=result,
        steps=(sum(map(len, problem.stretches)), sum(map(len, held_out))),
        faulty=search.faulty,
        horizon=horizon,
        period_s=loop.period_s,
        whole_delay=search.whole_delay,
    )


class _Search:
    """The way to the best parameters: delays on a grid first, because errors have many valleys over them."""

    def __init__(self, problem: Problem, gap: Gap, maximum_delay_s: float, tell: Callable[[str], None]) -> None:
        self._problem, self._gap, self._longest, self._tell = problem, gap, maximum_delay_s, tell
        self.delay_s = gap.action_delay_s
        self.faulty = 0.0  # share of the steps with readings that were set aside
        problem.learn_deviation(problem.errors(gap))
        probe = 0.3 * problem.loop.timestep_s
        one, other = (problem.errors(gap.with_values({DELAY: probe * factor})) for factor in (1.0, 1.2))
        self.whole_delay = bool((one == other).all())
        """Commands arrive at whole physics steps only: errors do not change within one."""

    def has_effect(self, name: str) -> bool:
        """Whether a parameter changes anything that this simulator does."""
        if name not in MODEL_FIELDS:
            return True
        value = getattr(NOMINAL, name)
        changed = NOMINAL.with_values({name: 0.02 if value == 0 else 1.3 * value})
        return not self._problem.loop.without_effect(changed)

    def cost(self, gap: Gap) -> float:
        """Mean of the robust errors."""
        errors = self._problem.errors(gap)
        return float(robust(errors[self._problem.usable]).mean())

    def profile(self, gap: Gap, delays_s: Array) -> tuple[Array, Array]:
        """Delays and the error with each."""
        costs = [self.cost(gap.with_values({DELAY: float(delay)})) for delay in delays_s]
        return delays_s, np.sqrt(np.array(costs))

    def run(self, names: Sequence[str], start_delay_s: float) -> tuple[Fit, dict[str, str]]:
        """The fit of all that can be told, and why the others are held."""
        values = {name: float(getattr(self._gap, name)) for name in names}
        if "motor_pole" in values and values["motor_pole"] == 0.0:
            values["motor_pole"] = START_POLE
        if DELAY in values:
            self._tell("Delay")
            values[DELAY] = self._best_delay(self._gap, start_delay_s, wide=True)
        values, held = self._separable(values)
        values = self._solved(values)
        self.faulty = self._problem.set_faults_aside(self._gap.with_values(values))
        for _ in range(3):
            values = self._solved(values)
            if DELAY not in values:
                break
            better = self._best_delay(self._gap.with_values(values), values[DELAY], wide=False)
            if better == values[DELAY]:
                break
            values[DELAY] = better
        if not self._free(values):  # nothing but a delay in whole physics steps
            self.delay_s = values.get(DELAY, self._gap.action_delay_s)
            return Fit(names=(), values=np.zeros(0), covariance=np.zeros((0, 0)), separable=np.zeros(0, bool)), held
        fit = self._solver(values).fit(values)
        while (worst := self._untold(fit)) is not None:
            held[worst[0]] = worst[1]
            values.pop(worst[0])
            if not self._free(values):
                break
            values = self._solved(values)
            fit = self._solver(values).fit(values)
        self.delay_s = values.get(DELAY, self._gap.action_delay_s)
        kept = [index for index, name in enumerate(fit.names) if name not in held]
        return Fit(
            names=tuple(fit.names[index] for index in kept),
            values=fit.values[kept],
            covariance=fit.covariance[np.ix_(kept, kept)],
            separable=fit.separable[kept],
        ), held

    def _separable(self, values: dict[str, float]) -> tuple[dict[str, float], dict[str, str]]:
        """Without what others imitate: least squares would wander along the valley that they share."""
        held: dict[str, str] = {}
        while self._free(values):
            fit = self._solver(values).fit(values)
            worst = None if fit.separable.all() else self._untold(fit)
            if worst is None:
                break
            held[worst[0]] = worst[1]
            values = {name: value for name, value in values.items() if name != worst[0]}
        return values, held

    def _free(self, values: dict[str, float]) -> list[str]:
        """What least squares can move: a delay in whole physics steps has no slope."""
        return [name for name in values if not (self.whole_delay and name == DELAY)]

    def _solver(self, values: dict[str, float]) -> Solver:
        fixed = {name: value for name, value in values.items() if name not in self._free(values)}
        return Solver(self._problem, self._gap.with_values(fixed), self._free(values), {DELAY: self._longest})

    def _solved(self, values: dict[str, float]) -> dict[str, float]:
        """Fits until another one changes nothing: errors far from a solution would be outliers for those near it."""
        if not self._free(values):
            return values
        for _ in range(FITS):
            self._tell(f"Least squares over {', '.join(values)}: {self._problem.loop.steps} steps simulated so far")
            self._problem.learn_deviation(self._problem.errors(self._gap.with_values(values)))
            found = values | self._solver(values).solve(values)
            settled = all(abs(found[name] - values[name]) <= SETTLED * abs(found[name]) for name in values)
            values = found
            if settled:
                break
        return values

    def _best_delay(self, gap: Gap, start_s: float, *, wide: bool) -> float:
        """The best on a grid: wide, from 0 to the longest; else some physics steps about `start_s`."""
        step = self._problem.loop.timestep_s
        if not wide:
            near = round(start_s / step) + np.arange(-2, 3)
            delays, costs = self.profile(gap, np.unique(np.clip(near * step, 0.0, self._longest)))
            own = self.cost(gap.with_values({DELAY: start_s}))
            lowest = int(np.argmin(costs))
            return float(delays[lowest]) if costs[lowest] ** 2 < own * (1 - 1e-3) else start_s
        stride = max(1, math.ceil(self._longest / step / PROFILE_POINTS))
        coarse = np.arange(0, math.floor(self._longest / step + 1e-9) + 1, stride) * step
        delays, costs = self.profile(gap, np.unique([*coarse, min(start_s, self._longest)]))
        best = float(delays[int(np.argmin(costs))])
        if stride > 1:
            near = round(best / step) + np.arange(-stride + 1, stride)
            delays, costs = self.profile(gap, np.unique(np.clip(near * step, 0.0, self._longest)))
            best = float(delays[int(np.argmin(costs))])
        return best

    def _untold(self, fit: Fit) -> tuple[str, str] | None:
        """The parameter that says least, and why it is held; None where all are known."""
        deviation = np.sqrt(np.diag(fit.covariance))
        correlation = fit.covariance / np.outer(deviation, deviation)
        known = np.array([PARAMETERS[name].known for name in fit.names])
        if not fit.separable.all():
            index = min(np.flatnonzero(~fit.separable), key=lambda place: HOLD_FIRST.index(fit.names[place]))
            others = [name for name, apart in zip(fit.names, fit.separable, strict=True) if not apart]
            others.remove(fit.names[index])
            told = f"cannot be told from {', '.join(others)}" if others else "changes nothing in this motion"
            return fit.names[index], f"{told}{RELATIVE}"
        ratio = 2.0 * deviation / known
        if (ratio <= 1.0).all():
            return None
        index = int(np.argmax(ratio))
        partners = [
            fit.names[other] for other in np.flatnonzero(np.abs(correlation[index]) > PARTNER) if other != index
        ]
        together = f", because it goes together with {', '.join(partners)}" if partners else ""
        return fit.names[index], (
            f"two deviations of {2.0 * deviation[index]:.2g} are more than {known[index]:g}{together}"
        )


def _estimate(name: str, gap: Gap, value: float | None, deviation: float, reason: str, idle: bool) -> Estimate:
    simulator, parameter = float(getattr(gap, name)), PARAMETERS[name]
    if idle or value is None:
        low, high = parameter.prior if name == DELAY or simulator == 0 else [simulator * end for end in parameter.prior]
        return Estimate(
            name=name,
            simulator=simulator,
            value=simulator,
            deviation=math.nan,
            verdict="no effect" if idle else "relative" if reason.endswith(RELATIVE) else "held",
            reason="changes nothing in this task" if idle else reason,
            low=low,
            high=high,
        )
    half = max(2.0 * deviation, MINIMUM_WIDTH * value)
    low, high = (min(max(end, RANGES[name][0]), RANGES[name][1]) for end in (value - half, value + half))
    margin = 1e-3 * (parameter.high - parameter.low)
    at_edge = value > parameter.high - margin or (parameter.low > 0 and value < parameter.low + margin)
    return Estimate(
        name=name,
        simulator=simulator,
        value=value,
        deviation=deviation,
        verdict="identified",
        reason="at the edge of what is looked for" if at_edge else "",
        low=round(low, 6),
        high=round(high, 6),
    )
