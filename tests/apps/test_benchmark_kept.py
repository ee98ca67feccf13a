"""Suites with controls and attackers: what is planned, what is run, and the table of what is kept."""

import json
from pathlib import Path

import pytest
from benchmark_results import made

from robot_rl.apps.benchmark_kept import kept, kept_table
from robot_rl.apps.benchmark_plan import Plan
from robot_rl.apps.benchmark_result import Result
from robot_rl.apps.cli import main
from robot_rl.apps.compose import compose
from robot_rl.benchmark_config import BenchmarkTaskConfig
from robot_rl.errors import InputError

SUITE = """# A suite of the tests.
name: tiny
seeds: [0]
offline_steps: 20
warmup_steps: 1
online_steps: 2
updates_per_step: 0
batch_size: 8
train: [evaluation.videos=0, evaluation.episodes=1, evaluation.final_episodes=1]
tasks:
  clean: &clean
    environment: [environment=cartpole_swingup, environment.action_repeat=20]
    data: random
    random: 20.0
    reference: 120.0
  turned:
    <<: *clean
    control: clean
    kind: adversarial
    train: [datasets.offline.corruption.element=reward, datasets.offline.corruption.mode=adversarial]
  attacked:
    <<: *clean
    control: clean
    kind: adversarial
    train:
      - datasets.offline.corruption.element=action
      - datasets.offline.corruption.mode=adversarial
      - datasets.offline.corruption.seed=\\${seed}
      - datasets.offline.corruption.attack_steps=2
      - "datasets.offline.corruption.attacker='{attacker}'"
algorithms:
  iql: { train: [algorithm=iql, "algorithm.value_hidden=[8]"] }
attackers:
  random: [algorithm=edac, algorithm.critic_count=2, "+phases.offline={steps: 5, batch_size: 8}"]
data:
  random: { parts: [{ policy: random, episodes: 2 }] }
"""


@pytest.fixture
def configs(tmp_path) -> Path:
    folder = tmp_path / "configs"
    (folder / "suite").mkdir(parents=True)
    (folder / "suite" / "tiny.yaml").write_text(SUITE)
    return folder


def plan(configs: Path, output: Path, *words: str) -> Plan:
    return Plan(compose("benchmark", ["suite=tiny", f"output={output}", *words], configs))


def result(task: str, algorithm: str, seed: int, offline: float) -> Result:
    return made(task, algorithm, seed, offline=offline)


def task(control: str | None = None, kind: str = "") -> BenchmarkTaskConfig:
    return BenchmarkTaskConfig(environment=[], data="", random=0.0, reference=1.0, control=control, kind=kind)


TASKS = {"clean": task(), "noise": task("clean", "random"), "turned": task("clean", "random")}


def test_what_is_kept_is_the_ratio_of_means_over_the_seeds_of_both() -> None:
    # clean (1, 3), noise (1, 1) of seeds 0 and 1: 1 / 2; turned (0, 3): 1.5 / 2; their mean (0.5 + 0.75) / 2. Seed 2 of
    # the clean task has no partner.
    scores = {"clean": [1.0, 3.0, 100.0], "noise": [1.0, 1.0], "turned": [0.0, 3.0]}
    results = [result(name, "a", seed, each) for name, values in scores.items() for seed, each in enumerate(values)]
    rows = {row["task"]: row for row in kept(TASKS, results, ["a"], resamples=500)}
    assert rows["noise"]["kept"] == pytest.approx(0.5)
    assert (rows["noise"]["score"], rows["noise"]["control_score"], rows["noise"]["seeds"]) == (1.0, 2.0, [0, 1])
    assert rows["turned"]["kept"] == pytest.approx(0.75)
    assert rows[None]["kept"] == pytest.approx(0.625)
    # resamples of two seeds are (1, 1), (1, 3), (3, 3) of the clean task: ratios of 1 / 1, 1 / 2 and 1 / 3
    assert (rows["noise"]["low"], rows["noise"]["high"]) == (pytest.approx(1 / 3), pytest.approx(1.0))


def test_the_table_has_a_column_for_each_algorithm_and_means_by_kind() -> None:
    results = [result(name, algorithm, 0, 0.5) for name in TASKS for algorithm in ("a", "b")]
    lines = kept_table(kept(TASKS, results[:-1], ["a", "b"], resamples=10))
    assert "| **clean** | 0.50 | 0.50 |" in lines
    assert "| noise | 0.50, 100 % | 0.50, 100 % |" in lines
    assert "| turned | 0.50, 100 % |  |" in lines
    assert "| mean of random | 100 % | 100 % |" in lines
    assert kept_table([]) == []


def test_the_attackers_folder_stands_in_the_words_and_its_settings_in_the_hash(configs, tmp_path) -> None:
    one, other = plan(configs, tmp_path / "one"), plan(configs, tmp_path / "other")
    runs = {run.task: run for run in one.runs}
    (attacker,) = one.attackers
    assert f"datasets.offline.corruption.attacker='{attacker.folder}'" in runs["attacked"].words
    assert [run.hash for run in one.runs] == [run.hash for run in other.runs]
    (configs / "suite" / "tiny.yaml").write_text(SUITE.replace("critic_count=2", "critic_count=3"))
    changed = {run.task: run for run in plan(configs, tmp_path / "one").runs}
    assert changed["attacked"].hash != runs["attacked"].hash
    assert changed["turned"].hash == runs["turned"].hash
    assert plan(configs, tmp_path, "tasks=[clean,turned]").attackers == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("suite.tasks.turned.control=klean", "control=klean: did you mean 'clean'"),
        ("suite.tasks.turned.control=attacked", "a control has no control of its own"),
        ("suite.tasks.turned.reference=100.0", "the same random and reference"),
    ],
)
def test_controls_and_attackers_that_cannot_be_are_refused(word: str, message: str, configs, tmp_path) -> None:
    with pytest.raises(InputError, match=message):
        plan(configs, tmp_path, word)


def test_an_attacked_task_without_attacker_is_refused(configs, tmp_path) -> None:
    (configs / "suite" / "tiny.yaml").write_text(SUITE.replace("attackers:\n  random:", "attackers:\n  other:"))
    with pytest.raises(InputError, match=r"no suite\.attackers\.random"):
        plan(configs, tmp_path)


@pytest.mark.slow
def test_a_suite_trains_its_attacker_and_tables_what_is_kept(configs, tmp_path) -> None:
    words = ["benchmark", "suite=tiny", f"output={tmp_path / 'out'}", "--config-dir", str(configs)]
    assert main(words) == 0
    table = json.loads((tmp_path / "out" / "tables" / "tiny" / "table.json").read_text())
    assert {row["task"] for row in table["kept"]} == {"turned", "attacked", None}
    assert "What is kept of the control" in (tmp_path / "out" / "tables" / "tiny" / "table.md").read_text()
    facts = json.loads((tmp_path / "out/runs/tiny/attacked/iql/seed_0/run.json").read_text())["datasets"]["offline"]
    assert facts["corruption"]["transitions"] > 0


def test_the_corruption_suite_compares_every_element_with_the_clean_data() -> None:
    suite = Plan(compose("benchmark", ["suite=corruption"])).suite
    kinds = {
        (word.split("=")[1], task.kind) for task in suite.tasks.values() for word in task.train if ".element=" in word
    }
    elements = ("observation", "action", "reward", "dynamics")
    assert kinds == {(element, kind) for element in elements for kind in ("random", "adversarial")}
    assert {"iql", "riql", "rorl"} <= set(suite.algorithms)
