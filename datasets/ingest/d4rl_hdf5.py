"""D4RL HDF5: flat arrays over all steps, cut into episodes by flags and by jumps of the observation.

Format of "D4RL: Datasets for Deep Data-Driven Reinforcement Learning" (arXiv 2004.07219).
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robot_rl.datasets.ingest.base import (
    FLAT_KEY,
    JUMP,
    ReadOptions,
    Recording,
    SuccessSource,
    action_spec,
    array_spec,
    plain,
    provenance,
)
from robot_rl.datasets.ingest.hdf5 import (
    attributes,
    clear_hdf5_errors,
    dataset,
    is_hdf5,
    leaves,
    open_file,
    require_inside,
)
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode

VERSION = 1
LARGEST_METADATA = 256  # numbers or texts of one entry
COMPARED_ROWS = 1 << 16
EPISODE_INIT = "infos/episode_init"  # one row per episode: the simulator state it began in


class D4rlHdf5Reader:
    """`format=d4rl_hdf5`."""

    name = "d4rl_hdf5"
    description = "HDF5 with flat arrays observations, actions, rewards, terminals and mostly timeouts"

    def probe(self, path: Path) -> str | None:
        """Two of the three flat arrays at the top."""
        if not is_hdf5(path):
            return None
        with open_file(path) as file, clear_hdf5_errors(path):
            found = [key for key in ("observations", "actions", "rewards") if isinstance(file.get(key), h5py.Dataset)]
        return f"it has {', '.join(found)} at the top" if len(found) >= 2 else None

    def open(self, path: Path, options: ReadOptions) -> Recording:
        """Load the flat arrays and find the episodes.

        Raises:
            InputError: a key is missing, lengths disagree, or a number is not finite.
        """
        with open_file(path) as file, clear_hdf5_errors(path):
            observations, actions = dataset(file, "observations", path), dataset(file, "actions", path)
            rewards = dataset(file, "rewards", path).reshape(-1)
            terminals = dataset(file, "terminals", path).reshape(-1).astype(bool)
            timeouts = dataset(file, "timeouts", path).reshape(-1).astype(bool) if "timeouts" in file else None
            following = dataset(file, "next_observations", path) if "next_observations" in file else None
            infos = _per_step_infos(file, len(actions), path)
            initial = {
                name: dataset(file, f"{EPISODE_INIT}/{name}", path)
                for name in (leaves(file[EPISODE_INIT]) if EPISODE_INIT in file else [])
            }
            about = attributes(file, path) | _about(file, path)
        arrays = {
            "observations": observations,
            "actions": actions,
            "rewards": rewards,
            "terminals": terminals,
            "timeouts": np.zeros(len(actions), bool) if timeouts is None else timeouts,
            "next_observations": observations if following is None else following,
        }
        lengths = {key: len(array) for key, array in arrays.items()}
        if len(set(lengths.values())) > 1 or len(actions) == 0:
            raise InputError(f"{path}: the flat arrays must have the same number of rows, at least one: {lengths}")
        if arrays["next_observations"].shape != observations.shape:
            raise InputError(f"{path}: next_observations has another shape than observations")
        ends = episode_ends(observations, terminals, arrays["timeouts"], following)
        findings = _findings(path, ends, terminals, timeouts, following)
        fits = all(len(rows) == len(ends) for rows in initial.values())
        starts = np.concatenate([[0], ends[:-1]])
        count = len(ends) if options.maximum_episodes is None else min(len(ends), options.maximum_episodes)
        success, more = SuccessSource.of(options, [rewards[: ends[count - 1]]], recorded=False, path=path)
        absent = success.lacking(["success"])
        flat = observations[:, None] if observations.ndim == 1 else observations
        spec = Spec(
            observation={FLAT_KEY: array_spec(flat)},
            action=action_spec(actions, options, str(path)),
            control_period_s=options.control_period_s,
            metadata={"absent": absent} if absent else {},
        )

        def read(index: int) -> Episode:
            rows = slice(int(starts[index]), int(ends[index]))
            last = flat[rows.stop - 1 : rows.stop] if following is None else following[rows.stop - 1 : rows.stop]
            terminated, truncated = np.zeros(len(actions[rows]), bool), np.zeros(len(actions[rows]), bool)
            terminated[-1], truncated[-1] = terminals[rows.stop - 1], arrays["timeouts"][rows.stop - 1]
            truncated[-1] |= not terminated[-1]  # a jump or the end of the file: the recording stopped, not the task
            metadata: dict[str, Any] = {"source": f"rows {rows.start} to {rows.stop - 1}"}
            if initial and fits:
                metadata["initial_state"] = {name: plain(values[index]) for name, values in initial.items()}
            episode = Episode(
                observation={FLAT_KEY: np.concatenate([flat[rows], last.reshape(1, *flat.shape[1:])])},
                action=actions[rows],
                reward=rewards[rows],
                terminated=terminated,
                truncated=truncated,
                has_final_observation=following is not None,
                extras={name: values[rows] for name, values in infos.items()},
                metadata=metadata,
            )
            return success.label(episode, f"{path}: episode {index}")

        return Recording(
            spec=spec,
            provenance=provenance(path, self.name, VERSION, about),
            count=count,
            read=read,
            findings=findings + more,
            resources=ExitStack(),
        )


def episode_ends(observations: Array, terminals: Array, timeouts: Array, following: Array | None) -> Array:
    """Exclusive ends of the episodes: a terminal, a timeout, a jump, or the end of the file.

    Shapes: (N, *), (N,), (N,), (N, *) -> (episodes,).
    """
    ends = terminals | timeouts
    if following is not None:
        for start in range(0, len(observations) - 1, COMPARED_ROWS):
            rows = slice(start, min(start + COMPARED_ROWS, len(observations) - 1))
            ends[rows] |= _jumps(observations[rows.start + 1 : rows.stop + 1], following[rows])
    ends[-1] = True
    return np.flatnonzero(ends) + 1


def _jumps(observations: Array, following: Array) -> Array:
    """Where an observation is not what followed the one before. Shapes: (N, *), (N, *) -> (N,)."""
    difference = np.abs(observations.astype(np.float64) - following.astype(np.float64))
    return np.asarray(difference.reshape(len(difference), -1).max(axis=1, initial=0.0) > JUMP)


def _about(file: h5py.File, path: Path) -> dict[str, Any]:
    """What the file says of itself under `metadata`: texts and few numbers, such as the algorithm; not the weights of a
    policy.
    """
    group = file.get("metadata")
    about = {}
    for name in leaves(group) if isinstance(group, h5py.Group) else ():
        member = group[name]
        require_inside(member, path)
        if member.shape is not None and member.size <= LARGEST_METADATA and member.dtype.kind in "fiubSO":
            about[name] = plain(member[()])
    return {"metadata": about} if about else {}


def _per_step_infos(file: h5py.File, steps: int, path: Path) -> dict[str, Array]:
    """Arrays under `infos` with a row per step, such as the simulator's qpos and qvel."""
    if "infos" not in file:
        return {}
    infos = file["infos"]
    per_step = [name for name in leaves(infos) if not name.startswith("episode_")]
    names = [name for name in per_step if infos[name].shape[:1] == (steps,) and infos[name].dtype.kind in "fiub"]
    return {name: dataset(infos, name, path) for name in names}


def _findings(
    path: Path, ends: Array, terminals: Array, timeouts: Array | None, following: Array | None
) -> list[Finding]:
    findings = []
    flagged = terminals if timeouts is None else terminals | timeouts
    unflagged = int((~flagged[ends - 1]).sum())
    if unflagged:
        findings.append(
            Finding(
                severity="information",
                place=path.name,
                text=f"{unflagged} episodes end without a flag, by a jump or with the file: truncated",
            )
        )
    if timeouts is None and following is None and len(ends) == 1 + int(terminals[:-1].sum()):
        findings.append(
            Finding(
                severity="warning",
                place=path.name,
                text="there are no timeouts and no next_observations: an episode that ran into its time limit is "
                "joined with the one after it",
                remedy="add `timeouts` to the file",
            )
        )
    return findings
