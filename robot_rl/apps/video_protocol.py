"""Does video help? The comparison of docs/video.md: `python -m robot_rl.apps.video_protocol folder=runs/vptr`.

A corpus of video of other arms; robot data of two tasks, and few demonstrations of one; encoders pre-trained by each
objective on equal frames; the same Cal-QL from each of them, and from none, with eyes that learn and eyes that are
frozen; episodes as in training, and under looks that nobody saw. Every step is a command of its own, skipped where its
result is there, so that the same call goes on after an interruption; the table is written anew each time.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from robot_rl.apps import cli, video_corpus
from robot_rl.apps.command import command_line
from robot_rl.apps.report_read import read_run
from robot_rl.apps.words import settings_of
from robot_rl.checkpoint import write_text
from robot_rl.checks import require_choice, require_minimum
from robot_rl.errors import InputError
from robot_rl.loops.evaluate import wilson_interval
from robot_rl.loops.video import ENCODER

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
    threads: int = 1

    def __post_init__(self) -> None:
        for name, choices in (("arms", (*ARMS, "liv")), ("ways", WAYS)):
            for value in getattr(self, name):
                require_choice(value, choices, name)
        for name in ("clips", "multitask_episodes", "target_episodes", "episodes", "threads"):
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
    for arm in settings.arms:
        for seed in settings.seeds if arm != "none" else ():
            made.append(_pretraining(settings, folder, stores["video"], arm, seed))
    for arm in settings.arms:
        for way in settings.ways:
            for seed in settings.seeds:
                made += _training(settings, folder, stores, arm, way, seed)
    return made


def _pretraining(settings: Settings, folder: Path, video: Path, arm: str, seed: str) -> Step:
    run = folder / "encoders" / f"{arm}_{seed}"
    words = [
        "pretrain-video",
        str(video),
        f"objective={arm}_small",
        f"steps={settings.pretrain_steps}",
        f"seed={seed}",
        f"threads={settings.threads}",
        f"output={run}",
    ]
    return Step(title=f"Pre-training: {arm}, seed {seed}", result=run / "report.html", words=words)


def _training(settings: Settings, folder: Path, stores: dict[str, Path], arm: str, way: str, seed: str) -> list[Step]:
    run = folder / "runs" / f"{arm}_{way}_{seed}"
    words = ["train", "vptr_lift", f"seed={seed}", f"threads={settings.threads}", f"output={run}"]
    words += [f"datasets.{name}.path={stores[name]}" for name in ("lift", "stack", "target")]
    words += [f"phases.multitask.steps={settings.multitask_steps}", f"phases.target.steps={settings.target_steps}"]
    if arm != "none":
        words.append(f"algorithm.pixels.encoder.weights={folder / 'encoders' / f'{arm}_{seed}' / ENCODER}")
    if way == "frozen":
        words += ["algorithm.pixels.actor=neck", "algorithm.pixels.learns_from=nothing"]
    made = [Step(title=f"Robot learning: {arm}, {way}, seed {seed}", result=run / "report.html", words=words)]
    for looks, environment in LOOKS.items():
        output = folder / "evaluations" / f"{arm}_{way}_{seed}_{looks}"
        evaluate = ["evaluate", str(run), f"environment={environment}", f"episodes={settings.episodes}"]
        made.append(
            Step(
                title=f"Evaluation: {arm}, {way}, seed {seed}, {looks} looks",
                result=output / "evaluation.json",
                words=[*evaluate, f"output={output}"],
            )
        )
    return made


def is_done(step: Step) -> bool:
    """Whether a step needs no more: a corpus goes on within itself, a run may have been interrupted."""
    if step.words[0] == CORPUS or not step.result.exists():
        return False
    return step.words[0] != "train" or read_run(step.result.parent).status == "finished"


def run_step(step: Step, console: Console) -> int:
    """Run a command as a person would type it; its exit status."""
    if step.words[0] == CORPUS:
        video_corpus.record(video_corpus.parse(step.words[1:]), console)
        return 0
    words = list(step.words)
    if words[0] in ("train", "pretrain-video") and (step.result.parent / "config.yaml").exists():
        words.append("resume=true")
    console.print(f"$ {command_line(words)}\n", style="cyan", markup=False, soft_wrap=True)
    return cli.main(words)


# The table ------------------------------------------------------------------------------------------------------------


def table(settings: Settings) -> str:
    """Success of every arm as Markdown: all episodes of all seeds, with Wilson's interval, and each seed."""
    folder = Path(settings.folder)
    lines = [
        "| arm | eyes | looks | success | 95 % interval | each seed | episodes |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in settings.arms:
        for way in settings.ways:
            for looks in LOOKS:
                names = [f"{arm}_{way}_{seed}_{looks}" for seed in settings.seeds]
                paths = [folder / "evaluations" / name / "evaluation.json" for name in names]
                found = [json.loads(path.read_text()) for path in paths if path.exists()]
                if found:
                    lines.append(_row(arm, way, looks, found))
    return "\n".join(lines) + "\n"


def _row(arm: str, way: str, looks: str, found: list[dict[str, Any]]) -> str:
    successes = [[bool(episode["success"]) for episode in each["episodes"]] for each in found]
    every = [success for each in successes for success in each]
    low, high = wilson_interval(sum(every), len(every))
    each_seed = " ".join(f"{np.mean(each):.2f}" for each in successes)
    rate = f"{np.mean(every):.2f}"
    return f"| {arm} | {way} | {looks} | {rate} | {low:.2f} to {high:.2f} | {each_seed} | {len(every)} |"


def parse(arguments: list[str]) -> Settings:
    """Settings from words key=value.

    Raises:
        InputError: an unknown key, or a value of another type.
    """
    return settings_of(Settings, arguments)


def main(arguments: list[str]) -> int:
    """Go through all steps; the exit status of the first that fails, else 0."""
    console = Console(stderr=True)
    settings = parse(arguments)
    folder = Path(settings.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps(settings):
        if is_done(step):
            console.print(f"{step.title}: done", style="dim", markup=False)
            continue
        console.rule(f"[bold]{step.title}", align="left")
        status = run_step(step, console)
        if status != 0:
            return status
        write_text(folder / "table.md", table(settings))
    write_text(folder / "table.md", table(settings))
    Console().print(table(settings), markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        sys.exit(f"video_protocol: {error}")
