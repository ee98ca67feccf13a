"""Limits hold whatever is commanded; what violates none passes unchanged."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruckig import ControlInterface, InputParameter, Ruckig, Trajectory

from robot_rl.errors import InputError
from robot_rl.hardware.limiter import JERK, LOCKED, PLANNER, POSITION, Limiter, Limits, stop_reach, stop_state

sys.path.insert(0, str(Path(__file__).parent))

from adversary import excess, sequence

PERIOD_S = 0.01


def limits(joints: int = 1, **changed: float) -> Limits:
    values = {"low": -1.0, "high": 1.0, "velocity": 2.0, "acceleration": 10.0, "jerk": 400.0} | changed
    return Limits(
        names=tuple(f"joint{i}" for i in range(joints)),
        **{key: (value,) * joints for key, value in values.items()},
    )


def follow(limiter: Limiter, targets: list[float]) -> list[float]:
    sent = []
    for target in targets:
        limiter.propose_position([target])
        limiter.accept()
        sent.append(limiter.position[0])
    return sent


@given(v=st.floats(-2, 2), a=st.floats(-10, 10), jerk=st.sampled_from([20.0, 400.0, 4000.0]))
def test_our_stop_is_ruckigs_stop(v: float, a: float, jerk: float) -> None:
    parameters, path = InputParameter(1), Trajectory(1)
    parameters.control_interface = ControlInterface.Velocity
    parameters.current_velocity, parameters.current_acceleration = [v], [a]
    parameters.max_velocity, parameters.max_acceleration, parameters.max_jerk = [9.0], [10.0], [jerk]
    Ruckig(1, 0.01).calculate(parameters, path)
    extremes = path.position_extrema[0]
    np.testing.assert_allclose(stop_reach(v, a, 10, jerk), (extremes.min, extremes.max), atol=1e-9)
    for time_s in (0.0, 0.003, path.duration / 2, path.duration, path.duration + 1):
        wanted = [x[0] for x in path.at_time(time_s)]
        np.testing.assert_allclose(stop_state(v, a, 10, jerk, time_s), wanted, atol=1e-9)


def test_a_stop_on_paper() -> None:
    # v = 2, a = 0, A = 10, J = 100: the acceleration falls to -10 in 0.1 s, stays 0.1 s, and returns in 0.1 s.
    # v falls by 0.5, 1 and 0.5; the way is 0.18333 + 0.1 + 0.01667 = 0.3 (the mean speed, 1, for 0.3 s).
    distance, v, a = stop_state(2, 0, 10, 100)
    assert (v, a) == (0, 0)
    assert distance == pytest.approx(0.3)
    assert stop_reach(2, 0, 10, 100) == pytest.approx((0, 0.3))
    assert stop_reach(-2, 0, 10, 100) == pytest.approx((-0.3, 0))


@pytest.mark.parametrize("period_s", [0.001, 0.005, 0.05])
def test_no_limit_is_exceeded_whatever_is_commanded(period_s: float) -> None:
    generator = np.random.default_rng(0)
    wide = Limits(
        names=tuple("abcdefg"),
        low=(-1, -2, 0, -math.inf, -1, 0.5, -1),
        high=(1, 2, 0.1, math.inf, 1, 0.5, 1),
        velocity=(2, 1, 3, 2, 0, 2, 2),
        acceleration=(10, 5, 20, 10, 10, 10, 2),
        jerk=(400, 100, 5000, 400, 400, 400, 2),
    )
    limiter = Limiter(wide, period_s)
    home = [0, 0, 0.05, 0, 0, 0.5, 0]
    limiter.start(home)
    sent = [limiter.position] * 3
    for _ in range(300):
        for command in sequence(generator, wide, period_s, lambda: limiter.position, home, 20):
            if command is None or len(command.target) != 7 or not np.isfinite(command.target).all():
                limiter.propose_stop()
            elif command.velocity:
                limiter.propose_velocity(command.target)
            else:
                limiter.propose_position(command.target)
            limiter.accept()
            sent.append(list(limiter.position))
    found = excess(np.array(sent), wide, period_s)
    assert found["position"] <= 0
    # sums of positions around 10 are rounded to 2e-15, their third difference divided by period^3
    assert max(found["velocity"], found["acceleration"]) < 1e-6
    assert found["jerk"] < 1e-6 + 8e-15 / period_s**3 / 2


def test_a_motion_within_the_limits_passes_unchanged() -> None:
    # Ruckig's own motions between random points at 0.9 of the limits, sampled once a period.
    generator = np.random.default_rng(1)
    limiter, planner, path = Limiter(limits(), PERIOD_S), Ruckig(1, PERIOD_S), Trajectory(1)
    limiter.start([0.0])
    parameters = InputParameter(1)
    parameters.max_velocity, parameters.max_acceleration, parameters.max_jerk = [1.8], [9.0], [360.0]
    position = 0.0
    for _ in range(50):
        parameters.current_position, parameters.target_position = [position], [float(generator.uniform(-1, 1))]
        planner.calculate(parameters, path)
        targets = [path.at_time(k * PERIOD_S)[0][0] for k in range(1, int(path.duration / PERIOD_S) + 10)]
        assert follow(limiter, targets) == targets
        position = targets[-1]


def test_a_velocity_within_the_limits_is_reached_exactly_and_ends_at_the_edge() -> None:
    limiter = Limiter(limits(), PERIOD_S)
    limiter.start([-1.0])
    changes, velocities = [], []
    for _ in range(400):
        changes.append(limiter.propose_velocity([0.7])[0])
        limiter.accept()
        velocities.append(limiter.sent_velocity[0])
    assert changes.count(0) > 200
    assert all(v == pytest.approx(0.7, abs=1e-12) for v, change in zip(velocities, changes, strict=True) if not change)
    assert limiter.position[0] == pytest.approx(1.0, abs=1e-9)
    assert limiter.position[0] <= 1.0


def test_a_resting_target_is_reached_exactly_and_not_hunted_around() -> None:
    # These limits are so coarse for this period that the joint could hit the target in passing.
    limiter = Limiter(limits(jerk=200.0, low=-2.0, high=2.0), 0.02)
    limiter.start([-1.5])
    sent = follow(limiter, [1.2] * 200)
    assert sent[-1] == 1.2
    assert sent[-50:] == [1.2] * 50
    assert max(sent) <= 1.2 + 1e-12
    assert limiter.propose_position([1.2]) == [0]


def test_a_target_outside_ends_at_the_limit() -> None:
    limiter = Limiter(limits(), PERIOD_S)
    limiter.start([0.0])
    sent = follow(limiter, [5.0] * 300)
    assert sent[-1] == pytest.approx(1.0, abs=1e-12)
    assert max(sent) <= 1.0
    assert limiter.propose_position([5.0])[0] & POSITION


@pytest.mark.parametrize("key", ["velocity", "acceleration", "jerk"])
def test_a_joint_with_a_limit_of_zero_stays_where_it_is(key: str) -> None:
    limiter = Limiter(limits(**{key: 0.0}), PERIOD_S)
    limiter.start([0.3])
    assert follow(limiter, [0.9] * 50) == [0.3] * 50
    assert limiter.propose_position([0.9]) == [LOCKED]
    assert limiter.propose_velocity([1.0]) == [LOCKED]
    assert limiter.propose_position([0.3]) == [0]


def test_one_joint_does_not_slow_another() -> None:
    both = Limiter(limits(2), PERIOD_S)
    both.start([0.0, 0.0])
    alone = Limiter(limits(), PERIOD_S)
    alone.start([0.0])
    for _ in range(100):
        both.propose_position([0.2, 1.0])
        both.accept()
        alone.propose_position([0.2])
        alone.accept()
        assert both.position[0] == alone.position[0]


def test_a_proposal_that_is_not_accepted_changes_nothing() -> None:
    limiter, other = Limiter(limits(), PERIOD_S), Limiter(limits(), PERIOD_S)
    for each in (limiter, other):
        each.start([0.0])
        follow(each, [0.5] * 20)
    limiter.propose_position([-0.7])
    limiter.propose_velocity([-1.0])
    limiter.propose_stop()
    assert follow(limiter, [0.5] * 30) == follow(other, [0.5] * 30)


class Broken:
    """A planner that finds nothing, as Ruckig does for some states."""

    def calculate(self, parameters: object, path: object) -> None:
        from ruckig import RuckigError

        raise RuckigError("no")


def test_without_a_plan_the_joint_brakes_within_its_limits() -> None:
    limiter = Limiter(limits(), PERIOD_S)
    limiter.start([0.0])
    sent = [[0.0]] * 3 + [[x] for x in follow(limiter, [0.9] * 25)]
    limiter._planner = Broken()  # type: ignore[assignment]  # a fake
    for _ in range(80):
        assert limiter.propose_position([0.9])[0] & PLANNER
        limiter.accept()
        sent.append(list(limiter.position))
    assert limiter.at_rest
    assert limiter.planner_errors == 80
    assert max(excess(np.array(sent), limits(), PERIOD_S).values()) < 1e-9


@pytest.mark.parametrize("found", [True, False])
def test_a_stop_goes_along_the_path_that_was_found_before(found: bool) -> None:
    three = replace(limits(3), velocity=(2.0, 2.0, 0.0))
    limiter = Limiter(three, PERIOD_S)
    limiter.start([0.0, 0.1, 0.2])
    for _ in range(12):
        limiter.propose_velocity([1.5, -0.3, 1.0])
        path = limiter.next_stop() if found else None
        limiter.accept()
    state = list(zip(limiter.position, limiter.velocity, limiter.acceleration, strict=True))[:2]
    if found:
        assert path is not None
        limiter._planner = Broken()  # type: ignore[assignment]  # a fake: nothing is computed any more
        limiter.propose_velocity([1.0] * 3)
        assert limiter.next_stop() is None
    elapsed_s = 0.0
    for _ in range(60):
        limiter.propose_stop()
        limiter.accept()
        elapsed_s += PERIOD_S
        ways = [stop_state(v, a, 10.0, 400.0, elapsed_s) for _, v, a in state]
        wanted = [p + way[0] for (p, _, _), way in zip(state, ways, strict=True)]
        np.testing.assert_allclose(limiter.position, [*wanted, 0.2], atol=1e-12)
        np.testing.assert_allclose(limiter.velocity, [*(way[1] for way in ways), 0.0], atol=1e-12)
        if found:
            assert path is not None
            assert limiter.at_rest or limiter.position[:2] == path.at_time(elapsed_s)[0][:2]
    assert limiter.at_rest


def test_what_was_changed_is_told() -> None:
    limiter = Limiter(limits(), PERIOD_S)
    limiter.start([0.0])
    assert limiter.propose_position([1e-3])[0] & JERK
    assert limiter.propose_position([1e-4]) == [0]  # 400 * 0.01^3 = 4e-4 is the most from rest


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"velocity": -1.0}, "velocity limit -1.0"),
        ({"jerk": math.inf}, "jerk limit inf"),
        ({"low": math.nan}, "low limit nan"),
        ({"low": 2.0}, "lies above the highest"),
    ],
)
def test_limits_that_are_none_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        limits(**wrong)


@pytest.mark.parametrize("position", [1.1, -1.1, math.nan, math.inf])
def test_a_start_outside_is_refused(position: float) -> None:
    with pytest.raises(InputError, match="joint0 is at"):
        Limiter(limits(), PERIOD_S).start([position])


def test_a_scaled_motion_is_slower_but_stops_as_quickly() -> None:
    slow = limits().scaled(0.5)
    assert (slow.velocity, slow.acceleration, slow.jerk) == ((1.0,), (10.0,), (400.0,))
    for factor in (0.0, 1.5, math.nan):
        with pytest.raises(InputError, match="speed scale"):
            limits().scaled(factor)
