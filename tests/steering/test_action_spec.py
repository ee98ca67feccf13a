"""A critic is asked only about actions that it knows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import HIGH, LOW, spec

from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.steering.action_spec import ActionSpec, require_match
from robot_rl.transforms.action import ActionScale


def test_the_same_actions_match() -> None:
    require_match(spec(), spec())
    require_match(spec(control_period_s=None, semantics=None), spec(control_period_s=None, semantics=None))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 1, "scale": ActionScale(LOW[:1], HIGH[:1])}, "size 2, those of the critic 1"),
        ({"semantics": "joint_position_target"}, "semantics 'joint_velocity'"),
        ({"semantics": None}, "those of the critic None"),
        ({"rotation": "rpy"}, "rotation 'none', those of the critic 'rpy'"),
        ({"gripper": "open=1,close=0"}, "gripper"),
        ({"control_period_s": 0.05}, "control_period_s 0.1, those of the critic 0.05"),
        ({"control_period_s": None}, "control_period_s 0.1, those of the critic None"),
        ({"chunk": 1}, "set score_steps=1"),
        ({"chunk": 5}, "use a critic of shorter chunks"),
        ({"scale": ActionScale(LOW, np.array([2.0, 0.5]))}, r"dimension 1 the range \[0, 1\], .* \[0, 0.5\]"),
        ({"scale": ActionScale(np.array([-2.0, -9.0]), np.array([2.0, 9.0]))}, "different units"),
    ],
)
def test_a_critic_of_other_actions_is_refused_with_both_facts(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        require_match(spec(), spec(**changes))


def test_a_critic_of_the_first_step_has_to_be_asked_for() -> None:
    require_match(spec(), spec(chunk=1), score_steps=1)
    with pytest.raises(InputError, match="are judged"):
        require_match(spec(), spec(chunk=1), score_steps=2)
    with pytest.raises(InputError, match="score_steps=4"):
        require_match(spec(), spec(chunk=4), score_steps=4)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_units_to_the_critics_numbers_and_back(place: list[float]) -> None:
    actions = LOW + np.asarray(place) * (HIGH - LOW)
    ours = spec()
    np.testing.assert_allclose(ours.scale.unnormalize(ours.normalized(actions)), actions, atol=1e-6)


def test_what_lies_outside_is_not_cut() -> None:
    np.testing.assert_allclose(spec().normalized(np.array([4.0, 2.0])), [2.0, 3.0])


def test_a_runs_spec_says_what_its_actions_are() -> None:
    bounds = {"low": np.full(2, -1.0), "high": np.full(2, 1.0)}
    made = ActionSpec.from_spec(
        Spec(
            observation={},
            action=ArraySpec(shape=(2,), **bounds),
            control_period_s=0.1,
            action_semantics="osc_pose_delta",
            metadata={"gripper": "open=1,close=-1"},
        ),
        4,
    )
    assert (made.size, made.chunk, made.gripper, made.rotation) == (2, 4, "open=1,close=-1", "none")
    with pytest.raises(InputError, match="no bounds"):
        ActionSpec.from_spec(Spec(observation={}, action=ArraySpec(shape=(2,))))
