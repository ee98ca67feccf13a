"""Quaternions are found among channels, and only quaternions are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.datasets.validation.quaternions import (
    QuaternionFacts,
    WindowFacts,
    continuous,
    declared_groups,
    normalised,
)
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode


def turning(steps: int, seed: int = 0) -> Array:
    """A smooth random rotation. Shapes: (steps, 4), w first."""
    rng = np.random.default_rng(seed)
    angle = np.cumsum(rng.normal(0, 0.05, (steps, 3)), axis=0) + rng.normal(0, 0.8, 3)
    half = np.linalg.norm(angle, axis=1, keepdims=True) / 2
    return np.concatenate([np.cos(half), np.sin(half) * angle / (2 * half)], axis=1)


def groups(rows: Array, names: tuple[str, ...] | None = None) -> list[int]:
    facts = WindowFacts("state", ArraySpec(shape=rows.shape[1:], dtype="float64", names=names))
    facts.add(0, rows)
    return facts.groups()


def test_a_quaternion_is_found_between_other_channels() -> None:
    noise = np.random.default_rng(1).normal(size=(200, 3))
    rows = np.concatenate([noise, turning(200), noise, turning(200, 5)], axis=1)
    assert groups(rows) == [3, 10]
    assert groups(rows.astype(np.float32)) == [3, 10]


def test_what_only_looks_like_a_quaternion_is_left_alone() -> None:
    rng = np.random.default_rng(2)
    direction = turning(300)[:, 1:]
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    small = rng.normal(0, 0.02, (300, 3))
    assert groups(np.concatenate([direction, small], axis=1)) == []  # the pen's desired direction and its error
    angle = np.linspace(0, 3, 300)[:, None]
    zeros = np.zeros((300, 2))
    assert groups(np.concatenate([np.cos(angle), np.sin(angle), zeros], axis=1)) == []
    code = np.eye(4)[rng.integers(0, 4, 300)]
    assert groups(code) == []
    assert groups(rng.normal(size=(300, 6))) == []
    assert groups(np.tile([0.5, 0.5, 0.5, 0.5], (300, 1))) == []  # never moves


def test_names_declare_a_rotation_about_one_axis() -> None:
    angle = np.linspace(0, 3, 300)[:, None]
    rows = np.concatenate([np.ones((300, 1)), np.cos(angle), np.zeros((300, 2)), np.sin(angle)], axis=1)
    assert groups(rows) == []
    assert groups(rows, ("x", "tool_qw", "tool_qx", "tool_qy", "tool_qz")) == [1]
    assert declared_groups(ArraySpec(shape=(4,), names=("quat_x", "quat_y", "quat_z", "quat_w"))) == [0]
    assert declared_groups(ArraySpec(shape=(4,), names=("w", "x", "y", "z"))) == []  # may be anything


def facts_of(rows: Array) -> str:
    steps = len(rows) - 1
    spec = Spec(
        observation={"pose": ArraySpec(shape=rows.shape[1:], dtype="float64")},
        action=ArraySpec(shape=(1,), dtype="float64"),
    )
    episode = Episode(
        observation={"pose": rows},
        action=np.random.default_rng(0).normal(size=(steps, 1)),
        reward=np.zeros(steps),
        terminated=np.zeros(steps, bool),
        truncated=np.arange(steps) == steps - 1,
    )
    facts = QuaternionFacts(spec, "s.zarr")
    facts.add(0, replace(episode))
    facts.add(1, episode)
    return "\n".join(f"{f.severity} {f.place}: {f.text} -> {f.remedy}" for f in facts.findings())


def test_sign_flips_and_norms_are_told_with_the_way_to_repair_them() -> None:
    good = turning(100)
    assert facts_of(good) == ""
    flipped = good.copy()
    flipped[40:60] *= -1
    found = facts_of(flipped)
    assert "warning observation 'pose': the quaternions in channels 0-3 jump to the other sign 4 times" in found
    assert "in episodes 0, 1 -> make them continuous: `robot-rl inspect s.zarr --fix`" in found
    stretched = good * np.where(np.arange(100) == 7, 1.0012, 1.0)[:, None]
    assert "the norms of the quaternions in channels 0-3 differ from 1 by up to 0.0012" in facts_of(stretched)


@given(st.integers(0, 50), st.lists(st.booleans(), min_size=30, max_size=30))
def test_continuous_undoes_any_flips(seed: int, flips: list[bool]) -> None:
    smooth = turning(30, seed)
    signs = np.where(flips, -1.0, 1.0)[:, None]
    repaired = continuous(smooth * signs)
    np.testing.assert_array_equal(repaired, smooth * signs[0])  # the sign of the first row is kept
    np.testing.assert_array_equal(continuous(repaired), repaired)


def test_norms_are_repaired_where_they_are_slightly_off() -> None:
    rows = turning(3) * np.asarray([[1.004], [1.0], [1.5]])
    repaired = normalised(rows)
    # 1.004 is rounding; 1.0 needs nothing; 1.5 is no rounding, so it is left for a person
    np.testing.assert_allclose(np.linalg.norm(repaired, axis=1), [1.0, 1.0, 1.5])
    np.testing.assert_array_equal(normalised(repaired), repaired)
    assert normalised(rows.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("width", [1, 2, 3])
def test_fewer_than_four_channels_hold_no_quaternion(width: int) -> None:
    assert groups(np.random.default_rng(0).normal(size=(50, width))) == []
