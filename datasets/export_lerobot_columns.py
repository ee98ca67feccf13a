"""Which feature of a LeRobot data set each array of an episode becomes, and its table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from robot_rl.datasets.frames import EncodedFrames, blocks, lazy
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

INDEX_TYPES = {"frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
AXES = ["height", "width", "channels"]


@dataclass(kw_only=True)
class Survey:
    """What must be known of all episodes before the first is written."""

    episodes: int = 0
    frames: int = 0
    success: bool = False  # known somewhere
    intervened: bool = False  # anywhere
    reward: str = "float32"
    extras: dict[str, tuple[str, tuple[int, ...], bool]] = field(default_factory=dict)
    """By key: data type, shape of a row, whether there is a row behind the last step."""
    own_times: bool = False  # `timestamp_s` is not frame / fps
    splits: list[str | None] = field(default_factory=list)  # of each episode

    @staticmethod
    def of(episodes: Iterable[Episode], spec: Spec, fps: float) -> "Survey":
        """Look at every episode; no image is decoded.

        Raises:
            InputError: extras differ between episodes.
        """
        survey = Survey()
        for number, episode in enumerate(episodes):
            extras = {
                key: (str(rows.dtype), tuple(rows.shape[1:]), len(rows) == len(episode) + 1)
                for key, rows in episode.extras.items()
            }
            if number == 0:
                survey.extras, survey.reward = extras, str(np.asarray(episode.reward).dtype)
            if extras != survey.extras:
                raise InputError(f"episode {number} has the extras {extras}, but episode 0 has {survey.extras}")
            survey.reward = str(np.result_type(survey.reward, np.asarray(episode.reward).dtype))
            survey.episodes += 1
            survey.frames += frames_of(episode, spec)
            survey.success |= episode.success is not None
            survey.intervened |= episode.intervened is not None and bool(episode.intervened.any())
            survey.splits.append(episode.metadata.get("split"))
            times = episode.extras.get("timestamp_s")
            if times is not None:
                survey.own_times |= not np.array_equal(times, timestamps(len(times), fps).astype(np.float64))
        if survey.episodes == 0:
            raise InputError("there is no episode to write")
        return survey


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Features by name, and the names of our keys."""

    spec: Spec
    features: dict[str, dict[str, Any]]  # as info.json has them, without the videos' `info`
    observations: dict[str, str]  # key -> feature, numbers
    images: dict[str, str]  # key -> feature, in the table
    videos: dict[str, str]  # key -> feature
    extras: dict[str, str]  # key -> feature
    facts: tuple[str, ...]
    reward: str

    @staticmethod
    def of(spec: Spec, survey: Survey, *, video: bool) -> "Plan":
        """Name everything.

        Raises:
            InputError: an observation has no channels.
        """
        absent = spec.metadata.get("absent", [])
        features: dict[str, dict[str, Any]] = {}
        groups: dict[str, dict[str, str]] = {"number": {}, "image": {}, "video": {}}
        for key, array in spec.observation.items():
            kind = "number" if not array.is_image else "video" if video and array.shape[2] == 3 else "image"
            prefix = "observation." if kind == "number" else "observation.images."
            name = _unused(prefix + key.replace("/", "."), features)
            groups[kind][key] = name
            if kind == "number":
                features[name] = _feature(array, f"observation '{key}'")
            else:
                features[name] = {"dtype": kind, "shape": list(array.shape), "names": AXES}
        if spec.action.shape != (0,):
            features["action"] = _feature(spec.action, "the action")
        extras = {}
        for key, (dtype, shape, _) in survey.extras.items():
            if (key == "timestamp_s" and not survey.own_times) or 0 in shape:
                continue
            extras[key] = _unused(f"extras.{key.replace('/', '.')}", features)
            features[extras[key]] = _feature(ArraySpec(shape=shape, dtype=dtype), f"extra '{key}'")
        facts = {
            "next.reward": survey.reward if "reward" not in absent else None,
            "next.done": "bool" if "end" not in absent else None,
            "next.terminated": "bool" if "end" not in absent else None,
            "next.truncated": "bool" if "end" not in absent else None,
            "next.success": "bool" if survey.success else None,
            "intervened": "bool" if survey.intervened else None,
        }
        for name, fact in facts.items():
            if fact is not None:
                features[name] = {"dtype": fact, "shape": [1], "names": None}
        for name, dtype in {"timestamp": "float32", **INDEX_TYPES}.items():
            features[name] = {"dtype": dtype, "shape": [1], "names": None}
        return Plan(
            spec=spec,
            features=features,
            observations=groups["number"],
            images=groups["image"],
            videos=groups["video"],
            extras=extras,
            facts=tuple(name for name, fact in facts.items() if fact is not None),
            reward=survey.reward,
        )

    @property
    def schema(self) -> pa.Schema:
        """Of the tables."""
        return pa.schema([(name, _type(entry)) for name, entry in self.features.items() if entry["dtype"] != "video"])

    def rows(self, episode: Episode, rows: Mapping[str, Array], index: Mapping[str, Array]) -> dict[str, Array]:
        """Columns of numbers of an episode of N frames. Shapes: each (N, *).

        Args:
            episode: to write.
            rows: its arrays with a row behind the last step, as a store has them.
            index: timestamp and the index columns, each (N,).
        """
        count = len(index["timestamp"])
        found = {name: rows[f"observation/{key}"][:count] for key, name in self.observations.items()}
        if "action" in self.features:
            found["action"] = rows["action"][:count]
        found |= {name: rows[f"extras/{key}"][:count] for key, name in self.extras.items()}
        facts = {
            "next.reward": rows["reward"].astype(self.reward),
            "next.done": rows["terminated"] | rows["truncated"],
            "next.terminated": rows["terminated"],
            "next.truncated": rows["truncated"],
            "next.success": rows["success"] == 1,
            "intervened": rows["intervened"],
        }
        found |= {name: facts[name][:count] for name in self.facts}
        return found | dict(index)

    def table(self, columns: Mapping[str, Array], images: Mapping[str, list[bytes]]) -> pa.Table:
        """A table of columns, and of encoded images by feature name."""
        arrays = []
        for field_ in self.schema:
            if field_.name in images:
                data = pa.array(images[field_.name], pa.binary())
                arrays.append(pa.StructArray.from_arrays([data, pa.nulls(len(data), pa.string())], fields=list(IMAGE)))
            else:
                arrays.append(column(columns[field_.name], field_.type))
        return pa.Table.from_arrays(arrays, schema=self.schema)


def frames_of(episode: Episode, spec: Spec) -> int:
    """Rows of an episode in the tables: T, or T + 1 where there is no action and every observation is a row."""
    return len(episode) + (spec.action.shape == (0,))


def timestamps(count: int, fps: float) -> Array:
    """LeRobot's time of each frame. Shapes: (count,), float32."""
    return (np.arange(count) / fps).astype(np.float32)


def encoded(rows: Array) -> list[bytes]:
    """Images as they are stored in a table: JPEG and PNG bytes untouched, others as PNG."""
    frames = lazy(rows)
    if isinstance(frames, EncodedFrames):
        return [bytes(data) for data in frames.encoded]
    return [_png(image) for block in blocks(rows) for image in block]


def column(rows: Array, type: pa.DataType) -> pa.Array:
    """An Arrow array of rows. Shapes: (N,), (N, 1) as scalars, or (N, *) as lists."""
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    for size in reversed(rows.shape[2:]):
        flat = pa.ListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, size, dtype=np.int32)), flat)
    if rows.ndim > 1 and pa.types.is_fixed_size_list(type):
        flat = pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])
    elif rows.ndim > 1 and pa.types.is_list(type):
        flat = pa.ListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, rows.shape[1], dtype=np.int32)), flat)
    return flat.cast(type)


def _type(entry: Mapping[str, Any]) -> pa.DataType:
    if entry["dtype"] == "image":
        return IMAGE
    type = pa.bool_() if entry["dtype"] == "bool" else pa.from_numpy_dtype(np.dtype(entry["dtype"]))
    shape = entry["shape"]
    if shape == [1]:
        return type
    for _ in shape[1:]:
        type = pa.list_(type)
    return pa.list_(type, shape[0]) if len(shape) == 1 else pa.list_(type)


def _feature(array: ArraySpec, place: str) -> dict[str, Any]:
    if 0 in array.shape:
        raise InputError(f"{place} has the shape {array.shape}: LeRobot has no features without numbers")
    names = None if array.names is None else list(array.names)
    return {"dtype": array.dtype, "shape": list(array.shape) or [1], "names": names}


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found


def _png(image: Array) -> bytes:
    pixels = image if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".png", pixels)[1])
