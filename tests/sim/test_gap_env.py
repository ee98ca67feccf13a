"""Environments with gaps keep the contract; robots that are the simulator are refused."""

from contextlib import closing

import mujoco
import numpy as np
import pytest

from robot_rl.errors import InputError
from robot_rl.sim.action_history import ActionHistory
from robot_rl.sim.dm_control_env import DmControlEnvironment
from robot_rl.sim.gap import NOMINAL, Gap
from robot_rl.sim.gap_env import GapEnvironment, on_wire
from robot_rl.sim.gymnasium_env import GymnasiumEnvironment
from robot_rl.sim.proxy import FAMILIES, family_of, proxy_gap, require_different
from robot_rl.sim.randomization import read_randomization
from robot_rl.sim.robosuite_env import RobosuiteEnvironment
from robot_rl.sim_config import PROXIES, ROBOTS, TIERS
from robot_rl.testing.contracts import (
    ENVIRONMENT_CHECKS,
    Make,
    actions_of,
    check_a_seed_fixes_the_episode,
    check_episodes_end_at_the_limit,
    check_the_applied_action_is_reported,
    need_equal,
    roll_out,
)

SIZE = 64
WORST = proxy_gap("hard_B").with_values(
    {
        "observation_delay_s": 0.013,
        "observation_delay_jitter": 0.5,
        "period_jitter": 0.1,
        "missed_commands": 0.1,
        "action_noise": 0.1,
        "gravity": 1.1,
        "joint_range": 0.9,
        "center_of_mass_x_m": 0.005,
    }
)
DRAWS = read_randomization(
    {"mass": {"uniform": [0.8, 1.2]}, "action_delay_s": {"choice": [0.0, 0.02]}, "sensor_noise": {"normal": [0, 0.05]}},
    curriculum_steps=0,
    curriculum_start=0.0,
)


def cheetah() -> GymnasiumEnvironment:
    return GymnasiumEnvironment(id="HalfCheetah-v5", maximum_steps=60, render_size=SIZE)


def reacher() -> DmControlEnvironment:
    return DmControlEnvironment(domain="reacher", task="easy", action_repeat=10, render_size=SIZE)


def lift() -> RobosuiteEnvironment:
    return RobosuiteEnvironment(task="Lift", maximum_steps=8, terminate_on_success=False, render_size=SIZE)


def fetch() -> GymnasiumEnvironment:
    return GymnasiumEnvironment(id="FetchPickAndPlace-v4", success="is_success", render_size=SIZE)


FACTORIES: dict[str, Make] = {
    "half_cheetah": lambda: GapEnvironment(cheetah(), WORST),
    "half_cheetah_randomized": lambda: GapEnvironment(cheetah(), randomization=DRAWS),
    "reacher": lambda: GapEnvironment(reacher(), WORST),
    "history": lambda: ActionHistory(GapEnvironment(cheetah(), Gap(action_delay_s=0.02)), 3),
}


@pytest.mark.parametrize("check", ENVIRONMENT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FACTORIES)
def test_environments_with_gaps_keep_the_contract(name, check) -> None:
    check(FACTORIES[name])


@pytest.mark.parametrize(
    "check", [check_a_seed_fixes_the_episode, check_episodes_end_at_the_limit, check_the_applied_action_is_reported]
)
@pytest.mark.parametrize("make", [lift, fetch])
def test_arms_with_gaps_keep_the_contract(make, check) -> None:
    check(lambda: GapEnvironment(make(), WORST))


@pytest.mark.parametrize("make", [cheetah, reacher, fetch, lift])
def test_draws_that_change_nothing_are_the_simulator(make) -> None:
    nothing = read_randomization({"mass": {"uniform": [1, 1]}}, 0, 0.0)
    with closing(make()) as plain, closing(GapEnvironment(make(), randomization=nothing)) as wrapped:
        actions = actions_of(plain.spec, 0, 8)
        need_equal(roll_out(plain, 5, actions), roll_out(wrapped, 5, actions), "identity")


@pytest.mark.parametrize("make", [cheetah, reacher, lift])
def test_a_gap_survives_resets_and_ends_with_its_environment_only(make) -> None:
    with closing(make()) as inner:
        nominal = inner.physics[0].body_mass.copy()
        environment = GapEnvironment(inner, Gap(mass=1.3))
        for seed in (0, 1):
            environment.reset(seed=seed)
            environment.step(actions_of(inner.spec, 0, 1)[0])
            assert np.allclose(inner.physics[0].body_mass, 1.3 * nominal)


def test_a_gap_survives_a_robosuite_reset_that_builds_a_new_model() -> None:
    with closing(lift()) as inner:
        environment = GapEnvironment(inner, Gap(mass=1.3, contact_friction=0.5))
        before = inner.physics[0]
        nominal = before.body_mass.copy(), before.geom_friction.copy()
        inner._env.hard_reset = True
        environment.reset(seed=0)
        after = inner.physics[0]
        assert after is not before
        links = [index for index in range(after.nbody) if "link" in after.body(index).name]
        assert len(links) >= 7  # the cube's size is drawn with each model, the arm is the same
        assert np.allclose(after.body_mass[links], 1.3 * nominal[0][links])
        assert np.allclose(after.geom_friction[:, 0], 0.5 * nominal[1][:, 0])
        environment.step(actions_of(inner.spec, 0, 1)[0])


def test_a_late_observation_never_comes_from_the_episode_before() -> None:
    with closing(cheetah()) as inner:
        environment = GapEnvironment(inner, Gap(observation_delay_s=0.2))
        roll_out(environment, 0, actions_of(inner.spec, 0, 20))
        first = environment.reset(seed=1).observation["state"]
        for action in actions_of(inner.spec, 1, 4):
            assert np.array_equal(environment.step(action).observation["state"], first)


def test_what_will_be_seen_late_is_out_of_the_callers_reach() -> None:
    with closing(GapEnvironment(fetch(), Gap(observation_delay_s=0.2))) as environment:
        for _ in range(2):
            seen = environment.reset(seed=0).observation
            for array in seen.values():
                array.fill(np.nan)
            for action in actions_of(environment.spec, 0, 8):
                for array in environment.step(action).observation.values():
                    assert np.isfinite(array).all()
                    array.fill(np.nan)


def test_reward_is_of_the_true_state_whatever_the_sensors_say() -> None:
    with closing(cheetah()) as plain, closing(GapEnvironment(cheetah(), Gap(sensor_noise=1.0, dropout=0.5))) as noisy:
        actions = actions_of(plain.spec, 0, 20)
        expected, found = roll_out(plain, 2, actions), roll_out(noisy, 2, actions)
        assert [step.reward for step in found] == [step.reward for step in expected]
        assert not np.allclose(found[5].observation["state"], expected[5].observation["state"], atol=0.01)


def test_commands_have_the_resolution_of_the_wire() -> None:
    with closing(cheetah()) as environment:
        spec = environment.spec
        sweep = np.linspace(-1, 1, 999)[:, None] * np.ones(6)
        rounded = np.stack([on_wire(action, spec, 3) for action in sweep])
        assert len(np.unique(rounded[:, 0].round(6))) == 8
        assert np.abs(rounded - sweep).max() <= 1 / 7 + 1e-6
        assert rounded[[0, -1]] == pytest.approx(sweep[[0, -1]])


def test_noise_on_commands_is_in_half_ranges_cut_at_the_bounds_and_reaches_the_motors() -> None:
    with closing(cheetah()) as inner:
        environment = GapEnvironment(inner, Gap(action_noise=0.5))
        arrived = []
        for seed in range(4):
            environment.reset(seed=seed)
            for _ in range(50):
                step = environment.step(np.zeros(6))
                assert not step.action.any()  # what was sent is what is told
                arrived.append(inner.physics[1].ctrl.copy())
        motors = np.stack(arrived)
        assert np.abs(motors).max() == 1.0
        inside = np.abs(motors) < 0.5
        assert inside.mean() == pytest.approx(0.683, abs=0.05)  # within one deviation of a Gaussian
        assert np.abs(np.corrcoef(motors.T) - np.eye(6)).max() < 0.3


def test_the_motor_that_lags_reaches_the_physics() -> None:
    with closing(cheetah()) as inner:
        environment = GapEnvironment(inner, Gap(motor_pole=0.5))
        environment.reset(seed=0)
        for count in (1, 2, 3):
            environment.step(np.ones(6))
            assert inner.physics[1].ctrl == pytest.approx(np.full(6, 1.0 - 0.5**count), abs=1e-6)


def test_an_environment_without_a_difference_is_refused() -> None:
    with closing(cheetah()) as inner:
        for gap in (NOMINAL, Gap(action_delay_jitter=0.5, stuck_steps=3)):
            with pytest.raises(InputError, match=r"environment\.gap leaves the simulator as it is"):
                GapEnvironment(inner, gap)


def test_a_difference_that_does_nothing_in_the_task_is_refused_where_it_was_asked_for() -> None:
    flat = GymnasiumEnvironment(id="Reacher-v5")
    gap = Gap(contact_friction=0.5, gravity=2.0)
    with pytest.raises(InputError, match=r"environment\.gap\.gravity=2\.0 changes nothing in this task"):
        GapEnvironment(flat, gap, asked=("gravity",))
    with pytest.raises(InputError, match=r"environment\.proxy=std_A leaves the simulator as it is"):
        GapEnvironment(flat, Gap(gravity=2.0), proxy="std_A")
    environment = GapEnvironment(flat, proxy_gap("std_B").with_values({"gravity": 2.0}), proxy="std_B")
    facts = environment.spec.metadata["gap"]
    assert "gravity" in facts["without_effect"]
    assert "mass" not in facts["without_effect"]
    assert (facts["proxy"], facts["values"]["gravity"], len(facts["hash"])) == ("std_B", 2.0, 12)
    environment.close()


def test_a_robot_and_a_simulator_with_the_same_gap_are_refused() -> None:
    with closing(cheetah()) as plain, closing(GapEnvironment(cheetah(), Gap(mass=1.1))) as heavy:
        require_different(plain.spec, heavy.spec, "evaluation.proxy=x")
        for spec in (plain.spec, heavy.spec):
            with pytest.raises(InputError, match=r"evaluation\.proxy=x and the simulator that is trained in are the"):
                require_different(spec, spec, "evaluation.proxy=x")


def test_tasks_that_do_not_run_on_mujoco_are_refused() -> None:
    pendulum = GymnasiumEnvironment(id="Pendulum-v1")
    with pytest.raises(InputError, match=r"Pendulum-v1 is not a MuJoCo task"):
        GapEnvironment(pendulum, Gap(mass=1.1))


def test_robots_are_the_table_within_a_fifth_and_each_tier_is_further_away() -> None:
    assert len({proxy_gap(name).hash for name in PROXIES}) == len(PROXIES) == 9
    for family, tiers in FAMILIES.items():
        for robot in ROBOTS:
            for name in ("mass", "gear", "damping", "coulomb", "contact_friction", "action_delay_s", "motor_pole"):
                nominal = getattr(NOMINAL, name)
                sizes = []
                for tier in TIERS:
                    share = (getattr(proxy_gap(f"{tier}_{robot}", family), name) - nominal) / (
                        tiers[tier][name] - nominal
                    )
                    assert 0.8 - 1e-3 <= share <= 1.2 + 1e-3
                    sizes.append(share * abs(tiers[tier][name] - nominal))
                assert sizes == sorted(sizes)
    assert proxy_gap("std_B").hash == "486021e0acf8"  # what was published about a robot stays true of it


def test_balancing_tasks_have_smaller_frictions_and_delays() -> None:
    with closing(DmControlEnvironment(domain="cartpole", task="swingup")) as cartpole, closing(cheetah()) as runner:
        assert family_of(cartpole.spec) == "balance"
        assert family_of(runner.spec) == "general"
    assert proxy_gap("hard_A", "balance").coulomb < proxy_gap("mild_A").coulomb


def test_the_history_shows_the_commands_that_were_sent_the_newest_last() -> None:
    with closing(ActionHistory(cheetah(), 2)) as environment:
        assert not environment.reset(seed=0).observation["action_history"].any()
        first, second = actions_of(environment.spec, 0, 2)
        environment.step(first)
        shown = environment.step(3 * second).observation["action_history"]
        assert np.allclose(shown, np.concatenate([first, np.clip(3 * second, -1, 1)]))
        assert environment.spec.observation["action_history"].names[-1].endswith("[-1]")
        assert not environment.reset(seed=1).observation["action_history"].any()


def test_mujoco_has_no_delays_of_its_own_yet() -> None:
    """When it has, `sim/drive.py` can leave whole delays to it."""
    assert not [name for name in dir(mujoco.MjModel) if "delay" in name]
