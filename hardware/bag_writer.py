"""Writes an MCAP bag that is whole up to the last message, however its process ends. Knows messages as bytes only.

A folder of rosbag2: `metadata.yaml` and one file. Messages stand in the file one behind the other, without chunks, and
are handed to the operating system at each `flush`: what was flushed survives the death of the process (not that of the
machine: `sync` is for that). Log times never decrease, as readers of files without an index demand.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # PyYAML ships no types; Hydra brings it
from mcap.writer import CompressionType, Writer
from rosbags.typesys import Stores, get_typestore

from robot_rl.errors import InputError

FILE, METADATA = "bag.mcap", "metadata.yaml"
BUFFER_BYTES = 1 << 22


class BagWriter:
    """One bag. Not thread-safe."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Make the folder and begin.

        Args:
            folder: must not exist.
            facts: JSON that the bag says of itself, as the MCAP metadata record `robot_rl`.

        Raises:
            InputError: the folder is there already, or cannot be written.
        """
        try:
            folder.mkdir(parents=True)
            self._file = (folder / FILE).open("wb", buffering=BUFFER_BYTES)
        except FileExistsError:
            raise InputError(f"{folder} is already there: choose another folder for the bag") from None
        except OSError as error:
            raise InputError(f"{folder} cannot be written: {error}") from error
        self.folder = folder
        self._types = get_typestore(Stores.ROS2_KILTED)
        self._writer = Writer(self._file, compression=CompressionType.NONE, use_chunking=False)
        self._writer.start(profile="ros2", library="robot_rl")
        self._writer.add_metadata("robot_rl", {key: json.dumps(value) for key, value in facts.items()})
        self._channels: dict[str, int] = {}
        self._kinds: dict[str, str] = {}
        self.counts: Counter[str] = Counter()  # messages by topic
        self.lost: Counter[str] = Counter()  # by topic, as the gaps of the publishers' numbers say
        self._numbers: dict[tuple[str, str], int] = {}
        self._first_ns = self._last_ns = 0
        self.flush()

    def add_topic(self, topic: str, kind: str) -> None:
        """Declare a topic of messages such as `sensor_msgs/msg/JointState`."""
        definition = self._types.generate_msgdef(kind, ros_version=2)[0]
        schema = self._writer.register_schema(kind, "ros2msg", definition.encode())
        self._channels[topic] = self._writer.register_channel(topic, "cdr", schema)
        self._kinds[topic] = kind

    def write(
        self, topic: str, content: bytes, *, received_ns: int, published_ns: int, number: int, publisher: str
    ) -> None:
        """Append one message.

        Args:
            topic: declared before.
            content: CDR.
            received_ns: wall time of its arrival here; the log time.
            published_ns: wall time at which it was published.
            number: of the message, as its publisher counts.
            publisher: who that is.
        """
        before = self._numbers.get((topic, publisher))
        if before is not None and number > before + 1:
            self.lost[topic] += number - before - 1
        self._numbers[topic, publisher] = number
        self._last_ns = max(self._last_ns, received_ns)
        if not self.counts:
            self._first_ns = self._last_ns
        self.counts[topic] += 1
        self._writer.add_message(
            self._channels[topic], self._last_ns, content, published_ns, sequence=number & 0xFFFFFFFF
        )

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._file.flush()

    def sync(self) -> None:
        """And to the disk."""
        self._file.flush()
        os.fdatasync(self._file.fileno())

    def describe(self) -> None:
        """Write `metadata.yaml` as of now."""
        span = {
            "starting_time": {"nanoseconds_since_epoch": self._first_ns},
            "duration": {"nanoseconds": self._last_ns - self._first_ns},
            "message_count": self.counts.total(),
        }
        topics = [
            {
                "topic_metadata": {
                    "name": topic,
                    "type": kind,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": "",
                },
                "message_count": self.counts[topic],
            }
            for topic, kind in self._kinds.items()
        ]
        information = {
            "version": 5,
            "storage_identifier": "mcap",
            **span,
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [FILE],
            "files": [{"path": FILE, **span}],
        }
        partial = self.folder / f".{METADATA}.partial"
        partial.write_text(yaml.safe_dump({"rosbag2_bagfile_information": information}, sort_keys=False))
        partial.replace(self.folder / METADATA)

    def close(self) -> None:
        """End the file as readers expect; twice is allowed."""
        if self._file.closed:
            return
        self._writer.add_metadata("lost", {topic: str(count) for topic, count in self.lost.items()})
        self._writer.finish()
        self.sync()
        self._file.close()
        self.describe()
