"""Does video help? The comparison of docs/video.md: `python -m robot_rl.apps.video_protocol folder=runs/vptr`.

A corpus of video of other arms; robot data of two tasks, and few demonstrations of one; encoders pre-trained by each
objective on equal frames; the same Cal-QL from each of them, and from none, with eyes that learn and eyes that are
frozen; episodes as in training, and under looks that nobody saw. Every step is a command of its own in a process of its
own, `workers` at a time, skipped where its result is there, so that the same call goes on after an interruption; its
output is in `logs/`. The table is written anew after each.
"""

import json
import re
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from robot_rl.apps import video_corpus
from robot_rl.apps.benchmark_engine import Job, in_processes, watched
from robot_rl.apps.cli import INTERRUPTED
from robot_rl.apps.report_read import read_run
from robot_rl.apps.run_folder import lock
from robot_rl.apps.signals import terminated_is_interrupted
from robot_rl.apps.words import settings_of
from robot_rl.checkpoint import write_text
from robot_rl.checks import require_choice, require_minimum
from robot_rl.errors import InputError
from robot_rl.loops.evaluate import wilson_interval
from robot_rl.loops.video import ENCODER
from robot_rl.statistics import mean_interval

ARMS = ("none", "icvf", "vip", "mae")
WAYS = ("tuned", "frozen")
LOOKS = {"seen": "lift_camera", "unseen": "lift_camera_unseen"}
CORPUS = "python -m robot_rl.apps.video_corpus"
DONE = "zarr.json"  # of a store


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of the comparison. A list is written a,b,c."""

    folder: str = "runs/vptr"
    arms: tuple[str, ...] = ARMS
    ways: tuple[str, ...] = WAYS
    seeds: tuple[str, ...] = ("0", "1", "2")
    clips: int = 600
    multitask_episodes: int = 100  # of each task
    target_episodes: int = 40
    pretrain_steps: int = 2500
    multitask_steps: int = 4000
    target_steps: int = 4000
    episodes: int = 100  # of an evaluation
    workers: int = 1  # commands at the same time
    threads: int = 1  # of each
    precision: str = "float32"  # of the eyes' products; bfloat16 is faster where the processor has it

    def __post_init__(self) -> None:
        for name, choices in (("arms", (*ARMS, "liv")), ("ways", WAYS)):
            for value in getattr(self, name):
                require_choice(value, choices, name)
        require_choice(self.precision, ("float32", "bfloat16"), "precision")
        for name in ("clips", "multitask_episodes", "target_episodes", "episodes", "workers", "threads"):
            require_minimum(getattr(self, name), 1, name)
        for name in ("pretrain_steps", "multitask_steps", "target_steps"):
            require_minimum(getattr(self, name), 0, name)
        if not all(seed.isdigit() for seed in self.seeds):
            raise InputError(f"seeds={','.join(self.seeds)} must be whole numbers from 0")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command, and what it leaves when it is done."""

    title: str
    result: Path
    words: list[str]  # behind `robot-rl`, or `CORPUS` and its words


def steps(settings: Settings) -> list[Step]:
    """All commands, in order."""
    folder = Path(settings.folder)
    stores = {name: folder / f"{name}.zarr" for name in ("video", "lift", "stack", "target")}
    made = [
        Step(
            title="Video of other arms",
            result=stores["video"] / DONE,
            words=[CORPUS, f"path={stores['video']}", f"clips={settings.clips}", "tasks=Lift,Stack"],
        )
    ]
    for name, environment, episodes, noise, root in (
        ("lift", "lift_camera", settings.multitask_episodes, 0.4, 10),
        ("stack", "stack_camera", settings.multitask_episodes, 0.4, 11),
        ("target", "lift_camera", settings.target_episodes, 0.2, 12),
    ):
        record = [f"episodes={episodes}", f"expert_noise={noise}", f"seed={root}", f"record={stores[name]}"]
        words = ["evaluate", "policy=expert", f"environment={environment}", "environment.numbers=null", *record]
        made.append(Step(title=f"Robot data: {name}", result=stores[name], words=words))
    both = [(arm, way) for arm in settings.arms for way in settings.ways]
    for seed in settings.seeds:
        made += [_pretraining(settings, folder, stores["video"], arm, seed) for arm in settings.arms if arm != "none"]
        made += [_training(settings, folder, stores, arm, way, seed) for arm, way in both]
        made += [step for arm, way in both for step in _evaluations(settings, folder, arm, way, seed)]
    return made


def _pretraining(settings: Settings, folder: Path, video: Path, arm: str, seed: str) -> Step:
    run = folder / "encoders" / f"{arm}_{seed}"
    words = [
        "pretrain-video",
        str(video),
        f"objective={arm}_small",
        f"vision.precision={settings.precision}",
        f"steps={settings.pretrain_steps}",
        f"seed={seed}",
        f"threads={settings.threads}",
        f"output={run}",
    ]
    return Step(title=f"Pre-training: {arm}, seed {seed}", result=run / "report.html", words=words)


def _training(settings: Settings, folder: Path, stores: dict[str, Path], arm: str, way: str, seed: str) -> Step:
    run = folder / "runs" / f"{arm}_{way}_{seed}"
    words = ["train", "vptr_lift", f"seed={seed}", f"threads={settings.threads}", f"output={run}"]
    words += [f"datasets.{name}.path={stores[name]}" for name in ("lift", "stack", "target")]
    words += [f"phases.multitask.steps={settings.multitask_steps}", f"phases.target.steps={settings.target_steps}"]
    words += ["evaluation.episodes=5", "evaluation.final_episodes=5"]  # what counts is measured behind it
    words.append(f"algorithm.pixels.encoder.precision={settings.precision}")
    if arm != "none":
        words.append(f"algorithm.pixels.encoder.weights={folder / 'encoders' / f'{arm}_{seed}' / ENCODER}")
    if way == "frozen":
        words += ["algorithm.pixels.actor=neck", "algorithm.pixels.learns_from=nothing"]
    return Step(title=f"Robot learning: {arm}, {way}, seed {seed}", result=run / "report.html", words=words)


def _evaluations(settings: Settings, folder: Path, arm: str, way: str, seed: str) -> list[Step]:
    run, made = folder / "runs" / f"{arm}_{way}_{seed}", []
    for looks, environment in LOOKS.items():
        result = _evaluated(folder, arm, way, seed, looks)
        evaluate = ["evaluate", str(run), f"environment={environment}", f"episodes={settings.episodes}"]
        made.append(
            Step(
                title=f"Evaluation: {arm}, {way}, seed {seed}, {looks} looks",
                result=result,
                words=[*evaluate, f"output={result.parent}"],
            )
        )
    return made


def _evaluated(folder: Path, arm: str, way: str, seed: str, looks: str) -> Path:
    return folder / "evaluations" / f"{arm}_{way}_{seed}_{looks}" / "evaluation.json"


def is_done(step: Step) -> bool:
    """Whether a step needs no more: a corpus goes on within itself, a run may have been interrupted."""
    if step.words[0] == CORPUS or not step.result.exists():
        return False
    return step.words[0] != "train" or read_run(step.result.parent).status == "finished"


def job_of(step: Step, folder: Path) -> Job:
    """A step as a process; a run that was interrupted goes on."""
    going_on = step.words[0] in ("train", "pretrain-video") and (step.result.parent / "config.yaml").exists()
    words = (*step.words, "resume=true") if going_on else tuple(step.words)
    name = re.sub(r"\W+", "_", step.title.lower())
    return Job(name=step.title, words=words, folder=folder / "logs" / name)


# The table ------------------------------------------------------------------------------------------------------------


def table(settings: Settings) -> str:
    """Success of every arm as Markdown, then what arms differ by, of the seeds that there are."""
    cells = {
        (arm, way, looks): found
        for arm in settings.arms
        for way in settings.ways
        for looks in LOOKS
        if (found := _found(settings, arm, way, looks))
    }
    lines = [
        "| arm | eyes | looks | success | 95 % interval | each seed | episodes |",
        "|---|---|---|---|---|---|---|",
        *(_row(*cell, list(found.values())) for cell, found in cells.items()),
    ]
    rows = [row for one, other in _pairs(settings.arms) if (row := _differences(settings, cells, one, other))]
    if rows:
        lines += ["", "Differences seed by seed, their mean, and Student's 95 % interval:", ""]
        lines += ["| arms | eyes | looks | mean | 95 % interval | each seed |", "|---|---|---|---|---|---|"]
        lines += [line for row in rows for line in row]
    return "\n".join(lines) + "\n"


Cells = dict[tuple[str, str, str], dict[str, list[bool]]]
"""Successes of a seed's episodes, by arm, eyes and looks."""


def _found(settings: Settings, arm: str, way: str, looks: str) -> dict[str, list[bool]]:
    found = dict[str, list[bool]]()
    for seed in settings.seeds:
        path = _evaluated(Path(settings.folder), arm, way, seed, looks)
        if path.exists():
            found[seed] = [bool(episode["success"]) for episode in json.loads(path.read_text())["episodes"]]
    return found


def _row(arm: str, way: str, looks: str, successes: list[list[bool]]) -> str:
    """All episodes of all seeds, with Wilson's interval, and each seed."""
    every = [success for each in successes for success in each]
    low, high = wilson_interval(sum(every), len(every))
    each_seed = " ".join(f"{np.mean(each):.2f}" for each in successes)
    rate = f"{np.mean(every):.2f}"
    return f"| {arm} | {way} | {looks} | {rate} | {low:.2f} to {high:.2f} | {each_seed} | {len(every)} |"


def _pairs(arms: tuple[str, ...]) -> list[tuple[str, str]]:
    """V-PTR's two claims: video beats none, and ICVF beats the other objectives."""
    video = [arm for arm in arms if arm != "none"]
    against_none = [(arm, "none") for arm in video if "none" in arms]
    return against_none + [("icvf", arm) for arm in video if arm != "icvf" and "icvf" in arms]


def _differences(settings: Settings, cells: Cells, one: str, other: str) -> list[str]:
    """Of the seeds that both arms have; nothing where those are less than two."""
    made = []
    for way in settings.ways:
        for looks in LOOKS:
            a, b = cells.get((one, way, looks), {}), cells.get((other, way, looks), {})
            each = np.array([np.mean(a[seed]) - np.mean(b[seed]) for seed in settings.seeds if seed in a and seed in b])
            if len(each) >= 2:
                low, high = mean_interval(each)
                told = " ".join(f"{value:+.2f}" for value in each)
                made.append(
                    f"| {one} - {other} | {way} | {looks} | {each.mean():+.2f} | {low:+.2f} to {high:+.2f} | {told} |"
                )
    return made


def parse(arguments: list[str]) -> Settings:
    """Settings from words key=value.

    Raises:
        InputError: an unknown key, or a value of another type.
    """
    return settings_of(Settings, arguments)


def main(arguments: list[str]) -> int:
    """Go through all steps; 1 where one failed, 130 where one was interrupted: what needs it is then not begun."""
    console = Console(stderr=True)
    settings = parse(arguments)
    folder = Path(settings.folder)
    with lock(folder), terminated_is_interrupted():
        for kind, of_kind in groupby(steps(settings), key=lambda step: step.words[0]):
            if kind == CORPUS:
                for step in of_kind:
                    video_corpus.record(video_corpus.parse(step.words[1:]), console)
                continue
            status = _run_all([step for step in of_kind if not is_done(step)], settings, console)
            if status != 0:
                return status
    write_text(folder / "table.md", table(settings))
    Console().print(table(settings), markup=False, soft_wrap=True)
    return 0


def _run_all(open_steps: list[Step], settings: Settings, console: Console) -> int:
    """Run what is not done; the exit status."""
    folder, ended = Path(settings.folder), set[str]()
    jobs = [job_of(step, folder) for step in open_steps]
    for outcome in watched(in_processes, jobs, settings.workers, "commands", console):
        told = f"  {outcome.job.name}: {outcome.status}, {outcome.wall_s:.0f} s {outcome.message}"
        console.print(Text(told.rstrip(), "red" if outcome.status == "failed" else ""), soft_wrap=True)
        ended.add(outcome.status)
        write_text(folder / "table.md", table(settings))
    return 1 if "failed" in ended else INTERRUPTED if "interrupted" in ended else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except InputError as error:
        sys.exit(f"video_protocol: {error}")
