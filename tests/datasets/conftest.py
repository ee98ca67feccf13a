"""Recordings of a simulated arm, written with the writers of `rosbags`, of which every number is known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Ros2Writer
from rosbags.typesys import Stores, get_typestore

from robot_rl.types import Array

START_NS = 1_700_000_000 * 10**9
JOINTS = ("shoulder", "elbow", "wrist")
AMPLITUDE = np.array([0.8, 0.5, 0.3])
FREQUENCY = np.array([0.3, 0.7, 0.5])  # Hz
LATENCY_S = 0.002  # from the stamp to the recorder
ROTATION_HZ = 0.2


@dataclass(kw_only=True)
class Arm:
    """An arm that moves its joints on sines while its wrist turns and a camera looks; what was recorded of it."""

    seconds: float = 6.0
    silent: tuple[float, float] = (0.0, 0.0)  # no joint states in between
    command_pause: tuple[float, float] = (0.0, 0.0)
    marks: tuple[tuple[float, Any], ...] = ()  # (time, True or False, or a text)
    stamped: bool = True  # headers carry the time
    shuffled: bool = False  # every other joint state has its joints in another order
    seed: int = 0
    joint_times: Array = field(default_factory=lambda: np.zeros(0))  # seconds since the start, as all below
    command_times: Array = field(default_factory=lambda: np.zeros(0))
    camera_times: Array = field(default_factory=lambda: np.zeros(0))
    jpegs: list[bytes] = field(default_factory=list)

    def position(self, time: Any) -> Array:
        """(N,) -> (N, 3), rad."""
        return np.asarray(AMPLITUDE * np.sin(2 * np.pi * FREQUENCY * np.asarray(time)[..., None]))

    def velocity(self, time: Any) -> Array:
        """(N,) -> (N, 3), rad/s."""
        rate = 2 * np.pi * FREQUENCY
        return np.asarray(AMPLITUDE * rate * np.cos(rate * np.asarray(time)[..., None]))

    def command(self, time: Any) -> Array:
        """(N,) -> (N, 3): where the joints shall be 0.1 s later."""
        return self.position(np.asarray(time) + 0.1)

    def rotation(self, time: Any) -> Array:
        """(N,) -> (N, 4), w x y z: about z, continuous."""
        half = np.pi * ROTATION_HZ * np.asarray(time)
        return np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], axis=-1)

    def messages(self, types: dict[str, Any], ros1: bool) -> Iterator[tuple[str, int, Any]]:
        """Topic, time of reception and message, by the time of reception."""
        random = np.random.default_rng(self.seed)
        self.joint_times = self._times(100, self.silent, random, 0.001)
        self.command_times = self._times(50, self.command_pause, random, 0.0)
        self.camera_times = self._times(30, (0.0, 0.0), random, 0.0)
        self.jpegs = []
        rows: list[tuple[float, str, Any]] = []

        def header(time: float, frame: str) -> Any:
            stamp_ns = START_NS + round(time * 1e9) if self.stamped else 0
            stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
            first = {"seq": 0} if ros1 else {}
            return types["std_msgs/msg/Header"](**first, stamp=stamp, frame_id=frame)

        state, vector = types["sensor_msgs/msg/JointState"], types["geometry_msgs/msg/Point"]
        for number, time in enumerate(self.joint_times.tolist()):
            order = [2, 0, 1] if self.shuffled and number % 2 else [0, 1, 2]
            message = state(
                header=header(time, "base"),
                name=[JOINTS[k] for k in order],
                position=self.position(time)[order],
                velocity=self.velocity(time)[order],
                effort=np.zeros(0),
            )
            rows.append((time, "/joint_states", message))
            w, x, y, z = self.rotation(time) * (1 if number % 3 else -1)  # q and -q are the same rotation
            rotation = types["geometry_msgs/msg/Quaternion"](x=x, y=y, z=z, w=w)
            pose = types["geometry_msgs/msg/Pose"](position=vector(x=time, y=2 * time, z=-time), orientation=rotation)
            stamped = types["geometry_msgs/msg/PoseStamped"](header=header(time, "base"), pose=pose)
            rows.append((time, "/wrist/pose", stamped))
        for time in self.command_times.tolist():
            command = state(
                header=header(time, ""),
                name=list(JOINTS),
                position=self.command(time),
                velocity=np.zeros(0),
                effort=np.zeros(0),
            )
            rows.append((time, "/joint_command", command))
        for number, time in enumerate(self.camera_times.tolist()):
            image = np.full((48, 64, 3), (number * 5) % 256, np.uint8)
            data = cv2.imencode(".jpg", image)[1].reshape(-1)
            self.jpegs.append(data.tobytes())
            compressed = types["sensor_msgs/msg/CompressedImage"]
            rows.append(
                (time, "/camera/compressed", compressed(header=header(time, "camera"), format="jpeg", data=data))
            )
        for time, mark in self.marks:
            kind = types["std_msgs/msg/String" if isinstance(mark, str) else "std_msgs/msg/Bool"]
            rows.append((time - LATENCY_S, "/episode", kind(data=mark)))
        for time, topic, message in sorted(rows, key=lambda row: row[0]):
            yield topic, START_NS + round((time + LATENCY_S) * 1e9), message

    def _times(self, rate: int, silent: tuple[float, float], random: Any, jitter: float) -> Array:
        regular = np.arange(round(self.seconds * rate)) / rate
        times = regular + random.uniform(-jitter, jitter, len(regular)) * (regular > 0)
        return np.asarray(times[(times <= silent[0]) | (times >= silent[1])])


RecordArm = Callable[..., Arm]


def write_bag(path: Path, storage: str, messages: Callable[[dict[str, Any], bool], Any], compression: str = "") -> None:
    """A bag at `path`: a folder for sqlite3 and mcap, a file for ros1.

    Args:
        path: where.
        storage: sqlite3, mcap or ros1.
        messages: gives (topic, time of reception, message) of (types, ros1).
        compression: message or file (zstd), storage (chunks: zstd, or lz4 of ROS 1), bz2 (ROS 1).
    """
    ros1 = storage == "ros1"
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_KILTED)
    writer: Any
    if ros1:
        writer = Ros1Writer(path)
        if compression:
            form = Ros1Writer.CompressionFormat
            writer.set_compression(form.BZ2 if compression == "bz2" else form.LZ4)
    else:
        plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        writer = Ros2Writer(path, version=9, storage_plugin=plugin)
        if compression:
            writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for topic, time_ns, message in messages(store.types, ros1):
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            serialize = store.serialize_ros1 if ros1 else store.serialize_cdr
            writer.write(connections[topic], time_ns, serialize(message, kind))


@pytest.fixture(scope="session")
def record_arm() -> RecordArm:
    """`record_arm(path, storage, compression="", **fields of Arm)` writes a bag and gives the truth."""

    def record(path: Path, storage: str = "mcap", compression: str = "", **settings: Any) -> Arm:
        arm = Arm(**settings)
        write_bag(path, storage, arm.messages, compression)
        return arm

    return record


@pytest.fixture(scope="session")
def record_messages() -> Callable[..., None]:
    """`record_messages(path, storage, messages, compression="")`, as `write_bag`."""
    return write_bag


def video_pictures(count: int, size: tuple[int, int] = (48, 64)) -> Array:
    """Pictures that a codec keeps well: a grey that tells the number, and a red corner at the top left.

    Shapes: (count, *size, 3).
    """
    pictures = np.zeros((count, *size, 3), np.uint8)
    pictures[:] = (20 + 5 * (np.arange(count) % 40))[:, None, None, None]
    pictures[:, : size[0] // 4, : size[1] // 4] = (250, 0, 0)
    return pictures


def save_video(
    path: Path,
    pictures: Array,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: int = 10,
    times_ms: Array | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> None:
    """A small video of pictures (N, H, W, 3), at a rate or at times of their own."""
    base = Fraction(1, rate) if times_ms is None else Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt, stream.time_base, stream.codec_context.time_base = pixel_format, base, base
        if rotation:
            stream.set_display_rotation(rotation)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number if times_ms is None else int(times_ms[number]), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Array]:
    """See `video_pictures`."""
    return video_pictures


@pytest.fixture(scope="session")
def write_video() -> Callable[..., None]:
    """See `save_video`."""
    return save_video
