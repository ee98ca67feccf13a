"""States are read from observations as they were, or the task is refused with the joint that is missing."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from robot_rl.errors import InputError
from robot_rl.sim.dm_control_env import DmControlEnvironment
from robot_rl.sim.gymnasium_env import GymnasiumEnvironment
from robot_rl.sim.robosuite_env import RobosuiteEnvironment
from robot_rl.sim.state_reading import flat, read_layout, read_states
from robot_rl.testing.contracts import actions_of

READABLE: dict[str, Callable[[], Any]] = {
    "positions": lambda: GymnasiumEnvironment(id="HalfCheetah-v5"),
    "sines and cosines": lambda: GymnasiumEnvironment(id="Reacher-v5"),
    "a free joint in part": lambda: GymnasiumEnvironment(id="Ant-v5", arguments={"terminate_when_unhealthy": False}),
    "several keys": lambda: DmControlEnvironment(domain="cartpole", task="swingup"),
    "an arm and a cube": lambda: RobosuiteEnvironment(
        task="Lift", observation=["robot0_joint_pos", "robot0_joint_vel", "robot0_gripper_qpos", "object"]
    ),
}


@pytest.mark.parametrize("name", READABLE)
def test_states_are_read_as_they_were(name) -> None:
    with closing(READABLE[name]()) as simulator:
        layout = read_layout(simulator)
        simulator.reset(seed=3)
        model, data = simulator.physics
        rows, positions, velocities = [], [], []
        for action in actions_of(simulator.spec, 0, 20):
            rows.append(flat(simulator.advance(action), layout.keys))
            positions.append(data.qpos.copy())
            velocities.append(data.qvel.copy())
        period_s = float(model.opt.timestep) * simulator.substeps
        read = read_states(model, layout, np.array(rows), data.qpos.copy(), period_s)
        seen = list(layout.position)
        late = name == "an arm and a cube"  # robosuite tells the cube's pose of one physics step ago
        turned = (read[0] - np.array(positions))[:, seen]
        assert np.abs((turned + np.pi) % (2 * np.pi) - np.pi).max() < (1e-3 if late else 1e-5)
        known = list(layout.velocity)
        assert np.allclose(read[1][:, known], np.array(velocities)[:, known], atol=1e-4)
        assert read[2].all()
        differenced = list(layout.differenced)
        speed = np.abs(np.array(velocities)[:, differenced]).max(initial=0.0)
        error = np.abs(read[1][1:-1, differenced] - np.array(velocities)[1:-1, differenced]).max(initial=0.0)
        assert error <= 0.5 * speed + 1e-6  # a difference over two periods


def test_a_velocity_that_is_cut_is_no_state_to_start_from() -> None:
    with closing(GymnasiumEnvironment(id="Hopper-v5")) as simulator:
        layout = read_layout(simulator)
        assert set(layout.cut.values()) == {10.0}
        rows = np.tile(flat(simulator.observe(), layout.keys), (3, 1))
        rows[:, list(layout.velocity.values())] = 1.0
        rows[1, layout.velocity[3]] = -10.0
        trusted = read_states(simulator.physics[0], layout, rows, simulator.physics[1].qpos.copy(), 0.008)[2]
        assert trusted.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DmControlEnvironment(domain="walker", task="walk"), "the motors drive joint 'right_hip'"),
        (lambda: RobosuiteEnvironment(task="Lift"), "the motors drive joint 'robot0_joint1'.*environment.observation"),
        (lambda: GymnasiumEnvironment(id="FetchReach-v4", success="is_success"), "simulates no motors of the arm"),
        (lambda: GymnasiumEnvironment(id="Pendulum-v1"), "Pendulum-v1 is not a MuJoCo task"),
    ],
)
def test_tasks_whose_states_cannot_be_read_are_refused_by_what_is_missing(make, message) -> None:
    with closing(make()) as simulator, pytest.raises(InputError, match=message):
        read_layout(simulator)
