"""The folder of a training run: its lock, what it was made from, and the checkpoint to go on from."""

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from omegaconf import OmegaConf

from robot_rl import checkpoint
from robot_rl.apps.build import NOT_OF_THE_RUN, config_hash, flat
from robot_rl.datasets.store_files import clear_disk_errors
from robot_rl.errors import InputError

PACKAGES = ("robot-rl", "torch", "numpy", "mujoco", "gymnasium", "zarr", "hydra-core")


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep two processes out of one run.

    Raises:
        InputError: another process is in there, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"cannot write into output={folder}: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is training in {folder}: wait for it, or choose another output"
            ) from error
        yield


def find_checkpoint(folder: Path, config_json: dict[str, Any], *, resume: bool) -> Path | None:
    """The checkpoint to go on from, or None for a new run.

    Raises:
        InputError: there is a run already and `resume` is off, or its settings differ.
    """
    saved = folder / "config.yaml"
    if not saved.exists():
        return None
    if not resume:
        raise InputError(
            f"{folder} already holds a run: add resume=true to go on with it, choose another output=..., or delete it"
        )
    earlier: Any = OmegaConf.to_container(OmegaConf.load(saved))
    require_same_settings(earlier, config_json, folder)
    found = checkpoint.checkpoints(folder / "checkpoints")
    return found[-1] if found else None


def require_same_settings(earlier: dict[str, Any], config_json: dict[str, Any], place: Path) -> None:
    """Refuse to go on with other settings than those that a run began with.

    Raises:
        InputError: lists the settings that differ.
    """
    if config_hash(earlier) == config_hash(config_json):
        return
    before, after = flat(earlier), flat(config_json)
    different = [key for key in sorted(before | after) if before.get(key) != after.get(key)]
    lines = [f"{key}: {before.get(key)} -> {after.get(key)}" for key in different if key not in NOT_OF_THE_RUN]
    raise InputError(
        f"resume=true, but the settings are not those of {place}: {'; '.join(lines)}. "
        "Give the same settings, or choose another output=..."
    )


def require_same_data(earlier: dict[str, Any], facts: dict[str, dict[str, Any]], place: Path) -> None:
    """Refuse to go on with other data than a run began with.

    Raises:
        InputError: names the store that changed.
    """
    for name, now in facts.items():
        if now["sha256"] != earlier[name]["sha256"]:
            raise InputError(
                f"resume=true, but data set {name} ({now['path']}) is not the one that {place} was trained on: its "
                f"episodes had SHA-256 {earlier[name]['sha256'][:12]}, they have {now['sha256'][:12]}. Put the earlier "
                "store back, or begin a new run with another output=..."
            )


class Seeded(Protocol):
    """The settings of a run that its facts name."""

    seed: int
    device: str


def write_facts(
    folder: Path, config: Seeded, config_json: dict[str, Any], origin: dict[str, Any], words: Sequence[str] | None
) -> None:
    """Write `run.json` and `config.yaml`: from then on the folder is a run.

    Raises:
        InputError: the disk is full.
    """
    facts = {
        "config_hash": origin["config_hash"],
        "seed": config.seed,
        "command": None if words is None else list(words),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "device": config.device},
        "datasets": origin["datasets"],
        "environments": origin["environments"],
    }
    with clear_disk_errors(folder):
        checkpoint.write_text(folder / "run.json", json.dumps(facts, indent=1))
        checkpoint.write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config_json)))
