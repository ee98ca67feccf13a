"""`robot-rl benchmark`: what is finished is kept, what was stopped goes on, what fails is told; tables from files."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from robot_rl.apps import benchmark_engine as engine
from robot_rl.apps.benchmark_data import replay_episodes
from robot_rl.apps.benchmark_engine import Job
from robot_rl.apps.benchmark_plan import Plan
from robot_rl.apps.benchmark_result import read_result
from robot_rl.apps.benchmark_table import write_tables
from robot_rl.apps.cli import main
from robot_rl.apps.compose import compose
from robot_rl.apps.schema import choices
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.loops.rollout import run_episode
from robot_rl.replay.buffer import ReplayBuffer
from robot_rl.testing.fakes import OneJointEnvironment, OneJointExpert
from robot_rl.transforms.action import ActionScale
from robot_rl.transforms.reward import RewardTransform

SUITE = """# A suite of the tests.
name: tiny
seeds: [0]
offline_steps: 30
warmup_steps: 60
online_steps: 150
evaluate_at: [100]
batch_size: 8
train: [evaluation.videos=0, evaluation.episodes=2, evaluation.final_episodes=2, "algorithm.actor_hidden=[8]"]
tasks:
  cartpole:
    environment: [environment=cartpole_swingup, environment.action_repeat=20]
    data: random
    random: 20.0
    reference: 120.0
    reference_policy: random
algorithms:
  broken: { train: [algorithm=bc, replay.capacity=10] } # no episode fits: refused when the run begins
  bc: { train: [algorithm=bc, phases.online.updates_per_step=0] }
data:
  random: { parts: [{ policy: random, episodes: 2 }] }
"""


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> Path:
    """A folder of configurations with the suite `tiny`."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "suite").mkdir()
    (folder / "suite" / "tiny.yaml").write_text(SUITE)
    return folder


@pytest.fixture(scope="module")
def finished(configs, tmp_path_factory) -> tuple[Path, int]:
    """The output of the suite, and its exit status."""
    output = tmp_path_factory.mktemp("benchmark")
    status = main(["benchmark", "suite=tiny", f"output={output}", "--config-dir", str(configs), "workers=2"])
    return output, status


def arguments(configs: Path, output: Path, *words: str) -> list[str]:
    return ["benchmark", "suite=tiny", f"output={output}", "--config-dir", str(configs), *words]


def plan(configs: Path, output: Path, *words: str) -> Plan:
    return Plan(compose("benchmark", ["suite=tiny", f"output={output}", *words], configs))


# Whole --------------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_is_told_and_does_not_stop_the_others(finished, configs, capsys) -> None:
    output, status = finished
    assert status == 1
    assert [path.parent.name for path in output.glob("results/tiny/*/*/*.json")] == ["bc"]
    assert main(arguments(configs, output, "algorithms=[broken]")) == 1
    told = capsys.readouterr().err
    assert "cartpole broken seed 0" in told
    assert "replay.capacity=10 cannot hold one episode" in told
    assert "1 failed" in told


def test_what_is_finished_is_not_run_again(finished, configs, capsys) -> None:
    output, _ = finished
    log = output / "runs/tiny/cartpole/bc/seed_0/log.txt"
    before = log.read_bytes()
    assert main(arguments(configs, output, "algorithms=[bc]")) == 0
    assert log.read_bytes() == before
    assert "All 1 runs are finished" in capsys.readouterr().err


def test_a_result_tells_what_its_numbers_are_of(finished, configs) -> None:
    output, _ = finished
    path = output / "results/tiny/cartpole/bc/seed_0.json"
    content = json.loads(path.read_text())
    assert content["command"].startswith("robot-rl train environment=cartpole_swingup")
    assert content["scale"] == {"random": 20.0, "reference": 120.0, "reference_policy": "random"}
    assert {"commit", "machine", "versions", "cpu_s", "hash", "data"} <= content.keys()
    assert [(e["phase"], e["environment_steps"], len(e["return"])) for e in content["curve"]] == [
        ("offline", 0, 2),
        ("warmup", 60, 2),
        ("online", 100, 2),
        ("online", 150, 2),
    ]
    result = read_result(path)
    # both evaluations of the policy that only cloned are its offline score
    returns = content["curve"][0]["return"] + content["curve"][1]["return"]
    assert result.offline == pytest.approx((np.mean(returns) - 20.0) / 100.0)
    assert [point.step for point in result.curve] == [0, 100, 150]


def test_tables_and_curves_are_made_from_the_result_files_alone(finished, configs, tmp_path) -> None:
    output, _ = finished
    source = output / "results/tiny/cartpole/bc/seed_0.json"
    for number in range(3):  # as collected from other machines
        target = tmp_path / f"results/tiny/cartpole/bc/seed_{number}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        content = json.loads(source.read_text()) | {"seed": number}
        for evaluation in content["curve"]:
            evaluation["return"] = [20.0 + 10.0 * number] * 2
        target.write_text(json.dumps(content))
    assert main(arguments(configs, tmp_path, "only=tables", "seeds=[0,1,2]", "algorithms=[bc]")) == 0
    folder = tmp_path / "tables/tiny"
    table = json.loads((folder / "table.json").read_text())
    (row,) = table["all_tasks"]
    assert row["final"]["value"] == pytest.approx(0.1)  # of 0, 0.1 and 0.2; floor(3 / 4) = 0 are left out
    assert row["final"]["low"] == pytest.approx(0.0)
    assert row["regret"]["value"] == pytest.approx(0.9)
    assert row["dip"]["value"] == 0.0
    assert "| bc | 3 | 0.10 [0.00, 0.20] | 0.10 [0.00, 0.20] | 0.90" in (folder / "table.md").read_text()
    assert (folder / "curves.png").stat().st_size > 1000
    assert "<svg" in (folder / "curves.svg").read_text()
    assert main(arguments(configs, tmp_path, "only=tables", "seeds=[0,1,2,3]", "algorithms=[bc]")) == 0
    assert "Partial: 4 runs are planned" in (folder / "table.md").read_text()


def test_results_of_different_data_or_scales_are_told_apart(finished, configs, tmp_path) -> None:
    output, _ = finished
    content = json.loads((output / "results/tiny/cartpole/bc/seed_0.json").read_text())
    for number in range(2):
        other = content | {"seed": number, "data": content["data"] | {"sha256": str(number)}}
        other["scale"] = content["scale"] | {"random": float(number)}
        path = tmp_path / f"results/tiny/cartpole/bc/seed_{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(other))
    warnings = " ".join(write_tables(plan(configs, tmp_path, "seeds=[0,1]")).warnings)
    assert "different data" in warnings
    assert "different scales" in warnings


def test_a_result_of_other_settings_is_not_taken_for_finished(finished, configs, capsys) -> None:
    output, _ = finished
    assert main(arguments(configs, output, "algorithms=[bc]", "suite.offline_steps=31")) == 2
    assert "is of other settings" in capsys.readouterr().err


def test_the_same_recipe_makes_the_same_data_and_another_one_gets_another_name(finished, configs, tmp_path) -> None:
    output, _ = finished
    assert main(arguments(configs, tmp_path, "only=data")) == 0
    one, two = plan(configs, output).store("random"), plan(configs, tmp_path).store("random")
    assert one.name == two.name
    assert EpisodeStore.open(one).digests == EpisodeStore.open(two).digests
    assert plan(configs, output, "suite.data.random.seed=1").store("random").name != one.name


def test_it_stops_on_ctrl_c_or_when_it_is_killed_and_then_goes_on(finished, configs, tmp_path) -> None:
    output, _ = finished
    shutil.copytree(output / "data", tmp_path / "data")
    words = arguments(configs, tmp_path, "algorithms=[bc]", "suite.offline_steps=12000", "settings=['log_every=50']")
    run = tmp_path / "runs/tiny/cartpole/bc/seed_0"
    metrics = run / "metrics.jsonl"

    def events(kind: str) -> int:
        return metrics.read_text().count(f'"event": "{kind}"') if metrics.exists() else 0

    def wait_for(kind: str, count: int) -> None:
        deadline = time.monotonic() + 300
        while events(kind) < count:
            assert time.monotonic() < deadline, f"no {kind} in {metrics}"
            time.sleep(0.05)

    for number in (signal.SIGINT, signal.SIGKILL):
        before = events("train")
        process = subprocess.Popen([sys.executable, "-m", "robot_rl", *words], stderr=subprocess.PIPE, text=True)
        wait_for("train", before + 1)
        process.send_signal(number)
        _, told = process.communicate(timeout=300)
        # the run itself is a process of its own: it notices, saves and ends
        wait_for("interrupt", 1 if number == signal.SIGINT else 2)
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert "The same command goes on" in told
            assert not (tmp_path / "results/tiny/cartpole").exists()
    assert main(words) == 0
    assert (run / "log.txt").read_text().count("Going on from") == 2
    assert (tmp_path / "results/tiny/cartpole/bc/seed_0.json").exists()


def test_runs_go_to_a_ray_cluster_of_two_local_processes(finished, configs, tmp_path) -> None:
    pytest.importorskip("ray")
    output, _ = finished
    shutil.copytree(output / "data", tmp_path / "data")
    words = arguments(configs, tmp_path, "algorithms=[bc,broken]", "engine=ray", "workers=2")
    done = subprocess.run(
        [sys.executable, "-m", "robot_rl", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "1 failed" in done.stderr
    local = json.loads((output / "results/tiny/cartpole/bc/seed_0.json").read_text())
    there = json.loads((tmp_path / "results/tiny/cartpole/bc/seed_0.json").read_text())
    assert there["curve"] == local["curve"]


# Parts --------------------------------------------------------------------------------------------------------------


def job(folder: Path, name: str, *words: str) -> Job:
    return Job(name=name, words=words, folder=folder / name)


def test_jobs_end_as_finished_or_failed_with_the_end_of_their_log(tmp_path) -> None:
    jobs = [job(tmp_path, "good", "--version"), job(tmp_path, "bad", "nonsense")]
    outcomes = {outcome.job.name: outcome for outcome in engine.in_processes(jobs, 2, print)}
    assert outcomes["good"].status == "finished"
    assert outcomes["good"].cpu_s > 0
    assert outcomes["bad"].status == "failed"
    assert "exit status 2" in outcomes["bad"].message
    assert "there is no verb 'nonsense'" in outcomes["bad"].message


def test_closing_the_engine_stops_what_runs_and_begins_nothing_more(tmp_path) -> None:
    said: list[str] = []
    jobs = [job(tmp_path, "quick", "--version"), *(job(tmp_path, f"late{n}", "doctor") for n in range(9))]
    with contextlib.closing(engine.in_processes(jobs, 1, said.append)) as outcomes:
        assert next(outcomes).job.name == "quick"
    assert "Stopping" in said[0]
    begun = [path.parent.name for path in tmp_path.glob("*/log.txt")]
    assert set(begun) <= {"quick", "late0", "late1"}


def test_a_job_ends_when_whoever_asked_for_it_is_gone(tmp_path) -> None:
    program = engine.PROGRAM.format(path=sys.path)
    words = ["train", "environment=cartpole_swingup", "+phases.online={interact: random, steps: 1000000}"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "usage"), *words, f"output={tmp_path / 'run'}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(300) != 0


def test_a_replay_buffer_gives_back_the_episodes_that_went_in() -> None:
    environment = OneJointEnvironment()
    scale = ActionScale.from_spec(environment.spec.action)
    episodes = [run_episode(environment, OneJointExpert(), seed=seed) for seed in range(4)]
    rows = sum(len(episode) + 1 for episode in episodes)

    def buffer(capacity: int) -> ReplayBuffer:
        made = ReplayBuffer(environment.spec, capacity=capacity, scale=scale, reward=RewardTransform(), discount=0.9)
        for episode in episodes:
            made.append(episode)
        return made

    for capacity, first in ((rows + 5, 0), (rows, 0), (rows - 1, 1)):  # the last has overwritten a part of the first
        found = list(replay_episodes(buffer(capacity)))
        assert len(found) == 4 - first
        for back, episode in zip(found, episodes[first:], strict=True):
            for key, values in episode.observation.items():
                np.testing.assert_array_equal(back.observation[key], values)
            np.testing.assert_allclose(back.action, episode.action, atol=1e-4)  # those at a bound are kept inside it
            np.testing.assert_allclose(back.reward, episode.reward, atol=1e-6)
            np.testing.assert_array_equal(back.terminated, episode.terminated)
            assert bool(back.truncated[-1]) == (not bool(episode.terminated[-1]))


def test_an_episode_that_runs_is_no_episode_of_the_replay_buffer() -> None:
    environment = OneJointEnvironment()
    scale = ActionScale.from_spec(environment.spec.action)
    made = ReplayBuffer(environment.spec, capacity=100, scale=scale, reward=RewardTransform(), discount=0.9)
    made.append(run_episode(environment, OneJointExpert(), seed=0))
    step = environment.reset(seed=1)
    made.begin(step.observation)
    made.add(environment.step(np.zeros(environment.spec.action.shape)))
    assert len(list(replay_episodes(made))) == 1


# Suites -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", list(choices("suite")))
def test_every_word_of_a_suite_is_right(suite, tmp_path) -> None:
    made = Plan(compose("benchmark", [f"suite={suite}", f"output={tmp_path}", "seeds=[0]"]))
    assert made.suite.name == suite
    runs = made.runs
    assert len({run.hash for run in runs}) == len(runs) == sum(len(made.algorithms_of(task)) for task in made.tasks)
    made.policies(made.suite.policies)
    for run in runs[:2]:
        config = compose("train", list(run.words[1:]))
        learned = [name for name in config.phases if name != "explore"]
        assert learned == ["offline", "warmup", "online"]
        assert config.phases["warmup"].updates_per_step == 0
        assert config.phases["warmup"].steps + config.phases["online"].steps == made.suite.online_steps


def test_a_phase_that_a_suite_adds_takes_shares_and_settings_but_no_unknown_key() -> None:
    words = ["environment=cartpole_swingup", "+phases.online={interact: policy, steps: 5}"]
    given = ["phases.online.shares={offline: 0.5, online: 0.5}", "phases.online.algorithm={conservative_weight: 0.0}"]
    phase = compose("train", [*words, *given, "phases.online.algorithm.max_target_backup=0"]).phases["online"]
    assert phase.shares == {"offline": 0.5, "online": 0.5}
    assert phase.algorithm == {"conservative_weight": 0.0, "max_target_backup": 0}
    with pytest.raises(InputError, match="stps"):
        compose("train", [*words, "phases.online.stps=3"])


def test_filters_choose_and_names_that_are_not_there_are_told(configs, tmp_path) -> None:
    chosen = plan(configs, tmp_path, "algorithms=[bc]", "seeds=[4,5]")
    assert [(run.algorithm, run.seed) for run in chosen.runs] == [("bc", 4), ("bc", 5)]
    with pytest.raises(InputError, match="algorithms names 'bd': did you mean 'bc'"):
        plan(configs, tmp_path, "algorithms=[bd]")


def test_runs_go_seed_by_seed(configs, tmp_path) -> None:
    assert [run.seed for run in plan(configs, tmp_path, "seeds=[0,1]").runs] == [0, 0, 1, 1]


def test_a_hash_knows_what_changes_numbers_and_nothing_else(configs, tmp_path) -> None:
    def digest(*words: str, output: Path = tmp_path) -> str:
        return plan(configs, output, "algorithms=[bc]", *words).runs[0].hash

    assert digest() == digest(output=tmp_path / "elsewhere")
    assert digest("settings=['algorithm.log_std_minimum=-5.0']") == digest()  # the default, written out
    others = [
        digest("settings=['algorithm.actor_learning_rate=1e-4']"),
        digest("settings=['phases.online.batch_size=9']"),
        digest("seeds=[1]"),
        digest("suite.data.random.seed=9"),
        digest("suite.tasks.cartpole.environment=['environment=reacher_easy']"),
    ]
    assert len({digest(), *others}) == 6


def test_longer_runs_are_one_setting(configs, tmp_path) -> None:
    run = plan(configs, tmp_path, "suite.online_steps=500", "algorithms=[bc]").runs[0]
    config = compose("train", list(run.words[1:]))
    assert config.phases["online"].steps == 440
    assert config.phases["online"].evaluate_at == [40]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("suite.tasks.cartpole.data=randm", "did you mean 'random'"),
        ("suite.tasks.cartpole.reference=10", "must be above random"),
        ("suite.tasks.cartpole.reference_policy=exprt", "did you mean 'expert'"),
        ("suite.warmup_steps=150", "suite.online_steps"),
    ],
)
def test_a_suite_that_cannot_work_is_refused(configs, tmp_path, word, told) -> None:
    with pytest.raises(InputError, match=told):
        plan(configs, tmp_path, word)


def test_without_a_suite_it_asks_for_one(tmp_path) -> None:
    with pytest.raises(InputError, match="which suite"):
        Plan(compose("benchmark", [f"output={tmp_path}"]))


def test_a_damaged_result_is_named(tmp_path) -> None:
    path = tmp_path / "seed_0.json"
    path.write_text("{}")
    with pytest.raises(InputError, match=r"seed_0\.json is not the result"):
        read_result(path)
