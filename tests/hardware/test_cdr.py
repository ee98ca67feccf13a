"""Joint states in bytes are those that others write and read: the serialiser of rosbags, which is not ours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import Stores, get_typestore

from robot_rl.hardware.cdr import JointReader, JointWriter, write_numbers

STORE = get_typestore(Stores.ROS2_KILTED)
JOINT_STATE = "sensor_msgs/msg/JointState"
NAMES = st.lists(st.text(max_size=6), max_size=8)
NUMBERS = st.floats(allow_nan=False, width=64)


def reference(stamp_ns: int, frame: str, names: list[str], lists: list[list[float]], *, little: bool = True) -> bytes:
    types = STORE.types
    stamp = types["builtin_interfaces/msg/Time"](stamp_ns // 10**9, stamp_ns % 10**9)
    header = types["std_msgs/msg/Header"](stamp, frame)
    message = types[JOINT_STATE](header, names, *(np.array(values, np.float64) for values in lists))
    return bytes(STORE.serialize_cdr(message, JOINT_STATE, little_endian=little))


@settings(max_examples=60, deadline=None)
@given(st.data(), NAMES, st.text(max_size=9), st.integers(0, 2**31 * 10**9 - 1))
def test_messages_are_those_of_another_serialiser(data: st.DataObject, names: list[str], frame: str, ns: int) -> None:
    count = len(names)
    lists = [data.draw(st.one_of(st.just([]), st.lists(NUMBERS, min_size=count, max_size=count))) for _ in range(3)]
    position, velocity, effort = lists
    wanted = reference(ns, frame, names, lists)
    assert JointWriter(names)(ns, frame, position=position, velocity=velocity, effort=effort) == wanted
    for little in (True, False):
        found = JointReader()(reference(ns, frame, names, lists, little=little))
        assert (found.header.stamp.sec, found.header.stamp.nanosec) == divmod(ns, 10**9)
        assert (found.header.frame_id, list(found.name)) == (frame, names)
        assert [list(found.position), list(found.velocity), list(found.effort)] == lists


def test_a_reader_notices_other_names_and_gives_the_same_ones_once() -> None:
    read, first, second = JointReader(), ["a", "b"], ["b", "a"]
    found = [read(reference(k, "", names, [[1.0, 2.0], [], []])) for k, names in enumerate([first, first, second])]
    assert [message.name for message in found] == [("a", "b"), ("a", "b"), ("b", "a")]
    assert found[0].name is found[1].name


@pytest.mark.parametrize("cut", [0, 3, 10, 17, 30, 60])
def test_bytes_that_are_no_message_are_refused(cut: int) -> None:
    content = reference(1, "base", ["joint_1", "joint_2"], [[1.0, 2.0], [3.0, 4.0], []])
    with pytest.raises(ValueError, match=r"no sensor_msgs/JointState"):
        JointReader()(content[:cut])
    with pytest.raises(ValueError, match=r"no sensor_msgs/JointState"):
        JointReader()(content[:8] + b"\xff" * 40)


@given(st.lists(NUMBERS, min_size=1, max_size=9))
def test_numbers_alone_are_a_float64_multi_array(values: list[float]) -> None:
    types = STORE.types
    layout = types["std_msgs/msg/MultiArrayLayout"]([], 0)
    message = types["std_msgs/msg/Float64MultiArray"](layout, np.array(values))
    assert write_numbers(values) == bytes(STORE.serialize_cdr(message, "std_msgs/msg/Float64MultiArray"))
