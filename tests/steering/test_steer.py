"""The critic decides where all goes well; else the policy's own action is executed, in time, and the log says why."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scripted import HIGH, LOW, Proposer, Rig, Scorer, spec

from robot_rl.clock import FakeClock, MonotonicClock
from robot_rl.errors import InputError
from robot_rl.steering.policy import REPEATED, STILL, TAIL, SteeredPolicy, hold
from robot_rl.steering.proposals import Deadline, Perturbation, ProposerError
from robot_rl.steering.selection import ValueSelector
from robot_rl.steering.worker import Threaded, TooLate

NOTHING: dict[str, np.ndarray] = {}


def test_the_best_candidate_is_executed_and_logged(rig: Rig) -> None:
    kept: list[Any] = []
    rig.proposer.takes_s, rig.scorer.takes_s = 0.01, 0.002
    decision = rig.steerer(keep=kept.append).decide(NOTHING)
    np.testing.assert_allclose(decision.actions, np.tile([0.2, 0.5], (3, 1)))
    record = decision.record
    assert kept == [record]
    assert (record.reason, record.chosen, record.chosen_kind, record.candidates) == ("steered", 2, "sample", 4)
    assert (record.distinct, record.perturbed, record.unsupported) == (4, 0, 0)
    # Values are -1, -1.5, -0.2, -0.8: two are above that of the base action.
    assert record.base_value == pytest.approx(-1.0)
    assert record.chosen_value == pytest.approx(-0.2)
    assert (record.base_rank, record.value_spread) == (2, pytest.approx(1.3))
    assert record.value_mean == pytest.approx(-0.875)
    assert record.effective_count == pytest.approx(1)
    assert (record.propose_ms, record.score_ms, record.total_ms) == pytest.approx((40.0, 2.0, 42.0))


def test_one_candidate_is_the_policy_alone(rig: Rig) -> None:
    decision = rig.steerer(candidates=1).decide(NOTHING)
    np.testing.assert_array_equal(decision.actions, np.tile([1.0, 0.5], (3, 1)))
    assert decision.record.reason == "one_candidate"
    assert rig.scorer.encoded == 0


def test_the_observation_is_encoded_once_for_all_candidates(rig: Rig) -> None:
    rig.steerer(candidates=16).decide(NOTHING)
    assert rig.scorer.encoded == 1
    assert rig.scorer.judged[0].shape == (16, 3, 2)


def test_a_critic_of_one_step_sees_the_first_of_each_chunk_and_whole_chunks_are_executed(rig: Rig) -> None:
    rig.scorer.spec = spec(chunk=1)
    decision = rig.steerer(score_steps=1).decide(NOTHING)
    assert rig.scorer.judged[0].shape == (4, 1, 2)
    assert decision.actions is not None
    assert decision.actions.shape == (3, 2)


def test_actions_of_another_kind_are_refused_before_the_first_decision(rig: Rig) -> None:
    rig.scorer.spec = spec(gripper="open=1,close=0")
    with pytest.raises(InputError, match="gripper"):
        rig.steerer()


def broken(rig: Rig) -> None:
    rig.scorer.error = RuntimeError("out of memory")


def not_a_number(rig: Rig) -> None:
    rig.scorer.values = [float("nan"), 1.0, 1.0, 1.0]


def of_wrong_shape(rig: Rig) -> None:
    rig.scorer.values = [1.0, 2.0]


def outside(rig: Rig) -> None:
    rig.proposer.rows[0] = [2.5, 0.5]


def slow_critic(rig: Rig) -> None:
    rig.scorer.takes_s = 0.2


def slow_policy(rig: Rig) -> None:
    rig.proposer.takes_s = 0.2


def fails_at_the_second(rig: Rig) -> None:
    rig.proposer.error, rig.proposer.fails_at = ProposerError("connection lost"), 1


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        (broken, "scorer", "out of memory"),
        (not_a_number, "not_finite", None),
        (of_wrong_shape, "scorer", "shape"),
        (outside, "out_of_support", None),
        (slow_critic, "deadline", "too late"),
        (slow_policy, "deadline", None),
        (fails_at_the_second, "proposer", "connection lost"),
    ],
)
def test_a_failure_leaves_the_policys_own_action(
    rig: Rig, fault: Callable[[Rig], None], reason: str, words: str | None
) -> None:
    fault(rig)
    steerer = rig.steerer()
    decision = steerer.decide(NOTHING, deadline_s=0.1)
    np.testing.assert_array_equal(decision.actions, np.tile(rig.proposer.rows[0], (3, 1)))
    assert (decision.record.reason, decision.record.chosen) == (reason, 0)
    assert words is None or words in str(decision.record.error)
    assert steerer.counts == {reason: 1}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"error": ProposerError("time-out")}, "time-out"),
        ({"error": OSError("no route")}, "OSError: no route"),
        ({"rows": [[float("nan"), 0.5]]}, "not finite"),
        ({"answers_to": 41}, "observation 41, not to 0"),
    ],
)
def test_without_an_action_of_the_policy_there_is_none(rig: Rig, fault: dict[str, Any], words: str) -> None:
    vars(rig.proposer).update(fault)
    decision = rig.steerer().decide(NOTHING)
    assert decision.actions is None
    assert decision.record.reason == "proposer"
    assert words in str(decision.record.error)


def test_a_sample_that_is_no_number_or_unknown_to_the_critic_is_left_out(rig: Rig) -> None:
    rig.proposer.rows = [[1.0, 0.5], [float("nan"), 0.5], [0.0, 3.0], [0.9, 0.5]]
    decision = rig.steerer().decide(NOTHING)
    assert (decision.record.reason, decision.record.chosen, decision.record.unsupported) == ("steered", 3, 1)


def test_candidates_that_came_before_the_deadline_are_used(rig: Rig) -> None:
    rig.proposer.takes_s = 0.03  # the third ends at 0.09
    decision = rig.steerer().decide(NOTHING, deadline_s=0.1)
    assert decision.record.candidates == 4
    assert decision.record.reason == "deadline"  # the fourth was begun in time, but ended at 0.12
    rig.proposer.takes_s = 0.024
    assert rig.steerer().decide(NOTHING, deadline_s=0.1).record.reason == "steered"


@pytest.mark.parametrize("declared", [True, False])
def test_a_policy_that_always_answers_alike_is_found_out_and_perturbed(rig: Rig, declared: bool) -> None:
    rig.proposer.rows, rig.proposer.stochastic = [[1.0, 0.5]], not declared
    decision = rig.steerer(candidates=16, perturbation=Perturbation(deviation=0.2)).decide(NOTHING)
    record = decision.record
    assert rig.proposer.asked == [1 if declared else 16]
    assert (record.distinct, record.perturbed, record.candidates) == (1, 15, 16)
    assert record.chosen_kind == "perturbed"
    assert record.chosen_value is not None
    assert record.chosen_value > -1.0
    judged = rig.scorer.judged[0]
    np.testing.assert_allclose(judged[0], np.tile([1.0, 0.5], (3, 1)))
    assert ((judged >= LOW) & (judged <= HIGH)).all()


def test_perturbations_are_drawn_around_the_samples_and_the_gripper_is_voted_on() -> None:
    ours, rows = spec(), np.array([[0.4, 1.0], [0.6, 1.0], [0.5, 0.0]])
    samples = np.tile(rows[:, None], (1, 3, 1))
    drawing = Perturbation(deviation=0.05, discrete=(1,))
    drawn = drawing.around(samples, 4000, ours, torch.Generator().manual_seed(0))
    assert (drawn[:, :, 1] == 1.0).all()
    # Samples deviate by 0.0816 units, 0.0408 normalised: less than 0.05, which is 0.1 units.
    assert drawn[:, 0, 0].mean() == pytest.approx(0.5, abs=0.01)
    assert drawn[:, 0, 0].std() == pytest.approx(0.1, rel=0.05)
    np.testing.assert_array_equal(drawn[:, 0, 0], drawn[:, 2, 0])  # a chunk moves as a whole


@pytest.mark.parametrize(("sign", "better"), [(1.0, True), (-1.0, False)])
def test_an_oracle_lifts_a_noisy_policy_with_every_candidate_and_an_anti_oracle_lowers_it(
    sign: float, better: bool
) -> None:
    random = np.random.default_rng(0)
    clock, mean = FakeClock(), []
    for count in (1, 4, 16):
        distances = []
        for _ in range(200):
            rows = np.column_stack([random.uniform(-2, 2, count), np.full(count, 0.5)]).tolist()
            scorer = Scorer(clock=clock, values=[-sign * abs(row[0]) for row in rows])
            rig = Rig(clock=clock, proposer=Proposer(rows=rows, clock=clock), scorer=scorer)
            generator = torch.Generator().manual_seed(0)
            actions = rig.steerer(selector=ValueSelector(rule="argmax"), generator=generator).decide(NOTHING).actions
            assert actions is not None
            distances.append(abs(float(actions[0, 0])))
        mean.append(np.mean(distances))
    assert (mean[0] > mean[1] > mean[2]) if better else (mean[0] < mean[1] < mean[2])


# --- the policy


def test_steering_happens_where_a_chunk_begins_and_the_proposer_learns_what_was_played(rig: Rig) -> None:
    policy = SteeredPolicy(steerer=rig.steerer(), execute=2)
    policy.reset()
    for _ in range(5):
        np.testing.assert_allclose(policy.act(NOTHING), [0.2, 0.5])
    assert rig.scorer.encoded == 3
    assert [len(each) for each in rig.proposer.committed] == [2, 2, 2]
    with pytest.raises(InputError, match="execute=4"):
        SteeredPolicy(steerer=rig.steerer(), execute=4)


def test_without_an_answer_the_chunk_is_played_to_its_end_and_then_the_robot_stands_still(rig: Rig) -> None:
    policy = SteeredPolicy(steerer=rig.steerer(), execute=1)
    policy.reset()
    policy.act(NOTHING)
    rig.proposer.error = ProposerError("gone")
    acted = [policy.act(NOTHING).tolist() for _ in range(4)]
    assert acted == [[0.2, 0.5], [0.2, 0.5], [0.0, 0.0], [0.0, 0.0]]
    assert policy.held == {TAIL: 2, STILL: 2}
    rig.proposer.error = None
    np.testing.assert_allclose(policy.act(NOTHING), [0.2, 0.5])


def test_what_halts_a_robot_depends_on_what_its_commands_mean(rig: Rig) -> None:
    last = np.array([0.3, 0.4])
    assert hold("osc_pose_delta", last, spec()) is not None
    kept = hold("joint_position_target", last, spec())
    assert kept is not None
    assert (kept[0].tolist(), kept[1]) == ([0.3, 0.4], REPEATED)
    assert hold("joint_position_target", None, spec()) is None
    assert hold("actuator_control", last, spec()) is None
    rig.proposer.spec = rig.scorer.spec = spec(semantics="actuator_control")
    rig.proposer.error = ProposerError("gone")
    with pytest.raises(ProposerError, match=r"gone.*'actuator_control'.*stop the robot"):
        SteeredPolicy(steerer=rig.steerer()).act(NOTHING)


# --- beside the caller


def test_work_that_hangs_costs_no_more_than_the_deadline_and_later_work_does_not_wait_for_it(rig: Rig) -> None:
    gate, clock, worker = threading.Event(), MonotonicClock(), Threaded()

    def hangs(encoded: str, actions: np.ndarray) -> None:
        gate.wait(20)

    vars(rig.scorer)["score"] = hangs
    steerer = rig.steerer(clock=clock, worker=worker)
    try:
        for words in ("not enough time to score", "still running"):
            start = clock.now_ns()
            decision = steerer.decide(NOTHING, deadline_s=0.1)
            assert (clock.now_ns() - start) * 1e-9 < 5.0
            assert decision.record.reason == "deadline"
            assert words in str(decision.record.error)
        assert decision.actions is None  # the second time not even the policy could be asked
    finally:
        gate.set()
        worker.close()


def test_the_workers_result_and_errors_are_the_calls() -> None:
    worker, never = Threaded(), Deadline(clock=MonotonicClock())
    try:
        assert worker.run(lambda: 3, never, "count") == 3
        with pytest.raises(KeyError):
            worker.run(lambda: {}["x"], never, "look")
        with pytest.raises(TimeoutError, match="its own"):
            worker.run(_times_out, never, "wait")
        with pytest.raises(TooLate, match="no time was left to count"):
            worker.run(lambda: 3, Deadline.after(MonotonicClock(), 0.0), "count")
    finally:
        worker.close()


def _times_out() -> None:
    raise TimeoutError("its own")
