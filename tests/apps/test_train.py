"""`robot-rl train` and `evaluate` as a person uses them, on a task that needs no MuJoCo."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_rl import checkpoint
from robot_rl.apps import evaluate, train
from robot_rl.apps.compose import compose
from robot_rl.errors import InputError

PENDULUM = ["environment=gymnasium_schema", "environment.id=Pendulum-v1", "environment.maximum_steps=20"]
SMALL = [
    "algorithm=sac",
    "algorithm.actor_hidden=[8]",
    "algorithm.critic_hidden=[8]",
    "evaluation.episodes=1",
    "evaluation.final_episodes=2",
    "evaluation.videos=0",
    "log_every=10",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "random.zarr"
    evaluate.run(compose("evaluate", ["policy=random", *PENDULUM, "episodes=5", f"record={path}"]))
    return path


def phases(offline: int = 30, online: int = 60) -> list[str]:
    return [
        f"+phases.offline={{steps:{offline},batch_size:8}}",
        f"+phases.online={{interact:policy,steps:{online},batch_size:8,updates_per_step:2,"
        "shares:{offline:0.5,online:0.5},evaluate_at:[5]}",
    ]


def overrides(store: Path, output: Path, *more: str) -> list[str]:
    data = f"+datasets.offline={{path:{store}}}"
    return [*PENDULUM, *SMALL, data, f"output={output}", *phases(), *more]


def numbers(folder: Path) -> list[tuple]:
    """All metrics but the clock's, in order."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clocked = ("updates_per_s", "steps_per_s")
    return [
        (
            line["event"],
            line["phase"],
            line["phase_step"],
            {k: v for k, v in line["metrics"].items() if k not in clocked},
        )
        for line in lines
        if line["event"] != "interrupt"
    ]


def final_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.checkpoints(folder / "checkpoints")[-1])[0]


def test_a_run_leaves_a_report_and_a_policy_that_can_be_evaluated(store, tmp_path) -> None:
    assert train.run(compose("train", overrides(store, tmp_path / "run"))) == 0
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    out = tmp_path / "evaluation"
    assert evaluate.run(compose("evaluate", [f"run={tmp_path / 'run'}", "episodes=3", f"output={out}"])) == 0
    assert len(json.loads((out / "evaluation.json").read_text())["episodes"]) == 3


def test_a_run_killed_at_any_moment_and_resumed_ends_with_the_same_numbers(store, tmp_path) -> None:
    long = ["phases.offline.steps=150", "phases.online.steps=150", "checkpoint_every_s=0.0"]
    whole = overrides(store, tmp_path / "whole", *long)
    assert train.run(compose("train", whole)) == 0
    killed = overrides(store, tmp_path / "killed", *long, "resume=true")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    rng, kills = np.random.default_rng(0), 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "robot_rl", "train", *killed],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        metrics, before = tmp_path / "killed" / "metrics.jsonl", -1
        seen = metrics.stat().st_size if metrics.exists() else 0
        while process.poll() is None and before < seen + 200:  # it is at work again
            time.sleep(0.01)
            before = metrics.stat().st_size if metrics.exists() else -1
        time.sleep(float(rng.uniform(0.0, 0.4)))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 1
    assert train.run(compose("train", killed)) == 0
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "killed")
    a, b = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "killed")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_ctrl_c_saves_and_says_how_to_go_on(store, tmp_path) -> None:
    words = overrides(store, tmp_path / "run", "phases.offline.steps=100000")
    process = subprocess.Popen(
        [sys.executable, "-m", "robot_rl", "train", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size > 1000):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "resume=true" in said
    assert (tmp_path / "run" / "report.html").exists()
    assert checkpoint.checkpoints(tmp_path / "run" / "checkpoints")


def test_an_existing_run_is_neither_overwritten_nor_resumed_under_other_settings(store, tmp_path) -> None:
    words = overrides(store, tmp_path / "run")
    train.run(compose("train", words))
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="resume=true"):
        train.run(compose("train", words))
    with pytest.raises(InputError, match=r"replay\.discount: 0\.99 -> 0\.5"):
        train.run(compose("train", [*words, "replay.discount=0.5", "resume=true"]))
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_refused_start_leaves_nothing_in_the_way_of_the_corrected_one(store, tmp_path) -> None:
    words = overrides(store, tmp_path / "run")
    with pytest.raises(InputError, match="did you mean 'offline'"):
        train.run(compose("train", [*words, "+phases.online.shares.ofline=0.0"]))
    assert train.run(compose("train", words)) == 0


def test_a_damaged_checkpoint_is_refused_by_name(store, tmp_path) -> None:
    words = overrides(store, tmp_path / "run")
    train.run(compose("train", words))
    newest = checkpoint.checkpoints(tmp_path / "run" / "checkpoints")[-1]
    content = bytearray((newest / checkpoint.TENSORS).read_bytes())
    content[-1] ^= 1
    (newest / checkpoint.TENSORS).write_bytes(content)
    with pytest.raises(InputError, match=f"{newest} is damaged"):
        evaluate.run(compose("evaluate", [f"run={tmp_path / 'run'}"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["environment.id=Pendulm-v1"], "Pendulum"),
        (["datasets.offline.path=/nowhere/x.zarr"], "/nowhere/x.zarr"),
        (["environment.id=MountainCarContinuous-v0"], "are of different environments"),
        (["device=cuda:7"], "device=cuda:7 cannot be used here"),
        (["seed=1000000"], "evaluation needs seeds of its own"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(store, tmp_path, words, message) -> None:
    with pytest.raises(InputError, match=message):
        train.run(compose("train", [*overrides(store, tmp_path / "run"), *words]))
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_recorded_actions_outside_the_bounds_are_refused_unless_clipping_is_asked_for(store, tmp_path) -> None:
    # The pendulum takes torques in [-2, 2]; the store is made to hold twice what was recorded.
    import zarr

    wide = tmp_path / "wide.zarr"
    subprocess.run(["cp", "-r", store, wide], check=True)
    array = zarr.open_array(wide / "steps" / "action")
    array[:] = array[:] * 2
    words = overrides(wide, tmp_path / "run")
    with pytest.raises(InputError, match=r"outside what the environment accepts.*out_of_range=clip"):
        train.run(compose("train", words))
    clipped = f"+datasets.offline={{path:{wide},out_of_range:clip}}"
    assert train.run(compose("train", [clipped if "datasets" in word else word for word in words])) == 0


def test_training_from_data_alone_needs_no_environment(store, tmp_path) -> None:
    words = [word for word in overrides(store, tmp_path / "run") if "environment" not in word and "online" not in word]
    assert train.run(compose("train", words)) == 0


def test_without_phases_the_way_to_an_experiment_is_shown() -> None:
    with pytest.raises(InputError, match="experiment="):
        train.run(compose("train", PENDULUM))
