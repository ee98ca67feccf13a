"""A small, right recording of every format, made with the libraries that people make them with."""

import json
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import google_crc32c
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import simplejpeg
import zarr
from safetensors.numpy import save_file

EPISODES, STEPS, SIDE = 3, 8, 16
OPTIONS: dict[str, dict[str, Any]] = {"rosbag2_sqlite": {"control_period_s": 0.1}, "rosbag1": {"control_period_s": 0.1}}


def make(name: str, folder: Path) -> Path:
    """The recording of a format inside `folder`, made where it is not there yet; the file or folder to ingest."""
    if not folder.exists():
        folder.mkdir(parents=True)
        FORMATS[name](folder)
    (inside,) = folder.iterdir()
    return inside


def _arrays(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "state": generator.standard_normal((STEPS + 1, 5)).astype(np.float32),
        "action": generator.uniform(-1, 1, (STEPS, 3)).astype(np.float32),
        "reward": np.arange(STEPS, dtype=np.float32),
        "image": generator.integers(0, 256, (STEPS + 1, SIDE, SIDE, 3), dtype=np.uint8),
    }


def _robomimic(folder: Path) -> None:
    with h5py.File(folder / "demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = EPISODES * STEPS
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}})
        for index in range(EPISODES):
            arrays, demo = _arrays(index), data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = STEPS
            demo["obs/state"], demo["next_obs/state"] = arrays["state"][:-1], arrays["state"][1:]
            demo["obs/front_image"], demo["next_obs/front_image"] = arrays["image"][:-1], arrays["image"][1:]
            demo["actions"], demo["rewards"] = arrays["action"], arrays["reward"]
            demo["dones"] = np.arange(STEPS) == STEPS - 1
        file["mask/train"] = np.array([b"demo_0", b"demo_1"])


def _d4rl(folder: Path) -> None:
    with h5py.File(folder / "d4rl.hdf5", "w") as file:
        parts = [_arrays(index) for index in range(EPISODES)]
        file["observations"] = np.concatenate([part["state"][:-1] for part in parts])
        file["actions"] = np.concatenate([part["action"] for part in parts])
        file["rewards"] = np.concatenate([part["reward"] for part in parts])
        file["terminals"] = np.zeros(EPISODES * STEPS, bool)
        file["timeouts"] = np.arange(EPISODES * STEPS) % STEPS == STEPS - 1


def _dapg(folder: Path) -> None:
    demos = []
    for index in range(EPISODES):
        arrays = _arrays(index)
        demos.append(
            {
                "observations": arrays["state"][:-1].astype(np.float64),
                "actions": arrays["action"].astype(np.float64),
                "rewards": arrays["reward"].astype(np.float64),
                "init_state_dict": {"qpos": np.zeros(3)},
            }
        )
    (folder / "demos.pickle").write_bytes(pickle.dumps(demos, protocol=2))


def _minari_metadata(storage: str) -> str:
    box = {"type": "Box", "dtype": "float32", "shape": [5], "low": [-10.0] * 5, "high": [10.0] * 5}
    image = {"type": "Box", "dtype": "uint8", "shape": [SIDE, SIDE, 3], "low": 0, "high": 255}
    text = {"type": "Text", "max_length": 9, "min_length": 1, "charset": "push"}
    observation = {"type": "Dict", "subspaces": {"state": box, "front": image, "mission": text}}
    action = {"type": "Box", "dtype": "float32", "shape": [3], "low": [-1.0] * 3, "high": [1.0] * 3}
    metadata = {
        "data_format": storage,
        "observation_space": json.dumps(observation),
        "action_space": json.dumps(action),
        "total_episodes": EPISODES,
        "total_steps": EPISODES * STEPS,
        "dataset_id": "set-v0",
        "minari_version": "0.5.3",
    }
    return json.dumps(metadata)


def _minari(folder: Path) -> None:
    data = folder / "set" / "data"
    data.mkdir(parents=True)
    (data / "metadata.json").write_text(_minari_metadata("hdf5"))
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for index in range(EPISODES):
            arrays, group = _arrays(index), file.create_group(f"episode_{index}")
            group.attrs.update({"id": index, "total_steps": STEPS, "seed": index, "options/goal": 0.5})
            group["observations/state"], group["actions"], group["rewards"] = (
                arrays["state"], arrays["action"], arrays["reward"],
            )  # fmt: skip
            front = group.create_dataset("observations/front", STEPS + 1, h5py.vlen_dtype(np.uint8))
            for t, image in enumerate(arrays["image"]):
                front[t] = np.frombuffer(simplejpeg.encode_jpeg(image), np.uint8)
            group["observations/mission"] = ["push"] * (STEPS + 1)
            group["terminations"] = np.zeros(STEPS, bool)
            group["truncations"] = np.arange(STEPS) == STEPS - 1
            group["infos/energy"] = arrays["state"][:, 0]


def _minari_arrow(folder: Path) -> None:
    data = folder / "set" / "data"
    data.mkdir(parents=True)
    (data / "metadata.json").write_text(_minari_metadata("arrow"))
    for index in range(EPISODES):
        arrays, episode, filler = _arrays(index), data / str(index), np.zeros((1, 3), np.float32)
        episode.mkdir()
        jpegs = [simplejpeg.encode_jpeg(image) for image in arrays["image"]]
        parts = [_vectors([arrays["state"]]), pa.array(jpegs, pa.binary()), pa.array(["push"] * (STEPS + 1))]
        table = pa.table(
            {
                "observations": pa.StructArray.from_arrays(parts, ["state", "front", "mission"]),
                "actions": _vectors([arrays["action"], filler]),
                "rewards": np.pad(arrays["reward"], (0, 1)),
                "terminations": np.zeros(STEPS + 1, bool),
                "truncations": np.arange(STEPS + 1) == STEPS - 1,
                "infos": pa.StructArray.from_arrays([pa.array(arrays["state"][:, 0])], ["energy"]),
            }
        )
        with pa.OSFile(str(episode / "part-0.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        (episode / "metadata.json").write_text(json.dumps({"id": index, "total_steps": STEPS, "seed": index}))


def _lerobot_info(version: str, **more: Any) -> dict[str, Any]:
    vector = {"dtype": "float32", "names": None}
    return {
        "codebase_version": version,
        "robot_type": "arm",
        "total_episodes": EPISODES,
        "total_frames": EPISODES * STEPS,
        "total_tasks": 1,
        "chunks_size": 1000,
        "fps": 10,
        "splits": {"train": f"0:{EPISODES}"},
        "features": {
            "observation.state": {**vector, "shape": [5]},
            "action": {**vector, "shape": [3]},
            "observation.images.front": {"dtype": "video", "shape": [SIDE, SIDE, 3], "names": None},
            **{f"{name}index": {"dtype": "int64", "shape": [1]} for name in ("frame_", "episode_", "task_", "")},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        },
    } | more  # fmt: skip


def _vectors(parts: list[np.ndarray]) -> pa.Array:
    rows = np.concatenate(parts)
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def _lerobot_table(index: int) -> pa.Table:
    arrays = _arrays(index)
    return pa.table(
        {
            "observation.state": _vectors([arrays["state"][:-1]]),
            "action": _vectors([arrays["action"]]),
            "timestamp": pa.array(np.arange(STEPS, dtype=np.float32) / 10),
            "frame_index": pa.array(np.arange(STEPS)),
            "episode_index": pa.array(np.full(STEPS, index)),
            "index": pa.array(np.arange(STEPS) + index * STEPS),
            "task_index": pa.array(np.zeros(STEPS, np.int64)),
        }
    )


def _lerobot_v2(folder: Path) -> None:
    root = folder / "set"
    (root / "meta").mkdir(parents=True)
    info = _lerobot_info(
        "v2.1",
        total_chunks=1,
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        video_path="videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )
    (root / "meta" / "info.json").write_text(json.dumps(info))
    (root / "meta" / "tasks.jsonl").write_text('{"task_index": 0, "task": "push"}\n')
    (root / "meta" / "episodes.jsonl").write_text(
        "".join(json.dumps({"episode_index": i, "tasks": ["push"], "length": STEPS}) + "\n" for i in range(EPISODES))
    )
    for index in range(EPISODES):
        data = root / f"data/chunk-000/episode_{index:06d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(_lerobot_table(index), data)
        video = root / f"videos/chunk-000/observation.images.front/episode_{index:06d}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        _film(video, _arrays(index)["image"][:-1])


def _lerobot_v3(folder: Path) -> None:
    root = folder / "set"
    info = _lerobot_info(
        "v3.0",
        data_files_size_in_mb=100,
        video_files_size_in_mb=200,
        data_path="data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )
    key = "observation.images.front"
    for name in ("meta/episodes/chunk-000", "data/chunk-000", f"videos/{key}/chunk-000"):
        (root / name).mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    pq.write_table(pa.table({"task_index": [0], "__index_level_0__": ["push"]}), root / "meta" / "tasks.parquet")
    pq.write_table(
        pa.concat_tables([_lerobot_table(index) for index in range(EPISODES)]), root / "data/chunk-000/file-000.parquet"
    )
    numbers, zeros = list(range(EPISODES)), [0] * EPISODES
    episodes = {
        "episode_index": numbers,
        "tasks": [["push"]] * EPISODES,
        "length": [STEPS] * EPISODES,
        "dataset_from_index": [i * STEPS for i in numbers],
        "dataset_to_index": [(i + 1) * STEPS for i in numbers],
        "data/chunk_index": zeros,
        "data/file_index": zeros,
        f"videos/{key}/chunk_index": zeros,
        f"videos/{key}/file_index": zeros,
        f"videos/{key}/from_timestamp": [i * STEPS / 10 for i in numbers],
        f"videos/{key}/to_timestamp": [(i + 1) * STEPS / 10 for i in numbers],
        "meta/episodes/chunk_index": zeros,
        "meta/episodes/file_index": zeros,
    }
    pq.write_table(pa.table(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
    frames = np.concatenate([_arrays(index)["image"][:-1] for index in range(EPISODES)])
    _film(root / f"videos/{key}/chunk-000/file-000.mp4", frames)


def _lerobot_v1(folder: Path) -> None:
    root = folder / "set"
    for name in ("train", "meta_data", "videos"):
        (root / name).mkdir(parents=True)
    count = EPISODES * STEPS
    frame = [
        {"path": f"videos/observation.image_episode_{i // STEPS:06d}.mp4", "timestamp": (i % STEPS) / 10}
        for i in range(count)
    ]
    arrays = [_arrays(index) for index in range(EPISODES)]
    table = pa.table(
        {
            "observation.state": _vectors([part["state"][:-1] for part in arrays]),
            "action": _vectors([part["action"] for part in arrays]),
            "observation.image": pa.array(frame, pa.struct({"path": pa.string(), "timestamp": pa.float32()})),
            "episode_index": pa.array(np.arange(count) // STEPS),
            "frame_index": pa.array(np.arange(count) % STEPS),
            "timestamp": pa.array((np.arange(count) % STEPS / 10).astype(np.float32)),
            "index": pa.array(np.arange(count)),
        }
    )
    sink = pa.OSFile(str(root / "train" / "data-00000-of-00001.arrow"), "wb")
    with sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (root / "train" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    (root / "meta_data" / "info.json").write_text(json.dumps({"fps": 10, "video": True}))
    start = np.arange(EPISODES) * STEPS
    save_file({"from": start, "to": start + STEPS}, root / "meta_data" / "episode_data_index.safetensors")
    for index in range(EPISODES):
        _film(root / "videos" / f"observation.image_episode_{index:06d}.mp4", arrays[index]["image"][:-1])


def _film(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        stream.options = {"g": "2"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def _mp4(folder: Path) -> None:
    _film(folder / "clip.mp4", np.concatenate([_arrays(index)["image"] for index in range(EPISODES)]))


def _csv(folder: Path) -> None:
    lines = ["time;q0;q1;target"]
    lines += [f"{t / 10:.1f};{np.sin(t):.4f};{np.cos(t):.4f};{t % 3}".replace(".", ",") for t in range(40)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        out.append((value & 0x7F) | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _example(features: dict[str, Any]) -> bytes:
    """A tf.train.Example: lists of bytes (1), float32 (2) or int64 (3) by name."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, list):
            feature = _field(1, b"".join(_field(1, item) for item in value))
        elif np.asarray(value).dtype.kind == "f":
            feature = _field(2, _field(1, np.asarray(value, "<f4").tobytes()))
        else:
            feature = _field(3, _field(1, b"".join(_varint(int(item)) for item in np.ravel(value))))
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def _masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _tensor(shape: list[int], dtype: str) -> dict[str, Any]:
    return {
        "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
        "tensor": {"shape": {"dimensions": [str(size) for size in shape]}, "dtype": dtype, "encoding": "none"},
    }


def _rlds(folder: Path) -> None:
    root = folder / "set" / "1.0.0"
    root.mkdir(parents=True)
    image = {
        "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
        "image": {"shape": {"dimensions": [str(SIDE), str(SIDE), "3"]}, "dtype": "uint8", "encodingFormat": "jpeg"},
    }
    text = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
    flags = {name: _tensor([], "bool") for name in ("is_first", "is_last", "is_terminal")}
    step = {
        "observation": {
            "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
            "featuresDict": {"features": {"state": _tensor([5], "float32"), "image": image}},
        },
        "action": _tensor([3], "float32"),
        "reward": _tensor([], "float32"),
        "discount": _tensor([], "float32"),
        "language_instruction": text,
        **flags,
    }
    features = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {
            "features": {
                "steps": {
                    "pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset",
                    "sequence": {
                        "feature": {
                            "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
                            "featuresDict": {"features": step},
                        },
                        "length": "-1",
                    },
                }
            }
        },
    }
    (root / "features.json").write_text(json.dumps(features))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    split = {"name": "train", "shardLengths": [str(EPISODES)], "filepathTemplate": template}
    info = {"name": "set", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    (root / "dataset_info.json").write_text(json.dumps(info))
    with (root / "set-train.tfrecord-00000-of-00001").open("wb") as file:
        for index in range(EPISODES):
            arrays, count = _arrays(index), STEPS + 1
            data = _example(
                {
                    "steps/observation/state": arrays["state"].ravel(),
                    "steps/observation/image": [simplejpeg.encode_jpeg(image) for image in arrays["image"]],
                    "steps/action": np.concatenate([arrays["action"], arrays["action"][-1:]]).ravel(),
                    "steps/reward": np.zeros(count, np.float32),
                    "steps/discount": np.ones(count, np.float32),
                    "steps/is_first": np.arange(count) == 0,
                    "steps/is_last": np.arange(count) == count - 1,
                    "steps/is_terminal": np.zeros(count, np.int64),
                    "steps/language_instruction": [b"push"] * count,
                }
            )
            length = struct.pack("<Q", len(data))
            file.write(length + _masked(length) + data + _masked(data))


def _replay_zarr(folder: Path) -> None:
    group = zarr.open_group(folder / "replay.zarr", mode="w", zarr_format=2)
    arrays = [_arrays(index) for index in range(EPISODES)]
    for name, rows in (
        ("action", np.concatenate([a["action"] for a in arrays])),
        ("state", np.concatenate([a["state"][:-1] for a in arrays])),
        ("img", np.concatenate([a["image"][:-1] for a in arrays])),
    ):
        array = group.create_array(f"data/{name}", shape=rows.shape, chunks=(5, *rows.shape[1:]), dtype=rows.dtype)
        array[:] = rows
    ends = group.create_array("meta/episode_ends", shape=(EPISODES,), chunks=(EPISODES,), dtype="int64")
    ends[:] = np.arange(1, EPISODES + 1) * STEPS


def _replay_zip(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as other:
        _replay_zarr(Path(other))
        root = Path(other) / "replay.zarr"
        with zipfile.ZipFile(folder / "replay.zarr.zip", "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(path for path in root.rglob("*") if path.is_file()):
                archive.write(path, path.relative_to(root))


def _bag_messages(store: Any) -> list[tuple[str, str, int, Any]]:
    """(topic, type, nanoseconds, message) of a moving joint, its command and a camera."""
    kinds = store.types
    stamp, header = kinds["builtin_interfaces/msg/Time"], kinds["std_msgs/msg/Header"]
    extra = {"seq": 0} if "seq" in header.__dataclass_fields__ else {}
    messages = []
    for t in range(30):
        nanoseconds = 1_000_000_000 + t * 50_000_000
        head = header(stamp=stamp(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9), frame_id="base", **extra)
        state = kinds["sensor_msgs/msg/JointState"](
            header=head, name=["a", "b"], position=np.array([t * 0.1, 1.0]), velocity=np.ones(2), effort=np.zeros(2)
        )
        command = kinds["std_msgs/msg/Float64MultiArray"](
            layout=kinds["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0), data=np.array([t * 0.1 + 0.1, 1.0])
        )
        image = np.full((SIDE, SIDE, 3), t * 8, np.uint8)
        picture = kinds["sensor_msgs/msg/CompressedImage"](
            header=head, format="jpeg", data=np.frombuffer(simplejpeg.encode_jpeg(image), np.uint8)
        )
        messages += [
            ("/joint_states", "sensor_msgs/msg/JointState", nanoseconds, state),
            ("/command", "std_msgs/msg/Float64MultiArray", nanoseconds, command),
            ("/camera/compressed", "sensor_msgs/msg/CompressedImage", nanoseconds, picture),
        ]
    return messages


def _rosbag2(folder: Path, storage: str) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(folder / "bag", version=8, storage_plugin=StoragePlugin[storage]) as writer:
        connections: dict[str, Any] = {}
        for topic, kind, nanoseconds, message in _bag_messages(store):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], nanoseconds, store.serialize_cdr(message, kind))


def _rosbag1(folder: Path) -> None:
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    with Writer(folder / "recording.bag") as writer:
        connections: dict[str, Any] = {}
        for topic, kind, nanoseconds, message in _bag_messages(store):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], nanoseconds, store.serialize_ros1(message, kind))


FORMATS: dict[str, Callable[[Path], None]] = {
    "robomimic": _robomimic,
    "d4rl": _d4rl,
    "dapg_pickle": _dapg,
    "minari": _minari,
    "minari_arrow": _minari_arrow,
    "lerobot_v1": _lerobot_v1,
    "lerobot_v2": _lerobot_v2,
    "lerobot_v3": _lerobot_v3,
    "rlds": _rlds,
    "rosbag2_sqlite": lambda folder: _rosbag2(folder, "SQLITE3"),
    "rosbag2_mcap": lambda folder: _rosbag2(folder, "MCAP"),
    "rosbag1": _rosbag1,
    "replay_zarr": _replay_zarr,
    "replay_zip": _replay_zip,
    "mp4": _mp4,
    "csv": _csv,
}
