"""`make demo`: the whole path on a robosuite task, in a few minutes on two cores.

It does nothing that a person could not type: every command is shown before it runs. Run again after an interruption,
it goes on where it stopped.
"""

import sys
from pathlib import Path

from rich.console import Console

from robot_rl.apps import cli
from robot_rl.apps.command import command_line
from robot_rl.apps.report_read import read_run
from robot_rl.errors import InputError

TASK = [
    "environment=lift",
    "environment.controller=OSC_POSITION",
    "environment.maximum_steps=60",
    "environment.observation=[robot0_eef_pos,robot0_gripper_qpos,robot0_gripper_qvel,robot0_joint_vel,object]",
]
DEMONSTRATIONS, NOISE = 5, 0.5


def steps(folder: Path, run: Path, seed: str) -> list[tuple[str, Path, list[str]]]:
    """Title, what it leaves, and the command line of each step."""
    recording, store, plots = (folder / f"demonstrations{end}" for end in (".hdf5", ".zarr", "_plots"))
    record = ["evaluate", "policy=expert", *TASK, f"episodes={DEMONSTRATIONS}", f"expert_noise={NOISE}"]
    train = ["train", "lift", f"datasets.offline.path={store}", f"output={run}", f"seed={seed}"]
    if (run / "config.yaml").exists():  # it began, whether or not it came to a checkpoint
        train.append("resume=true")
    return [
        ("1. Demonstrations of a scripted expert with a shaky hand", recording, [*record, f"record={recording}"]),
        ("2. Ingest the recording into a zarr store", store, ["ingest", str(recording), str(store)]),
        ("3. What the store holds", plots, ["inspect", str(store), f"plots={plots}"]),
        ("4. Cal-QL offline, then WSRL online", run / "report.html", train),
    ]


def main(arguments: list[str]) -> int:
    """Run the demo in `runs/demo`; `seed=N` trains with another seed."""
    console = Console(stderr=True)
    settings = dict(argument.partition("=")[::2] for argument in arguments)
    if set(settings) - {"seed", "folder"}:
        raise InputError(f"the demo takes seed=N and folder=PATH, not {' '.join(arguments)}")
    seed, folder = settings.get("seed", "0"), Path(settings.get("folder", "runs/demo"))
    run = folder / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    for title, result, words in steps(folder, run, seed):
        training = words[0] == "train"
        if result.exists() and not (training and read_run(run).status != "finished"):
            console.print(f"[dim]{title}: done, in {result}[/]")
            continue
        console.rule(f"[bold]{title}", align="left")
        console.print(f"$ {command_line(words)}\n", style="cyan", markup=False, soft_wrap=True)
        status = cli.main(words)
        if status != 0:
            return status
    console.rule("[bold]What came out", align="left")
    console.print(f"Open {(run / 'report.html').resolve()} in a browser.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        sys.exit(f"demo: {error}")
