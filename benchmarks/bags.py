"""Messages per second: our reading of bags against the plain loop of `rosbags`, in one run on the same bag.

    python benchmarks/bags.py [--messages 20000] [--repeats 5]

Ours: open, index, decode and resample, from the folder to the arrays of an episode; and the index alone. `rosbags`:
open the same bag, deserialise each message, copy its numbers into an array; and its loop over raw bytes alone. Each
is the fastest of the repeats, in processor time.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_typestore

from robot_rl.datasets.ingest.bag import BagReader
from robot_rl.datasets.ingest.bag_source import find_bags, open_bag
from robot_rl.datasets.ingest.base import BagOptions, ReadOptions

TOPIC = "/joint_states"
JOINTS = [f"joint_{number}" for number in range(7)]
RATE = 500  # Hz
STORAGES = ("sqlite3", "mcap", "mcap zstd", "ros1")


def write(path: Path, storage: str, count: int) -> None:
    """A bag of JointState messages of seven joints."""
    ros1 = storage == "ros1"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_KILTED)
    types = store.types
    if ros1:
        writer = Ros1Writer(path)
    else:
        plugin = StoragePlugin.MCAP if storage.startswith("mcap") else StoragePlugin.SQLITE3
        writer = Ros2Writer(path, version=9, storage_plugin=plugin)
        if storage.endswith("zstd"):
            writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    kind = "sensor_msgs/msg/JointState"
    random = np.random.default_rng(0)
    numbers = random.normal(size=(count, 3, len(JOINTS)))
    with writer:
        connection = writer.add_connection(TOPIC, kind, typestore=store)
        for index in range(count):
            time_ns = 1_700_000_000 * 10**9 + index * 10**9 // RATE
            stamp = types["builtin_interfaces/msg/Time"](sec=time_ns // 10**9, nanosec=time_ns % 10**9)
            header = types["std_msgs/msg/Header"](**({"seq": index} if ros1 else {}), stamp=stamp, frame_id="base")
            position, velocity, effort = numbers[index]
            message = types[kind](header=header, name=JOINTS, position=position, velocity=velocity, effort=effort)
            data = store.serialize_ros1(message, kind) if ros1 else store.serialize_cdr(message, kind)
            writer.write(connection, time_ns + 10**6, data)


def read_ours(path: Path) -> int:
    """The whole episode, decoded and resampled onto the period of the topic."""
    with BagReader().open(path, ReadOptions(bag=BagOptions())) as recording:
        return sum(len(episode) + 1 for episode in recording.episodes())


def index_ours(path: Path) -> int:
    """Topics, times and places of all messages."""
    with ExitStack() as resources:
        return sum(
            len(messages) for place in find_bags(path) for messages in open_bag(place, resources).messages.values()
        )


def read_rosbags(path: Path) -> int:
    """Every message deserialised, its numbers copied into arrays."""
    with AnyReader([path]) as reader:
        count = reader.message_count
        numbers = np.zeros((count, 3, len(JOINTS)))
        times = np.zeros(count, np.int64)
        for index, (connection, _, data) in enumerate(reader.messages()):
            message = reader.deserialize(data, connection.msgtype)
            numbers[index, 0] = message.position
            numbers[index, 1] = message.velocity
            numbers[index, 2] = message.effort
            times[index] = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        return count


def loop_rosbags(path: Path) -> int:
    """Every message as bytes."""
    with AnyReader([path]) as reader:
        return sum(1 for _ in reader.messages())


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The fastest of some calls, in processor time."""
    durations = []
    for _ in range(repeats):
        before = time.process_time()
        call()
        durations.append(time.process_time() - before)
    return min(durations)


def main() -> None:
    """Write the bags, read them, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print("messages/s of JointState with seven joints")
    print(f"{'storage':10} {'ours':>10} {'rosbags':>10} {'ratio':>6}   {'index':>10} {'raw loop':>10} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for storage in STORAGES:
            path = Path(folder) / (storage.replace(" ", "_") + (".bag" if storage == "ros1" else ""))
            write(path, storage, arguments.messages)
            rates = [
                arguments.messages / seconds(lambda path=path, call=call: call(path), arguments.repeats)
                for call in (read_ours, read_rosbags, index_ours, loop_rosbags)
            ]
            print(
                f"{storage:10} {rates[0]:10,.0f} {rates[1]:10,.0f} {rates[0] / rates[1]:6.1f}   "
                f"{rates[2]:10,.0f} {rates[3]:10,.0f} {rates[2] / rates[3]:6.1f}"
            )


if __name__ == "__main__":
    main()
