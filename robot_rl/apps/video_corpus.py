"""Video of other arms, made here: `python -m robot_rl.apps.video_corpus path=data/video_corpus.zarr`.

Scripted experts with shaky hands do robosuite tasks with arms that are not the learner's, each clip under a look of its
own: another camera, other colours and lights, things that lie about. What they did is not recorded, only what was seen,
where hand and cube were (for probes) and what the task is called. The clips follow from the settings alone, and an
interrupted corpus is gone on with by the same command.
"""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from robot_rl.apps.build_environment import build_environment, build_expert
from robot_rl.apps.words import settings_of
from robot_rl.checks import require_minimum, require_range
from robot_rl.config import RobosuiteEnvironmentConfig
from robot_rl.datasets.store import EpisodeStore
from robot_rl.datasets.store_files import is_store
from robot_rl.environment import Environment
from robot_rl.errors import InputError, nearest
from robot_rl.seeding import Seeds
from robot_rl.sim_config import LooksConfig
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Episode

CAMERA = "agentview"
TASKS = {"Lift": "lift the cube", "Stack": "stack the red cube on the green cube"}
HAND, OBJECT = "robot0_eef_pos", "object"
CONTROL_HZ = 20.0
FRAMES_BEHIND = 3
"""A clip ends so many frames behind the first that shows the task achieved: its last frame is the goal."""
LOOKS = LooksConfig(
    family="video",
    camera_shift=0.06,
    camera_scale=0.15,
    background=1.0,
    objects=0.6,
    robot=0.6,
    lights=0.3,
    distractors=4,
)
"""Scale 0.85 to 1.15 and shift of 6 %, as the reference of this project recommends."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a corpus. A list is written a,b,c."""

    path: str = "data/video_corpus.zarr"
    robots: tuple[str, ...] = ("Sawyer", "IIWA", "UR5e", "Kinova3")  # none of them Panda, which learns later
    tasks: tuple[str, ...] = ("Lift",)
    clips: int = 600  # in all; each robot and task has as many
    frames: int = 32  # of a clip, at most
    frame_every: int = 2  # control periods of 0.05 s
    image_size: int = 64  # pixels
    largest_noise: float = 0.4  # deviation of the noise on normalised actions, drawn from 0 to this for each clip
    placement_m: float = 0.12  # how far from the middle of the table objects begin at most
    seed: int = 0

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                raise InputError(f"tasks names '{task}': {nearest(task, TASKS)}")
        require_minimum(self.clips, len(self.blocks), "clips")  # one of each robot and task
        require_minimum(self.frames, 2, "frames")
        require_minimum(self.frame_every, 1, "frame_every")
        require_minimum(self.image_size, 8, "image_size")
        require_range(self.largest_noise, 0.0, 10.0, "largest_noise")

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """Task and robot, in the order of recording."""
        return [(task, robot) for task in self.tasks for robot in self.robots]

    def provenance(self) -> dict[str, Any]:
        """What the clips follow from; the path is no part of it."""
        settings = {name: value for name, value in asdict(self).items() if name != "path"}
        return {
            "format": "video_corpus",
            "settings": {**settings, "robots": list(self.robots), "tasks": list(self.tasks)},
        }


def corpus_spec(settings: Settings) -> Spec:
    """What a clip has: pictures, and where hand and cube were; no actions."""
    size = settings.image_size
    place = ArraySpec(shape=(3,), names=("x", "y", "z"), unit="m", frame="world")
    return Spec(
        observation={
            "image": ArraySpec(shape=(size, size, 3), dtype="uint8"),
            "hand": place,
            "cube": place,
        },
        action=ArraySpec(shape=(0,)),
        control_period_s=settings.frame_every / CONTROL_HZ,
        metadata={"absent": ["action", "reward", "success", "end"]},
    )


def environment_config(settings: Settings, task: str, robot: str) -> RobosuiteEnvironmentConfig:
    """The simulator of a block, which goes on behind a success."""
    return RobosuiteEnvironmentConfig(
        task=task,
        robot=robot,
        control_frequency_hz=CONTROL_HZ,
        maximum_steps=(settings.frames - 1) * settings.frame_every,
        terminate_on_success=False,
        cameras=[CAMERA],
        image_size=settings.image_size,
        placement_m=settings.placement_m,
        looks=replace(LOOKS),
    )


def record_clip(
    settings: Settings, config: RobosuiteEnvironmentConfig, environment: Environment, number: int
) -> Episode:
    """Clip `number` of a corpus, which depends on nothing that was recorded before it."""
    seeds = Seeds(settings.seed)
    draws = seeds.numpy("corpus", number)
    noise = float(draws.uniform(0.0, settings.largest_noise))
    expert = build_expert(config, environment, noise, draws)
    step = environment.reset(seed=seeds.integer("corpus", number, "episode"))
    expert.reset()
    seen = [step.observation]
    done = 0  # frames since the task was achieved
    while len(seen) < settings.frames and done <= FRAMES_BEHIND:
        for _ in range(settings.frame_every):
            step = environment.step(expert.act(step.observation))
        seen.append(step.observation)
        done += bool(done) or bool(step.success)
    steps = len(seen) - 1
    last = np.arange(steps) == steps - 1
    return Episode(
        observation={
            "image": np.stack([each[f"{CAMERA}_image"] for each in seen]),
            "hand": np.stack([each[HAND] for each in seen]).astype(np.float32),
            "cube": np.stack([each[OBJECT][:3] for each in seen]).astype(np.float32),
        },
        action=np.zeros((steps, 0), np.float32),
        reward=np.zeros(steps, np.float32),
        terminated=np.zeros(steps, bool),
        truncated=last,
        metadata={
            "source": f"clip {number}",
            "robot": config.robot,
            "task": config.task,
            "language": TASKS[config.task],
            "noise": round(noise, 4),
        },
    )


def record(settings: Settings, console: Console) -> Path:
    """Record what is not there yet.

    Raises:
        InputError: something else is there, or a corpus of other settings.
    """
    path = Path(settings.path).expanduser()
    if is_store(path):
        store = EpisodeStore.append_to(path)
        if store.provenance != settings.provenance():
            raise InputError(f"{path} is a corpus of other settings: choose another path, or delete it")
    else:
        store = EpisodeStore.create(path, corpus_spec(settings), provenance=settings.provenance())
    blocks = settings.blocks
    ends = np.linspace(0, settings.clips, len(blocks) + 1).round().astype(int).tolist()
    with _progress(console, settings.clips, len(store)) as advance:
        for (task, robot), start, stop in zip(blocks, ends, ends[1:], strict=False):
            todo = range(max(start, len(store)), stop)
            if not todo:
                continue
            config = environment_config(settings, task, robot)
            with contextlib.closing(build_environment(config)) as environment:
                for number in todo:
                    store.append(record_clip(settings, config, environment, number))
                    advance(f"{robot}, {task}")
    store.finish()
    return path


@contextlib.contextmanager
def _progress(console: Console, total: int, done: int) -> Iterator[Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("clips", total=total, completed=done)
        yield lambda text: progress.update(task, advance=1, description=text)


def parse(arguments: list[str]) -> Settings:
    """Settings from words key=value.

    Raises:
        InputError: an unknown key, or a value of another type.
    """
    return settings_of(Settings, arguments)


def main(arguments: list[str]) -> int:
    """Record a corpus; exit status 0."""
    console = Console(stderr=True)
    path = record(parse(arguments), console)
    console.print(f"The corpus: {path}", markup=False, soft_wrap=True)
    console.print(f"Learn from it: robot-rl pretrain-video {path} objective=icvf_small", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        sys.exit(f"video_corpus: {error}")
    except KeyboardInterrupt:
        sys.exit("video_corpus: interrupted; the same command goes on")
