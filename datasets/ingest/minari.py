"""Minari: episodes with every observation of theirs and two kinds of end, in HDF5, Arrow or Parquet.

Format of the Farama Foundation's Minari, version 0.4 and 0.5: `data/metadata.json` with serialised spaces, beside
`main_data.hdf5` or a folder for each episode. T + 1 observations, T of everything else.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from robot_rl.datasets.frames import EncodedFrames, lazy
from robot_rl.datasets.ingest.base import ReadOptions, Recording, SuccessSource, action_spec, plain, provenance
from robot_rl.datasets.ingest.hdf5 import is_hdf5, open_file
from robot_rl.datasets.ingest.minari_arrow import FORMATS, METADATA_FILE, ArrowEpisodes
from robot_rl.datasets.ingest.minari_hdf5 import EPISODE, MAIN_FILE, Hdf5Episodes, clear_errors, episode_numbers
from robot_rl.datasets.ingest.minari_spaces import SMALLEST_IMAGE, Leaf, parsed, space_leaves
from robot_rl.datasets.schema import Finding, array_names
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

VERSION = 1
SPACES = ("observation_space", "action_space")
ROOTS = ("observations", "actions")
ENDS = ("terminations", "truncations")
ENVIRONMENT = "env_spec"
COUNTS = ("id", "total_steps")
LANGUAGE = ("language", "instruction", "language_instruction", "mission", "task", "prompt")
"""Last names of texts that say what is to be done; `mission` is MiniGrid's."""
SUCCESS = ("success", "is_success")
"""Infos that say whether the task is achieved."""


class Episodes(Protocol):
    """A storage: episodes by number. Every method raises InputError where the recording is damaged."""

    numbers: list[int]

    def metadata(self) -> dict[str, Any]:
        """What the storage itself says about the data set."""

    def place(self, number: int) -> str:
        """An episode, in words."""

    def about(self, number: int) -> dict[str, Any]:
        """What an episode says about itself: id, total_steps, seed, options."""

    def flat(self, number: int, name: str) -> Array:
        """Rewards, terminations or truncations. Shapes: (T,)."""

    def rows(self, number: int, root: str, leaf: Leaf) -> Array:
        """The rows of a numeric leaf below `observations` or `actions`; images are Frames. Shapes: (N, *)."""

    def texts(self, number: int, root: str, leaf: Leaf) -> list[str]:
        """The rows of a text."""

    def infos(self, number: int) -> tuple[dict[str, Array], list[str]]:
        """Numeric arrays below `infos` by name, and the names of what is not numeric."""

    def info_names(self, number: int) -> set[str]:
        """Of the numeric arrays below `infos`."""

    def leaves(self, number: int, root: str) -> list[Leaf]:
        """What an episode has, where no space is declared."""

    def files(self) -> list[Path]:
        """What is read."""

    def close(self) -> None:
        """Free the files."""


class MinariReader:
    """`format=minari`."""

    name = "minari"
    description = f"a folder with data/{METADATA_FILE} of Minari, or its {MAIN_FILE}"

    def probe(self, path: Path) -> str | None:
        """Minari's metadata in a folder, or HDF5 with its episodes."""
        if path.is_dir():
            folder = _data_folder(path)
            return None if folder is None else f"{folder.name} has the {METADATA_FILE} or the {MAIN_FILE} of Minari"
        return "it has groups episode_<number> with observations and actions" if _has_episodes(path) else None

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Open a data set; episodes are read one by one, in the order of their numbers.

        Raises:
            InputError: damaged, or without observations, actions, rewards or ends.
        """
        with ExitStack() as stack:
            source = _Source.of(path, options, stack)
            numbers, place = source.episodes.numbers, source.episodes.place
            rewards, findings = source.summary(whole=options.maximum_episodes is None)
            first = source.first()
            success, about = SuccessSource.of(options, rewards, recorded=first.success is not None, path=path)
            spec, more = source.spec(first, options)
            attributes = {key: value for key, value in source.metadata.items() if key not in (*SPACES, ENVIRONMENT)}
            origin = provenance(path, self.name, VERSION, attributes, source.files)
            return Recording(
                spec=spec,
                provenance=origin | {"environment": source.environment},
                count=len(numbers),
                read=lambda index: success.label(source.read(numbers[index]), place(numbers[index])),
                findings=[*findings, *about, *more],
                resources=stack.pop_all(),
            )


@dataclass(kw_only=True)
class _Source:
    """An opened data set."""

    path: Path
    episodes: Episodes
    metadata: dict[str, Any]
    environment: dict[str, Any]  # of `env_spec`
    observation: list[Leaf]
    action: list[Leaf]
    files: list[Path]
    infos: set[str] | None = None  # those that every episode has; None until it is known
    unstored: list[str] = field(default_factory=list)  # other infos

    @staticmethod
    def of(path: Path, options: ReadOptions, stack: ExitStack) -> "_Source":
        folder = _data_folder(path) if path.is_dir() else path.parent
        if folder is None:
            raise InputError(f"{path} has no data/{METADATA_FILE} of Minari: name the folder of a data set")
        file = folder / METADATA_FILE
        metadata = {}
        if file.is_file() and (path.is_dir() or _is_metadata(file)):
            metadata = parsed(file.read_bytes(), str(file))
        kind = metadata.get("data_format", "hdf5")
        if path.is_file() or kind == "hdf5":
            main = path if path.is_file() else folder / MAIN_FILE
            if not is_hdf5(main):
                raise InputError(f"{main} is missing or no HDF5, but {METADATA_FILE} asks for it: copy it again")
            episodes: Episodes = Hdf5Episodes(main)
        elif kind in FORMATS:
            episodes = ArrowEpisodes(folder, kind)
        else:
            raise InputError(f"{file}: data_format is '{kind}', which cannot be read. Known: arrow, hdf5, parquet")
        stack.callback(episodes.close)
        if not episodes.numbers:
            raise InputError(f"{path} has no episodes")
        metadata = episodes.metadata() | metadata
        source = _Source(
            path=path,
            episodes=episodes,
            metadata=metadata,
            environment=parsed(metadata[ENVIRONMENT], f"{path}: {ENVIRONMENT}") if ENVIRONMENT in metadata else {},
            observation=[],
            action=[],
            files=[*episodes.files(), *([file] if file.is_file() else [])],
        )
        source.observation, source.action = (source._leaves(*names) for names in zip(SPACES, ROOTS, strict=True))
        episodes.numbers = episodes.numbers[: options.maximum_episodes]
        return source

    def _leaves(self, name: str, root: str) -> list[Leaf]:
        place = f"{self.path}: {name}"
        if name in self.metadata:
            leaves = space_leaves(self.metadata[name], place)
        else:
            leaves = self.episodes.leaves(self.episodes.numbers[0], root)
        if not any(leaf.kind != "Text" for leaf in leaves):
            raise InputError(f"{place} has no arrays of numbers")
        return leaves

    def first(self) -> Episode:
        """The first episode that is not damaged: the others should be like it."""
        damage: InputError | None = None
        for number in self.episodes.numbers:
            try:
                episode = self.read(number)
            except InputError as error:
                damage = error if damage is None else damage
            else:
                kept = {*episode.extras, *(SUCCESS if episode.success is not None else ())}
                infos, others = self.episodes.infos(number)
                self.unstored = sorted({*others, *infos} - kept)
                return episode
        assert damage is not None
        raise damage

    def summary(self, *, whole: bool) -> tuple[list[Array], list[Finding]]:
        """Rewards of the episodes that are not damaged, and what is wrong with ends and totals."""
        rewards, unended = [], 0
        for number in self.episodes.numbers:
            try:
                rewards.append(self.episodes.flat(number, "rewards"))
                ends = [self.episodes.flat(number, name) for name in ENDS]
                names = self.episodes.info_names(number)
            except InputError:  # said when the episode is read
                continue
            self.infos = names if self.infos is None else self.infos & names
            unended += not any(rows[-1:].any() for rows in ends)
        findings = []
        if unended:
            text = f"{unended} episodes end neither terminated nor truncated: the recording stopped, so truncated"
            findings.append(Finding(severity="information", place=self.path.name, text=text))
        found = {"total_episodes": len(self.episodes.numbers), "total_steps": sum(map(len, rewards))}
        for name, count in found.items() if whole else ():
            if name in self.metadata and self.metadata[name] != count:
                text = f"{METADATA_FILE} says {name}={self.metadata[name]!s:.40}, but there are {count}"
                remedy = "check that the copy is complete"
                findings.append(Finding(severity="warning", place=self.path.name, text=text, remedy=remedy))
        return rewards, findings

    def spec(self, first: Episode, options: ReadOptions) -> tuple[Spec, list[Finding]]:
        """The spec, and what a person should know about observations and actions."""
        leaves = {leaf.key: leaf for leaf in self.observation}
        observation = {key: leaves[key].spec(rows) for key, rows in first.observation.items()}
        findings, place = [], self.path.name
        lossy = [key for key, rows in first.observation.items() if isinstance(lazy(rows), EncodedFrames)]
        if lossy:
            text = f"{', '.join(lossy)}: Minari stored the images as JPEG, which is lossy"
            small = [key for key in lossy if min(observation[key].shape[:2]) < SMALLEST_IMAGE]
            if small:
                text += f"; {', '.join(small)} may be a grid of symbols, whose values are then wrong"
            remedy = "record with a version of Minari that can leave JPEG out, where exact values matter"
            findings.append(Finding(severity="warning", place=place, text=text, remedy=remedy))
        others = [*self.unstored] + [leaf.key for leaf in self.action if leaf.kind == "Text"]
        if others:
            text = f"not stored, since it is not a number for every step: {', '.join(others[:12])}"
            findings.append(Finding(severity="information", place=place, text=text))
        action, unbounded = self._action(first.action, options)
        if unbounded:
            text = "the action space has no bounds: they are the recorded range"
            remedy = "set action_low and action_high where the limits are known"
            findings.append(Finding(severity="information", place=place, text=text, remedy=remedy))
        period_s = _control_period_s(self.metadata, self.environment)
        return Spec(
            observation=observation,
            action=action,
            control_period_s=options.control_period_s if period_s is None else period_s,
            metadata={"action_bounds": "data"} if unbounded else {},
        ), findings

    def _action(self, actions: Array, options: ReadOptions) -> tuple[ArraySpec, bool]:
        """The spec of actions (T, A), with the bounds of the space or the given ones; and whether there are none."""
        leaves = [leaf for leaf in self.action if leaf.kind != "Text"]
        names = []
        for leaf in leaves:
            size = int(np.prod(leaf.shape)) if leaf.shape is not None else actions.shape[1]
            names += [f"{leaf.key}[{i}]" if size > 1 else leaf.key for i in range(size)]
        chosen = tuple(names) if len(leaves) > 1 and len(names) == actions.shape[1] else None
        dtype, shape = str(actions.dtype), actions.shape[1:]
        bounds = [(leaf.low, leaf.high) for leaf in leaves if leaf.low is not None and leaf.high is not None]
        if len(bounds) == len(leaves):
            low, high = (np.concatenate([np.ravel(side) for side in sides]) for sides in zip(*bounds, strict=True))
            if low.shape == shape and (low <= high).all():
                return ArraySpec(shape=shape, dtype=dtype, low=low, high=high, names=chosen), False
        if options.action_low is None and options.action_high is None:
            return ArraySpec(shape=shape, dtype=dtype, names=chosen), True
        return replace(action_spec(actions, options, str(self.path)), names=chosen), False

    def read(self, number: int) -> Episode:
        """One episode.

        Raises:
            InputError: lengths or shapes disagree with each other or with the spaces, or a part is damaged.
        """
        place, episodes = self.episodes.place(number), self.episodes
        about = episodes.about(number)
        rewards = episodes.flat(number, "rewards")
        steps = len(rewards)
        lengths, wrong = {"rewards": steps}, []
        if isinstance(about.get("total_steps"), int):
            lengths["total_steps"] = about["total_steps"]
        terminated, truncated = (episodes.flat(number, name).astype(bool) for name in ENDS)
        lengths |= {ENDS[0]: len(terminated), ENDS[1]: len(truncated)}
        observation: dict[str, Array] = {}
        texts: dict[str, list[str]] = {}
        for leaf in self.observation:
            if leaf.kind == "Text":
                texts[leaf.key] = episodes.texts(number, ROOTS[0], leaf)
                count = len(texts[leaf.key])
            else:
                observation[leaf.key] = _shaped(episodes.rows(number, ROOTS[0], leaf), leaf, place)
                count = len(observation[leaf.key])
            if count != steps + 1:
                wrong.append(f"{count} observations '{leaf.key}'")
        actions = []
        for leaf in self.action:
            if leaf.kind != "Text":
                rows = _shaped(episodes.rows(number, ROOTS[1], leaf), leaf, place)
                lengths[f"actions '{leaf.key}'"] = len(rows)
                actions.append(np.asarray(rows).reshape(len(rows), -1))
        if len(set(lengths.values())) > 1 or steps == 0 or wrong:
            wrong += [f"{count} {name}" for name, count in lengths.items()]
            raise InputError(
                f"{place}: lengths disagree: {', '.join(wrong)}; expected as many everywhere, at least one, and one "
                "observation more. Leave this episode out, or record it again"
            )
        truncated[-1] |= not (terminated[-1] or truncated[-1])
        infos, _ = episodes.infos(number)
        success = _success(infos, steps)
        extras = {
            key: rows
            for key, rows in infos.items()
            if len(rows) in (steps, steps + 1)
            and _is_name(key)
            and (self.infos is None or key in self.infos)
            and not (success is not None and key in SUCCESS)
        }
        try:
            return Episode(
                observation=observation,
                action=np.concatenate(actions, axis=1),
                reward=rewards,
                terminated=terminated,
                truncated=truncated,
                success=success,
                extras=extras,
                metadata=_metadata(f"episode_{number}", about, texts),
            )
        except InputError as error:
            raise InputError(f"{place}: {error}") from error


def _data_folder(path: Path) -> Path | None:
    """The folder that holds the metadata or the main file: the one that is named, or `data` in it."""
    for folder in (path, path / "data"):
        if _is_metadata(folder / METADATA_FILE) or _has_episodes(folder / MAIN_FILE):
            return folder
    return None


def _is_metadata(file: Path) -> bool:
    """By the names in it, so also where it is damaged."""
    if not file.is_file():
        return False
    text = file.read_bytes()
    return b'"total_episodes"' in text and (b'"observation_space"' in text or b'"data_format"' in text)


def _has_episodes(path: Path) -> bool:
    if not is_hdf5(path):
        return False
    with open_file(path) as file, clear_errors(path):
        numbers = episode_numbers(file)
        member = file.get(f"{EPISODE}{numbers[0]}") if numbers else None
        return isinstance(member, h5py.Group) and "observations" in member and "actions" in member


def _shaped(rows: Array, leaf: Leaf, place: str) -> Array:
    """Rows as the spec has them: single numbers as one channel, and the shape that the space declares."""
    if lazy(rows) is not None:
        return rows
    rows = rows[:, None] if rows.ndim == 1 else rows
    wanted = leaf.shape if leaf.shape != () else (1,)
    if wanted is not None and rows.shape[1:] != wanted:
        raise InputError(f"{place}: '{leaf.key}' has rows of shape {rows.shape[1:]}, but the space says {wanted}")
    return rows


def _success(infos: Mapping[str, Array], steps: int) -> Array | None:
    """Of each step, from an info of one truth value; that of the reset is left away. Shapes: -> (T,)."""
    for key in SUCCESS:
        rows = infos.get(key)
        if rows is not None and rows.size == len(rows) in (steps, steps + 1) and np.isin(rows, (0, 1)).all():
            return rows.reshape(-1)[-steps:].astype(bool)
    return None


def _is_name(key: str) -> bool:
    try:
        array_names([key])
    except InputError:
        return False
    return True


def _metadata(source: str, about: Mapping[str, Any], texts: Mapping[str, list[str]]) -> dict[str, Any]:
    """What an episode says about itself, and its texts: one where it does not change, else one for each observation."""
    metadata = {key: value for key, value in plain(dict(about)).items() if key not in COUNTS and value is not None}
    metadata["source"] = source
    if texts:
        metadata["texts"] = {key: rows[0] if len(set(rows)) == 1 else rows for key, rows in texts.items()}
    for key, rows in texts.items():
        if key.rsplit("/", 1)[-1].lower() in LANGUAGE:
            metadata["language"] = rows[0]
            break
    return metadata


def _control_period_s(metadata: Mapping[str, Any], environment: Mapping[str, Any]) -> float | None:
    """As a person added it to the metadata, or 1 / control_freq of a robosuite environment."""
    settings = environment.get("kwargs")
    frequency_hz = settings.get("control_freq") if isinstance(settings, dict) else None
    for period_s in (metadata.get("control_period_s"), _inverse(frequency_hz), _inverse(metadata.get("fps"))):
        if isinstance(period_s, int | float) and 0 < period_s < float("inf"):
            return float(period_s)
    return None


def _inverse(frequency_hz: Any) -> float | None:
    return 1.0 / frequency_hz if isinstance(frequency_hz, int | float) and frequency_hz > 0 else None
