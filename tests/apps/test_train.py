"""`robot-rl train` and `evaluate` as a person uses them, on a task that needs no MuJoCo."""

import html
import json
import multiprocessing
import os
import resource
import shlex
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from robot_rl import checkpoint
from robot_rl.apps import cli, evaluate, train
from robot_rl.apps.build import config_hash, config_to_json, load_data
from robot_rl.apps.compose import compose
from robot_rl.config import DatasetConfig
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


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train.run(compose("train", overrides(store, folder))) == 0
    return folder


@pytest.fixture
def run_folder(finished, tmp_path) -> Path:
    """A finished run of one's own."""
    return shutil.copytree(finished, tmp_path / "run")


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


def test_a_run_leaves_a_report_and_a_policy_that_can_be_evaluated(finished, tmp_path) -> None:
    assert "<html" in (finished / "report.html").read_text()
    assert list((finished / "tensorboard").iterdir())
    out = tmp_path / "evaluation"
    assert evaluate.run(compose("evaluate", [f"run={finished}", "episodes=3", f"output={out}"])) == 0
    assert len(json.loads((out / "evaluation.json").read_text())["episodes"]) == 3


def test_a_run_killed_at_any_moment_and_resumed_ends_with_the_same_numbers(store, tmp_path) -> None:
    long = ["phases.offline.steps=150", "phases.online.steps=150", "checkpoint_every_s=0.0"]
    whole = overrides(store, tmp_path / "whole", *long)
    assert train.run(compose("train", whole)) == 0
    killed = overrides(store, tmp_path / "killed", *long, "resume=true")
    processes = multiprocessing.get_context("forkserver")  # as good as a new command, without importing torch again
    processes.set_forkserver_preload(["robot_rl.apps.cli", "robot_rl.apps.train"])
    rng, kills = np.random.default_rng(0), 0
    for _ in range(3):
        process = processes.Process(target=cli.main, args=(["train", *killed],))
        process.start()
        metrics, before = tmp_path / "killed" / "metrics.jsonl", -1
        seen = metrics.stat().st_size if metrics.exists() else 0
        while process.is_alive() and before < seen + 200:  # it is at work again
            time.sleep(0.01)
            before = metrics.stat().st_size if metrics.exists() else -1
        time.sleep(float(rng.uniform(0.0, 0.4)))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
    assert kills >= 1
    assert train.run(compose("train", killed)) == 0
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "killed")
    a, b = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "killed")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_ctrl_c_saves_and_says_how_to_go_on(store, tmp_path, capsys) -> None:
    folder = tmp_path / "my run"
    words = ["train", *overrides(store, tmp_path), "phases.offline.steps=100000", "resume=true"]
    words = [f"output='{folder}'" if word.startswith("output=") else word for word in words]
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 60

    def press_ctrl_c() -> None:
        while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size > 1000):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    pressing = threading.Thread(target=press_ctrl_c)
    pressing.start()
    status = cli.main(words)
    pressing.join()
    assert status == 130
    said = capsys.readouterr().err
    command = said.split("Go on with: robot-rl ")[1].splitlines()[0]
    assert shlex.split(command) == words  # whoever called, quoted so that it can be pasted
    page = html.unescape((folder / "report.html").read_text())
    assert f"robot-rl {command}" in page
    assert checkpoint.checkpoints(folder / "checkpoints")
    assert json.loads((folder / "run.json").read_text())["command"] == words


def test_an_existing_run_is_neither_overwritten_nor_resumed_under_other_settings(store, run_folder) -> None:
    words = overrides(store, run_folder)
    before = (run_folder / "metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="resume=true"):
        train.run(compose("train", words))
    with pytest.raises(InputError, match=r"replay\.discount: 0\.99 -> 0\.5"):
        train.run(compose("train", [*words, "replay.discount=0.5", "resume=true"]))
    assert (run_folder / "metrics.jsonl").read_bytes() == before


def test_a_refused_start_leaves_nothing_in_the_way_of_the_corrected_one(store, tmp_path) -> None:
    words = overrides(store, tmp_path / "run")
    with pytest.raises(InputError, match="did you mean 'offline'"):
        train.run(compose("train", [*words, "+phases.online.shares.ofline=0.0"]))
    assert train.run(compose("train", words)) == 0


def test_a_damaged_checkpoint_is_refused_by_name(run_folder) -> None:
    newest = checkpoint.checkpoints(run_folder / "checkpoints")[-1]
    content = bytearray((newest / checkpoint.TENSORS).read_bytes())
    content[-1] ^= 1
    (newest / checkpoint.TENSORS).write_bytes(content)
    with pytest.raises(InputError, match=f"{newest} is damaged"):
        evaluate.run(compose("evaluate", [f"run={run_folder}"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["environment.id=Pendulm-v1"], "Pendulum"),
        (["datasets.offline.path=/nowhere/x.zarr"], "/nowhere/x.zarr"),
        (["environment.id=MountainCarContinuous-v0"], "are of different environments"),
        (["device=cuda:7"], "device=cuda:7 cannot be used here"),
        (["seed=1000000"], "evaluation needs seeds of its own"),
        (["replay.capacity=20"], r"replay\.capacity=20 cannot hold one episode.*up to 20 steps: set it to 21"),
        (["evaluation.videos=1"], r"not a MuJoCo task.*set evaluation\.videos=0"),
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
    shutil.copytree(store, wide)
    array = zarr.open_array(wide / "steps" / "action")
    array[:] = array[:] * 2
    words = overrides(wide, tmp_path / "run")
    with pytest.raises(InputError, match=r"outside what the environment accepts.*out_of_range=clip"):
        train.run(compose("train", words))
    clipped = f"+datasets.offline={{path:{wide},out_of_range:clip}}"
    assert train.run(compose("train", [clipped if "datasets" in word else word for word in words])) == 0


def test_an_episode_with_a_reward_that_is_no_number_is_refused_by_name(store, tmp_path) -> None:
    import zarr

    spoiled = tmp_path / "spoiled.zarr"
    shutil.copytree(store, spoiled)
    ends = zarr.open_array(spoiled / "meta" / "episode_ends")[:]
    rewards = zarr.open_array(spoiled / "steps" / "reward")
    rewards[int(ends[1]) + 3] = float("nan")  # each episode has one row more than steps; this is step 3 of the third
    message = r"data set offline \(\S+spoiled\.zarr\), episode 2: reward is nan at \[3\] .*inspect STORE --fix"
    for weighting in ("uniform", "return"):
        words = [f"+datasets.offline={{path:{spoiled},weighting:{weighting}}}"]
        with pytest.raises(InputError, match=message):
            train.run(compose("train", [*PENDULUM, *SMALL, *words, f"output={tmp_path}/run", *phases()]))


def test_training_from_data_alone_needs_no_environment(store, tmp_path) -> None:
    words = [word for word in overrides(store, tmp_path / "run") if "environment" not in word and "online" not in word]
    assert train.run(compose("train", words)) == 0


def test_without_phases_the_way_to_an_experiment_is_shown() -> None:
    with pytest.raises(InputError, match="experiment="):
        train.run(compose("train", PENDULUM))


@pytest.mark.parametrize(
    "word",
    [
        "log_every=0",
        "threads=0",
        "minimum_deviation=-1",
        "checkpoint_every_s=-1",
        "evaluation.episodes=0",
        "evaluation.final_episodes=0",
        "evaluation.videos=-1",
        "replay.capacity=0",
        "datasets.offline.maximum_episodes=-1",
        "datasets.offline.success_reward=[1.0]",
        "environment.success_reward=[1.0]",
        "phases.offline.evaluate_every=-5",
    ],
)
def test_a_mistyped_number_is_refused_by_its_key(store, tmp_path, word) -> None:
    with pytest.raises(InputError, match=word.partition("=")[0].split(".")[-1]):
        compose("train", [*overrides(store, tmp_path / "run"), word])


def test_films_can_be_turned_off_when_a_run_goes_on(store, run_folder) -> None:
    saved = (run_folder / "config.yaml").read_text()
    (run_folder / "config.yaml").write_text(saved.replace("videos: 0", "videos: 1"))
    assert train.run(compose("train", [*overrides(store, run_folder), "resume=true"])) == 0


def test_a_checkpoint_says_of_what_it_was_made(store, finished) -> None:
    _, state = checkpoint.load(checkpoint.checkpoints(finished / "checkpoints")[-1])
    assert state["config_hash"] == config_hash(state["config"]) == config_hash_of(overrides(store, finished))
    assert len(state["datasets"]["offline"]["sha256"]) == 64
    assert state["datasets"]["offline"]["provenance"]["policy"] == "random"
    assert list(state["spec"]["observation"]) == ["state"]


def test_a_run_does_not_go_on_with_other_data(store, run_folder, tmp_path) -> None:
    changed = tmp_path / "changed.zarr"
    shutil.copytree(store, changed)
    words = [word.replace(str(store), str(changed)) for word in overrides(store, tmp_path / "other")]
    assert train.run(compose("train", words)) == 0
    shutil.rmtree(changed)
    evaluate.run(compose("evaluate", ["policy=random", *PENDULUM, "episodes=5", "seed=7", f"record={changed}"]))
    with pytest.raises(InputError, match=r"data set offline .*changed\.zarr.* is not the one"):
        train.run(compose("train", [*words, "resume=true"]))


def test_a_run_whose_metrics_were_deleted_does_not_go_on(store, run_folder) -> None:
    (run_folder / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"metrics\.jsonl has 0 bytes"):
        train.run(compose("train", [*overrides(store, run_folder), "resume=true"]))


def test_data_sets_without_an_environment_have_to_fit_one_another(store, tmp_path) -> None:
    other = tmp_path / "other.zarr"
    car = ["environment=gymnasium_schema", "environment.id=MountainCarContinuous-v0", "environment.maximum_steps=5"]
    evaluate.run(compose("evaluate", ["policy=random", *car, "episodes=1", f"record={other}"]))
    words = ["algorithm=bc", f"+datasets.one={{path:{store}}}", f"+datasets.two={{path:{other}}}"]
    words += ["+phases.a={steps:2,batch_size:8,shares:{one:0.5,two:0.5}}", f"output={tmp_path / 'run'}"]
    with pytest.raises(InputError, match=r"data set two .*has shape \(2,\), that of data set one has \(3,\)"):
        train.run(compose("train", words))


def test_a_path_may_begin_at_home(store, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(store, tmp_path / "data.zarr")
    words = [word for word in overrides(store, tmp_path) if "online" not in word and not word.startswith("output")]
    words = [word.replace(str(store), "'~/data.zarr'") for word in words]
    assert train.run(compose("train", [*words, "output='~/run'"])) == 0
    assert (tmp_path / "run" / "report.html").exists()


def test_a_full_disk_ends_a_run_with_a_sentence_and_it_goes_on_when_there_is_space(store, tmp_path, capsys) -> None:
    words = ["train", *overrides(store, tmp_path / "run")]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        assert cli.main(words) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(tmp_path / "run") in capsys.readouterr().err.replace("\n", "")
    assert cli.main([*words, "resume=true"]) == 0


def config_hash_of(words: list[str]) -> str:
    return config_hash(config_to_json(compose("train", words)))


@pytest.mark.parametrize(
    "setting", ["replay.reward_scale=10", "replay.reward_bias=-5", "replay.monte_carlo_tail=constant"]
)
def test_trap_11_the_reward_transform_is_part_of_the_recipe(store, tmp_path, setting) -> None:
    words = overrides(store, tmp_path)
    assert config_hash_of([*words, setting]) != config_hash_of(words)
    assert config_hash_of([*words, "evaluation.videos=3", "output=elsewhere"]) == config_hash_of(words)


@pytest.mark.parametrize("weighting", ["return", "advantage"])
def test_better_episodes_are_drawn_more_often_where_weighting_asks_for_it(store, tmp_path, weighting) -> None:
    config = DatasetConfig(path=str(store), weighting=weighting, weighting_temperature=0.2)
    data = load_data("offline", config, None, "")
    returns = np.asarray([episode.reward.sum() for episode in data.episodes])
    weights = np.asarray(data.weights)
    assert weights.max() / weights.min() > 2
    if weighting == "return":
        assert np.array_equal(np.argsort(weights), np.argsort(returns))
    plain = load_data("offline", DatasetConfig(path=str(store)), None, "")
    assert set(plain.weights) == {1.0}
