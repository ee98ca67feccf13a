"""Command lines in processes of their own, several at a time, on this machine or on a Ray cluster.

Either engine yields what became of each job as it ends. Closing the generator stops what still runs: training finishes
its episode, saves, and goes on when the same command is given again.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from robot_rl.apps.cli import INTERRUPTED
from robot_rl.apps.command import command_line
from robot_rl.datasets.convert_workers import ray_cluster
from robot_rl.errors import InputError

LAST_LINES = 12  # of the log, in a message about a run that failed
POLL_S = 0.2  # so that Ctrl-C is heard while runs go on
PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from robot_rl.apps.benchmark_child import main; sys.exit(main(sys.argv[1:]))"
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command line, and where it leaves its log."""

    name: str
    words: tuple[str, ...]  # behind `robot-rl`
    folder: Path  # of the log and of what was used, on the machine that runs it


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job."""

    job: Job
    status: str  # finished | interrupted | failed
    message: str = ""  # why it failed
    wall_s: float = 0.0  # over all attempts, with the start of the process
    cpu_s: float = 0.0


Outcomes = Generator[Outcome, None, None]
Engine = Callable[[Sequence[Job], int, Callable[[str], None]], Outcomes]


@dataclass(kw_only=True)
class Children:
    """The processes that run, so that they can be told to stop."""

    stopping: bool = False
    running: set["subprocess.Popen[bytes]"] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def stop(self, number: int) -> None:
        """Send a signal to all, and let no other begin."""
        with self.lock:
            self.stopping = True
            for process in self.running:
                with suppress(ProcessLookupError):
                    process.send_signal(number)


def run_job(job: Job, children: Children | None = None) -> Outcome:
    """Run one command line in a process of its own, to its end."""
    children = Children() if children is None else children
    job.folder.mkdir(parents=True, exist_ok=True)
    usage, log = job.folder / "usage.jsonl", job.folder / "log.txt"
    program = [sys.executable, "-c", PROGRAM.format(path=sys.path), str(usage), *job.words]
    with log.open("ab") as output:
        output.write(f"$ {command_line(job.words)}\n".encode())
        output.flush()
        begin = output.tell()
        with children.lock:
            if children.stopping:
                return Outcome(job=job, status="interrupted")
            process = subprocess.Popen(
                program,
                stdin=subprocess.PIPE,  # never written to: its end tells the child that we are gone
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for us; we tell the child
            )
            children.running.add(process)
    try:
        code = process.wait()
    except BaseException:  # a cancelled task of Ray
        process.terminate()
        process.wait()
        raise
    finally:
        with children.lock:
            children.running.discard(process)
        if process.stdin is not None:
            process.stdin.close()
    wall_s, cpu_s = _used(usage)
    if code == 0:
        return Outcome(job=job, status="finished", wall_s=wall_s, cpu_s=cpu_s)
    if code == INTERRUPTED or children.stopping:
        return Outcome(job=job, status="interrupted", wall_s=wall_s, cpu_s=cpu_s)
    return Outcome(job=job, status="failed", message=_why(log, begin, code), wall_s=wall_s, cpu_s=cpu_s)


def in_processes(jobs: Sequence[Job], workers: int, say: Callable[[str], None]) -> Outcomes:
    """Run jobs on this machine, so many at a time, in their order.

    Args:
        jobs: what to run.
        workers: how many at the same time.
        say: told when it stops early.
    """
    children = Children()
    with ThreadPoolExecutor(workers) as threads:
        waiting = {threads.submit(run_job, job, children) for job in jobs}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=POLL_S, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            if waiting:
                _stop(waiting, children, say)


def on_ray(jobs: Sequence[Job], workers: int, say: Callable[[str], None]) -> Outcomes:
    """Run jobs on a Ray cluster: the one at `RAY_ADDRESS`, else one of this machine that lasts as long as this call.

    The folders and stores that the jobs name must have the same paths on every machine.

    Args:
        jobs: what to run; each takes one core.
        workers: cores of a cluster of this machine.
        say: told when it stops early.

    Raises:
        InputError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("engine=ray needs Ray: pip install 'robot-rl[distributed]'") from error
    with ray_cluster(ray, workers):
        remote = ray.remote(num_cpus=1, max_retries=0)(run_job)
        waiting = {remote.remote(job): job for job in jobs}
        try:
            while waiting:
                done, _ = ray.wait(list(waiting), timeout=POLL_S)
                for reference in done:
                    job = waiting.pop(reference)
                    try:
                        outcome: Outcome = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        outcome = Outcome(job=job, status="failed", message=f"Ray: {type(error).__name__}: {error}")
                    yield outcome
        finally:
            if waiting:
                say(f"Stopping: {len(waiting)} runs are not finished. The same command goes on with them.")
                for reference in waiting:
                    ray.cancel(reference)
                ray.wait(list(waiting), num_returns=len(waiting), timeout=60.0)


def watched(engine: Engine, jobs: Sequence[Job], workers: int, title: str, console: Console) -> Iterator[Outcome]:
    """Run jobs with a bar that says how long it will take.

    Args:
        engine: `in_processes` or `on_ray`.
        jobs: what to run; with none there is no bar.
        workers: how many at the same time.
        title: of the bar.
        console: where it is; in a log a line is printed for each job instead.
    """
    if not jobs:
        return
    columns = (TextColumn(f"[bold]{title}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
    began, logged = time.monotonic(), not console.is_terminal
    with Progress(*columns, console=console, disable=logged) as progress:
        bar = progress.add_task("", total=len(jobs), left="")

        def say(text: str) -> None:
            console.print(Text(text, "yellow"), soft_wrap=True)

        with closing(engine(jobs, workers, say)) as outcomes:
            for number, outcome in enumerate(outcomes, start=1):
                left_s = (time.monotonic() - began) / number * (len(jobs) - number)
                left = f"about {_duration(left_s)} left" if number < len(jobs) else ""
                progress.update(bar, advance=1, left=left)
                if logged:
                    console.print(Text(f"{title}: {number} of {len(jobs)}. {left}"), soft_wrap=True)
                yield outcome


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _stop(waiting: "set[Future[Outcome]]", children: Children, say: Callable[[str], None]) -> None:
    for future in waiting:
        future.cancel()
    say(
        f"Stopping: {len(children.running)} runs finish their episode and save. The same command goes on with them. "
        "Press Ctrl-C again to stop at once."
    )
    children.stop(signal.SIGTERM)
    try:
        wait(waiting)
    except KeyboardInterrupt:
        children.stop(signal.SIGKILL)
        raise


def _used(path: Path) -> tuple[float, float]:
    """Wall and CPU seconds over all attempts; one that was killed has left none."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return sum(line["wall_s"] for line in lines), sum(line["cpu_s"] for line in lines)


def _why(log: Path, begin: int, code: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    told = [line.rstrip() for line in lines if line.strip()][-LAST_LINES:]
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    return "\n".join([how, f"the end of {log}:", *told])
