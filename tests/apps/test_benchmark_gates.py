"""The gates of the transfer's protocol: which numbers they go by, and what they say where runs do not decide."""

import pytest
from benchmark_results import made

from robot_rl.apps.benchmark_gates import gates, gates_table
from robot_rl.apps.benchmark_result import Result
from robot_rl.benchmark_config import SuiteConfig
from robot_rl.errors import InputError

HYBRID = "h2o"


def suite(**tasks: dict) -> SuiteConfig:
    from robot_rl.benchmark_config import BenchmarkAlgorithmConfig, BenchmarkTaskConfig, GatesConfig, RecipeConfig

    return SuiteConfig(
        name="x",
        tasks={
            name: BenchmarkTaskConfig(
                **({"environment": [], "data": "d", "random": 0.0, "reference": 1.0, "proxy": "std_B"} | task)
            )
            for name, task in tasks.items()
        },
        algorithms={
            name: BenchmarkAlgorithmConfig(train=[]) for name in (HYBRID, "zero_shot", "randomized", "offline_only")
        },
        data={"d": RecipeConfig(ingest=["x"])},
        zero_shot="zero_shot",
        gates=GatesConfig(hybrids=[HYBRID], randomized="randomized", offline="offline_only"),
    )


def runs(task: str, algorithm: str, *scores: float, judges: dict | None = None) -> list[Result]:
    said = {} if judges is None else judges
    return [made(task, algorithm, seed, offline=score, judges=said) for seed, score in enumerate(scores)]


def cell(task: str, hybrid: float, *, zero: float = 0.4, randomized: float = 0.5, offline: float = 0.3) -> list[Result]:
    given = {HYBRID: hybrid, "zero_shot": zero, "randomized": randomized, "offline_only": offline}
    return [run for name, score in given.items() for run in runs(task, name, score, score)]


def found(configured: SuiteConfig, results: list[Result], kept: tuple = ()) -> dict[str, list[dict]]:
    rows = gates(configured, results, kept, 200)["gates"]
    return {name: [row for row in rows if row["gate"] == name] for name in ("a", "b", "c", "d", "claim")}


def test_a_gain_is_over_the_better_of_randomisation_and_data_on_two_cells_of_three() -> None:
    three = suite(one={}, two={}, three={})
    results = cell("one", 0.56) + cell("two", 0.36, randomized=0.2) + cell("three", 0.54)
    (gate,) = found(three, results)["b"]
    assert gate["value"] == pytest.approx(2 / 3)
    assert (gate["met"], gate["decided"]) == (True, True)
    (gate,) = found(three, cell("one", 0.56) + cell("two", 0.54) + cell("three", 0.54))["b"]
    assert gate["met"] is False


def test_a_cell_whose_gap_does_not_hurt_is_not_counted_as_a_gain_but_as_a_loss() -> None:
    two = suite(one={}, two={})
    results = cell("one", 0.6) + cell("two", 0.3, zero=0.9, offline=0.5)
    gate = found(two, results)
    assert gate["b"][0]["value"] == 1.0
    assert "of 1" in gate["b"][0]["what"]
    assert gate["c"][0]["value"] == pytest.approx(-0.2)
    assert "(two)" in gate["c"][0]["what"]
    assert gate["c"][0]["met"] is False


def test_the_claim_is_over_zero_shot_and_data_and_not_over_randomisation() -> None:
    (gate,) = found(suite(one={}), cell("one", 0.45))["claim"]
    assert (gate["value"], gate["met"]) == (1.0, True)
    (gate,) = found(suite(one={}), cell("one", 0.45, offline=0.46))["claim"]
    assert (gate["value"], gate["met"]) == (0.0, False)


def test_what_seeds_disagree_on_is_not_decided() -> None:
    results = [*runs("one", HYBRID, 0.2, 0.9, 0.7), *runs("one", "zero_shot", 0.4), *runs("one", "randomized", 0.4)]
    results += runs("one", "offline_only", 0.5)
    (gate,) = found(suite(one={}), results)["c"]
    assert gate["met"] is True
    assert gate["decided"] is False
    assert gate["low"] < -0.05 < gate["high"]
    assert any("**met**, not decided" in line for line in gates_table(gates(suite(one={}), results, (), 200)))


def test_where_the_simulator_is_the_robot_nothing_may_be_lost_or_told_apart() -> None:
    same = suite(same={"identity": True, "proxy": None, "gap": {"action_bits": 16}})
    calm = {"log_ratio_size": 0.1, "effective_share": 0.95}
    results = runs("same", HYBRID, 0.88, judges=calm) + runs("same", "zero_shot", 0.9)
    score, ratio, share = found(same, results)["a"]
    assert score["value"] == pytest.approx(-0.02)
    assert (score["met"], ratio["met"], share["met"]) == (True, True, True)
    loud = {"log_ratio_size": 0.2, "effective_share": 0.5}
    results = runs("same", HYBRID, 0.86, judges=loud) + runs("same", "zero_shot", 0.9)
    assert [gate["met"] for gate in found(same, results)["a"]] == [False, False, False]
    assert found(same, results)["b"][0]["met"] is None  # the control is no cell


def test_data_that_is_corrupted_costs_half_at_most() -> None:
    corrupted = suite(one={}, bad={"control": "one"})
    row = {"algorithm": "offline_only", "task": "bad", "kept": 0.45, "low": 0.3, "high": 0.6}
    mean = {"algorithm": "offline_only", "task": None, "kept": 0.9, "low": 0.9, "high": 0.9}
    (gate,) = found(corrupted, cell("one", 0.6), (row, mean))["d"]
    assert (gate["value"], gate["met"], gate["decided"]) == (0.45, False, False)
    assert "of 1" in found(corrupted, cell("one", 0.6) + cell("bad", 0.1))["b"][0]["what"]  # no cell either
    better = suite(one={}, good={"algorithms": ["offline_only"]}, bad={"control": "good"})
    assert better.cells == ["one"]  # on the robot's data alone nothing is transferred


def test_without_learners_to_judge_there_are_no_gates() -> None:
    assert gates(SuiteConfig(), [], (), 10) == {}
    assert gates_table({}) == []


def test_what_is_not_run_yet_is_not_measured() -> None:
    (gate,) = found(suite(one={}), runs("one", HYBRID, 0.5))["b"]
    assert gate["met"] is None
    assert any("not measured" in line for line in gates_table(gates(suite(one={}), runs("one", HYBRID, 0.5), (), 10)))


def test_gates_of_algorithms_that_are_not_there_are_refused() -> None:
    from robot_rl.benchmark_config import BenchmarkAlgorithmConfig, GatesConfig

    with pytest.raises(InputError, match=r"suite\.gates names 'h2': did you mean 'h2o'"):
        SuiteConfig(
            algorithms={"h2o": BenchmarkAlgorithmConfig(train=[])}, gates=GatesConfig(hybrids=["h2"], randomized="h2o")
        )
