"""What the LeRobot layouts v1 to v3 share: `info.json`, its features and templates of paths."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError

INDEX_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
FACTS = ("next.reward", "next.done", "next.success", "next.terminated", "next.truncated", "intervened")
"""Facts of a step; the last three are names of our own exporter, which LeRobot passes over."""
NUMBERS = ("float16", "float32", "float64", "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64")
LARGEST_VALUES = 1 << 24  # numbers in one row of one feature
LARGEST_METADATA = 1 << 30  # bytes of a JSON file
FOLDERS_UP = 4
INFO_FILES = {"meta": "info.json", "meta_data": "info.json"}
SOURCE_SUFFIXES = (".json", ".jsonl", ".parquet", ".arrow", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One entry of `features`."""

    name: str
    dtype: str  # of numpy, or `image`, `video`, `string`
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None  # of the channels
    depth: bool = False  # a video of quantised distances


@dataclass(frozen=True, kw_only=True)
class Info:
    """`info.json`."""

    root: Path
    version: str
    fps: float | None
    features: dict[str, Feature]
    splits: dict[str, tuple[int, int]]  # first and exclusive last episode_index
    declared: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)

    @property
    def place(self) -> str:
        """For messages."""
        return self.root.name

    def template(self, name: str, default: str) -> str:
        """`data_path` or `video_path`.

        Raises:
            InputError: it is no text.
        """
        value = self.declared.get(name, default)
        if value is None:
            return default
        if not isinstance(value, str):
            raise InputError(f"{self.root}: info.json: {name} is {value!r}, expected a text with placeholders")
        return value

    def total(self, name: str) -> int | None:
        """A count such as `total_frames`; None where it is not declared."""
        value = self.declared.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def split(self, episode: int) -> str | None:
        """The first split that has an episode of this index."""
        return next((name for name, (start, stop) in self.splits.items() if start <= episode < stop), None)


def find_root(path: Path, folder: str) -> Path | None:
    """The folder of a data set: `path`, or one above it. `folder` is `meta` or `meta_data`, which has the info.json.

    A video inside is not taken for the whole data set.
    """
    if path.is_file() and path.suffix not in SOURCE_SUFFIXES:
        return None
    candidates = [path, *path.absolute().parents[:FOLDERS_UP]]
    for candidate in candidates:
        if (candidate / folder / INFO_FILES[folder]).is_file():
            return candidate
    return None


def codebase_version(root: Path, folder: str) -> str | None:
    """`codebase_version` of info.json, or None where that is no JSON object."""
    try:
        declared = json.loads(_text(root / folder / INFO_FILES[folder]))
    except (InputError, json.JSONDecodeError, RecursionError):
        return None
    return str(declared.get("codebase_version", "")) if isinstance(declared, dict) else None


def version_of(path: Path, beginning: str) -> str | None:
    """What makes it a data set of v2 or v3: the `codebase_version` of info.json, here or above a file of the set."""
    root = find_root(path, "meta")
    version = None if root is None else codebase_version(root, "meta")
    return f"codebase_version is {version}" if version is not None and version.startswith(beginning) else None


def info_of(path: Path) -> Info:
    """`meta/info.json` of the data set that a path is or lies in.

    Raises:
        InputError: it is missing or damaged.
    """
    root = find_root(path, "meta")
    if root is None:
        raise InputError(f"{path} is no LeRobot data set: meta/info.json is missing")
    return read_info(root)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: it is missing, too large, or none.
    """
    try:
        value = json.loads(_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}): repair it, or copy it again from its source") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object: copy it again from its source")
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file that has one in each line.

    Raises:
        InputError: it is missing, too large, or a line is none.
    """
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}, line {number} is no JSON ({error}): repair it") from error
        if not isinstance(value, dict):
            raise InputError(f"{path}, line {number} holds no JSON object: repair it")
        rows.append(value)
    return rows


def read_info(root: Path) -> Info:
    """`meta/info.json` of v2 and v3.

    Raises:
        InputError: it is damaged, or names no features.
    """
    path = root / "meta" / "info.json"
    declared = read_json(path)
    entries = declared.get("features")
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{path}: `features` is missing: copy the file again from its source")
    findings: list[Finding] = []
    features = {str(name): _feature(str(name), entry, path) for name, entry in entries.items()}
    fps = declared.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e6:
        text = f"info.json declares fps={fps!r}, so there is no control period"
        findings.append(
            Finding(severity="warning", place=root.name, text=text, remedy="set control_period_s, or repair info.json")
        )
        fps = None
    return Info(
        root=root,
        version=str(declared.get("codebase_version", "")),
        fps=None if fps is None else float(fps),
        features=features,
        splits=_splits(declared.get("splits"), root.name, findings),
        declared=declared,
        findings=findings,
    )


def fill(template: str, fields: Mapping[str, int | str], root: Path) -> Path:
    """A path from a template of info.json, such as `data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet`.

    Raises:
        InputError: it has other placeholders, or leads out of the folder.
    """

    def value(match: re.Match[str]) -> str:
        name, width = match[1], int(match[2] or 0)
        if name not in fields:
            raise InputError(f"{root}: info.json: '{template}' has the placeholder {{{name}}}, known: {sorted(fields)}")
        given = fields[name]
        return f"{given:0{width}d}" if isinstance(given, int) else given

    text = re.sub(r"\{(\w+)(?::0?(\d{1,2})d)?\}", value, template)
    if "{" in text or "}" in text:
        raise InputError(f"{root}: info.json: '{template}' is no template of a path")
    return inside(root, text)


def inside(root: Path, name: str) -> Path:
    """A file of the data set by its relative name.

    Raises:
        InputError: the name leads out of the folder.
    """
    longest = max(map(len, name.encode(errors="surrogatepass").split(b"/")))
    if (
        not name.isprintable()
        or longest > 255
        or len(name) > 4000
        or Path(name).is_absolute()
        or ".." in Path(name).parts
    ):
        raise InputError(f"{root}: '{name[:200]}' is no name of a file in the folder of the data set")
    return root / name


def whole_number(row: Mapping[str, Any], key: str, place: str) -> int:
    """An entry that must be a whole number, at least 0.

    Raises:
        InputError: it is missing or something else.
    """
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53 or value != int(value):
        raise InputError(f"{place}: {key} is {value!r}, expected a whole number")
    return int(value)


def _feature(name: str, entry: Any, path: Path) -> Feature:
    place = f"{path}: feature '{name}'"
    if not isinstance(entry, dict):
        raise InputError(f"{place} is {entry!r}, expected an object with dtype and shape")
    dtype, shape = entry.get("dtype"), entry.get("shape", [1])
    if dtype not in (*NUMBERS, "image", "video", "string"):
        raise InputError(f"{place} has dtype {dtype!r}, known: {', '.join((*NUMBERS, 'image', 'video', 'string'))}")
    if not isinstance(shape, list) or not all(isinstance(n, int) and 0 < n <= LARGEST_VALUES for n in shape):
        raise InputError(f"{place} has shape {shape!r}, expected a list of whole numbers")
    if len(shape) > 8 or int(np.prod([float(n) for n in shape])) > LARGEST_VALUES:
        raise InputError(f"{place} has shape {shape}: more than {LARGEST_VALUES} numbers a frame")
    about = entry.get("info") or entry.get("video_info")
    about = about if isinstance(about, dict) else {}
    depth = about.get("video.is_depth_map") is True or about.get("is_depth_map") is True
    names = _channel_names(entry.get("names"), shape) if dtype in NUMBERS else None
    return Feature(name=name, dtype=dtype, shape=tuple(shape) or (1,), names=names, depth=dtype == "video" and depth)


def _channel_names(names: Any, shape: Sequence[int]) -> tuple[str, ...] | None:
    """One name a channel out of a list, a list of lists, `{"motors": [...]}` or `{"x": 0, "y": 1}`; else None."""
    found: list[str] = []
    match names:
        case dict() if all(isinstance(place, int) for place in names.values()):
            found = [str(name) for name in sorted(names, key=lambda name: names[name])]
        case dict():
            found = [str(name) for part in names.values() if isinstance(part, list) for name in part]
        case list():
            for part in names:
                found += [str(name) for name in part] if isinstance(part, list) else [str(part)]
    return tuple(found) if len(shape) > 0 and len(found) == shape[-1] else None


def _splits(declared: Any, place: str, findings: list[Finding]) -> dict[str, tuple[int, int]]:
    splits = {}
    for name, text in declared.items() if isinstance(declared, dict) else ():
        match = re.fullmatch(r"\s*(\d{1,15}):(\d{1,15})\s*", text) if isinstance(text, str) else None
        if match is None:
            finding = f"info.json declares the split {name} as {str(text)[:80]!r}, expected first:last: passed over"
            findings.append(Finding(severity="warning", place=place, text=finding, remedy="repair info.json"))
        else:
            splits[str(name)] = (int(match[1]), int(match[2]))
    return splits


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_METADATA:
            raise InputError(f"{path} has more than {LARGEST_METADATA >> 30} GiB: that is no description of a data set")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: copy the data set again from its source") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text ({error}): copy it again from its source") from error
