"""Every way of dying ends in its declared state within its declared time, in fake time."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import MS, Rig, at_rest, bound_s

from robot_rl.hardware.states import State

SILENCES = {
    "robot": ("observation_stop_s", "no new joint states"),
    "heartbeat": ("heartbeat_stop_s", "no heartbeat of policy"),
    "policy": ("command_stop_s", "no command of policy"),
    "permit": ("permit_stop_s", "no permit of the operator"),
    "wrench": ("observation_stop_s", "no wrench"),
}


@pytest.mark.parametrize("who", SILENCES)
@pytest.mark.parametrize("silence_s", [0.2, 2.0, math.inf])
def test_silence_ends_as_declared(who: str, silence_s: float) -> None:
    rig = Rig().armed()
    dog, cause = SILENCES[who]
    allowed_s = getattr(rig.robot.watchdogs, dog)
    rig.silent.add(who)
    period_s = {"heartbeat": 0.05, "policy": 0.05, "permit": 0.1}.get(who, 0.005)
    if silence_s + period_s < allowed_s:
        rig.run(silence_s)
        rig.silent.clear()
        rig.run(0.5)
        assert rig.state is State.ACTIVE
        assert rig.outputs[-1].source == "policy"
    else:
        took = rig.seconds_until(lambda: at_rest(rig))
        assert took <= bound_s(rig, allowed_s)
        assert rig.state is State.FAULT
        assert cause in rig.governor.causes[0]
        if silence_s < math.inf:
            rig.run(max(silence_s - took, 0))
            rig.silent.clear()
        standing = rig.measured
        rig.run(3.0)
        assert rig.state is State.FAULT  # it does not come back by itself
        assert rig.measured == standing
        assert rig.outputs[-1].sent is None
    rig.assert_within_limits()


def test_a_silent_policy_makes_the_robot_hold_and_it_goes_on_when_the_policy_does() -> None:
    rig = Rig().armed()
    rig.silent.add("policy")
    took = rig.seconds_until(lambda: rig.outputs[-1].source == "hold" and rig.speed() == 0)
    assert took <= bound_s(rig, rig.robot.watchdogs.command_hold_s)
    assert rig.state is State.ACTIVE
    rig.silent.clear()
    rig.run(0.1)
    assert rig.outputs[-1].source == "policy"
    rig.assert_within_limits()


@pytest.mark.parametrize("silence_s", [0.2, 2.0])
def test_a_governor_that_hung_stops_the_robot_when_it_goes_on(silence_s: float) -> None:
    rig = Rig().armed()
    rig.silent.add("governor")
    rig.run(silence_s)
    rig.silent.clear()
    assert rig.seconds_until(lambda: at_rest(rig)) <= bound_s(rig, 0)
    assert rig.state is State.FAULT
    assert "missed" in rig.governor.causes[0]
    assert rig.governor.missed == round(silence_s / 0.005)
    rig.assert_within_limits()


def test_a_few_missed_periods_are_counted_and_nothing_else() -> None:
    rig = Rig().armed()
    rig.silent.add("governor")
    rig.run(0.015)
    rig.silent.clear()
    rig.run(0.5)
    assert rig.state is State.ACTIVE
    assert rig.outputs[-1].missed == 3
    rig.assert_within_limits()


def test_a_second_tick_in_a_period_sends_nothing() -> None:
    rig = Rig().armed()
    assert rig.governor.tick(rig.now + MS).sent is None
    assert rig.governor.early == 1
    rig.run(0.1)
    rig.assert_within_limits()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_commands_that_are_no_numbers_are_refused_and_the_third_in_a_row_stops(value: float) -> None:
    rig = Rig().armed()
    rig.policy = lambda rig: [value] * 7
    took = rig.seconds_until(lambda: at_rest(rig))
    assert took <= bound_s(rig, 3 * 0.05)
    assert rig.state is State.FAULT
    assert rig.governor.causes == ["3 invalid commands in a row, the last because it holds NaN or infinity"]
    rig.assert_within_limits()


def test_one_broken_command_among_good_ones_changes_nothing() -> None:
    rig = Rig().armed()
    for _ in range(10):
        assert rig.command([math.nan] * 7) == "it holds NaN or infinity"
        rig.run(0.1)
    assert rig.state is State.ACTIVE
    assert rig.governor.refused["invalid"] == 10


def test_a_flood_stops_the_robot() -> None:
    rig = Rig().armed()
    for _ in range(200):
        rig.run(0.005)
        rig.command(rig.wave())
    assert rig.state is State.FAULT
    assert "floods" in rig.governor.causes[0]
    rig.assert_within_limits()


def test_commands_that_answer_old_joint_states_are_refused_and_stop_the_robot() -> None:
    rig = Rig().armed()
    old = rig.stamp_ns
    rig.run(0.3)
    rig.silent.add("policy")
    assert "0.300 s old" in str(rig.command(rig.wave(), stamp_ns=old))
    assert "did not arrive here" in str(rig.command(rig.wave(), stamp_ns=old + 10**15))
    assert rig.state is State.ACTIVE
    assert rig.command(rig.wave(), stamp_ns=0)
    assert rig.seconds_until(lambda: at_rest(rig)) <= bound_s(rig, 0)
    assert "3 invalid commands" in rig.governor.causes[0]


def test_a_command_that_answers_older_joint_states_than_the_last_is_refused() -> None:
    rig = Rig().armed()
    before = rig.stamp_ns - 5 * MS
    assert rig.command(rig.wave()) is None
    assert "older joint states than the command before" in str(rig.command(rig.wave(), stamp_ns=before))


@pytest.mark.parametrize("jump_s", [-3600.0, -1.0, 1.0, 3600.0])
def test_a_jump_of_the_robots_clock_stops_and_a_new_run_is_possible(jump_s: float) -> None:
    rig = Rig().armed()
    rig.stamp_offset_ns += round(jump_s * 1e9)
    rig.policy = lambda rig: list(rig.measured)
    assert rig.seconds_until(lambda: at_rest(rig)) <= bound_s(rig, rig.robot.watchdogs.observation_stop_s)
    assert rig.state is State.FAULT
    assert ("jumped ahead" if jump_s > 0 else "set back") in rig.governor.causes[0]
    rig.run(0.5)
    assert rig.governor.clear() is None
    assert rig.governor.arm(rig.now) is None
    rig.run(0.2)
    assert rig.state is State.ACTIVE


def test_our_own_clock_going_back_stops() -> None:
    rig = Rig().armed()
    rig.clock.time_ns -= 10**9
    rig.take(rig.governor.tick(rig.now))
    assert rig.state is State.STOPPING
    assert "our clock went back by 1.000 s" in rig.governor.causes[0]
    rig.seconds_until(lambda: at_rest(rig))
    rig.assert_within_limits()


def test_frozen_stamps_are_silence() -> None:
    rig = Rig().armed()
    rig.silent.add("robot")
    for _ in range(100):
        rig.governor.on_joint_states(rig.robot.names, rig.measured, [], [], rig.stamp_ns, rig.now)
        rig.run(0.005)
    assert rig.state is State.FAULT
    assert "no new joint states" in rig.governor.causes[0]


def test_joint_states_that_do_not_change_while_the_command_moves_stop_the_robot() -> None:
    rig = Rig(policy=lambda rig: [x + 0.3 * math.sin(rig.now / 1e9) for x in rig.home]).armed()
    rig.stuck = set(range(7))
    rig.seconds_until(lambda: at_rest(rig))
    assert "have not changed" in rig.governor.causes[0]


def test_a_robot_that_stood_still_for_long_may_begin_to_move_late() -> None:
    moving = False

    def policy(rig: Rig) -> list[float]:
        return [x + (0.03 if moving else 0.0) for x in rig.home]

    rig = Rig(policy=policy).armed()
    rig.run(3.0)
    moving, rig.stuck = True, set(range(7))
    rig.seconds_until(lambda: rig.positions[-1] != rig.home)
    rig.run(rig.robot.watchdogs.frozen_s * 0.8)
    assert rig.positions[-1][0] - rig.home[0] > 0.011  # a tenth of `tracking`
    rig.stuck = set()
    rig.run(1.0)
    assert rig.state is State.ACTIVE, rig.governor.causes
    assert rig.measured[0] - rig.home[0] == 0.03


def test_a_joint_that_does_not_follow_stops_the_robot() -> None:
    rig = Rig(policy=lambda rig: [x + 0.15 * math.sin(rig.now / 1e9) for x in rig.home]).armed()
    rig.stuck = {2}
    rig.seconds_until(lambda: at_rest(rig))
    assert "panda_joint3 is at" in rig.governor.causes[0]
    rig.assert_within_limits()


def test_a_collision_stops_the_robot() -> None:
    rig = Rig().armed()
    rig.force_N = 80.0
    assert rig.seconds_until(lambda: at_rest(rig)) <= bound_s(rig, 0.005)
    assert "a force of 80 N, beyond 40" in rig.governor.causes[0]


def test_an_effort_beyond_its_limit_stops_the_robot() -> None:
    rig = Rig().armed()
    rig.clock.advance(0.001)
    rig.governor.on_joint_states(
        rig.robot.names, rig.measured, [], [0, 0, 0, 88.0, 0, 0, 0], rig.stamp_ns + MS, rig.now
    )
    assert rig.state is State.STOPPING
    assert rig.governor.causes == ["panda_joint4 measures an effort of 88, beyond 87"]


def test_joint_states_that_are_no_numbers_are_silence() -> None:
    rig = Rig().armed()
    rig.measured = [math.nan] * 7
    rig.silent.add("policy")
    rig.run(0.005)
    assert rig.governor.joint_states.ignored == 1
    assert all(map(math.isfinite, rig.governor.joint_states.position))


@pytest.mark.parametrize("state", list(State))
def test_the_operators_stop_works_in_every_state(state: State) -> None:
    rig = Rig()
    rig.run(0.2)
    if state is State.HOMING:
        rig.measured[0] += 0.3
        rig.run(0.2)
        assert rig.governor.home(rig.now) is None
        rig.run(0.3)
    elif state is State.ARMING:
        rig.governor.claim("policy", rig.now)
        rig.silent.add("policy")
        assert rig.governor.arm(rig.now) is None
        rig.run(0.1)
    elif state is not State.DISARMED:
        rig.armed()
        if state is State.TAKEOVER:
            rig.held, rig.person = True, [0.5] * 7
            rig.run(0.2)
        elif state is State.STOPPING:
            rig.governor.disarm(rig.now)
            rig.run(0.005)
        elif state is State.FAULT:
            rig.governor.stop("somebody", rig.now)
            rig.run(1.0)
    assert rig.state is state
    rig.governor.stop("the operator", rig.now)
    assert rig.seconds_until(lambda: at_rest(rig)) <= bound_s(rig, 0)
    assert rig.state is State.FAULT
    assert "the operator pressed stop" in rig.governor.causes
    rig.run(1.0)
    assert rig.state is State.FAULT


def test_the_latch_is_left_by_a_person_and_everything_is_checked_again() -> None:
    rig = Rig().armed()
    rig.silent.add("permit")
    rig.run(1.0)
    assert rig.state is State.FAULT
    assert "fault" in str(rig.governor.arm(rig.now))
    assert "fault" in str(rig.governor.home(rig.now))
    assert rig.governor.clear() is None
    assert rig.governor.clear() == "the governor is disarmed, not in fault"
    assert "no permit" in str(rig.governor.arm(rig.now))
    rig.silent.clear()
    rig.run(0.2)
    assert rig.governor.arm(rig.now) is None
