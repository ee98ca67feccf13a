"""RLDS data sets as TensorFlow Datasets stores them: one episode per record of TFRecord files, read without TensorFlow.

Semantics of "RLDS: an Ecosystem to Generate, Share and Use Datasets in Reinforcement Learning" (arXiv 2111.02767): the
reward of a step follows its action; on the step marked `is_last` only the observation counts; `is_terminal` says that
the task ended there, else the recording was cut.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robot_rl.datasets.frames import EncodedFrames, as_array
from robot_rl.datasets.ingest.base import (
    ReadOptions,
    Recording,
    SuccessSource,
    action_spec,
    array_spec,
    plain,
    provenance,
)
from robot_rl.datasets.ingest.rlds_features import (
    Leaf,
    count_steps,
    decode,
    decode_depth,
    infer_features,
    read_features,
    row_lengths,
)
from robot_rl.datasets.ingest.rlds_layout import (
    IS_LAST,
    IS_TERMINAL,
    REWARD,
    Layout,
    Widths,
    make_layout,
    ragged_findings,
    without_wide,
)
from robot_rl.datasets.ingest.rlds_shards import (
    FEATURES,
    INFO,
    Shard,
    find_shards,
    named_shard,
    require_tfrecords,
    shard_files,
    version_folder,
)
from robot_rl.datasets.ingest.tfrecord import Example, RecordIndex, is_tfrecord, parse_example, peek, record_index
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

VERSION = 1
INSTRUCTIONS = ("instruction", "language")  # in the names of texts that say what to do
LONGEST_METADATA = 4096  # numbers of one feature that are kept as metadata of an episode


class RldsReader:
    """`format=rlds`."""

    name = "rlds"
    description = "RLDS: a folder with dataset_info.json, features.json and .tfrecord files, or one such file"

    def probe(self, path: Path) -> str | None:
        """TFRecord files by their first header, with steps in their first record, or declared beside it."""
        try:
            folder = version_folder(path)
            files = [path] if folder is None else shard_files(folder)
            whole = next((file for file in files if is_tfrecord(file)), None)
            if whole is None:
                return None
            first = next(peek(record_index(whole)), None)
            declared = folder is not None and (folder / FEATURES).is_file()
            if not declared and (first is None or not any(name.startswith("steps/") for name in first)):
                return None
        except (InputError, OSError):
            return None
        return f"it has {len(files)} TFRecord files of episodes"

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Index the records, and look at the ends and rewards of all episodes.

        Raises:
            InputError: there is no episode that can be read, or what declares them is damaged.
        """
        source = _open(path, options)
        rewards = _look(source)
        success, more = SuccessSource.of(options, rewards, recorded=False, path=path)
        source.findings += more
        first = _first(source)
        layout = source.layout
        absent = [
            name
            for name, there in (
                ("action", layout.action),
                ("reward", layout.reward),
                ("success", success.rule is not None or success.success_reward is not None),
                ("end", layout.ends),
            )
            if not there
        ]
        spec = Spec(
            observation={key: array_spec(rows) for key, rows in first.observation.items()},
            action=array_spec(first.action) if "action" in absent else action_spec(first.action, options, str(path)),
            control_period_s=options.control_period_s,
            metadata={"absent": absent} if absent else {},
        )
        return Recording(
            spec=spec,
            provenance=provenance(path, self.name, VERSION, source.about, files=source.files),
            count=len(source.episodes),
            read=lambda index: success.label(_read(source, index), source.place(index)),
            findings=source.findings,
        )


@dataclass(kw_only=True)
class _Source:
    path: Path
    files: list[Path] | None
    about: dict[str, Any]
    shards: list[Shard]
    indices: list[RecordIndex]
    episodes: list[tuple[int, int]]  # shard and record; record -1 is what a damaged shard has lost
    layout: Layout
    findings: list[Finding]  # those of the recording, to which reading adds
    padded: dict[str, int] = field(default_factory=dict)  # width of ragged features whose rows differ
    left_out: set[str] = field(default_factory=set)  # metadata that a finding has named already

    def place(self, index: int) -> str:
        """An episode, for messages."""
        shard, record = self.episodes[index]
        return f"{self.shards[shard].path}: record {record if record >= 0 else len(self.indices[shard])}"


def _open(path: Path, options: ReadOptions) -> _Source:
    folder = version_folder(path)
    findings: list[Finding] = []
    about: dict[str, Any] = {}
    if folder is None:
        shards = [named_shard(path)]
    else:
        shards, about, findings = find_shards(folder)
    require_tfrecords(shards, path)
    indices = [record_index(shard.path) for shard in shards]
    for shard, index in zip(shards, indices, strict=True):
        wanted = len(index) if shard.declared is None else shard.declared
        if index.damage is not None or wanted != len(index):
            text = f"the file has {len(index)} whole records" + (
                f", {INFO} says {wanted}" if folder is not None else ""
            )
            text += f": {index.damage}" if index.damage is not None else ""
            findings.append(
                Finding(severity="error", place=shard.path.name, text=text, remedy="copy the file from its source")
            )
    episodes = [(number, record) for number, index in enumerate(indices) for record in range(len(index))]
    episodes += [(number, -1) for number, index in enumerate(indices) if index.damage is not None]
    episodes.sort(key=lambda episode: (episode[0], episode[1] < 0, episode[1]))
    features = (path.parent if folder is None else folder) / FEATURES
    if features.is_file():
        leaves, unknown = read_features(features)
    else:
        leaves, unknown = _inferred(indices, path), []
        findings.append(
            Finding(
                severity="warning",
                place=path.name,
                text=f"there is no {FEATURES}: shapes and data types are inferred from the first record; arrays of "
                "more than one dimension are read flat, integers as int64",
                remedy=f"copy {FEATURES} from the source",
            )
        )
    layout, more = make_layout(leaves, unknown, path)
    files = None if folder is None else [shard.path for shard in shards]
    if files is not None and folder is not None:
        files += [folder / name for name in (INFO, FEATURES) if (folder / name).is_file()]
    return _Source(
        path=path,
        files=files,
        about=about,
        shards=shards,
        indices=indices,
        episodes=episodes[: options.maximum_episodes],
        layout=layout,
        findings=findings + more,
    )


def _inferred(indices: Sequence[RecordIndex], path: Path) -> list[Leaf]:
    for index in indices:
        for number in range(len(index)):
            try:
                example = parse_example(index.read(number), f"{index.path}: record {number}")
                return infer_features(example)
            except InputError:
                continue
    raise InputError(f"{path} has no record that can be read: copy it again from its source")


def _look(source: _Source) -> list[Array]:
    """The rewards of all episodes, from their records without the rest; notes ends and ragged features.

    Raises:
        InputError: no observation is left.
    """
    rewards: list[Array] = []
    cut, paid, total = 0, 0, 0
    widths = Widths(source.layout)
    wanted: dict[int, int] = {}
    for shard, record in source.episodes:
        wanted[shard] = max(wanted.get(shard, 0), record + 1)
    for shard, count in wanted.items():
        for example in itertools.islice(peek(source.indices[shard]), count):
            if example is None:
                continue
            try:
                last, terminal = _flag(example, IS_LAST), _flag(example, IS_TERMINAL)
                reward = example[REWARD] if source.layout.reward else None
                widths.add(example)
            except (InputError, KeyError):
                continue  # reading the episode says it
            total += 1
            cut += not last and not terminal
            if isinstance(reward, np.ndarray) and len(reward):
                rewards.append(reward[:-1] if last else reward)
                paid += last and bool(reward[-1] != 0)
    place = source.path.name
    if cut and source.layout.ends:
        text = f"{cut} of {total} episodes never set is_last: clips that were cut, so they are truncated "
        text += "and have no final observation"
        source.findings.append(Finding(severity="warning", place=place, text=text))
    if paid:
        text = (
            f"{paid} of {total} episodes have a reward on the step marked is_last, where RLDS declares it void: it is "
        )
        text += "not stored"
        remedy = "if it means success, set reward.last_steps=1"
        source.findings.append(Finding(severity="warning", place=place, text=text, remedy=remedy))
    source.layout, source.padded, wide = without_wide(source.layout, widths.padded())
    source.findings += ragged_findings(source.padded, wide, place)
    if not source.layout.observation:
        raise InputError(f"{source.path} has no observations but those whose rows differ too much: {', '.join(wide)}")
    return rewards if rewards else [np.zeros(1)]


def _flag(example: Example, name: str) -> bool:
    """Whether a flag is set at the last step."""
    value = example.get(name)
    return isinstance(value, np.ndarray) and len(value) > 0 and bool(value[-1])


def _first(source: _Source) -> Episode:
    """The first episode that can be read: it fixes the shapes."""
    error = InputError(f"{source.path} has no episodes")
    for index in range(len(source.episodes)):
        try:
            return _read(source, index)
        except InputError as problem:
            error = problem if index == 0 else error
    raise error


def _read(source: _Source, index: int) -> Episode:
    place = source.place(index)
    shard, record = source.episodes[index]
    if record < 0:
        raise InputError(f"{source.shards[shard].path}: {source.indices[shard].damage}. Copy the file from its source")
    example = parse_example(source.indices[shard].read(record), place)
    layout = source.layout
    rows = count_steps(layout.per_step, example, place)

    def values(leaf: Leaf) -> Array | list[bytes]:
        return decode(leaf, example, rows, place, source.padded.get(leaf.name))

    flags = {name: _flat(values(leaf), rows, f"{place}: feature '{name}'") for name, leaf in layout.flags.items()}
    last, terminal = flags.get(IS_LAST), flags.get(IS_TERMINAL)
    for name, flag in ((IS_LAST, last), (IS_TERMINAL, terminal)):
        if flag is not None and flag[:-1].any():
            raise InputError(f"{place} goes on after {name} at step {int(np.flatnonzero(flag)[0])} of {rows}")
    final = not layout.action or (last is not None and bool(last[-1]))
    steps = rows - final
    if steps < 1:
        raise InputError(f"{place} has {rows} steps, of which the last is a final observation: nothing to store")
    terminated, truncated = np.zeros(steps, bool), np.zeros(steps, bool)
    terminated[-1] = terminal is not None and bool(terminal[-1])
    truncated[-1] = not terminated[-1]
    reward = flags[REWARD][:steps] if layout.reward else np.zeros(steps, np.float32)
    observation = {}
    extras: dict[str, Array] = {}
    for key, leaf in layout.observation.items():
        observation[key] = _observation(values(leaf), leaf, final, f"{place}: feature '{leaf.name}'")
        if leaf.name in source.padded:
            extras[f"{key}/length"] = _lengths(leaf, example)[:rows]
    for key, leaf in layout.extras.items():
        extras[key] = np.asarray(values(leaf))[:steps]
        if leaf.name in source.padded:
            extras[f"{key}/length"] = _lengths(leaf, example)[:steps]
    parts = [np.asarray(values(leaf)).reshape(rows, -1)[:steps] for leaf in layout.action]
    return Episode(
        observation=observation,
        action=np.concatenate(parts, axis=1) if parts else np.zeros((steps, 0), np.float32),
        reward=reward if reward.dtype.kind == "f" else reward.astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        has_final_observation=final,
        extras=extras,
        metadata=_metadata(source, example, rows, index),
    )


def _flat(values: Array | list[bytes], rows: int, place: str) -> Array:
    """One number for each step. Shapes: (rows,) or (rows, 1) -> (rows,)."""
    array = np.asarray(values)
    if array.size != rows:
        raise InputError(f"{place} has {array.size} numbers in {rows} steps, expected one each")
    return array.reshape(rows)


def _lengths(leaf: Leaf, example: Example) -> Array:
    """Lengths of the rows of a feature that is padded."""
    lengths = row_lengths(leaf, example, 0)
    if lengths is None:
        raise InputError(f"{example.place}: feature '{leaf.name}' lacks the lengths of its rows: copy the file again")
    return lengths


def _observation(values: Array | list[bytes], leaf: Leaf, final: bool, place: str) -> Array:
    """T + 1 rows: without a final observation, the last one again. Images stay encoded, but for depth."""
    if isinstance(values, list) and leaf.dtype == "uint8":
        encoded = values if final else [*values, values[-1]]
        height, width, channels = leaf.shape
        if height is None or width is None or channels not in (1, 3):
            return as_array(EncodedFrames.of(encoded, place))
        return as_array(EncodedFrames(encoded, (height, width, channels), place))
    if isinstance(values, list):
        values = decode_depth(values, leaf.dtype, place)
    return values if final else np.concatenate([values, values[-1:]])


def _metadata(source: _Source, example: Example, rows: int, index: int) -> dict[str, Any]:
    """Where the episode lies, its split, what the record says of it, and what is to be done in it."""
    shard, record = source.episodes[index]
    place = source.place(index)
    metadata: dict[str, Any] = {"source": f"{source.shards[shard].path.name}: record {record}"}
    if source.shards[shard].split is not None:
        metadata["split"] = source.shards[shard].split
    facts: dict[str, Any] = {}
    for name, leaf in source.layout.metadata.items():
        if leaf.name not in example:
            continue
        value = decode(leaf, example, rows, place)
        if len(value) > LONGEST_METADATA if isinstance(value, list) else value.size > LONGEST_METADATA:
            if name not in source.left_out:
                source.left_out.add(name)
                text = f"'{leaf.name}' has more than {LONGEST_METADATA} numbers: it is not stored"
                source.findings.append(Finding(severity="warning", place=source.path.name, text=text))
            continue
        facts[name] = plain(value[0] if isinstance(value, list) and leaf.levels == 0 and len(value) == 1 else value)
    if facts:
        metadata["episode"] = facts
    changes: dict[str, list[list[Any]]] = {}
    for name, leaf in source.layout.texts.items():
        texts = decode(leaf, example, rows, place)
        assert isinstance(texts, list)  # of texts
        changes[name] = _runs([text.decode(errors="replace") for text in texts])
    spoken = {name: runs for name, runs in changes.items() if _says(name)}
    for name, runs in changes.items():
        if name not in spoken or len(spoken) > 1:
            metadata.setdefault("texts", {})[name] = runs[0][1] if len(runs) == 1 else runs
    for runs in sorted(spoken.values(), key=lambda runs: not runs[0][1]):  # those first that say something
        metadata["language"] = runs[0][1]
        if len(runs) > 1:
            metadata["tasks"] = runs  # it changes: [[first step, text], ...]
        return metadata
    for name, value in facts.items():
        if _says(name) and isinstance(value, str) and value:
            metadata["language"] = value
            break
    return metadata


def _says(name: str) -> bool:
    return any(word in name.rsplit("/", 1)[-1] for word in INSTRUCTIONS)


def _runs(texts: list[str]) -> list[list[Any]]:
    """`[[first step, text], ...]`."""
    starts = [0, *(step for step in range(1, len(texts)) if texts[step] != texts[step - 1])]
    return [[start, texts[start]] for start in starts]
