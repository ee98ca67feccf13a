"""WSRL, or RLPD, on the simulated Panda over ROS 2 in real time at 20 Hz, the learner in a process of its own.

    python benchmarks/robot_learning.py runs/robot_learning --seeds 0 1 2
    python benchmarks/robot_learning.py runs/robot_learning learner.priority=20 --seeds 0 --experiment robot_reach_rlpd

Records 40 scripted episodes with noise of the same arm without ROS, trains, and prints one JSON line a seed: success
before and after, how far the learner was behind, and how evenly the loop went while it worked and while there was none.
What is there already is gone on with. The description is that of sim_panda with everything at 20 Hz and with watchdogs
of seconds, for a machine that others use too; they are no example for a robot.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from robot_rl.apps import evaluate, train
from robot_rl.apps.compose import compose

RATE_HZ = 20


def describe(folder: Path) -> Path:
    """The description."""
    data = yaml.safe_load((Path(__file__).parents[1] / "configs/robot/sim_panda.yaml").read_text())
    data |= {"control_period_s": 1 / RATE_HZ, "controller_rate_hz": RATE_HZ}
    data["command"] |= {"rate_hz": RATE_HZ, "maximum_age_s": 2.0}
    data["topics"].pop("cameras")
    topics = [data["topics"][key] for key in ("joint_states", "wrench", "tool_pose", "outcome")]
    for topic in (*topics, data["topics"]["points"]["target"]):
        topic |= {"rate_hz": RATE_HZ, "maximum_age_s": 1.5}
    silences = ("observation_stop_s", "heartbeat_stop_s", "permit_stop_s", "frozen_s", "clock_jump_s", "answer_age_s")
    data["watchdogs"] |= dict.fromkeys(silences, 5.0)
    data["watchdogs"] |= {
        "command_hold_s": 2.0,
        "command_stop_s": 6.0,
        "missed_deadlines": 100,
        "invalid_commands": 100,
    }
    data["topics"]["joint_states"]["depth"] = 50  # a governor that gets no processor for a second still hears all
    path = folder / "sim_panda.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def summary(run: Path) -> dict[str, Any]:
    """What the run's metrics say."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["event"] == "evaluation"]
    behind = [line["metrics"]["learner/behind"] for line in lines if "learner/behind" in line["metrics"]]
    times = {}
    for line in lines:
        if line["event"] == "timing":
            known = {name: {key: each[key] for key in ("count", "p50_ms", "p99_ms", "max_ms")}
                     for name, each in line["times"].items()}  # fmt: skip
            times[line["phase"]] = known | {"counts": line["counts"]}
    return {
        "success": {line["phase"]: [line["metrics"]["success_rate"], len(line["episodes"])] for line in evaluations},
        "return": {line["phase"]: line["metrics"]["return_mean"] for line in evaluations},
        "success_interval": [evaluations[-1]["metrics"][key] for key in ("success_low", "success_high")],
        "environment_steps": lines[-1]["environment_steps"],
        "updates": lines[-1]["updates"],
        "behind": {"median": float(np.median(behind)), "largest": max(behind)} if behind else None,
        "weights": max((line["metrics"].get("learner/version", 0) for line in lines), default=0),
        "times": times,
    }


def main() -> None:
    """Record, train, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--experiment", default="robot_reach")
    parser.add_argument("settings", nargs="*", help="of the run, such as phases.online.steps=500")
    given = parser.parse_intermixed_args()
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    robot = f"environment.robot={describe(folder)}"
    data = folder / "scripted.zarr"
    experiment: Any = compose("train", [f"experiment={given.experiment}"])
    if not data.exists():
        keys = ("maximum_steps", "simulation", "observation", "success_reward", "terminate_on_success")
        values = {key: getattr(experiment.environment, key) for key in keys}
        task = [robot, *(f"environment.{key}={'null' if value is None else value}" for key, value in values.items())]
        words = ["policy=expert", "environment=arm", "episodes=40", "expert_noise=0.3", f"record={data}", *task]
        evaluate.run(compose("evaluate", [word.replace("'", "") for word in words]))
    for seed in given.seeds:
        run = folder / given.experiment / f"seed_{seed}"
        words = [f"experiment={given.experiment}", robot, f"datasets.offline.path={data}", f"seed={seed}"]
        words += [f"output={run}", "resume=true", *given.settings]
        status = train.run(compose("train", words))
        print(json.dumps({"experiment": given.experiment, "seed": seed, "status": status, **summary(run)}), flush=True)


if __name__ == "__main__":
    main()
