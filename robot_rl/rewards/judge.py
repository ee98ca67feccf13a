"""What was fitted to label, as one file: weights, settings, threshold, and where it came from."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from robot_rl.errors import InputError

FORMAT = 1
Kind = TypeVar("Kind")


def save_judge(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
    """Write it whole or not at all; returns its SHA-256.

    Raises:
        InputError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(plain, partial, {"judge": json.dumps({"format": FORMAT, **facts})})
        with partial.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    return digest


def load_judge(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts.

    Raises:
        InputError: it is not there, or no such file.
    """
    if not path.is_file():
        raise InputError(f"there is no judge at {path}: `robot-rl label` writes judge.safetensors into its folder")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping
            facts: dict[str, Any] = json.loads((file.metadata() or {})["judge"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is no judge of `robot-rl label` ({type(error).__name__}: {error})") from error
    if facts.get("format") != FORMAT:
        raise InputError(f"{path} has format {facts.get('format')}, this version reads {FORMAT}: label again")
    return tensors, facts


def under(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of a part, by the names that they have in it."""
    return {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")}


def from_json(kind: type[Kind], data: Mapping[str, Any]) -> Kind:
    """A dataclass of plain values and of such dataclasses; undoes `dataclasses.asdict`."""
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # callers hand dataclasses
    values = {
        name: from_json(hints[name], value) if is_dataclass(hints[name]) and isinstance(hints[name], type) else value
        for name, value in data.items()
        if name in known
    }
    return kind(**values)
