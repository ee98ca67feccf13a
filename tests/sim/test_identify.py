"""A simulator is fitted to a robot that differs from it in known ways, and says what its log does not say."""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from robot_rl.errors import InputError
from robot_rl.loops.rollout import assemble
from robot_rl.sim.delay import cross_correlate
from robot_rl.sim.dm_control_env import DmControlEnvironment
from robot_rl.sim.gap import NOMINAL, Gap
from robot_rl.sim.gap_env import GapEnvironment
from robot_rl.sim.gymnasium_env import GymnasiumEnvironment
from robot_rl.sim.identify import identify
from robot_rl.sim.identify_fit import PARAMETERS, uncertainty
from robot_rl.sim.identify_result import Estimate, Identification
from robot_rl.sim.logged_motion import read_log, split
from robot_rl.sim.open_loop import Logged, OpenLoop
from robot_rl.sim.robosuite_env import RobosuiteEnvironment
from robot_rl.sim.state_reading import read_layout
from robot_rl.testing.contracts import actions_of, roll_out
from robot_rl.types import Episode

DELAY = "action_delay_s"
JOINTS = ["robot0_joint_pos", "robot0_joint_vel", "robot0_gripper_qpos", "robot0_gripper_qvel", "object"]


def cheetah() -> GymnasiumEnvironment:
    return GymnasiumEnvironment(id="HalfCheetah-v5")


def reacher() -> DmControlEnvironment:
    return DmControlEnvironment(domain="reacher", task="easy")


def lift() -> RobosuiteEnvironment:
    return RobosuiteEnvironment(task="Lift", terminate_on_success=False, observation=JOINTS)


def recorded(make: Callable[[], Any], gap: Gap, steps: int, episodes: int = 1) -> list[Episode]:
    """What a robot with a gap did under random commands."""
    with closing(make()) as inner:
        robot = GapEnvironment(inner, gap) if gap.differing() else inner
        return [
            assemble(roll_out(robot, seed, actions_of(inner.spec, seed, steps)), {"seed": seed})
            for seed in range(episodes)
        ]


def identified(
    make: Callable[[], Any], episodes: Sequence[Episode], parameters: Sequence[str], **settings: Any
) -> Identification:
    with closing(make()) as simulator:
        layout = read_layout(simulator)
        log = read_log(simulator, layout, episodes, "data=robot.zarr")
        chosen = {"maximum_delay_s": 0.1, "horizon": 5, "steps": 1000, **settings}
        return identify(simulator, layout, log, gap=NOMINAL, parameters=parameters, tell=lambda text: None, **chosen)


def estimate(found: Identification, name: str) -> Estimate:
    return next(each for each in found.estimates if each.name == name)


def test_gears_damping_and_an_exact_delay_are_recovered_and_predict_held_out_motion() -> None:
    robot = Gap(gear=0.8, damping=1.5, action_delay_s=0.04)
    found = identified(reacher, recorded(reacher, robot, 300), ["gear", "damping", DELAY])
    assert found.gap.gear == pytest.approx(0.8, rel=0.003)
    assert found.gap.damping == pytest.approx(1.5, rel=0.003)
    assert found.gap.action_delay_s == pytest.approx(0.04, abs=1e-4)
    before, after = found.errors
    assert before > 1.0
    assert after < 0.01
    assert found.outcome == "better"


@pytest.mark.parametrize("delay_s", [0.02, pytest.param(0.0125, marks=pytest.mark.slow)])
def test_a_delay_is_found_within_a_control_period_and_within_a_physics_step(delay_s) -> None:
    # HalfCheetah: 50 ms a control period, 10 ms a physics step.
    robot = Gap(gear=0.9, motor_pole=0.2, action_delay_s=delay_s)
    found = identified(cheetah, recorded(cheetah, robot, 200), ["gear", "motor_pole", DELAY])
    assert found.gap.action_delay_s == pytest.approx(delay_s, abs=2e-4)
    assert found.gap.motor_pole == pytest.approx(0.2, abs=0.01)
    assert found.gap.gear == pytest.approx(0.9, rel=0.01)


def test_a_robot_that_is_the_simulator_is_found_to_be_it() -> None:
    found = identified(reacher, recorded(reacher, NOMINAL, 200), ["gear", DELAY])
    assert found.outcome == "same"
    assert found.gap.gear == pytest.approx(1.0, abs=1e-3)
    assert found.gap.action_delay_s < 1e-4


def test_what_the_motion_cannot_say_is_held_and_told() -> None:
    # A planar arm: torques, damping and masses in proportion give the same motion; no armature, nothing it touches.
    robot = Gap(gear=0.8, damping=1.5)
    parameters = ["gear", "damping", "mass", "armature", "contact_friction"]
    found = identified(reacher, recorded(reacher, robot, 200), parameters, maximum_delay_s=0.0)
    assert estimate(found, "mass").verdict == "relative"
    assert "gear" in estimate(found, "mass").reason
    assert found.gap.mass == 1.0
    assert "mass" not in found.ranges()
    assert {estimate(found, name).verdict for name in ("armature", "contact_friction")} == {"no effect"}
    assert found.gap.gear == pytest.approx(0.8, rel=0.003)
    assert found.gap.damping == pytest.approx(1.5, rel=0.003)


def test_noise_and_dropouts_widen_what_is_said_and_move_little() -> None:
    robot = Gap(gear=0.8, damping=1.5, sensor_noise=0.03, dropout=0.01)
    found = identified(reacher, recorded(reacher, robot, 400), ["gear", "damping"], maximum_delay_s=0.0)
    assert found.faulty > 0.01  # two of a hundred readings of four channels, and those after them
    for name, truth in (("gear", 0.8), ("damping", 1.5)):
        each = estimate(found, name)
        assert each.low < truth < each.high
        assert each.value == pytest.approx(truth, rel=0.03)
        assert each.deviation > 1e-4


def test_ranges_are_two_deviations_and_five_percent_at_least() -> None:
    found = identified(reacher, recorded(reacher, Gap(gear=0.8), 200), ["gear"], maximum_delay_s=0.0)
    low, high = found.ranges()["gear"]
    assert (low, high) == pytest.approx((0.8 * 0.95, 0.8 * 1.05), rel=1e-3)


def test_priors_are_the_ranges_that_are_randomised_where_nothing_is_known() -> None:
    path = Path(__file__).resolve().parents[2] / "configs/environment/randomization/standard.yaml"
    fields = yaml.safe_load(path.read_text("utf-8"))["fields"]
    for name, parameter in PARAMETERS.items():
        assert name == "gravity" or list(parameter.prior) == fields[name]["uniform"]


# Refusals -------------------------------------------------------------------------------------------------------------


def changed(episode: Episode, **parts: Any) -> Episode:
    return Episode(
        **{
            "observation": episode.observation,
            "action": episode.action,
            "reward": episode.reward,
            "terminated": episode.terminated,
            "truncated": episode.truncated,
            **parts,
        }
    )


def test_a_short_log_is_refused() -> None:
    with pytest.raises(InputError, match=r"robot\.zarr has 60 steps .* needs 120"):
        identified(reacher, recorded(reacher, NOMINAL, 60), ["gear"])


def test_a_log_without_excitation_is_refused() -> None:
    episode = recorded(reacher, NOMINAL, 150)[0]
    with pytest.raises(InputError, match="nothing is excited"):
        identified(reacher, [changed(episode, action=np.full_like(episode.action, 0.3))], ["gear"])


def test_a_log_without_motion_is_refused() -> None:
    episode = recorded(reacher, NOMINAL, 150)[0]
    still = {key: np.tile(rows[:1], (len(rows), 1)) for key, rows in episode.observation.items()}
    with pytest.raises(InputError, match="no joint moves"):
        identified(reacher, [changed(episode, observation=still)], ["gear"])


def test_observations_in_another_order_are_refused() -> None:
    episode = recorded(cheetah, NOMINAL, 150)[0]
    rows = episode.observation["state"].copy()
    rows[:, [2, 3]] = rows[:, [3, 2]]  # the positions of two joints
    with pytest.raises(
        InputError, match=r"another order than the environment's: 'bthigh position' \(channel 2\) moves"
    ):
        identified(cheetah, [changed(episode, observation={"state": rows})], ["gear"])
    backwards = episode.observation["state"][:, ::-1].copy()
    with pytest.raises(InputError, match="another order"):
        identified(cheetah, [changed(episode, observation={"state": backwards})], ["gear"])


def test_commands_in_other_units_are_refused() -> None:
    episode = recorded(reacher, NOMINAL, 150)[0]
    with pytest.raises(InputError, match="other units or another controller"):
        identified(reacher, [changed(episode, action=30.0 * episode.action)], ["gear"])


# Parts ----------------------------------------------------------------------------------------------------------------


def linear(delay_periods: float, *, feedback: float = 0.0, steps: int = 600) -> list[Logged]:
    """v' = 0.9 v + u of so many periods ago + noise, where commands follow the state by `feedback`."""
    generator = np.random.default_rng(0)
    whole, part = int(delay_periods), delay_periods % 1.0
    velocity, commands = np.zeros((steps + 1, 1)), np.zeros((steps, 1))
    for step in range(steps):
        commands[step] = -feedback * velocity[step] + generator.standard_normal()
        late = [commands[step - lag, 0] if step >= lag else 0.0 for lag in (whole, whole + 1)]
        force = (1 - part) * late[0] + part * late[1]
        velocity[step + 1] = 0.9 * velocity[step] + force + 0.01 * generator.standard_normal()
    position = 0.1 * velocity.cumsum(axis=0)
    every = np.ones(steps + 1, bool)
    return [Logged(action=commands, channels=velocity, position=position, velocity=velocity, trusted=every)]


@pytest.mark.parametrize("feedback", [0.0, 0.3])
@pytest.mark.parametrize("delay", [0.0, 2.0, 1.5])
def test_cross_correlation_finds_the_delay_even_where_commands_follow_the_state(delay, feedback) -> None:
    found = cross_correlate(linear(delay, feedback=feedback), [0], lags=6, period_s=0.1)
    assert found.delay_s == pytest.approx(0.1 * delay, abs=0.005)
    assert int(np.argmax(found.correlation)) in (int(delay), int(np.ceil(delay)))


class Clustered:
    """What `uncertainty` asks of a problem: one channel, rows in clusters."""

    compared = (0,)
    motion, deviation = np.array([1e-6]), np.array([[1.0]])

    def __init__(self, rows: int, copies: int) -> None:
        self.cluster = np.repeat(np.arange(rows), copies)[:, None]


def test_errors_that_go_together_count_once() -> None:
    generator = np.random.default_rng(0)
    slope, noise = generator.standard_normal((400, 1)), 0.1 * generator.standard_normal(400)
    alone, _ = uncertainty(Clustered(400, 1), slope, noise)  # type: ignore[arg-type]  # all that it uses
    copies, _ = uncertainty(Clustered(400, 5), np.repeat(slope, 5, axis=0), np.repeat(noise, 5))  # type: ignore[arg-type]
    assert np.sqrt(alone[0, 0]) == pytest.approx(0.1 / np.sqrt(400), rel=0.1)
    assert copies[0, 0] == pytest.approx(alone[0, 0], rel=1e-6)


def test_parameters_that_imitate_one_another_are_not_separable() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.standard_normal((2, 300))
    slopes = np.stack([one, 2.0 * one + 1e-3 * other, other], axis=1)
    _, separable = uncertainty(Clustered(300, 1), slopes, generator.standard_normal(300))  # type: ignore[arg-type]
    assert separable.tolist() == [False, False, True]


def test_held_out_motion_is_never_fitted() -> None:
    for lengths in ([200], [100, 100, 100], [50] * 9):
        nothing = dict.fromkeys(("channels", "position", "velocity", "trusted"), np.zeros(0))
        log = [Logged(action=np.zeros((length, 1)), **nothing) for length in lengths]
        fitted, held = split(log)
        steps = [{(s.episode, step) for s in part for step in range(s.start, s.stop)} for part in (fitted, held)]
        assert not steps[0] & steps[1]
        assert len(steps[0] | steps[1]) == sum(lengths)
        assert 0.15 < len(steps[1]) / sum(lengths) < 0.3


def test_controllers_are_played_too() -> None:
    robot = Gap(damping=3.0, gear=0.7, action_delay_s=0.05)
    episodes = recorded(lift, robot, 45, episodes=3)
    with closing(lift()) as simulator:
        layout = read_layout(simulator)
        log = read_log(simulator, layout, episodes, "x")
        loop = OpenLoop(simulator, layout, log)
        arm = [place for index, place in layout.velocity.items() if index < 7]  # not the fingers
        stretch = split(log)[0][0]
        measured = log[0].channels[1 : len(stretch) + 1, arm]
        error = {
            name: np.abs(loop.predict([stretch], gap, horizon=5, warm_up=2)[:, arm] - measured).mean()
            for name, gap in (("robot", robot), ("late", Gap(damping=3.0, gear=0.7)), ("nominal", NOMINAL))
        }
        assert error["robot"] < 0.2 * error["nominal"]
        assert error["robot"] < 0.5 * error["late"]


def test_a_log_played_in_its_own_simulator_is_the_log() -> None:
    robot = Gap(mass=1.2, action_delay_s=0.03, motor_pole=0.3)
    episodes = recorded(cheetah, robot, 60)
    with closing(cheetah()) as simulator:
        layout = read_layout(simulator)
        log = read_log(simulator, layout, [*episodes, *episodes], "x")
        loop = OpenLoop(simulator, layout, log)
        whole = split(log)[0][:1]
        played = loop.predict(whole, robot, horizon=7, warm_up=3)
        assert np.allclose(played, log[0].channels[1 : len(whole[0]) + 1], atol=2e-4)
        nominal = loop.predict(whole, NOMINAL, horizon=7, warm_up=3)
        assert not np.allclose(nominal, log[0].channels[1 : len(whole[0]) + 1], atol=0.1)
        before = simulator.physics[0].body_mass.copy()
        loop.close()
        assert np.allclose(simulator.physics[0].body_mass * 1.0, before)
