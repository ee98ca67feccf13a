"""Tables and curves of a benchmark, from its result files alone: they may come from several machines."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl import checkpoint
from robot_rl.apps.benchmark_estimate import Estimate, Estimator
from robot_rl.apps.benchmark_gates import gates, gates_table
from robot_rl.apps.benchmark_kept import kept, kept_table
from robot_rl.apps.benchmark_plan import Plan
from robot_rl.apps.benchmark_result import Result, read_result
from robot_rl.apps.benchmark_transfer import transfer, transfer_table
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.errors import InputError
from robot_rl.statistics import (
    Statistic,
    interquartile_mean,
    mean,
)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What `write_tables` made."""

    folder: Path
    runs: int
    warnings: list[str]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The runs of one algorithm, by task."""

    algorithm: str
    runs: Mapping[str, Sequence[Result]]

    @property
    def all(self) -> list[Result]:
        """Of all tasks."""
        return [result for results in self.runs.values() for result in results]


def read_results(folder: Path) -> list[Result]:
    """Every result below a folder.

    Raises:
        InputError: there is none, or one is damaged.
    """
    results = [read_result(path) for path in sorted(folder.glob("*/*/seed_*.json"))]
    if not results:
        raise InputError(f"{folder} holds no result yet: run `robot-rl benchmark suite=NAME` first, or copy results in")
    return results


def write_tables(plan: Plan) -> Written:
    """Write `table.md`, `table.json`, `curves.png` and `curves.svg` into `tables/<suite>` of the output.

    Raises:
        InputError: there is no result, or the folder cannot be written.
    """
    wanted = {
        (task, algorithm, seed) for task in plan.tasks for algorithm in plan.algorithms_of(task) for seed in plan.seeds
    }
    found = read_results(plan.results)
    results = [result for result in found if (result.task, result.algorithm, result.seed) in wanted]
    if not results:
        raise InputError(
            f"none of the {len(found)} results in {plan.results} is of the tasks, algorithms and seeds chosen"
        )
    groups = [
        Group(
            algorithm=algorithm,
            runs={
                task: [r for r in results if (r.task, r.algorithm) == (task, algorithm)]
                for task in plan.tasks
                if any((r.task, r.algorithm) == (task, algorithm) for r in results)
            },
        )
        for algorithm in plan.algorithms
        if any(r.algorithm == algorithm for r in results)
    ]
    estimator = Estimator(plan.config.resamples)
    content = _content(plan, groups, results, len(wanted), estimator)
    folder = plan.folder / "tables" / plan.suite.name
    with clear_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(folder / "table.json", json.dumps(content, indent=1) + "\n")
        checkpoint.write_text(folder / "table.md", as_markdown(content))
        draw_curves(plan.tasks, groups, estimator, folder)
    return Written(folder=folder, runs=len(results), warnings=content["warnings"])


# Numbers --------------------------------------------------------------------------------------------------------------


def _content(
    plan: Plan, groups: Sequence[Group], results: Sequence[Result], wanted: int, estimator: Estimator
) -> dict[str, Any]:
    steps = sorted({point.step for result in results for point in result.curve})
    found = kept(plan.suite.tasks, results, plan.algorithms, plan.config.resamples)
    return {
        "suite": plan.suite.name,
        "runs": len(results),
        "planned": wanted,
        "seeds": sorted({result.seed for result in results}),
        "tasks": list(plan.tasks),
        "steps": steps,
        "dip_window_steps": plan.suite.dip_window_steps,
        "commits": sorted({result.commit or "unknown" for result in results}),
        "warnings": _warnings(results),
        "all_tasks": [_row(group, list(group.runs), steps, interquartile_mean, estimator) for group in groups],
        "by_task": {
            task: [_row(group, [task], steps, mean, estimator) for group in groups if task in group.runs]
            for task in plan.tasks
        },
        "improvement": _improvement(groups, estimator),
        "kept": found,
        "transfer": transfer(plan.suite, results, estimator),
        "gates": gates(plan.suite, results, found, plan.config.resamples),
    }


def _row(
    group: Group, tasks: Sequence[str], steps: Sequence[int], statistic: Statistic, estimator: Estimator
) -> dict[str, Any]:
    runs = [group.runs[task] for task in tasks]

    def estimate(number: Callable[[Result], float | None]) -> dict[str, float]:
        numbers = [[value for run in of_task if (value := number(run)) is not None] for of_task in runs]
        return vars(estimator(numbers, statistic))

    flat = [run for of_task in runs for run in of_task]
    fell = [run for run in flat if run.dip_depth]
    recovered = [run for run in fell if run.recovery_step is not None]
    return {
        "algorithm": group.algorithm,
        "runs": len(flat),
        "offline": estimate(lambda run: run.offline),
        "scores": {str(step): estimate(partial(_at, step=step)) for step in steps if step > 0},
        "final": estimate(lambda run: run.final),
        "regret": estimate(lambda run: run.regret),
        "dip": estimate(lambda run: run.dip_depth),
        "fell": len(fell),
        "recovered": len(recovered),
        "recovery_step": float(np.median([run.recovery_step for run in recovered])) if recovered else None,
        "cpu_s": float(np.mean([run.cpu_s for run in flat])),
        "wall_s": float(np.mean([run.wall_s for run in flat])),
    }


def _at(run: Result, step: int) -> float | None:
    return next((point.score for point in run.curve if point.step == step), None)


def _improvement(groups: Sequence[Group], estimator: Estimator) -> dict[str, Any]:
    """Of final score and of regret (smaller is better), for each ordered pair on the tasks that both have."""
    numbers: dict[str, Callable[[Result], float]] = {"final": lambda run: run.final, "regret": lambda run: -run.regret}
    found: dict[str, Any] = {}
    for name, number in numbers.items():
        pairs = []
        for one in groups:
            for other in groups:
                both = [task for task in one.runs if task in other.runs]
                if one is other or not both:
                    continue
                scores = [
                    (np.asarray([number(r) for r in one.runs[task]]), np.asarray([number(r) for r in other.runs[task]]))
                    for task in both
                ]
                value, low, high = estimator.improvement(scores)
                pairs.append({"x": one.algorithm, "y": other.algorithm, "value": value, "low": low, "high": high})
        found[name] = pairs
    return found


def _warnings(results: Sequence[Result]) -> list[str]:
    found = []
    for task in dict.fromkeys(result.task for result in results):
        of_task = [result for result in results if result.task == task]
        if len({result.data_sha256 for result in of_task}) > 1:
            found.append(
                f"the runs of {task} learned from different data (SHA-256 of the episodes): make the stores on one "
                "machine and copy them"
            )
        counts = {a: sum(r.algorithm == a for r in of_task) for a in dict.fromkeys(r.algorithm for r in of_task)}
        if len(set(counts.values())) > 1:
            found.append(f"{task} is not complete, runs of each algorithm: {counts}")
        if len({result.scale for result in of_task}) > 1:
            found.append(f"the results of {task} are normalised by different scales: see `scale` of its result files")
        for algorithm in dict.fromkeys(result.algorithm for result in of_task if result.identified is False):
            found.append(
                f"{algorithm} acted in the plain simulator of {task}: identification explained the data no better"
            )
    return found


# Text -----------------------------------------------------------------------------------------------------------------


def as_markdown(content: Mapping[str, Any]) -> str:
    """The tables for a person.

    Args:
        content: of `table.json`.
    """
    partial = "" if content["runs"] == content["planned"] else f" **Partial: {content['planned']} runs are planned.**"
    lines = [
        f"# Suite {content['suite']}",
        "",
        f"{content['runs']} runs, seeds {', '.join(map(str, content['seeds']))}, commit "
        f"{', '.join(commit[:10] for commit in content['commits'])}.{partial}",
        "",
        "Scores are normalised: 0 is the random policy, 1 the task's reference. In brackets 95 % intervals of a "
        "bootstrap that draws runs within each task. Offline: all episodes before the first online update. Regret: "
        "mean of 1 - score along the online steps. Dip: how far the score fell below the offline one in the first "
        f"{content['dip_window_steps']} steps; back after: the median step over the runs that fell and came back.",
        "",
        *(f"> {warning}\n" for warning in content["warnings"]),
        "## All tasks: interquartile mean over runs",
        "",
        *_summary_table(content["all_tasks"]),
        "",
    ]
    lines += ["### Along the online steps", "", *_steps_table(content["all_tasks"], content["steps"]), ""]
    for task, rows in content["by_task"].items():
        if rows:
            lines += [f"## {task}: mean over runs", "", *_summary_table(rows), ""]
            lines += [*_steps_table(rows, content["steps"]), ""]
    lines += kept_table(content["kept"])
    lines += gates_table(content["gates"])
    lines += transfer_table(content["transfer"])
    for name, pairs in content["improvement"].items():
        if pairs:
            title = {"final": "final score", "regret": "regret"}[name]
            lines += [f"## Probability that a run of the row beats one of the column: {title}", ""]
            lines += [*_pairs_table(content["all_tasks"], pairs), ""]
    return "\n".join(lines)


def _summary_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| | runs | offline | final | regret | dip | back after | CPU s |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        step = "-" if row["recovery_step"] is None else f"{row['recovery_step']:.0f}"
        back = f"{step} ({row['recovered']} of {row['fell']})"
        numbers = [Estimate(**row[name]).text() for name in ("offline", "final", "regret", "dip")]
        lines.append(f"| {row['algorithm']} | {row['runs']} | {' | '.join(numbers)} | {back} | {row['cpu_s']:.0f} |")
    return lines


def _steps_table(rows: Sequence[Mapping[str, Any]], steps: Sequence[int]) -> list[str]:
    after = [step for step in steps if step > 0]
    lines = [f"| steps | 0 | {' | '.join(map(str, after))} |", "|---" * (len(after) + 2) + "|"]
    for row in rows:
        numbers = [row["offline"], *(row["scores"][str(step)] for step in after)]
        lines.append(f"| {row['algorithm']} | {' | '.join(Estimate(**number).text() for number in numbers)} |")
    return lines


def _pairs_table(rows: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [row["algorithm"] for row in rows]
    values = {(pair["x"], pair["y"]): pair for pair in pairs}
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for one in names:
        cells = []
        for other in names:
            pair = values.get((one, other))
            sure = pair is not None and (pair["low"] > 0.5 or pair["high"] < 0.5)
            cells.append("" if pair is None else f"**{pair['value']:.2f}**" if sure else f"{pair['value']:.2f}")
        lines.append(f"| {one} | {' | '.join(cells)} |")
    return [*lines, "", "In bold where the interval leaves out 0.5."]


# Curves ---------------------------------------------------------------------------------------------------------------


def draw_curves(tasks: Sequence[str], groups: Sequence[Group], estimator: Estimator, folder: Path) -> None:
    """Normalised score along the online steps: one panel for each task, and the interquartile mean over all."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [task for task in tasks if any(task in group.runs for group in groups)]
    panels: list[tuple[str, list[str], Statistic]] = [(task, [task], mean) for task in shown]
    if len(shown) > 1:
        panels.append(("all tasks, interquartile mean", shown, interquartile_mean))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.8), squeeze=False, sharey=True)
    colors = [*pyplot.get_cmap("tab10").colors, *pyplot.get_cmap("Dark2").colors]
    for axis, (title, of_tasks, statistic) in zip(axes[0], panels, strict=True):
        for number, group in enumerate(groups):
            inside = [task for task in of_tasks if task in group.runs]
            _draw(axis, group, inside, statistic, estimator, colors[number % len(colors)])
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("environment steps since the switch")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("normalised score")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=min(len(labels), 6), fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.06 * math.ceil(len(labels) / 6), 1, 1))
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"curves.{suffix}", dpi=130)
    pyplot.close(figure)


def _draw(
    axis: Any, group: Group, tasks: Sequence[str], statistic: Statistic, estimator: Estimator, color: Any
) -> None:
    steps = sorted({point.step for task in tasks for run in group.runs[task] for point in run.curve})
    if not steps:
        return
    estimates = [
        estimator([[v for run in group.runs[task] if (v := _at(run, step)) is not None] for task in tasks], statistic)
        for step in steps
    ]
    axis.plot(steps, [e.value for e in estimates], color=color, label=group.algorithm, linewidth=1.4, marker=".")
    axis.fill_between(
        steps, [e.low for e in estimates], [e.high for e in estimates], color=color, alpha=0.12, linewidth=0
    )
