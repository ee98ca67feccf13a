"""Messages become parts of an observation, with their ages; without ROS."""

import math
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg

from robot_rl.errors import InputError
from robot_rl.hardware.description import load
from robot_rl.hardware.observations import Observer, decode, parts_of, square
from robot_rl.hardware.robot_spec import make_spec
from robot_rl.hardware.watch import nanoseconds

ROBOT = load("sim_panda")
S = 1_000_000_000
RED = np.zeros((4, 6, 3), np.uint8)
RED[..., 0] = 200


def states(positions: list[float], velocities: list[float] | None = None, names: Any = ROBOT.names) -> Any:
    return SimpleNamespace(name=list(names), position=positions, velocity=velocities or [0.0] * len(positions))


def image(encoding: str, pixels: np.ndarray[Any, Any], padding: int = 0) -> Any:
    rows = np.pad(pixels.reshape(len(pixels), -1), ((0, 0), (0, padding)), constant_values=99)
    height, width = pixels.shape[:2]
    return SimpleNamespace(encoding=encoding, height=height, width=width, step=rows.shape[1], data=rows.tobytes())


def test_joints_come_by_name_whatever_their_order_and_with_others_among_them() -> None:
    observer = Observer(parts_of(ROBOT, ["joint_position", "joint_velocity"], 8))
    names = [*ROBOT.names[::-1], "finger"]
    observer.take("joint_states", states([*range(7), 9], [*range(10, 17), 9], names), 1, 1)
    assert observer.read("joint_position").tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert observer.read("joint_velocity").tolist() == [16, 15, 14, 13, 12, 11, 10]


def test_what_has_no_numbers_has_not_come_and_the_reason_says_so() -> None:
    observer = Observer(parts_of(ROBOT, ["joint_position", "joint_velocity"], 8))
    bad = [states([math.nan] * 7), states([0.0] * 6, names=ROBOT.names[:6]), states([0.0] * 7, [math.inf] * 7)]
    for message in bad:
        observer.take("joint_states", message, 1, S)
    assert observer.stale(S, -1) == ["joint_position", "joint_velocity"]
    why = observer.why_stale(["joint_velocity"], S)
    assert "nothing came, 1 messages did not have the velocities of all joints" in why
    assert ROBOT.joint_states.topic in why


def test_a_part_is_stale_when_it_is_older_than_its_topic_allows_or_from_before_the_reset() -> None:
    observer = Observer(parts_of(ROBOT, ["joint_position", "target"], 8))
    point = SimpleNamespace(point=SimpleNamespace(x=1.0, y=2.0, z=3.0))
    observer.take("joint_states", states([0.0] * 7), 5, 10 * S)
    observer.take("points.target", point, 7, 10 * S)
    limit = nanoseconds(ROBOT.points["target"].maximum_age_s)
    assert observer.stale(10 * S + limit, -1) == []
    assert observer.stale(10 * S + limit + 1, -1) == ["joint_position", "target"]
    assert observer.stale(10 * S, 10 * S) == ["joint_position", "target"]
    assert observer.ages_s(11 * S) == {"joint_position": 1.0, "target": 1.0}
    assert observer.read("target").tolist() == [1, 2, 3]


def test_an_older_stamp_does_not_replace_a_newer_one_unless_the_clock_was_set_back_for_good() -> None:
    observer = Observer(parts_of(ROBOT, ["joint_position"], 8))
    observer.take("joint_states", states([1.0] * 7), 100, S)
    observer.take("joint_states", states([2.0] * 7), 99, S + 1)
    assert observer.read("joint_position")[0] == 1.0
    observer.take("joint_states", states([3.0] * 7), 50, 3 * S)
    assert observer.read("joint_position")[0] == 3.0


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RED),
        ("bgr8", RED[..., ::-1]),
        ("rgba8", np.concatenate([RED, RED[..., :1]], axis=2)),
        ("bgra8", np.concatenate([RED[..., ::-1], RED[..., :1]], axis=2)),
    ],
)
def test_raw_images_become_rgb(encoding: str, pixels: np.ndarray[Any, Any], padding: int) -> None:
    assert np.array_equal(decode(image(encoding, np.ascontiguousarray(pixels), padding)), RED)


def test_grey_and_compressed_images_become_rgb() -> None:
    grey = np.full((4, 6, 1), 77, np.uint8)
    assert np.array_equal(decode(image("mono8", grey)), np.repeat(grey, 3, axis=2))
    jpeg = simplejpeg.encode_jpeg(RED, quality=95, colorsubsampling="444")
    assert np.abs(decode(SimpleNamespace(format="jpeg", data=jpeg)).astype(int) - RED).max() < 6
    png = cv2.imencode(".png", np.ascontiguousarray(RED[..., ::-1]))[1].tobytes()
    assert np.array_equal(decode(SimpleNamespace(format="png", data=png)), RED)


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(InputError, match="encoding '16UC1'; rgb8"):
        decode(image("16UC1", RED))
    with pytest.raises(InputError, match="format 'h264' cannot be read"):
        decode(SimpleNamespace(format="h264", data=b"\x00\x01"))


def test_images_are_cut_to_their_middle_square_and_scaled() -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 100
    assert (square(wide, 4) == 100).all()
    assert square(wide, 2).tolist() == np.full((2, 2, 3), 100).tolist()
    assert square(wide, 8).shape == (8, 8, 3)


def test_all_but_the_cameras_is_observed_unless_it_is_asked_for() -> None:
    assert list(parts_of(ROBOT, None, 8)) == ["joint_position", "joint_velocity", "tool_pose", "wrench", "target"]
    assert list(parts_of(ROBOT, ["wrist", "target"], 8)) == ["wrist", "target"]
    with pytest.raises(InputError, match="offers no 'wirst': did you mean 'wrist'"):
        parts_of(ROBOT, ["wirst"], 8)


@pytest.mark.parametrize(
    ("action", "high", "unit", "semantics"),
    [
        ("velocity", 0.15 * 2.175, "rad/s", "joint_velocity"),
        ("delta", 0.15 * 2.175 / 20, "rad", "joint_position_delta"),
        ("position", 2.8973, "rad", "joint_position_target"),
    ],
)
def test_the_bounds_of_an_action_follow_from_the_description(
    action: str, high: float, unit: str, semantics: str
) -> None:
    spec = make_spec(ROBOT, parts_of(ROBOT, None, 8), action, 0.15, "realtime")
    assert spec.action.high is not None
    assert spec.action.high[0] == pytest.approx(high)
    assert (spec.action.unit, spec.action_semantics, spec.control_period_s) == (unit, semantics, 0.05)


def test_a_picture_that_stays_the_same_while_the_robot_moves_is_as_old_as_the_motion() -> None:
    observer = Observer(parts_of(ROBOT, ["joint_position", "front"], 8), ROBOT.joints)
    moved = ROBOT.joints[2].tracking * 1.01

    def hear(time_s: float, third: float, pixels: np.ndarray[Any, Any]) -> None:
        now = nanoseconds(time_s)
        observer.take("joint_states", states([0.0, 0.0, third, 0.0, 0.0, 0.0, 0.0]), now, now)
        observer.take("front", image("rgb8", pixels), now, now)

    for time_s in (1.0, 2.0, 3.0):  # it stands, so the picture may stay
        hear(time_s, 0.0, RED)
    assert observer.stale(nanoseconds(3.0), -1) == []
    hear(3.1, moved, RED)
    hear(3.2, moved, RED)
    assert observer.ages_s(nanoseconds(3.2))["front"] == pytest.approx(0.2)
    hear(3.4, 0.0, RED)  # back where it was: still not believed
    assert observer.stale(nanoseconds(3.4), -1) == ["front"]
    assert "the same picture for 0.400 s in which the robot moved" in observer.why_stale(["front"], nanoseconds(3.4))
    hear(3.5, 0.0, RED + 1)
    assert observer.ages_s(nanoseconds(3.5))["front"] == 0.0
    assert observer.stale(nanoseconds(3.5), -1) == []
