"""The protocol of sim-to-real: which phase acts where, what the scale is measured on, and the numbers of its table."""

import json
from pathlib import Path

import pytest

from robot_rl.apps.benchmark_estimate import Estimator
from robot_rl.apps.benchmark_plan import Plan, anchors
from robot_rl.apps.benchmark_result import Point, Result, _curve
from robot_rl.apps.benchmark_transfer import closed, steps_to, tail_mean, transfer, transfer_table
from robot_rl.apps.compose import compose
from robot_rl.errors import InputError


def result(algorithm: str, seed: int, before: float, after: float, *, task: str = "cheetah_B") -> Result:
    return Result(
        path=Path("x"),
        suite="sim2real",
        task=task,
        algorithm=algorithm,
        seed=seed,
        hash="",
        commit=None,
        data_sha256="",
        scale=(0.0, 1.0),
        curve=(
            Point(step=0, score=before),
            Point(step=1000, score=(before + after) / 2),
            Point(step=2000, score=after),
        ),
        last_episodes=(after - 0.3, after, after, after + 0.3),
        limit_hits=100.0 * after,
        offline=before,
        final=after,
        regret=0.0,
        dip_depth=None,
        recovery_step=None,
        cpu_s=1.0,
        wall_s=1.0,
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(compose("benchmark", ["suite=sim2real_smoke", "output=x", "algorithms=[h2o,zero_shot]"]))


# Numbers --------------------------------------------------------------------------------------------------------------
def test_the_share_of_the_gap_is_between_the_zero_shot_policy_and_the_reference() -> None:
    assert closed(0.7, 0.4) == pytest.approx(0.5)
    assert closed(0.1, 0.4) == pytest.approx(-0.5)
    assert closed(0.7, None) is None
    assert closed(0.7, 1.1) is None


def test_the_tail_is_the_worst_quarter_and_at_least_one_episode() -> None:
    assert tail_mean([5.0, 1.0, 2.0, 9.0, 8.0, 7.0, 6.0, 3.0]) == pytest.approx(1.5)
    assert tail_mean([3.0, 1.0]) == 1.0


def test_steps_to_enough_are_those_of_the_first_evaluation_that_reaches_it() -> None:
    assert steps_to(result("h2o", 0, 0.5, 1.0)) == 2000  # 0.75 is not enough
    assert steps_to(result("h2o", 0, 0.7, 0.9)) == 1000
    assert steps_to(result("h2o", 0, 0.9, 0.9)) == 0
    assert steps_to(result("h2o", 0, 0.1, 0.2)) is None


def test_a_row_of_the_table_is_the_mean_over_runs(plan) -> None:
    runs = [result("zero_shot", seed, 0.4 + 0.1 * seed, 0.5) for seed in (0, 1)]  # base 0.45
    runs += [result("h2o", 0, 0.6, 0.9), result("h2o", 1, 0.7, 0.8)]
    rows = {row["algorithm"]: row for row in transfer(plan.suite, runs, Estimator(50))}
    assert rows["zero_shot"]["closed_before"]["value"] == pytest.approx(0.0)
    assert rows["h2o"]["before"]["value"] == pytest.approx(0.65)
    assert rows["h2o"]["closed_before"]["value"] == pytest.approx(0.2 / 0.55)
    assert rows["h2o"]["tail"]["value"] == pytest.approx(0.55)
    assert rows["h2o"]["limit_hits"]["value"] == pytest.approx(85.0)
    assert (rows["h2o"]["reached"], rows["h2o"]["steps_to_enough"]) == (2, 2000.0)
    table = transfer_table(list(rows.values()))
    assert any(line.startswith("| h2o | 2 | 0.65 [0.60, 0.70] |") for line in table)
    assert transfer_table([]) == []


def test_steps_count_from_the_switch_and_untrained_policies_are_no_score() -> None:
    def evaluation(phase: str, steps: int, score: float) -> dict:
        return {"phase": phase, "environment_steps": steps, "return": [score], "length": [50], "success": None}

    curve = [evaluation("explore", 100, -9.0), evaluation("offline", 300, 1.0), evaluation("warmup", 350, 3.0)]
    curve += [evaluation("online", 400, 4.0), evaluation("online", 450, 5.0)]
    points = _curve({"scale": {"random": 0.0, "reference": 1.0}, "score": "return", "curve": curve}, "x")
    assert [(point.step, point.score) for point in points] == [(0, 2.0), (100, 4.0), (150, 5.0)]


# Plan -----------------------------------------------------------------------------------------------------------------
def test_it_learns_in_the_simulator_and_then_on_the_robot(plan) -> None:
    config = plan._composed if plan.runs else {}
    phases = config["cheetah_B", "h2o"].phases
    assert list(phases) == ["explore", "offline", "warmup", "online"]
    assert [phase.robot for phase in phases.values()] == [False, False, True, True]
    assert phases["offline"].shares == {"offline": 0.5, "online": 0.5}
    assert config["cheetah_B", "h2o"].evaluation.proxy == "std_B"
    assert config["cheetah_B", "h2o"].environment.proxy is None
    assert config["cheetah_B", "zero_shot"].phases["offline"].shares == {"online": 1.0}


def test_data_and_scale_are_of_the_robot(plan, tmp_path) -> None:
    assert plan.environment("cheetah_B")[-1] == "environment.proxy='std_B'"
    assert plan.robot("cheetah_B")[-1] == "environment.proxy='std_B'"
    plan.folder = tmp_path
    with pytest.raises(InputError, match="random score of cheetah_B is not measured yet"):
        anchors(plan, "cheetah_B")
    for kind, score in (("random", -5.0), ("reference", 20.0)):
        folder = plan.anchor("cheetah_B", kind)
        folder.mkdir(parents=True)
        (folder / "evaluation.json").write_text(json.dumps({"metrics": {"return_mean": score}}))
    scale = anchors(plan, "cheetah_B")
    assert (scale["random"], scale["reference"]) == (-5.0, 20.0)
    (plan.anchor("cheetah_B", "reference") / "evaluation.json").write_text('{"metrics": {"return_mean": -6.0}}')
    with pytest.raises(InputError, match="there is no scale between"):
        anchors(plan, "cheetah_B")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("suite.zero_shot=zeroshot", "did you mean 'zero_shot'"),
        ("suite.tasks.cheetah_B.proxy=std_D", "did you mean 'std_C'"),
        ("suite.tasks.cheetah_B.reference_policy=null", "neither and a reference_policy"),
        ("suite.tasks.cheetah_B.random=1.0", "give random and reference, or neither"),
    ],
)
def test_suites_that_cannot_be_meant_are_refused(word, message) -> None:
    with pytest.raises(InputError, match=message):
        compose("benchmark", ["suite=sim2real_smoke", "output=x", word])
