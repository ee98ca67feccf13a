"""Genuine LeRobot data sets, as they are and damaged."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robot_rl.datasets.frames import lazy
from robot_rl.datasets.ingest.base import ReadOptions, Recording
from robot_rl.datasets.ingest.lerobot_videos import first_frames
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.datasets.ingest.thrift import ThriftReader, write_struct
from robot_rl.datasets.video import VideoFrames, VideoIndex
from robot_rl.errors import InputError
from robot_rl.types import Array, Episode


def opened(path: Path, **options: Any) -> Recording:
    return find_reader(path).open(path, ReadOptions(**options))


def texts(recording: Recording, severity: str) -> str:
    return " | ".join(finding.text for finding in recording.findings if finding.severity == severity)


def video(episode: Episode, key: str) -> VideoFrames:
    frames = lazy(episode.observation[key])
    assert isinstance(frames, VideoFrames)
    return frames


TRUTH = [
    ("g1_inspire_bottle_v21", "lerobot_v2", 24, 7812, 1 / 30),
    ("g1_inspire_bottle_v21_lowdim_original", "lerobot_v2", 100, 35965, 1 / 30),
    ("so101_pick_and_place_v30", "lerobot_v3", 6, 1782, 1 / 30),
    ("reachy2_apple_storage_v30_lowdim", "lerobot_v3", 3, 899, 1 / 30),
    ("umi_cup_in_the_wild_v1", "lerobot_v1", 1, 399, 0.1),  # 400 frames without actions: the last is the final one
    ("aloha_sim_insertion_human_v1", "lerobot_v1", 1, 500, 0.02),
]


@pytest.mark.parametrize(("name", "reader", "episodes", "steps", "period"), TRUTH)
def test_genuine_data_sets_have_the_counts_of_their_truth(
    shared_data: Path, name: str, reader: str, episodes: int, steps: int, period: float
) -> None:
    path = shared_data / "lerobot" / name
    assert find_reader(path).name == reader
    with opened(path) as recording:
        assert len(recording) == episodes
        assert sum(len(episode) for episode in recording.episodes()) == steps
        assert recording.spec.control_period_s == pytest.approx(period)
        assert recording.provenance["source_files"] > 1


def test_any_file_inside_names_the_data_set_but_for_a_video(shared_data: Path) -> None:
    root = shared_data / "lerobot" / "so101_pick_and_place_v30"
    for inside in ("meta/info.json", "data/chunk-000/file-000.parquet", "meta"):
        assert find_reader(root / inside).name == "lerobot_v3"
        assert opened(root / inside).provenance["source"] == root.name
    clip = root / "videos" / "observation.images.wrist" / "chunk-000" / "file-000.mp4"
    assert all(reader.probe(clip) is None for reader in (find_reader(root),))


def test_flaws_of_the_genuine_data_sets_are_found(shared_data: Path) -> None:
    reachy = opened(shared_data / "lerobot" / "reachy2_apple_storage_v30_lowdim")
    assert "total_frames=14983, but the files have 899" in texts(reachy, "warning")
    assert "split train as 0:50, but the last episode is 2" in texts(reachy, "warning")
    assert "no video of it is there, so the observation 'image' is left out" in texts(reachy, "error")
    assert list(reachy.spec.observation) == ["state"]
    original = opened(shared_data / "lerobot" / "g1_inspire_bottle_v21_lowdim_original")
    assert texts(original, "error").startswith("all 100 videos of observation.images.cam_high are missing")


def test_features_become_observations_language_names_and_bounds(shared_data: Path) -> None:
    recording = opened(shared_data / "lerobot" / "g1_inspire_bottle_v21")
    spec = recording.spec
    assert list(spec.observation) == ["state", "cam_high"]
    assert spec.observation["cam_high"].shape == (480, 640, 3)
    assert spec.observation["state"].names is not None
    assert spec.observation["state"].names[0] == "kLeftShoulderPitch"
    assert spec.metadata["absent"] == ["reward", "success", "end"]
    episode = recording.read(3)
    assert episode.metadata["language"] == "Pick up the yellow bottle on the table."
    assert episode.metadata["split"] == "train"
    assert not episode.has_final_observation
    np.testing.assert_array_equal(episode.observation["state"][-1], episode.observation["state"][-2])
    assert spec.action.low is not None
    assert spec.action.high is not None
    assert (episode.action >= spec.action.low - 1e-6).all()
    assert (episode.action <= spec.action.high + 1e-6).all()
    assert "the recorded range" in texts(recording, "information")
    given = opened(shared_data / "lerobot" / "g1_inspire_bottle_v21", action_low=[-3.0], action_high=[3.0])
    assert given.spec.action.low is not None
    assert given.spec.action.low.tolist() == [-3.0] * 26


def test_episodes_of_one_video_follow_one_another(shared_data: Path) -> None:
    recording = opened(shared_data / "lerobot" / "so101_pick_and_place_v30")
    start = 0
    for episode in recording.episodes():
        numbers = video(episode, "wrist").numbers
        assert numbers[:-1].tolist() == list(range(start, start + len(episode)))
        assert numbers[-1] == numbers[-2]  # there is no final observation
        start += len(episode)
    assert start == 1782


def test_a_recording_without_actions_ends_with_its_last_frame(shared_data: Path) -> None:
    recording = opened(shared_data / "lerobot" / "umi_cup_in_the_wild_v1")
    (episode,) = recording.episodes()
    assert recording.spec.action.shape == (0,)
    assert recording.spec.metadata["absent"] == ["action", "reward", "success", "end"]
    assert episode.action.shape == (399, 0)
    assert episode.has_final_observation
    assert episode.truncated[-1]
    assert video(episode, "image").numbers.tolist() == list(range(400))
    assert episode.extras["gripper_width"].shape == (400, 1)
    assert episode.extras["timestamp_s"][-1] == pytest.approx(39.9, abs=1e-4)


def without_footer(path: Path, more: int = 0) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 8 - int.from_bytes(data[-8:-4], "little") - more])


def test_a_session_that_died_keeps_its_episodes_and_their_frames(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "lerobot" / "so101_pick_and_place_v30"
    root = tmp_path / "d"
    shutil.copytree(source, root)
    without_footer(root / "data/chunk-000/file-000.parquet", 2000)
    shutil.rmtree(root / "meta" / "episodes")
    recording = opened(root)
    assert len(recording) == 5
    assert "5 were found by counting frames" in texts(recording, "warning")
    for found, wanted in zip(recording.episodes(), opened(source).episodes(), strict=False):
        np.testing.assert_array_equal(found.action, wanted.action)
        assert video(found, "wrist").numbers.tolist() == video(wanted, "wrist").numbers.tolist()


def test_videos_alone_are_left_where_no_table_can_be_read(tmp_path: Path, shared_data: Path) -> None:
    root = tmp_path / "d"
    shutil.copytree(shared_data / "lerobot" / "so101_pick_and_place_v30", root)
    (root / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1")
    recording = opened(root)
    assert "only the videos are left, without actions and states" in texts(recording, "error")
    assert recording.spec.action.shape == (0,)
    assert sum(len(episode) for episode in recording.episodes()) == 1782 - 6  # the last frame is the final observation


def test_a_video_that_is_too_short_refuses_its_episodes_only(tmp_path: Path, shared_data: Path) -> None:
    root = tmp_path / "d"
    shutil.copytree(shared_data / "lerobot" / "so101_pick_and_place_v30", root)
    path = next((root / "meta" / "episodes").rglob("*.parquet"))
    table = pq.read_table(path)
    key = "videos/observation.images.wrist/from_timestamp"
    late = [start + (10.0 if number == 5 else 0.0) for number, start in enumerate(table[key].to_pylist())]
    pq.write_table(table.set_column(table.column_names.index(key), key, pa.array(late)).slice(1), path)
    table_path = root / "data/chunk-000/file-000.parquet"
    data = pq.read_table(table_path)
    pq.write_table(data.slice(383), table_path)  # without episode 0: the sum of lengths is not that of the video
    recording = opened(root)
    assert "to_timestamp - from_timestamp of observation.images.wrist is not length / fps in episodes 5" in texts(
        recording, "warning"
    )
    assert video(recording.read(0), "wrist").numbers[0] == 383
    with pytest.raises(InputError, match="the video is too short"):
        recording.read(4)
    assert "it has 1782 frames, its episodes 1399 together" in texts(recording, "warning")


def index_of(times_s: list[float]) -> VideoIndex:
    pts = np.round(np.asarray(times_s) * 1000).astype(np.int64)
    return VideoIndex(
        path=Path("x.mp4"),
        pts=pts,
        time_base=Fraction(1, 1000),
        width=8,
        height=8,
        rotation_degrees=0,
        keyframe=np.ones(len(pts), bool),
    )


def test_the_first_frame_of_an_episode_is_looked_up_once() -> None:
    index = index_of([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    lengths = np.asarray([2, 3, 1])
    first, text = first_frames(index, np.asarray([0.0, 0.2, 0.5]), lengths)
    assert (first.tolist(), text) == ([0, 2, 5], "")
    first, text = first_frames(index, np.asarray([0.0, 0.26, 0.6]), lengths)  # times have drifted, the sum is right
    assert first.tolist() == [0, 2, 5]
    assert "1 of 3 episodes begin where there is no frame" in text
    assert "from_timestamp of 1 episodes is not where the lengths before it end" in text
    first, text = first_frames(index, np.asarray([0.1, 0.4]), np.asarray([2, 2]))  # frames of a deleted episode
    assert (first.tolist(), text) == ([1, 4], "it has 6 frames, its episodes 4 together")


def test_a_footer_is_read_and_written_byte_for_byte(shared_data: Path) -> None:
    for path in sorted((shared_data / "lerobot" / "so101_pick_and_place_v30").rglob("*.parquet")):
        data = path.read_bytes()
        footer = data[-8 - int.from_bytes(data[-8:-4], "little") : -8]
        assert write_struct(ThriftReader(memoryview(footer)).struct()) == footer


def test_missing_videos_refuse_their_episodes_and_a_wrong_size_is_told(tmp_path: Path, shared_data: Path) -> None:
    root = tmp_path / "d"
    shutil.copytree(shared_data / "lerobot" / "g1_inspire_bottle_v21", root, copy_function=os.symlink)
    (root / "videos/chunk-000/observation.images.cam_high/episode_000002.mp4").unlink()
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["observation.images.cam_high"]["shape"] = [240, 320, 3]
    (root / "meta" / "info.json").unlink()
    (root / "meta" / "info.json").write_text(json.dumps(info))
    recording = opened(root, maximum_episodes=4)
    assert "1 of 24 videos of observation.images.cam_high are missing, of episodes 2" in texts(recording, "error")
    assert "with the shape [240, 320, 3], but episode_000000.mp4 has 480 x 640 pixels" in texts(recording, "warning")
    with pytest.raises(InputError, match=r"episode_000002\.mp4"):
        recording.read(2)
    assert len(recording.read(3)) > 0


@pytest.mark.parametrize("name", ["g1_inspire_bottle_v21_lowdim_original", "reachy2_apple_storage_v30_lowdim"])
def test_damaged_files_give_clear_errors(tmp_path: Path, shared_data: Path, name: str) -> None:
    source = shared_data / "lerobot" / name
    root = tmp_path / "d"
    shutil.copytree(source, root, ignore=shutil.ignore_patterns("episode_0000[1-9]*.parquet"))
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    rng = np.random.default_rng(0)
    for number in range(60):
        path = files[number % len(files)]
        before = path.read_bytes()
        path.write_bytes(mutated(before, rng))
        try:
            recording = find_reader(root, "lerobot_v2" if "g1" in name else "lerobot_v3").open(root, ReadOptions())
        except InputError:
            path.write_bytes(before)
            continue
        for index in range(len(recording)):
            try_to_read(recording, index)
        path.write_bytes(before)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    array = np.frombuffer(data, np.uint8).copy()
    changes: list[Callable[[], Array]] = [
        lambda: array[: rng.integers(len(array))],
        lambda: np.concatenate([array, array[:100]]),
        lambda: _flipped(array, rng, 1),
        lambda: _flipped(array, rng, 20),
    ]
    return changes[int(rng.integers(len(changes)))]().tobytes()


def _flipped(array: Array, rng: np.random.Generator, count: int) -> Array:
    places = rng.integers(len(array), size=count)
    array[places] ^= (1 << rng.integers(8, size=count)).astype(np.uint8)
    return array


def try_to_read(recording: Recording, index: int) -> None:
    with contextlib.suppress(InputError):
        recording.read(index)
