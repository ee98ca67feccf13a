"""Small LeRobot data sets with the flaws that recorders leave."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robot_rl.datasets.ingest.base import ReadOptions, Recording
from robot_rl.datasets.ingest.registry import find_reader
from robot_rl.errors import InputError
from robot_rl.types import Array


def opened(path: Path, **options: Any) -> Recording:
    return find_reader(path).open(path, ReadOptions(**options))


def texts(recording: Recording, severity: str) -> str:
    return " | ".join(finding.text for finding in recording.findings if finding.severity == severity)


def features(**more: Any) -> dict[str, Any]:
    index = {
        name: {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
        for name in ("timestamp", "frame_index", "episode_index", "index", "task_index")
    }
    vectors = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["x", "y"]}},
        "action": {"dtype": "float32", "shape": [1], "names": None},
    }
    return vectors | more | index


def rows(episode: int, count: int, start: int = 0, fps: float = 10.0) -> dict[str, Any]:
    steps = np.arange(count)
    return {
        "observation.state": pa.array([[float(episode), float(step)] for step in steps], pa.list_(pa.float32())),
        "action": (steps / 10).astype(np.float32),
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(count, episode),
        "index": steps + start,
        "task_index": steps // 3,  # the instruction changes on the way
    }


def write_table(path: Path, parts: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tables = [pa.table(part) for part in parts]
    with pq.ParquetWriter(path, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)


def write_v2(root: Path, lengths: dict[int, int], **info: Any) -> Path:
    meta = root / "meta"
    meta.mkdir(parents=True)
    declared = {
        "codebase_version": "v2.1",
        "fps": 10,
        "total_episodes": len(lengths),
        "total_frames": sum(lengths.values()),
        "chunks_size": 2,
        "splits": {"train": "0:2", "test": "2:9"},
        "data_path": "data/c{episode_chunk:02d}/e{episode_index:04d}.parquet",
        "features": features(),
    }
    (meta / "info.json").write_text(json.dumps(declared | info))
    lines = [{"episode_index": number, "tasks": ["a"], "length": length} for number, length in lengths.items()]
    (meta / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tasks = [{"task_index": number, "task": text} for number, text in enumerate(("reach", "grasp", "lift"))]
    (meta / "tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in tasks))
    for number, length in lengths.items():
        write_table(root / f"data/c{number // 2:02d}/e{number:04d}.parquet", [rows(number, length)])
    return root


def write_v3(root: Path, files: list[list[dict[str, Any]]], lengths: dict[int, int], **info: Any) -> Path:
    """`files` are the tables, each with its row groups; meta/episodes says that all lie in the first."""
    meta = root / "meta"
    meta.mkdir(parents=True)
    declared = {
        "codebase_version": "v3.0",
        "fps": 10,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "features": features(),
    }
    (meta / "info.json").write_text(json.dumps(declared | info))
    for number, parts in enumerate(files):
        write_table(root / f"data/chunk-000/file-{number:03d}.parquet", parts)
    entries = [
        {"episode_index": number, "tasks": ["reach"], "length": length, "data/chunk_index": 0, "data/file_index": 0}
        for number, length in lengths.items()
    ]
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(entries), meta / "episodes" / "chunk-000" / "file-000.parquet")
    tasks = pa.table({"task_index": [0, 1, 2], "__index_level_0__": ["reach", "grasp", "lift"]})
    pq.write_table(tasks, meta / "tasks.parquet")
    return root


def states(recording: Recording) -> list[Array]:
    return [episode.observation["state"][:-1] for episode in recording.episodes()]


def test_paths_come_from_the_templates_and_gaps_are_told(tmp_path: Path) -> None:
    recording = opened(write_v2(tmp_path / "d", {0: 4, 3: 5}))
    assert [len(episode) for episode in recording.episodes()] == [4, 5]
    assert "leaves out 2 numbers: 1 to 2" in texts(recording, "information")
    assert "split test as 2:9, but the last episode is 3" in texts(recording, "warning")
    first, second = recording.episodes()
    assert (first.metadata["split"], second.metadata["split"]) == ("train", "test")
    assert second.metadata["source"] == "episode_index 3"
    assert second.metadata["language"] == "reach"
    assert second.metadata["tasks"] == [[0, "reach"], [3, "grasp"]]
    assert recording.spec.observation["state"].names == ("x", "y")


def test_a_template_cannot_leave_the_folder_or_reach_into_objects(tmp_path: Path) -> None:
    for number, template in enumerate(
        ("../{episode_index}.parquet", "/etc/passwd", "{episode_index.__class__}", "{x}")
    ):
        root = write_v2(tmp_path / str(number), {0: 4}, data_path=template)
        with pytest.raises(InputError, match=r"is no name of a file|no template of a path|placeholder"):
            opened(root)


def test_an_episode_whose_table_is_missing_is_refused_and_the_others_are_not(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "d", {0: 4, 1: 5})
    (root / "data/c00/e0000.parquet").unlink()
    recording = opened(root)
    with pytest.raises(InputError, match=r"e0000\.parquet is missing"):
        recording.read(0)
    assert len(recording.read(1)) == 5
    (root / "data/c00/e0001.parquet").unlink()
    with pytest.raises(InputError, match=r"none of the 2 tables can be read \(.*e0000\.parquet is missing.*no videos"):
        opened(root)


def test_v3_rows_are_joined_by_episode_index_whatever_their_order(tmp_path: Path) -> None:
    parts = [[rows(4, 3), rows(0, 5)], [rows(2, 4)]]
    recording = opened(write_v3(tmp_path / "d", parts, {0: 5, 2: 4, 4: 3}))
    for number, found in zip((0, 2, 4), states(recording), strict=True):
        assert set(found[:, 0].tolist()) == {float(number)}
    assert [len(found) for found in states(recording)] == [5, 4, 3]


def test_v3_lengths_and_entries_that_disagree_are_told(tmp_path: Path) -> None:
    recording = opened(write_v3(tmp_path / "d", [[rows(0, 5), rows(1, 4)]], {0: 6, 7: 2}, total_frames=99))
    warnings = texts(recording, "warning")
    assert "episodes 0 have another number of rows than meta/episodes declares" in warnings
    assert "episodes 1 have rows, but no entry in meta/episodes" in warnings
    assert "episodes 7 have an entry in meta/episodes, but no rows" in warnings
    assert "total_frames=99" in warnings
    assert [len(recording.read(number)) for number in (0, 1)] == [5, 4]
    with pytest.raises(InputError, match="episode 7: no table has rows of it"):
        recording.read(2)


def test_time_that_drifts_and_frames_that_do_not_count_are_told(tmp_path: Path) -> None:
    odd = rows(1, 6) | {"frame_index": np.asarray([0, 1, 2, 4, 5, 6])}
    recording = opened(write_v3(tmp_path / "d", [[rows(0, 6, fps=9.0), odd]], {0: 6, 1: 6}))
    assert "timestamp differs from frame / fps by more than 0.0001 s in 1 episodes" in texts(recording, "warning")
    assert "frame_index does not count from 0 by 1 in 1 episodes, the first is 1" in texts(recording, "warning")


@pytest.mark.parametrize(
    ("semantics", "success", "terminated"),
    [("auto", True, True), ("auto", False, False), ("terminated", False, True), ("truncated", True, False)],
)
def test_a_lone_done_becomes_termination_or_time_limit(
    tmp_path: Path, semantics: str, success: bool, terminated: bool
) -> None:
    facts: dict[str, Any] = {
        name: {"dtype": "bool", "shape": [1], "names": None} for name in ("next.done", "next.success")
    }
    facts["next.reward"] = {"dtype": "float32", "shape": [1], "names": None}
    done = np.arange(5) == 4
    part = rows(0, 5) | {"next.done": done, "next.success": done & success, "next.reward": np.float32([0, 0, 0, 0, 2])}
    root = write_v3(tmp_path / "d", [[part]], {0: 5}, features=features(**facts))
    recording = opened(root, done_semantics=semantics)
    episode = recording.read(0)
    assert recording.spec.metadata == {}
    assert (bool(episode.terminated[-1]), bool(episode.truncated[-1])) == (terminated, not terminated)
    assert episode.reward.tolist() == [0, 0, 0, 0, 2]
    assert episode.success is not None
    assert bool(episode.success[-1]) == success


def test_other_columns_become_extras_metadata_and_images(tmp_path: Path) -> None:
    import cv2

    png = [cv2.imencode(".png", np.full((4, 6, 3), 40 * step, np.uint8))[1].tobytes() for step in range(5)]
    more = {
        "observation.flag": {"dtype": "bool", "shape": [1], "names": None},
        "observation.images.top": {"dtype": "image", "shape": [3, 4, 6], "names": ["channels", "height", "width"]},
        "wrench": {"dtype": "float64", "shape": [2, 2], "names": None},
        "operator": {"dtype": "string", "shape": [1], "names": None},
        "observation.lost": {"dtype": "float32", "shape": [3], "names": None},
    }
    part = rows(0, 5) | {
        "observation.flag": np.arange(5) % 2 == 0,
        "observation.images.top": [{"bytes": data, "path": None} for data in png],
        "wrench": [[[1.0, 2.0], [3.0, float(step)]] for step in range(5)],
        "operator": ["ada"] * 3 + ["bob"] * 2,
        "undeclared": np.arange(5),
    }
    recording = opened(write_v3(tmp_path / "d", [[part]], {0: 5}, features=features(**more)))
    episode = recording.read(0)
    assert episode.observation["flag"].dtype == bool
    assert episode.observation["flag"].shape == (6, 1)
    frames = np.asarray(episode.observation["top"])
    assert frames.shape == (6, 4, 6, 3)
    assert frames[:, 0, 0, 0].tolist() == [0, 40, 80, 120, 160, 160]
    assert episode.extras["wrench"][2].tolist() == [[1, 2], [3, 2]]
    assert episode.metadata["operator"] == [[0, "ada"], [3, "bob"]]
    assert "info.json declares observation.lost, but the tables have no such column" in texts(recording, "error")
    assert "columns that info.json does not declare: undeclared" in texts(recording, "information")


def test_names_without_a_prefix_are_observations_too(tmp_path: Path) -> None:
    index = {name: entry for name, entry in features().items() if "." not in name and name != "action"}
    declared = {"state": {"dtype": "float32", "shape": [2]}, "actions": {"dtype": "float32", "shape": [1]}, **index}
    part = rows(0, 5)
    part = {"state": part.pop("observation.state"), "actions": part.pop("action"), **part}
    recording = opened(write_v3(tmp_path / "d", [[part]], {0: 5}, features=declared))
    assert list(recording.spec.observation) == ["state"]
    assert recording.spec.action.shape == (1,)


def without_footer(path: Path, more: int = 0) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 8 - int.from_bytes(data[-8:-4], "little") - more])


def test_rows_of_a_table_without_footer_are_saved(tmp_path: Path) -> None:
    parts = [rows(number, 5, start=5 * number) for number in range(4)]
    whole = states(opened(write_v3(tmp_path / "a", [parts], dict.fromkeys(range(4), 5))))
    for name, cut, saved in (("b", 0, 4), ("c", 300, 3)):
        root = write_v3(tmp_path / name, [parts], dict.fromkeys(range(4), 5))
        without_footer(root / "data/chunk-000/file-000.parquet", cut)
        recording = opened(root)
        assert f"no footer: its writer was stopped before it closed the file; saved from it: {5 * saved} rows" in texts(
            recording, "warning"
        )
        for number in range(saved):
            np.testing.assert_array_equal(recording.read(number).observation["state"][:-1], whole[number])
        for number in range(saved, 4):
            with pytest.raises(InputError, match="no table has rows of it"):
                recording.read(number)


def test_rows_whose_type_is_another_than_declared_are_not_saved(tmp_path: Path) -> None:
    part = rows(0, 50)
    part["observation.state"] = part["observation.state"].cast(pa.list_(pa.float64()))
    root = write_v3(tmp_path / "d", [[part]], {0: 50})
    without_footer(root / "data/chunk-000/file-000.parquet")
    with pytest.raises(InputError, match="its numbers take other space"):
        opened(root)
