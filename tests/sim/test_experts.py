"""Scripted experts are good enough to make demonstrations."""

import numpy as np
import pytest

from robot_rl.environment import Environment
from robot_rl.errors import InputError
from robot_rl.sim.experts import FetchPickAndPlaceExpert, LiftExpert, NoisyPolicy, StackExpert
from robot_rl.sim.gymnasium_env import GymnasiumEnvironment
from robot_rl.sim.robosuite_env import RobosuiteEnvironment
from robot_rl.spec import ArraySpec
from robot_rl.testing.fakes import OneJointEnvironment, OneJointExpert, optimal_return
from robot_rl.types import Policy


def success_rate(environment: Environment, policy: Policy, episodes: int) -> float:
    """Share of episodes that end in success."""
    successes = 0
    for seed in range(episodes):
        policy.reset()
        step = environment.reset(seed=seed)
        while not step.last:
            step = environment.step(policy.act(step.observation))
        successes += bool(step.success)
    environment.close()
    return successes / episodes


@pytest.mark.parametrize("controller", ["OSC_POSE", "OSC_POSITION"])
def test_the_lift_expert_lifts(controller: str) -> None:
    environment = RobosuiteEnvironment(task="Lift", controller=controller)
    assert success_rate(environment, LiftExpert(environment.spec), 8) == 1.0


def test_the_lift_expert_lifts_with_noise_on_its_actions() -> None:
    environment = RobosuiteEnvironment(task="Lift")
    expert = NoisyPolicy(LiftExpert(environment.spec), environment.spec.action, 0.2, np.random.default_rng(0))
    assert success_rate(environment, expert, 8) == 1.0


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_stack_expert_stacks(noise: float) -> None:
    environment = RobosuiteEnvironment(task="Stack")
    expert = NoisyPolicy(StackExpert(environment.spec), environment.spec.action, noise, np.random.default_rng(0))
    assert success_rate(environment, expert, 6) == 1.0


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_fetch_expert_carries_the_block_to_its_goal(noise: float) -> None:
    environment = GymnasiumEnvironment(id="FetchPickAndPlace-v4", success="is_success")
    expert = FetchPickAndPlaceExpert(environment.spec)
    noisy = NoisyPolicy(expert, environment.spec.action, noise, np.random.default_rng(0))
    assert success_rate(environment, noisy, 20) >= 0.95


def test_an_expert_refuses_observations_that_lack_what_it_looks_at() -> None:
    environment = RobosuiteEnvironment(task="Lift", observation=["robot0_eef_pos"])
    with pytest.raises(InputError, match="object"):
        LiftExpert(environment.spec)


def test_an_expert_refuses_a_controller_it_cannot_drive() -> None:
    environment = RobosuiteEnvironment(task="Lift", controller="JOINT_POSITION")
    with pytest.raises(InputError, match="OSC_POSE"):
        LiftExpert(environment.spec)


def test_noise_is_in_half_ranges_stays_in_bounds_and_comes_from_the_generator() -> None:
    class Still:
        def reset(self) -> None: ...

        def act(self, observation: object) -> np.ndarray:
            return np.zeros(2)

    action = ArraySpec(shape=(2,), low=np.array([-1.0, -10.0]), high=np.array([1.0, 10.0]))
    first, again = (NoisyPolicy(Still(), action, 0.1, np.random.default_rng(0)) for _ in range(2))
    actions = np.array([first.act({}) for _ in range(2000)])
    np.testing.assert_allclose(actions.std(axis=0), [0.1, 1.0], rtol=0.1)
    assert np.array_equal(actions, [again.act({}) for _ in range(2000)])
    loud = NoisyPolicy(Still(), action, 50.0, np.random.default_rng(0)).act({})
    assert (np.abs(loud) <= action.high).all()


def test_the_one_joint_expert_reaches_the_known_optimum() -> None:
    environment, expert = OneJointEnvironment(), OneJointExpert()
    for seed in range(20):
        step = environment.reset(seed=seed)
        angle, target = step.observation["state"].astype(np.float64)
        total = 0.0
        while not step.last:
            step = environment.step(expert.act(step.observation))
            total += step.reward
        assert step.success
        assert total == pytest.approx(optimal_return(abs(target - angle), 20), abs=1e-5)


def test_the_optimal_return_by_hand() -> None:
    # 0.25 rad away, 0.1 rad a step: distances after the steps are 0.15, 0.05, 0, 0
    assert optimal_return(0.25, 4) == pytest.approx(-0.20)
