"""What is kept of a task's score in the tasks that make it harder, such as by corrupting its data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from robot_rl.apps.benchmark_result import Result
from robot_rl.benchmark_config import BenchmarkTaskConfig
from robot_rl.seeding import Seeds
from robot_rl.types import Array

SEED = 0


def kept(
    tasks: Mapping[str, BenchmarkTaskConfig], results: Sequence[Result], algorithms: Sequence[str], resamples: int
) -> list[dict[str, Any]]:
    """For each algorithm and each task with a control: the offline scores of both, and their ratio with its interval.

    A ratio is one of means over the seeds that both tasks have. Its interval, 95 %, is of a bootstrap over seeds, the
    same ones for all tasks of a control. Rows without a task are means of the ratios of one control and kind.
    """
    scores: dict[tuple[str, str], dict[int, float]] = {}
    for result in results:
        scores.setdefault((result.task, result.algorithm), {})[result.seed] = result.offline
    groups: dict[tuple[str, str], list[str]] = {}
    for name, task in tasks.items():
        if task.control is not None:
            groups.setdefault((task.control, task.kind), []).append(name)
    rows: list[dict[str, Any]] = []
    for algorithm in algorithms:
        for (control, kind), names in groups.items():
            found = {name: scores[name, algorithm] for name in names if (name, algorithm) in scores}
            clean = scores.get((control, algorithm), {})
            seeds = sorted(set(clean).intersection(*found.values()) if found else ())
            if not seeds:
                continue
            drawn = Seeds(SEED).numpy("kept").integers(len(seeds), size=(resamples, len(seeds)))
            base = np.asarray([clean[seed] for seed in seeds])
            ratios = {
                name: _ratio(np.asarray([of_task[seed] for seed in seeds]), base, drawn)
                for name, of_task in found.items()
            }
            described: dict[str, Any] = {"algorithm": algorithm, "control": control, "kind": kind, "seeds": seeds}
            for name, ratio in ratios.items():
                score = float(np.mean([found[name][seed] for seed in seeds]))
                both = {"score": score, "control_score": float(base.mean())}
                rows.append(described | {"task": name} | both | _estimate(*ratio))
            value = float(np.mean([ratio[0] for ratio in ratios.values()]))
            resampled = np.mean([ratio[1] for ratio in ratios.values()], axis=0)
            rows.append(described | {"task": None, "tasks": len(ratios)} | _estimate(value, resampled))
    return rows


def _ratio(scores: Array, base: Array, drawn: Array) -> tuple[float, Array]:
    """Of the means, and of those of each resample. Shapes: (S,), (S,), (R, S) -> (), (R,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(scores.mean() / base.mean()), scores[drawn].mean(axis=1) / base[drawn].mean(axis=1)


def _estimate(value: float, resampled: Array) -> dict[str, float]:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return {"kept": value, "low": float(low), "high": float(high)}


def kept_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """For a person; nothing where no task has a control.

    Args:
        rows: of `kept`.
    """
    if not rows:
        return []
    algorithms = list(dict.fromkeys(row["algorithm"] for row in rows))
    cells = {(row["control"], row["kind"], row["task"], row["algorithm"]): row for row in rows}
    lines = [
        "## What is kept of the control",
        "",
        "Offline score, and what that is of the control's in percent, with a 95 % interval of a bootstrap over seeds.",
        "",
        f"| | {' | '.join(algorithms)} |",
        "|---" * (len(algorithms) + 1) + "|",
    ]
    for control in dict.fromkeys(row["control"] for row in rows):
        of_control = [row for row in rows if row["control"] == control]
        first = {row["algorithm"]: row["control_score"] for row in of_control if row["task"] is not None}
        numbers = [f"{first[algorithm]:.2f}" if algorithm in first else "" for algorithm in algorithms]
        lines.append(f"| **{control}** | {' | '.join(numbers)} |")
        for kind, task in dict.fromkeys((row["kind"], row["task"]) for row in of_control):
            found = [cells.get((control, kind, task, algorithm)) for algorithm in algorithms]
            title = task if task is not None else f"mean of {kind or 'all'}"
            lines.append(f"| {title} | {' | '.join('' if row is None else _cell(row) for row in found)} |")
    return [*lines, ""]


def _cell(row: Mapping[str, Any]) -> str:
    interval = f" [{100 * row['low']:.0f}, {100 * row['high']:.0f}]" if len(row["seeds"]) > 1 else ""
    score = "" if row["task"] is None else f"{row['score']:.2f}, "
    return f"{score}{100 * row['kept']:.0f} %{interval}"
