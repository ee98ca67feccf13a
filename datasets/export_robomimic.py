"""Episodes as a robomimic HDF5 file, whole or not at all.

What the layout lacks (ends apart, success, interventions, extras, the spec) is added under names of its own; robomimic
does not look at them, and our reader takes them back.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from robot_rl.datasets.frames import blocks, lazy
from robot_rl.datasets.ingest.robomimic_hdf5 import EXTRAS, METADATA_ATTRIBUTE, SPEC_ATTRIBUTE
from robot_rl.datasets.schema import array_names, rows_of_episode
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.errors import InputError
from robot_rl.spec import Spec
from robot_rl.types import Array, Episode


def write_robomimic(
    path: str | Path,
    spec: Spec,
    episodes: Iterable[Episode],
    env_args: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write a file, first under a temporary name beside it.

    Args:
        path: of the file.
        spec: of the episodes.
        episodes: at least one.
        env_args: robomimic's description of the environment: `env_name`, `type`, `env_kwargs`.
        overwrite: replace a file that is there.

    Raises:
        InputError: the file is there already, an episode does not fit the spec, or the disk is full.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already: choose another name, or replace it with overwrite=true")
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with clear_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(temporary, "w") as file:
                _write(file, spec, episodes, env_args)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write(file: h5py.File, spec: Spec, episodes: Iterable[Episode], env_args: Mapping[str, Any]) -> None:
    data = file.create_group("data")
    data.attrs["env_args"] = json.dumps(dict(env_args))
    data.attrs[SPEC_ATTRIBUTE] = json.dumps(spec.to_json())
    total = 0
    for index, episode in enumerate(episodes):
        rows = rows_of_episode(spec, episode, f"episode {index}", lazy_images=True)
        steps = len(episode)
        demo = data.create_group(f"demo_{index}")
        demo.attrs["num_samples"] = steps
        demo.attrs[METADATA_ATTRIBUTE] = json.dumps(episode.metadata)
        observations = demo.create_group("obs", track_order=True)
        names = array_names(spec.observation)
        for key in spec.observation:
            _put(observations, names[key], rows[f"observation/{key}"][:steps])
            if episode.has_final_observation:
                _put(demo, f"next_obs/{names[key]}", rows[f"observation/{key}"][1:])
        demo["actions"], demo["rewards"] = rows["action"][:steps], rows["reward"][:steps]
        demo["terminated"], demo["truncated"] = rows["terminated"][:steps], rows["truncated"][:steps]
        demo["dones"] = np.asarray(episode.terminated | episode.truncated, np.int64)
        if episode.success is not None:
            demo["success"] = np.asarray(episode.success, bool)
        if episode.intervened is not None:
            demo["intervened"] = np.asarray(episode.intervened, bool)
        for key, name in array_names(episode.extras).items():
            demo[f"{EXTRAS}/{name}"] = episode.extras[key]
        total += steps
    if total == 0:
        raise InputError(f"{file.filename}: there is no episode to write")
    data.attrs["total"] = total


def _put(group: h5py.Group, name: str, rows: Array) -> None:
    """Write rows; images that are decoded as they are looked at come a few at a time."""
    if lazy(rows) is None:
        group[name] = rows
        return
    dataset, start = group.create_dataset(name, rows.shape, rows.dtype), 0
    for block in blocks(rows):
        dataset[start : start + len(block)] = block
        start += len(block)
