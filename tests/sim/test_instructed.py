"""One scene, five instructions: nothing but the words says what is wanted, and each task can be done."""

from collections.abc import Iterator

import numpy as np
import pytest

from robot_rl.errors import InputError
from robot_rl.sim.instructed import CUBE, HAND, INSTRUCTION, TASKS, Follower, InstructedEnvironment, cube_of
from robot_rl.sim.robosuite_env import RobosuiteEnvironment
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, TimeStep

KEYS = [HAND, "robot0_gripper_qpos", CUBE]


def vector(text: str) -> Array:
    return np.array([len(text), text.count("e")], np.float32)


@pytest.fixture(scope="module")
def scene() -> Iterator[InstructedEnvironment]:
    """robosuite's Lift under instructions."""
    inner = RobosuiteEnvironment(
        task="Lift", controller="OSC_POSITION", maximum_steps=80, observation=KEYS, terminate_on_success=False
    )
    environment = InstructedEnvironment(inner, TASKS, vector)
    yield environment
    environment.close()


@pytest.mark.parametrize("number", range(len(TASKS)))
def test_each_task_can_be_done_and_is_rewarded_when_it_is(scene: InstructedEnvironment, number: int) -> None:
    scene.assign(number)
    expert = scene.task.expert(scene.spec)
    expert.reset()
    step = scene.reset(seed=3)
    assert step.success is False
    np.testing.assert_array_equal(step.observation[INSTRUCTION], vector(TASKS[number].text))
    rewards = []
    while not step.last:
        step = scene.step(expert.act(step.observation))
        rewards.append(step.reward)
    assert (step.success, step.terminated, step.truncated) == (True, True, False)
    assert rewards == [-1.0] * (len(rewards) - 1) + [0.0]
    with pytest.raises(RuntimeError, match="call reset first"):
        scene.step(np.zeros(4))


def test_tasks_begin_alike_so_that_words_alone_tell_them_apart(scene: InstructedEnvironment) -> None:
    seen = []
    for number in range(len(TASKS)):
        scene.assign(number)
        seen.append(scene.reset(seed=5).observation)
    for each in seen[1:]:
        for key in KEYS:
            np.testing.assert_array_equal(each[key], seen[0][key])
    assert len({each[INSTRUCTION].tobytes() for each in seen}) == len(TASKS)
    with pytest.raises(InputError, match="task 5: there are 5"):
        scene.assign(5)


class Still:
    """A scene that shows what it is told to."""

    maximum_steps = 9
    spec = Spec(
        observation={HAND: ArraySpec(shape=(3,)), CUBE: ArraySpec(shape=(10,))},
        action=ArraySpec(shape=(4,), low=-np.ones(4), high=np.ones(4)),
        action_semantics="osc_position_delta",
    )

    def __init__(self, cubes: list[list[float]], hand: list[float]) -> None:
        self.cubes, self.hand = iter(cubes), np.array(hand, np.float32)

    def show(self) -> TimeStep:
        cube = np.concatenate([np.array(next(self.cubes)), np.zeros(7)]).astype(np.float32)
        return TimeStep(observation={HAND: self.hand, CUBE: cube}, success=True)

    def reset(self, *, seed: int) -> TimeStep:
        return self.show()

    def step(self, action: Array) -> TimeStep:
        return self.show()

    def render(self) -> Array:
        raise NotImplementedError

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("text", "moved", "hand", "done"),
    [
        ("lift the cube", [0.0, 0.0, 0.05], [1.0, 0, 0], True),
        ("lift the cube", [0.0, 0.0, 0.03], [1.0, 0, 0], False),
        ("push the cube to the left", [0.0, 0.06, 0.0], [1.0, 0, 0], True),
        ("push the cube to the left", [0.0, -0.06, 0.0], [1.0, 0, 0], False),
        ("push the cube to the left", [0.0, 0.06, -0.5], [1.0, 0, 0], False),  # it fell off the table
        ("push the cube to the right", [0.0, -0.06, 0.0], [1.0, 0, 0], True),
        ("touch the cube", [0.0, 0.0, 0.0], [0.0, 0.01, 0.0], True),
        ("touch the cube", [0.0, 0.0, 0.0], [0.0, 0.03, 0.0], False),
        ("hold the hand above the cube", [0.0, 0.0, 0.0], [0.0, 0.0, 0.12], True),
        ("hold the hand above the cube", [0.0, 0.0, 0.0], [0.0, 0.0, 0.08], False),
    ],
)
def test_a_task_is_done_where_its_words_say_so_whatever_the_scene_calls_success(
    text: str, moved: list[float], hand: list[float], done: bool
) -> None:
    scene = InstructedEnvironment(Still([[0.0, 0.0, 0.0], moved], hand), TASKS, vector)
    scene.assign([task.text for task in TASKS].index(text))
    scene.reset(seed=0)
    step = scene.step(np.zeros(4))
    assert (step.success, step.terminated) == (done, done)
    assert step.reward == (0.0 if done else -1.0)


def test_experts_and_scenes_that_do_not_fit_are_refused() -> None:
    class Blind(Still):
        spec = Spec(observation={HAND: ArraySpec(shape=(3,))}, action=Still.spec.action)

    with pytest.raises(InputError, match="need the observations"):
        InstructedEnvironment(Blind([], [0.0]), TASKS, vector)
    with pytest.raises(InputError, match="OSC_POSE"):
        Follower(Blind.spec, cube_of)
