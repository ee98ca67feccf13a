"""The files of an RLDS data set: its version folder, its splits, and their shards."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robot_rl.datasets.ingest.base import parse_json
from robot_rl.datasets.ingest.tfrecord import is_tfrecord
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError

INFO, FEATURES = "dataset_info.json", "features.json"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
VERSION_NAME = re.compile(r"^\d+\.\d+\.\d+$")
SHARD_NAME = re.compile(r"^.*?(?P<split>[^-.]+)\.tfrecord(-(?P<number>\d{1,9})-of-(?P<count>\d{1,9}))?$")
_DAMAGE = (OSError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError, re.error)
PLACEHOLDERS = {
    "DATASET": ".+",
    "FILEFORMAT": "tfrecord",
    "SHARD_X_OF_Y": r"(?P<number>\d{1,9})-of-(?P<count>\d{1,9})",
    "SHARD_INDEX": r"(?P<number>\d{1,9})",
    "NUM_SHARDS": r"(?P<count>\d{1,9})",
}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One TFRecord file of a split."""

    path: Path
    split: str | None
    number: int
    declared: int | None = None  # records, as dataset_info.json says


@dataclass(frozen=True, kw_only=True)
class Split:
    """What dataset_info.json says of a split."""

    name: str
    records: list[int]  # by shard
    pattern: re.Pattern[str]


def version_folder(path: Path) -> Path | None:
    """The folder with the records: the one named, or its only version. None where `path` is a file.

    Raises:
        InputError: there are several versions, or no records.
    """
    if path.is_file():
        return None
    if shard_files(path):
        return path
    versions = sorted(entry for entry in path.iterdir() if entry.is_dir() and VERSION_NAME.match(entry.name))
    versions = [entry for entry in versions if shard_files(entry)]
    if len(versions) > 1:
        names = ", ".join(entry.name for entry in versions)
        raise InputError(f"{path} has several versions: name the folder of one of them ({names})")
    if not versions:
        raise InputError(f"{path} has no .tfrecord files: name the folder that has {INFO} and the records")
    return versions[0]


def shard_files(folder: Path) -> list[Path]:
    """TFRecord files by their names, sorted."""
    return sorted(entry for entry in folder.iterdir() if ".tfrecord" in entry.name and entry.is_file())


def find_shards(folder: Path) -> tuple[list[Shard], dict[str, Any], list[Finding]]:
    """The shards by split and number, what dataset_info.json says, and what does not agree.

    Raises:
        InputError: dataset_info.json is damaged, or the records are in another file format.
    """
    files = shard_files(folder)
    if not (folder / INFO).is_file():
        finding = Finding(
            severity="warning",
            place=folder.name,
            text=f"there is no {INFO}: whether all shards and episodes are here cannot be checked",
            remedy="copy it from the source",
        )
        return sorted((named_shard(file) for file in files), key=_order), {}, [finding]
    try:
        about = parse_json((folder / INFO).read_bytes(), str(folder / INFO))
        kind = about.get("fileFormat", "tfrecord")
        if kind != "tfrecord":
            raise InputError(
                f"{folder / INFO} declares fileFormat {kind!r:.40}, this reader reads tfrecord: convert it with tfds "
                "(`tfds convert_format`)"
            )
        splits = [_split(item) for item in about.get("splits", [])]
    except (
        OSError,
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
        ArithmeticError,
        RecursionError,
        re.error,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / INFO} is damaged ({type(error).__name__}: {error}): copy it again") from error
    shards: list[Shard] = []
    findings: list[Finding] = []
    left = dict.fromkeys(files)
    for split in splits:
        found = {}
        for file in list(left):
            match = split.pattern.match(file.name)
            if match:
                found[int(match.groupdict().get("number") or 0)] = file
                del left[file]
        for number, file in sorted(found.items()):
            declared = split.records[number] if number < len(split.records) else None
            shards.append(Shard(path=file, split=split.name, number=number, declared=declared))
        missing = [number for number in range(len(split.records)) if number not in found]
        if missing:
            text = (
                f"split '{split.name}' lacks {len(missing)} of {len(split.records)} shards, such as number "
                f"{missing[0]}: {sum(split.records[number] for number in missing)} episodes"
            )
            findings.append(Finding(severity="error", place=split.name, text=text, remedy="copy them from the source"))
    if left:
        findings.append(
            Finding(
                severity="warning",
                place=folder.name,
                text=f"{len(left)} files belong to no split of {INFO}, such as {next(iter(left)).name}: they are read",
            )
        )
    shards += sorted((named_shard(file) for file in left), key=_order)
    return shards, {key: value for key, value in about.items() if key != "splits"}, findings + _counts(splits)


def named_shard(file: Path) -> Shard:
    """A shard as its name tells it."""
    match = SHARD_NAME.match(file.name)
    if match is None:
        return Shard(path=file, split=None, number=0)
    number = match.group("number")
    split = match.group("split") if number is not None else None  # a lone `records.tfrecord` is no split
    return Shard(path=file, split=split, number=0 if number is None else int(number))


def require_tfrecords(shards: Sequence[Shard], path: Path) -> None:
    """Refuse files of another content.

    Raises:
        InputError: names the first that is none.
    """
    if not shards:
        raise InputError(f"{path} has no TFRecord files")
    if not any(is_tfrecord(shard.path) for shard in shards):
        raise InputError(f"{shards[0].path} is no TFRecord file, or its first header is damaged: copy it again")


def _split(item: dict[str, Any]) -> Split:
    name = str(item["name"])
    template = str(item.get("filepathTemplate", TEMPLATE))
    parts = re.split(r"\{(\w+)\}", template)
    patterns = PLACEHOLDERS | {"SPLIT": re.escape(name)}
    named = parts[1::2]
    if len(set(named)) < len(named) or not set(named) <= set(patterns):
        raise ValueError(f"filepathTemplate {template}")
    pattern = "".join(re.escape(part) if i % 2 == 0 else patterns[part] for i, part in enumerate(parts))
    return Split(
        name=name, records=[int(count) for count in item.get("shardLengths", [])], pattern=re.compile(f"^{pattern}$")
    )


def _counts(splits: list[Split]) -> list[Finding]:
    empty = [split.name for split in splits if not sum(split.records)]
    return [
        Finding(severity="warning", place=name, text=f"{INFO} declares no episodes for split '{name}'")
        for name in empty
    ]


def _order(shard: Shard) -> tuple[str, int, str]:
    return (shard.split if shard.split is not None else "", shard.number, shard.path.name)
