"""RLDS data sets: what declares them, ends, splits, ragged and encoded features, damage, real data."""

import contextlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import google_crc32c
import numpy as np
import pytest
import simplejpeg

from robot_rl.datasets.convert import ConvertSettings, convert
from robot_rl.datasets.frames import EncodedFrames, lazy
from robot_rl.datasets.ingest.base import ReadOptions, Recording
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.datasets.ingest.rlds import RldsReader
from robot_rl.errors import InputError
from robot_rl.types import Episode

CASES = 400
CORE = "tensorflow_datasets.core.features"
JPEG = [simplejpeg.encode_jpeg(np.full((8, 6, 3), 20 * step, np.uint8)) for step in range(5)]


def tensor(dtype: str = "float32", *shape: int, encoding: str = "none") -> dict[str, Any]:
    parts = {"shape": {"dimensions": [str(size) for size in shape]}, "dtype": dtype, "encoding": encoding}
    return {"pythonClassName": f"{CORE}.tensor_feature.Tensor", "tensor": parts}


def image(*shape: int, dtype: str = "uint8") -> dict[str, Any]:
    parts = {"shape": {"dimensions": [str(size) for size in shape]}, "dtype": dtype}
    return {"pythonClassName": f"{CORE}.image_feature.Image", "image": parts}


def named(**features: Any) -> dict[str, Any]:
    return {"pythonClassName": f"{CORE}.features_dict.FeaturesDict", "featuresDict": {"features": features}}


def sequence(feature: dict[str, Any], kind: str = "sequence_feature.Sequence") -> dict[str, Any]:
    return {"pythonClassName": f"{CORE}.{kind}", "sequence": {"feature": feature, "length": "-1"}}


TEXT = {"pythonClassName": f"{CORE}.text_feature.Text", "text": {}}
FLAGS = {name: tensor("bool") for name in ("is_first", "is_last", "is_terminal")}
STEP = {
    "observation": named(state=tensor("float64", 2), image=image(8, 6, 3)),
    "action": tensor("float32", 3),
    "reward": tensor(),
    "discount": tensor(),
    "language_instruction": TEXT,
    **FLAGS,
}


def features_of(step: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    episode = {"episode_metadata": named(**metadata)} if metadata else {}
    return named(steps=sequence(named(**step), "dataset_feature.Dataset"), **episode)


def record(count: int = 4, last: bool = True, terminal: bool = False, **more: Any) -> dict[str, Any]:
    """An episode of `count` RLDS steps."""
    ends = np.arange(count) == count - 1
    return {
        "steps/observation/state": np.arange(2 * count) / 2,
        "steps/observation/image": JPEG[:count],
        "steps/action": np.arange(3 * count) * 0.125,
        "steps/reward": np.arange(count) * 1.0,
        "steps/discount": np.ones(count),
        "steps/language_instruction": [b"push"] * count,
        "steps/is_first": np.arange(count) == 0,
        "steps/is_last": ends & last,
        "steps/is_terminal": ends & terminal,
    } | {f"steps/{name}" if "/" not in name else name: value for name, value in more.items()}


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def part(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def example(features: dict[str, Any]) -> bytes:
    entries = b""
    for name, value in features.items():
        if isinstance(value, list):
            feature = part(1, b"".join(part(1, item) for item in value))
        elif value.dtype.kind == "f":
            feature = part(2, part(1, value.astype("<f4").tobytes()))
        else:
            feature = part(3, part(1, b"".join(varint(int(item)) for item in value)))
        entries += part(1, part(1, name.encode()) + part(2, feature))
    return part(1, entries)


def framed(data: bytes) -> bytes:
    def checksum(content: bytes) -> bytes:
        crc = google_crc32c.value(content)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    length = struct.pack("<Q", len(data))
    return length + checksum(length) + data + checksum(data)


def write(folder: Path, splits: dict[str, list[dict[str, Any]]], features: dict[str, Any] | None = None) -> Path:
    root = folder / "robot" / "1.0.0"
    root.mkdir(parents=True)
    if features is not None:
        (root / "features.json").write_text(json.dumps(features))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    entries = [
        {"name": name, "shardLengths": [str(len(rows))], "filepathTemplate": template} for name, rows in splits.items()
    ]
    info = {"name": "robot", "version": "1.0.0", "fileFormat": "tfrecord", "splits": entries}
    (root / "dataset_info.json").write_text(json.dumps(info))
    for name, rows in splits.items():
        data = b"".join(framed(example(row)) for row in rows)
        (root / f"robot-{name}.tfrecord-00000-of-00001").write_bytes(data)
    return root


def opened(path: Path, options: ReadOptions | None = None) -> Recording:
    return RldsReader().open(path, ReadOptions() if options is None else options)


def one(folder: Path, step: dict[str, Any], row: dict[str, Any]) -> tuple[Recording, Episode]:
    recording = opened(write(folder, {"train": [row]}, features_of(step)))
    return recording, recording.read(0)


def said(recording: Recording) -> str:
    return " ".join(f"{finding.place} {finding.text}" for finding in recording.findings)


def test_the_step_marked_last_is_the_final_observation(tmp_path: Path) -> None:
    recording, episode = one(tmp_path, STEP, record(count=4))
    assert len(episode) == 3
    assert episode.has_final_observation
    assert episode.observation["state"].dtype == np.float64
    np.testing.assert_array_equal(episode.observation["state"], np.arange(8).reshape(4, 2) / 2)
    np.testing.assert_array_equal(episode.action, np.arange(9, dtype=np.float32).reshape(3, 3) * 0.125)
    assert episode.reward.tolist() == [0.0, 1.0, 2.0]
    assert not episode.terminated.any()
    assert episode.truncated.tolist() == [False, False, True]
    assert episode.extras["discount"].shape == (3,)
    assert episode.metadata["language"] == "push"
    assert episode.metadata["split"] == "train"
    assert "1 of 1 episodes have a reward on the step marked is_last" in said(recording)


def test_an_end_of_the_task_terminates(tmp_path: Path) -> None:
    _, episode = one(tmp_path, STEP, record(terminal=True))
    assert episode.terminated.tolist() == [False, False, True]
    assert not episode.truncated.any()


def test_clips_that_never_end_keep_all_their_steps(tmp_path: Path) -> None:
    recording, episode = one(tmp_path, STEP, record(count=4, last=False))
    assert len(episode) == 4
    assert not episode.has_final_observation
    assert episode.truncated[-1]
    np.testing.assert_array_equal(episode.observation["state"][-1], episode.observation["state"][-2])
    assert "1 of 1 episodes never set is_last" in said(recording)


def test_images_stay_encoded_until_they_are_looked_at(tmp_path: Path) -> None:
    _, episode = one(tmp_path, STEP, record())
    frames = lazy(episode.observation["image"])
    assert isinstance(frames, EncodedFrames)
    assert list(frames.encoded) == JPEG[:4]
    assert abs(int(np.asarray(frames)[2].mean()) - 40) <= 1


def test_episodes_are_read_in_any_order_from_all_splits(tmp_path: Path) -> None:
    rows = [record(count=count) for count in (2, 3, 4, 5)]
    path = write(tmp_path, {"train": rows[:2], "val": rows[2:]}, features_of(STEP))
    for named_path in (path, path.parent):
        reader = find_reader(named_path)
        assert reader.name == "rlds"
        with reader.open(named_path, ReadOptions()) as recording:
            found = {index: recording.read(index) for index in (3, 0, 2, 1)}
        assert [len(found[index]) for index in range(4)] == [1, 2, 3, 4]
        assert [found[index].metadata["split"] for index in range(4)] == ["train", "train", "val", "val"]
    with opened(path, ReadOptions(maximum_episodes=3)) as recording:
        assert len(recording) == 3
    with opened(path / "robot-val.tfrecord-00000-of-00001") as recording:  # features.json lies beside it
        assert len(recording) == 2
        assert recording.read(0).observation["state"].shape == (4, 2)


def test_without_declarations_they_are_inferred_and_that_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, {"train": [record()]})
    with find_reader(path).open(path, ReadOptions()) as recording:
        episode = recording.read(0)
        assert episode.action.shape == (3, 3)
        assert lazy(episode.observation["image"]) is not None
        assert episode.metadata["language"] == "push"
        assert episode.has_final_observation
        assert "there is no features.json" in said(recording)


def test_an_instruction_that_changes_is_kept_by_step(tmp_path: Path) -> None:
    row = record(language_instruction=[b"push", b"push", b"pull", b"pull"])
    _, episode = one(tmp_path, STEP, row)
    assert episode.metadata["language"] == "push"
    assert episode.metadata["tasks"] == [[0, "push"], [2, "pull"]]


def test_facts_of_the_episode_are_metadata(tmp_path: Path) -> None:
    features = features_of(STEP, file_path=TEXT, episode_id=tensor("int32"), weights=sequence(tensor("float32")))
    row = record() | {
        "episode_metadata/file_path": [b"/lab/a.h5"],
        "episode_metadata/episode_id": np.array([7]),
        "episode_metadata/weights": np.array([0.5, 0.25]),
    }
    recording = opened(write(tmp_path, {"train": [row]}, features))
    facts = recording.read(0).metadata["episode"]
    assert facts == {"file_path": "/lab/a.h5", "episode_id": 7, "weights": [0.5, 0.25]}


def test_ragged_rows_are_filled_and_their_lengths_kept(tmp_path: Path) -> None:
    step = STEP | {"observation": named(state=tensor("float64", 2), points=sequence(tensor("float32", 2)))}
    row = record()
    del row["steps/observation/image"]
    row["steps/observation/points/ragged_flat_values"] = np.arange(12) * 1.0
    row["steps/observation/points/ragged_row_lengths_0"] = np.array([2, 0, 3, 1])
    recording, episode = one(tmp_path, step, row)
    points = episode.observation["points"]
    assert points.shape == (4, 3, 2)
    assert episode.extras["points/length"].tolist() == [2, 0, 3, 1]
    assert points[2].tolist() == [[4, 5], [6, 7], [8, 9]]
    assert points[3].tolist() == [[10, 11], [0, 0], [0, 0]]
    assert "filled with zeros to 3" in said(recording)


def test_rows_of_one_length_are_an_array(tmp_path: Path) -> None:
    step = STEP | {"observation": named(state=tensor("float64", 2), points=sequence(sequence(tensor("int64"))))}
    row = record(count=2)
    del row["steps/observation/image"]
    row["steps/observation/points/ragged_flat_values"] = np.arange(12)
    row["steps/observation/points/ragged_row_lengths_0"] = np.array([3, 3])
    row["steps/observation/points/ragged_row_lengths_1"] = np.full(6, 2)
    _, episode = one(tmp_path, step, row)
    np.testing.assert_array_equal(episode.observation["points"], np.arange(12).reshape(2, 3, 2))


@pytest.mark.parametrize("encoding", ["bytes", "zlib"])
def test_encoded_tensors_are_decoded(tmp_path: Path, encoding: str) -> None:
    step = STEP | {"observation": named(grid=tensor("uint16", 2, 2, encoding=encoding.upper()))}
    wanted = np.arange(16, dtype=np.uint16).reshape(4, 2, 2)
    row = record()
    for name in ("state", "image"):
        del row[f"steps/observation/{name}"]
    row["steps/observation/grid"] = [zlib.compress(a.tobytes()) if encoding == "zlib" else a.tobytes() for a in wanted]
    _, episode = one(tmp_path, step, row)
    np.testing.assert_array_equal(episode.observation["grid"], wanted)


def test_depth_is_uint16(tmp_path: Path) -> None:
    step = STEP | {"observation": named(depth=image(8, 6, 1, dtype="uint16"))}
    wanted = (np.arange(4 * 48).reshape(4, 8, 6) * 300).astype(np.uint16)
    row = record()
    for name in ("state", "image"):
        del row[f"steps/observation/{name}"]
    row["steps/observation/depth"] = [cv2.imencode(".png", one_image)[1].tobytes() for one_image in wanted]
    _, episode = one(tmp_path, step, row)
    np.testing.assert_array_equal(episode.observation["depth"], wanted)


def test_parts_of_an_action_follow_one_another_and_whole_numbers_are_extras(tmp_path: Path) -> None:
    parts = named(move=tensor("float32", 2), gripper=tensor(), mode=tensor("int32"))
    row = record(count=3)
    del row["steps/action"]
    row |= {"steps/action/move": np.arange(6.0), "steps/action/gripper": np.array([7.0, 8.0, 9.0])}
    row["steps/action/mode"] = np.array([1, 2, 3])
    recording, episode = one(tmp_path, STEP | {"action": parts}, row)
    assert episode.action.tolist() == [[7, 0, 1], [8, 2, 3]]
    assert episode.extras["action/mode"].tolist() == [1, 2]
    assert "gripper, move; mode are integers" in said(recording)


def test_what_the_data_set_lacks_is_declared(tmp_path: Path) -> None:
    row = {name: value for name, value in record().items() if "observation" in name}
    recording, episode = one(tmp_path, {"observation": STEP["observation"]}, row)
    assert recording.spec.metadata["absent"] == ["action", "reward", "success", "end"]
    assert episode.action.shape == (3, 0)
    assert len(episode.observation["state"]) == 4


def test_a_damaged_record_costs_one_episode(tmp_path: Path) -> None:
    path = write(tmp_path, {"train": [record(), record(count=3), record(count=2)]}, features_of(STEP))
    file = path / "robot-train.tfrecord-00000-of-00001"
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(data)
    with opened(path) as recording:
        with pytest.raises(InputError, match=r"tfrecord-00000-of-00001: record 0 is damaged: its checksum"):
            recording.read(0)
        assert [len(recording.read(index)) for index in (1, 2)] == [2, 1]
    file.write_bytes(data[:-30])
    with opened(path) as recording:
        assert "the file has 2 whole records, dataset_info.json says 3: record 2 at byte" in said(recording)
        with pytest.raises(InputError, match="truncated"):
            recording.read(2)


def test_shards_that_are_missing_are_found(tmp_path: Path) -> None:
    path = write(tmp_path, {"train": [record()], "val": [record(), record()]}, features_of(STEP))
    (path / "robot-val.tfrecord-00000-of-00001").unlink()
    assert "split 'val' lacks 1 of 1 shards, such as number 0: 2 episodes" in said(opened(path))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("steps/action", np.zeros(11), "expected 12"),
        ("steps/action", [b"x"] * 4, "holds bytes"),
        ("steps/observation/state", np.zeros(8, np.int64), "holds int64"),
        ("steps/is_last", np.array([0, 1, 0, 1]), "goes on after steps/is_last at step 1 of 4"),
        ("steps/observation/image", JPEG[:3], "3 values, the episode has 4"),
    ],
)
def test_a_record_that_does_not_fit_its_declaration_is_refused(
    tmp_path: Path, name: str, value: Any, words: str
) -> None:
    path = write(tmp_path, {"train": [record() | {name: value}]}, features_of(STEP))
    with pytest.raises(InputError, match=words):
        opened(path)


def test_lengths_of_rows_that_lie_allocate_nothing(tmp_path: Path) -> None:
    step = STEP | {"observation": named(points=sequence(tensor()))}
    row = record()
    row["steps/observation/points/ragged_flat_values"] = np.zeros(3)
    row["steps/observation/points/ragged_row_lengths_0"] = np.array([2**62, 2**62, 2**62, 3])
    path = write(tmp_path, {"train": [row]}, features_of(step))
    with pytest.raises(InputError, match="record 0: feature 'steps/observation/points' has"):
        opened(path)


def test_records_with_right_checksums_and_wrong_content_are_stored_or_refused(tmp_path: Path) -> None:
    step = STEP | {"observation": named(points=sequence(tensor()), image=image(8, 6, 3), grid=tensor("uint8", 2))}
    row = record() | {"steps/observation/grid": np.arange(8)}
    row["steps/observation/points/ragged_flat_values"] = np.arange(6.0)
    row["steps/observation/points/ragged_row_lengths_0"] = np.array([2, 0, 3, 1])
    path = write(tmp_path, {"train": [row]}, features_of(step))
    whole, generator = example(row), np.random.default_rng(0)
    read = 0
    for _ in range(CASES):
        data = bytearray(whole)
        for place in generator.integers(0, len(data), generator.integers(1, 4)):
            data[place] = generator.choice([0, 1, 0x7F, 0x80, 0xFF, generator.integers(0, 256)])
        (path / "robot-train.tfrecord-00000-of-00001").write_bytes(framed(bytes(data)))
        with contextlib.suppress(InputError):
            episode = opened(path).read(0)
            assert all(len(rows) == len(episode) + 1 for rows in episode.observation.values())
            read += 1
    assert 0 < read < CASES


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("features.json", "{}", "features.json is damaged"),
        ("features.json", "[" * 5000, "features.json is damaged"),
        ("dataset_info.json", '{"fileFormat": "array_record"}', "convert_format"),
        ("dataset_info.json", '{"splits": [{"name": "a", "shardLengths": [1e999]}]}', "dataset_info.json is damaged"),
        ("dataset_info.json", '{"splits": [{"name": "a", "filepathTemplate": "{X}{X}{X}"}]}', "is damaged"),
    ],
)
def test_damaged_declarations_are_refused(tmp_path: Path, file: str, text: str, words: str) -> None:
    path = write(tmp_path, {"train": [record()]}, features_of(STEP))
    (path / file).write_text(text)
    with pytest.raises(InputError, match=words):
        opened(path)


def test_several_versions_ask_for_one(tmp_path: Path) -> None:
    path = write(tmp_path, {"train": [record()]}, features_of(STEP))
    (path.parent / "2.0.0").mkdir()
    (path.parent / "2.0.0" / "robot-train.tfrecord-00000-of-00001").write_bytes(framed(example(record())))
    with pytest.raises(InputError, match=r"several versions.*1\.0\.0, 2\.0\.0"):
        opened(path.parent)


def test_bridge_data_is_what_its_readme_says(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "rlds" / "bridge_dataset" / "1.0.0"
    report = convert(path, tmp_path / "bridge.zarr", ConvertSettings(workers=0))
    words = " ".join(f"{finding.place} {finding.text}" for finding in report.findings)
    assert (report.episodes, report.steps) == (50, 500)
    for flaw in ("50 of 50 episodes never set is_last", "more than one of the splits", "all are 0", "image_3"):
        assert flaw in words
    with opened(path) as recording:
        episodes = list(recording.episodes())
    assert len({episode.metadata["language"] for episode in episodes}) == 4
    assert episodes[0].extras["language_embedding"].shape == (10, 512)
    assert [episode.metadata["split"] for episode in episodes] == ["train"] * 25 + ["val"] * 25
