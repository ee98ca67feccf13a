"""What a learner gains on the robot over a policy that never saw it: the numbers of section "suite=sim2real"."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from robot_rl.apps.benchmark_estimate import Estimate, Estimator
from robot_rl.apps.benchmark_result import Result
from robot_rl.benchmark_config import SuiteConfig
from robot_rl.statistics import mean

ENOUGH = 0.8
"""The share of the reference's score whose first reaching counts."""
TAIL = 0.25
"""Share of the worst episodes behind the conditional value at risk."""


def transfer(suite: SuiteConfig, results: Sequence[Result], estimator: Estimator) -> list[dict[str, Any]]:
    """A row for each algorithm; none where the suite has no robot.

    Args:
        suite: says which algorithm is zero-shot, and which tasks have a robot.
        results: runs of it.
        estimator: of means over runs.
    """
    if suite.zero_shot is None:
        return []
    tasks = suite.cells
    plain = {
        task: [run.offline for run in results if (run.task, run.algorithm) == (task, suite.zero_shot)] for task in tasks
    }
    base = {task: float(np.mean(scores)) for task, scores in plain.items() if scores}
    rows = []
    for algorithm in dict.fromkeys(run.algorithm for run in results):
        runs = [[run for run in results if (run.task, run.algorithm) == (task, algorithm)] for task in tasks]
        flat = [run for of_task in runs for run in of_task]
        if not flat:
            continue
        numbers: dict[str, Callable[[Result], float | None]] = {
            "before": lambda run: run.offline,
            "after": lambda run: run.final,
            "closed_before": lambda run: closed(run.offline, base.get(run.task)),
            "closed_after": lambda run: closed(run.final, base.get(run.task)),
            "tail": lambda run: tail_mean(run.last_episodes),
            "limit_hits": lambda run: run.limit_hits,
        }
        row: dict[str, Any] = {"algorithm": algorithm, "runs": len(flat)}
        for name, number in numbers.items():
            found = [[value for run in of_task if (value := number(run)) is not None] for of_task in runs]
            row[name] = vars(estimator(found, mean))
        steps = [steps_to(run) for run in flat]
        reached = [step for step in steps if step is not None]
        row |= {"reached": len(reached), "steps_to_enough": float(np.median(reached)) if reached else None}
        rows.append(row)
    return rows


def closed(score: float, zero_shot: float | None) -> float | None:
    """(score - zero-shot) / (1 - zero-shot), the share of the gap to the reference that is closed.

    None where there is no zero-shot score, or it reaches the reference: there is no gap then.
    """
    return None if zero_shot is None or zero_shot >= 1.0 else (score - zero_shot) / (1.0 - zero_shot)


def tail_mean(scores: Sequence[float]) -> float:
    """Mean of the worst quarter of the episodes, at least of one (conditional value at risk)."""
    count = max(1, math.ceil(TAIL * len(scores)))
    return float(np.mean(np.sort(np.asarray(scores))[:count]))


def steps_to(run: Result) -> int | None:
    """Steps on the robot at the first evaluation that reaches 80 % of the reference; None: not within the run."""
    return next((point.step for point in run.curve if point.score >= ENOUGH), None)


def transfer_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For a person; nothing where no task has a robot.

    Args:
        rows: of `transfer`.
    """
    if not rows:
        return []
    lines = [
        "## Transfer to the robot",
        "",
        "Scores on the robots, 0 of uniform actions, 1 of a policy trained on them; mean over runs, 95 % intervals of "
        "a bootstrap that draws runs within each task. Before: without a step on the robot but the data. Closed: share "
        "of the gap between the zero-shot policy and 1. Tail: the worst quarter of the last episodes. Limit hits: "
        "steps of 1,000 with a joint at its limit. Steps to 0.8: on the robot, the median over runs that got there.",
        "",
        "| | runs | before | closed | after | closed | tail | limit hits | steps to 0.8 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        names = ("before", "closed_before", "after", "closed_after", "tail", "limit_hits")
        cells = [Estimate(**row[name]).text() for name in names]
        step = "-" if row["steps_to_enough"] is None else f"{row['steps_to_enough']:.0f}"
        reached = f"{step} ({row['reached']} of {row['runs']})"
        lines.append(f"| {row['algorithm']} | {row['runs']} | {' | '.join(cells)} | {reached} |")
    return [*lines, ""]
