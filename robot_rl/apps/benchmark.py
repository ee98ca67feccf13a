"""`robot-rl benchmark suite=NAME`: algorithms x tasks x seeds, resumable, and tables of what is finished."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from robot_rl.apps.benchmark_data import identified_words, identify, measure_anchors, prepare
from robot_rl.apps.benchmark_engine import Job, Outcome, in_processes, on_ray, watched
from robot_rl.apps.benchmark_plan import Plan, PlannedRun, anchors
from robot_rl.apps.benchmark_result import Result, read_result, write_result
from robot_rl.apps.benchmark_table import write_tables
from robot_rl.apps.run_folder import lock
from robot_rl.apps.signals import terminated_is_interrupted
from robot_rl.benchmark_config import BenchmarkConfig
from robot_rl.errors import InputError

SUMMARY = "Run a benchmark: algorithms x tasks x seeds, resumable, with tables and curves."


def run(config: BenchmarkConfig) -> int:
    """Make the data, run what is not finished, write the tables; exit status 1 where something failed."""
    console = Console(stderr=True)
    plan = Plan(config)
    if config.only == "tables":
        return _tables(plan, console)
    with lock(plan.folder / "results" / config.suite.name), terminated_is_interrupted():
        return _work(plan, console)


def _work(plan: Plan, console: Console) -> int:
    only = plan.config.only

    def jobs_of(jobs: Sequence[Job], title: str) -> list[Outcome]:
        return list(_run_jobs(plan, jobs, title, console))

    if only == "anchors":
        scores, failed = measure_anchors(plan, jobs_of)
        for task, anchor in scores.items():
            console.print(f"{task}: {', '.join(f'{kind}: {score:.4g}' for kind, score in anchor.items())}")
        return _report_failures(failed, console)
    runs = [] if only == "data" else [planned for planned in plan.runs if not _is_done(planned)]
    if runs or only == "data":
        failed = prepare(plan, runs, jobs_of)
        if not failed and any(plan.suite.tasks[task].reference is None for task in plan.tasks):
            _, failed = measure_anchors(plan, jobs_of)
        if failed:
            return _report_failures(failed, console)
        for task in plan.tasks:
            anchors(plan, task)
        for name in plan.data:
            console.print(f"Data set {name}: {plan.store(name)}", soft_wrap=True, highlight=False)
    if only == "data":
        return 0
    lost = identify(runs, jobs_of)
    runs = [planned for planned in runs if planned.identified is None or planned.identified.folder not in lost]
    failed = [*lost.values(), *_run_all(plan, runs, console)]
    if any(planned.result.exists() for planned in plan.runs):
        _tables(plan, console)
    return _report_failures(failed, console)


def _run_all(plan: Plan, runs: Sequence[PlannedRun], console: Console) -> list[str]:
    """Run what is not finished; returns what failed."""
    done = sum(planned.result.exists() for planned in plan.runs)
    if not runs:
        count = f"All {done}" if done == len(plan.runs) else f"{done} of {len(plan.runs)}"
        console.print(f"{count} runs are finished.")
        return []
    console.print(f"{len(runs)} runs to go, {done} finished, {plan.config.workers} at a time.")
    runs = [run if run.identified is None else _with_simulator(run, run.identified.folder) for run in runs]
    planned = {run.name: run for run in runs}
    jobs = [Job(name=run.name, words=(*run.words, "resume=true"), folder=run.folder) for run in runs]
    failed = []
    for outcome in _run_jobs(plan, jobs, "runs", console):
        if outcome.status == "finished":
            result = write_result(plan, planned[outcome.job.name], outcome)
            console.print(Text(f"  {outcome.job.name}: {_summary(result)}"), soft_wrap=True)
        elif outcome.status == "failed":
            failed.append(f"{outcome.job.name}: {outcome.message}")
            console.print(Text(f"  {outcome.job.name}: failed, {outcome.message.splitlines()[0]}", "red"))
    return failed


def _with_simulator(run: PlannedRun, folder: Path) -> PlannedRun:
    return replace(run, words=(*run.words, *identified_words(folder)))


def _summary(result: Result) -> str:
    return (
        f"offline {result.offline:.2f}, final {result.final:.2f} ({result.wall_s:.0f} s, {result.cpu_s:.0f} s of CPU)"
    )


def _run_jobs(plan: Plan, jobs: Sequence[Job], title: str, console: Console) -> Iterator[Outcome]:
    engine = on_ray if plan.config.engine == "ray" else in_processes
    return watched(engine, jobs, plan.config.workers, title, console)


def _is_done(planned: PlannedRun) -> bool:
    """Whether the run is finished.

    Raises:
        InputError: there is a result of other settings.
    """
    if not planned.result.exists():
        return False
    found = read_result(planned.result)
    if found.hash != planned.hash:
        raise InputError(
            f"{planned.result} is of other settings (hash {found.hash}, wanted {planned.hash}): choose another "
            f"output=..., or delete it and {planned.folder} to run it again"
        )
    return True


def _tables(plan: Plan, console: Console) -> int:
    written = write_tables(plan)
    console.print(f"Tables of {written.runs} runs: {written.folder / 'table.md'}", soft_wrap=True, highlight=False)
    for warning in written.warnings:
        console.print(Text(warning, "yellow"), soft_wrap=True)
    return 0


def _report_failures(failed: Sequence[str], console: Console) -> int:
    for text in failed:
        console.print(Text(f"Failed: {text}", "red"), soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} failed. The same command tries them again, and nothing else that is finished.")
    return 1 if failed else 0
