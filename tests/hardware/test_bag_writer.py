"""The bag of a run: others read it, we read it back into a store, and the death of who writes it costs nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mcap.exceptions import EndOfFile
from mcap.reader import make_reader
from mcap.records import Message
from mcap.stream_reader import StreamReader
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from robot_rl.apps import cli
from robot_rl.datasets.store import EpisodeStore
from robot_rl.errors import InputError
from robot_rl.hardware.bag_writer import FILE, BagWriter

KIND = "sensor_msgs/msg/JointState"
PERIOD_NS = 20_000_000
BEGIN_NS = 1_700_000_000_000_000_000
TYPES = get_typestore(Stores.ROS2_KILTED)


def joint_state(stamp_ns: int, values: np.ndarray) -> bytes:
    header = TYPES.types["std_msgs/msg/Header"]
    time_type = TYPES.types["builtin_interfaces/msg/Time"]
    empty = np.zeros(0)
    message = TYPES.types[KIND](
        header=header(stamp=time_type(*divmod(stamp_ns, 1_000_000_000)), frame_id=""),
        name=["a", "b"],
        position=values,
        velocity=empty,
        effort=empty,
    )
    return bytes(TYPES.serialize_cdr(message, KIND))


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 2))


def write(bag: BagWriter, count: int) -> None:
    bag.add_topic("/joint_states", KIND)
    bag.add_topic("/rl/applied", KIND)
    for step, pair in enumerate(zip(rows(count, 0), rows(count, 1), strict=True)):
        now = BEGIN_NS + step * PERIOD_NS
        for late_ns, topic, values in zip((700_000, 900_000), ("/joint_states", "/rl/applied"), pair, strict=True):
            bag.write(
                topic,
                joint_state(now, values),
                received_ns=now + late_ns,
                published_ns=now + 100_000,
                number=step,
                publisher="p",
            )
    bag.flush()


def test_a_bag_is_read_by_others_and_comes_back_as_the_same_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    bag = BagWriter(folder, {"robot": "panda"})
    write(bag, 60)
    bag.close()
    bag.close()
    with AnyReader([folder]) as reader:
        read = [(c.topic, t, reader.deserialize(raw, c.msgtype)) for c, t, raw in reader.messages()]
    assert len(read) == 120
    assert read[0][:2] == ("/joint_states", BEGIN_NS + 700_000)
    np.testing.assert_array_equal([m.position for topic, _, m in read if topic == "/rl/applied"], rows(60, 1))
    with (folder / FILE).open("rb") as file:
        reader = make_reader(file)
        assert reader.get_header().profile == "ros2"
        found = [(message.publish_time, message.sequence) for _, _, message in reader.iter_messages("/joint_states")]
        assert found == [(BEGIN_NS + step * PERIOD_NS + 100_000, step) for step in range(60)]
        assert {record.name for record in reader.iter_metadata()} == {"robot_rl", "lost"}
    store = tmp_path / "store.zarr"
    words = ["bag.observations=[/joint_states:position]", "bag.action=/rl/applied:position"]
    assert cli.main(["ingest", str(folder), str(store), *words]) == 0
    (episode,) = EpisodeStore.open(store).episodes()
    (observed,) = episode.observation.values()
    np.testing.assert_allclose(observed, rows(60, 0)[: len(observed)], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(episode.action, rows(60, 1)[: len(episode.action)])
    assert len(episode) >= 58


def count(path: Path) -> int:
    """Messages of a file that may have no end."""
    found = 0
    with path.open("rb") as file, contextlib.suppress(EndOfFile):
        for record in StreamReader(file).records:
            found += isinstance(record, Message)
    return found


def test_a_killed_writer_leaves_all_that_it_had_flushed(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    code = (
        "import sys, time; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_bag_writer import BagWriter, write\n"
        "bag = BagWriter(Path(sys.argv[1]), {}); write(bag, 50); bag.describe()\n"
        "print('flushed', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "flushed\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    finally:
        process.kill()
        process.stdout.close()
    assert count(folder / FILE) == 100
    store = tmp_path / "store.zarr"
    words = ["bag.observations=[/joint_states:position]", "bag.action=/rl/applied:position"]
    assert cli.main(["ingest", str(folder), str(store), *words]) == 0
    (episode,) = EpisodeStore.open(store).episodes()
    np.testing.assert_array_equal(episode.action, rows(50, 1)[: len(episode.action)])
    assert len(episode) >= 48


def test_lost_messages_are_counted_by_publisher_and_log_times_never_go_back(tmp_path: Path) -> None:
    bag = BagWriter(tmp_path / "bag", {})
    bag.add_topic("/joint_states", KIND)
    for number, publisher, received_ns in ((1, "p", 30), (2, "p", 20), (7, "q", 25), (5, "p", 40), (8, "q", 50)):
        content = joint_state(number, np.zeros(2))
        bag.write("/joint_states", content, received_ns=received_ns, published_ns=0, number=number, publisher=publisher)
    bag.close()
    assert bag.lost["/joint_states"] == 2
    with (tmp_path / "bag" / FILE).open("rb") as file:
        assert [m.log_time for _, _, m in make_reader(file).iter_messages()] == [30, 30, 30, 40, 50]


def test_a_bag_does_not_replace_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is already there"):
        BagWriter(tmp_path, {})


def test_a_flush_costs_no_more_than_a_few_milliseconds(tmp_path: Path) -> None:
    bag = BagWriter(tmp_path / "bag", {})
    bag.add_topic("/joint_states", KIND)
    content = joint_state(0, np.zeros(2))
    began = time.process_time()
    for number in range(500):
        bag.write("/joint_states", content, received_ns=number, published_ns=0, number=number, publisher="p")
        bag.flush()
    assert time.process_time() - began < 0.5
    bag.close()
    assert os.stat(tmp_path / "bag" / FILE).st_size > 500 * len(content)
