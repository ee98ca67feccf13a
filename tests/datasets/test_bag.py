"""Bags of a simulated arm against what the arm did, in every container."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from robot_rl.datasets.frames import EncodedFrames
from robot_rl.datasets.ingest.bag import BagReader, summary
from robot_rl.datasets.ingest.bag_source import find_bags, open_bag
from robot_rl.datasets.ingest.bag_topics import by_reason
from robot_rl.datasets.ingest.base import BagOptions, ReadOptions, Recording
from robot_rl.errors import InputError
from robot_rl.types import Episode

RecordArm = Callable[..., Any]
CONTAINERS = [
    ("sqlite3", ""),
    ("sqlite3", "message"),
    ("sqlite3", "file"),
    ("mcap", ""),
    ("mcap", "storage"),
    ("mcap", "message"),
    ("mcap", "file"),
    ("ros1", ""),
    ("ros1", "bz2"),
    ("ros1", "lz4"),
]


def options(control_period_s: float | None = None, **bag: Any) -> ReadOptions:
    return ReadOptions(control_period_s=control_period_s, bag=BagOptions(**bag))


def episodes(path: Path, chosen: ReadOptions) -> list[Episode]:
    with BagReader().open(path, chosen) as recording:
        return list(recording.episodes())


def texts(recording: Recording) -> str:
    return "\n".join(f"{finding.severity}: {finding.text}" for finding in recording.findings)


def times(episode: Episode, key: str = "") -> np.ndarray:
    """Seconds since the start of the recording."""
    begin = episode.metadata["start_time_s"] - 1_700_000_000
    return begin + episode.extras[f"timestamp_s/{key}" if key else "timestamp_s"]


@pytest.mark.parametrize(("storage", "compression"), CONTAINERS)
def test_every_container_gives_what_the_arm_did(
    record_arm: RecordArm, tmp_path: Path, storage: str, compression: str
) -> None:
    path = tmp_path / ("arm.bag" if storage == "ros1" else "arm")
    arm = record_arm(path, storage, compression, seconds=3.0, shuffled=True)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert BagReader().probe(path) is not None
    with BagReader().open(path, options(action="/joint_command")) as recording:
        assert recording.count == 1
        assert recording.spec.control_period_s == 0.02
        assert recording.spec.observation["joint_states/position"].names == ("shoulder", "elbow", "wrist")
        assert recording.spec.observation["joint_states/position"].unit == "rad"
        assert recording.spec.observation["joint_states/position"].frame == "base"
        assert recording.spec.action_semantics == "joint_position_target"
        assert recording.spec.metadata["absent"] == ["reward", "success", "end"]
        assert recording.provenance["source_files"] == 1
        episode = recording.read(0)
        grid = times(episode)
        frames = episode.observation["camera/compressed"]
        assert isinstance(frames, EncodedFrames)
        lead = arm.camera_times[None] - grid[:, None]
        nearest = np.where(lead <= 0.01, np.abs(lead), np.inf).argmin(1)  # at most half a step from the future
        same = [frames.encoded[k] == arm.jpegs[nearest[k]] for k in range(len(frames))]
        assert all(same)  # bytes as recorded
        assert np.allclose(times(episode, "camera/compressed"), arm.camera_times[nearest], atol=1e-6)
    assert np.allclose(np.diff(grid), 0.02, atol=1e-6)
    assert len(episode) > 140
    # linear interpolation over 10 ms: at most (0.01)^2 / 8 * the largest acceleration, 0.5 (2 pi 0.7)^2
    assert np.abs(episode.observation["joint_states/position"] - arm.position(grid)).max() < 2e-4
    assert np.abs(episode.observation["joint_states/velocity"] - arm.velocity(grid)).max() < 2e-3
    assert "joint_states/effort" not in episode.observation  # the driver sends none
    pose = episode.observation["wrist/pose"]
    assert np.allclose(pose[:, :3], np.stack([grid, 2 * grid, -grid], 1), atol=1e-6)
    sign = np.sign((pose[0, 3:] * arm.rotation(grid[0])).sum())
    assert np.abs(sign * pose[:, 3:] - arm.rotation(grid)).max() < 1e-6
    used = times(episode, "action")
    assert (used <= grid[:-1] + 1e-6).all()  # a command is never from the future
    assert (grid[:-1] - used < 0.02).all()
    assert np.allclose(episode.action, arm.command(used), atol=1e-6)
    assert episode.truncated.tolist() == [False] * (len(episode) - 1) + [True]
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_file_without_its_metadata_is_read_alike(record_arm: RecordArm, tmp_path: Path) -> None:
    for storage, suffix in (("mcap", "mcap"), ("sqlite3", "db3")):
        record_arm(tmp_path / storage, storage, seconds=1.0)
        file = tmp_path / storage / f"{storage}.{suffix}"
        with_metadata = episodes(tmp_path / storage, options(action="joint_command"))
        alone = episodes(file, options(action="joint_command"))
        assert np.array_equal(with_metadata[0].action, alone[0].action)
        (tmp_path / storage / "metadata.yaml").unlink()
        assert len(episodes(tmp_path / storage, options())) == 1


def test_without_a_command_there_is_one_step_less_than_rows(record_arm: RecordArm, tmp_path: Path) -> None:
    record_arm(tmp_path / "arm", seconds=1.0)
    with BagReader().open(tmp_path / "arm", options()) as recording:
        episode = recording.read(0)
        assert recording.spec.metadata["absent"] == ["action", "reward", "success", "end"]
        assert recording.spec.action.shape == (0,)
        assert episode.action.shape == (len(episode.observation["joint_states/position"]) - 1, 0)
        assert "joint_command/position" in episode.observation
        assert "the median of /joint_command, the slowest topic of numbers" in texts(recording)


def test_the_period_can_be_set(record_arm: RecordArm, tmp_path: Path) -> None:
    arm = record_arm(tmp_path / "arm", seconds=2.0)
    episode = episodes(tmp_path / "arm", options(control_period_s=0.1))[0]
    assert np.allclose(np.diff(episode.extras["timestamp_s"]), 0.1)
    assert np.abs(episode.observation["joint_states/position"] - arm.position(times(episode))).max() < 2e-4


def test_a_silence_splits_and_what_lies_in_it_is_dropped_and_counted(record_arm: RecordArm, tmp_path: Path) -> None:
    arm = record_arm(tmp_path / "arm", seconds=6.0, silent=(2.0, 3.5))
    with BagReader().open(tmp_path / "arm", options(action="joint_command")) as recording:
        found = list(recording.episodes())
        # commands at 50 Hz and images at 30 Hz within 1.5 s
        assert "1 parts in which a topic is silent" in texts(recording)
        assert "/joint_states" in texts(recording)
    assert len(found) == 2
    assert times(found[0])[-1] <= 2.0
    assert times(found[1])[0] >= 3.5 - 0.001
    for episode in found:
        assert np.abs(episode.observation["joint_states/position"] - arm.position(times(episode))).max() < 2e-4
    assert len(episodes(tmp_path / "arm", options(action="joint_command", maximum_gap_s=2.0))) == 1


def test_a_bool_marker_cuts_episodes(record_arm: RecordArm, tmp_path: Path) -> None:
    marks = ((0.5, True), (2.0, False), (3.0, True), (4.0, True), (5.0, False))
    record_arm(tmp_path / "arm", seconds=6.0, marks=marks)
    found = episodes(tmp_path / "arm", options(action="joint_command", marker="episode"))
    spans = [(times(episode)[0], times(episode)[-1]) for episode in found]
    assert np.allclose(spans, [(0.5, 2.0), (3.0, 4.0), (4.0, 5.0)], atol=0.06)
    assert all(low >= start - 1e-6 for (low, _), start in zip(spans, (0.5, 3.0, 4.0), strict=True))
    assert all(high <= end + 1e-3 for (_, high), end in zip(spans, (2.0, 4.0, 5.0), strict=True))


def test_a_text_marker_names_its_episode(record_arm: RecordArm, tmp_path: Path) -> None:
    record_arm(tmp_path / "arm", seconds=3.0, marks=((0.5, "pick"), (1.5, "place"), (2.5, "")))
    found = episodes(tmp_path / "arm", options(marker="/episode"))
    assert [episode.metadata["marker"] for episode in found] == ["pick", "place"]


def test_a_pause_of_the_command_cuts_episodes(record_arm: RecordArm, tmp_path: Path) -> None:
    record_arm(tmp_path / "arm", seconds=8.0, command_pause=(3.0, 5.5))
    found = episodes(tmp_path / "arm", options(action="joint_command", segment="idle", idle_s=2.0))
    assert np.allclose([times(episode)[-1] for episode in found], [3.0, 8.0], atol=0.06)
    kept = episodes(tmp_path / "arm", options(action="joint_command", segment="idle", idle_s=3.0))
    assert len(kept) == 1
    with pytest.raises(InputError, match=r"bag\.action"):
        episodes(tmp_path / "arm", options(segment="idle"))


def test_each_bag_of_a_folder_is_an_episode_and_parts_of_one_are_one(record_arm: RecordArm, tmp_path: Path) -> None:
    folder = tmp_path / "session"
    folder.mkdir()
    for number in (0, 1, 2, 10):
        record_arm(folder / f"take_{number}", seconds=1.0, seed=number)
    found = episodes(folder, options(action="joint_command"))
    assert [episode.metadata["source"].split(":")[0] for episode in found] == [f"take_{n}" for n in (0, 1, 2, 10)]


def test_topics_are_chosen_by_name_and_field(record_arm: RecordArm, tmp_path: Path) -> None:
    arm = record_arm(tmp_path / "arm", seconds=1.0)
    chosen = options(
        observations=["joint_states:velocity", "/wrist/pose:pose.orientation"], action="joint_states:position"
    )
    with BagReader().open(tmp_path / "arm", chosen) as recording:
        episode = recording.read(0)
        assert list(recording.spec.observation) == ["joint_states/velocity", "wrist/pose/pose/orientation"]
        names = recording.spec.observation["wrist/pose/pose/orientation"].names
        assert names is not None
        assert [name[-1] for name in names] == ["w", "x", "y", "z"]
    assert np.allclose(episode.action, arm.position(times(episode, "action")), atol=1e-6)
    with pytest.raises(InputError, match="did you mean '/joint_states'"):
        episodes(tmp_path / "arm", options(observations=["joint_stats"]))
    with pytest.raises(InputError, match="no numbers in the field torque"):
        episodes(tmp_path / "arm", options(observations=["joint_states:torque"]))


def test_the_clock_can_be_chosen_and_without_stamps_it_is_that_of_reception(
    record_arm: RecordArm, tmp_path: Path
) -> None:
    record_arm(tmp_path / "arm", seconds=1.0)
    header = episodes(tmp_path / "arm", options(clock="header"))[0]
    receive = episodes(tmp_path / "arm", options(clock="receive"))[0]
    shift = times(receive, "joint_states/position")[0] - times(header, "joint_states/position")[0]
    assert shift == pytest.approx(0.002, abs=1e-5)
    record_arm(tmp_path / "bare", seconds=1.0, stamped=False)
    bare = episodes(tmp_path / "bare", options())[0]
    assert times(bare, "joint_states/position")[0] == pytest.approx(0.002, abs=1e-5)
    with pytest.raises(InputError, match=r"bag\.clock=header, but"):
        episodes(tmp_path / "bare", options(clock="header"))


def test_an_offset_of_more_than_half_a_step_is_reported(record_arm: RecordArm, tmp_path: Path) -> None:
    record_arm(tmp_path / "arm", seconds=1.0)
    with BagReader().open(tmp_path / "arm", options(control_period_s=0.003)) as recording:
        assert "warning: topic /joint_states: between stamp and reception lie 0.002 s" in texts(recording)
    with BagReader().open(tmp_path / "arm", options(control_period_s=0.02)) as recording:
        assert "reception" not in texts(recording)


def test_summary_counts_messages(record_arm: RecordArm, tmp_path: Path) -> None:
    arm = record_arm(tmp_path / "arm", seconds=1.0)
    found = summary(tmp_path / "arm")
    assert found["/joint_states"] == ("sensor_msgs/msg/JointState", len(arm.joint_times))
    assert found["/camera/compressed"][1] == 30


def test_real_bags_have_the_topics_and_counts_that_are_known(shared_data: Path) -> None:
    folder = shared_data / "rosbag"
    sensors = summary(folder / "ros2_mcap_sensor_msgs")
    assert sum(count for _, count in sensors.values()) == 194
    assert len(sensors) == 28
    assert sensors["/joint_state"] == ("sensor_msgs/msg/JointState", 15)
    for name in ("rosbag2_sqlite3_split_wbag", "rosbag2_mcap_split_wbag"):
        assert sum(count for _, count in summary(folder / name).values()) == 6074
        with pytest.raises(InputError, match=r"AAA \(std_msgs/msg/String x 804\)"):
            BagReader().open(folder / name, options())
    camera = summary(folder / "ros1_realsense")
    assert sum(count for _, count in camera.values()) == 375
    assert len(camera) == 98


def test_a_real_recording_of_joints_is_read(shared_data: Path) -> None:
    with BagReader().open(shared_data / "rosbag/ros2_mcap_sensor_msgs", options()) as found:
        assert "warning: /battery_state, /fluid_pressure, /illuminance, /range: left out" in texts(found)
        assert found.count == 1
        episode = found.read(0)
        assert episode.observation["joint_state/position"].shape == (14, 4)
        assert found.spec.control_period_s == pytest.approx(0.1, abs=0.01)


def test_a_real_camera_is_read_and_streams_that_never_overlap_are_refused(shared_data: Path) -> None:
    path = shared_data / "rosbag/ros1_realsense"
    colour, depth = "/device_0/sensor_1/Color_0/image/data", "/device_0/sensor_0/Depth_0/image/data"
    with pytest.raises(InputError, match=r"no time at which all topics have messages .*Color_0"):
        BagReader().open(path, options(observations=[colour, depth]))
    with BagReader().open(path, options()) as recording:
        assert list(recording.spec.observation) == [depth.strip("/")]  # it has one image more
        assert f"warning: {colour}: left out, without messages while there are of" in texts(recording)
    episode = episodes(path, options(observations=[colour]))[0]
    frames = episode.observation[colour.strip("/")]
    assert len(frames) == 5
    assert np.asarray(frames[0]).std() > 10  # a picture of something
    episode = episodes(path, options(observations=[depth]))[0]
    image = episode.observation[depth.strip("/")]
    assert image.shape[0] == 6
    assert image.dtype == np.uint16
    assert 200 < np.median(image[image > 0]) < 10_000  # millimetres in a room


def test_conformance_bags_of_both_storages_agree(shared_data: Path) -> None:
    def read() -> Iterator[Episode]:
        for storage in ("sqlite3", "mcap"):
            yield from episodes(shared_data / f"rosbag/rosbag2_{storage}_cdr_test", options())

    first, second = read()
    assert np.array_equal(first.observation["test_topic"], second.observation["test_topic"])


def test_messages_and_times_are_those_that_rosbags_reads(shared_data: Path) -> None:
    for path in sorted((shared_data / "rosbag").iterdir()):
        alone = not (path / "metadata.yaml").exists()
        files = [file for file in path.iterdir() if alone and file.suffix in (".bag", ".mcap")]
        with AnyReader(files or [path], default_typestore=get_typestore(Stores.LATEST)) as reader:
            expected = sorted((c.topic, time_ns, bytes(data)) for c, time_ns, data in reader.messages())
        with ExitStack() as resources:
            bag = open_bag(find_bags(path)[0], resources)
            found = [
                (topic, time_ns, data)
                for topic, messages in bag.messages.items()
                for time_ns, data in zip(messages.receive_ns.tolist(), bag.payloads(messages), strict=True)
            ]
        assert sorted(found) == expected, path


def numbers(topic: str, kind: str, times: Any, *, shift_s: float = 0.0) -> Callable[[dict[str, Any], bool], Any]:
    """Messages of one number, that of the message; with a header of 0.0 + shift where the type has one."""

    def messages(types: dict[str, Any], ros1: bool) -> Iterator[tuple[str, int, Any]]:
        del ros1
        for number, time in enumerate(times):
            time_ns = 1_700_000_000 * 10**9 + round(time * 1e9)
            stamp_ns = time_ns - round(shift_s * 1e9)
            if kind == "std_msgs/msg/Float64":
                yield topic, time_ns, types[kind](data=float(number))
            elif kind == "std_msgs/msg/Bool":
                yield topic, time_ns, types[kind](data=bool(number % 2))
            else:
                stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
                header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
                point = types["geometry_msgs/msg/Point"](x=float(number), y=0.0, z=0.0)
                yield topic, time_ns, types["geometry_msgs/msg/PointStamped"](header=header, point=point)

    return messages


def together(*streams: Callable[[dict[str, Any], bool], Any]) -> Callable[[dict[str, Any], bool], Any]:
    def messages(types: dict[str, Any], ros1: bool) -> Iterator[tuple[str, int, Any]]:
        rows = [row for stream in streams for row in stream(types, ros1)]
        yield from sorted(rows, key=lambda row: row[1])

    return messages


def test_parts_named_after_their_folder_are_one_recording(record_messages: RecordArm, tmp_path: Path) -> None:
    folder = tmp_path / "rosbag2_x"
    folder.mkdir()
    for part in range(3):
        times = part + np.arange(10) / 10
        record_messages(tmp_path / f"part{part}", "mcap", numbers("/x", "std_msgs/msg/Float64", times))
        (tmp_path / f"part{part}" / f"part{part}.mcap").rename(folder / f"rosbag2_x_{part}.mcap")
    assert [len(episode) for episode in episodes(folder, options())] == [29]
    (folder / "rosbag2_x_1.mcap").rename(folder / "another.mcap")
    assert [len(episode) for episode in episodes(folder, options())] == [9, 9, 9]


def test_a_topic_that_speaks_rarely_is_held_where_it_was_asked_for(record_messages: RecordArm, tmp_path: Path) -> None:
    gripper = numbers("/gripper", "std_msgs/msg/Bool", [0.0, 2.0, 5.0])
    record_messages(
        tmp_path / "bag", "mcap", together(numbers("/x", "std_msgs/msg/Float64", np.arange(60) / 10), gripper)
    )
    with BagReader().open(tmp_path / "bag", options()) as recording:
        assert list(recording.spec.observation) == ["x"]
        assert "topic /gripper is left out: its messages are 2.5 s apart" in texts(recording)
    episode = episodes(tmp_path / "bag", options(observations=["x", "gripper"]))[0]
    assert episode.observation["gripper"][:, 0].tolist() == [False] * 20 + [True] * 30 + [False] * 10
    assert episode.extras["timestamp_s/gripper"][-1] == pytest.approx(5.0)


def test_success_and_instruction_come_from_topics_also_when_they_are_said_beside_the_episode(
    record_messages: RecordArm, tmp_path: Path
) -> None:
    takes = np.concatenate([np.arange(start, start + 3, 0.1) for start in (1.0, 6.0, 11.0)])

    def words(types: dict[str, Any], ros1: bool) -> Iterator[tuple[str, int, Any]]:
        del ros1
        for time, text in ((0.5, "pick"), (10.5, "place")):
            yield "/task", 1_700_000_000 * 10**9 + round(time * 1e9), types["std_msgs/msg/String"](data=text)

    verdicts = numbers("/success", "std_msgs/msg/Bool", [4.5, 9.5, 9.6])  # no, then yes and no; none for the third
    record_messages(tmp_path / "bag", "mcap", together(numbers("/x", "std_msgs/msg/Float64", takes), verdicts, words))
    with BagReader().open(tmp_path / "bag", options(success="success", language="/task")) as recording:
        assert list(recording.spec.observation) == ["x"]
        assert recording.spec.metadata["absent"] == ["action", "reward", "end"]
        found = [recording.read(index) for index in range(recording.count)]
    told = [None if episode.success is None else bool(episode.success[-1]) for episode in found]
    assert told == [False, True, None]
    assert not any(episode.success[:-1].any() for episode in found if episode.success is not None)
    assert [episode.metadata["language"] for episode in found] == ["pick", "pick", "place"]
    with BagReader().open(tmp_path / "bag", options()) as recording:
        assert "set bag.success=/success" in " ".join(finding.remedy for finding in recording.findings)
        assert "set bag.language=/task" in " ".join(finding.remedy for finding in recording.findings)
    with pytest.raises(InputError, match=r"bag\.success is a topic of std_msgs/msg/String: it must be of Bool"):
        BagReader().open(tmp_path / "bag", options(success="task"))


def test_a_topic_that_ends_early_is_named_with_what_it_costs(record_messages: RecordArm, tmp_path: Path) -> None:
    short = numbers("/short", "std_msgs/msg/Float64", np.arange(20) / 10)
    record_messages(
        tmp_path / "bag", "mcap", together(numbers("/x", "std_msgs/msg/Float64", np.arange(60) / 10), short)
    )
    with BagReader().open(tmp_path / "bag", options()) as recording:
        assert len(recording.read(0)) == 19
        assert "1 parts in which a topic is silent" in texts(recording)
        assert "4.000 s with 39 messages" in texts(recording)
        assert "of /short" in texts(recording)


def test_stamps_of_another_clock_are_not_mixed_with_times_of_reception(
    record_messages: RecordArm, tmp_path: Path
) -> None:
    times = np.arange(30) / 10
    point = numbers("/point", "geometry_msgs/msg/PointStamped", times, shift_s=100.0)
    record_messages(tmp_path / "mixed", "mcap", together(numbers("/x", "std_msgs/msg/Float64", times), point))
    with BagReader().open(tmp_path / "mixed", options()) as recording:
        assert "on another clock than other topics" in texts(recording)
        assert len(recording.read(0)) == 29
    record_messages(tmp_path / "alone", "mcap", point)
    with BagReader().open(tmp_path / "alone", options()) as recording:
        assert "the stamp of the header is used" in texts(recording)
        assert recording.read(0).metadata["start_time_s"] == pytest.approx(1_700_000_000 - 100)


def robot(types: dict[str, Any], ros1: bool) -> Iterator[tuple[str, int, Any]]:
    """Two seconds of the topics of our own ROS 2 side, at 50 Hz; see the topics of its design."""
    del ros1
    empty = np.zeros(0)
    for tick in range(100):
        time_ns = 1_700_000_000 * 10**9 + tick * 20_000_000
        stamp = types["builtin_interfaces/msg/Time"](sec=time_ns // 10**9, nanosec=time_ns % 10**9)
        header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")

        def named(header: Any = header, **numbers: float) -> Any:
            kind, values = types["sensor_msgs/msg/JointState"], np.array(list(numbers.values()))
            return kind(header=header, name=list(numbers), position=values, velocity=empty, effort=empty)

        yield "/arm/joint_states", time_ns, named(a=tick / 100, b=-tick / 100)
        yield "/arm/rl/action", time_ns, named(a=1.0, b=2.0)
        yield "/arm/rl/applied", time_ns, named(a=tick / 100 + 0.01, b=-tick / 100)
        yield "/arm/rl/telemetry", time_ns, named(t_infer=0.001, clamped=0.0)
        yield "/arm/rl/outcome", time_ns, named(reward=float(tick == 99), success=float(tick == 99), terminated=0.0)
        yield "/arm/rl/heartbeat/governor", time_ns, header
        yield "/diagnostics", time_ns, types["diagnostic_msgs/msg/DiagnosticArray"](header=header, status=[])
        if tick % 5 == 0:
            yield "/arm/rl/permit", time_ns, types["std_msgs/msg/Bool"](data=True)
            joy = types["sensor_msgs/msg/Joy"]
            yield "/joy", time_ns, joy(header=header, axes=np.zeros(2, np.float32), buttons=np.array([1], np.int32))
            image = types["sensor_msgs/msg/Image"]
            picture = np.full(4 * 6 * 3, tick, np.uint8)
            shape = {"height": 4, "width": 6, "encoding": "rgb8", "is_bigendian": 0, "step": 18}
            yield "/camera/wrist/image_raw", time_ns, image(header=header, data=picture, **shape)


def test_what_our_own_robot_will_record_is_read(record_messages: RecordArm, tmp_path: Path) -> None:
    record_messages(tmp_path / "bag", "mcap", robot)
    with BagReader().open(tmp_path / "bag", options(action="arm/rl/applied")) as recording:
        spec, episode = recording.spec, recording.read(0)
    assert sorted(spec.observation) == [
        "arm/joint_states/position",
        "arm/rl/action/position",
        "arm/rl/outcome/position",
        "arm/rl/permit",
        "arm/rl/telemetry/position",
        "camera/wrist/image_raw",
        "joy/axes",
        "joy/buttons",
    ]
    assert spec.control_period_s == 0.02
    assert spec.action.names == ("a", "b")
    assert spec.observation["arm/rl/outcome/position"].unit is None
    steps = np.arange(len(episode) + 1)
    assert np.allclose(episode.observation["arm/joint_states/position"][:, 0], steps / 100)
    assert np.allclose(episode.action[:, 0], steps[:-1] / 100 + 0.01)
    assert episode.observation["joy/buttons"].dtype == np.int32
    assert np.asarray(episode.observation["camera/wrist/image_raw"])[7, 0, 0, 0] == 5  # the last one, not the next


def test_topics_that_may_be_the_command_are_named_where_none_was(record_arm: RecordArm, tmp_path: Path) -> None:
    record_arm(tmp_path / "arm", seconds=2.0)
    with BagReader().open(tmp_path / "arm", options()) as recording:
        assert "no topic was named as the command, so there are no actions; it may be /joint_command" in texts(
            recording
        )
    with BagReader().open(tmp_path / "arm", options(action="/joint_command")) as recording:
        assert "may be" not in texts(recording)


def test_of_many_topics_that_are_not_used_only_some_are_named() -> None:
    why = dict.fromkeys([f"/{number}" for number in range(9)], "1 message") | {"/tf": "is not taken"}
    assert by_reason(why) == "/0, /1, /2, /3, /4, /5 and 3 more: 1 message; /tf: is not taken"
