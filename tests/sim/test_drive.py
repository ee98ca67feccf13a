"""Commands arrive when they should, motors lag as they should, and observations are as old as they should be."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.sim.dm_control_env import DmControlEnvironment
from robot_rl.sim.drive import Drive, Timing, draw_timing
from robot_rl.sim.gap import Gap
from robot_rl.sim.gap_env import GapEnvironment
from robot_rl.sim.gymnasium_env import GymnasiumEnvironment
from robot_rl.sim.robosuite_env import RobosuiteEnvironment
from robot_rl.testing.contracts import actions_of, roll_out
from robot_rl.types import Array

MAKERS: dict[str, Callable[[], Any]] = {
    "half_cheetah": lambda: GymnasiumEnvironment(id="HalfCheetah-v5"),
    "hopper": lambda: GymnasiumEnvironment(id="Hopper-v5", arguments={"terminate_when_unhealthy": False}),
    "reacher": lambda: DmControlEnvironment(domain="reacher", task="easy", action_repeat=3),
    "fetch": lambda: GymnasiumEnvironment(id="FetchPickAndPlace-v4", success="is_success"),
    "lift": lambda: RobosuiteEnvironment(task="Lift", maximum_steps=15),
}


def drive(
    timing: Timing, *, hold: float = 0.0, pole: float = 0.0, observe: Callable[[], dict[str, Array]] = dict
) -> Drive:
    return Drive(
        timing=timing,
        hold=np.array([hold]),
        pole=pole,
        substeps=4,
        observe=observe,
        first={"state": np.array([-1.0])},
        motors=np.zeros(1),
    )


def plan(gap: Gap, *, steps: int = 8, substeps: int = 4, timestep_s: float = 0.01, seed: int = 0) -> Timing:
    return draw_timing(
        gap, steps=steps, substeps=substeps, timestep_s=timestep_s, generator=np.random.default_rng(seed)
    )


def forces(timing: Timing, hold: float = 0.0) -> list[float]:
    """The command in each physics step where the command of period j is j + 1."""
    way = drive(timing, hold=hold)
    return [float(way.tick()[0]) for period in range(len(timing.substeps)) for _ in range(way.send([period + 1.0]))]


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.03, 0.04, 0.07])
def test_a_delay_of_whole_physics_steps_shifts_every_command_by_exactly_them(delay_s) -> None:
    shift = round(delay_s / 0.01)
    undelayed = np.repeat(np.arange(1.0, 9.0), 4)
    assert forces(plan(Gap(action_delay_s=delay_s)), hold=-5.0) == [-5.0] * shift + undelayed[: 32 - shift].tolist()


def test_a_delay_within_a_physics_step_gives_the_mean_of_both_commands() -> None:
    # 12.5 ms at 10 ms: the new command is in force for three quarters of the second step of its period.
    found = forces(plan(Gap(action_delay_s=0.0125)))
    assert found[:7] == pytest.approx([0.0, 0.75, 1.0, 1.0, 1.0, 1.75, 2.0])


@given(delay=st.floats(0, 0.2), jitter=st.floats(0, 1), period=st.floats(0, 0.5), seed=st.integers(0, 99))
def test_commands_and_observations_never_overtake_one_another(delay, jitter, period, seed) -> None:
    gap = Gap(
        action_delay_s=delay,
        action_delay_jitter=jitter,
        period_jitter=period,
        observation_delay_s=delay,
        observation_delay_jitter=jitter,
    )
    timing = plan(gap, seed=seed)
    begins = timing.substeps.cumsum() - timing.substeps
    assert (np.diff(timing.arrival) >= 0).all()
    assert (np.diff(timing.capture) >= 0).all()
    assert (timing.arrival >= begins).all()
    assert (timing.capture <= timing.substeps.cumsum()).all()
    # A command is late by at most the longest delay after the latest command that it waited for.
    assert (timing.arrival - begins <= delay * (1 + jitter) / 0.01 + 1e-6 + 0 * begins).all()


def test_jitter_spreads_delays_and_periods_about_their_means() -> None:
    timing = plan(Gap(action_delay_s=0.02, action_delay_jitter=0.5, period_jitter=0.05), steps=4000)
    begins = timing.substeps.cumsum() - timing.substeps
    late = timing.arrival - begins
    assert late.mean() == pytest.approx(2.0, abs=0.05)
    assert late.min() == pytest.approx(1.0, abs=0.05)
    assert late.max() == pytest.approx(3.0, abs=0.05)
    # 4 steps +- 5 % is never a whole number: rounding at random keeps the mean and moves some periods.
    assert timing.substeps.mean() == pytest.approx(4.0, abs=0.02)
    assert set(timing.substeps) == {3, 4, 5}


def test_a_lost_command_leaves_the_one_before_in_force() -> None:
    timing = Timing(
        substeps=np.full(4, 2), arrival=np.array([0.0, np.inf, np.inf, 6.0]), capture=np.array([2, 4, 6, 8])
    )
    assert forces(timing) == [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0, 4.0]
    lost = np.isinf(plan(Gap(missed_commands=0.1), steps=4000).arrival)
    assert lost.mean() == pytest.approx(0.1, abs=0.02)


def test_a_lagging_motor_leaves_its_pole_of_a_step_after_one_period() -> None:
    for pole in (0.0, 0.2, 0.5):
        way = drive(plan(Gap()), pole=pole)
        outputs = []
        for _ in range(3):
            for _ in range(way.send([1.0])):
                output = float(way.motor(way.tick())[0])
            outputs.append(output)
        assert outputs == pytest.approx([1.0 - pole**n for n in (1, 2, 3)])


def test_an_observation_is_of_the_physics_step_that_is_its_delay_ago() -> None:
    clock = iter(range(10**6))
    way = drive(plan(Gap(observation_delay_s=0.06)), observe=lambda: {"state": np.array([float(next(clock))])})
    seen = []
    for _ in range(4):
        for _ in range(way.send([0.0])):
            way.tick()
        seen.append(float(way.observed({"state": np.array([99.0])})["state"][0]))
    # Periods end at steps 4, 8, 12, 16; six steps earlier is the beginning, then steps 2, 6 and 10, looked at in turn.
    assert seen == [-1.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize("name", MAKERS)
def test_a_delay_of_one_period_is_the_simulator_one_period_later(name) -> None:
    with closing(MAKERS[name]()) as plain, closing(MAKERS[name]()) as inner:
        actions = actions_of(plain.spec, 0, 10)
        period = plain.spec.control_period_s
        late = GapEnvironment(inner, Gap(action_delay_s=period))
        held = np.zeros_like(actions[:1])
        expected = roll_out(plain, 3, np.concatenate([held, actions[:-1]]))
        found = roll_out(late, 3, actions)
        for one, other in zip(expected, found, strict=True):
            for key in one.observation:
                assert np.array_equal(one.observation[key], other.observation[key]), key
        assert np.allclose([step.action for step in found[1:]], actions)


@pytest.mark.parametrize("name", ["half_cheetah", "reacher", "lift"])
def test_a_late_observation_hides_a_state_whose_reward_is_of_now(name) -> None:
    with closing(MAKERS[name]()) as plain, closing(MAKERS[name]()) as inner:
        actions = actions_of(plain.spec, 0, 10)
        late = GapEnvironment(inner, Gap(observation_delay_s=2 * plain.spec.control_period_s))
        expected, found = roll_out(plain, 3, actions), roll_out(late, 3, actions)
        assert [step.reward for step in found] == [step.reward for step in expected]
        for index, step in enumerate(found):
            for key, array in expected[max(0, index - 2)].observation.items():
                assert np.array_equal(step.observation[key], array), (key, index)


def test_what_is_seen_late_lies_between_two_control_steps() -> None:
    with closing(MAKERS["half_cheetah"]()) as plain, closing(MAKERS["half_cheetah"]()) as inner:
        actions = actions_of(plain.spec, 0, 5)
        late = GapEnvironment(inner, Gap(observation_delay_s=0.02))  # two of five physics steps
        roll_out(plain, 3, actions)
        _, data = plain.physics
        now, velocity = data.qpos[1:].copy(), data.qvel[1:]
        seen = roll_out(late, 3, actions)[-1].observation["state"][:8]
        assert not np.allclose(seen, now, atol=1e-4)
        assert np.corrcoef(now - seen, velocity)[0, 1] > 0.7  # it moved on from there, along its velocity


def test_periods_that_jitter_take_the_physics_with_them() -> None:
    for name in ("half_cheetah", "reacher", "lift"):
        with closing(MAKERS[name]()) as inner:
            environment = GapEnvironment(inner, Gap(period_jitter=0.3))
            environment.reset(seed=0)
            times = [float(inner.physics[1].time)]
            for action in actions_of(inner.spec, 0, 8):
                environment.step(action)
                times.append(float(inner.physics[1].time))
            timestep = inner.physics[0].opt.timestep
            counts = np.rint(np.diff(times) / timestep)
            assert len(set(counts)) > 1, name
            assert (np.abs(counts - inner.substeps) <= 0.3 * inner.substeps + 1).all(), name
