"""The states, arming, authority, takeover, homing and chunks, in fake time."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import MS, Rig, at_rest, bound_s

from robot_rl.hardware.commands import Command
from robot_rl.hardware.states import MOVING, TRANSITIONS, Event, State

# The table


def test_every_state_is_left_and_only_a_person_leaves_fault() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State)
    assert [(event, after) for (state, event), after in TRANSITIONS.items() if state is State.FAULT] == [
        (Event.FAIL, State.FAULT),
        (Event.CLEAR, State.DISARMED),
    ]
    assert all((state, Event.FAIL) in TRANSITIONS for state in State)
    assert all(TRANSITIONS[state, Event.FAIL] is State.STOPPING for state in MOVING)


# Arming


def test_a_run_from_arming_to_disarming() -> None:
    rig = Rig().armed()
    assert rig.outputs[-1].source == "policy"
    assert rig.outputs[-1].answers_ns is not None
    assert not rig.outputs[-1].intervened
    rig.governor.disarm(rig.now)
    rig.seconds_until(lambda: at_rest(rig))
    assert rig.state is State.DISARMED
    rig.run(0.1)
    assert rig.outputs[-1].sent is None
    rig.assert_within_limits()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda rig: rig.silent.add("permit"), "no permit of the operator"),
        (lambda rig: rig.silent.add("heartbeat"), "no heartbeat of policy"),
        (lambda rig: rig.silent.add("robot"), "no joint states that are young enough"),
        (lambda rig: rig.silent.add("wrench"), "no wrench is measured"),
        (lambda rig: setattr(rig, "force_N", 100.0), "a force of 100 N, beyond 40"),
        (lambda rig: rig.measured.__setitem__(1, rig.home[1] + 0.15), "panda_joint2 is at -0.6354, not within 0.1"),
        (lambda rig: rig.measured.__setitem__(3, 0.5), "panda_joint4 is at 0.5"),
        (lambda rig: rig.governor.release("policy", rig.now), "nobody has claimed the robot"),
        (lambda rig: rig.governor.stop("x", rig.now), "the governor is fault: x pressed stop"),
    ],
)
def test_arming_is_refused_with_the_reason(break_it: Callable[[Rig], object], message: str) -> None:
    rig = Rig()
    rig.run(0.2)
    rig.governor.claim("policy", rig.now)
    break_it(rig)
    rig.run(1.0)
    refusal = rig.governor.arm(rig.now)
    assert refusal is not None
    assert message in refusal
    assert rig.state in (State.DISARMED, State.FAULT)
    assert all(output.sent is None for output in rig.outputs)


def test_a_robot_that_moves_is_not_armed() -> None:
    rig = Rig()
    rig.run(0.2)
    rig.governor.claim("policy", rig.now)
    rig.clock.advance(0.005)
    rig.governor.on_joint_states(
        rig.robot.names, rig.measured, [0.0, 0.1, 0, 0, 0, 0, 0], [], rig.stamp_ns + 5 * MS, rig.now
    )
    assert "panda_joint2 moves with 0.1 a second" in str(rig.governor.arm(rig.now))


def test_a_first_command_far_from_the_robot_is_refused_and_arming_ends() -> None:
    rig = Rig(policy=lambda rig: [x + 0.2 for x in rig.home])
    rig.run(0.2)
    rig.governor.claim("policy", rig.now)
    assert rig.governor.arm(rig.now) is None
    rig.run(0.5)
    assert rig.state is State.ARMING
    assert "too far from a first command" in str(rig.command([x + 0.2 for x in rig.home]))
    rig.seconds_until(lambda: at_rest(rig))
    assert rig.state is State.DISARMED
    assert rig.measured == rig.home
    assert rig.governor.refused["handover"] > 5


def test_joints_are_matched_by_name() -> None:
    rig = Rig()
    rig.run(0.1)
    names = ["gripper", *reversed(rig.robot.names)]
    rig.governor.on_joint_states(names, [9.0, *range(7)], [], [], rig.stamp_ns + 1, rig.now)
    assert rig.governor.joint_states.position == [6, 5, 4, 3, 2, 1, 0]


# Authority


def test_one_controller_commands_and_another_is_refused() -> None:
    rig = Rig().armed()
    far = [x + 0.5 for x in rig.home]
    before = rig.governor.refused["authority"]
    assert rig.governor.claim("other", rig.now) == "policy commands: release it first"
    for _ in range(100):
        assert rig.command(far, source="other") == "other has not claimed the robot"
        rig.governor.on_heartbeat("other", rig.now)
        rig.run(0.005)
    assert rig.state is State.ACTIVE
    assert rig.governor.refused["authority"] - before == 100
    assert max(abs(a - b) for a, b in zip(rig.measured, rig.home, strict=True)) < 0.06


def test_anothers_heartbeat_does_not_keep_a_dead_policy_alive() -> None:
    rig = Rig().armed()
    rig.silent |= {"heartbeat"}
    for _ in range(200):
        rig.governor.on_heartbeat("other", rig.now)
        rig.run(0.005)
    assert rig.state is State.FAULT


def test_a_release_while_moving_stops_and_another_may_then_claim() -> None:
    rig = Rig().armed()
    assert rig.governor.release("other", rig.now) == "other does not command"
    assert rig.governor.release("policy", rig.now) is None
    assert "claim it while it is disarmed" in str(rig.governor.claim("other", rig.now))
    rig.seconds_until(lambda: at_rest(rig))
    assert rig.state is State.DISARMED
    assert rig.governor.claim("other", rig.now) is None


# Takeover


def test_a_takeover_and_the_handover_back_are_bumpless() -> None:
    rig = Rig().armed()
    rig.held, rig.person = True, [0.4, 0, 0, 0, 0, 0, 0]
    rig.run(0.5)
    assert rig.state is State.TAKEOVER
    assert rig.outputs[-1].source == "person"
    assert rig.outputs[-1].intervened
    assert rig.measured[0] > 0.1
    rig.held = False
    rig.policy = lambda rig: list(rig.home)  # blind: it answers as if nobody had moved the robot
    rig.run(0.4)
    assert rig.state is State.ARMING
    assert rig.speed() == 0
    rig.policy = lambda rig: [x + 0.02 for x in rig.measured]
    rig.run(0.2)
    assert rig.state is State.ACTIVE
    assert rig.outputs[-1].source == "policy"
    rig.assert_within_limits()


def test_a_command_from_before_the_handover_does_not_take_the_robot_back() -> None:
    rig = Rig().armed()
    rig.held = True
    rig.run(0.3)
    before, rig.held = rig.stamp_ns, False
    rig.silent.add("policy")
    rig.seconds_until(lambda: rig.state is State.ARMING and rig.speed() == 0)
    assert "before the handover" in str(rig.command(rig.measured, stamp_ns=before))
    assert rig.command(rig.measured) is None
    assert rig.state is State.ACTIVE


def test_a_device_with_positions_of_its_own_does_not_make_the_robot_jump() -> None:
    rig = Rig().armed()
    rig.silent.add("policy")
    rig.held = True
    rig.run(0.02)
    rig.silent.add("device")
    start, device = rig.measured, [7.0, -7.0, 3.0, 0.0, 0.0, 0.0, 0.0]
    for step in range(20):
        rig.governor.on_takeover(True, rig.now)
        assert rig.governor.on_person([x + 0.002 * step for x in device], False, rig.now) is None
        rig.run(0.02)
    moved = [a - b for a, b in zip(rig.measured, start, strict=True)]
    assert all(0.02 < x < 0.05 for x in moved)
    rig.assert_within_limits()


@pytest.mark.parametrize("silence_s", [0.2, 2.0, math.inf])
def test_a_silent_device_makes_the_robot_hold_and_then_stops_it(silence_s: float) -> None:
    rig = Rig().armed()
    rig.held, rig.person = True, [0.3] * 7
    rig.run(0.2)
    rig.silent.add("device")
    rig.run(min(silence_s, 0.6))
    dogs = rig.robot.watchdogs
    if silence_s < dogs.takeover_stop_s:
        assert rig.state is State.TAKEOVER
        assert rig.outputs[-1].source == "hold"
        rig.silent.clear()
        rig.run(0.1)
        assert rig.outputs[-1].source == "person"
    else:
        assert rig.seconds_until(lambda: at_rest(rig)) <= bound_s(rig, dogs.takeover_stop_s - 0.6)
        assert rig.state is State.FAULT
        assert "person's device" in rig.governor.causes[0]
    rig.assert_within_limits()


def test_a_second_device_cannot_take_the_robot_from_the_person_who_has_it() -> None:
    rig = Rig().armed()
    rig.held, rig.person = True, [0.1] * 7
    rig.run(0.2)
    for _ in range(50):
        assert rig.governor.on_takeover(False, rig.now, "another") == "device is the person's device"
        assert "with another" in str(rig.governor.on_person([-1.0] * 7, True, rig.now, "another"))
        rig.run(0.005)
    assert rig.state is State.TAKEOVER
    assert rig.measured[0] > rig.home[0]


def test_a_policy_that_dies_while_a_person_has_the_robot_does_not_stop_the_person() -> None:
    rig = Rig().armed()
    rig.held, rig.person = True, [0.1] * 7
    rig.run(0.1)
    rig.silent |= {"policy", "heartbeat"}
    rig.run(1.5)
    assert rig.state is State.TAKEOVER
    rig.held = False
    rig.run(0.1)
    assert rig.state in (State.STOPPING, State.FAULT)
    assert "no heartbeat" in rig.governor.causes[0]


# Resets and homing


def test_homing_is_slow_keeps_the_limits_and_ends_disarmed() -> None:
    rig = Rig()
    rig.measured[0] += 0.4
    rig.run(0.2)
    assert "ask for `home`" in str(rig.governor.claim("policy", rig.now) or rig.governor.arm(rig.now))
    rig.positions = [list(rig.measured)] * 3
    assert rig.governor.home(rig.now) is None
    rig.seconds_until(lambda: at_rest(rig), 20)
    assert rig.state is State.DISARMED
    assert rig.measured == pytest.approx(rig.home, abs=1e-6)
    rig.assert_within_limits()
    assert max(max(map(abs, o.sent.velocity)) for o in rig.outputs if o.sent) <= 0.2 * 2.61
    assert rig.governor.arm(rig.now) is None


def test_homing_that_is_blocked_says_so() -> None:
    rig = Rig()
    rig.run(0.2)
    pose = list(rig.home)
    pose[1] = 1.2  # the hand would go into the table
    assert rig.governor.home(rig.now, pose) is None
    rig.seconds_until(lambda: at_rest(rig), 20)
    assert rig.state is State.FAULT
    assert "homing is blocked: " in rig.governor.causes[0]
    assert "workspace" in rig.governor.causes[0]


def test_a_reset_pose_that_is_no_pose_is_refused() -> None:
    rig = Rig()
    rig.run(0.2)
    assert "no number for each joint" in str(rig.governor.home(rig.now, [math.nan] * 7))
    assert "no number for each joint" in str(rig.governor.home(rig.now, [0.0]))


# Chunks


def chunk(rig: Rig, values: list[list[float]], offsets_s: list[float], velocity: bool = False) -> str | None:
    command = Command(
        source="policy",
        stamp_ns=rig.stamp_ns,
        names=rig.robot.names,
        values=values,
        offsets_s=offsets_s,
        velocity=velocity,
    )
    return rig.governor.on_command(command, rig.now)


def test_a_chunk_is_followed_in_time_and_its_end_begins_the_silence() -> None:
    rig = Rig(policy=lambda rig: list(rig.home)).armed()
    rig.silent.add("policy")
    steps = [[x + 0.002 * k for x in rig.home] for k in range(11)]
    assert chunk(rig, steps, [0.05 * k for k in range(11)]) is None
    rig.run(0.4)
    assert rig.measured[0] == pytest.approx(rig.home[0] + 0.016, abs=0.003)
    assert rig.outputs[-1].source == "policy"
    rig.run(0.2)
    assert rig.outputs[-1].source == "policy"  # 0.1 s after its end
    rig.run(0.2)
    assert rig.outputs[-1].source == "hold"
    rig.assert_within_limits()


@pytest.mark.parametrize(
    ("values", "offsets_s", "message"),
    [
        ([], [], "0 steps"),
        ([[0.0] * 7], [0.0, 0.1], "1 steps and 2 times"),
        ([[0.0] * 6], [0.0], "not one number for each joint"),
        ([[0.0] * 7] * 2, [0.1, 0.1], "do not increase"),
        ([[0.0] * 7] * 2, [0.0, math.nan], "do not increase"),
        ([[0.0] * 7] * 2, [0.0, 9.0], "further than command_stop_s"),
    ],
)
def test_a_chunk_that_makes_no_sense_is_refused(
    values: list[list[float]], offsets_s: list[float], message: str
) -> None:
    rig = Rig().armed()
    assert message in str(chunk(rig, values, offsets_s))


def test_a_command_for_other_joints_is_refused() -> None:
    rig = Rig().armed()
    command = Command(source="policy", stamp_ns=rig.stamp_ns, names=["a"] * 7, values=[[0.0] * 7])
    assert "it names ['a'" in str(rig.governor.on_command(command, rig.now))


def test_a_command_by_velocity_is_followed() -> None:
    rig = Rig().armed()
    rig.silent.add("policy")
    rig.run(0.3)
    assert chunk(rig, [[0.2, 0, 0, 0, 0, 0, 0]], [0.0], velocity=True) is None
    rig.run(0.1)
    sent = rig.outputs[-1].sent
    assert sent is not None
    assert sent.velocity[0] == pytest.approx(0.2)
    rig.assert_within_limits()
