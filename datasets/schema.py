"""What a store holds: the arrays of one episode as rows, and back.

Every `steps/<key>` array has T + 1 rows per episode, time first. Observations fill all of them; what exists once a step
(action, reward, ends, success) has one filler row behind the last step, so one table of ends indexes every array and
the next observation is the next row.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Array, Episode

SCHEMA_VERSION = 1
EPISODE_LOG = "episodes.jsonl"
UNCOMMITTED = -1  # fill value of `meta/episode_ends`
SUCCESS_UNKNOWN = -1  # in `steps/success`, beside 0 and 1
SEVERITIES = ("error", "warning", "information")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something a person should know about a recording or a store."""

    severity: str  # one of SEVERITIES
    place: str
    text: str
    remedy: str = ""


def rows_of_episode(spec: Spec, episode: Episode, place: str) -> dict[str, Array]:
    """The `steps/` arrays of one episode by key, each (T + 1, *).

    Args:
        spec: of the store; observation and action take its data types.
        episode: what to store.
        place: the episode, in words, for messages.

    Raises:
        InputError: keys or shapes differ from the spec, or a number is not finite.
    """
    steps = len(episode)
    if set(episode.observation) != set(spec.observation):
        missing = sorted(set(spec.observation) - set(episode.observation))
        unknown = sorted(set(episode.observation) - set(spec.observation))
        raise InputError(f"{place}: observation keys differ from the store's: missing {missing}, unknown {unknown}")
    rows = {
        f"observation/{key}": _checked(episode.observation[key], array_spec, f"{place}: observation '{key}'")
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
    """Undo `rows_of_episode`. `whole` names the extras that have T + 1 rows of their own."""
    steps = len(rows["action"]) - 1
    success, intervened = rows["success"][:steps], rows["intervened"][:steps]
    return Episode(
        observation={key: rows[f"observation/{key}"] for key in spec.observation},
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


def digest(rows: Mapping[str, Array], *, has_final_observation: bool) -> str:
    """SHA-256 over names, data types, shapes and bytes of an episode's arrays."""
    sha = hashlib.sha256(f"final observation: {has_final_observation}".encode())
    for key in sorted(rows):
        array = np.ascontiguousarray(rows[key])
        sha.update(f"|{key}|{array.dtype.str}|{array.shape}|".encode())
        sha.update(array.data if array.size else b"")
    return sha.hexdigest()


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


def _checked(array: Array, spec: ArraySpec, place: str) -> Array:
    array = np.asarray(array)
    if array.shape[1:] != spec.shape:
        raise InputError(f"{place} has shape (steps, *{array.shape[1:]}), the store has (steps, *{spec.shape})")
    dtype = np.dtype(spec.dtype)
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise InputError(f"{place} has data type {array.dtype}, the store has {dtype}")
    array = array.astype(dtype, casting="same_kind", copy=False)
    require_finite(array, place)
    return array


def _with_filler(array: Array) -> Array:
    return np.concatenate([array, np.zeros((1, *np.shape(array)[1:]), np.asarray(array).dtype)])
