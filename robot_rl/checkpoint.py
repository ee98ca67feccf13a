"""Checkpoints: one folder each, safetensors and JSON, complete or not there at all.

A checkpoint is written beside its final name, flushed to disk, and renamed: a process killed at any moment leaves the
previous one. Nothing in it is executable.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robot_rl.errors import InputError, nearest

FORMAT = 2
TENSORS, STATE = "tensors.safetensors", "state.json"


def write_text(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def save(folder: Path, number: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Write checkpoint `number` into `folder`, then drop all but the newest `keep`.

    Raises:
        InputError: the disk is full or not writable; the previous checkpoint is untouched.
    """
    final = folder / f"{number:09d}"
    partial = folder / f".{final.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        save_file({key: value.contiguous() for key, value in tensors.items()}, partial / TENSORS)
        digest = _digest(partial / TENSORS)
        write_text(partial / STATE, json.dumps({"format": FORMAT, "sha256": digest, **state}, indent=1))
        for path in (partial / TENSORS, partial):
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
        _flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            f"cannot write checkpoint {final}: {error}. The checkpoints before it are unharmed: free some space, then "
            "go on with resume=true"
        ) from error
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if (path / STATE).is_file())


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of one checkpoint.

    Raises:
        InputError: a file is missing, damaged, or of another format.
    """
    try:
        state: dict[str, Any] = json.loads((path / STATE).read_text())
        digest = _digest(path / TENSORS)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable checkpoint ({error})") from error
    if state.get("format") != FORMAT:
        raise InputError(f"{path} has checkpoint format {state.get('format')}; this version reads {FORMAT}")
    if digest != state["sha256"]:
        raise InputError(
            f"{path} is damaged: its tensors are not those that were saved. Delete it to use the one before"
        )
    return load_file(path / TENSORS), state


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Agents ---------------------------------------------------------------------------------------------------------------


def pack_agent(agent: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Every field of an agent dataclass but its configuration: networks, optimisers, generators, counters."""
    tensors: dict[str, Tensor] = {}
    state: dict[str, Any] = {}
    for field in fields(agent):
        value = getattr(agent, field.name)
        if isinstance(value, nn.Module):
            tensors |= {f"{field.name}.{key}": tensor for key, tensor in value.state_dict().items()}
        elif isinstance(value, torch.Generator):
            tensors[field.name] = value.get_state()
        elif isinstance(value, int):
            state[field.name] = value
        elif isinstance(value, dict):
            for name, optimizer in value.items():
                part_tensors, part_state = _pack_optimizer(optimizer)
                tensors |= {f"{field.name}.{name}.{key}": tensor for key, tensor in part_tensors.items()}
                state[f"{field.name}.{name}"] = part_state
    # Parameters may share memory with one another (views of a stack); safetensors wants tensors of their own.
    return {key: tensor.detach().clone() for key, tensor in tensors.items()}, state


def unpack_agent(agent: Any, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Undo `pack_agent` on a freshly created agent of the same configuration.

    Raises:
        InputError: networks differ in their parts or sizes.
    """
    for field in fields(agent):
        value = getattr(agent, field.name)
        if isinstance(value, nn.Module):
            try:
                value.load_state_dict(under(tensors, field.name))
            except RuntimeError as error:
                raise InputError(f"the checkpoint's {field.name} does not fit this configuration: {error}") from error
        elif isinstance(value, torch.Generator):
            value.set_state(tensors[field.name].cpu())
        elif isinstance(value, int):
            setattr(agent, field.name, state[field.name])
        elif isinstance(value, dict):
            for name, optimizer in value.items():
                prefix = f"{field.name}.{name}"
                _unpack_optimizer(optimizer, under(tensors, prefix), state[prefix])


def reset_parts(agent: Any, fresh: Any, names: list[str]) -> None:
    """Replace parts of an agent by those of a fresh one: `critic`, `optimizers.actor`, ...

    A network takes its target and average along (`critic` also resets `target_critic`, `actor` the `average_actor`):
    a new critic that bootstrapped from the old target would be pulled straight back to what was to be forgotten.

    Raises:
        InputError: there is no such part.
    """
    modules = [field.name for field in fields(agent) if isinstance(getattr(agent, field.name), nn.Module)]
    choices = [*modules, *(f"optimizers.{name}" for name in agent.optimizers)]
    for name in names:
        if name not in choices:
            raise InputError(f"reset names '{name}': {nearest(name, choices)}")
        if name.startswith("optimizers."):
            key = name.removeprefix("optimizers.")
            agent.optimizers[key].load_state_dict(fresh.optimizers[key].state_dict())
        else:
            for part in {name, f"target_{name}", f"average_{name}"} & set(modules):
                getattr(agent, part).load_state_dict(getattr(fresh, part).state_dict())


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of one part, `prefix.NAME`, by the names that they have in it."""
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


def _pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    packed = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value
        for index, entries in packed["state"].items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }
    return tensors, {"param_groups": packed["param_groups"]}


def _unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], state: Mapping[str, Any]) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": state["param_groups"]})
