"""What a store holds: the arrays of one episode as rows, and back.

Every `steps/<key>` array has T + 1 rows per episode, time first. Observations fill all of them; what exists once a step
(action, reward, ends, success) has one filler row behind the last step, so one table of ends indexes every array and
the next observation is the next row.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robot_rl.datasets.frames import lazy
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SCHEMA_VERSION = 2  # 2: images by tier
READABLE_VERSIONS = (1, 2)
EPISODE_LOG = "episodes.jsonl"
UNCOMMITTED = -1  # fill value of `meta/episode_ends`
SUCCESS_UNKNOWN = -1  # in `steps/success`, beside 0 and 1
LONGEST_NAME = 200  # bytes of a part of a key, which is a folder: file systems take 255
SEVERITIES = ("error", "warning", "information")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something a person should know about a recording or a store."""

    severity: str  # one of SEVERITIES
    place: str
    text: str
    remedy: str = ""


def array_names(keys: Iterable[str]) -> dict[str, str]:
    """The path of each key's array. No array lies inside another: beside `time`, `time/front` lies at `time@/front`.

    Raises:
        InputError: a key cannot be a path.
    """
    known = dict.fromkeys(keys)
    names = {}
    for key in known:
        parts = key.split("/")
        if not key.isprintable() or not all(map(_is_name, parts)):
            raise InputError(
                f"{key[:100]!r} cannot be the name of an array: give it letters and digits, parted by single /"
            )
        for length in range(1, len(parts)):
            if "/".join(key.split("/")[:length]) in known:
                parts[length - 1] += "@"
        names[key] = "/".join(parts)
    return names


def _is_name(part: str) -> bool:
    reserved = part in ("", ".", "..") or part.startswith("__") or part.endswith("@")
    return not reserved and len(part.encode(errors="surrogatepass")) <= LONGEST_NAME


def key_of_name(name: str) -> str:
    """Undo `array_names`."""
    return name.replace("@/", "/")


def rows_of_episode(spec: Spec, episode: Episode, place: str, *, lazy_images: bool = False) -> dict[str, Array]:
    """The `steps/` arrays of one episode by key, each (T + 1, *).

    Args:
        spec: of the store; observation and action take its data types.
        episode: what to store.
        place: the episode, in words, for messages.
        lazy_images: leave Frames as they are; else they are decoded.

    Raises:
        InputError: keys or shapes differ from the spec, or a number is not finite.
    """
    steps = len(episode)
    if set(episode.observation) != set(spec.observation):
        missing = sorted(set(spec.observation) - set(episode.observation))
        unknown = sorted(set(episode.observation) - set(spec.observation))
        raise InputError(f"{place}: observation keys differ from the store's: missing {missing}, unknown {unknown}")
    rows = {
        f"observation/{key}": _checked(
            episode.observation[key], array_spec, f"{place}: observation '{key}'", lazy_image=lazy_images
        )
        for key, array_spec in spec.observation.items()
    }
    rows["action"] = _with_filler(_checked(episode.action, spec.action, f"{place}: action"))
    reward = np.asarray(episode.reward)
    reward = reward if np.issubdtype(reward.dtype, np.floating) else reward.astype(np.float64)
    require_finite(reward, f"{place}: reward")
    rows["reward"] = _with_filler(reward)
    rows["terminated"] = _with_filler(np.asarray(episode.terminated, bool))
    rows["truncated"] = _with_filler(np.asarray(episode.truncated, bool))
    success = np.full(steps + 1, SUCCESS_UNKNOWN, np.int8)
    if episode.success is not None:
        success[:steps] = np.asarray(episode.success, bool)
    rows["success"] = success
    intervened = np.zeros(steps, bool) if episode.intervened is None else np.asarray(episode.intervened, bool)
    rows["intervened"] = _with_filler(intervened)
    for key, array in episode.extras.items():
        rows[f"extras/{key}"] = _with_filler(array) if len(array) == steps else np.asarray(array)
    return rows


def episode_of_rows(
    spec: Spec, rows: Mapping[str, Array], *, has_final_observation: bool, metadata: dict[str, object], whole: set[str]
) -> Episode:
    """Undo `rows_of_episode`, with those observations that `rows` has.

    Args:
        spec: of the store.
        rows: the arrays by key.
        has_final_observation: of the episode.
        metadata: of the episode.
        whole: the extras that have T + 1 rows of their own.
    """
    steps = len(rows["action"]) - 1
    success, intervened = rows["success"][:steps], rows["intervened"][:steps]
    return Episode(
        observation={key: rows[f"observation/{key}"] for key in spec.observation if f"observation/{key}" in rows},
        action=rows["action"][:steps],
        reward=rows["reward"][:steps],
        terminated=rows["terminated"][:steps],
        truncated=rows["truncated"][:steps],
        success=None if (success == SUCCESS_UNKNOWN).any() else success == 1,
        intervened=intervened if intervened.any() else None,
        has_final_observation=has_final_observation,
        extras={
            key.removeprefix("extras/"): array if key in whole else array[:steps]
            for key, array in rows.items()
            if key.startswith("extras/")
        },
        metadata=metadata,
    )


Feed = Callable[[Any], None]


def digest(rows: Mapping[str, Array], *, has_final_observation: bool, feeds: Mapping[str, Feed] | None = None) -> str:
    """SHA-256 over names, data types, shapes and bytes of an episode's arrays.

    Args:
        rows: the arrays.
        has_final_observation: of the episode.
        feeds: arrays that are not in memory, by key: each feeds the hash with what stands for its bytes.
    """
    sha = hashlib.sha256(f"final observation: {has_final_observation}".encode())
    feeds = {} if feeds is None else feeds
    for key in sorted({*rows, *feeds}):
        if key in feeds:
            feeds[key](sha)
            continue
        array = np.ascontiguousarray(rows[key])
        sha.update(header(key, array.dtype.str, array.shape))
        sha.update(array.data if array.size else b"")
    return sha.hexdigest()


def header(key: str, kind: str, shape: tuple[int, ...]) -> bytes:
    """What a digest takes before the bytes of an array; the kind is a data type, or an image tier but `raw`."""
    return f"|{key}|{np.dtype(np.uint8).str if kind == 'raw' else kind}|{shape}|".encode()


def require_finite(array: Array, place: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        InputError: names the place, the first step and channel, and how many there are.
    """
    if not np.issubdtype(array.dtype, np.floating):
        return
    bad = ~np.isfinite(array)
    if bad.any():
        step, *channel = np.argwhere(bad)[0].tolist()
        where = f"step {step}" + (f", channel {channel[0] if len(channel) == 1 else channel}" if channel else "")
        raise InputError(
            f"{place} holds NaN or infinity at {where} ({int(bad.sum())} of {array.size} numbers): "
            "repair the recording, or leave this episode out of it"
        )


def _checked(array: Array, spec: ArraySpec, place: str, *, lazy_image: bool = False) -> Array:
    if not (lazy_image and spec.is_image and lazy(array) is not None):
        array = np.asarray(array)
    if array.shape[1:] != spec.shape:
        raise InputError(f"{place} has shape (steps, *{array.shape[1:]}), the store has (steps, *{spec.shape})")
    dtype = np.dtype(spec.dtype)
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise InputError(f"{place} has data type {array.dtype}, the store has {dtype}")
    if array.dtype == dtype and lazy(array) is not None:
        return array
    array = narrowed(array, dtype, place)
    require_finite(array, place)
    return array


def narrowed(array: Array, dtype: np.dtype[Any], place: str) -> Array:
    """An array in a data type of its kind.

    Raises:
        InputError: it holds whole numbers that do not fit.
    """
    cast = array.astype(dtype, casting="same_kind", copy=False)
    if dtype.kind in "iu" and not np.can_cast(array.dtype, dtype, casting="safe") and not np.array_equal(cast, array):
        raise InputError(f"{place} holds numbers from {array.min()} to {array.max()}, which do not fit into {dtype}")
    return cast


def _with_filler(array: Array) -> Array:
    return np.concatenate([array, np.zeros((1, *np.shape(array)[1:]), np.asarray(array).dtype)])
