"""Measures of a sample of a data set's steps: neighbours, dynamics, coverage.

Shapes: N steps, S channels of the state, A of the action.
"""

import re
from dataclasses import dataclass

import numpy as np

from robot_rl.datasets.validation.facts import vectors
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array

SAMPLED = 20_000  # steps that stand for the whole
QUERIES = 1000  # of them whose neighbours are looked up
QUERIES_AT_ONCE = 100
NEIGHBOURS = 8
CELL_AXES = 3  # principal axes
CELL_BINS = 10  # of each of them
ACTION_BINS = 20
RIDGE = 1e-3  # times the number of rows, on standardised channels
LEAST = 100  # steps, and twice as many channels, below which nothing is said about dynamics
HISTORY_HELPS = 0.3
"""Share of what state and action leave unexplained of the next change that the change before explains, from which
velocities are missing. Measured: 0.8 on the Adroit door (positions), 0.6 on the pen (positions of the hand)."""
HISTORY_USELESS = 0.2  # below which they are there. Measured: 0.03 on half_cheetah, 0.16 on reacher_easy
EXPLAINED = 0.5  # of the change, with history, below which a linear model is too poor to tell
VELOCITY = re.compile(r"(^|[^a-z])(q?vel(ocit(y|ies)|p|r)?|speeds?|twist|qd|dq|qdot)([^a-z]|$)")


@dataclass(frozen=True)
class Sample:
    """Steps with the states around them."""

    episode: Array  # (N,)
    before: Array  # (N, S), the state one step earlier
    state: Array  # (N, S)
    after: Array  # (N, S)
    action: Array  # (N, A)


class Sampler:
    """Takes steps evenly from each episode."""

    def __init__(self, episodes: int) -> None:
        self.each = max(8, SAMPLED // max(episodes, 1))
        self.stride = max(1, episodes * self.each // SAMPLED)  # so that a million episodes are sampled too
        self._seen = 0
        self._parts: list[Sample] = []

    def add(self, states: Array, actions: Array) -> None:
        """One episode. Shapes: (T + 1 or T, S), (T, A)."""
        number, self._seen = self._seen, self._seen + 1
        last = min(len(states) - 1, len(actions))  # of the steps with a state after them, exclusive
        if number % self.stride or last < 2:
            return
        chosen = np.unique(np.linspace(1, last - 1, min(self.each, last - 1)).astype(int))
        self._parts.append(
            Sample(
                np.full(len(chosen), number), states[chosen - 1], states[chosen], states[chosen + 1], actions[chosen]
            )
        )

    def sample(self) -> Sample:
        """All that was taken."""
        if not self._parts:
            return Sample(*(np.empty((0, 0)) for _ in range(5)))
        parts = self._parts
        return Sample(
            np.concatenate([part.episode for part in parts]),
            np.concatenate([part.before for part in parts]),
            np.concatenate([part.state for part in parts]),
            np.concatenate([part.after for part in parts]),
            np.concatenate([part.action for part in parts]),
        )


def motion_explained(sample: Sample) -> tuple[float | None, float | None]:
    """How much of the next change of the state is told by state and action, and by them with the change before.

    Linear, by ridge regression on standardised channels, fitted to every other episode and measured on the others:
    the share of the variance, mean over the channels that move. A system that shows its velocities gains nothing from
    the change before; one that hides them gains much.
    """
    change, previous = sample.after - sample.state, sample.state - sample.before
    moves = change.std(axis=0) > 0 if len(change) else np.zeros(0, bool)
    inputs = [sample.state, sample.action]
    width = sum(array.shape[1] for array in inputs) + previous.shape[1]
    fitted = sample.episode % 2 == 0
    if not moves.any() or min(fitted.sum(), (~fitted).sum()) < max(LEAST, 2 * width):
        return None, None
    return (
        _explained(np.concatenate(inputs, axis=1), change[:, moves], fitted),
        _explained(np.concatenate([*inputs, previous], axis=1), change[:, moves], fitted),
    )


def velocities(spec: Spec, explained: float | None, with_history: float | None) -> str:
    """Whether the state shows how fast it changes.

    Returns:
        `missing` where the change before explains much of what state and action do not, `measured` where it explains
        hardly anything; else `named` where names of keys or channels speak of velocities, and `unknown`.
    """
    if explained is not None and with_history is not None and with_history >= EXPLAINED:
        left = 1.0 - explained
        gain = (with_history - explained) / left if left > 1e-6 else 0.0
        if gain >= HISTORY_HELPS:
            return "missing"
        if gain < HISTORY_USELESS:
            return "measured"
    names = list(vectors(spec))
    names += [name for key in vectors(spec) for name in spec.observation[key].names or ()]
    return "named" if any(VELOCITY.search(name.lower()) for name in names) else "unknown"


def action_disagreement(sample: Sample) -> float | None:
    """Variance of the actions of the nearest states of other episodes over that of all actions.

    0: the state tells the action. Near 1: it tells nothing. In between: noise, several ways of doing it, or a state
    that hides what the demonstrator saw. None with one episode, or without states or actions.
    """
    if len(sample.state) == 0 or len(np.unique(sample.episode)) < 2:
        return None
    state, action = standardised(sample.state), standardised(sample.action)
    if state.shape[1] == 0 or action.shape[1] == 0:
        return None
    chosen = np.unique(np.linspace(0, len(state) - 1, min(QUERIES, len(state))).astype(int))
    squares = np.square(state).sum(axis=1)
    variances = []
    for start in range(0, len(chosen), QUERIES_AT_ONCE):
        query = chosen[start : start + QUERIES_AT_ONCE]
        distance = squares[query, None] + squares[None] - 2 * state[query] @ state.T
        distance[sample.episode[query, None] == sample.episode[None]] = np.inf
        count = min(NEIGHBOURS, int(np.isfinite(distance).sum(axis=1).min()))
        if count < 2:
            return None
        near = np.argpartition(distance, count - 1, axis=1)[:, :count]
        variances.append(action[near].var(axis=1, ddof=1).mean(axis=1))
    return float(np.concatenate(variances).mean())


def cell_coverage(sample: Sample) -> float | None:
    """Occupied cells among `CELL_BINS` to the power of the axes, over as many as the sample could occupy.

    The axes are the first principal ones of standardised states and actions, from the 1st to the 99th percentile.
    """
    if len(sample.state) < 2:
        return None
    rows = standardised(np.concatenate([sample.state, sample.action], axis=1))
    axes = min(CELL_AXES, rows.shape[1])
    if axes == 0:
        return None
    _, vectors_ = np.linalg.eigh(rows.T @ rows)
    projected = rows @ vectors_[:, -axes:]
    low, high = np.percentile(projected, [1, 99], axis=0)
    width = np.where(high - low > 1e-6 * (high - low).max(), high - low, np.inf)  # rounding fills no cells
    cells = np.clip((projected - low) / width * CELL_BINS, 0, CELL_BINS - 1).astype(np.int64)
    occupied = len(np.unique(cells @ CELL_BINS ** np.arange(axes)))
    return float(occupied / min(CELL_BINS**axes, len(rows)))


def action_coverage(actions: Array, spec: ArraySpec) -> float | None:
    """Occupied bins of each channel between its bounds (its extremes where none are declared), mean over channels."""
    if actions.size == 0:
        return None
    low = actions.min(axis=0) if spec.low is None else np.broadcast_to(np.ravel(spec.low), actions.shape[1:])
    high = actions.max(axis=0) if spec.high is None else np.broadcast_to(np.ravel(spec.high), actions.shape[1:])
    width = np.where(high > low, high - low, 1.0)
    bins = np.clip((actions - low) / width * ACTION_BINS, 0, ACTION_BINS - 1).astype(int)
    return float(np.mean([len(np.unique(column)) for column in bins.T]) / ACTION_BINS)


def standardised(rows: Array) -> Array:
    """Mean 0 and deviation 1, without the channels that never change. Shapes: (N, C) -> (N, <= C)."""
    deviation = rows.std(axis=0)
    varies = deviation > 1e-12
    return np.asarray((rows[:, varies] - rows[:, varies].mean(axis=0)) / deviation[varies])


def _explained(inputs: Array, targets: Array, fitted: Array) -> float:
    x, y = standardised(inputs), standardised(targets)
    gram = x[fitted].T @ x[fitted] + RIDGE * fitted.sum() * np.eye(x.shape[1])
    solution = np.linalg.solve(gram, x[fitted].T @ y[fitted])
    left = np.square(y[~fitted] - x[~fitted] @ solution).sum(axis=0)
    total = np.square(y[~fitted]).sum(axis=0)
    return float(np.clip(1.0 - left[total > 0] / total[total > 0], 0.0, 1.0).mean())
