"""What is left of a finished run of a benchmark: one small JSON file, from which alone the tables are made."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import robot_rl
from robot_rl import checkpoint
from robot_rl.apps.benchmark_data import identified_words
from robot_rl.apps.benchmark_engine import Outcome
from robot_rl.apps.benchmark_plan import EXPLORE, SWITCH, Plan, PlannedRun, anchors
from robot_rl.apps.command import command_line
from robot_rl.apps.report_read import Evaluation, Event, read_run
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.errors import InputError
from robot_rl.statistics import normalized, regret, switch_dip

FORMAT = 1
JUDGED = "gap/"
"""How the metrics of judges begin."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """An evaluation on the normalised scale."""

    step: int  # environment steps since the switch; 0 before the first online update
    score: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run, read."""

    path: Path
    suite: str
    task: str
    algorithm: str
    seed: int
    hash: str
    commit: str | None
    data_sha256: str
    scale: tuple[float, float]  # scores that are 0 and 1
    curve: tuple[Point, ...]  # the first is the offline score, over all episodes before the first online update
    last_episodes: tuple[float, ...]  # scores of the last evaluation
    limit_hits: float | None  # steps of it with a joint at its limit, of 1,000; None where nobody counts
    offline: float
    final: float
    regret: float
    dip_depth: float | None
    recovery_step: int | None  # None: not within the run
    cpu_s: float
    wall_s: float
    judges: dict[str, float] = field(default_factory=dict)  # what judged the simulator, at the end of what came before
    identified: bool | None = None
    """Its simulator is the identified one; False: identification explained nothing better, so it is the plain one."""


def write_result(plan: Plan, run: PlannedRun, outcome: Outcome) -> Result:
    """Summarise the folder of a finished run.

    Raises:
        InputError: the run is not finished, or lacks evaluations; or the disk is full.
    """
    found = read_run(run.folder)
    if found.status != "finished":
        raise InputError(f"{run.folder} is {found.status}, not finished: give the same command again")
    data = found.facts["datasets"]["offline"]
    content = {
        "format": FORMAT,
        "suite": run.suite,
        "task": run.task,
        "algorithm": run.algorithm,
        "seed": run.seed,
        "hash": run.hash,
        **_commit(),
        "command": command_line(run.words),
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        "versions": found.facts["versions"],
        "data": {"name": plan.suite.tasks[run.task].data}
        | {key: data[key] for key in ("sha256", "episodes", "steps", "return_mean", "success_rate")},
        "scale": anchors(plan, run.task),
        "score": found.score,
        "dip_window_steps": plan.suite.dip_window_steps,
        "training_s": found.events[-1].elapsed_s,
        "wall_s": outcome.wall_s,
        "cpu_s": outcome.cpu_s,
        "curve": [_evaluation(evaluation) for evaluation in found.evaluations],
        "judges": _judges(found.events),
        "identified": None if run.identified is None else bool(identified_words(run.identified.folder)),
    }
    _curve(content, str(run.folder))
    with clear_disk_errors(run.result):
        run.result.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text(run.result, json.dumps(content) + "\n")
    return read_result(run.result)


def read_result(path: Path) -> Result:
    """A result file, with what follows from its episodes.

    Raises:
        InputError: it is no result of this version.
    """
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise InputError(f"{path} has format {content['format']}; this version reads {FORMAT}: delete it")
        curve = _curve(content, str(path))
        online = curve[1:]
        steps, scores = [point.step for point in online], [point.score for point in online]
        dip = switch_dip(curve[0].score, steps, scores, int(content["dip_window_steps"]))
        return Result(
            path=path,
            suite=str(content["suite"]),
            task=str(content["task"]),
            algorithm=str(content["algorithm"]),
            seed=int(content["seed"]),
            hash=str(content["hash"]),
            commit=content["commit"],
            data_sha256=str(content["data"]["sha256"]),
            scale=(float(content["scale"]["random"]), float(content["scale"]["reference"])),
            curve=tuple(curve),
            last_episodes=tuple(_scores(content, content["curve"][-1])),
            limit_hits=_limit_hits(content["curve"][-1]),
            offline=curve[0].score,
            final=curve[-1].score,
            regret=regret([point.step for point in curve], [point.score for point in curve]),
            dip_depth=None if dip is None else dip.depth,
            recovery_step=None if dip is None else dip.recovery_step,
            cpu_s=float(content["cpu_s"]),
            wall_s=float(content["wall_s"]),
            judges={str(name): float(value) for name, value in content.get("judges", {}).items()},
            identified=content.get("identified"),
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not the result of a benchmark's run ({error!r}): delete it") from error


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    episodes = evaluation.episodes
    declared = all(episode.success is not None for episode in episodes)
    return {
        "phase": evaluation.phase,
        "environment_steps": evaluation.environment_steps,
        "updates": evaluation.updates,
        "return": [episode.total_reward for episode in episodes],
        "length": [episode.length for episode in episodes],
        "success": [int(bool(episode.success)) for episode in episodes] if declared else None,
    } | ({} if any(each.limit_hits is None for each in episodes) else {"limit_hits": [e.limit_hits for e in episodes]})


def _judges(events: Sequence[Event]) -> dict[str, float]:
    """Means of what hybrid learners report of their judges, over the second half of what comes before the switch."""
    lines = [each.metrics for each in events if each.event == "train" and each.phase not in SWITCH and each.updates > 0]
    lines = lines[len(lines) // 2 :]
    names = dict.fromkeys(name for line in lines for name in line if name.startswith(JUDGED))
    found = {name: [line[name] for line in lines if name in line] for name in names}
    return {name.removeprefix(JUDGED): float(np.mean(values)) for name, values in found.items()}


def _scores(content: dict[str, Any], evaluation: dict[str, Any]) -> list[float]:
    """Of each episode, normalised."""
    scale, key = content["scale"], "success" if content["score"] == "success_rate" else "return"
    return [normalized(float(score), scale["random"], scale["reference"]) for score in evaluation[key]]


def _limit_hits(evaluation: dict[str, Any]) -> float | None:
    hits, lengths = evaluation.get("limit_hits"), evaluation["length"]
    return None if hits is None else 1000.0 * sum(hits) / max(sum(lengths), 1)


def _curve(content: dict[str, Any], place: str) -> list[Point]:
    """The offline score, then the evaluations after the first online update; steps are those since the switch."""
    before, online = [], []
    switch = max((int(e["environment_steps"]) for e in content["curve"] if e["phase"] not in SWITCH), default=0)
    for evaluation in content["curve"]:
        scores = _scores(content, evaluation)
        if evaluation["phase"] == SWITCH[-1]:
            step = int(evaluation["environment_steps"]) - switch
            online.append(Point(step=step, score=float(np.mean(scores))))
        elif evaluation["phase"] != EXPLORE:
            before += scores
    if not before or not online:
        raise InputError(f"{place} lacks an evaluation before or after the switch: the suite has to evaluate both")
    points = [Point(step=0, score=float(np.mean(before))), *online]
    if not all(math.isfinite(point.score) for point in points):
        raise InputError(f"{place} has scores that are not finite")
    return points


def _commit() -> dict[str, Any]:
    """The commit of our code, and whether it was changed since; None where it is not a checkout."""
    root = Path(robot_rl.__file__).parent
    try:
        named = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "changed": None}
    return {"commit": named.stdout.strip(), "changed": bool(changed.stdout.strip())}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
