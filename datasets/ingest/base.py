"""What every reader shares: its protocol, what a recording is, and the rules that label one."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError, nearest
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

FLAT_KEY = "state"
"""Observation key of a source with one flat vector, the same as the environments of this project use."""
JUMP = 1e-6
"""Difference of an observation and the `next_obs` before it from which they are not the same."""

Resimulate = Callable[[Mapping[str, Any], str, Array, Array], Episode]
"""(environment information, model XML, states (T, S), actions (T, A)) -> the episode with observations."""


@dataclass(frozen=True, kw_only=True)
class SuccessLabel:
    """A step succeeds where a number of the next observation lies in [minimum, maximum]."""

    observation: str
    index: int = 0
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        if self.minimum is None and self.maximum is None:
            raise InputError("the success rule has no limits: set success.minimum or success.maximum")

    def __call__(self, observation: Mapping[str, Array], place: str) -> Array:
        """Success of each step. A step without a real next observation is judged by the last one there is.

        Shapes: each (T + 1, *) -> (T,).

        Raises:
            InputError: there is no such key or channel.
        """
        if self.observation not in observation:
            raise InputError(
                f"{place}: success.observation={self.observation}: {nearest(self.observation, observation)}"
            )
        rows = observation[self.observation]
        flat = rows.reshape(len(rows), -1)
        if not 0 <= self.index < flat.shape[1]:
            raise InputError(
                f"{place}: success.index={self.index}, but '{self.observation}' has {flat.shape[1]} channels"
            )
        value = flat[1:, self.index]
        low = -np.inf if self.minimum is None else self.minimum
        high = np.inf if self.maximum is None else self.maximum
        return np.asarray((value >= low) & (value <= high))


@dataclass(frozen=True, kw_only=True)
class BagOptions:
    """How topics, each with times of its own, become steps; the fields mirror `BagConfig`."""

    action: str | None = None
    observations: Sequence[str] = ()
    clock: str = "auto"
    maximum_gap_s: float | None = None
    segment: str = "auto"
    marker: str | None = None
    idle_s: float = 2.0
    success: str | None = None
    language: str | None = None
    definitions: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """Which columns of a table mean what; the fields mirror `TableConfig`."""

    observation: Mapping[str, Sequence[str]] = field(default_factory=dict)
    action: Sequence[str] = ()
    reward: str | None = None
    success: str | None = None
    time: str | None = None
    time_unit_s: float = 1.0
    time_format: str | None = None
    first_frame_s: float | None = None
    episode: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    missing: str = "error"
    maximum_gap_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a person may say about a recording; the fields mirror `IngestConfig`.

    Only what a reader must know to read is here. What can be done to any episode afterwards (choice of keys, image
    size, rewards, language, filters, splits, actions from the next observation, coarser steps) is done by the
    conversion, so that every format has it.
    """

    bag: BagOptions = field(default_factory=BagOptions)
    table: TableOptions = field(default_factory=TableOptions)
    side_file: str | None = None  # a file of actions and states beside a video

    maximum_episodes: int | None = None
    success: SuccessLabel | None = None
    action_low: Sequence[float] | None = None  # one number, or (A,)
    action_high: Sequence[float] | None = None
    control_period_s: float | None = None
    done_semantics: str = "auto"  # auto | terminated | truncated
    resimulate: Resimulate | None = None  # None refuses recordings that hold states only

    def __post_init__(self) -> None:
        if self.maximum_episodes is not None and self.maximum_episodes < 1:
            raise InputError(f"maximum_episodes={self.maximum_episodes} must be at least 1")
        if self.control_period_s is not None and not self.control_period_s > 0:
            raise InputError(f"control_period_s={self.control_period_s} must be positive")

    def overruled(self, spec: Spec, place: str) -> list[Finding]:
        """What was said, but the source declares otherwise."""
        remedy = "leave the setting away, or repair what the source declares"
        findings = []
        if self.control_period_s is not None and spec.control_period_s != self.control_period_s:
            text = f"the source declares a control period of {spec.control_period_s} s, so control_period_s is not used"
            findings.append(Finding(severity="warning", place=place, text=text, remedy=remedy))
        for name, given, found in (
            ("action_low", self.action_low, spec.action.low),
            ("action_high", self.action_high, spec.action.high),
        ):
            if (
                given is not None
                and found is not None
                and not np.array_equal(np.broadcast_to(given, found.shape), found)
            ):
                text = f"the source declares bounds of the action, so {name} is not used"
                findings.append(Finding(severity="warning", place=place, text=text, remedy=remedy))
        return findings


@dataclass(kw_only=True)
class Recording:
    """An opened source. Episodes are read one at a time, in any order; `close` frees the file.

    Opening is quick: it reads headers and indices, not data. `read` may add to `findings` what it meets in that
    episode, and raises InputError where the episode cannot be used; the others still can.
    """

    spec: Spec
    provenance: dict[str, Any]
    count: int
    read: Callable[[int], Episode]
    findings: list[Finding] = field(default_factory=list)
    resources: ExitStack = field(default_factory=ExitStack)

    def __len__(self) -> int:
        return self.count

    def episodes(self) -> Iterator[Episode]:
        """Episodes in the order of the source.

        Raises:
            InputError: one of them cannot be used; the message names it.
        """
        for index in range(self.count):
            yield self.read(index)

    def close(self) -> None:
        """Free the file; calling it twice is allowed."""
        self.resources.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Reader(Protocol):
    """One format.

    What every reader keeps to, beside the types:
    - `probe` looks at content, never at the name alone, is quick, and never raises for a file of another format.
    - An episode that lacks an array of the source is refused; an array that the whole source lacks is declared in
      `spec.metadata["absent"]` (of `action`, `reward`, `success`, `end`) and filled: an action of width 0, reward 0,
      truncated at its last step. A recording without actions has one step less than frames; its last frame is the
      final observation.
    - Images are `Frames` (`as_array`) of uint8 (H, W, 3) RGB or (H, W, 1); nothing is decoded before it is looked at.
    - Where a recording has time stamps, `extras["timestamp_s"]` has T + 1 (or T) float64 seconds since the episode
      began; `extras["timestamp_s/<key>"]` those of an observation that has its own.
    - `metadata`: `source` (the place inside the recording), `language`, `split`, `task`, `initial_state`, where known.
    """

    @property
    def name(self) -> str:
        """As in `format=NAME`."""

    @property
    def description(self) -> str:
        """What the format is recognised by, for error messages."""

    def probe(self, path: Path) -> str | None:
        """What makes this file one of the format, by content; None where it is not."""

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Open a recording.

        Raises:
            InputError: the file is damaged, or lacks something; names the key and the remedy.
        """


_CHECKSUMS = ContextVar("checksums", default=True)


@contextmanager
def without_checksums() -> Iterator[None]:
    """Sources that are opened in this block are not read through for their checksum: by workers, of whom each opens
    what the main process opened."""
    token = _CHECKSUMS.set(False)
    try:
        yield
    finally:
        _CHECKSUMS.reset(token)


def provenance(
    path: Path, reader: str, version: int, attributes: Mapping[str, Any], files: Sequence[Path] | None = None
) -> dict[str, Any]:
    """Where a store comes from: name, size, SHA-256, format, and what the source says about itself.

    Args:
        path: the file or folder that a person named.
        reader: its format.
        version: of the reader.
        attributes: what the source says.
        files: those that were read, where `path` is a folder; the checksum is then one over their names and checksums.
    """
    chosen = [path] if files is None else sorted(files)
    sums = [""] * len(chosen)
    if _CHECKSUMS.get():
        with ThreadPoolExecutor(4) as pool:
            sums = list(pool.map(_sha256, chosen))
    sha256 = sums[0]
    if files is not None:
        listing = "".join(f"{sums[i]}  {os.path.relpath(file, path)}\n" for i, file in enumerate(chosen))
        sha256 = hashlib.sha256(listing.encode()).hexdigest()
    return {
        "source": path.name,
        "source_bytes": sum(file.stat().st_size for file in chosen),
        "source_files": len(chosen),
        "source_sha256": sha256,
        "format": reader,
        "reader_version": version,
        "attributes": {key: plain(value) for key, value in attributes.items()},
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def plain(value: Any) -> Any:
    """A JSON value of a number, array or text from HDF5 or a pickle."""
    match value:
        case bytes():
            return value.decode(errors="replace")
        case np.ndarray():
            return [plain(item) for item in value] if value.dtype == object else plain(value.tolist())
        case np.generic():
            return plain(value.item())
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case float() if not np.isfinite(value):
            return str(value)
        case str() | int() | float() | bool() | None:
            return value
    return str(value)


def parse_json(text: Any, place: str) -> dict[str, Any]:
    """A JSON object of an attribute.

    Raises:
        InputError: it is none.
    """
    try:
        value = json.loads(plain(text))
    except (TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{place} is not JSON ({error}): repair the attribute, or remove it") from error
    if not isinstance(value, dict):
        raise InputError(f"{place} is not a JSON object")
    return value


def array_spec(array: Array) -> ArraySpec:
    """The spec of rows (N, *), without bounds."""
    return ArraySpec(shape=tuple(array.shape[1:]), dtype=str(array.dtype))


def action_spec(actions: Array, options: ReadOptions, place: str) -> ArraySpec:
    """Bounds as the options declare them, [-1, 1] without. Shapes: (T, A).

    Raises:
        InputError: the declared bounds do not fit.
    """
    if actions.ndim != 2:
        raise InputError(f"{place}: actions have shape {actions.shape}, expected (steps, A)")
    if (options.action_low is None) != (options.action_high is None):
        raise InputError("action_low and action_high go together: set both or none")
    low = _bound(options.action_low, -1.0, actions.shape[1], "action_low")
    high = _bound(options.action_high, 1.0, actions.shape[1], "action_high")
    if not (low < high).all():
        raise InputError(f"action_low={low.tolist()} must lie below action_high={high.tolist()}")
    return ArraySpec(shape=(actions.shape[1],), dtype=str(actions.dtype), low=low, high=high)


def binary_success(rewards: Sequence[Array]) -> float | None:
    """The reward that means success, where the whole recording knows two rewards: {0, 1} or {-1, 0}; else None."""
    values = np.unique(np.concatenate([np.unique(reward) for reward in rewards]))
    if len(values) == 2 and tuple(values) in ((0.0, 1.0), (-1.0, 0.0)):
        return float(values[1])
    return None


@dataclass(kw_only=True)
class SuccessSource:
    """Where success comes from: the source's own record, then a rule, then a reward with two values."""

    rule: SuccessLabel | None
    success_reward: float | None

    @staticmethod
    def of(
        options: ReadOptions, rewards: Sequence[Array], recorded: bool, path: Path
    ) -> tuple["SuccessSource", list[Finding]]:
        """Decide it for a recording, and say so."""
        place = path.name
        if recorded:
            findings = []
            if options.success is not None:
                findings.append(
                    Finding(
                        severity="warning",
                        place=place,
                        text="the source records success, so the rule in `success` is not used",
                        remedy="leave the rule away",
                    )
                )
            return SuccessSource(rule=None, success_reward=None), findings
        if options.success is not None:
            return SuccessSource(rule=options.success, success_reward=None), []
        reward = binary_success(rewards)
        if reward is None:
            return SuccessSource(rule=None, success_reward=None), []
        text = f"success is taken from the reward, which has two values: a step with reward {reward:g} succeeds"
        return SuccessSource(rule=None, success_reward=reward), [
            Finding(severity="information", place=place, text=text, remedy="set success.observation for another rule")
        ]

    def lacking(self, names: Sequence[str]) -> list[str]:
        """Of `names` that a source lacks, those that are not told in another way: success may be."""
        told = self.rule is not None or self.success_reward is not None
        return [name for name in names if not (told and name == "success")]

    def label(self, episode: Episode, place: str) -> Episode:
        """The episode with success, where there is a way to tell."""
        if episode.success is not None:
            return episode
        if self.rule is not None:
            return replace(episode, success=self.rule(episode.observation, place))
        if self.success_reward is not None:
            return replace(episode, success=episode.reward == self.success_reward)
        return episode


def _bound(values: Sequence[float] | None, default: float, size: int, name: str) -> Array:
    numbers = [default] if values is None else list(values)
    if len(numbers) not in (1, size):
        raise InputError(f"{name} has {len(numbers)} numbers, but the action has {size} dimensions: give 1 or {size}")
    return np.broadcast_to(np.asarray(numbers, np.float64), (size,)).copy()
