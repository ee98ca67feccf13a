"""The protocol of sim-to-real: which phase acts where, what the scale is measured on, and the numbers of its table."""

import json

import pytest
from benchmark_results import made

from robot_rl.apps.benchmark_data import identified_words
from robot_rl.apps.benchmark_estimate import Estimator
from robot_rl.apps.benchmark_plan import Plan, anchors
from robot_rl.apps.benchmark_result import Point, Result, _curve, _judges
from robot_rl.apps.benchmark_table import _warnings
from robot_rl.apps.benchmark_transfer import closed, steps_to, tail_mean, transfer, transfer_table
from robot_rl.apps.build_environment import on_robot
from robot_rl.apps.compose import compose
from robot_rl.apps.report_read import Event
from robot_rl.errors import InputError


def result(algorithm: str, seed: int, before: float, after: float, *, task: str = "cheetah_B") -> Result:
    return made(
        task,
        algorithm,
        seed,
        curve=(
            Point(step=0, score=before),
            Point(step=1000, score=(before + after) / 2),
            Point(step=2000, score=after),
        ),
        last_episodes=(after - 0.3, after, after, after + 0.3),
        limit_hits=100.0 * after,
        offline=before,
        final=after,
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
    after = config["cheetah_B", "zero_shot"]
    assert (after.phases["offline"].steps, after.phases["online"].shares) == (0, {"robot": 0.5, "online": 0.5})


@pytest.fixture(scope="module")
def whole() -> Plan:
    return Plan(
        compose(
            "benchmark",
            [
                "suite=sim2real",
                "output=x",
                "seeds=[0,1]",
                "tasks=[cheetah_B,cheetah_C,pendulum_B]",
                "algorithms=[zero_shot,randomized,identified,hybrid]",
            ],
        )
    )


def test_what_comes_before_the_switch_is_made_once_for_all_robots_of_a_simulator(whole) -> None:
    runs = {(run.task, run.algorithm, run.seed): run for run in whole.runs}
    one, other = (runs[task, "zero_shot", 0].begins for task in ("cheetah_B", "cheetah_C"))
    assert one == other
    assert f"start_from='{one.folder}'" in runs["cheetah_B", "zero_shot", 0].words
    begun = {
        name: runs[name].begins.folder
        for name in (
            ("cheetah_B", "zero_shot", 1),
            ("cheetah_B", "randomized", 0),
            ("pendulum_B", "zero_shot", 0),
            ("cheetah_B", "zero_shot", 0),
        )
    }
    assert len(set(begun.values())) == 4
    assert not any("proxy" in word or "datasets" in word for word in one.words)
    assert "phases.offline.interact=policy" in one.words
    assert runs["cheetah_B", "hybrid", 0].begins is None
    assert len({run.hash for run in whole.runs}) == len(whole.runs)


def test_the_identified_simulator_is_of_the_robots_data_and_goes_into_the_runs_words(whole, tmp_path) -> None:
    planned = next(run.identified for run in whole.runs if (run.task, run.algorithm) == ("cheetah_B", "identified"))
    assert planned.words[:2] == ("identify", str(whole.store("cheetah_B")))
    assert not any("proxy" in word for word in planned.words)
    assert identified_words(tmp_path) == []  # explained nothing better
    ranges = tmp_path / "environment" / "randomization" / "identified.yaml"
    ranges.parent.mkdir(parents=True)
    (tmp_path / "environment" / "identified.yaml").write_text("gap: {mass: 1.1, action_delay_s: 0.02}")
    ranges.write_text("fields: {mass: {uniform: [1.0, 1.2]}}")
    words = identified_words(tmp_path)
    config = compose("train", ["environment=half_cheetah", "algorithm=sac", *words])
    assert config.environment.gap.values() == {"mass": 1.1, "action_delay_s": 0.02}
    assert config.environment.randomization.fields == {"mass": {"uniform": [1.0, 1.2]}}


def test_a_row_whose_identification_explains_nothing_is_said_to_be_of_the_plain_simulator() -> None:
    runs = [made("cheetah_B", "identified", 0, identified=True), made("cheetah_B", "zero_shot", 0)]
    assert _warnings(runs) == []
    (warning,) = _warnings([*runs, made("cheetah_C", "identified", 0, identified=False)])
    assert "identified acted in the plain simulator of cheetah_C" in warning


def test_a_robot_may_be_the_nominal_model_of_an_edited_simulator() -> None:
    plan = Plan(
        compose(
            "benchmark",
            [
                "suite=sim2real_claim",
                "output=x",
                "algorithms=[zero_shot,h2o]",
                "tasks=[gravity,delay_20_ms,lag]",
                "seeds=[0]",
            ],
        )
    )
    assert plan.robot("gravity")[-1] == "environment.gap.action_bits=16"
    assert not any("gravity" in word for word in plan.robot("gravity"))
    config = plan._composed if plan.runs else {}
    gravity = config["gravity", "h2o"]
    assert gravity.environment.gap.values() == {"gravity": 2.0}
    assert on_robot(gravity.environment, gravity.evaluation).gap.values() == {"action_bits": 16}
    assert plan.environment("delay_20_ms")[-1] == "environment.gap.action_delay_s=0.02"
    assert [run.algorithm for run in plan.runs if run.task == "lag" and run.seed == 0] == ["zero_shot", "h2o"]


def test_what_judges_said_is_of_the_end_of_what_comes_before_the_switch() -> None:
    def line(phase: str, updates: int, **metrics: float) -> Event:
        named = {f"gap/{name}": value for name, value in metrics.items()} | {"critic/loss": 1.0}
        return Event(
            event="train",
            phase=phase,
            phase_index=0,
            phase_step=0,
            environment_steps=0,
            updates=updates,
            elapsed_s=0.0,
            metrics=named,
            fields={},
        )

    lines = [line("explore", 0), *(line("offline", step, trust=float(step > 2), auc=0.5) for step in (1, 2, 3, 4))]
    assert _judges([*lines, line("online", 5, trust=0.0)]) == {"trust": 1.0, "auc": 0.5}
    assert _judges([line("offline", 1)]) == {}


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
        ("suite.tasks.cheetah_B.algorithms=[h2]", "did you mean 'h2o'"),
        ("suite.tasks.cheetah_B.online_steps=50", r"suite\.tasks\.cheetah_B\.online_steps=50 must be at least 51"),
        ("suite.gates.offline=offline", "did you mean 'offline_only'"),
    ],
)
def test_suites_that_cannot_be_meant_are_refused(word, message) -> None:
    with pytest.raises(InputError, match=message):
        compose("benchmark", ["suite=sim2real_smoke", "output=x", word])
