"""An adversary's forces act on the bodies that it names, in newton, and are hidden from the commands."""

from contextlib import closing

import mujoco
import numpy as np
import pytest

from robot_rl.apps.build_environment import build_environment
from robot_rl.apps.compose import compose
from robot_rl.errors import InputError
from robot_rl.sim.adversary import AdversaryEnvironment
from robot_rl.sim.dm_control_env import DmControlEnvironment
from robot_rl.sim.gap import Gap
from robot_rl.sim.gap_env import GapEnvironment
from robot_rl.sim.gymnasium_env import GymnasiumEnvironment
from robot_rl.testing.contracts import ENVIRONMENT_CHECKS, actions_of, need_equal, roll_out

BODY = "torso"


def cheetah() -> GymnasiumEnvironment:
    return GymnasiumEnvironment(id="HalfCheetah-v5", maximum_steps=60, render_size=64)


def pushed(force_n: float = 40.0, gap: Gap | None = None) -> AdversaryEnvironment:
    simulator = cheetah()
    inner = simulator if gap is None else GapEnvironment(simulator, gap)
    return AdversaryEnvironment(inner, simulator, bodies=[BODY], maximum_force_n=force_n)


@pytest.mark.parametrize("check", ENVIRONMENT_CHECKS, ids=lambda check: check.__name__)
def test_environments_with_an_adversary_keep_the_contract(check) -> None:
    check(pushed)


def test_a_force_accelerates_by_itself_over_the_mass_that_it_moves() -> None:
    with closing(pushed(40.0)) as environment:
        environment.reset(seed=0)
        simulator = environment._simulator
        model, data = simulator.physics
        data.qpos[1], data.qvel[:] = 5.0, 0.0  # in the air: only gravity and the force
        commands = np.zeros(6)
        environment.step(np.concatenate([commands, [0.5, 0.0, 0.0]]))
        mujoco.mj_forward(model, data)
        mujoco.mj_subtreeVel(model, data)
        moved = float(data.subtree_linvel[0, 0])  # of the centre of mass of all bodies
        # 20 N for 50 ms on 14 kg
        assert moved == pytest.approx(20.0 * 0.05 / 14.0, rel=0.05)  # rotors of the joints take a little


def test_zeros_are_the_undisturbed_task_and_a_force_ends_with_its_step() -> None:
    with closing(pushed()) as environment, closing(cheetah()) as plain:
        actions = actions_of(plain.spec, 0, 12)
        calm = np.concatenate([actions, np.zeros((12, 3))], axis=1)
        hit = calm.copy()
        hit[0, 6:] = 1.0
        roll_out(environment, 4, hit)  # nothing of it is left
        undisturbed = roll_out(environment, 4, calm)
        need_equal(undisturbed, roll_out(plain, 4, actions), "undisturbed")
        assert not np.allclose(
            undisturbed[2].observation["state"], roll_out(environment, 4, hit)[2].observation["state"]
        )
        environment.step(calm[-1])
        assert not environment._simulator.physics[1].xfrc_applied.any()


def test_what_is_recorded_are_commands_and_forces_inside_their_bounds() -> None:
    with closing(pushed(gap=Gap(action_delay_s=0.02, action_bits=4))) as environment:
        environment.reset(seed=0)
        sent = np.concatenate([np.full(6, 0.33), [2.0, -2.0, 0.5]])
        step = environment.step(sent)
        assert step.action == pytest.approx(np.concatenate([np.full(6, 0.33), [1.0, -1.0, 0.5]]))
        assert environment.spec.action.names[-3:] == ("torso force x", "torso force y", "torso force z")
        assert environment.spec.metadata["gap"]["values"]["action_bits"] == 4


def test_bodies_that_no_force_moves_are_refused_by_name() -> None:
    with (
        closing(cheetah()) as simulator,
        pytest.raises(InputError, match="no body 'torsoo' that moves: did you mean 'torso'"),
    ):
        AdversaryEnvironment(simulator, simulator, bodies=["torsoo"], maximum_force_n=1.0)
    cartpole = DmControlEnvironment(domain="cartpole", task="swingup")
    with closing(cartpole), pytest.raises(InputError, match="no body 'world' that moves"):
        AdversaryEnvironment(cartpole, cartpole, bodies=["world"], maximum_force_n=1.0)


def test_the_history_of_commands_does_not_show_who_pushes() -> None:
    words = ["environment=half_cheetah", "environment.action_history=2", "environment.adversary.bodies=[torso]"]
    with closing(build_environment(compose("evaluate", words).environment)) as environment:
        assert environment.spec.action.shape == (9,)
        assert environment.spec.observation["action_history"].shape == (12,)
