"""Several runs together: a picture of mean and range over seeds, and a table of what each run came to."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from robot_rl.apps.report_read import Run, dip, read_run, score_name
from robot_rl.errors import InputError

COLORS = ("#0b6bcb", "#d9480f", "#2b8a3e", "#862e9c", "#a67c00", "#0b7285")


def online_curve(run: Run, score: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Environment steps and scores from the first interaction on; the last offline score stands at step 0.

    Scores that are not finite are left out. Shapes: both (N,), N the number of evaluations that count.
    """
    finite = [one for one in run.evaluations if math.isfinite(one.metric(score))]
    before = [one for one in finite if not one.interacted or one.environment_steps == 0]
    after = {one.environment_steps: one.metric(score) for one in finite if one.interacted and one.environment_steps > 0}
    curve = ({0: before[-1].metric(score)} if before else {}) | after
    steps = sorted(curve)
    return np.array(steps, np.float64), np.array([curve[step] for step in steps], np.float64)


def plot_runs(groups: Mapping[str, Sequence[Path]], path: Path, title: str) -> None:
    """Draw mean and range over the runs of each group, over online environment steps, as a PNG.

    Runs are interpolated linearly at the steps of all runs of their group, as far as the shortest of them came. The
    score is success where every run declares it, and the return otherwise.

    Args:
        groups: folders of runs by label, in the order of the legend.
        path: of the picture, written whole or not at all.
        title: above the picture.

    Raises:
        InputError: a run was never evaluated.
    """
    runs = _read(groups)
    score = _common_score(runs)
    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (label, members) in enumerate(runs.items()):
        curves = [online_curve(run, score) for run in members]
        for run, (steps, _) in zip(members, curves, strict=True):
            if len(steps) == 0:
                raise InputError(f"{run.path} has no evaluation with a finite {score}: leave it out, or evaluate it")
        end = min(steps[-1] for steps, _ in curves)
        grid = np.unique(np.concatenate([steps[steps <= end] for steps, _ in curves]))
        values = np.stack([np.interp(grid, steps, scores) for steps, scores in curves])  # (runs, N)
        color = COLORS[index % len(COLORS)]
        count = f" ({len(members)} seeds)" if len(members) > 1 else ""
        axes.fill_between(grid, values.min(axis=0), values.max(axis=0), color=color, alpha=0.18, linewidth=0)
        axes.plot(grid, values.mean(axis=0), color=color, linewidth=2, marker="o", markersize=3, label=label + count)
        for run in members[:1]:
            if run.switch is not None and run.switch.start.environment_steps > 0:
                axes.axvline(run.switch.start.environment_steps, color=color, linestyle=":", linewidth=1)
    if score == "success_rate":
        axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(left=0)
    axes.set_xlabel("online environment steps (0: offline policy; dotted: online updates begin)")
    axes.set_ylabel("success rate" if score == "success_rate" else "return")
    axes.set_title(title, loc="left", fontweight="bold")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="best", framealpha=0.9)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.png")
    try:
        figure.savefig(temporary, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def summary_table(groups: Mapping[str, Sequence[Path]]) -> list[dict[str, Any]]:
    """One row for each run: what it was before, at worst, and in the end.

    Keys: group, run, seed, status, score (its name), offline, baseline, minimum, dip, recovery_step, final, regret,
    updates, environment_steps, wall_time_s. What a run has not is NaN (`recovery_step`: None). `regret` is the mean of
    1 - success over online environment steps by trapezoids, from the offline policy on; NaN where there is no success.
    `wall_time_s` is that of training, without evaluation.
    """
    rows = []
    for label, members in _read(groups).items():
        for run in members:
            offline = [one for one in run.evaluations if not one.interacted and math.isfinite(one.metric(run.score))]
            finite = [one for one in run.evaluations if math.isfinite(one.metric(run.score))]
            lost = dip(run.evaluations)
            last = run.events[-1] if run.events else None
            rows.append(
                {
                    "group": label,
                    "run": str(run.path),
                    "seed": run.facts.get("seed"),
                    "status": run.status,
                    "score": run.score,
                    "offline": offline[-1].metric(run.score) if offline else math.nan,
                    "baseline": math.nan if lost is None else lost.baseline,
                    "minimum": math.nan if lost is None else lost.minimum,
                    "dip": math.nan if lost is None else lost.depth,
                    "recovery_step": None if lost is None else lost.recovery_step,
                    "final": finite[-1].metric(run.score) if finite else math.nan,
                    "regret": _regret(run),
                    "updates": 0 if last is None else last.updates,
                    "environment_steps": 0 if last is None else last.environment_steps,
                    "wall_time_s": 0.0 if last is None else last.elapsed_s,
                }
            )
    return rows


def _regret(run: Run) -> float:
    steps, success = online_curve(run, "success_rate")
    if len(steps) < 2:
        return math.nan
    loss = 1.0 - success
    return float(((loss[1:] + loss[:-1]) / 2 * np.diff(steps)).sum() / (steps[-1] - steps[0]))


def _read(groups: Mapping[str, Sequence[Path]]) -> dict[str, list[Run]]:
    empty = [label for label, paths in groups.items() if not paths]
    if empty:
        raise InputError(f"no runs for {', '.join(empty)}: give each group at least one run's folder")
    return {label: [read_run(path) for path in paths] for label, paths in groups.items()}


def _common_score(runs: Mapping[str, Sequence[Run]]) -> str:
    scores = {score_name(run.evaluations) for members in runs.values() for run in members}
    return "success_rate" if scores == {"success_rate"} else "return_mean"
