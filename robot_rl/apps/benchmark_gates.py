"""What a table of transfer is judged by: gates (a) to (d) of the protocol, and H2O's claim, each with its interval.

A cell is a task on a robot. Scores are those before the switch: of what the simulator and the robot's data gave alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from robot_rl.apps.benchmark_result import Result
from robot_rl.benchmark_config import BenchmarkTaskConfig, SuiteConfig
from robot_rl.seeding import Seeds
from robot_rl.types import Array

SEED = 0
GAIN = 0.05
"""By which a hybrid learner has to be above randomisation and above the data alone, and the share of cells:"""
SHARE = 2 / 3
LOSS = 0.05
"""By which it may be below the data alone, anywhere."""
IDENTITY_LOSS = 0.03
"""By which it may be below SAC where the simulator is the robot."""
RATIO = 0.15
"""Largest mean size of its log-ratios there."""
EFFECTIVE = 0.9
"""Smallest share of samples that its weights leave there."""
KEPT = 0.5
"""Share of its score that learning from the data alone has to keep where 30 % of the data is corrupted."""
ADMITTED = (0.2, 0.8)
"""Zero-shot scores of cells that say something: the gap hurts, and what the simulator taught is not void."""


def gates(
    suite: SuiteConfig, results: Sequence[Result], kept: Sequence[Mapping[str, Any]], resamples: int
) -> dict[str, Any]:
    """Cells and gates; empty where the suite names no hybrid learners.

    Args:
        suite: names the learners, and says which tasks have a robot, are its control, or are the same as the simulator.
        results: of its runs.
        kept: rows of `benchmark_kept.kept`.
        resamples: of the bootstrap, which draws the runs of each cell and algorithm.
    """
    if not suite.gates.hybrids or suite.zero_shot is None:
        return {}
    means = _Means(results, resamples)
    tasks = {name: task for name, task in suite.tasks.items() if task.transfers}
    identities = [name for name, task in tasks.items() if task.identity]
    found = [_cell(suite, means, cell, hybrid) for hybrid in suite.gates.hybrids for cell in suite.cells]
    rows = [row for row in found if row is not None]
    judged: list[dict[str, Any]] = []
    for hybrid in suite.gates.hybrids:
        judged += _identity(suite, means, identities, hybrid)
        own = [row for row in rows if row["learner"] == hybrid]
        judged += _gains([row for row in own if row["admitted"]], hybrid) + _losses(own, hybrid) + _claim(own, hybrid)
    judged += _corrupted(kept, suite.gates.offline, tasks)
    for row in rows:
        row["over"] = {name: _estimate(*pair) for name, pair in row["over"].items()}
    return {"cells": rows, "gates": judged, "zero_shot": suite.zero_shot, **vars(suite.gates)}


class _Means:
    """Means over the runs of a task and algorithm, and those of each resample; None where there is no run.

    Shapes: -> (), (R,).
    """

    def __init__(self, results: Sequence[Result], resamples: int) -> None:
        self._results, self._resamples = results, resamples

    def __call__(self, task: str, algorithm: str) -> tuple[float, Array] | None:
        """Of scores."""
        return self._mean([run.offline for run in self._runs(task, algorithm)], task, algorithm)

    def judges(self, task: str, algorithm: str, name: str) -> tuple[float, Array] | None:
        """Of what judges said."""
        said = [run.judges[name] for run in self._runs(task, algorithm) if name in run.judges]
        return self._mean(said, task, algorithm, name)

    def _runs(self, task: str, algorithm: str) -> list[Result]:
        return [run for run in self._results if (run.task, run.algorithm) == (task, algorithm)]

    def _mean(self, numbers: Sequence[float], *names: str) -> tuple[float, Array] | None:
        if not numbers:
            return None
        values, generator = np.asarray(numbers), Seeds(SEED).numpy("gates", *names)
        drawn = values[generator.integers(len(values), size=(self._resamples, len(values)))]
        return float(values.mean()), drawn.mean(axis=1)


def _cell(suite: SuiteConfig, means: _Means, cell: str, hybrid: str) -> dict[str, Any] | None:
    """How far a hybrid learner is above its rivals; None where one of them has no run yet."""
    zero_shot, names = suite.zero_shot, suite.gates
    assert zero_shot is not None
    found = {name: means(cell, name) for name in (hybrid, zero_shot, names.randomized, names.offline)}
    scores = {name: each for name, each in found.items() if each is not None}
    if len(scores) < len(found):
        return None
    ours, base = scores[hybrid], scores[zero_shot]
    rivals: dict[str, list[str]] = {
        "randomized_and_offline": [names.randomized, names.offline],
        "zero_shot_and_offline": [zero_shot, names.offline],
        "offline": [names.offline],
    }
    over = {
        name: (
            ours[0] - max(scores[rival][0] for rival in of),
            ours[1] - np.max([scores[rival][1] for rival in of], axis=0),
        )
        for name, of in rivals.items()
    }
    admitted = ADMITTED[0] <= base[0] <= ADMITTED[1]
    return {"cell": cell, "learner": hybrid, "zero_shot": _estimate(*base), "admitted": admitted, "over": over}


def _gains(rows: Sequence[Mapping[str, Any]], hybrid: str) -> list[dict[str, Any]]:
    what = f"cells where it is {100 * GAIN:.0f} points above randomisation and data alone, as a share"
    return [_share("b", hybrid, what, rows, "randomized_and_offline", GAIN, SHARE)]


def _claim(rows: Sequence[Mapping[str, Any]], hybrid: str) -> list[dict[str, Any]]:
    what = "H2O's claim: cells where it is above zero-shot and above data alone, as a share"
    return [_share("claim", hybrid, what, rows, "zero_shot_and_offline", 0.0, 1.0)]


def _share(
    gate: str, hybrid: str, what: str, rows: Sequence[Mapping[str, Any]], over: str, least: float, wanted: float
) -> dict[str, Any]:
    if not rows:
        return _gate(gate, hybrid, what, None, wanted, at_least=True)
    value = float(np.mean([row["over"][over][0] >= least for row in rows]))
    drawn = np.mean([row["over"][over][1] >= least for row in rows], axis=0)
    return _gate(gate, hybrid, f"{what} of {len(rows)}", (value, drawn), wanted - 1e-9, at_least=True)


def _losses(rows: Sequence[Mapping[str, Any]], hybrid: str) -> list[dict[str, Any]]:
    what = "score beside that of the data alone, where it is worst"
    if not rows:
        return [_gate("c", hybrid, what, None, -LOSS, at_least=True)]
    worst = min(rows, key=lambda row: row["over"]["offline"][0])
    drawn = np.min([row["over"]["offline"][1] for row in rows], axis=0)
    number = (worst["over"]["offline"][0], drawn)
    return [_gate("c", hybrid, f"{what} ({worst['cell']})", number, -LOSS, at_least=True)]


def _identity(suite: SuiteConfig, means: _Means, identities: Sequence[str], hybrid: str) -> list[dict[str, Any]]:
    found = []
    for task in identities:
        ours, base = means(task, hybrid), means(task, str(suite.zero_shot))
        number = None if ours is None or base is None else (ours[0] - base[0], ours[1] - base[1])
        what = f"score beside {suite.zero_shot}'s where the simulator is the robot ({task})"
        found.append(_gate("a", hybrid, what, number, -IDENTITY_LOSS, at_least=True))
        for name, told, limit, at_least in (
            ("log_ratio_size", "size of its log-ratios there", RATIO, False),
            ("effective_share", "share of samples that its weights leave there", EFFECTIVE, True),
        ):
            said = means.judges(task, hybrid, name)
            if said is not None:
                found.append(_gate("a", hybrid, told, said, limit, at_least=at_least))
    return found


def _corrupted(
    kept: Sequence[Mapping[str, Any]], offline: str, tasks: Mapping[str, BenchmarkTaskConfig]
) -> list[dict[str, Any]]:
    rows = [row for row in kept if row["algorithm"] == offline and row["task"] in tasks]
    return [
        {
            **_gate("d", offline, f"share of its score that is kept in {row['task']}", None, KEPT, at_least=True),
            "value": row["kept"],
            "low": row["low"],
            "high": row["high"],
            "met": row["kept"] >= KEPT,
            "decided": row["low"] >= KEPT or row["high"] < KEPT,
        }
        for row in rows
    ]


def _gate(
    gate: str, learner: str, what: str, number: tuple[float, Array] | None, limit: float, *, at_least: bool
) -> dict[str, Any]:
    described: dict[str, Any] = {"gate": gate, "learner": learner, "what": what, "limit": limit, "at_least": at_least}
    if number is None:
        return described | {"value": None, "low": None, "high": None, "met": None, "decided": False}
    estimate = _estimate(*number)
    passes: Callable[[float], bool] = (lambda value: value >= limit) if at_least else (lambda value: value <= limit)
    ends = (passes(estimate["low"]), passes(estimate["high"]))
    return described | estimate | {"met": passes(estimate["value"]), "decided": ends[0] == ends[1]}


def _estimate(value: float, drawn: Array) -> dict[str, float]:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"value": float(value), "low": float(low), "high": float(high)}


# Text -----------------------------------------------------------------------------------------------------------------


def gates_table(found: Mapping[str, Any]) -> list[str]:
    """For a person; nothing where there are no gates.

    Args:
        found: of `gates`.
    """
    if not found:
        return []
    lines = [
        "## Gates",
        "",
        "Scores before the switch. Met or missed goes by the number; where its 95 % interval (bootstrap over the runs "
        "of each cell and algorithm) has both, it is not decided by these runs.",
        "",
        "| gate | learner | | found | wanted | |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["gates"]:
        wanted = f"{'at least' if row['at_least'] else 'at most'} {row['limit']:.2f}"
        lines.append(
            f"| {row['gate']} | {row['learner']} | {row['what']} | {_text(row)} | {wanted} | {_verdict(row)} |"
        )
    lines += [
        "",
        f"### Cells: how far above the better of {found['randomized']} and {found['offline']}, of {found['zero_shot']} "
        f"and {found['offline']}, and above {found['offline']}",
        "",
        f"A cell is admitted to gate b where {found['zero_shot']} scores {ADMITTED[0]} to {ADMITTED[1]}: elsewhere the "
        "gap does not hurt, or nothing of the simulator is left.",
        "",
        f"| cell | {found['zero_shot']} | admitted | learner | b | claim | c |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["cells"]:
        over = [_text(each) for each in row["over"].values()]
        admitted = "yes" if row["admitted"] else "no"
        lines.append(
            f"| {row['cell']} | {_text(row['zero_shot'])} | {admitted} | {row['learner']} | {' | '.join(over)} |"
        )
    return [*lines, ""]


def _text(row: Mapping[str, Any]) -> str:
    if row["value"] is None or math.isnan(row["value"]):
        return "-"
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _verdict(row: Mapping[str, Any]) -> str:
    if row["met"] is None:
        return "not measured"
    return ("**met**" if row["met"] else "**missed**") + ("" if row["decided"] else ", not decided")
