"""Two local processes, started by torchrun, learn together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from robot_rl import checkpoint
from robot_rl.apps import cli, evaluate
from robot_rl.apps.compose import compose
from robot_rl.errors import InputError
from robot_rl.loops.distributed import Ranks

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PENDULUM = ["environment=gymnasium_schema", "environment.id=Pendulum-v1", "environment.maximum_steps=20"]
SMALL = [
    "algorithm=sac",
    "algorithm.actor_hidden=[8]",
    "algorithm.critic_hidden=[8]",
    "evaluation.episodes=1",
    "evaluation.final_episodes=1",
    "evaluation.videos=0",
    "log_every=10",
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict:
    """What two ranks saw."""
    result = tmp_path_factory.mktemp("ranks") / "result.json"
    subprocess.run([*TORCHRUN, str(Path(__file__).with_name("two_ranks.py")), str(result)], check=True, timeout=300)
    return json.loads(result.read_text())


def test_two_ranks_with_half_a_batch_each_take_the_steps_of_one_process_with_the_whole(seen) -> None:
    assert seen["apart"] < 1e-5  # also behind the clipping of gradients, which acts on their mean


def test_ranks_agree(seen) -> None:
    assert seen["told"] == "rank 0: ü"
    assert seen["any"]
    assert not seen["decided"]


def test_all_ranks_see_the_steps_of_the_first(seen) -> None:
    assert seen["same_steps"]
    assert seen["actions"] == [[1.0]] * 3
    assert seen["dtype"] == "float32"


def test_networks_that_drift_apart_are_found(seen) -> None:
    assert seen["drift_found"]


def test_no_thread_of_the_connection_outlives_it(seen) -> None:
    # One that frees a tensor while the interpreter ends aborts the process, now and then.
    assert not [name for name in seen["threads"] if "gloo" in name]


def test_episodes_are_shared_without_rest_or_repeat_and_too_few_are_refused() -> None:
    shares = [Ranks(rank=rank, count=3).share(range(8), "data") for rank in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(8))
    with pytest.raises(InputError, match="2 episodes, which cannot be shared by 3 processes"):
        Ranks(rank=0, count=3).share(range(2), "data")


def test_a_batch_that_does_not_divide_is_refused() -> None:
    assert Ranks(rank=1, count=2).rows(8, "phases.offline") == 4
    with pytest.raises(InputError, match=r"phases\.offline\.batch_size=9 is no multiple of the 2 processes"):
        Ranks(rank=1, count=2).rows(9, "phases.offline")


def test_a_killed_rank_ends_the_others_and_the_run_goes_on_exactly(tmp_path, capsys) -> None:
    store = tmp_path / "random.zarr"
    evaluate.run(compose("evaluate", ["policy=random", *PENDULUM, "episodes=5", f"record={store}"]))
    phases = ["+phases.offline={steps:300,batch_size:8}", "+phases.online={interact:policy,steps:30,batch_size:8}"]
    words = ["train", *PENDULUM, *SMALL, *phases, f"+datasets.offline.path={store}"]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said, _ = start(words, whole).communicate(timeout=300)
    assert "Finished" in said
    process = start(words, parts)
    wait_for_a_checkpoint(parts)
    os.kill(worker(process.pid, 1), signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "another process of this run has ended" in " ".join(said.split())
    assert "resume=true" in said

    assert cli.main([*words, f"output={parts}", "checkpoint_every_s=0", "resume=true"]) == 2
    assert "is one of 2 process(es), not of 1" in " ".join(capsys.readouterr().err.split())
    said, _ = start(words, parts, "resume=true").communicate(timeout=300)
    assert "Going on from" in said
    (a, left), (b, right) = (checkpoint.load(checkpoint.checkpoints(x / "checkpoints")[-1]) for x in (whole, parts))
    assert left["progress"]["updates"] == right["progress"]["updates"] == 330
    assert all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.slow
def test_ctrl_c_saves_though_torchrun_passes_it_on_once_more(tmp_path) -> None:
    phases = ["+phases.online={interact:policy,steps:20000,batch_size:8}"]
    process = start(["train", *PENDULUM, *SMALL, *phases], tmp_path / "run", start_new_session=True)
    wait_for_a_checkpoint(tmp_path / "run")
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert "Interrupted and saved" in said
    _, state = checkpoint.load(checkpoint.checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert 0 < state["progress"]["environment_steps"] < 20000
    assert (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1].startswith('{"event": "interrupt"')


def start(words: list[str], folder: Path, *more: str, **settings: bool) -> subprocess.Popen:
    """A run of two ranks that saves whenever it can."""
    command = [*TORCHRUN, "-m", "robot_rl.apps.cli", *words, f"output={folder}", "checkpoint_every_s=0", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)


def wait_for_a_checkpoint(folder: Path) -> None:
    """Or for 200 seconds."""
    begun = time.monotonic()
    while not checkpoint.checkpoints(folder / "checkpoints") and time.monotonic() - begun < 200:
        time.sleep(0.02)


def worker(parent: int, rank: int) -> int:
    """The process of a rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, environment = (folder / "stat").read_text(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if int(status.rpartition(")")[2].split()[1]) == parent and f"\0RANK={rank}\0".encode() in environment:
            return int(folder.name)
    raise LookupError(f"no rank {rank} of process {parent}")


def test_compiled_updates_on_several_ranks_are_refused(tmp_path) -> None:
    from robot_rl.apps.train import of_rank

    config = compose("train", ["experiment=lift", "execution.mode=compiled", f"output={tmp_path}"])
    with pytest.raises(InputError, match=r"execution\.mode=compiled under torchrun"):
        of_rank(config, Ranks(rank=0, count=2))
