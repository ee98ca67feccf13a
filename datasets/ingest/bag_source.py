"""Bags in a file or folder: which files belong together, their topics, and the times of their messages."""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped]  # PyYAML ships no types
from backports import zstd

from robot_rl.datasets.ingest.bag_files import ZSTD_SIGNATURE, BagFile, Messages, Topic
from robot_rl.datasets.ingest.bag_mcap import SIGNATURE as MCAP_SIGNATURE
from robot_rl.datasets.ingest.bag_mcap import McapFile
from robot_rl.datasets.ingest.bag_ros1 import SIGNATURE as ROS1_SIGNATURE
from robot_rl.datasets.ingest.bag_ros1 import Ros1File
from robot_rl.datasets.ingest.bag_sqlite import SIGNATURE as SQLITE_SIGNATURE
from robot_rl.datasets.ingest.bag_sqlite import SqliteFile, is_recording
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError

METADATA = "metadata.yaml"
SUFFIXES = (".mcap", ".db3", ".bag", ".zstd", ".active")
ABOUT = "rosbag2_bagfile_information"
LARGEST_METADATA = 1 << 22  # bytes
LARGEST_RATIO = 1000  # of a file that is compressed as a whole
SMALLEST_LIMIT = 1 << 26  # bytes that such a file may have in any case
PIECE = 1 << 22  # bytes unpacked at once


@dataclass(frozen=True, kw_only=True)
class BagPlace:
    """A bag that was found, not yet opened."""

    name: str
    files: tuple[Path, ...]
    about: dict[str, Any] = field(default_factory=dict)  # of metadata.yaml


@dataclass(kw_only=True)
class Bag:
    """The messages of one bag by topic."""

    name: str
    files: list[BagFile]
    topics: dict[str, Topic]
    messages: dict[str, Messages]
    ros_distribution: str | None = None
    findings: list[Finding] = field(default_factory=list)

    def payloads(self, messages: Messages) -> list[bytes]:
        """The bytes of messages, in their order.

        Raises:
            InputError: a file is damaged or has changed.
        """
        out = [b""] * len(messages)
        for number in np.unique(messages.file).tolist():
            rows = np.flatnonzero(messages.file == number)
            for row, data in zip(rows.tolist(), self.files[number].payloads(messages.take(rows)), strict=True):
                out[row] = data
        return out

    def payloads_of(self, messages: Mapping[str, Messages]) -> dict[str, list[bytes]]:
        """The bytes of messages of several topics, read in one pass: they lie in the same chunks.

        Raises:
            InputError: a file is damaged or has changed.
        """
        every = self.payloads(Messages.concatenate(list(messages.values()))) if messages else []
        out, start = {}, 0
        for topic, part in messages.items():
            out[topic] = every[start : start + len(part)]
            start += len(part)
        return out

    def close(self) -> None:
        """Free the files."""
        for file in self.files:
            file.close()


def kind(path: Path) -> str | None:
    """What a file is, by its first bytes: mcap, sqlite3, ros1, or one of these compressed as a whole."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return None
    if head.startswith(MCAP_SIGNATURE):
        return "mcap"
    if head.startswith(ROS1_SIGNATURE):
        return "ros1"
    if head.startswith(SQLITE_SIGNATURE):
        return "sqlite3" if is_recording(path) else None
    if head.startswith(ZSTD_SIGNATURE) and PurePosixPath(path.stem).suffix in (".mcap", ".db3"):
        return "compressed"
    return None


def find_bags(path: Path) -> list[BagPlace]:
    """Bags at a path, none where there are none: a file, a folder with metadata.yaml, or a folder of these.

    Raises:
        InputError: the metadata of a bag is damaged, or names files that are not there.
    """
    if path.is_file():
        return [BagPlace(name=path.name, files=(path,))] if kind(path) is not None else []
    if not path.is_dir():
        return []
    if (path / METADATA).is_file():
        return [_with_metadata(path)]
    inside = sorted((entry for entry in path.iterdir() if not entry.name.startswith(".")), key=natural)
    files = _recordings(inside)
    if files and all(re.fullmatch(rf"{re.escape(path.name)}_\d+\.(mcap|db3)(\.zstd)?", file.name) for file in files):
        return [BagPlace(name=path.name, files=tuple(files))]  # the parts of one recording, as rosbag2 names them
    bags = [BagPlace(name=file.name, files=(file,)) for file in files]
    for folder in inside:
        if not folder.is_dir():
            continue
        if (folder / METADATA).is_file():
            bags.append(_with_metadata(folder))
            continue
        parts = _recordings(sorted(folder.iterdir(), key=natural))
        if parts:
            bags.append(BagPlace(name=folder.name, files=tuple(parts)))
    return bags


def open_bag(place: BagPlace, resources: ExitStack) -> Bag:
    """Index a bag.

    Raises:
        InputError: a file of it is damaged.
    """
    files: list[BagFile] = []
    topics: dict[Topic, list[Messages]] = {}
    findings: list[Finding] = []
    for number, path in enumerate(place.files):
        file = _open_file(path, resources)
        resources.callback(file.close)
        for topic, columns in file.index().items():
            topics.setdefault(topic, []).append(columns.messages(number))
        files.append(file)
        findings += file.findings
    joined = {topic: Messages.join(parts) for topic, parts in topics.items()}
    by_name: dict[str, Topic] = {}
    for topic in sorted(joined, key=lambda topic: len(joined[topic])):
        other = by_name.get(topic.name)
        if other is not None and len(joined[other]) and other.type != topic.type:
            text = f"topic {topic.name} has messages of {topic.type} and {other.type}: the latter are left out"
            findings.append(Finding(severity="warning", place=place.name, text=text))
        elif other is not None:
            joined[topic] = Messages.join([joined[topic], joined[other]])
        by_name[topic.name] = topic
    count = sum(len(joined[topic]) for topic in by_name.values())
    declared = place.about.get("message_count", count)
    if declared != count:
        text = f"{METADATA} counts {declared} messages, the files have {count}"
        findings.append(Finding(severity="warning", place=place.name, text=text, remedy="run `ros2 bag reindex`"))
    distribution = place.about.get("ros_distro")
    return Bag(
        name=place.name,
        files=files,
        topics=by_name,
        messages={name: joined[topic] for name, topic in by_name.items()},
        ros_distribution=str(distribution) if distribution else None,
        findings=findings,
    )


def summary(path: Path) -> dict[str, tuple[str, int]]:
    """Topics of all bags at a path with their types and numbers of messages; those without messages are left out.

    Raises:
        InputError: there is no bag, or it is damaged.
    """
    out: dict[str, tuple[str, int]] = {}
    with ExitStack() as resources:
        for place in find_bags(path):
            bag = open_bag(place, resources)
            for name, topic in sorted(bag.topics.items()):
                count = len(bag.messages[name]) + (out[name][1] if name in out else 0)
                if count:
                    out[name] = (topic.type, count)
    return out


def natural(path: Path) -> list[tuple[int, str]]:
    """A sort key by which part 10 comes behind part 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _recordings(entries: Sequence[Path]) -> list[Path]:
    """The recordings among the files of a folder, which may be many: only those with such a name are looked into."""
    return [entry for entry in entries if entry.suffix in SUFFIXES and entry.is_file() and kind(entry) is not None]


def _open_file(path: Path, resources: ExitStack) -> BagFile:
    match kind(path):
        case "mcap":
            return McapFile(path, path)
        case "sqlite3":
            return SqliteFile(path, path)
        case "ros1":
            return Ros1File(path, path)
        case "compressed":
            copy = _unpacked(path, resources)
            if kind(copy) == "mcap":
                return McapFile(copy, path)
            return SqliteFile(copy, path)
    raise InputError(f"{path} is no MCAP file, no database of rosbag2 and no ROS 1 bag: it is damaged, or another file")


def _unpacked(path: Path, resources: ExitStack) -> Path:
    """A copy of a file that is compressed as a whole, in a folder for temporary files.

    Raises:
        InputError: it is damaged, or far larger than its compressed size lets expect.
    """
    folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="robot_rl_bag_"))
    copy = Path(folder) / path.stem
    limit = max(SMALLEST_LIMIT, LARGEST_RATIO * path.stat().st_size)
    written = 0
    try:
        with zstd.open(path, "rb") as source, copy.open("wb") as target:
            for piece in iter(lambda: source.read(PIECE), b""):
                written += len(piece)
                if written > limit:
                    raise InputError(f"{path} unpacks to more than {limit} bytes: unpack it with `zstd -d` first")
                target.write(piece)
    except (zstd.ZstdError, EOFError, OSError) as error:
        raise InputError(f"{path} cannot be unpacked: {error}") from error
    return copy


def _with_metadata(folder: Path) -> BagPlace:
    """The bag of a folder with metadata.yaml.

    Raises:
        InputError: the file is damaged, or files are missing.
    """
    path = folder / METADATA
    try:
        if path.stat().st_size > LARGEST_METADATA:
            raise InputError(f"{path} has {path.stat().st_size} bytes: it is no {METADATA} of rosbag2")
        loaded = yaml.safe_load(path.read_text())
        about = loaded[ABOUT]
        names = [PurePosixPath(str(name)).name for name in about["relative_file_paths"]]
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is damaged ({reason}): remove it, then the bag is read without it") from error
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise InputError(
            f"{path} names the files {', '.join(names) if names else '(none)'}, but {', '.join(missing)} "
            "are not there: copy them, or run `ros2 bag reindex`"
        )
    return BagPlace(name=folder.name, files=tuple(folder / name for name in names), about=dict(about))


def files_of(places: Sequence[BagPlace]) -> Iterator[Path]:
    """All files of bags."""
    for place in places:
        yield from place.files
