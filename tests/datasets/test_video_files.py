"""Video files become episodes, alone or with a table beside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robot_rl.datasets.frames import lazy
from robot_rl.datasets.ingest.base import ReadOptions, Recording, SuccessLabel, TableOptions
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.datasets.ingest.video_files import VideoFilesReader
from robot_rl.datasets.video import VideoFrames
from robot_rl.errors import InputError
from robot_rl.types import Array

WriteVideo = Callable[..., None]
Pictures = Callable[..., Array]


def opened(path: Path, **options: Any) -> Recording:
    """By the reader that the content is found to be for."""
    reader = find_reader(path)
    assert reader.name == "video"
    return reader.open(path, ReadOptions(**options))


@pytest.fixture
def video(tmp_path: Path, write_video: WriteVideo, pictures: Pictures) -> Path:
    """20 frames at 10 a second."""
    write_video(tmp_path / "take.mp4", pictures(20))
    return tmp_path / "take.mp4"


def save_csv(path: Path, rows: list[list[Any]]) -> None:
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")


def test_a_video_has_one_step_less_than_frames(video: Path) -> None:
    with opened(video) as recording:
        episode = recording.read(0)
        assert len(recording) == 1
    assert len(episode) == 19
    assert episode.has_final_observation
    assert episode.action.shape == (19, 0)
    assert episode.truncated.tolist() == [False] * 18 + [True]
    assert not episode.terminated.any()
    assert isinstance(lazy(episode.observation["image"]), VideoFrames)
    assert episode.observation["image"].shape == (20, 48, 64, 3)
    np.testing.assert_allclose(episode.extras["timestamp_s"], np.arange(20) / 10)
    spec = recording.spec
    assert spec.control_period_s == 0.1
    assert spec.action.shape == (0,)
    assert spec.observation["image"].shape == (48, 64, 3)
    assert spec.metadata["absent"] == ["action", "reward", "success", "end"]
    about = recording.provenance["attributes"]["image"]
    assert (about["codec"], about["pixel_format"], about["time_base"]) == ("h264", "yuv420p", "1/10240")
    assert (about["rotation_degrees"], about["color_range"]) == (0, "UNSPECIFIED")


def test_a_varying_rate_is_kept_and_said(tmp_path: Path, write_video: WriteVideo, pictures: Pictures) -> None:
    times_ms = np.asarray([0, 30, 100, 110, 250, 260, 400, 1000])
    write_video(tmp_path / "phone.mkv", pictures(8), times_ms=times_ms)
    recording = opened(tmp_path / "phone.mkv")
    assert recording.spec.control_period_s is None
    np.testing.assert_allclose(recording.read(0).extras["timestamp_s"], times_ms / 1000)
    (finding,) = recording.findings
    assert "rate varies: frames are 0.01 to 0.6 s apart" in finding.text
    assert "control_period_s" in finding.remedy


def test_a_varying_rate_is_resampled_to_the_nearest_frames(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    times_ms = np.asarray([0, 30, 100, 110, 250, 260, 400, 1000])
    write_video(tmp_path / "phone.mkv", pictures(8), times_ms=times_ms)
    recording = opened(tmp_path / "phone.mkv", control_period_s=0.2)
    episode = recording.read(0)
    frames = lazy(episode.observation["image"])
    assert isinstance(frames, VideoFrames)
    # At 0, 0.2, 0.4, 0.6, 0.8 and 1 s; 0.2 is nearer to 0.25 than to 0.11, 0.6 to 0.4, 0.8 to 1.
    assert frames.numbers.tolist() == [0, 4, 6, 6, 7, 7]
    np.testing.assert_allclose(episode.extras["timestamp_s"], [0, 0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(episode.extras["timestamp_s/image"], [0, 0.25, 0.4, 0.4, 1.0, 1.0])
    assert recording.spec.control_period_s == 0.2
    assert any("6 of 8 frames, 2 repeated, 4 left out" in finding.text for finding in recording.findings)


def test_resampling_to_its_own_rate_changes_nothing(video: Path) -> None:
    recording = opened(video, control_period_s=0.1)
    frames = lazy(recording.read(0).observation["image"])
    assert isinstance(frames, VideoFrames)
    assert frames.numbers.tolist() == list(range(20))
    assert recording.findings == []


def test_every_video_of_a_folder_is_an_episode_in_natural_order(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    for number in (10, 2, 1):
        write_video(tmp_path / f"take_{number}.mp4", pictures(number + 2))
    (tmp_path / "notes.txt").write_text("three takes")
    recording = opened(tmp_path)
    assert [len(episode) for episode in recording.episodes()] == [2, 3, 11]
    assert recording.read(1).metadata["source"] == "take_2.mp4"
    assert recording.provenance["source_files"] == 3
    assert len(opened(tmp_path, maximum_episodes=2)) == 2


def test_a_damaged_video_of_a_folder_leaves_the_others(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", pictures(5))
    data = (tmp_path / "1.mp4").read_bytes()
    (tmp_path / "1.mp4").write_bytes(data[:-200])
    recording = opened(tmp_path)
    assert len(recording.read(0)) == len(recording.read(2)) == 4
    with pytest.raises(InputError, match=r"1\.mp4 is cut off"):
        recording.read(1)


def test_every_video_of_a_folder_in_a_folder_is_a_camera(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    for take in ("a", "b"):
        (tmp_path / take).mkdir()
        for camera in ("front", "wrist"):
            write_video(tmp_path / take / f"{camera}.mp4", pictures(6))
    recording = opened(tmp_path)
    assert list(recording.spec.observation) == ["front", "wrist"]
    assert [episode.metadata["source"] for episode in recording.episodes()] == ["a", "b"]
    assert any("begun at the same moment" in finding.text for finding in recording.findings)


def test_cameras_of_different_lengths_need_a_control_period(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    (tmp_path / "a").mkdir()
    write_video(tmp_path / "a" / "front.mp4", pictures(20), rate=10)
    write_video(tmp_path / "a" / "wrist.mp4", pictures(50), rate=30)
    with pytest.raises(InputError, match=r"different numbers of frames .*set control_period_s"):
        opened(tmp_path)
    episode = opened(tmp_path, control_period_s=0.1).read(0)
    wrist = lazy(episode.observation["wrist"])
    assert isinstance(wrist, VideoFrames)
    assert wrist.numbers.tolist() == list(range(0, 49, 3))  # the shorter video ends after 1.63 s


def test_a_folder_of_more_than_videos_is_not_claimed(
    tmp_path: Path, write_video: WriteVideo, pictures: Pictures
) -> None:
    for name in ("meta", "videos"):
        (tmp_path / name).mkdir()
    write_video(tmp_path / "videos" / "0.mp4", pictures(3))
    assert VideoFilesReader().probe(tmp_path) is None


def test_arrays_beside_a_video_are_observations_under_their_names(video: Path, tmp_path: Path) -> None:
    joints = np.random.default_rng(0).normal(size=(20, 7, 3))
    np.savez(tmp_path / "take.npz", joints=joints, gripper=np.arange(20), rate=np.asarray(10.0))
    recording = opened(video, side_file="take.npz")  # found beside the video
    episode = recording.read(0)
    assert (episode.observation["joints"] == joints).all()
    assert episode.observation["gripper"][:, 0].tolist() == list(range(20))
    assert recording.spec.observation["joints"].shape == (7, 3)
    assert recording.provenance["attributes"]["side_file"]["rate"] == 10.0
    assert recording.provenance["source_files"] == 2


def test_a_row_of_actions_for_each_frame_makes_each_a_step(video: Path, tmp_path: Path) -> None:
    rows = [["x", "y", "command_x", "command_y"]] + [[i, 2 * i, 10 * i, -i] for i in range(20)]
    save_csv(tmp_path / "take.csv", rows)
    options = TableOptions(action=["command_*"])
    recording = opened(video, side_file=str(tmp_path / "take.csv"), table=options)
    episode = recording.read(0)
    assert len(episode) == 20
    assert not episode.has_final_observation
    assert episode.action[:, 0].tolist() == [10 * i for i in range(20)]
    assert episode.observation["state"][-2:].tolist() == [[19, 38], [19, 38]]
    frames = lazy(episode.observation["image"])
    assert isinstance(frames, VideoFrames)
    assert frames.numbers.tolist() == [*range(20), 19]
    assert recording.spec.action.names == ("command_x", "command_y")
    assert recording.spec.action.low is not None
    assert recording.spec.action.low.tolist() == [0, -19]
    assert recording.spec.observation["state"].names == ("x", "y")


def test_a_table_with_times_is_resampled_to_the_frames(video: Path, tmp_path: Path) -> None:
    # 50 rows a second from 0.2 s before the first frame to 1.5 s; the video lasts 1.9 s.
    times = np.arange(-10, 76) / 50
    table = pa.table({"t": times, "x": 3 * times, "count": np.arange(len(times)), "command": times})
    pq.write_table(table, tmp_path / "take.parquet")
    options = TableOptions(time="t", action=["command"])
    recording = opened(video, side_file="take.parquet", table=options)
    episode = recording.read(0)
    assert len(episode) == 16  # frames until 1.5 s
    np.testing.assert_allclose(episode.observation["state"][:16, 0], 0.3 * np.arange(16), atol=1e-9)
    np.testing.assert_allclose(episode.action[:, 0], np.arange(16) / 10, atol=1e-9)
    assert episode.observation["state"][:3, 1].tolist() == [10, 15, 20]  # whole numbers are held
    assert any("4 of 20 frames lie outside of the times" in finding.text for finding in recording.findings)


def test_times_of_another_clock_begin_with_the_video(video: Path, tmp_path: Path) -> None:
    rows = [["t", "x"]] + [[1_700_000_000 + i / 10, i] for i in range(20)]
    save_csv(tmp_path / "take.csv", rows)
    recording = opened(video, side_file="take.csv", table=TableOptions(time="t"))
    assert recording.read(0).observation["state"][:, 0].tolist() == list(range(20))
    assert any("another clock" in finding.text for finding in recording.findings)


def test_a_table_that_began_before_the_video_is_moved_by_the_time_of_the_first_frame(
    video: Path, tmp_path: Path
) -> None:
    rows = [["t", "x"]] + [[1_700_000_000 + i / 10, i] for i in range(30)]
    save_csv(tmp_path / "take.csv", rows)
    moved = TableOptions(time="t", first_frame_s=1_700_000_000.5)
    recording = opened(video, side_file="take.csv", table=moved, control_period_s=0.1)
    np.testing.assert_allclose(recording.read(0).observation["state"][:, 0], np.arange(5, 25), atol=1e-5)
    assert not any("another clock" in finding.text for finding in recording.findings)
    with pytest.raises(InputError, match=r"miss the video.*table\.first_frame_s"):
        opened(video, side_file="take.csv", table=TableOptions(time="t", first_frame_s=5.0))
    with pytest.raises(InputError, match=r"first_frame_s needs the column of times"):
        opened(video, side_file="take.csv", table=TableOptions(first_frame_s=5.0))
    with pytest.raises(InputError, match=r"no video beside it"):
        find_reader(tmp_path / "take.csv").open(tmp_path / "take.csv", ReadOptions(table=moved))


def test_a_table_of_another_length_is_refused_with_both_counts(video: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "take.npz", joints=np.zeros((19, 3)))
    with pytest.raises(InputError, match=r"take\.npz has 19 rows, but .*take\.mp4 has 20 frames"):
        opened(video, side_file="take.npz")


def test_one_table_cannot_serve_several_videos(tmp_path: Path, write_video: WriteVideo, pictures: Pictures) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}.mp4", pictures(4))
        save_csv(tmp_path / f"{name}.csv", [["x", "y"]] + [[i, ord(name)] for i in range(4)])
    with pytest.raises(InputError, match=r"has 2 videos: put \{stem\}"):
        opened(tmp_path, side_file="a.csv")
    episodes = list(opened(tmp_path, side_file="{stem}.csv").episodes())
    assert [int(episode.observation["state"][0, 1]) for episode in episodes] == [ord("a"), ord("b")]


def test_a_side_file_that_is_not_there_says_where_it_was_sought(video: Path) -> None:
    with pytest.raises(InputError, match=r"no table at joints\.npz or at .*joints\.npz: check side_file"):
        opened(video, side_file="joints.npz")


def test_missing_numbers_beside_a_video_are_refused_or_held(video: Path, tmp_path: Path) -> None:
    values = np.arange(20.0)
    values[5] = np.nan
    np.savez(tmp_path / "take.npz", x=values)
    with pytest.raises(InputError, match=r"1 numbers are missing \(x 1\)"):
        opened(video, side_file="take.npz")
    recording = opened(video, side_file="take.npz", table=TableOptions(missing="hold"))
    assert recording.read(0).observation["x"][4:7, 0].tolist() == [4, 4, 6]


def test_success_by_a_rule_on_the_table(video: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "take.npz", height=np.arange(20.0))
    rule = SuccessLabel(observation="height", minimum=18.0)
    episode = opened(video, side_file="take.npz", success=rule).read(0)
    assert episode.success is not None
    assert np.flatnonzero(episode.success).tolist() == [17, 18]


@pytest.mark.parametrize("array", [np.asarray([{}] * 20), np.zeros((0, 3))])
def test_an_npz_that_holds_objects_or_nothing_is_refused(video: Path, tmp_path: Path, array: Array) -> None:
    np.savez(tmp_path / "take.npz", joints=array)
    with pytest.raises(InputError, match=r"take\.npz"):
        opened(video, side_file="take.npz")


def test_the_hand_video_has_a_row_of_joints_for_each_frame(shared_data: Path) -> None:
    folder = shared_data / "videos"
    recording = opened(folder / "human_hand_video.mp4", side_file="human_hand_joints_right.npz")
    episode = recording.read(0)
    assert len(episode) + 1 == 621
    assert episode.observation["joint_pos"].shape == (621, 21, 3)
    assert recording.spec.control_period_s == pytest.approx(1 / 30, rel=1e-5)
    assert recording.findings == []


def test_the_shared_folder_of_videos_has_three_episodes(shared_data: Path) -> None:
    recording = opened(shared_data / "videos")
    assert [len(episode) + 1 for episode in recording.episodes()] == [621, 1217, 400]
    assert any("0.1 s apart, those of the first video" in finding.text for finding in recording.findings)
