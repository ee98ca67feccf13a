"""The experiments of docs/results.md: every run, then the table and the pictures. Resumable.

    python benchmarks/experiments/spine.py lift adroit_pen_bc adroit_pen --seeds 0 1 2

Runs go to `runs/<experiment>/seed_<n>`; a run that is there and finished is not repeated. The data sets have to be in
`data/`; docs/results.md has the lines that put them there.
"""

import argparse
import sys
from pathlib import Path

from robot_rl.apps import cli
from robot_rl.apps.report_compare import plot_runs, summary_table
from robot_rl.apps.report_read import read_run

COLUMNS = ("run", "baseline", "minimum", "dip", "recovery_step", "final", "environment_steps", "wall_time_s")


def main() -> int:
    """Run what is missing, then print a Markdown table and draw one picture per group of experiments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", help="files of configs/experiment")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of every run")
    parser.add_argument("--picture", type=Path, help="draw the learning curves here (.png)")
    parser.add_argument("--title", default="")
    arguments = parser.parse_args()
    groups: dict[str, list[Path]] = {}
    for experiment in arguments.experiments:
        for seed in arguments.seeds:
            run = Path("runs") / experiment / f"seed_{seed}"
            if not (run / "metrics.jsonl").exists() or read_run(run).status != "finished":
                words = ["train", experiment, f"seed={seed}", f"output={run}", "resume=true", *arguments.set]
                status = cli.main(words)
                if status != 0:
                    return status
            groups.setdefault(experiment, []).append(run)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in summary_table(groups):
        print(f"| {' | '.join(_text(row[column]) for column in COLUMNS)} |")
    if arguments.picture is not None:
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        plot_runs(groups, arguments.picture, arguments.title)
        print(f"Drawn: {arguments.picture}", file=sys.stderr)
    return 0


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
