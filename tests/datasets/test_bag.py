"""Bags of a simulated arm against what the arm did, in every container."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_rl.datasets.frames import EncodedFrames
from robot_rl.datasets.ingest.bag import BagReader, summary
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
    with BagReader().open(shared_data / "rosbag/ros2_mcap_sensor_msgs", options(observations=["joint_state"])) as found:
        assert found.count == 1
        episode = found.read(0)
        assert episode.observation["joint_state/position"].shape == (14, 4)
        assert found.spec.control_period_s == pytest.approx(0.1, abs=0.01)


def test_a_real_camera_is_read_and_streams_that_never_overlap_are_refused(shared_data: Path) -> None:
    path = shared_data / "rosbag/ros1_realsense"
    colour, depth = "/device_0/sensor_1/Color_0/image/data", "/device_0/sensor_0/Depth_0/image/data"
    with pytest.raises(InputError, match=r"no time at which all topics have messages .*Color_0"):
        BagReader().open(path, options())
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
