"""What is written as a LeRobot v3.0 data set is read back whole."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.datasets.export_lerobot import LerobotOptions, write_lerobot
from robot_rl.datasets.frames import EncodedFrames, as_array, encode_jpeg, lazy
from robot_rl.datasets.ingest.base import ReadOptions, Recording
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SPEC = Spec(
    observation={  # not in the order of the alphabet, with names that LeRobot does not take as they are
        "state": ArraySpec(shape=(3,), dtype="float64", names=("x", "y", "z"), unit="m"),
        "gripper/width": ArraySpec(shape=(), dtype="float32", unit="m"),
        "depth": ArraySpec(shape=(2, 4), dtype="uint16", unit="mm"),
        "grasped": ArraySpec(shape=(1,), dtype="bool"),
    },
    action=ArraySpec(shape=(2,), low=np.full(2, -2.0), high=np.full(2, 2.0), names=("a", "b")),
    control_period_s=0.05,
    action_semantics="osc_pose_delta",
    metadata={"environment": "lift"},
)
OPTIONS = LerobotOptions(task="do it")
CAMERA = ArraySpec(shape=(32, 48, 3), dtype="uint8")
PSNR_DB = 28.0  # of smooth pictures at crf 30


def make_episode(seed: int, steps: int) -> Episode:
    rng = np.random.default_rng(seed)
    terminated, truncated = np.zeros(steps, bool), np.zeros(steps, bool)
    terminated[-1], truncated[-1] = seed % 3 != 0, seed % 3 != 1
    observation = {
        "state": rng.normal(size=(steps + 1, 3)),
        "gripper/width": rng.random(steps + 1, np.float32),
        "depth": rng.integers(0, 2**16, (steps + 1, 2, 4)).astype(np.uint16),
        "grasped": rng.random((steps + 1, 1)) < 0.5,
    }
    if seed % 5 == 0:  # without a final observation
        observation = {key: np.concatenate([array[:-1], array[-2:-1]]) for key, array in observation.items()}
    return Episode(
        observation=observation,
        action=rng.uniform(-2, 2, (steps, 2)).astype(np.float32),
        reward=rng.normal(size=steps),
        terminated=terminated,
        truncated=truncated,
        success=rng.random(steps) < 0.5 if seed % 2 else None,
        intervened=rng.random(steps) < 0.5 if seed % 4 == 1 else None,
        has_final_observation=seed % 5 != 0,
        extras={
            "timestamp_s": np.arange(steps + 1.0) + rng.random(),
            "wrench/force": rng.normal(size=(steps, 3)),
            "nothing": np.zeros((steps, 0)),
        },
        metadata={"seed": seed, "language": f"lift {seed % 2}", "source": "a"},
    )


def written(path: Path, spec: Spec, episodes: list[Episode], options: LerobotOptions = OPTIONS) -> Recording:
    write_lerobot(path, spec, lambda: episodes, options, overwrite=True)
    return find_reader(path).open(path, ReadOptions())


def assert_equal(found: Episode, wanted: Episode, *, images: tuple[str, ...] = ()) -> None:
    assert list(found.observation) == list(wanted.observation)
    pairs = {key: (found.observation[key], wanted.observation[key]) for key in wanted.observation if key not in images}
    pairs |= {key: (found.extras[key], wanted.extras[key]) for key in wanted.extras}
    for name in ("action", "reward", "terminated", "truncated"):
        pairs[name] = (getattr(found, name), getattr(wanted, name))
    assert set(found.extras) == set(wanted.extras)
    for name, (left, right) in pairs.items():
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)
    assert (found.success is None) == (wanted.success is None)
    if found.success is not None:
        np.testing.assert_array_equal(found.success, wanted.success)
    before = wanted.intervened is not None and bool(wanted.intervened.any())
    assert (found.intervened is not None) == before
    if before:
        np.testing.assert_array_equal(found.intervened, wanted.intervened)
    assert found.has_final_observation == wanted.has_final_observation
    assert found.metadata == wanted.metadata


def psnr_db(left: Array, right: Array) -> float:
    error = np.square(left.astype(np.float64) - right).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def pictures(count: int, seed: int, channels: int = 3) -> Array:
    """Smooth pictures that move, as a camera sees them."""
    y, x = np.mgrid[:32, :48]
    waves = [127 + 120 * np.sin((x + 2 * y) / 9 + (frame + seed) / 4) for frame in range(count)]
    return np.repeat(np.stack(waves).astype(np.uint8)[..., None], channels, axis=3)


def with_camera(episode: Episode, images: Array) -> Episode:
    return replace(episode, observation={**episode.observation, "wrist/left": images})


def test_numbers_survive_the_round_trip(tmp_path: Path) -> None:
    @settings(max_examples=6, deadline=None)
    @given(seed=st.integers(0, 100), lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6))
    def check(seed: int, lengths: list[int]) -> None:
        episodes = [make_episode(seed + index, steps) for index, steps in enumerate(lengths)]
        with written(tmp_path / "d", SPEC, episodes) as recording:
            assert recording.spec.to_json() == SPEC.to_json()
            assert list(recording.spec.observation) == list(SPEC.observation)
            for found, wanted in zip(recording.episodes(), episodes, strict=True):
                assert_equal(found, wanted)
            assert not [finding for finding in recording.findings if finding.severity != "information"]

    check()


@pytest.mark.parametrize("codec", ["libsvtav1", "h264"])
def test_images_survive_as_videos_within_what_the_codec_loses(tmp_path: Path, codec: str) -> None:
    spec = replace(SPEC, observation={**SPEC.observation, "wrist/left": CAMERA})
    images = [pictures(count, seed) for seed, count in enumerate((9, 6, 13))]
    images[0] = np.concatenate([images[0][:-1], images[0][-2:-1]])  # seed 5 has no final observation
    episodes = [with_camera(make_episode(5 + n, len(rows) - 1), rows) for n, rows in enumerate(images)]
    recording = written(tmp_path / "d", spec, episodes, replace(OPTIONS, video_codec=codec))
    assert recording.spec.to_json() == spec.to_json()
    for found, wanted in zip(recording.episodes(), episodes, strict=True):
        assert_equal(found, wanted, images=("wrist/left",))
        decoded = np.asarray(found.observation["wrist/left"])
        assert (
            min(psnr_db(left, right) for left, right in zip(decoded, wanted.observation["wrist/left"], strict=True))
            > PSNR_DB
        )
    assert not [finding for finding in recording.findings if finding.severity != "information"]
    (video,) = (tmp_path / "d" / "videos").rglob("*.mp4")
    assert video.parent.parent.name == "observation.images.wrist.left"
    with av.open(str(video)) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert len(keys) == 8 + 6 + 13  # the final observations stand behind their episodes
    assert all(keys[::2])


@pytest.mark.parametrize("channels", [1, 3])
def test_images_in_the_tables_are_exact(tmp_path: Path, channels: int) -> None:
    camera = replace(CAMERA, shape=(32, 48, channels))
    spec = replace(SPEC, observation={**SPEC.observation, "wrist/left": camera})
    rows = pictures(6, 0, channels)
    encoded = EncodedFrames([encode_jpeg(image) for image in rows], camera.shape, "x")
    episodes = [with_camera(make_episode(1, 5), rows), with_camera(make_episode(3, 5), as_array(encoded))]
    recording = written(tmp_path / "d", spec, episodes, replace(OPTIONS, video_codec="none"))
    for found, wanted in zip(recording.episodes(), episodes, strict=True):
        assert_equal(found, wanted, images=("wrist/left",))
        np.testing.assert_array_equal(
            np.asarray(found.observation["wrist/left"]), np.asarray(wanted.observation["wrist/left"])
        )
    kept = lazy(recording.read(1).observation["wrist/left"])
    assert isinstance(kept, EncodedFrames)
    assert kept.encoded == encoded.encoded  # not encoded again


def test_a_genuine_v3_data_set_comes_back_with_its_videos_copied(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "lerobot" / "so101_pick_and_place_v30"
    assert_same_when_exported(source, tmp_path, 6)
    name = "videos/observation.images.wrist/chunk-000/file-000.mp4"
    assert (tmp_path / "d" / name).read_bytes() == (source / name).read_bytes()
    ours, theirs = (json.loads((root / "meta" / "info.json").read_text()) for root in (tmp_path / "d", source))
    for key in ("codebase_version", "fps", "total_episodes", "total_frames", "splits", "data_path", "video_path"):
        assert ours[key] == theirs[key]
    for key in ("observation.state", "action", "observation.images.wrist", "timestamp", "task_index"):
        assert (ours["features"][key]["dtype"], ours["features"][key]["shape"]) == (
            theirs["features"][key]["dtype"],
            theirs["features"][key]["shape"],
        )


def test_a_genuine_v21_data_set_becomes_v30(tmp_path: Path, shared_data: Path) -> None:
    assert_same_when_exported(shared_data / "lerobot" / "g1_inspire_bottle_v21", tmp_path, 2)
    assert len(list((tmp_path / "d" / "videos").rglob("*.mp4"))) == 2


def assert_same_when_exported(source: Path, tmp_path: Path, count: int) -> None:
    options = ReadOptions(maximum_episodes=count)
    with find_reader(source).open(source, options) as before:
        write_lerobot(tmp_path / "d", before.spec, before.episodes, LerobotOptions())
        with find_reader(tmp_path / "d").open(tmp_path / "d", ReadOptions()) as after:
            assert len(after) == count
            assert after.spec.to_json() == before.spec.to_json()
            for found, wanted in zip(after.episodes(), before.episodes(), strict=True):
                cameras = tuple(key for key in wanted.observation if lazy(wanted.observation[key]) is not None)
                assert_equal(found, wanted, images=cameras)
                for key in cameras:
                    step = len(wanted) // 2
                    np.testing.assert_array_equal(found.observation[key][step], wanted.observation[key][step])


def test_the_layout_is_lerobots(tmp_path: Path) -> None:
    spec = replace(SPEC, observation={"state": SPEC.observation["state"], "top": CAMERA})
    episodes = []
    for seed, steps in ((1, 4), (3, 7), (7, 5)):
        episode = make_episode(seed, steps)
        observation = {"state": episode.observation["state"], "top": pictures(steps + 1, seed)}
        metadata = {"language": "lift", "split": "train" if seed < 7 else "test"}
        episodes.append(replace(episode, observation=observation, metadata=metadata, extras={}))
    options = LerobotOptions(data_files_size_in_mb=0, video_files_size_in_mb=0, chunks_size=2, robot_type="arm")
    write_lerobot(tmp_path / "d", spec, lambda: episodes, options)
    root = tmp_path / "d"
    info = json.loads((root / "meta" / "info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"], info["fps"]) == (3, 16, 1, 20)
    assert info["splits"] == {"train": "0:2", "test": "2:3"}
    assert info["robot_type"] == "arm"
    assert info["features"]["observation.images.top"]["info"]["video.codec"] == "av1"
    names = [
        f"chunk-{number // 2:03d}/file-{number % 2:03d}" for number in range(3)
    ]  # a limit of 0: one episode a file
    for number, name in enumerate(names):
        table = pq.read_table(root / "data" / f"{name}.parquet")
        assert set(table["episode_index"].to_pylist()) == {number}
        assert (root / "videos" / "observation.images.top" / f"{name}.mp4").is_file()
    rows = [
        row
        for path in sorted((root / "meta" / "episodes").rglob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert [row["length"] for row in rows] == [4, 7, 5]
    assert [row["dataset_to_index"] for row in rows] == [4, 11, 16]
    assert [(row["data/chunk_index"], row["data/file_index"]) for row in rows] == [(0, 0), (0, 1), (1, 0)]
    assert rows[1]["videos/observation.images.top/to_timestamp"] == pytest.approx(7 / 20)
    assert rows[1]["tasks"] == ["lift"]
    table = pq.read_table(root / "data" / "chunk-000" / "file-001.parquet")
    assert table["index"].to_pylist() == list(range(4, 11))
    assert table["next.done"].to_pylist() == [False] * 6 + [True]
    np.testing.assert_allclose(table["timestamp"].to_numpy(), np.arange(7) / 20, atol=1e-6)
    statistics = json.loads((root / "meta" / "stats.json").read_text())
    states = np.concatenate([episode.observation["state"][:-1] for episode in episodes])
    assert set(statistics["action"]) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
    np.testing.assert_allclose(statistics["observation.state"]["mean"], states.mean(axis=0))
    np.testing.assert_allclose(statistics["observation.state"]["std"], states.std(axis=0))
    np.testing.assert_allclose(statistics["observation.state"]["q90"], np.quantile(states, 0.9, axis=0))
    assert statistics["observation.state"]["count"] == [16]
    assert np.shape(statistics["observation.images.top"]["mean"]) == (3, 1, 1)
    shown = np.concatenate([episode.observation["top"] for episode in episodes]) / 255
    np.testing.assert_allclose(
        np.ravel(statistics["observation.images.top"]["mean"]), shown.mean(axis=(0, 1, 2)), atol=1e-6
    )
    np.testing.assert_allclose(np.ravel(statistics["observation.images.top"]["max"]), shown.max(), atol=1e-6)
    tasks = pq.read_table(root / "meta" / "tasks.parquet")
    assert tasks.to_pylist() == [{"task_index": 0, "__index_level_0__": "lift"}]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["__index_level_0__"]


def test_without_what_we_add_it_is_still_a_lerobot_data_set(tmp_path: Path) -> None:
    episodes = [make_episode(seed, 6) for seed in (1, 3)]
    written(tmp_path / "d", SPEC, episodes).close()
    for path in (tmp_path / "d" / "meta" / "robot_rl").iterdir():
        path.unlink()
    with find_reader(tmp_path / "d").open(tmp_path / "d", ReadOptions()) as recording:
        for found, wanted in zip(recording.episodes(), episodes, strict=True):
            np.testing.assert_array_equal(found.observation["state"][:-1], wanted.observation["state"][:-1])
            assert not found.has_final_observation
            assert found.metadata["language"] == wanted.metadata["language"]
            assert found.terminated[-1] == wanted.terminated[-1]


def test_what_we_add_is_passed_over_where_it_does_not_fit(tmp_path: Path) -> None:
    episodes = [make_episode(seed, 6) for seed in (1, 3)]
    written(tmp_path / "d", SPEC, episodes).close()
    path = tmp_path / "d" / "meta" / "robot_rl" / "spec.json"
    declared = json.loads(path.read_text())
    declared["spec"]["action"]["shape"] = [9]
    path.write_text(json.dumps(declared))
    with find_reader(tmp_path / "d").open(tmp_path / "d", ReadOptions()) as recording:
        assert any("is not used" in finding.text for finding in recording.findings)
        np.testing.assert_array_equal(recording.read(1).action, episodes[1].action)


def test_an_instruction_that_changes_on_the_way_is_kept(tmp_path: Path) -> None:
    episode = replace(make_episode(1, 6), metadata={"language": "reach", "tasks": [[0, "reach"], [4, "lift"]]})
    with written(tmp_path / "d", SPEC, [episode]) as recording:
        assert recording.read(0).metadata == episode.metadata
    table = pq.read_table(tmp_path / "d" / "data" / "chunk-000" / "file-000.parquet")
    assert table["task_index"].to_pylist() == [0, 0, 0, 0, 1, 1]


def test_recordings_without_actions_come_back(tmp_path: Path) -> None:
    metadata = {"absent": ["action", "reward", "success", "end"]}
    spec = replace(SPEC, action=ArraySpec(shape=(0,)), metadata=metadata)
    episode = replace(
        make_episode(2, 6),
        action=np.zeros((6, 0), np.float32),
        reward=np.zeros(6, np.float32),
        terminated=np.zeros(6, bool),
        truncated=np.arange(6) == 5,
        success=None,
        intervened=None,
    )
    with written(tmp_path / "d", spec, [episode]) as recording:
        assert_equal(recording.read(0), episode)
    table = pq.read_table(tmp_path / "d" / "data" / "chunk-000" / "file-000.parquet")
    assert len(table) == 7
    assert not {"action", "next.reward", "next.done"} & set(table.column_names)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out" / "d"
    bad = replace(make_episode(1, 4), observation={"state": np.zeros((5, 3))})
    with pytest.raises(InputError, match="episode 1 has the observations"):
        write_lerobot(path, SPEC, lambda: [make_episode(1, 4), bad], OPTIONS)
    with pytest.raises(InputError, match="no episode to write"):
        write_lerobot(path, SPEC, list, OPTIONS)
    with pytest.raises(InputError, match="declares no control period"):
        write_lerobot(path, replace(SPEC, control_period_s=None), lambda: [make_episode(1, 4)], OPTIONS)
    nameless = replace(make_episode(1, 4), metadata={})
    with pytest.raises(InputError, match="has no language"):
        write_lerobot(path, SPEC, lambda: [nameless], LerobotOptions())
    assert list((tmp_path / "out").iterdir()) == []

    def interrupted() -> Iterator[Episode]:
        calls.append(1)
        yield make_episode(1, 4)
        if len(calls) == 2:
            raise KeyboardInterrupt

    calls: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        write_lerobot(path, SPEC, interrupted, OPTIONS)
    assert list((tmp_path / "out").iterdir()) == []
    write_lerobot(path, SPEC, lambda: [make_episode(1, 4)], OPTIONS)
    with pytest.raises(InputError, match="overwrite=true"):
        write_lerobot(path, SPEC, lambda: [make_episode(1, 4)], OPTIONS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(InputError, match="no LeRobot data set"):
        write_lerobot(tmp_path / "other", SPEC, lambda: [make_episode(1, 4)], OPTIONS, overwrite=True)
