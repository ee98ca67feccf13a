"""Bytes of messages as arrays, against the deserialiser of `rosbags`, and what messages mean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore

from robot_rl.datasets.ingest.bag import BagReader
from robot_rl.datasets.ingest.bag_files import Topic
from robot_rl.datasets.ingest.bag_messages import Decoded, features
from robot_rl.datasets.ingest.bag_types import Schema, column, schema, stamps_ns, tables
from robot_rl.datasets.ingest.base import BagOptions, ReadOptions
from robot_rl.errors import InputError
from robot_rl.types import Array

RecordMessages = Callable[..., None]
STORES = {"cdr": get_typestore(Stores.ROS2_KILTED), "ros1": get_typestore(Stores.ROS1_NOETIC)}
TEXTS = ("", "a", "base_link", "über")


def made(store: Any, kind: str, random: np.random.Generator) -> Any:
    """A message of any type with random content."""
    values = {}
    for name, description in store.fielddefs[kind][1]:
        values[name] = value(store, description, random)
    return store.types[kind](**values)


def value(store: Any, description: Any, random: np.random.Generator) -> Any:
    match description:
        case (Nodetype.BASE, ("string", _)):
            return TEXTS[random.integers(len(TEXTS))]
        case (Nodetype.BASE, (base, _)):
            return numbers(base, 1, random)[0].item()
        case (Nodetype.NAME, name):
            return made(store, name, random)
        case (node, (element, bound)):
            count = bound if node == Nodetype.ARRAY else int(random.integers(4))
            if element[0] == Nodetype.BASE and element[1][0] != "string":
                return numbers(element[1][0], count, random)
            return [value(store, element, random) for _ in range(count)]
    raise AssertionError(description)


def numbers(base: str, count: int, random: np.random.Generator) -> Array:
    if base in ("float32", "float64"):
        return random.normal(size=count).astype(base)
    if base == "bool":
        return random.integers(0, 2, count).astype(bool)
    dtype = np.dtype({"byte": "uint8", "char": "uint8"}.get(base, base))
    return random.integers(0, 100, count).astype(dtype)


def found(message: Any, path: str) -> Any:
    """The field of a message at a path such as `points[0].x`."""
    for part in path.replace("[", ".[").split("."):
        message = message[int(part[1:-1])] if part.startswith("[") else getattr(message, part)
    return message


def plain(kind: str, encoding: str = "cdr") -> Schema:
    return schema(Topic(name="/t", type=kind, encoding=encoding), None, {})


@pytest.mark.parametrize("encoding", ["cdr", "ros1"])
@pytest.mark.parametrize("little", [True, False])
def test_every_number_of_every_message_type_is_where_rosbags_has_it(encoding: str, little: bool) -> None:
    if encoding == "ros1" and not little:
        pytest.skip("ROS 1 is little-endian")
    store, random = STORES[encoding], np.random.default_rng(0)
    packages = (
        "sensor_msgs",
        "geometry_msgs",
        "trajectory_msgs",
        "nav_msgs",
        "std_msgs",
        "diagnostic_msgs",
        "tf2_msgs",
    )
    kinds = [kind for kind in store.fielddefs if kind.split("/")[0] in packages]
    checked = 0
    for kind in kinds:
        for _ in range(3):
            message = made(store, kind, random)
            if encoding == "cdr":
                data = bytes(store.serialize_cdr(message, kind, little_endian=little))
            else:
                data = bytes(store.serialize_ros1(message, kind))
            layout = plain(kind, encoding).layout(data, kind)
            rows = np.frombuffer(data, np.uint8)[None]
            for path in layout.leaves:
                expected = np.atleast_1d(found(message, path))
                assert np.array_equal(column(layout, rows, path)[0], expected.reshape(-1)), (kind, path)
                checked += 1
            for path in layout.texts:
                assert layout.text(data, path) == found(message, path), (kind, path)
    assert checked > 2000


def test_messages_of_one_layout_are_one_table_and_others_another() -> None:
    store, random = STORES["cdr"], np.random.default_rng(0)
    kind = "sensor_msgs/msg/JointState"
    header = made(store, "std_msgs/msg/Header", random)
    expected, payloads = [], []
    for number in range(30):
        joints = 2 + number % 3
        position = random.normal(size=joints)
        message = store.types[kind](
            header=header,
            name=[f"j{k}" for k in range(joints)],
            position=position,
            velocity=np.zeros(0),
            effort=np.zeros(0),
        )
        expected.append(position)
        payloads.append(bytes(store.serialize_cdr(message, kind)))
    seen = 0
    for members, layout, rows in tables(payloads, plain(kind), "here"):
        values = column(layout, rows, "position")
        for row, member in enumerate(members):
            assert np.array_equal(values[row], expected[member])
        seen += 1
    assert seen == 3


def test_texts_of_the_same_length_do_not_hide_another_layout() -> None:
    store = STORES["cdr"]
    kind = "diagnostic_msgs/msg/KeyValue"
    pairs = [("ab", "wxyz"), ("abcdef", ""), ("abc", "xyz")] * 100
    payloads = [bytes(store.serialize_cdr(store.types[kind](key=a, value=b), kind)) for a, b in pairs]
    out = [""] * len(pairs)
    for members, layout, _ in tables(payloads, plain(kind), "here"):
        for member in members:
            out[member] = layout.text(payloads[member], "value")
    assert out == [b for _, b in pairs]


@pytest.mark.parametrize(("encoding", "seconds"), [("cdr", -5), ("cdr", 1_700_000_000), ("ros1", 2_000_000_000)])
def test_stamps_are_read_from_the_first_bytes(encoding: str, seconds: int) -> None:
    store = STORES[encoding]
    stamp = store.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=7)
    first = {"seq": 9} if encoding == "ros1" else {}
    header = store.types["std_msgs/msg/Header"](**first, stamp=stamp, frame_id="x")
    message = store.types["std_msgs/msg/Header"]
    for little in (True, False) if encoding == "cdr" else (True,):
        if encoding == "cdr":
            data = store.serialize_cdr(header, message.__msgtype__, little_endian=little)
        else:
            data = store.serialize_ros1(header, message.__msgtype__)
        prefix = np.frombuffer(bytes(data[:12]), np.uint8)[None]
        assert stamps_ns(prefix, encoding == "ros1").tolist() == [seconds * 10**9 + 7]


def first_features(kind: str, message: Any, **changes: Any) -> dict[str, Any]:
    data = bytes(STORES["cdr"].serialize_cdr(message, kind))
    settings: dict[str, Any] = {"field": None, "asked": False, "steady": True} | changes
    found, _ = features("/topic", plain(kind), data, settings.pop("field"), **settings)
    return {
        feature.key: (feature, feature.read(Decoded.of([data], feature.schema, "here"), "here")[0][0].tolist())
        for feature in found
    }


def test_quaternions_become_w_x_y_z_and_say_so() -> None:
    types = STORES["cdr"].types
    pose = types["geometry_msgs/msg/Pose"](
        position=types["geometry_msgs/msg/Point"](x=1.0, y=2.0, z=3.0),
        orientation=types["geometry_msgs/msg/Quaternion"](x=0.1, y=0.2, z=0.3, w=0.9),
    )
    feature, values = first_features("geometry_msgs/msg/Pose", pose)["topic"]
    assert values == [1.0, 2.0, 3.0, 0.9, 0.1, 0.2, 0.3]
    assert feature.spec.names[3:] == ("orientation.w", "orientation.x", "orientation.y", "orientation.z")
    assert feature.quaternions == (3,)


def test_an_inertial_unit_gives_three_observations_without_covariances() -> None:
    random = np.random.default_rng(1)
    imu = made(STORES["cdr"], "sensor_msgs/msg/Imu", random)
    found = first_features("sensor_msgs/msg/Imu", imu)
    assert list(found) == ["topic/orientation", "topic/angular_velocity", "topic/linear_acceleration"]
    assert found["topic/orientation"][1] == [getattr(imu.orientation, axis) for axis in "wxyz"]
    assert found["topic/angular_velocity"][0].spec.unit == "rad/s"


def test_what_a_driver_does_not_measure_is_left_out() -> None:
    types, random = STORES["cdr"].types, np.random.default_rng(1)
    state = types["sensor_msgs/msg/JointState"](
        header=made(STORES["cdr"], "std_msgs/msg/Header", random),
        name=["a", "b"],
        position=np.ones(2),
        velocity=np.full(2, np.nan),
        effort=np.zeros(0),
    )
    assert list(first_features("sensor_msgs/msg/JointState", state)) == ["topic/position"]


def test_whole_numbers_and_truth_values_keep_their_type() -> None:
    types = STORES["cdr"].types
    feature, values = first_features("std_msgs/msg/Int32", types["std_msgs/msg/Int32"](data=-7))["topic"]
    assert (feature.spec.dtype, feature.spec.shape, values) == ("int32", (1,), [-7])
    feature, values = first_features("std_msgs/msg/Bool", types["std_msgs/msg/Bool"](data=True))["topic"]
    assert (feature.spec.dtype, values) == ("bool", [True])


def test_the_first_point_of_a_trajectory_is_the_command() -> None:
    types, random = STORES["cdr"].types, np.random.default_rng(1)
    duration = types["builtin_interfaces/msg/Duration"](sec=0, nanosec=0)

    def point(position: float) -> Any:
        return types["trajectory_msgs/msg/JointTrajectoryPoint"](
            positions=np.array([position, -position]),
            velocities=np.zeros(0),
            accelerations=np.zeros(0),
            effort=np.zeros(0),
            time_from_start=duration,
        )

    trajectory = types["trajectory_msgs/msg/JointTrajectory"](
        header=made(STORES["cdr"], "std_msgs/msg/Header", random),
        joint_names=["a", "b"],
        points=[point(1.0), point(2.0), point(3.0)],
    )
    found = first_features("trajectory_msgs/msg/JointTrajectory", trajectory)
    assert {key: values for key, (_, values) in found.items()} == {"topic/positions": [1.0, -1.0]}
    assert found["topic/positions"][0].spec.names == ("a", "b")
    field = first_features("trajectory_msgs/msg/JointTrajectory", trajectory, field="positions", asked=True)
    assert field["topic/positions"][1] == [1.0, -1.0]


def test_a_layout_of_an_array_and_its_data_are_told_apart() -> None:
    types = STORES["cdr"].types
    dimension = types["std_msgs/msg/MultiArrayDimension"](label="joints", size=3, stride=3)
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=[dimension], data_offset=0)
    array = types["std_msgs/msg/Float64MultiArray"](layout=layout, data=np.array([1.0, 2.0, 3.0]))
    assert first_features("std_msgs/msg/Float64MultiArray", array)["topic"][1] == [1.0, 2.0, 3.0]
    with pytest.raises(InputError, match="no numbers of a fixed count"):
        first_features("std_msgs/msg/Float64MultiArray", array, steady=False)


def joint_states(names: list[list[str]]) -> Callable[[dict[str, Any], bool], Any]:
    """States whose position is the number of the message, and 100 for joints called b."""

    def messages(types: dict[str, Any], ros1: bool) -> Any:
        del ros1
        for number in range(100):
            stamp = types["builtin_interfaces/msg/Time"](sec=100 + number // 10, nanosec=number % 10 * 10**8)
            header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
            joints = names[number % len(names)]
            position = np.array([number + 100.0 * (joint == "b") for joint in joints])
            kind = types["sensor_msgs/msg/JointState"]
            empty = np.zeros(0)
            state = kind(header=header, name=joints, position=position, velocity=empty, effort=empty)
            yield "/joint_states", 100 * 10**9 + number * 10**8, state

    return messages


def test_messages_without_all_joints_are_another_publishers(record_messages: RecordMessages, tmp_path: Path) -> None:
    record_messages(tmp_path / "two", "mcap", joint_states([["gripper"], ["a", "b"], ["b", "a"]]))
    with BagReader().open(tmp_path / "two", ReadOptions(control_period_s=0.3)) as recording:
        rows = recording.read(0).observation["joint_states/position"]
        assert recording.spec.observation["joint_states/position"].names == ("a", "b")
        assert any("name other joints (gripper)" in finding.text for finding in recording.findings)
    assert np.allclose(rows[:, 1] - rows[:, 0], 100)  # in the order of the first message


def test_an_unknown_type_is_a_finding_unless_it_is_asked_for(record_messages: RecordMessages, tmp_path: Path) -> None:
    unknown = Topic(name="/x", type="lab_msgs/msg/Grip", encoding="cdr")
    with pytest.raises(InputError, match=r"lab_msgs/msg/Grip is not known: give its \.msg file"):
        schema(unknown, None, {})
    with pytest.raises(InputError, match="encoded as 'protobuf'"):
        schema(Topic(name="/x", type="lab.Grip", encoding="protobuf"), None, {})
    del record_messages, tmp_path


def test_definitions_in_files_are_used(tmp_path: Path) -> None:
    from robot_rl.datasets.ingest.bag_types import user_definitions

    folder = tmp_path / "lab_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Grip.msg").write_text("float32 width\nuint8 OPEN=1\nlab_msgs/Contact[2] contacts\n")
    (folder / "Contact.msg").write_text("float64 force\n")
    types = user_definitions([str(folder / "Grip.msg"), str(folder / "Contact.msg")])
    found = schema(Topic(name="/x", type="lab_msgs/msg/Grip", encoding="cdr"), None, types)
    data = b"\0\1\0\0" + np.float32(0.5).tobytes() + b"\0" * 4 + np.array([1.0, 2.0]).tobytes()
    feature = features("/x", found, data, None, asked=False, steady=True)[0][0]
    assert feature.read(Decoded.of([data], found, "here"), "here")[0].tolist() == [[0.5, 1.0, 2.0]]
    with pytest.raises(InputError, match="cannot be read"):
        user_definitions([str(folder / "None.msg")])
    (folder / "Bad.msg").write_text("float32 %%%")
    with pytest.raises(InputError, match="is no message definition"):
        user_definitions([str(folder / "Bad.msg")])


def test_bytes_that_do_not_fit_the_type_are_refused() -> None:
    store, random = STORES["cdr"], np.random.default_rng(0)
    kind = "sensor_msgs/msg/JointState"
    data = bytearray(store.serialize_cdr(made(store, kind, random), kind))
    for cut in range(0, len(data) - 8, 3):
        with pytest.raises(InputError, match="does not fit its type"):
            plain(kind).layout(bytes(data[:cut]), "here")
    huge = bytes(data[:12]) + b"\xff\xff\xff\x7f" + bytes(data[16:])
    with pytest.raises(InputError, match="ends at byte"):
        plain(kind).layout(huge, "here")
    with pytest.raises(InputError, match="not plain CDR"):
        plain(kind).layout(b"\0\7" + bytes(data[2:]), "here")


def test_options_are_checked_against_the_topics(record_messages: RecordMessages, tmp_path: Path) -> None:
    record_messages(tmp_path / "arm", "mcap", joint_states([["a", "b"]]))
    chosen = ReadOptions(bag=BagOptions(marker="/joint_states"))
    with pytest.raises(InputError, match="Bool, String or Empty"):
        BagReader().open(
            tmp_path / "arm", ReadOptions(bag=BagOptions(observations=["joint_states"], marker="joint_states"))
        )
    with pytest.raises(InputError, match="no topic that can be an observation"):
        BagReader().open(tmp_path / "arm", chosen)
