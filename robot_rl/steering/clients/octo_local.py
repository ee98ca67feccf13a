"""Octo in this process, where the package octo (JAX) is installed.

`sample_actions(observations, tasks, sample_shape=(K,), rng=.., unnormalization_statistics=..)` answers (K, B, H, D);
the transformer runs once, the diffusion head K times. Read in octo-models/octo, octo/model/octo_model.py, 0f05001.

Octo sees a window of steps; this keeps it, one step for each observation, and pads its beginning with the first one. In
octo 1.0 the mask was called `pad_mask`, later `timestep_pad_mask`: the model's example says which it wants. With the
later name came un-normalisation inside; earlier models answer normalised actions.
"""

import importlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from robot_rl.errors import InputError
from robot_rl.steering.answers import instruction_for
from robot_rl.types import Array

MASKS = ("timestep_pad_mask", "pad_mask")


@dataclass(kw_only=True)
class OctoModel:
    """A model with the statistics of one data set.

    Args:
        model: as `octo.model.octo_model.OctoModel.load_pretrained(path)` gives it.
        key: from a seed to a random key (`jax.random.PRNGKey`).
        dataset: whose statistics actions are un-normalised by.
        path: for messages.

    Raises:
        InputError: the model has no such statistics, or is of an unknown kind.
    """

    model: Any
    key: Any
    dataset: str
    path: str
    _window: int = field(init=False)
    _mask: str = field(init=False)
    _statistics: Mapping[str, Any] = field(init=False)
    _seen: "deque[dict[str, Array]]" = field(init=False)
    _tasks: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        known = self.model.dataset_statistics
        if self.dataset not in known:
            raise InputError(f"{self.name} knows the statistics of {sorted(known)[:20]}: set policy.unnorm_key to one")
        self._statistics = known[self.dataset]["action"]
        example = self.model.example_batch["observation"]
        found = [name for name in MASKS if name in example]
        if not found:
            raise InputError(f"{self.name}: its observations {sorted(example)} have no mask of the window's steps")
        self._mask, self._window = found[0], int(np.asarray(example[found[0]]).shape[1])
        self._seen = deque(maxlen=self._window)

    @property
    def name(self) -> str:
        """For messages."""
        return f"octo:{self.path}"

    @property
    def stochastic(self) -> bool:
        """With a diffusion head; other heads answer alike, which shows when candidates are compared."""
        return True

    def begin(self, task: str) -> None:
        """Forgets the window.

        Raises:
            InputError: no task.
        """
        texts = [instruction_for("Octo", task)]
        self._seen.clear()
        self._tasks = self.model.create_tasks(texts=texts)

    def sample(self, sent: Mapping[str, Any], task: str, count: int, generator: torch.Generator) -> Array:
        """Shapes: images (H, W, 3) uint8, vectors (S,) -> (K, H, A), units."""
        if self._tasks is None:
            self.begin(task)
        self._seen.append({name: np.asarray(value) for name, value in sent.items()})
        padding = self._window - len(self._seen)
        steps = [self._seen[0]] * padding + list(self._seen)
        observations: dict[str, Any] = {name: np.stack([step[name] for step in steps])[None] for name in sent}
        observations[self._mask] = np.array([[False] * padding + [True] * len(self._seen)])
        seed = int(torch.randint(0, 2**31 - 1, (1,), generator=generator, device=generator.device))
        inside = {"unnormalization_statistics": self._statistics} if self._mask == MASKS[0] else {}
        found = self.model.sample_actions(
            observations, self._tasks, sample_shape=(count,), rng=self.key(seed), **inside
        )
        actions = np.asarray(found, np.float64)[:, 0]
        return actions if inside else _units(actions, self._statistics)


def _units(actions: Array, statistics: Mapping[str, Any]) -> Array:
    """x * std + mean where the mask says so. Shapes: (K, H, A) -> (K, H, A)."""
    mean, deviation = (np.asarray(statistics[name], np.float64) for name in ("mean", "std"))
    mask = np.asarray(statistics.get("mask", np.ones(len(mean), bool)))
    return np.asarray(np.where(mask, actions * deviation + mean, actions))


def load(path: str, dataset: str) -> OctoModel:
    """The model in a folder; nothing is downloaded.

    Raises:
        InputError: octo is not installed, or the folder holds no model.
    """
    try:
        octo = importlib.import_module("octo.model.octo_model")
        random = importlib.import_module("jax.random")
    except ImportError as error:
        raise InputError(
            f"run=octo:{path} needs the packages octo and jax in this environment ({error}): install them, or steer a "
            "server, run=octo+http://HOST:PORT"
        ) from error
    if path.startswith("hf://"):
        raise InputError(f"run=octo:{path} would download: fetch the model yourself and name its folder")
    try:
        model = octo.OctoModel.load_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"run=octo:{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return OctoModel(model=model, key=random.PRNGKey, dataset=dataset, path=path)
