"""Bags that are cut, damaged or hostile: a right recording or a clear error, never another exception."""

import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robot_rl.datasets.ingest.bag import BagReader, summary
from robot_rl.datasets.ingest.base import BagOptions, ReadOptions, Recording
from robot_rl.errors import InputError

RecordArm = Callable[..., Any]
FILES = [("mcap", "", "arm.mcap"), ("mcap", "storage", "arm.mcap"), ("sqlite3", "", "arm.db3"), ("ros1", "", ""),
         ("ros1", "lz4", ""), ("ros1", "bz2", ""), ("sqlite3", "file", "arm.db3.zstd")]  # fmt: skip


def made(record_arm: RecordArm, folder: Path, storage: str, compression: str, name: str, **settings: Any) -> Path:
    """The file of a recording, alone."""
    path = folder / ("arm.bag" if storage == "ros1" else "arm")
    record_arm(path, storage, compression, **settings)
    return path / name if name else path


def texts(recording: Recording) -> str:
    return "\n".join(f"{finding.severity}: {finding.text}" for finding in recording.findings)


def try_all(path: Path) -> bool:
    """Read everything; whether it was accepted. Any other exception than InputError fails the test."""
    try:
        reader = BagReader()
        reader.probe(path)
        with reader.open(path, ReadOptions(bag=BagOptions())) as recording:
            for index in range(recording.count):
                episode = recording.read(index)
                for rows in episode.observation.values():
                    np.asarray(rows[0])
        return True
    except InputError:
        return False


@pytest.mark.parametrize(("storage", "compression", "name"), FILES)
def test_a_cut_file_is_read_as_far_as_it_goes_or_refused(
    record_arm: RecordArm, tmp_path: Path, storage: str, compression: str, name: str
) -> None:
    whole = made(record_arm, tmp_path, storage, compression, name, seconds=0.5).read_bytes()
    file = tmp_path / f"cut{Path(name).suffix or '.bag'}"
    if name.endswith(".zstd"):
        file = tmp_path / "cut.db3.zstd"
    for share in np.linspace(0, 0.999, 25):
        file.write_bytes(whole[: int(share * len(whole))])
        try_all(file)


@pytest.mark.parametrize(("storage", "compression", "name"), FILES)
def test_a_file_with_flipped_bits_is_read_or_refused(
    record_arm: RecordArm, tmp_path: Path, storage: str, compression: str, name: str
) -> None:
    whole = made(record_arm, tmp_path, storage, compression, name, seconds=0.3).read_bytes()
    file = tmp_path / (f"flipped{''.join(Path(name).suffixes)}" if name else "flipped.bag")
    random = np.random.default_rng(0)
    for _ in range(30):
        data = np.frombuffer(whole, np.uint8).copy()
        for _ in range(int(random.integers(1, 6))):
            data[random.integers(len(data))] ^= 1 << int(random.integers(8))
        file.write_bytes(data.tobytes())
        try_all(file)


@pytest.mark.parametrize(("storage", "compression", "name"), FILES)
def test_a_file_with_hostile_lengths_is_read_or_refused(
    record_arm: RecordArm, tmp_path: Path, storage: str, compression: str, name: str
) -> None:
    whole = made(record_arm, tmp_path, storage, compression, name, seconds=0.3).read_bytes()
    file = tmp_path / (f"long{''.join(Path(name).suffixes)}" if name else "long.bag")
    random = np.random.default_rng(1)
    for _ in range(30):
        data = bytearray(whole)
        place = int(random.integers(len(data) - 8))
        value = [b"\xff" * 4, b"\xff" * 8, b"\0" * 8, struct.pack("<I", 2**31 - 1), struct.pack("<Q", 2**40)]
        chosen = value[random.integers(len(value))]
        data[place : place + len(chosen)] = chosen
        file.write_bytes(data)
        try_all(file)


def test_an_mcap_file_whose_recorder_was_killed_is_read_with_a_warning(record_arm: RecordArm, tmp_path: Path) -> None:
    file = made(record_arm, tmp_path, "mcap", "storage", "arm.mcap", seconds=60.0)
    whole = file.read_bytes()
    cut = tmp_path / "killed.mcap"
    cut.write_bytes(whole[: int(len(whole) * 0.6)])
    with BagReader().open(cut, ReadOptions()) as recording:
        assert "warning: the file has no end, its recorder was killed" in texts(recording)
        episode = recording.read(0)
        assert 5.0 < episode.extras["timestamp_s"][-1] < 45.0
    cut.write_bytes(whole[: int(len(whole) * 0.6)] + whole[-200:])
    with pytest.raises(InputError, match="damaged"):  # the same cut in a file that was closed is no killed recorder
        BagReader().open(cut, ReadOptions())


def test_an_mcap_file_without_a_summary_is_whole(record_arm: RecordArm, tmp_path: Path) -> None:
    file = made(record_arm, tmp_path, "mcap", "", "arm.mcap", seconds=1.0)
    data = file.read_bytes()
    summary_start = struct.unpack("<Q", data[-28:-20])[0]
    magic = data[-8:]
    bare = data[:summary_start] + b"\x02" + struct.pack("<QQQI", 20, 0, 0, 0) + magic
    (tmp_path / "bare.mcap").write_bytes(bare)
    assert summary(tmp_path / "bare.mcap") == summary(file)
    with BagReader().open(tmp_path / "bare.mcap", ReadOptions()) as recording:
        assert "killed" not in texts(recording)


def test_a_ros1_bag_without_index_is_read_with_a_remedy(record_arm: RecordArm, tmp_path: Path) -> None:
    file = made(record_arm, tmp_path, "ros1", "", "", seconds=1.0)
    data = bytearray(file.read_bytes())
    place = data.index(b"index_pos=") + len(b"index_pos=")
    index = struct.unpack("<Q", data[place : place + 8])[0]
    data[place : place + 8] = bytes(8)
    (tmp_path / "active.bag").write_bytes(data[:index])
    with BagReader().open(tmp_path / "active.bag", ReadOptions()) as recording:
        assert "the bag has no index, its recorder was killed" in texts(recording)
        assert any("rosbag reindex" in finding.remedy for finding in recording.findings)
    assert summary(tmp_path / "active.bag") == summary(file)
    (tmp_path / "cut.bag").write_bytes(file.read_bytes()[: index // 2])
    with pytest.raises(InputError, match="rosbag reindex"):
        BagReader().open(tmp_path / "cut.bag", ReadOptions())


def test_messages_in_the_log_beside_a_database_are_read_and_nothing_is_written(
    record_arm: RecordArm, tmp_path: Path
) -> None:
    file = made(record_arm, tmp_path, "sqlite3", "", "arm.db3", seconds=1.0)
    count = sum(number for _, number in summary(file).values())
    live = tmp_path / "live" / "live.db3"
    live.parent.mkdir()
    shutil.copyfile(file, live)
    killed = tmp_path / "killed" / "live.db3"
    killed.parent.mkdir()
    with closing(sqlite3.connect(live)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("INSERT INTO messages SELECT id + 10000, topic_id, timestamp, data FROM messages LIMIT 50")
        database.commit()
        for name in ("live.db3", "live.db3-wal"):  # as they lie there while the recorder runs
            shutil.copyfile(live.with_name(name), killed.with_name(name))
    before = {path.name: path.read_bytes() for path in killed.parent.iterdir()}
    assert sum(number for _, number in summary(killed).values()) == count + 50
    with BagReader().open(killed, ReadOptions()) as recording:
        recording.read(0)
        assert "left in live.db3-wal is read too" in texts(recording)
    assert {path.name: path.read_bytes() for path in killed.parent.iterdir()} == before


def test_a_view_in_place_of_a_table_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "bomb.db3"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT)")
        database.execute(
            "CREATE VIEW messages AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) "
            "SELECT id, 1 AS topic_id, id AS timestamp, x'00' AS data FROM n"
        )
        database.commit()
    assert BagReader().probe(path) is None
    with pytest.raises(InputError):
        BagReader().open(path, ReadOptions())


def test_a_compressed_file_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    from backports import zstd

    bomb = tmp_path / "bomb.mcap.zstd"
    with zstd.open(bomb, "wb") as file:
        for _ in range(200):
            file.write(bytes(1 << 20))
    with pytest.raises(InputError, match="unpacks to more than"):
        BagReader().open(bomb, ReadOptions())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged"),
        ("- a\n- b", "is damaged"),
        ("rosbag2_bagfile_information: 3", "is damaged"),
        ("rosbag2_bagfile_information: {relative_file_paths: []}", "names the files"),
        ("rosbag2_bagfile_information: {relative_file_paths: [../../etc/passwd]}", "names the files passwd"),
        ("rosbag2_bagfile_information: {relative_file_paths: [a.mcap, b.mcap]}", "a.mcap, b.mcap are not there"),
        ("a: &a [b]\nb: !!python/object/apply:os.system [true]", "is damaged"),
        ("[" * 3000, "is damaged"),
    ],
)
def test_damaged_metadata_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "metadata.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        BagReader().open(tmp_path, ReadOptions())


def test_files_of_other_formats_are_not_taken(tmp_path: Path) -> None:
    reader = BagReader()
    (tmp_path / "a.db3").write_bytes(b"")
    (tmp_path / "b.txt").write_bytes(b"hello")
    with closing(sqlite3.connect(tmp_path / "c.sqlite")) as database:
        database.execute("CREATE TABLE other(id INTEGER)")
        database.commit()
    for name in ("a.db3", "b.txt", "c.sqlite", "none", "."):
        assert reader.probe(tmp_path / name) is None, name
    with pytest.raises(InputError, match="is no bag"):
        reader.open(tmp_path / "b.txt", ReadOptions())
